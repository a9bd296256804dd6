//! A file that appears whole or not at all, with its rows, bytes and hash counted while it is written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ExportError;
use crate::model::ids::to_hex;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// Rows, for files of rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256, as `sha256sum` prints it.
    pub sha256: String,
}

/// A file of JSON rows under way.
pub(super) struct RowFile {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    rows: u64,
    bytes: u64,
}

impl RowFile {
    /// Begins a file beside its place.
    pub(super) fn create(path: &Path) -> Result<Self, ExportError> {
        let temporary = temporary_name(path);
        let file = File::create(&temporary).map_err(|error| ExportError::Write { path: temporary.clone(), error })?;
        Ok(Self {
            path: path.into(),
            temporary,
            file: BufWriter::with_capacity(1 << 16, file),
            hash: Sha256::new(),
            rows: 0,
            bytes: 0,
        })
    }

    /// Adds a row.
    pub(super) fn row(&mut self, row: &impl Serialize) -> Result<(), ExportError> {
        let fail = |error| ExportError::Write { path: self.temporary.clone(), error };
        let mut line = serde_json::to_vec(row).map_err(|error| fail(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(fail)?;
        self.hash.update(&line);
        self.rows += 1;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Puts the file in its place.
    pub(super) fn finish(self) -> Result<WrittenFile, ExportError> {
        let Self { path, temporary, file, hash, rows, bytes } = self;
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|error| ExportError::Write { path, error })?;
        Ok(WrittenFile { rows, bytes, sha256: to_hex(&hash.finalize()) })
    }
}

/// Writes a whole file, beside its place first, durable when it returns.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<(), ExportError> {
    put(path, content, true)
}

/// As [`write_whole`], but durable only after [`sync_all`]: of thousands of small files each sync would take longer than
/// all else.
pub(super) fn write_one_of_many(path: &Path, content: &[u8]) -> Result<(), ExportError> {
    put(path, content, false)
}

fn put(path: &Path, content: &[u8], sync: bool) -> Result<(), ExportError> {
    let temporary = temporary_name(path);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        if sync {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        ExportError::Write { path: path.into(), error }
    })
}

/// Makes all that was written to the file system of `folder` durable.
pub(super) fn sync_all(folder: &Path) -> Result<(), ExportError> {
    let fail = |error| ExportError::Write { path: folder.into(), error };
    rustix::fs::syncfs(File::open(folder).map_err(fail)?).map_err(|error| fail(error.into()))
}

/// SHA-256 in hexadecimal.
pub(super) fn hash_of(content: &[u8]) -> String {
    to_hex(&Sha256::digest(content))
}

/// A file that counts and hashes what is written to it. It is in its place from the start: for files of an export that
/// is put in force as a whole.
pub(super) struct HashedFile {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl HashedFile {
    /// Begins a file, and its folder if that is not there.
    pub(super) fn create(path: &Path) -> Result<Self, ExportError> {
        let fail = |error| ExportError::Write { path: path.into(), error };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(fail)?;
        }
        let file = BufWriter::with_capacity(1 << 16, File::create(path).map_err(fail)?);
        Ok(Self { path: path.into(), file, hash: Sha256::new(), bytes: 0 })
    }

    /// What could not be written here.
    pub(super) fn failed(&self, error: std::io::Error) -> ExportError {
        ExportError::Write { path: self.path.clone(), error }
    }

    /// Closes it once it is on disk.
    pub(super) fn finish(self, rows: u64) -> Result<WrittenFile, ExportError> {
        let Self { path, file, hash, bytes } = self;
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(|error| ExportError::Write { path, error })?;
        Ok(WrittenFile { rows, bytes, sha256: to_hex(&hash.finalize()) })
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// The size and SHA-256 of a file that is there.
pub(super) fn measure(path: &Path) -> Result<WrittenFile, ExportError> {
    let fail = |error| ExportError::Write { path: path.into(), error };
    let mut file = File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer).map_err(fail)?;
        if read == 0 {
            return Ok(WrittenFile { rows: 0, bytes, sha256: to_hex(&hash.finalize()) });
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// What an unfinished file's name ends in.
const UNFINISHED: &str = ".partial";

/// A name that no other process picks: one that was frozen while it wrote, and wakes, must not go on in a file of its
/// successor's.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}-{:016x}{UNFINISHED}", std::process::id(), fastrand::u64(..)))
}

/// Removes unfinished files that processes which were killed, or taken over, left in a folder.
pub(super) fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(UNFINISHED) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
