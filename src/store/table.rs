//! All records of a state by key, kept so that the database has few values to keep track of.
//!
//! sled needs about a kilobyte of memory for each dozen values, for as long as it is open. So endings, outputs, pending
//! entries and model answers (ten and more for each chunk) are not values of their own. A commit writes its changes as
//! a whole to the log (`log.rs`), and the memtable holds them in memory. When enough have come together, compaction
//! (`compaction.rs`) writes them as blocks of many neighbouring records (`block.rs`), in one atomic batch that also
//! empties the log. A record is in the memtable, or in the one block whose range holds its key, or in both; then the
//! memtable's is the newer. Blocks never overlap.
//!
//! The few other records, accounts and named values, are values of the database.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::block::{self, Block};
use super::compaction;
use super::keys;
use super::log::{self, Log};
use super::scan::Scan;
use super::sled::{Database, Value, Writes};
use crate::model::StoreError;

/// Bytes of changes after which they are made blocks.
const MEMTABLE_BYTES: usize = 4 * 1024 * 1024;
/// Places of the log after which its changes are made blocks, however small they are.
const LOG_PLACES: u32 = 1_024;
/// What a record takes in the memtable beside its bytes.
const OVERHEAD: usize = 96;
/// How many blocks that were read last are kept decoded: neighbouring records are read one after the other.
const DECODED: usize = 32;

/// A block as it lies in the database, and read.
type Decoded = (Value, Arc<Block>);

/// The records of a state.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) database: Database,
    /// Whether changes are taken although they cannot be made blocks, since one of those cannot be read: for a repair.
    tolerant: bool,
    /// Held by whoever writes.
    log: Mutex<Log>,
    memtable: RwLock<Memtable>,
    decoded: Mutex<VecDeque<Decoded>>,
}

/// The changes that are in no block yet. While it is locked for reading the blocks do not change either.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    /// `None` for a record that was removed.
    pub(super) records: BTreeMap<Vec<u8>, Option<Value>>,
    bytes: usize,
    /// How often it was emptied into blocks.
    pub(super) compactions: u64,
}

impl Memtable {
    fn insert(&mut self, key: Vec<u8>, value: Option<Value>) {
        let weight = |value: Option<&Value>| value.map_or(0, |value| value.len());
        let added = weight(value.as_ref());
        let len = key.len();
        match self.records.insert(key, value) {
            Some(old) => self.bytes = (self.bytes + added).saturating_sub(weight(old.as_ref())),
            None => self.bytes += OVERHEAD + len + added,
        }
    }
}

impl Table {
    /// The records in `database`, which was just opened; also what could not be read of the log's changes, which is
    /// only accepted if `accept_loss` says so.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the log cannot be read and its loss is not accepted; [`StoreError::Newer`]; a fault
    /// of the disk.
    pub(super) fn open(database: Database, accept_loss: bool) -> Result<(Self, Vec<StoreError>), StoreError> {
        let replay = log::replay(&database)?;
        if let (Some(fault), false) = (replay.faults.first(), accept_loss) {
            return Err(fault.clone());
        }
        let mut log = replay.log;
        if !replay.faults.is_empty() {
            // Without what cannot be read, so that it is there no more.
            let mut raw = Writes::new();
            let records = replay.records.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
            log = log.clear(&mut raw)?.append(records, &mut raw)?;
            database.apply(&raw)?;
        }
        let mut memtable = Memtable::default();
        for (key, value) in replay.records {
            memtable.insert(key, value);
        }
        let table = Self {
            database,
            tolerant: accept_loss,
            log: Mutex::new(log),
            memtable: RwLock::new(memtable),
            decoded: Mutex::default(),
        };
        Ok((table, replay.faults))
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        if !keys::in_blocks(key) {
            return self.database.get(key);
        }
        let memtable = self.memtable();
        if let Some(value) = memtable.records.get(key) {
            return Ok(value.clone());
        }
        let Some((place, bytes)) = self.block_at(key)? else { return Ok(None) };
        if block::extent(&place, &bytes)?.last < key {
            return Ok(None);
        }
        Ok(self.decode(&place, bytes)?.get(key).map(Value::from))
    }

    /// All records from `lower` to before `upper` in order of their keys; both must begin with the same two bytes.
    /// Where a block cannot be read, the scan goes on behind it after the error.
    pub(super) fn scan(&self, lower: Bound<Vec<u8>>, upper: Option<Vec<u8>>) -> Result<Scan<'_>, StoreError> {
        Scan::new(self, lower, upper)
    }

    /// Applies all writes or none, and returns once they are on disk; makes blocks of earlier ones first, if there are
    /// enough. After an error no more writes are taken.
    pub(super) fn apply(&self, writes: &Writes) -> Result<(), StoreError> {
        let mut log = self.log();
        if self.memtable().bytes >= MEMTABLE_BYTES || log.places() >= LOG_PLACES {
            match self.compact_into(&mut log) {
                Err(StoreError::Damaged { .. }) if self.tolerant => {}
                compacted => compacted?,
            }
        }
        let (inner, outer): (Vec<_>, Vec<_>) = writes.iter().partition(|(key, _)| keys::in_blocks(key));
        let mut raw: Writes = outer.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let after = log.append(inner.iter().map(|(key, value)| (key.as_slice(), value.as_deref())), &mut raw)?;
        self.database.apply(&raw)?;
        *log = after;
        let mut memtable = self.memtable.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in inner {
            memtable.insert(key.clone(), value.clone());
        }
        Ok(())
    }

    /// Makes blocks of all changes in the memtable, and empties the log.
    #[cfg(test)]
    pub(super) fn compact(&self) -> Result<(), StoreError> {
        self.compact_into(&mut self.log())
    }

    fn compact_into(&self, log: &mut Log) -> Result<(), StoreError> {
        // Nobody else writes while the log is held, so what is read here stays as it is.
        let mut raw = Writes::new();
        compaction::blocks(self, &self.memtable(), &mut raw)?;
        let after = log.clear(&mut raw)?;
        let mut memtable = self.memtable.write().unwrap_or_else(PoisonError::into_inner);
        self.database.apply(&raw)?;
        *log = after;
        let compactions = memtable.compactions + 1;
        *memtable = Memtable { compactions, ..Memtable::default() };
        Ok(())
    }

    /// The last block that begins at `key` or before it, with its database key. The memtable must be locked.
    pub(super) fn block_at(&self, key: &[u8]) -> Result<Option<(Value, Value)>, StoreError> {
        let kind = keys::block(key.get(..2).unwrap_or(key));
        let end = [&keys::block(key)[..], &[0]].concat();
        let found = self.database.scan(Bound::Included(kind), Some(end))?.next_back().transpose()?;
        self.made_room(found)
    }

    /// The first block that begins behind `key` and before `upper`. The memtable must be locked.
    pub(super) fn block_behind(&self, key: &[u8], upper: Option<&[u8]>) -> Result<Option<(Value, Value)>, StoreError> {
        let end = upper
            .map_or_else(|| keys::behind(&keys::block(key.get(..2).unwrap_or(key))), |upper| Some(keys::block(upper)));
        let lower = keys::block(key);
        if end.as_ref().is_some_and(|end| *end <= lower) {
            return Ok(None);
        }
        let found = self.database.scan(Bound::Excluded(lower), end)?.next().transpose()?;
        self.made_room(found)
    }

    /// What was found, after the database's cache let go of what it need not hold.
    fn made_room(&self, found: Option<(Value, Value)>) -> Result<Option<(Value, Value)>, StoreError> {
        if let Some((place, _)) = &found {
            self.database.make_room(place)?;
        }
        Ok(found)
    }

    /// Reads a block, unless it was read a moment ago.
    pub(super) fn decode(&self, key: &[u8], bytes: Value) -> Result<Arc<Block>, StoreError> {
        {
            let decoded = self.decoded();
            if let Some((_, block)) = decoded.iter().find(|(of, _)| *of == bytes) {
                return Ok(Arc::clone(block));
            }
        }
        let block = Arc::new(Block::read(key, &bytes)?);
        let mut decoded = self.decoded();
        if decoded.len() >= DECODED {
            decoded.pop_back();
        }
        decoded.push_front((bytes, Arc::clone(&block)));
        Ok(block)
    }

    pub(super) fn memtable(&self) -> RwLockReadGuard<'_, Memtable> {
        self.memtable.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decoded(&self) -> MutexGuard<'_, VecDeque<Decoded>> {
        self.decoded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
