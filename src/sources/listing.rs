//! The list of documents of a run: complete and checked before any work starts.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::hash::Documents;
use super::{EXTENSIONS, Shard, SourceError, folder, manifest as manifest_file, names};
use crate::model::payload::DocumentFormat;

/// A file that a run reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// What the dataset calls it: for a file below a folder the path relative to it, for a file given directly its
    /// file name, for a manifest's entry the entry; always with `/`, and unique in the listing.
    pub name: String,
    /// Where it lies; absolute.
    pub path: PathBuf,
    /// How to read it.
    pub format: DocumentFormat,
    /// Its size in bytes when it was listed.
    pub bytes: u64,
}

/// The documents of a run, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    files: Vec<SourceFile>,
    shard: Option<Shard>,
    limit: Option<usize>,
}

impl Listing {
    /// The files, sorted by name. Whether two have the same content is found out by [`Listing::documents`].
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// Keeps only the documents of one share. They are told by content, so each file is still read once.
    #[must_use]
    pub fn with_shard(mut self, shard: Option<Shard>) -> Self {
        self.shard = shard;
        self
    }

    /// Ends after this many different documents (of the share, if there is one).
    #[must_use]
    pub fn with_limit(mut self, limit: Option<usize>) -> Self {
        self.limit = limit;
        self
    }

    /// Reads and hashes the files in the order of their names, one at a time as the iterator is asked. It blocks on
    /// the disk. An error names one file; the iterator can go on behind it.
    pub fn documents(&self) -> Documents<'_> {
        Documents::new(&self.files, self.shard, self.limit)
    }
}

/// Finds the documents that the inputs (files and folders) and the manifest name, without reading them.
///
/// # Errors
/// [`SourceError::Inputs`] with everything that does not exist, cannot be read or is not a document, and
/// [`SourceError::Nothing`] if no document is found.
pub fn discover(inputs: &[PathBuf], manifest: Option<&Path>) -> Result<Listing, SourceError> {
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    for input in inputs {
        folder::list(input, &mut files, &mut faults);
    }
    if let Some(manifest) = manifest {
        manifest_file::list(manifest, &mut files, &mut faults);
    }
    if !faults.is_empty() {
        return Err(SourceError::Inputs(faults));
    }
    if files.is_empty() {
        return Err(SourceError::Nothing(nothing(inputs, manifest)));
    }
    // A file that two inputs reach is one document, by the name under which it was found first.
    let mut seen = HashSet::with_capacity(files.len());
    files.retain(|file| seen.insert(folder::canonical(&file.path)));
    names::disambiguate(&mut files);
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Listing { files, shard: None, limit: None })
}

fn nothing(inputs: &[PathBuf], manifest: Option<&Path>) -> String {
    if let Some(manifest) = manifest {
        return format!("the manifest {} names none", manifest.display());
    }
    if inputs.is_empty() {
        return "no input is given: name files, folders or a manifest".into();
    }
    let places: Vec<String> = inputs.iter().map(|input| input.display().to_string()).collect();
    format!("no {EXTENSIONS} file is in {}", places.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(listing: &Listing) -> Vec<&str> {
        listing.files().iter().map(|f| f.name.as_str()).collect()
    }

    #[test]
    fn files_folders_and_manifest_make_one_sorted_list() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["a", "b"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
            std::fs::write(root.join(folder).join("x.pdf"), folder).unwrap();
        }
        std::fs::write(root.join("b/only.md"), "text").unwrap();
        std::fs::write(root.join("list.txt"), "b/x.pdf\n").unwrap();
        let inputs = [root.join("b"), root.join("a"), root.join("b/only.md")];
        let listing = discover(&inputs, Some(&root.join("list.txt"))).unwrap();
        // The manifest and the third input name files that the first input holds already.
        assert_eq!(names(&listing), ["a/x.pdf", "b/x.pdf", "only.md"]);
    }

    #[test]
    fn all_faults_come_at_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("list.txt"), "nope.pdf\n").unwrap();
        std::fs::write(dir.path().join("sheet.xlsx"), "").unwrap();
        let inputs = [dir.path().join("missing"), dir.path().join("sheet.xlsx")];
        let Err(SourceError::Inputs(faults)) = discover(&inputs, Some(&dir.path().join("list.txt"))) else {
            panic!("faults expected")
        };
        assert_eq!(faults.len(), 3);
        assert_eq!(SourceError::Inputs(faults).to_string().lines().count(), 3);
    }

    #[test]
    fn nothing_to_read_is_an_error_that_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let error = discover(&[dir.path().to_owned()], None).unwrap_err().to_string();
        assert_eq!(error, format!("no documents: no .pdf, .md or .txt file is in {}", dir.path().display()));
        assert!(discover(&[], None).unwrap_err().to_string().contains("no input is given"));
    }
}
