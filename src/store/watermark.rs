//! The number of the last commit, outside the database: written after every commit, without waiting for the disk.
//! It survives the death of the process; `identity.json` (some seconds older) survives a power cut as well.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::files::io_error;
use crate::model::StoreError;

/// The file's name in the state folder.
pub(super) const FILE: &str = "epoch";

/// The open file.
#[derive(Debug)]
pub(super) struct Watermark(File);

impl Watermark {
    /// Opens or creates it in the state folder.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        file.map(Self).map_err(|e| io_error("cannot write", &path, &e))
    }

    /// The number last written; 0 if there is none or it cannot be read, since then it proves nothing.
    pub(super) fn read(dir: &Path) -> u64 {
        let text = fs::read_to_string(dir.join(FILE)).unwrap_or_default();
        let Some((number, check)) = text.trim_end().split_once(' ') else { return 0 };
        match (number.parse::<u64>(), u32::from_str_radix(check, 16)) {
            (Ok(epoch), Ok(check)) if check == crc32fast::hash(number.as_bytes()) => epoch,
            _ => 0,
        }
    }

    /// Notes that commit `epoch` is on disk.
    pub(super) fn write(&self, dir: &Path, epoch: u64) -> Result<(), StoreError> {
        let number = format!("{epoch:020}");
        let line = format!("{number} {:08x}\n", crc32fast::hash(number.as_bytes()));
        self.0.write_all_at(line.as_bytes(), 0).map_err(|e| io_error("cannot write", &dir.join(FILE), &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_comes_back_and_nonsense_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Watermark::read(dir.path()), 0);
        let mark = Watermark::open(dir.path()).unwrap();
        mark.write(dir.path(), 41).unwrap();
        mark.write(dir.path(), 42).unwrap();
        assert_eq!(Watermark::read(dir.path()), 42);
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap().replace("42 ", "43 ");
        fs::write(dir.path().join(FILE), text).unwrap();
        assert_eq!(Watermark::read(dir.path()), 0);
    }
}
