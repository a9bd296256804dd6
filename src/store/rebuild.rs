//! Copies all that can be read of a database into a new one: heals pages that the engine cannot read, and gives back
//! the room that old versions of pages take.

use std::fs;
use std::path::Path;

use super::audit;
use super::files::{create_dirs, damaged_dir, io_error, sync_dir};
use super::opening::DATABASE;
use super::records::{Accounts, OpenOptions, SledStore};
use super::sled::{Database, OpenFault, Writes};
use super::table::Table;
use crate::model::StoreError;
use crate::model::store::Audit;

/// The new database while it is made.
const UNFINISHED: &str = "db.tmp";
/// The new database, complete: takes the place of a missing one.
pub(super) const REBUILT: &str = "db.rebuilt";
/// Bytes written in one batch.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

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
        let unfinished = dir.join(UNFINISHED);
        remove(&unfinished)?;
        create_dirs(&unfinished)?;
        let found = audit::run(&self.table)?;
        let whole = self.copy_to(&unfinished, options)? == found.records;
        // Closed before it is moved.
        drop(self);

        let (old, rebuilt) = (dir.join(DATABASE), dir.join(REBUILT));
        rename(&unfinished, &rebuilt)?;
        if whole && found.damaged.is_empty() {
            rename(&old, &unfinished)?;
        } else {
            rename(&old, &damaged_dir(&dir)?.join(DATABASE))?;
        }
        rename(&rebuilt, &old)?;
        sync_dir(&dir)?;
        remove(&unfinished)?;
        let (store, notices) = Self::open(&dir, options)?;
        Ok((found, store, notices))
    }

    /// Copies what can be read, and counts it anew; returns how many records there are.
    fn copy_to(&self, folder: &Path, options: OpenOptions) -> Result<u64, StoreError> {
        let database =
            Database::open(folder, options.cache_bytes, options.open_limit).map_err(|fault| match fault {
                OpenFault::Other(error) => error,
                other => StoreError::Io {
                    action: "cannot make the database".into(),
                    place: folder.display().to_string(),
                    detail: format!("{other:?}"),
                },
            })?;
        let (target, _) = Table::open(database, false)?;
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
        let copied = audit::run(&target)?;
        let accounts = Accounts { stages: copied.recounted.into_iter().collect(), model: copied.recounted_model };
        target.apply(&accounts.writes()?)?;
        target.database.sync_names()?;
        Ok(copied.records)
    }
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
