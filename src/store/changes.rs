//! One batch in the making: which changes are legal, and what they write. Nothing is written until all are known.

use std::collections::HashMap;

use super::audit;
use super::codec::{self, JournalPartV1, JournalV1, MetaV1, PendingV1, Record};
use super::sled::{Value, Writes};
use super::table::Table;
use super::{fit, keys};
use crate::model::StoreError;
use crate::model::ids::{RequestKey, StageKey};
use crate::model::llm::Completion;
use crate::model::record::{Change, Ending, ItemKey, JournalEntry, ModelCounts, NewItem, Output, StageCounts};

/// The most bytes of an answer in one record; longer ones are split.
pub(super) const PIECE: usize = 48 * 1024;

/// The changes so far, over the store as it is.
pub(super) struct Batch<'a> {
    table: &'a Table,
    base: &'a HashMap<StageKey, StageCounts>,
    epoch: u64,
    /// What is to be written, and what later changes of the batch see first.
    pub(super) writes: Writes,
    /// The accounts of the stages that the batch touches.
    pub(super) counts: HashMap<StageKey, StageCounts>,
    /// The account of model answers.
    pub(super) model: ModelCounts,
    /// Ended items whose records cannot be read, by how the accounts say they ended: done, rejected, dead.
    unreadable: HashMap<StageKey, [u64; 3]>,
}

impl<'a> Batch<'a> {
    /// An empty batch that will be commit number `epoch`.
    pub(super) fn new(
        table: &'a Table,
        base: &'a HashMap<StageKey, StageCounts>,
        model: ModelCounts,
        epoch: u64,
    ) -> Self {
        Self { table, base, epoch, writes: Writes::new(), counts: HashMap::new(), model, unreadable: HashMap::new() }
    }

    /// Adds one change, checked against the store and the changes before it.
    pub(super) fn add(&mut self, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::Admit { producer, consumers, item } => self.admit(producer, consumers, item),
            Change::Seed { producer, consumer, key } => {
                if self.get(&keys::item(keys::OUTPUT, producer, key))?.is_none() {
                    return Err(illegal(key, "without an output of its producer", "pending"));
                }
                self.pend(producer, consumer, key)
            }
            Change::Finish { stage, key, ending, children, consumers } => {
                self.finish(stage, key, ending, children, consumers)
            }
            Change::Reopen { stage, key, producer } => self.reopen(stage, key, producer),
            Change::Journal { key, entry } => self.journal(key, entry),
            Change::Meta { name, value } => {
                let key = keys::meta(name);
                let value = value.as_ref().map(|v| codec::encode(&key, &MetaV1 { value: v.clone() })).transpose()?;
                self.writes.insert(key, value.map(Value::from));
                Ok(())
            }
        }
    }

    fn admit(&mut self, producer: &StageKey, consumers: &[StageKey], item: &NewItem) -> Result<(), StoreError> {
        let key = keys::item(keys::OUTPUT, producer, &item.key);
        let existing = self.get(&key)?;
        if existing.is_none() {
            self.counts_of(producer).emitted += 1;
        }
        // An output that cannot be read is written anew; one that can stays as it is.
        if !existing.is_some_and_readable::<Output>(&key)? {
            self.put(key, &Output { parent: item.parent, payload: item.payload.clone() })
                // The item's own name says more than the key.
                .map_err(|error| fit::fits(item).err().unwrap_or(error))?;
        }
        consumers.iter().try_for_each(|consumer| self.pend(producer, consumer, &item.key))
    }

    /// Makes an item pending in `consumer` unless it is known there.
    fn pend(&mut self, producer: &StageKey, consumer: &StageKey, item: &ItemKey) -> Result<(), StoreError> {
        let key = keys::item(keys::PENDING, consumer, item);
        let pending = self.get(&key)?;
        let known = pending.is_some();
        if pending.is_some_and_readable::<PendingV1>(&key)?
            || (!known && self.get(&keys::item(keys::ENDING, consumer, item))?.is_some())
        {
            return Ok(());
        }
        if !known {
            self.counts_of(consumer).admitted += 1;
        }
        self.put(key, &PendingV1 { producer: *producer, epoch: self.epoch })
    }

    fn finish(
        &mut self,
        stage: &StageKey,
        item: &ItemKey,
        ending: &Ending,
        children: &[NewItem],
        consumers: &[StageKey],
    ) -> Result<(), StoreError> {
        if !children.is_empty() && !matches!(ending, Ending::Done(_)) {
            return Err(illegal(item, "pending", &format!("{} with children", ending.name())));
        }
        let pending = keys::item(keys::PENDING, stage, item);
        let key = keys::item(keys::ENDING, stage, item);
        if self.get(&pending)?.is_none() {
            let from = match self.get(&key)? {
                None => "unknown",
                Some(bytes) => codec::decode::<Ending>(&key, &bytes).map_or("ended, but unreadable", |e| e.name()),
            };
            return Err(illegal(item, from, ending.name()));
        }
        self.writes.insert(pending, None);
        self.put(key, &fit::ending(ending))?;
        *slot(self.counts_of(stage), ending) += 1;
        children.iter().try_for_each(|child| self.admit(stage, consumers, child))
    }

    fn reopen(&mut self, stage: &StageKey, item: &ItemKey, producer: &StageKey) -> Result<(), StoreError> {
        let key = keys::item(keys::ENDING, stage, item);
        let pending = keys::item(keys::PENDING, stage, item);
        match self.get(&key)? {
            Some(bytes) => {
                match codec::decode::<Ending>(&key, &bytes) {
                    Ok(ending) => {
                        let count = slot(self.counts_of(stage), &ending);
                        *count = count.saturating_sub(1);
                    }
                    Err(StoreError::Damaged { .. }) => self.uncount_unreadable(stage)?,
                    Err(other) => return Err(other),
                }
                self.writes.insert(key, None);
            }
            None => match self.get(&pending)? {
                None => return Err(illegal(item, "unknown", "pending")),
                Some(bytes) if readable::<PendingV1>(&pending, &bytes)? => {
                    return Err(illegal(item, "pending", "pending again"));
                }
                Some(_) => {}
            },
        }
        self.put(pending, &PendingV1 { producer: *producer, epoch: self.epoch })
    }

    /// Takes one item whose ending cannot be read out of the account it must be in: the one that says more than can
    /// be read back.
    fn uncount_unreadable(&mut self, stage: &StageKey) -> Result<(), StoreError> {
        if !self.unreadable.contains_key(stage) {
            let base = self.base.get(stage).copied().unwrap_or_default();
            let read = audit::recount_stage(self.table, stage)?;
            let missing = [
                base.done.saturating_sub(read.done),
                base.rejected.saturating_sub(read.rejected),
                base.dead.saturating_sub(read.dead),
            ];
            self.unreadable.insert(*stage, missing);
        }
        let found = self.unreadable.get_mut(stage).and_then(|missing| {
            let at = missing.iter().position(|n| *n > 0)?;
            missing[at] -= 1;
            Some(at)
        });
        let counts = self.counts_of(stage);
        match found {
            Some(0) => counts.done = counts.done.saturating_sub(1),
            Some(1) => counts.rejected = counts.rejected.saturating_sub(1),
            Some(_) => counts.dead = counts.dead.saturating_sub(1),
            // The account was recounted without it: there it is pending already.
            None => {}
        }
        Ok(())
    }

    fn journal(&mut self, request: &RequestKey, entry: &JournalEntry) -> Result<(), StoreError> {
        let key = keys::journal(request);
        let existing = self.get(&key)?;
        let counted = existing.is_some();
        if let Some(bytes) = existing {
            match read_answer(request, &bytes, |key| self.get(key)) {
                Ok(_) => return Ok(()),
                // Kept again, but counted once.
                Err(StoreError::Damaged { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        let Completion { content, finish_reason, usage, model } = &entry.completion;
        let pieces = split(content);
        let (first, rest) = pieces.split_first().map_or(("", &[][..]), |(first, rest)| (*first, rest));
        for (n, piece) in (1..).zip(rest) {
            self.put(keys::journal_part(request, n), &JournalPartV1 { content: (*piece).to_owned() })?;
        }
        let head = JournalV1 {
            content: first.to_owned(),
            finish_reason: *finish_reason,
            usage: *usage,
            model: model.clone(),
            parts: rest.len() as u32,
        };
        self.put(key, &head)?;
        if !counted {
            self.model.calls += 1;
            self.model.usage += *usage;
        }
        Ok(())
    }

    fn counts_of(&mut self, stage: &StageKey) -> &mut StageCounts {
        self.counts.entry(*stage).or_insert_with(|| self.base.get(stage).copied().unwrap_or_default())
    }

    fn put<R: Record>(&mut self, key: Vec<u8>, record: &R) -> Result<(), StoreError> {
        let bytes = codec::encode(&key, record)?;
        self.writes.insert(key, Some(Value::from(bytes)));
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.table.get(key),
        }
    }
}

/// Whether a record can be read; a newer one is an error.
fn readable<R: Record>(key: &[u8], bytes: &[u8]) -> Result<bool, StoreError> {
    match codec::decode::<R>(key, bytes) {
        Ok(_) => Ok(true),
        Err(StoreError::Damaged { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

/// [`readable`] of a record that may not be there.
trait SomeAndReadable {
    fn is_some_and_readable<R: Record>(&self, key: &[u8]) -> Result<bool, StoreError>;
}

impl SomeAndReadable for Option<Value> {
    fn is_some_and_readable<R: Record>(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.as_ref().map_or(Ok(false), |bytes| readable::<R>(key, bytes))
    }
}

/// Where the account counts this ending.
pub(super) fn slot<'a>(counts: &'a mut StageCounts, ending: &Ending) -> &'a mut u64 {
    match ending {
        Ending::Done(_) => &mut counts.done,
        Ending::Rejected(_) => &mut counts.rejected,
        Ending::Dead(_) => &mut counts.dead,
    }
}

/// A step that an item's life does not allow.
pub(super) fn illegal(item: &ItemKey, from: &str, to: &str) -> StoreError {
    StoreError::IllegalTransition { item: item.id.short(), from: from.into(), to: to.into() }
}

/// Splits a text at character boundaries into pieces of at most [`PIECE`] bytes.
fn split(mut text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(fit::floor_char_boundary(text, PIECE));
        pieces.push(piece);
        text = rest;
    }
    pieces
}

/// Puts a model answer together from its record and, for a long one, its further parts.
pub(super) fn read_answer(
    request: &RequestKey,
    bytes: &[u8],
    get: impl Fn(&[u8]) -> Result<Option<Value>, StoreError>,
) -> Result<JournalEntry, StoreError> {
    let key = keys::journal(request);
    let head: JournalV1 = codec::decode(&key, bytes)?;
    let mut content = head.content;
    for n in 1..=head.parts {
        let part_key = keys::journal_part(request, n);
        let Some(part) = get(&part_key)? else {
            return Err(StoreError::Damaged {
                what: codec::describe(codec::Kind::Journal, &key),
                detail: format!("part {n} of {} is missing", head.parts),
                remedy: codec::REMEDY.into(),
            });
        };
        content.push_str(&codec::decode::<JournalPartV1>(&part_key, &part)?.content);
    }
    Ok(JournalEntry {
        completion: Completion { content, finish_reason: head.finish_reason, usage: head.usage, model: head.model },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_split_at_characters() {
        let text = "é".repeat(PIECE);
        let pieces = split(&text);
        assert!(pieces.iter().all(|p| p.len() <= PIECE) && pieces.len() == 2);
        assert_eq!(pieces.concat(), text);
        assert!(split("").is_empty());
    }
}
