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
use super::precaution::Precaution;
use super::rebuild;
use super::records::{Accounts, OpenOptions, SledStore};
use super::salvage;
use super::sled::{Database, OpenFault, Value, Writes, damaged_database};
use super::table::Table;
use super::watermark::{self, Watermark};
use crate::model::StoreError;

/// sled's folder in the state folder.
pub(super) const DATABASE: &str = "db";
/// How far the commit number jumps when the record that holds it was lost; no run makes as many commits in the
/// seconds between two writes of `identity.json`.
pub(super) const EPOCH_GAP: u64 = 1_000_000;

/// See [`SledStore::open`].
pub(super) fn open(dir: &Path, options: OpenOptions) -> Result<(SledStore, Vec<String>), StoreError> {
    rebuild::settle(dir)?;
    let (identity, bad_identity) = match Identity::load(dir) {
        Ok(identity) => (identity, None),
        Err(error @ StoreError::Damaged { .. }) => (None, Some(error)),
        Err(other) => return Err(other),
    };
    let folder = dir.join(DATABASE);
    let recorded = Watermark::read(dir).max(identity.as_ref().map_or(0, |i| i.epoch));
    let mut opening = Opening {
        dir,
        folder: &folder,
        options,
        identity,
        bad_identity,
        recorded,
        copied: None,
        recount: false,
        notices: Vec::new(),
    };
    if !folder.join("db").is_file() {
        if opening.existed() {
            return Err(opening.mismatch("it is missing", false));
        }
        if !options.create {
            return Err(StoreError::Io {
                action: "cannot open the state".into(),
                place: dir.display().to_string(),
                detail: "there is none in this folder; `qaflow run` makes one".into(),
            });
        }
        create_dirs(&folder)?;
        let (table, state) = opening.attempt(false).map_err(|failure| failure.error)?;
        return opening.finish(table, state);
    }
    // Before anything is touched.
    if Database::is_in_use(&folder)? {
        return Err(give_up(&folder, OpenFault::Locked));
    }
    let precaution = Precaution::take(dir, &folder)?;
    let mut attempt = opening.attempt(false);
    if options.accept_loss && attempt.as_ref().is_err_and(|failure| failure.lost) {
        opening.put_back(&precaution)?;
        let aside = damaged_dir(dir)?;
        copy_dir(&folder, &aside.join(DATABASE))?;
        opening.notices.push(format!("a copy of the damaged database is kept in {}", aside.display()));
        attempt = opening.attempt(true);
        if let Ok((table, _)) = &attempt {
            // The answers of the lost commits may still be there.
            salvage::add_answers(&aside.join(DATABASE), table)?;
            opening.recount = true;
        }
    }
    match attempt {
        Ok((table, state)) => {
            precaution.release()?;
            opening.finish(table, state)
        }
        // Its thread may still write: the next start puts everything back.
        Err(failure) if failure.hung => Err(failure.error),
        Err(failure) if matches!(failure.error, StoreError::Lease(_)) => {
            precaution.release()?;
            Err(failure.error)
        }
        Err(failure) => {
            opening.put_back(&precaution)?;
            Err(failure.error)
        }
    }
}

/// Why an attempt to open failed.
#[derive(Debug)]
struct Failure {
    error: StoreError,
    /// The database did not answer, and its thread may still be at work.
    hung: bool,
    /// It opens, but without its latest commits.
    lost: bool,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, hung: false, lost: false }
    }
}

/// One opening of a state.
struct Opening<'a> {
    dir: &'a Path,
    folder: &'a Path,
    options: OpenOptions,
    identity: Option<Identity>,
    bad_identity: Option<StoreError>,
    /// A commit that is known to have been on disk.
    recorded: u64,
    /// The folder that holds the database as it was before its snapshot was removed.
    copied: Option<PathBuf>,
    /// Changes were given up or taken from elsewhere, so that the accounts may not say what the records do.
    recount: bool,
    notices: Vec<String>,
}

impl Opening<'_> {
    /// Makes the closed database what it was before the attempt to open it.
    fn put_back(&mut self, precaution: &Precaution) -> Result<(), StoreError> {
        if let Some(aside) = self.copied.take() {
            let copy = aside.join(DATABASE);
            let replaced = aside.join("replaced");
            fs::rename(self.folder, &replaced).map_err(|e| io_error("cannot move", self.folder, &e))?;
            fs::rename(&copy, self.folder).map_err(|e| io_error("cannot put back", &copy, &e))?;
            fs::remove_dir_all(&aside).map_err(|e| io_error("cannot remove", &aside, &e))?;
            sync_dir(self.dir)?;
            self.notices.clear();
        }
        // The copy was made after a first attempt, which may have changed the end of the log.
        precaution.restore()
    }

    /// Opens the database and makes sure that it is the right one, as new as it was.
    fn attempt(&mut self, accept_loss: bool) -> Result<(Table, StateV1), Failure> {
        let database = self.open_database()?;
        let (table, faults) = Table::open(database, accept_loss).map_err(|error| {
            let lost = matches!(error, StoreError::Damaged { .. });
            Failure { error, hung: false, lost }
        })?;
        for fault in faults {
            self.recount = true;
            self.notices.push(format!("{fault} What it held is done again"));
        }
        let state = self.state_of(&table, accept_loss)?;
        Ok((table, state))
    }

    /// Opens the database, if need be without its snapshot: the log holds everything.
    fn open_database(&mut self) -> Result<Database, Failure> {
        let cache = self.options.cache_bytes.max(1024 * 1024);
        let attempt = || Database::open(self.folder, cache, self.options.open_limit);
        let detail = match attempt() {
            Ok(database) => return Ok(database),
            Err(OpenFault::Damaged(detail)) => detail,
            Err(fault) => {
                let hung = matches!(fault, OpenFault::Hung(_));
                return Err(Failure { error: give_up(self.folder, fault), hung, lost: false });
            }
        };
        let snapshots = snapshots(self.folder)?;
        if snapshots.is_empty() {
            return Err(damaged_database(self.folder, detail).into());
        }
        let aside = damaged_dir(self.dir)?;
        let copy = aside.join(DATABASE);
        copy_dir(self.folder, &copy)?;
        self.copied = Some(aside.clone());
        for snapshot in &snapshots {
            fs::remove_file(snapshot).map_err(|e| io_error("cannot remove", snapshot, &e))?;
        }
        sync_dir(self.folder)?;
        match attempt() {
            Ok(database) => {
                self.notices.push(format!(
                    "the database did not open ({detail}); it does without its snapshot, rebuilt from the log. A copy \
                     of what was there is in {}, which may be deleted once all is well",
                    aside.display()
                ));
                Ok(database)
            }
            Err(OpenFault::Damaged(second)) => {
                Err(damaged_database(self.folder, format!("{detail}; without its snapshot, {second}")).into())
            }
            Err(fault) => {
                let hung = matches!(fault, OpenFault::Hung(_));
                Err(Failure { error: give_up(self.folder, fault), hung, lost: false })
            }
        }
    }

    /// Whether the files beside the database say that there was one.
    fn existed(&self) -> bool {
        self.identity.is_some() || self.bad_identity.is_some() || self.recorded > 0
    }

    /// A database that is not the one that the files beside it describe.
    fn mismatch(&self, detail: &str, repairable: bool) -> StoreError {
        let recorded = if self.identity.is_some() {
            format!(", though {} records commit {}", identity::FILE, self.recorded)
        } else if self.recorded > 0 {
            format!(", though the file `{}` records commit {}", watermark::FILE, self.recorded)
        } else {
            String::new()
        };
        let repair = if repairable {
            ", or run `qaflow verify --repair`, which begins a new one with the model's answers if its files hold them"
        } else {
            ""
        };
        StoreError::Damaged {
            what: format!("the database {}", self.folder.display()),
            detail: format!("{detail}{recorded}"),
            remedy: format!(
                "Nothing was changed. Put the database back from a copy{repair}; to start afresh, use another state \
                 folder or remove {} as a whole",
                self.dir.display()
            ),
        }
    }

    /// Reads the store's own record and compares it with what is known outside; makes it in a new database.
    fn state_of(&mut self, table: &Table, accept_loss: bool) -> Result<StateV1, Failure> {
        let Some(bytes) = table.get(keys::STORE)? else {
            if self.existed() {
                return Err(self.mismatch("it opens empty", true).into());
            }
            if table.scan(Bound::Unbounded, None)?.next().is_some() {
                return Err(self.mismatch("it holds records but not its own identity", true).into());
            }
            let state = StateV1 { format: FORMAT, id: random_id(), epoch: 0 };
            write_state(table, &state, None)?;
            table.database.sync_names()?;
            return Ok(state);
        };
        let mut state = match codec::decode::<StateV1>(keys::STORE, &bytes) {
            Ok(state) => state,
            Err(error @ StoreError::Damaged { .. }) => {
                let Some((identity, id)) = self.identity.as_ref().and_then(|i| Some((i, parse_id(&i.state)?))) else {
                    return Err(error.into());
                };
                let epoch = self.recorded.max(newest_pending(table)?) + EPOCH_GAP;
                let state = StateV1 { format: identity.format, id, epoch };
                write_state(table, &state, Some(bytes))?;
                self.notices.push(format!("{error} It was set aside and made anew from {}", identity::FILE));
                state
            }
            Err(other) => return Err(other.into()),
        };
        if state.format > FORMAT {
            let what = format!("the state {}", self.dir.display());
            return Err(StoreError::Newer { what, found: state.format, known: FORMAT }.into());
        }
        if state.format < FORMAT {
            let what = format!("the state {}", self.dir.display());
            return Err(StoreError::Older { what, found: state.format, known: FORMAT }.into());
        }
        if let Some(identity) = &self.identity
            && identity.state != keys::hex(&state.id)
        {
            let detail = format!("it belongs to the state {}, not {}", keys::hex(&state.id), identity.state);
            return Err(self.mismatch(&detail, false).into());
        }
        if self.recorded > state.epoch {
            if !accept_loss {
                return Err(self.lost(state.epoch));
            }
            self.notices.push(format!(
                "the database lost its commits from {} to {} to damage: what they held is done again",
                state.epoch + 1,
                self.recorded
            ));
            state.epoch = self.recorded + EPOCH_GAP;
            write_state(table, &state, None)?;
        }
        if self.identity.is_none() && self.bad_identity.is_none() && state.epoch > 0 {
            self.notices.push(format!("{} was missing and is made anew from the database", identity::FILE));
        }
        Ok(state)
    }

    /// The database opens with fewer commits than it had.
    fn lost(&self, epoch: u64) -> Failure {
        let error = StoreError::Damaged {
            what: format!("the database {}", self.folder.display()),
            detail: format!(
                "it is older than it was: its last readable commit is {epoch}, and it had {}",
                self.recorded
            ),
            remedy: "Nothing was changed. Put the database back from a copy, or run `qaflow verify --repair`, which \
                     keeps a copy, goes on from the last readable commit, takes the model's answers from the \
                     damaged files, and has the rest done again"
                .into(),
        };
        Failure { error, hung: false, lost: true }
    }

    /// Loads the accounts and notes that the state is open.
    fn finish(mut self, table: Table, state: StateV1) -> Result<(SledStore, Vec<String>), StoreError> {
        if let Some(error) = self.bad_identity.take() {
            let aside = damaged_dir(self.dir)?;
            let (from, to) = (self.dir.join(identity::FILE), aside.join(identity::FILE));
            fs::rename(&from, &to).map_err(|e| io_error("cannot set aside", &from, &e))?;
            sync_dir(&aside)?;
            self.notices.push(format!("{error}: set aside as {} and written anew", to.display()));
        }
        let mut accounts = accounts_of(&table, &mut self.notices)?;
        if self.recount {
            recount(&table, &mut accounts)?;
        }
        let mut store = SledStore::assemble(self.dir, table, state, accounts, Watermark::open(self.dir)?);
        store.with_losses = self.recount;
        // From now on a database that opens empty is noticed.
        store.refresh_identity()?;
        Ok((store, self.notices))
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

pub(super) fn write_state(table: &Table, state: &StateV1, old: Option<Value>) -> Result<(), StoreError> {
    let value = Value::from(codec::encode(keys::STORE, state)?);
    let mut writes = Writes::from([(keys::STORE.to_vec(), Some(value))]);
    if let Some(old) = old {
        writes.insert(keys::set_aside(keys::STORE), Some(old));
    }
    table.apply(&writes)
}

fn newest_pending(table: &Table) -> Result<u64, StoreError> {
    let mut newest = 0;
    for pair in table.scan(Bound::Included(keys::PENDING.to_vec()), keys::behind(keys::PENDING))? {
        let (key, value) = pair?;
        if let Ok(pending) = codec::decode::<PendingV1>(&key, &value) {
            newest = newest.max(pending.epoch);
        }
    }
    Ok(newest)
}

/// Loads the accounts. One that cannot be read is recounted; the next commit that touches it writes it anew.
fn accounts_of(table: &Table, notices: &mut Vec<String>) -> Result<Accounts, StoreError> {
    let mut accounts = Accounts { stages: HashMap::new(), ..Accounts::default() };
    for pair in table.scan(Bound::Included(keys::LEDGER.to_vec()), keys::behind(keys::LEDGER))? {
        let (key, value) = pair?;
        if *key == *keys::LEDGER_MODEL {
            accounts.model = match codec::decode(&key, &value) {
                Err(error @ StoreError::Damaged { .. }) => {
                    notices.push(format!("{error} It was recounted from the journal"));
                    audit::recount_model(table)?
                }
                decoded => decoded?,
            };
        } else if let Some(stage) = keys::parse_ledger(&key) {
            let counts = match codec::decode(&key, &value) {
                Err(error @ StoreError::Damaged { .. }) => {
                    notices.push(format!("{error} It was recounted from the records"));
                    audit::recount_stage(table, &stage)?
                }
                decoded => decoded?,
            };
            accounts.stages.insert(stage, counts);
        }
    }
    Ok(accounts)
}

/// Makes the accounts say what the records say.
fn recount(table: &Table, accounts: &mut Accounts) -> Result<(), StoreError> {
    let found = audit::run(table)?;
    accounts.model = found.recounted_model;
    for (stage, counts) in &mut accounts.stages {
        *counts = found.recounted.get(stage).copied().unwrap_or_default();
    }
    accounts.stages.extend(found.recounted);
    table.apply(&accounts.writes()?)
}

pub(super) fn random_id() -> [u8; 16] {
    fastrand::u128(..).to_be_bytes()
}

pub(super) fn parse_id(text: &str) -> Option<[u8; 16]> {
    u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32).map(u128::to_be_bytes)
}
