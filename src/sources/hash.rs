//! Documents by content: files are read and hashed as they are asked for, and the same content is taken once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Shard, SourceError, SourceFile};
use crate::model::DocumentHash;
use crate::model::payload::Document;

/// What reading a file found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A document that was not met before.
    New(Document),
    /// A file with the content of one that comes earlier; it is not processed again.
    Duplicate {
        /// The name of the earlier one.
        of: String,
        /// The name of this one.
        name: String,
    },
}

/// The documents of a listing in the order of their names.
pub struct Documents<'a> {
    files: std::slice::Iter<'a, SourceFile>,
    shard: Option<Shard>,
    left: usize,
    /// Hash to name, so that a duplicate can say of what: about 100 bytes a document.
    seen: HashMap<DocumentHash, &'a str>,
}

impl<'a> Documents<'a> {
    pub(super) fn new(files: &'a [SourceFile], shard: Option<Shard>, limit: Option<usize>) -> Self {
        Self { files: files.iter(), shard, left: limit.unwrap_or(usize::MAX), seen: HashMap::new() }
    }

    fn find(&mut self, file: &'a SourceFile) -> Option<Result<Found, SourceError>> {
        let (sha256, bytes) = match hash_twice(&file.path) {
            Ok(hashed) => hashed,
            Err(error) => return Some(Err(unreadable(file, &error))),
        };
        if self.shard.is_some_and(|shard| !shard.holds(&sha256)) {
            return None;
        }
        if let Some(of) = self.seen.get(&sha256) {
            return Some(Ok(Found::Duplicate { of: (*of).into(), name: file.name.clone() }));
        }
        self.seen.insert(sha256, &file.name);
        self.left -= 1;
        Some(Ok(Found::New(Document {
            name: file.name.clone(),
            sha256,
            path: file.path.to_string_lossy().into_owned(),
            bytes,
            format: file.format,
        })))
    }
}

impl Iterator for Documents<'_> {
    type Item = Result<Found, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let file = self.files.next()?;
            if let Some(found) = self.find(file) {
                return Some(found);
            }
        }
        None
    }
}

/// SHA-256 and length in bytes of what `reader` gives, without holding it in memory.
///
/// # Errors
/// Those of the reader.
fn sha256_of(reader: &mut impl Read) -> io::Result<(DocumentHash, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut bytes = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((DocumentHash(hasher.finalize().into()), bytes))
}

/// A network file system may fail once and work a moment later; what is gone or forbidden stays so.
fn hash_twice(path: &Path) -> io::Result<(DocumentHash, u64)> {
    let attempt = || sha256_of(&mut File::open(path)?);
    match attempt() {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            std::thread::sleep(std::time::Duration::from_millis(200));
            attempt()
        }
        result => result,
    }
}

fn unreadable(file: &SourceFile, error: &io::Error) -> SourceError {
    let (detail, remedy) = if error.kind() == io::ErrorKind::NotFound {
        ("it was there when the inputs were listed and is gone".into(), "Put it back or start again without it")
    } else {
        (error.to_string(), "Check the disk and the right to read it, then start again")
    };
    SourceError::Unreadable { name: file.name.clone(), path: file.path.clone(), detail, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::discover;

    fn corpus(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    fn new_names(listing: &crate::sources::Listing) -> Vec<String> {
        let found: Result<Vec<_>, _> = listing.documents().collect();
        let new = found.unwrap().into_iter().filter_map(|found| match found {
            Found::New(document) => Some(document.name),
            Found::Duplicate { .. } => None,
        });
        new.collect()
    }

    #[test]
    fn the_same_content_is_one_document() {
        let dir = corpus(&[("b.txt", "same"), ("a.txt", "same"), ("c.txt", "other"), ("e.txt", "")]);
        let listing = discover(&[dir.path().to_owned()], None).unwrap();
        let found: Vec<_> = listing.documents().map(Result::unwrap).collect();
        assert_eq!(found.len(), 4);
        let Found::New(first) = &found[0] else { panic!("a.txt is new") };
        assert_eq!(first.name, "a.txt");
        // As `printf same | sha256sum` prints it.
        assert_eq!(first.sha256.hex(), "0967115f2813a3541eaef77de9d9d5773f1c0c04314b0bbfe4ff3b3b1c55b5d5");
        assert_eq!(found[1], Found::Duplicate { of: "a.txt".into(), name: "b.txt".into() });
        assert!(matches!(&found[3], Found::New(d) if d.bytes == 0), "an empty file is a document too");
    }

    #[test]
    fn limit_counts_different_documents_and_shards_partition_them() {
        let files: Vec<(String, String)> =
            (0..20).map(|i| (format!("{i:02}.txt"), format!("text {}", i / 2))).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(n, c)| (n.as_str(), c.as_str())).collect();
        let dir = corpus(&files);
        let listing = discover(&[dir.path().to_owned()], None).unwrap();
        let all = new_names(&listing);
        assert_eq!(all.len(), 10);
        assert_eq!(new_names(&listing.clone().with_limit(Some(3))), all[..3]);
        let mut shared = Vec::new();
        for i in 0..3 {
            shared.extend(new_names(&listing.clone().with_shard(Shard::new(i, 3))));
        }
        shared.sort();
        assert_eq!(shared, all);
    }

    #[test]
    fn a_file_that_vanishes_is_an_error_and_the_rest_is_still_read() {
        let dir = corpus(&[("a.txt", "a"), ("b.txt", "b")]);
        let listing = discover(&[dir.path().to_owned()], None).unwrap();
        std::fs::remove_file(dir.path().join("a.txt")).unwrap();
        let found: Vec<_> = listing.documents().collect();
        let error = found[0].as_ref().unwrap_err().to_string();
        assert!(error.contains("a.txt (a.txt): it was there when the inputs were listed and is gone"), "{error}");
        assert!(matches!(&found[1], Ok(Found::New(d)) if d.name == "b.txt"));
    }
}
