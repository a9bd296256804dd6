//! Fencing: a state taken from a process that may still write goes on in a copy of its database, in a folder of its
//! own, so that whatever the old process still writes lands where nobody reads.
//!
//! The claim of the newcomer names the folder (`db-<n>`, after the claim's number) and the one it is copied from. From
//! the moment of the claim the old process can at most finish the commit that it is in: it checks its lease before
//! each. The copy is made under another name, compared with what was known to be committed before it began, and takes
//! its name when it is whole: with that it is the state's database. A newcomer that died before leaves a claim whose
//! folder is not there, and its successor copies again, whatever became of the others.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::files::{copy_dir, create_dirs, io_error, sync_dir, write_atomic};
use super::lease_files::LeaseHolder;
use super::opening;
use super::records::OpenOptions;
use super::standing::{Standing, age_of, is_gone};
use crate::model::StoreError;

const PREFIX: &str = "db-";
const UNFINISHED: &str = ".copying";
/// Who was fenced off, within the copy.
const FILE: &str = "fenced.json";
const FORMAT: u32 = 1;
/// What belongs to a database, in the order in which it is copied: what says how far it got comes first, so that the
/// copy cannot be behind it.
const PARTS: [&str; 5] = ["identity.json", "epoch", "before-open", "db.rebuilt", "db"];
/// What is removed of the state's own folder once its last holder is gone. Its `identity.json` stays: it marks the
/// folder as a state, and refuses a database that is not there.
const REMOVED: [&str; 5] = ["db", "db.rebuilt", "db.tmp", "before-open", "before-open.tmp"];
/// How often a copy is made again because the source changed meanwhile.
const TRIES: u32 = 50;
/// How often a copy that does not open is made again, should the source have been read while it was written.
const DOUBTS: u32 = 3;
/// Longer than the clock ticks in which file systems note changes.
const TICK: Duration = Duration::from_millis(50);
/// When the database of a holder of which nothing is known any more is removed. Nobody reads it.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The processes that were fenced off, and the folders that they may still write to.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Fenced {
    format: u32,
    fenced: Vec<Off>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Off {
    /// As in [`LeaseHolder::folder`].
    folder: String,
    /// `None` if it could not be read.
    holder: Option<LeaseHolder>,
}

/// The name of the folder made under claim `number`.
pub(super) fn name(number: u64) -> String {
    format!("{PREFIX}{number}")
}

/// The number of a folder with such a name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Refuses a name that no claim of this program gives.
pub(super) fn checked(dir: &Path, folder: &str) -> Result<(), StoreError> {
    if folder.is_empty() || number(folder).is_some() {
        return Ok(());
    }
    Err(StoreError::Damaged {
        what: format!("the lease of the state {}", dir.display()),
        detail: format!("it names a folder `{folder}`, which this program never makes"),
        remedy:
            "Nothing was changed. Put lease.json and lease/ back from a copy, or remove both: then the newest folder \
                 db-<n> counts"
                .into(),
    })
}

/// The highest number of a whole copy in the state's folder.
pub(super) fn newest(dir: &Path) -> Option<u64> {
    let entries = fs::read_dir(dir).ok()?;
    entries.flatten().filter(|entry| entry.path().is_dir()).filter_map(|e| number(e.file_name().to_str()?)).max()
}

/// The folder that holds the state's database, its `identity.json` and `epoch`: the state's own folder, or after a
/// take-over the one below it that was made then.
///
/// # Errors
/// If the lease's files cannot be read.
pub fn current_folder(dir: &Path) -> Result<PathBuf, StoreError> {
    Ok(dir.join(Standing::read(dir)?.place(dir)?.0))
}

/// Whether the folder holds a state: either `identity.json` or the database may be lost, and opening says so.
pub fn holds_state(dir: &Path) -> bool {
    let holds =
        |base: &Path| base.join(super::identity::FILE).is_file() || base.join(opening::DATABASE).join("db").is_file();
    holds(dir) || newest(dir).is_some_and(|n| holds(&dir.join(name(n))))
}

/// Copies the database for the claim of `holder`, which `before` may still write to. `still_held` is asked before the
/// copy becomes the state's database.
pub(super) fn copy(
    dir: &Path,
    holder: &LeaseHolder,
    before: Option<LeaseHolder>,
    still_held: impl Fn() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let Some(from_name) = &holder.copied_from else { return Ok(()) };
    let target = dir.join(&holder.folder);
    if target.is_dir() {
        return Ok(());
    }
    tracing::warn!(
        "taking the state {} over from {}: its database is copied to {}, so that nothing which that process may still \
         write is read",
        dir.display(),
        before.as_ref().map_or_else(|| "a process that cannot be named".into(), LeaseHolder::describe),
        target.display()
    );
    // Who was taken over meanwhile, and lost its half of a copy to the newcomer, is told that and nothing else.
    make(dir, from_name, &holder.folder, before, &still_held).or_else(|error| still_held().and(Err(error)))
}

fn make(
    dir: &Path,
    from_name: &str,
    folder: &str,
    before: Option<LeaseHolder>,
    still_held: impl Fn() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (from, target) = (dir.join(from_name), dir.join(folder));
    remove_unfinished(dir)?;
    let unfinished = dir.join(format!("{folder}{UNFINISHED}"));
    let mut doubts = 0;
    for attempt in 0.. {
        thread::sleep(TICK);
        still_held()?;
        match copy_once(&from, &unfinished) {
            Ok(true) => {}
            Ok(false) if attempt < TRIES => continue,
            Ok(false) => {
                return Err(StoreError::Lease(format!(
                    "the database of the state {} still changes, though it was taken over: stop whatever writes to {}, \
                     then run the same command again",
                    dir.display(),
                    from.display()
                )));
            }
            Err(error) => {
                let _ = remove(&unfinished);
                return Err(error);
            }
        }
        match proven(&unfinished) {
            Ok(()) => break,
            // The source itself is damaged, or so it seems each time: the opening that follows says so, and how to go on.
            Err(_) if doubts >= DOUBTS => {
                copy_once(&from, &unfinished)?;
                break;
            }
            Err(error) => {
                tracing::warn!("the copy does not open well ({error}): it is made again");
                doubts += 1;
            }
        }
    }
    let mut fenced = load(&from).unwrap_or_default();
    fenced.fenced.push(Off { folder: from_name.to_owned(), holder: before });
    save(&unfinished, &Fenced { format: FORMAT, ..fenced })?;
    sync_dir(&unfinished)?;
    still_held()?;
    fs::rename(&unfinished, &target).map_err(|e| io_error("cannot rename", &unfinished, &e))?;
    sync_dir(dir)
}

/// Copies the parts; false if anything changed meanwhile.
fn copy_once(from: &Path, to: &Path) -> Result<bool, StoreError> {
    remove(to)?;
    create_dirs(to)?;
    let before = stamps(from)?;
    for part in PARTS {
        let (source, target) = (from.join(part), to.join(part));
        let copied = if source.is_dir() {
            copy_dir(&source, &target)
        } else if source.is_file() {
            fs::copy(&source, &target)
                .and_then(|_| File::open(&target)?.sync_all())
                .map_err(|e| io_error("cannot copy to", &target, &e))
        } else {
            continue;
        };
        if let Err(error) = copied {
            // A file that was removed under our hands is a change like any other.
            return if stamps(from)? == before { Err(error) } else { Ok(false) };
        }
    }
    sync_dir(to)?;
    Ok(stamps(from)? == before)
}

/// Opens the copy with all guards: what it says of itself must be as new as what was known beside it.
fn proven(copy: &Path) -> Result<(), StoreError> {
    if !copy.join("db").is_dir() && !copy.join(super::identity::FILE).is_file() {
        // Taken before it had a database.
        return Ok(());
    }
    let options = OpenOptions { create: false, ..OpenOptions::default() };
    opening::open(copy, options).map(|(store, _)| drop(store))
}

/// Name, length and time of change of every file of a database. Opening each file asks the server on network file
/// systems; a listing may come from a cache.
fn stamps(base: &Path) -> Result<Vec<(PathBuf, u64, SystemTime)>, StoreError> {
    let mut found = Vec::new();
    for part in PARTS {
        for entry in walkdir::WalkDir::new(base.join(part)).sort_by_file_name() {
            let Ok(entry) = entry else { continue };
            if !entry.file_type().is_file() {
                continue;
            }
            let stamp =
                File::open(entry.path()).and_then(|file| file.metadata()).and_then(|m| Ok((m.len(), m.modified()?)));
            match stamp {
                Ok((length, modified)) => found.push((entry.into_path(), length, modified)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(io_error("cannot read", entry.path(), &e)),
            }
        }
    }
    Ok(found)
}

/// Removes databases that were left behind by take-overs and that nobody can write to any more; nobody reads them.
pub(super) fn sweep(dir: &Path, current: &str, host: &str) {
    if let Err(error) = try_sweep(dir, current, host) {
        tracing::debug!("databases from before a take-over are still there: {error}");
    }
}

fn try_sweep(dir: &Path, current: &str, host: &str) -> Result<(), StoreError> {
    let base = dir.join(current);
    if current.is_empty() || !base.join(FILE).is_file() {
        return Ok(());
    }
    let since =
        fs::metadata(base.join(FILE)).and_then(|m| m.modified()).map_err(|e| io_error("cannot read", &base, &e))?;
    let long_ago = age_of(dir, since)? > KEPT;
    let fenced = load(&base)?;
    let before = fenced.fenced.len();
    let mut kept = Vec::new();
    for off in fenced.fenced {
        if !long_ago && !off.holder.as_ref().is_some_and(|holder| is_gone(holder, host)) {
            kept.push(off);
            continue;
        }
        checked(dir, &off.folder)?;
        if off.folder.is_empty() {
            REMOVED.iter().try_for_each(|part| remove(&dir.join(part)))?;
        } else if off.folder != current {
            remove(&dir.join(&off.folder))?;
        }
        tracing::info!("the database from before a take-over in {} is removed", dir.join(&off.folder).display());
    }
    if kept.len() == before {
        return Ok(());
    }
    if kept.is_empty() { remove_file(&base.join(FILE)) } else { save(&base, &Fenced { format: FORMAT, fenced: kept }) }
}

fn load(base: &Path) -> Result<Fenced, StoreError> {
    let path = base.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Fenced::default()),
        Err(e) => return Err(io_error("cannot read", &path, &e)),
    };
    let fenced: Fenced = serde_json::from_slice(&bytes).map_err(|e| io_error("cannot read", &path, &e.into()))?;
    if fenced.format > FORMAT {
        return Err(StoreError::Newer { what: path.display().to_string(), found: fenced.format, known: FORMAT });
    }
    Ok(fenced)
}

fn save(base: &Path, fenced: &Fenced) -> Result<(), StoreError> {
    let path = base.join(FILE);
    let text = serde_json::to_vec_pretty(fenced).map_err(|e| io_error("cannot write", &path, &e.into()))?;
    write_atomic(&path, &text)
}

/// Removes copies that were never finished: their makers are gone or were taken over.
fn remove_unfinished(dir: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(dir).map_err(|e| io_error("cannot read the folder", dir, &e))?;
    for entry in entries.flatten() {
        if entry.file_name().to_str().and_then(|name| name.strip_suffix(UNFINISHED)).and_then(number).is_some() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", folder, &e)),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("cannot remove", path, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
