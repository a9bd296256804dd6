//! [`SledStore`]: the store on disk. Opening is in `opening.rs`, what a batch does in `changes.rs`.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::changes::{self, Batch};
use super::codec::{self, Kind, MetaV1, PendingV1, StateV1};
use super::identity::{FORMAT, Identity};
use super::sled::{Value, Writes};
use super::table::Table;
use super::watermark::Watermark;
use super::{audit, keys};
use crate::model::StoreError;
use crate::model::ids::{DocumentHash, RequestKey, StageKey};
use crate::model::record::{
    Change, Ending, Epoch, ItemKey, JournalEntry, ModelCounts, Output, PendingItem, StageCounts,
};
use crate::model::store::{Audit, DamagedRecord, Store};

/// How often commits also refresh `identity.json`.
const IDENTITY_EVERY: Duration = Duration::from_secs(5);

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// The database's cache in bytes; at least 1 MiB.
    pub cache_bytes: u64,
    /// How long the database may take to open before it is taken for damaged.
    pub open_limit: Duration,
    /// Whether a state that does not exist is created.
    pub create: bool,
    /// Whether a database that lost its latest commits to damage is accepted: a copy of it is set aside, and what
    /// the lost commits held is done again. For `qaflow verify --repair`.
    pub accept_loss: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { cache_bytes: 16 * 1024 * 1024, open_limit: Duration::from_secs(300), create: true, accept_loss: false }
    }
}

/// The store on disk. One process at a time can open it.
#[derive(Debug)]
pub struct SledStore {
    pub(super) dir: PathBuf,
    pub(super) table: Table,
    pub(super) id: [u8; 16],
    /// Serialises commits; holds when `identity.json` was last written.
    writer: Mutex<Instant>,
    pub(super) accounts: RwLock<Accounts>,
    epoch: AtomicU64,
    watermark: Watermark,
    /// It was opened without its latest commits, or with what was saved of them.
    pub(super) with_losses: bool,
}

/// The accounts as of the last commit.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    pub(super) stages: HashMap<StageKey, StageCounts>,
    pub(super) model: ModelCounts,
}

impl Accounts {
    /// What keeps all of them.
    pub(super) fn writes(&self) -> Result<Writes, StoreError> {
        let mut writes = Writes::new();
        let model = codec::encode(keys::LEDGER_MODEL, &self.model)?;
        writes.insert(keys::LEDGER_MODEL.to_vec(), Some(Value::from(model)));
        for (stage, counts) in &self.stages {
            let key = keys::ledger(stage);
            let value = codec::encode(&key, counts)?;
            writes.insert(key, Some(Value::from(value)));
        }
        Ok(writes)
    }
}

impl SledStore {
    /// Opens the state in the folder `dir`, or creates it if there is none and the options say so. Also returns
    /// notices for the person who runs it: what was found damaged and set aside.
    ///
    /// # Errors
    /// [`StoreError::Lease`] if another process has it open; [`StoreError::Damaged`] with a remedy if it cannot be
    /// read, is older than `identity.json` says, or belongs to another state; [`StoreError::Newer`] if a newer
    /// program wrote it; [`StoreError::Full`]; [`StoreError::Io`]. Nothing is recreated or overwritten.
    pub fn open(dir: impl AsRef<Path>, options: OpenOptions) -> Result<(Self, Vec<String>), StoreError> {
        super::opening::open(&super::fence::current_folder(dir.as_ref())?, options)
    }

    pub(super) fn assemble(dir: &Path, table: Table, state: StateV1, accounts: Accounts, watermark: Watermark) -> Self {
        Self {
            dir: dir.to_owned(),
            table,
            id: state.id,
            writer: Mutex::new(Instant::now()),
            accounts: RwLock::new(accounts),
            epoch: AtomicU64::new(state.epoch),
            watermark,
            with_losses: false,
        }
    }

    /// Whether commits were given up so that it opened ([`OpenOptions::accept_loss`]). What the engine took for whole may
    /// fail later then, so that a rebuild is due.
    pub fn opened_with_losses(&self) -> bool {
        self.with_losses
    }

    /// The state folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The state's identity: 32 hexadecimal digits, drawn at random when it was created.
    pub fn state_id(&self) -> String {
        keys::hex(&self.id)
    }

    /// Size of the whole state on disk in bytes, texts included.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        super::files::disk_bytes(&self.dir)
    }

    /// Writes `identity.json` now. Commits do so every few seconds, and closing does.
    pub fn refresh_identity(&self) -> Result<(), StoreError> {
        let mut last = self.lock();
        self.save_identity(&mut last)
    }

    /// Takes damaged model answers, accounts and named values out of the way: their bytes are kept in the database
    /// under a key of their own, the accounts are recounted, and the answers can be asked for again. Damaged endings
    /// and outputs are not touched: reopening an item, or making it anew, replaces those. Nor are parts of the
    /// database that the engine cannot read: see [`SledStore::rebuild`]. Returns what was set aside.
    pub fn set_aside_damaged(&self) -> Result<Vec<DamagedRecord>, StoreError> {
        let mut last = self.lock();
        let found = audit::run(&self.table)?;
        let aside: Vec<DamagedRecord> =
            found.damaged.into_iter().filter(|d| matches!(d.kind, "journal" | "counts" | "meta")).collect();
        let mut writes = Writes::new();
        for record in &aside {
            let Some(key) = unhex(&record.raw_key) else { continue };
            if key == keys::STORE {
                continue;
            }
            // A part that the engine cannot read has no value to keep: that takes a rebuild.
            if let Ok(Some(value)) = self.table.get(&key) {
                writes.insert(keys::set_aside(&key), Some(value));
                writes.insert(key, None);
            }
        }
        if writes.is_empty() {
            return Ok(aside);
        }
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.model = found.recounted_model;
        writes.extend(accounts.writes()?);
        drop(accounts);
        self.table.apply(&writes)?;
        self.save_identity(&mut last)?;
        Ok(aside)
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save_identity(&self, last: &mut Instant) -> Result<(), StoreError> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        let identity = Identity {
            format: FORMAT,
            state: self.state_id(),
            epoch: self.epoch.load(Ordering::Acquire),
            written: jiff::Timestamp::now().to_string(),
            stages: accounts.stages.iter().map(|(stage, counts)| (stage.hex(), *counts)).collect(),
            model: accounts.model,
        };
        drop(accounts);
        identity.save(&self.dir)?;
        *last = Instant::now();
        Ok(())
    }

    /// At most `limit` records whose keys begin with `prefix` and lie behind `after`, those that `read` keeps.
    fn page<T>(
        &self,
        prefix: Vec<u8>,
        after: Option<Vec<u8>>,
        limit: usize,
        read: impl Fn(&[u8], &[u8]) -> Result<Option<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let upper = keys::behind(&prefix);
        let lower = match after {
            Some(after) if after >= prefix => {
                if upper.as_ref().is_some_and(|upper| after >= *upper) {
                    return Ok(Vec::new());
                }
                Bound::Excluded(after)
            }
            _ => Bound::Included(prefix),
        };
        let mut page = Vec::new();
        if limit == 0 {
            return Ok(page);
        }
        for pair in self.table.scan(lower, upper)? {
            let (key, value) = pair?;
            if let Some(found) = read(&key, &value)? {
                page.push(found);
                if page.len() == limit {
                    break;
                }
            }
        }
        Ok(page)
    }
}

/// Reads an item's key, which must be one.
fn item_of(kind: Kind, prefix: &[u8], key: &[u8]) -> Result<ItemKey, StoreError> {
    keys::parse_item(prefix, key).map(|(_, item)| item).ok_or_else(|| StoreError::Damaged {
        what: codec::describe(kind, key),
        detail: "its key cannot be read".into(),
        remedy: codec::REMEDY.into(),
    })
}

fn read_ending(key: &[u8], value: &[u8]) -> Result<Option<(ItemKey, Ending)>, StoreError> {
    Ok(Some((item_of(Kind::Ending, keys::ENDING, key)?, codec::decode(key, value)?)))
}

fn read_output(key: &[u8], value: &[u8]) -> Result<Option<(ItemKey, Output)>, StoreError> {
    Ok(Some((item_of(Kind::Output, keys::OUTPUT, key)?, codec::decode(key, value)?)))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

impl Store for SledStore {
    fn commit(&self, batch: &[Change]) -> Result<Epoch, StoreError> {
        let mut last = self.lock();
        let epoch = self.epoch.load(Ordering::Acquire);
        if batch.is_empty() {
            return Ok(Epoch(epoch));
        }
        let epoch = epoch + 1;
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        let mut prepared = Batch::new(&self.table, &accounts.stages, accounts.model, epoch);
        for change in batch {
            prepared.add(change)?;
        }
        let (mut writes, counts, model) = (prepared.writes, prepared.counts, prepared.model);
        for (stage, counts) in &counts {
            let key = keys::ledger(stage);
            let value = codec::encode(&key, counts)?;
            writes.insert(key, Some(Value::from(value)));
        }
        if model != accounts.model {
            let value = codec::encode(keys::LEDGER_MODEL, &model)?;
            writes.insert(keys::LEDGER_MODEL.to_vec(), Some(Value::from(value)));
        }
        drop(accounts);
        let state = codec::encode(keys::STORE, &StateV1 { format: FORMAT, id: self.id, epoch })?;
        writes.insert(keys::STORE.to_vec(), Some(Value::from(state)));
        self.table.apply(&writes)?;

        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.stages.extend(counts);
        accounts.model = model;
        drop(accounts);
        self.epoch.store(epoch, Ordering::Release);
        self.watermark.write(&self.dir, epoch)?;
        if last.elapsed() >= IDENTITY_EVERY {
            self.save_identity(&mut last)?;
        }
        Ok(Epoch(epoch))
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    fn pending(
        &self,
        stage: &StageKey,
        after: Option<&ItemKey>,
        until: Epoch,
        limit: usize,
    ) -> Result<Vec<PendingItem>, StoreError> {
        let after = after.map(|after| keys::item(keys::PENDING, stage, after));
        self.page(keys::stage(keys::PENDING, stage), after, limit, |key, value| {
            let PendingV1 { producer, epoch } = codec::decode(key, value)?;
            if epoch > until.0 {
                return Ok(None);
            }
            Ok(Some(PendingItem { key: item_of(Kind::Pending, keys::PENDING, key)?, producer }))
        })
    }

    fn pending_since(&self, stage: &StageKey, key: &ItemKey) -> Result<Option<Epoch>, StoreError> {
        let key = keys::item(keys::PENDING, stage, key);
        let Some(value) = self.table.get(&key)? else { return Ok(None) };
        Ok(Some(Epoch(codec::decode::<PendingV1>(&key, &value)?.epoch)))
    }

    fn endings(
        &self,
        stage: &StageKey,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Ending)>, StoreError> {
        let after = after.map(|after| keys::item(keys::ENDING, stage, after));
        self.page(keys::stage(keys::ENDING, stage), after, limit, read_ending)
    }

    fn ending(&self, stage: &StageKey, key: &ItemKey) -> Result<Option<Ending>, StoreError> {
        let key = keys::item(keys::ENDING, stage, key);
        self.table.get(&key)?.map(|value| codec::decode(&key, &value)).transpose()
    }

    fn outputs(
        &self,
        producer: &StageKey,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Output)>, StoreError> {
        let after = after.map(|after| keys::item(keys::OUTPUT, producer, after));
        self.page(keys::stage(keys::OUTPUT, producer), after, limit, read_output)
    }

    fn outputs_of(
        &self,
        producer: &StageKey,
        document: &DocumentHash,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Output)>, StoreError> {
        let after = after.map(|after| keys::item(keys::OUTPUT, producer, after));
        self.page(keys::document(keys::OUTPUT, producer, document), after, limit, read_output)
    }

    fn endings_of(
        &self,
        stage: &StageKey,
        document: &DocumentHash,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Ending)>, StoreError> {
        let after = after.map(|after| keys::item(keys::ENDING, stage, after));
        self.page(keys::document(keys::ENDING, stage, document), after, limit, read_ending)
    }

    fn output(&self, producer: &StageKey, key: &ItemKey) -> Result<Option<Output>, StoreError> {
        let key = keys::item(keys::OUTPUT, producer, key);
        self.table.get(&key)?.map(|value| codec::decode(&key, &value)).transpose()
    }

    fn answer(&self, key: &RequestKey) -> Result<Option<JournalEntry>, StoreError> {
        let head = self.table.get(&keys::journal(key))?;
        head.map(|bytes| changes::read_answer(key, &bytes, |part| self.table.get(part))).transpose()
    }

    fn counts(&self, stage: &StageKey) -> Result<StageCounts, StoreError> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        Ok(accounts.stages.get(stage).copied().unwrap_or_default())
    }

    fn model_counts(&self) -> Result<ModelCounts, StoreError> {
        Ok(self.accounts.read().unwrap_or_else(PoisonError::into_inner).model)
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = keys::meta(name);
        let value = self.table.get(&key)?;
        value.map(|value| codec::decode::<MetaV1>(&key, &value).map(|meta| meta.value)).transpose()
    }

    fn audit(&self) -> Result<Audit, StoreError> {
        audit::run(&self.table)
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // What was acknowledged is on disk already; this only makes `identity.json` as new as the database.
        if let Err(error) = self.refresh_identity() {
            tracing::warn!("closing the store: {error}");
        }
    }
}
