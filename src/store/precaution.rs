//! What sled may overwrite while it opens, kept until it has opened well.
//!
//! sled takes a damaged record near the end of its log for a write that was cut short, and wipes all that follows it
//! in the newest segments. So before it opens, the newest segments, the snapshots and the list of large pages are
//! copied to `before-open/`; if what opens is not what was there, they are put back, byte for byte. A folder left by
//! a process that was killed while opening is put back first: no commit is made while it exists.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{create_dirs, io_error, sync_dir, write_atomic};
use crate::model::StoreError;

const FOLDER: &str = "before-open";
const UNFINISHED: &str = "before-open.tmp";
const SEGMENTS: &str = "segments";
const LIST: &str = "list.json";
/// sled's segment size; other sizes are never configured.
pub(super) const SEGMENT: u64 = 512 * 1024;
/// The same as sled's numbers have it.
const SEGMENT_NUMBERS: i64 = 512 * 1024;
/// How many of the newest segments are kept: more than one commit writes.
const NEWEST: usize = 48;
/// How many segments with unreadable headers are kept besides.
const UNREADABLE: usize = 16;

/// Where the saved segments belong.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    /// The length of the database's file.
    length: u64,
    /// Offsets of the segments in the database's file, in the order in which they are saved.
    offsets: Vec<u64>,
}

/// The copy, until it is released or put back.
#[derive(Debug)]
pub(super) struct Precaution {
    /// The state folder.
    dir: PathBuf,
    /// sled's folder.
    database: PathBuf,
}

impl Precaution {
    /// Puts back what a killed opening left, then copies what sled may overwrite. No other process may have the
    /// database open.
    pub(super) fn take(dir: &Path, database: &Path) -> Result<Self, StoreError> {
        let this = Self::of(dir, database);
        this.restore()?;
        let unfinished = dir.join(UNFINISHED);
        remove_folder(&unfinished)?;
        if let Err(error) = this.save(&unfinished) {
            // Perhaps there was no room: leave none of it taken.
            let _ = remove_folder(&unfinished);
            return Err(error);
        }
        Ok(this)
    }

    /// The copy in the state folder `dir` that belongs to the database in the folder `database`, or to a copy of that.
    pub(super) fn of(dir: &Path, database: &Path) -> Self {
        Self { dir: dir.to_owned(), database: database.to_owned() }
    }

    /// Whether there is a copy: of an opening that was killed, or that did not come back.
    pub(super) fn exists(&self) -> bool {
        self.folder().is_dir()
    }

    fn save(&self, unfinished: &Path) -> Result<(), StoreError> {
        create_dirs(unfinished)?;
        self.save_segments(unfinished)?;
        for (name, path) in small_files(&self.database)? {
            copy_synced(&path, &unfinished.join(name))?;
        }
        link_blobs(&self.database.join("blobs"), &unfinished.join("blobs"))?;
        sync_dir(unfinished)?;
        fs::rename(unfinished, self.folder()).map_err(|e| io_error("cannot rename", unfinished, &e))?;
        sync_dir(&self.dir)
    }

    /// The database opened well: the copy goes, before anything is committed.
    ///
    /// It loses its name first, at once: a process killed while it removes the files must not leave half of them to be
    /// put back.
    pub(super) fn release(&self) -> Result<(), StoreError> {
        let (folder, unfinished) = (self.folder(), self.dir.join(UNFINISHED));
        match fs::rename(&folder, &unfinished) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io_error("cannot rename", &folder, &e)),
        }
        sync_dir(&self.dir)?;
        remove_folder(&unfinished)?;
        sync_dir(&self.dir)
    }

    /// Puts everything back as it was, if there is a copy; the database must be closed.
    pub(super) fn restore(&self) -> Result<(), StoreError> {
        if !self.exists() {
            return Ok(());
        }
        self.write_back()?;
        self.release()
    }

    /// Puts everything back as it was, and keeps the copy.
    pub(super) fn write_back(&self) -> Result<(), StoreError> {
        let folder = self.folder();
        let list_path = folder.join(LIST);
        let bytes = fs::read(&list_path).map_err(|e| io_error("cannot read", &list_path, &e))?;
        let list: List = serde_json::from_slice(&bytes).map_err(|e| io_error("cannot read", &list_path, &e.into()))?;
        let (saved_path, path) = (folder.join(SEGMENTS), self.database.join("db"));
        let put_back = || -> io::Result<()> {
            let saved = File::open(&saved_path)?;
            let file = File::options().write(true).create(true).truncate(false).open(&path)?;
            file.set_len(list.length)?;
            let mut buffer = vec![0; SEGMENT as usize];
            for (n, offset) in (0_u64..).zip(&list.offsets) {
                let part = &mut buffer[..SEGMENT.min(list.length.saturating_sub(*offset)) as usize];
                saved.read_exact_at(part, n * SEGMENT)?;
                file.write_all_at(part, *offset)?;
            }
            file.sync_all()
        };
        put_back().map_err(|e| io_error("cannot put back", &path, &e))?;
        let saved = small_files(&folder)?;
        for (name, path) in small_files(&self.database)? {
            if !saved.iter().any(|(kept, _)| *kept == name) {
                fs::remove_file(&path).map_err(|e| io_error("cannot remove", &path, &e))?;
            }
        }
        for (name, path) in saved {
            copy_synced(&path, &self.database.join(name))?;
        }
        link_blobs(&folder.join("blobs"), &self.database.join("blobs"))?;
        sync_dir(&self.database)
    }

    fn folder(&self) -> PathBuf {
        self.dir.join(FOLDER)
    }

    fn save_segments(&self, to: &Path) -> Result<(), StoreError> {
        let (from, target) = (self.database.join("db"), to.join(SEGMENTS));
        let save = || -> io::Result<List> {
            let file = File::open(&from)?;
            let length = file.metadata()?.len();
            let offsets = newest_segments(&file, length)?;
            let saved = File::create_new(&target)?;
            let mut buffer = vec![0; SEGMENT as usize];
            for (n, offset) in (0_u64..).zip(&offsets) {
                let part = &mut buffer[..SEGMENT.min(length - offset) as usize];
                file.read_exact_at(part, *offset)?;
                saved.write_all_at(part, n * SEGMENT)?;
            }
            saved.sync_all()?;
            Ok(List { length, offsets })
        };
        let list = save().map_err(|e| io_error("cannot save the end of the database's log to", &target, &e))?;
        let path = to.join(LIST);
        let text = serde_json::to_vec(&list).map_err(|e| io_error("cannot write", &path, &e.into()))?;
        write_atomic(&path, &text)
    }
}

/// sled removes these files but never changes them, so a second name keeps them.
fn link_blobs(from: &Path, to: &Path) -> Result<(), StoreError> {
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("cannot read the folder", from, &e)),
    };
    create_dirs(to)?;
    for entry in entries {
        let entry = entry.map_err(|e| io_error("cannot read the folder", from, &e))?;
        let target = to.join(entry.file_name());
        if target.exists() {
            continue;
        }
        if fs::hard_link(entry.path(), &target).is_err() {
            copy_synced(&entry.path(), &target)?;
        }
    }
    sync_dir(to)
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Unused,
    /// Its number in the log.
    Number(i64),
    Unreadable,
}

/// Reads the header of the segment at `offset` of the database's file, which has `length` bytes.
pub(super) fn segment_at(file: &File, length: u64, offset: u64) -> io::Result<Segment> {
    let mut header = [0; 20];
    let size = header.len().min((length - offset) as usize);
    file.read_exact_at(&mut header[..size], offset)?;
    if header.iter().all(|byte| *byte == 0) {
        return Ok(Segment::Unused);
    }
    // Four bytes of checksum, then the segment's number in the log, kept with its bits inverted.
    let mut number = [0; 8];
    number.copy_from_slice(&header[4..12]);
    let number = i64::from_le_bytes(number) ^ i64::MAX;
    let known = (0..1 << 50).contains(&number) && number % SEGMENT_NUMBERS == 0;
    Ok(if known { Segment::Number(number) } else { Segment::Unreadable })
}

/// Offsets of the newest segments by the numbers in their headers, and of used ones whose header is unreadable.
fn newest_segments(file: &File, length: u64) -> io::Result<Vec<u64>> {
    let (mut numbered, mut unreadable) = (Vec::new(), Vec::new());
    for offset in (0..length).step_by(SEGMENT as usize) {
        match segment_at(file, length, offset)? {
            Segment::Unused => {}
            Segment::Number(number) => numbered.push((number, offset)),
            Segment::Unreadable => unreadable.push(offset),
        }
    }
    numbered.sort_unstable();
    let newest = numbered.iter().rev().take(NEWEST).map(|(_, offset)| *offset);
    Ok(newest.chain(unreadable.into_iter().take(UNREADABLE)).collect())
}

/// sled's snapshots and its `conf`.
fn small_files(folder: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| io_error("cannot read the folder", folder, &e))? {
        let entry = entry.map_err(|e| io_error("cannot read the folder", folder, &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "conf" || name.starts_with("snap.") {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

fn copy_synced(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::copy(from, to).and_then(|_| File::open(to)?.sync_all()).map_err(|e| io_error("cannot copy to", to, &e))
}

fn remove_folder(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io_error("cannot remove", folder, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole_or_has_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db");
        create_dirs(&database).unwrap();
        std::fs::write(database.join("db"), vec![1; 1000]).unwrap();
        let precaution = Precaution::take(dir.path(), &database).unwrap();
        // A process killed while it removes the copy leaves some of it, under the name of an unfinished one.
        fs::rename(dir.path().join(FOLDER), dir.path().join(UNFINISHED)).unwrap();
        fs::remove_file(dir.path().join(UNFINISHED).join(SEGMENTS)).unwrap();
        precaution.restore().unwrap();
        let again = Precaution::take(dir.path(), &database).unwrap();
        again.release().unwrap();
        assert!(!dir.path().join(FOLDER).exists() && !dir.path().join(UNFINISHED).exists());
    }

    #[test]
    fn what_was_overwritten_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db");
        create_dirs(&database.join("blobs")).unwrap();
        let mut content = Vec::new();
        for n in 0..60_i64 {
            let mut segment = vec![n as u8 + 1; SEGMENT as usize];
            let number = ((n * 7 % 60) * SEGMENT_NUMBERS) ^ i64::MAX;
            segment[4..12].copy_from_slice(&number.to_le_bytes());
            content.extend(segment);
        }
        content.truncate(content.len() - 1);
        let file = database.join("db");
        fs::write(&file, &content).unwrap();
        for (name, text) in [("conf", "c"), ("snap.1", "s"), ("blobs/77", "b")] {
            fs::write(database.join(name), text).unwrap();
        }
        let precaution = Precaution::take(dir.path(), &database).unwrap();
        let newest = newest_segments(&File::open(&file).unwrap(), content.len() as u64).unwrap();
        assert_eq!((newest.len(), newest[0]), (NEWEST, 17 * SEGMENT));
        let mut wiped = content.clone();
        for offset in &newest {
            wiped[*offset as usize..].iter_mut().take(SEGMENT as usize).for_each(|byte| *byte = 9);
        }
        fs::write(&file, &wiped[..wiped.len() / 2]).unwrap();
        fs::write(database.join("db"), &wiped).unwrap();
        fs::remove_file(database.join("snap.1")).unwrap();
        fs::remove_file(database.join("blobs/77")).unwrap();
        fs::write(database.join("snap.2"), "new").unwrap();
        // As after a kill: the next opening puts it back.
        drop(precaution);
        let again = Precaution::take(dir.path(), &database).unwrap();
        assert!(fs::read(&file).unwrap() == content);
        assert_eq!(fs::read_to_string(database.join("snap.1")).unwrap(), "s");
        assert_eq!(fs::read_to_string(database.join("blobs/77")).unwrap(), "b");
        assert!(!database.join("snap.2").exists());
        again.release().unwrap();
        assert!(!dir.path().join(FOLDER).exists());
    }
}
