//! The database: the only user of sled. It keeps bytes under keys and knows nothing of records.
//!
//! sled's own `flush` starts the write-back of what was written but does not wait for the disk, so [`Database::apply`]
//! also calls `fdatasync` on a handle of its own to sled's file, and on the files sled makes for large pages.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::files::{io_error, sync_dir};
use super::guard::{self, Fault};
use crate::model::StoreError;

/// Bytes of a value, shared with the database's cache.
pub(super) type Value = ::sled::IVec;
/// What one batch writes: values by key, `None` to remove.
pub(super) type Writes = BTreeMap<Vec<u8>, Option<Value>>;

/// Why a database did not open.
#[derive(Debug)]
pub(super) enum OpenFault {
    /// Another process has it open.
    Locked,
    /// It opens neither now nor later without repair; what the engine said.
    Damaged(String),
    /// It did not come back in time.
    Hung(String),
    /// A fault of the disk or the system.
    Other(StoreError),
}

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    /// `None` only while it is dropped.
    db: Option<::sled::Db>,
    /// Our handle to sled's file.
    file: File,
    dir: PathBuf,
    /// Files of large pages that are known to be on disk.
    synced_blobs: Mutex<HashSet<OsString>>,
    /// A write failed: what is in memory may be ahead of the disk.
    failed: AtomicBool,
}

/// How long a database that another process seems to hold is tried again: the lease keeps real others out before this,
/// and sled itself lets go of a database that was closed only when its own threads have ended.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// A page holds 8 to 16 blocks, so this is about the 64 reads after which sled looks at its part of the cache. Measured
/// with an export of 150,000 chunks: 75 MB at the peak instead of 100, with 10 reads as with 30, and at no cost.
const READS_TO_MAKE_ROOM: usize = 8;

/// sled frees what a thread let go of, a closed database's lock among it, only while that thread goes on working with
/// some database: so it works with one in a temporary folder for a moment.
fn advance_reclamation() {
    let Ok(folder) = tempfile::tempdir() else { return };
    let opened =
        ::sled::Config::new().path(folder.path().join("db")).cache_capacity(1 << 20).flush_every_ms(None).open();
    if let Ok(database) = opened {
        for n in 0..1024_u32 {
            let _ = database.insert(n.to_be_bytes(), &[0; 8]);
        }
    }
}

fn is_locked<F>(opened: &Result<::sled::Result<::sled::Db>, F>) -> bool {
    matches!(opened, Ok(Err(::sled::Error::Io(e))) if e.to_string().contains("could not acquire lock"))
}

/// Makes `attempt` until what it gives is not `locked`, for at most [`LOCK_PATIENCE`]; its last result.
///
/// The lock belongs to an open file, which a process that is being started by the one that just closed the database
/// holds for a moment longer.
fn until_unlocked<T>(mut attempt: impl FnMut() -> T, locked: impl Fn(&T) -> bool) -> T {
    let began = Instant::now();
    loop {
        let result = attempt();
        if !locked(&result) || began.elapsed() > LOCK_PATIENCE {
            return result;
        }
        advance_reclamation();
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Database {
    /// Whether another process has the database in the folder `dir` open, and still has it after a while. Where the file
    /// system has no locks, it is not known, and this says no.
    pub(super) fn is_in_use(dir: &Path) -> Result<bool, StoreError> {
        let path = dir.join("db");
        let file = File::open(&path).map_err(|e| io_error("cannot open", &path, &e))?;
        Ok(until_unlocked(|| matches!(file.try_lock(), Err(TryLockError::WouldBlock)), |locked| *locked))
    }

    /// Opens or creates the database in the folder `dir`, which must exist.
    pub(super) fn open(dir: &Path, cache_bytes: u64, limit: Duration) -> Result<Self, OpenFault> {
        let attempt = || {
            let path = dir.to_owned();
            guard::catch_within(limit, move || {
                // Without sled's background flusher nothing is written but by `apply`.
                ::sled::Config::new()
                    .path(path)
                    .cache_capacity(cache_bytes)
                    .flush_every_ms(None)
                    .mode(::sled::Mode::LowSpace)
                    .open()
            })
        };
        let opened = until_unlocked(attempt, is_locked);
        let db = match opened {
            Ok(Ok(db)) => db,
            opened if is_locked(&opened) => return Err(OpenFault::Locked),
            Ok(Err(::sled::Error::Io(e))) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(OpenFault::Damaged(format!("a file ends too early ({e})")));
            }
            Ok(Err(::sled::Error::Io(e))) => {
                return Err(OpenFault::Other(io_error("cannot open the database", dir, &e)));
            }
            Ok(Err(e)) => return Err(OpenFault::Damaged(words(&e))),
            Err(fault @ Fault::Panicked(_)) => return Err(OpenFault::Damaged(fault.to_string())),
            Err(fault @ Fault::TimedOut(_)) => return Err(OpenFault::Hung(fault.to_string())),
            Err(fault @ Fault::NoThread(_)) => {
                return Err(OpenFault::Other(StoreError::Io {
                    action: "cannot open the database".into(),
                    place: dir.display().to_string(),
                    detail: fault.to_string(),
                }));
            }
        };
        let path = dir.join("db");
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| OpenFault::Other(io_error("cannot open the database", &path, &e)))?;
        Ok(Self {
            db: Some(db),
            file,
            dir: dir.to_owned(),
            synced_blobs: Mutex::default(),
            failed: AtomicBool::new(false),
        })
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        self.guarded(|db| db.get(key))
    }

    /// Makes the cache let go of what it holds over its limit, some of it, after `key` was read.
    ///
    /// sled keeps account of its pages in 256 parts and looks at one only after 64 reads there. One who reads every page
    /// a few times, as an export does, would so hold several more in each part.
    pub(super) fn make_room(&self, key: &[u8]) -> Result<(), StoreError> {
        for _ in 0..READS_TO_MAKE_ROOM {
            self.get(key)?;
        }
        Ok(())
    }

    /// All pairs from `lower` to before `upper` (`None`: to the end), in order of the keys.
    pub(super) fn scan(&self, lower: Bound<Vec<u8>>, upper: Option<Vec<u8>>) -> Result<Scan<'_>, StoreError> {
        let upper = upper.map_or(Bound::Unbounded, Bound::Excluded);
        let iter = self.guarded(|db| Ok(db.range::<Vec<u8>, _>((lower, upper))))?;
        Ok(Scan { database: self, iter })
    }

    /// Applies all writes or none, and returns once they are on disk. After an error no more writes are taken.
    pub(super) fn apply(&self, writes: &Writes) -> Result<(), StoreError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(self.io_fault("cannot write to the database", "an earlier write failed; start again"));
        }
        let mut batch = ::sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.clone()),
                None => batch.remove(key.as_slice()),
            }
        }
        let written = self.guarded(|db| db.apply_batch(batch).and_then(|()| db.flush())).and_then(|_| self.sync());
        if written.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        written
    }

    /// Makes what sled has flushed survive a power cut.
    fn sync(&self) -> Result<(), StoreError> {
        self.sync_blobs()?;
        self.file.sync_data().map_err(|e| io_error("cannot sync the database", &self.dir, &e))
    }

    /// sled puts pages over 128 KiB into files of their own and does not sync them.
    fn sync_blobs(&self) -> Result<(), StoreError> {
        let folder = self.dir.join("blobs");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io_error("cannot read the folder", &folder, &e)),
        };
        let mut synced = self.synced_blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = HashSet::new();
        let mut fresh = false;
        for entry in entries {
            let name = entry.map_err(|e| io_error("cannot read the folder", &folder, &e))?.file_name();
            if !synced.contains(&name) {
                let path = folder.join(&name);
                match File::open(&path).and_then(|file| file.sync_data()) {
                    Ok(()) => fresh = true,
                    // Superseded and removed by sled meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(io_error("cannot sync", &path, &e)),
                }
            }
            present.insert(name);
        }
        *synced = present;
        if fresh { sync_dir(&folder) } else { Ok(()) }
    }

    /// Makes the names of sled's files survive a power cut; once, after the database was created.
    pub(super) fn sync_names(&self) -> Result<(), StoreError> {
        sync_dir(&self.dir)
    }

    fn guarded<T>(&self, f: impl FnOnce(&::sled::Db) -> ::sled::Result<T>) -> Result<T, StoreError> {
        let Some(db) = &self.db else {
            return Err(self.io_fault("cannot use the database", "it is closed"));
        };
        match guard::catch(|| f(db)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(::sled::Error::Io(e))) => Err(io_error("cannot use the database", &self.dir, &e)),
            Ok(Err(e)) => Err(self.damaged(words(&e))),
            Err(fault) => {
                // What a panic left behind in memory cannot be trusted to be written.
                self.failed.store(true, Ordering::Release);
                Err(self.damaged(fault.to_string()))
            }
        }
    }

    fn damaged(&self, detail: String) -> StoreError {
        damaged_database(&self.dir, detail)
    }

    fn io_fault(&self, action: &str, detail: &str) -> StoreError {
        StoreError::Io { action: action.into(), place: self.dir.display().to_string(), detail: detail.into() }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let db = self.db.take();
        if let Err(fault) = guard::catch(move || drop(db)) {
            tracing::error!("closing the database {}: {fault}", self.dir.display());
        }
    }
}

/// A database that sled itself cannot read.
pub(super) fn damaged_database(dir: &Path, detail: String) -> StoreError {
    StoreError::Damaged {
        what: format!("the database {}", dir.display()),
        detail,
        remedy: "Nothing was changed. Put the database back from a copy, or run `qaflow verify --repair`, which keeps \
                 the damaged one and takes the model's answers out of it: the next `qaflow run` works everything else \
                 out again, and asks only for answers that are missing"
            .into(),
    }
}

/// sled's words, made understandable.
fn words(error: &::sled::Error) -> String {
    match error {
        ::sled::Error::Corruption { at: Some(at), .. } => format!("the engine found corruption at {at:?}"),
        ::sled::Error::Corruption { at: None, .. } => "the engine found corruption".into(),
        // Also said when its `conf` file is damaged.
        ::sled::Error::Unsupported(text) => format!("the engine refuses it ({text})"),
        other => other.to_string(),
    }
}

/// Pairs in order; an error may repeat for ever, so stop at the first.
pub(super) struct Scan<'a> {
    database: &'a Database,
    iter: ::sled::Iter,
}

impl Iterator for Scan<'_> {
    type Item = Result<(Value, Value), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let iter = &mut self.iter;
        self.database.guarded(|_| iter.next().transpose()).transpose()
    }
}

impl DoubleEndedIterator for Scan<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let iter = &mut self.iter;
        self.database.guarded(|_| iter.next_back().transpose()).transpose()
    }
}
