//! Files that are whole or not there: temporary name, fsync, rename, fsync of the folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::model::StoreError;

/// Makes a fault of the file system a [`StoreError`]; a used-up quota counts as a full disk.
pub(super) fn io_error(action: &str, place: &Path, error: &io::Error) -> StoreError {
    if error.kind() == io::ErrorKind::QuotaExceeded {
        return StoreError::Full { place: place.display().to_string() };
    }
    StoreError::io(action, place, error)
}

/// Makes what a folder lists durable: without it a new or renamed file may be gone after a power cut.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_error("cannot sync the folder", dir, &e))
}

/// Creates `dir` with its parents, each made durable in the folder above it.
pub(super) fn create_dirs(dir: &Path) -> Result<(), StoreError> {
    let mut missing = Vec::new();
    let mut at = dir;
    while !at.as_os_str().is_empty() && !at.is_dir() {
        missing.push(at);
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(e) => return Err(io_error("cannot create the folder", folder, &e)),
        }
        let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_dir(parent)?;
    }
    Ok(())
}

/// A name beside others that no other writer picks.
pub(super) fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{:016x}.tmp", std::process::id(), fastrand::u64(..)))
}

/// Writes `bytes` to a file of its own and makes them durable; the file is removed if that fails.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let write = || -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| {
        if e.kind() != io::ErrorKind::AlreadyExists {
            let _ = fs::remove_file(path);
        }
        io_error("cannot write", path, &e)
    })
}

/// Replaces `path` by `bytes` as a whole, durable when it returns. Readers see the old or the new content.
///
/// # Errors
/// If it cannot be written; then the old content stays.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write_atomic_in(path, bytes, path.parent().unwrap_or(Path::new(".")))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// As [`write_atomic`], by way of a temporary file in `temporary_dir`, and without syncing the folder of `path`.
pub(super) fn write_atomic_in(path: &Path, bytes: &[u8], temporary_dir: &Path) -> Result<(), StoreError> {
    let temporary = temporary_dir.join(temporary_name(path).file_name().unwrap_or_default());
    write_synced(&temporary, bytes)?;
    fs::rename(&temporary, path).map_err(|e| {
        let _ = fs::remove_file(&temporary);
        io_error("cannot write", path, &e)
    })
}

/// Creates a new folder `damaged-<n>` in `dir` for what is set aside.
pub(super) fn damaged_dir(dir: &Path) -> Result<PathBuf, StoreError> {
    for n in 1..100_000_u32 {
        let folder = dir.join(format!("damaged-{n}"));
        match fs::create_dir(&folder) {
            Ok(()) => {
                sync_dir(dir)?;
                return Ok(folder);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_error("cannot create the folder", &folder, &e)),
        }
    }
    Err(StoreError::Io {
        action: "cannot create another folder damaged-<n> in".into(),
        place: dir.display().to_string(),
        detail: "there are 100,000 of them".into(),
    })
}

/// Copies a folder's files, durable when it returns.
pub(super) fn copy_dir(from: &Path, to: &Path) -> Result<(), StoreError> {
    create_dirs(to)?;
    let entries = fs::read_dir(from).map_err(|e| io_error("cannot read the folder", from, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| io_error("cannot read the folder", from, &e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_dir(&source, &target)?;
        } else {
            fs::copy(&source, &target)
                .and_then(|_| File::open(&target)?.sync_all())
                .map_err(|e| io_error("cannot copy to", &target, &e))?;
        }
    }
    sync_dir(to)
}

/// Size in bytes of all files below `dir`: what a state takes on disk. A folder that is not there has none; files
/// that vanish meanwhile are not counted.
pub fn disk_bytes(dir: &Path) -> Result<u64, StoreError> {
    let mut total = 0;
    for entry in walkdir::WalkDir::new(dir) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => {
                if let Ok(metadata) = entry.metadata() {
                    total += allocated(&metadata);
                }
            }
            Ok(_) => {}
            Err(e) => match e.io_error() {
                Some(io) if io.kind() == io::ErrorKind::NotFound => {}
                Some(io) => return Err(io_error("cannot read the folder", e.path().unwrap_or(dir), io)),
                None => {}
            },
        }
    }
    Ok(total)
}

/// What a file takes on disk, holes left out.
fn allocated(metadata: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    metadata.blocks() * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_writes_replace_and_leave_no_temporary_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn folders_are_created_and_measured() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dirs(&deep).unwrap();
        create_dirs(&deep).unwrap();
        assert_eq!(disk_bytes(&deep).unwrap(), 0);
        write_atomic(&deep.join("f"), &[7; 5000]).unwrap();
        assert!(disk_bytes(dir.path()).unwrap() >= 5000);
        assert_eq!(disk_bytes(&dir.path().join("none")).unwrap(), 0);
        assert_eq!(damaged_dir(dir.path()).unwrap(), dir.path().join("damaged-1"));
        assert_eq!(damaged_dir(dir.path()).unwrap(), dir.path().join("damaged-2"));
    }

    #[test]
    fn a_file_where_a_folder_should_be_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), b"x").unwrap();
        let error = create_dirs(&dir.path().join("f/g")).unwrap_err();
        assert!(error.to_string().contains("cannot create the folder"), "{error}");
    }
}
