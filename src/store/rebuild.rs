//! Copies all that can be read of a database into a new one: heals pages that the engine cannot read, and gives back
//! the room that old versions of pages take.

use std::fs;
use std::path::{Path, PathBuf};

use super::audit;
use super::files::{create_dirs, damaged_dir, io_error, sync_dir};
use super::opening::DATABASE;
use super::records::{Accounts, OpenOptions, SledStore};
use super::salvage;
use super::sled::{Database, OpenFault, Writes};
use super::table::Table;
use crate::model::StoreError;
use crate::model::store::Audit;

/// The new database while it is made.
const UNFINISHED: &str = "db.tmp";
/// The new database, complete: takes the place of a missing one.
pub(super) const REBUILT: &str = "db.rebuilt";
/// Bytes written in one batch.
pub(super) const BATCH_BYTES: usize = 4 * 1024 * 1024;

impl SledStore {
    /// Puts a new database in the place of this one, with every record that can be read; returns what could not
    /// be, and the store opened anew with its notices. The old database is kept in `damaged-<n>/` if anything is
    /// missing, and removed otherwise. The accounts are those of the records that are left: an item whose ending was
    /// lost is unknown to its stage, and becomes pending again when its output is offered (`Change::Seed`).
    ///
    /// Needs as much free room as the records take. Should the process be killed, the next opening finds the old
    /// database or the new one, whole.
    pub fn rebuild(self, options: OpenOptions) -> Result<(Audit, Self, Vec<String>), StoreError> {
        let dir = self.dir().to_owned();
        let unfinished = begin(&dir)?;
        let found = audit::run(&self.table)?;
        let whole = self.copy_to(&unfinished, options)? == found.records;
        // Closed before it is moved.
        drop(self);

        replace(&dir, !whole || !found.damaged.is_empty())?;
        let (store, notices) = Self::open(&dir, options)?;
        Ok((found, store, notices))
    }

    /// Copies what can be read, and counts it anew; returns how many records there are.
    fn copy_to(&self, folder: &Path, options: OpenOptions) -> Result<u64, StoreError> {
        let target = create(folder, options)?;
        let (mut writes, mut bytes) = (Writes::new(), 0);
        for prefix in audit::prefixes() {
            audit::readable(&self.table, prefix, |key, value| {
                bytes += key.len() + value.len();
                writes.insert(key.to_vec(), Some(value.clone()));
                if bytes > BATCH_BYTES {
                    target.apply(&writes)?;
                    writes.clear();
                    bytes = 0;
                }
                Ok(())
            })?;
        }
        target.apply(&writes)?;
        // An older copy of a page may still hold the answers of one that cannot be read.
        salvage::add_answers(&self.dir().join(DATABASE), &target)?;
        let copied = audit::run(&target)?;
        let accounts = Accounts { stages: copied.recounted.into_iter().collect(), model: copied.recounted_model };
        target.apply(&accounts.writes()?)?;
        target.database.sync_names()?;
        Ok(copied.records)
    }
}

/// An empty folder for a new database.
pub(super) fn begin(dir: &Path) -> Result<PathBuf, StoreError> {
    let unfinished = dir.join(UNFINISHED);
    remove(&unfinished)?;
    create_dirs(&unfinished)?;
    Ok(unfinished)
}

/// A new database in `folder`.
pub(super) fn create(folder: &Path, options: OpenOptions) -> Result<Table, StoreError> {
    let database = Database::open(folder, options.cache_bytes, options.open_limit).map_err(|fault| match fault {
        OpenFault::Other(error) => error,
        other => StoreError::Io {
            action: "cannot make the database".into(),
            place: folder.display().to_string(),
            detail: format!("{other:?}"),
        },
    })?;
    Table::open(database, false).map(|(table, _)| table)
}

/// Puts the new database, complete and closed, in the place of the old one. That is kept in a new folder `damaged-<n>`,
/// which is returned, if `keep` says so.
pub(super) fn replace(dir: &Path, keep: bool) -> Result<Option<PathBuf>, StoreError> {
    let (old, unfinished, rebuilt) = (dir.join(DATABASE), dir.join(UNFINISHED), dir.join(REBUILT));
    rename(&unfinished, &rebuilt)?;
    let aside = keep.then(|| damaged_dir(dir)).transpose()?;
    rename(&old, &aside.as_ref().map_or(unfinished.clone(), |aside| aside.join(DATABASE)))?;
    rename(&rebuilt, &old)?;
    sync_dir(dir)?;
    remove(&unfinished)?;
    Ok(aside)
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|e| io_error("cannot rename", from, &e))
}

fn remove(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("cannot remove", folder, &e)),
        _ => Ok(()),
    }
}

/// Puts a complete rebuilt database into the place that a killed rebuild left empty, and removes one that came too
/// late.
pub(super) fn settle(dir: &Path) -> Result<(), StoreError> {
    let (rebuilt, database) = (dir.join(REBUILT), dir.join(DATABASE));
    if !rebuilt.is_dir() {
        return Ok(());
    }
    if database.exists() {
        return remove(&rebuilt);
    }
    rename(&rebuilt, &database)?;
    sync_dir(dir)
}
