//! Opening a state: checks before and after the database opens, so that damage is named and nothing is recreated.

use std::collections::HashMap;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::audit;
use super::codec::{self, PendingV1, StateV1};
use super::files::{copy_dir, create_dirs, damaged_dir, io_error, sync_dir};
use super::identity::{self, FORMAT, Identity};
use super::keys;
use super::records::{Accounts, OpenOptions, SledStore};
use super::sled::{Database, OpenFault, Value, Writes, damaged_database};
use crate::model::StoreError;

const DATABASE: &str = "db";
/// How far the commit number jumps when the record that holds it was lost; no run makes as many commits in the
/// seconds between two writes of `identity.json`.
const EPOCH_GAP: u64 = 1_000_000;

/// See [`SledStore::open`].
pub(super) fn open(dir: &Path, options: OpenOptions) -> Result<(SledStore, Vec<String>), StoreError> {
    let mut notices = Vec::new();
    let (identity, bad_identity) = match Identity::load(dir) {
        Ok(identity) => (identity, None),
        Err(error @ StoreError::Damaged { .. }) => (None, Some(error)),
        Err(other) => return Err(other),
    };
    let folder = dir.join(DATABASE);
    let exists = folder.join("db").is_file();
    if !exists {
        if identity.is_some() || bad_identity.is_some() {
            return Err(mismatch(dir, "it is missing", identity.as_ref()));
        }
        if !options.create {
            return Err(StoreError::Io {
                action: "cannot open the state".into(),
                place: dir.display().to_string(),
                detail: "there is none in this folder; `qaflow run` makes one".into(),
            });
        }
    }
    create_dirs(&folder)?;
    let database = open_database(dir, &folder, options, &mut notices)?;
    let state = state_of(dir, &database, identity.as_ref(), bad_identity.as_ref(), &mut notices)?;
    if let Some(error) = bad_identity {
        let aside = damaged_dir(dir)?;
        let (from, to) = (dir.join(identity::FILE), aside.join(identity::FILE));
        fs::rename(&from, &to).map_err(|e| io_error("cannot set aside", &from, &e))?;
        sync_dir(&aside)?;
        notices.push(format!("{error}: set aside as {} and written anew", to.display()));
    }
    let accounts = accounts_of(&database, &mut notices)?;
    let store = SledStore::assemble(dir, database, state, accounts);
    // From now on a database that opens empty is noticed.
    store.refresh_identity()?;
    Ok((store, notices))
}

/// Opens the database, if need be without its snapshot: the log holds everything.
fn open_database(
    dir: &Path,
    folder: &Path,
    options: OpenOptions,
    notices: &mut Vec<String>,
) -> Result<Database, StoreError> {
    let cache = options.cache_bytes.max(1024 * 1024);
    let attempt = || Database::open(folder, cache, options.open_limit);
    let detail = match attempt() {
        Ok(database) => return Ok(database),
        Err(OpenFault::Damaged(detail)) => detail,
        Err(other) => return Err(give_up(folder, other)),
    };
    let snapshots = snapshots(folder)?;
    if snapshots.is_empty() {
        return Err(damaged_database(folder, detail));
    }
    let aside = damaged_dir(dir)?;
    copy_dir(folder, &aside.join(DATABASE))?;
    for snapshot in &snapshots {
        fs::remove_file(snapshot).map_err(|e| io_error("cannot remove", snapshot, &e))?;
    }
    sync_dir(folder)?;
    match attempt() {
        Ok(database) => {
            notices.push(format!(
                "the database did not open ({detail}); it does without its snapshot, rebuilt from the log. A copy of \
                 what was there is in {}, which may be deleted once all is well",
                aside.display()
            ));
            Ok(database)
        }
        Err(OpenFault::Damaged(second)) => Err(damaged_database(
            folder,
            format!("{detail}; without its snapshot, {second}. The folder as it was is kept in {}", aside.display()),
        )),
        Err(other) => Err(give_up(folder, other)),
    }
}

fn give_up(folder: &Path, fault: OpenFault) -> StoreError {
    match fault {
        OpenFault::Locked => StoreError::Lease(format!(
            "another process has the database {} open: wait for it to end, or stop it, then run the same command again",
            folder.display()
        )),
        OpenFault::Damaged(detail) | OpenFault::Hung(detail) => damaged_database(folder, detail),
        OpenFault::Other(error) => error,
    }
}

/// sled's snapshot files.
fn snapshots(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| io_error("cannot read the folder", folder, &e))? {
        let path = entry.map_err(|e| io_error("cannot read the folder", folder, &e))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
            found.push(path);
        }
    }
    Ok(found)
}

/// A database that is not the one that `identity.json` describes.
fn mismatch(dir: &Path, detail: &str, identity: Option<&Identity>) -> StoreError {
    let recorded =
        identity.map_or(String::new(), |i| format!(", though {} records commit {}", identity::FILE, i.epoch));
    StoreError::Damaged {
        what: format!("the database {}", dir.join(DATABASE).display()),
        detail: format!("{detail}{recorded}"),
        remedy: format!(
            "Nothing was changed. Put the database back from a copy; to start afresh, use another state folder or \
             remove {} as a whole",
            dir.display()
        ),
    }
}

/// Reads the store's own record and compares it with the identity outside; makes it in a new database.
fn state_of(
    dir: &Path,
    database: &Database,
    identity: Option<&Identity>,
    bad_identity: Option<&StoreError>,
    notices: &mut Vec<String>,
) -> Result<StateV1, StoreError> {
    let Some(bytes) = database.get(keys::STORE)? else {
        if identity.is_some() || bad_identity.is_some() {
            return Err(mismatch(dir, "it opens empty", identity));
        }
        if database.scan(Bound::Unbounded, None)?.next().is_some() {
            return Err(mismatch(dir, "it holds records but not its own identity", identity));
        }
        let state = StateV1 { format: FORMAT, id: random_id(), epoch: 0 };
        write_state(database, &state, None)?;
        database.sync_names()?;
        return Ok(state);
    };
    let state = match codec::decode::<StateV1>(keys::STORE, &bytes) {
        Ok(state) => state,
        Err(error @ StoreError::Damaged { .. }) => {
            let Some((identity, id)) = identity.and_then(|i| Some((i, parse_id(&i.state)?))) else {
                return Err(error);
            };
            let epoch = identity.epoch.max(newest_pending(database)?) + EPOCH_GAP;
            let state = StateV1 { format: identity.format, id, epoch };
            write_state(database, &state, Some(bytes))?;
            notices.push(format!("{error} It was set aside and made anew from {}", identity::FILE));
            state
        }
        Err(other) => return Err(other),
    };
    if state.format > FORMAT {
        return Err(StoreError::Newer {
            what: format!("the state {}", dir.display()),
            found: state.format,
            known: FORMAT,
        });
    }
    match identity {
        Some(identity) if identity.state != keys::hex(&state.id) => {
            let detail = format!("it belongs to the state {}, not {}", keys::hex(&state.id), identity.state);
            Err(mismatch(dir, &detail, Some(identity)))
        }
        Some(identity) if identity.epoch > state.epoch => {
            Err(mismatch(dir, &format!("it is older than it was: its last commit is {}", state.epoch), Some(identity)))
        }
        Some(_) => Ok(state),
        None => {
            if state.epoch > 0 && bad_identity.is_none() {
                notices.push(format!("{} was missing and is made anew from the database", identity::FILE));
            }
            Ok(state)
        }
    }
}

fn write_state(database: &Database, state: &StateV1, old: Option<Value>) -> Result<(), StoreError> {
    let value = Value::from(codec::encode(keys::STORE, state)?);
    let mut writes = Writes::from([(keys::STORE.to_vec(), Some(value))]);
    if let Some(old) = old {
        writes.insert(keys::set_aside(keys::STORE), Some(old));
    }
    database.apply(&writes)
}

fn newest_pending(database: &Database) -> Result<u64, StoreError> {
    let mut newest = 0;
    for pair in database.scan(Bound::Included(keys::PENDING.to_vec()), keys::behind(keys::PENDING))? {
        let (key, value) = pair?;
        if let Ok(pending) = codec::decode::<PendingV1>(&key, &value) {
            newest = newest.max(pending.epoch);
        }
    }
    Ok(newest)
}

/// Loads the accounts. One that cannot be read is recounted; the next commit that touches it writes it anew.
fn accounts_of(database: &Database, notices: &mut Vec<String>) -> Result<Accounts, StoreError> {
    let mut accounts = Accounts { stages: HashMap::new(), ..Accounts::default() };
    for pair in database.scan(Bound::Included(keys::LEDGER.to_vec()), keys::behind(keys::LEDGER))? {
        let (key, value) = pair?;
        if *key == *keys::LEDGER_MODEL {
            accounts.model = match codec::decode(&key, &value) {
                Err(error @ StoreError::Damaged { .. }) => {
                    notices.push(format!("{error} It was recounted from the journal"));
                    audit::recount_model(database)?
                }
                decoded => decoded?,
            };
        } else if let Some(stage) = keys::parse_ledger(&key) {
            let counts = match codec::decode(&key, &value) {
                Err(error @ StoreError::Damaged { .. }) => {
                    notices.push(format!("{error} It was recounted from the records"));
                    audit::recount_stage(database, &stage)?
                }
                decoded => decoded?,
            };
            accounts.stages.insert(stage, counts);
        }
    }
    Ok(accounts)
}

fn random_id() -> [u8; 16] {
    fastrand::u128(..).to_be_bytes()
}

fn parse_id(text: &str) -> Option<[u8; 16]> {
    u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32).map(u128::to_be_bytes)
}
