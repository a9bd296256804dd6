//! The log: every batch of changes as it was committed, until it is in blocks.
//!
//! A batch takes one or more places of the log, numbered from 0; the head, written with every batch, says how many are
//! in use. After a compaction the log begins at place 0 again, and what lay there is overwritten. A place holds `number
//! of the batch (8 bytes, little-endian) | number of the part (4) | how many parts (4) | list of records`, behind the
//! header of `codec.rs`.

use std::collections::BTreeMap;

use super::block::{self, List};
use super::codec::{self, Kind, LogHeadV1};
use super::keys;
use super::sled::{Database, Value, Writes};
use crate::model::StoreError;

/// Bytes after which a batch goes on in the next place. The database keeps up to sixteen places in one page, and
/// pages over 128 KiB in files of their own.
const PART: usize = 6 * 1024;
const PART_HEAD: usize = 16;

/// Where the log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    /// The number of the last batch.
    last: u64,
    /// How many places are in use.
    places: u32,
}

impl Log {
    /// How many places are in use.
    pub(super) fn places(self) -> u32 {
        self.places
    }

    /// Adds to `raw` what keeps `records` in the log; gives where the log stands once that is written.
    pub(super) fn append<'a>(
        self,
        records: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        raw: &mut Writes,
    ) -> Result<Self, StoreError> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        for (key, value) in records {
            if parts.last().is_none_or(|part| part.len() > PART) {
                parts.push(vec![0; PART_HEAD]);
            }
            if let Some(part) = parts.last_mut() {
                block::push(part, key, value);
            }
        }
        if parts.is_empty() {
            return Ok(self);
        }
        let after = Self { last: self.last + 1, places: self.places + parts.len() as u32 };
        let count = parts.len() as u32;
        for (n, mut part) in (0_u32..).zip(parts) {
            part[..8].copy_from_slice(&after.last.to_le_bytes());
            part[8..12].copy_from_slice(&n.to_le_bytes());
            part[12..16].copy_from_slice(&count.to_le_bytes());
            let key = keys::log_place(self.places + n);
            let value = codec::seal(&key, Kind::LogPart, &part);
            raw.insert(key, Some(Value::from(value)));
        }
        after.write_head(raw)?;
        Ok(after)
    }

    /// Adds to `raw` what empties the log; gives where it stands once that is written.
    pub(super) fn clear(self, raw: &mut Writes) -> Result<Self, StoreError> {
        let after = Self { last: self.last, places: 0 };
        after.write_head(raw)?;
        Ok(after)
    }

    fn write_head(self, raw: &mut Writes) -> Result<(), StoreError> {
        let head = codec::encode(keys::LOG_HEAD, &LogHeadV1 { last: self.last, places: self.places })?;
        raw.insert(keys::LOG_HEAD.to_vec(), Some(Value::from(head)));
        Ok(())
    }
}

/// What is read back of a log.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) log: Log,
    /// Records by key, the newest of each; `None` for a removed one.
    pub(super) records: BTreeMap<Vec<u8>, Option<Value>>,
    /// What could not be read, each with its fault. A batch that lacks a part is left out as a whole.
    pub(super) faults: Vec<StoreError>,
}

/// One part of a batch.
struct Part {
    batch: u64,
    number: u32,
    of: u32,
    list: Vec<u8>,
}

/// So many places that cannot be read, one after the other, end a log whose length is not known.
const UNREADABLE: u32 = 16;

/// Reads the log. Damage goes to [`Replay::faults`].
///
/// # Errors
/// [`StoreError::Newer`], or a fault of the disk.
pub(super) fn replay(database: &Database) -> Result<Replay, StoreError> {
    let mut replay = Replay::default();
    let head = match head(database) {
        Ok(head) => head,
        Err(error @ StoreError::Damaged { .. }) => {
            replay.faults.push(error);
            None
        }
        Err(other) => return Err(other),
    };
    let known = replay.faults.is_empty();
    let places = head.map_or(if known { 0 } else { u32::MAX }, |head| head.places);
    let mut parts: Vec<Part> = Vec::new();
    let mut unreadable = 0;
    for place in 0..places {
        match part(database, place) {
            Ok(Some(part)) => {
                // Where the head does not say so, the log ends where older batches follow.
                if !known && parts.last().is_some_and(|before| part.batch < before.batch) {
                    break;
                }
                parts.push(part);
                unreadable = 0;
            }
            Ok(None) if !known => break,
            Ok(None) => {
                replay.faults.push(codec::damaged(Kind::LogPart, &keys::log_place(place), "it is missing".into()));
            }
            Err(error @ StoreError::Damaged { .. }) => {
                replay.faults.push(error);
                unreadable += 1;
                // Where the head does not say where the log ends, and the database reads nothing, no place would.
                if !known && unreadable >= UNREADABLE {
                    break;
                }
            }
            Err(other) => return Err(other),
        }
    }
    let newest = parts.iter().map(|part| part.batch).max().unwrap_or(0);
    replay.log = head.map_or(Log { last: newest, places: 0 }, |head| Log { last: head.last, places: head.places });
    for batch in parts.chunk_by(|a, b| a.batch == b.batch) {
        let whole = batch.len() == batch[0].of as usize && (0..).zip(batch).all(|(n, part)| part.number == n);
        if whole {
            for (key, value) in batch.iter().flat_map(|part| List(&part.list)).flatten() {
                replay.records.insert(key.to_vec(), value.map(Value::from));
            }
        }
    }
    Ok(replay)
}

fn head(database: &Database) -> Result<Option<LogHeadV1>, StoreError> {
    database.get(keys::LOG_HEAD)?.map(|bytes| codec::decode(keys::LOG_HEAD, &bytes)).transpose()
}

fn part(database: &Database, place: u32) -> Result<Option<Part>, StoreError> {
    let key = keys::log_place(place);
    let Some(bytes) = database.get(&key)? else { return Ok(None) };
    let payload = codec::unseal(&key, Kind::LogPart, &bytes)?;
    parse(payload).map(Some).ok_or_else(|| codec::damaged(Kind::LogPart, &key, "it cannot be decoded".into()))
}

fn parse(mut payload: &[u8]) -> Option<Part> {
    let batch = u64::from_le_bytes(*payload.split_off(..8)?.first_chunk()?);
    let number = u32::from_le_bytes(*payload.split_off(..4)?.first_chunk()?);
    let of = u32::from_le_bytes(*payload.split_off(..4)?.first_chunk()?);
    let readable = List(payload).all(|record| record.is_some());
    readable.then(|| Part { batch, number, of, list: payload.to_vec() })
}
