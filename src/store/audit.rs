//! Reads every record, reports what cannot be read, and recounts the accounts.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::changes::{read_answer, slot};
use super::codec::{self, JournalPartV1, Kind, MetaV1, PendingV1, Record, StateV1};
use super::keys;
use super::scan;
use super::sled::Value;
use super::table::Table;
use crate::model::StoreError;
use crate::model::ids::StageKey;
use crate::model::record::{Ending, ItemKey, ModelCounts, Output, StageCounts};
use crate::model::store::{Audit, DamagedRecord};

/// Reads all records. Where the engine cannot read part of the database, what lies before and behind is read.
pub(super) fn run(table: &Table) -> Result<Audit, StoreError> {
    let mut auditor = Auditor { table, audit: Audit::default() };
    // Each kind by itself, so that a place that cannot be read hides as little as possible.
    for (prefix, kind) in [
        (keys::ENDING, Kind::Ending),
        (keys::OUTPUT, Kind::Output),
        (keys::PENDING, Kind::Pending),
        (keys::JOURNAL, Kind::Journal),
        (keys::LEDGER, Kind::Counts),
        (keys::META, Kind::Meta),
        (keys::STORE, Kind::State),
    ] {
        auditor.range(prefix, kind)?;
    }
    Ok(auditor.audit)
}

/// The account of one stage as its records give it. Records whose content cannot be read count as admitted only.
pub(super) fn recount_stage(table: &Table, stage: &StageKey) -> Result<StageCounts, StoreError> {
    let mut auditor = Auditor { table, audit: Audit::default() };
    for (prefix, kind) in [(keys::ENDING, Kind::Ending), (keys::OUTPUT, Kind::Output), (keys::PENDING, Kind::Pending)] {
        auditor.range(&keys::stage(prefix, stage), kind)?;
    }
    Ok(auditor.audit.recounted.remove(stage).unwrap_or_default())
}

/// The account of model answers as the journal gives it.
pub(super) fn recount_model(table: &Table) -> Result<ModelCounts, StoreError> {
    let mut auditor = Auditor { table, audit: Audit::default() };
    auditor.range(keys::JOURNAL, Kind::Journal)?;
    Ok(auditor.audit.recounted_model)
}

/// The beginnings of all keys.
pub(super) fn prefixes() -> [&'static [u8]; 8] {
    [keys::ENDING, keys::OUTPUT, keys::PENDING, keys::JOURNAL, keys::LEDGER, keys::META, keys::SET_ASIDE, keys::STORE]
}

/// A part of the database that the engine cannot read.
pub(super) struct Gap {
    /// The last key before it, if there is one.
    last: Option<Value>,
    /// The first key behind it, if there is one.
    next: Option<Value>,
    /// What the engine said.
    fault: StoreError,
}

/// Visits all records whose keys begin with `prefix`, and gives the places that cannot be read. Where the engine itself
/// cannot go on, what lies behind is visited from the end back to the same place; two such places hide what lies
/// between them.
pub(super) fn readable(
    table: &Table,
    prefix: &[u8],
    mut visit: impl FnMut(&Value, &Value) -> Result<(), StoreError>,
) -> Result<Vec<Gap>, StoreError> {
    let mut gaps: Vec<Gap> = Vec::new();
    let mut last: Option<Value> = None;
    let mut records = table.scan(Bound::Included(prefix.to_vec()), keys::behind(prefix))?;
    while let Some(pair) = records.next() {
        match pair {
            Ok((key, value)) => {
                if let Some(gap) = gaps.last_mut()
                    && gap.next.is_none()
                {
                    gap.next = Some(key.clone());
                }
                visit(&key, &value)?;
                last = Some(key);
            }
            Err(fault @ StoreError::Damaged { .. }) => {
                let next = if records.is_stuck() {
                    scan::from_the_end(table, prefix, last.as_deref(), &mut visit)?
                } else {
                    None
                };
                gaps.push(Gap { last: last.clone(), next, fault });
                if records.is_stuck() {
                    break;
                }
            }
            Err(other) => return Err(other),
        }
    }
    Ok(gaps)
}

struct Auditor<'a> {
    table: &'a Table,
    audit: Audit,
}

impl Auditor<'_> {
    /// Reads all keys that begin with `prefix`.
    fn range(&mut self, prefix: &[u8], kind: Kind) -> Result<(), StoreError> {
        let table = self.table;
        let gaps = readable(table, prefix, |key, value| self.record(kind, key, value))?;
        for Gap { last, next, fault } in gaps {
            let name = |key: &Option<Value>| key.as_ref().map_or("the edge".to_owned(), |key| keys::hex(key));
            let detail = format!("the records between {} and {} cannot be read: {fault}", name(&last), name(&next));
            // The first key that may be in the gap, which no record has.
            let key = last.map_or(prefix.to_vec(), |key| [&key[..], &[0]].concat());
            self.damaged(kind, &key, None, detail);
        }
        Ok(())
    }

    fn record(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.audit.records += 1;
        match kind {
            Kind::Ending => {
                let Some((stage, item)) = self.item(kind, keys::ENDING, key) else { return Ok(()) };
                let ending = self.decode::<Ending>(key, value, Some((stage, &item)))?;
                let counts = self.audit.recounted.entry(stage).or_default();
                counts.admitted += 1;
                if let Some(ending) = ending {
                    *slot(counts, &ending) += 1;
                }
            }
            Kind::Output => {
                let Some((stage, item)) = self.item(kind, keys::OUTPUT, key) else { return Ok(()) };
                self.decode::<Output>(key, value, Some((stage, &item)))?;
                self.audit.recounted.entry(stage).or_default().emitted += 1;
            }
            Kind::Pending => {
                let Some((stage, item)) = self.item(kind, keys::PENDING, key) else { return Ok(()) };
                self.audit.recounted.entry(stage).or_default().admitted += 1;
                if let Some(pending) = self.decode::<PendingV1>(key, value, Some((stage, &item)))? {
                    self.payload_of(&pending.producer, &item)?;
                }
            }
            Kind::Journal | Kind::JournalPart => match keys::parse_journal(key) {
                Some((request, 0)) => match read_answer(&request, value, |key| self.table.get(key)) {
                    Ok(entry) => {
                        self.audit.recounted_model.calls += 1;
                        self.audit.recounted_model.usage += entry.completion.usage;
                    }
                    Err(StoreError::Damaged { detail, .. }) => self.damaged(Kind::Journal, key, None, detail),
                    Err(other) => return Err(other),
                },
                // A damaged part is reported with the answer it belongs to.
                Some(_) => {
                    if let Err(error @ StoreError::Newer { .. }) = codec::decode::<JournalPartV1>(key, value) {
                        return Err(error);
                    }
                }
                None => self.damaged(kind, key, None, UNREADABLE_KEY.into()),
            },
            Kind::Counts | Kind::ModelCounts => {
                if key == keys::LEDGER_MODEL {
                    self.decode::<ModelCounts>(key, value, None)?;
                } else if keys::parse_ledger(key).is_some() {
                    self.decode::<StageCounts>(key, value, None)?;
                } else {
                    self.damaged(kind, key, None, UNREADABLE_KEY.into());
                }
            }
            Kind::Meta => {
                self.decode::<MetaV1>(key, value, None)?;
            }
            Kind::State => {
                self.decode::<StateV1>(key, value, None)?;
            }
            // Read wherever their records are, and at opening.
            Kind::Block | Kind::LogPart | Kind::LogHead => {}
        }
        Ok(())
    }

    /// An item that waits needs its payload.
    fn payload_of(&mut self, producer: &StageKey, item: &ItemKey) -> Result<(), StoreError> {
        let key = keys::item(keys::OUTPUT, producer, item);
        match self.table.get(&key) {
            // Where the engine cannot read, the outputs' own pass says so.
            Ok(Some(_)) | Err(StoreError::Damaged { .. }) => {}
            Ok(None) => self.damaged(Kind::Output, &key, Some((*producer, item)), MISSING_OUTPUT.into()),
            Err(other) => return Err(other),
        }
        Ok(())
    }

    fn item(&mut self, kind: Kind, prefix: &[u8], key: &[u8]) -> Option<(StageKey, ItemKey)> {
        let parsed = keys::parse_item(prefix, key);
        if parsed.is_none() {
            self.damaged(kind, key, None, UNREADABLE_KEY.into());
        }
        parsed
    }

    fn decode<R: Record>(
        &mut self,
        key: &[u8],
        value: &[u8],
        item: Option<(StageKey, &ItemKey)>,
    ) -> Result<Option<R>, StoreError> {
        match codec::decode(key, value) {
            Ok(record) => Ok(Some(record)),
            Err(StoreError::Damaged { detail, .. }) => {
                self.damaged(R::KIND, key, item, detail);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    fn damaged(&mut self, kind: Kind, key: &[u8], item: Option<(StageKey, &ItemKey)>, detail: String) {
        let stage = item.map(|(stage, _)| stage).or_else(|| stage_in(key));
        self.audit.damaged.push(DamagedRecord {
            kind: kind.name(),
            stage,
            item: item.map(|(_, item)| item.clone()),
            raw_key: keys::hex(key),
            detail,
        });
    }
}

const UNREADABLE_KEY: &str = "its key cannot be read";
pub(super) const MISSING_OUTPUT: &str = "it is missing, though an item waits for its payload";

/// The stage that a key names, whatever follows.
fn stage_in(key: &[u8]) -> Option<StageKey> {
    let (prefix, rest) = key.split_at_checked(2)?;
    let prefixes = BTreeSet::from([keys::ENDING, keys::OUTPUT, keys::PENDING, keys::LEDGER]);
    if !prefixes.contains(prefix) || key == keys::LEDGER_MODEL {
        return None;
    }
    rest.first_chunk::<16>().map(|stage| StageKey(*stage))
}
