//! [`MemoryStore`]: the store in memory, with the same semantics as the one on disk, written to be easy to check.
//! Tests use it in place of the disk, and a property test holds the two against each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use super::audit::MISSING_OUTPUT;
use super::changes::{PIECE, illegal, slot};
use super::codec::{self, MetaV1};
use super::{fit, keys};
use crate::model::StoreError;
use crate::model::ids::{DocumentHash, ItemId, Lineage, RequestKey, StageKey};
use crate::model::record::{
    Change, Ending, Epoch, ItemKey, JournalEntry, ModelCounts, NewItem, Output, PendingItem, StageCounts,
};
use crate::model::store::{Audit, DamagedRecord, Store};

type Place = (StageKey, ItemKey);

/// The store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    epoch: u64,
    outputs: BTreeMap<Place, Output>,
    endings: BTreeMap<Place, Ending>,
    pending: BTreeMap<Place, (StageKey, Epoch)>,
    journal: BTreeMap<RequestKey, JournalEntry>,
    counts: BTreeMap<StageKey, StageCounts>,
    model: ModelCounts,
    meta: BTreeMap<String, Vec<u8>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an item stands in a stage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Unknown,
    Pending,
    Ended(&'static str),
}

/// Checks a batch before anything of it is applied.
struct Check<'a> {
    state: &'a State,
    lives: HashMap<Place, Life>,
    outputs: BTreeSet<Place>,
}

impl Check<'_> {
    fn life(&self, place: &Place) -> Life {
        if let Some(life) = self.lives.get(place) {
            *life
        } else if self.state.pending.contains_key(place) {
            Life::Pending
        } else {
            self.state.endings.get(place).map_or(Life::Unknown, |ending| Life::Ended(ending.name()))
        }
    }

    fn has_output(&self, place: &Place) -> bool {
        self.outputs.contains(place) || self.state.outputs.contains_key(place)
    }

    fn admit(&mut self, producer: StageKey, consumers: &[StageKey], item: &NewItem) -> Result<(), StoreError> {
        let place = (producer, item.key.clone());
        if !self.has_output(&place) {
            fit::fits(item)?;
            self.outputs.insert(place);
        }
        for consumer in consumers {
            self.pend(*consumer, &item.key);
        }
        Ok(())
    }

    fn pend(&mut self, consumer: StageKey, key: &ItemKey) {
        let place = (consumer, key.clone());
        if self.life(&place) == Life::Unknown {
            self.lives.insert(place, Life::Pending);
        }
    }

    fn change(&mut self, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::Admit { producer, consumers, item } => self.admit(*producer, consumers, item)?,
            Change::Seed { producer, consumer, key } => {
                if !self.has_output(&(*producer, key.clone())) {
                    return Err(illegal(key, "without an output of its producer", "pending"));
                }
                self.pend(*consumer, key);
            }
            Change::Finish { stage, key, ending, children, consumers } => {
                if !children.is_empty() && !matches!(ending, Ending::Done(_)) {
                    return Err(illegal(key, "pending", &format!("{} with children", ending.name())));
                }
                let place = (*stage, key.clone());
                match self.life(&place) {
                    Life::Pending => {}
                    Life::Unknown => return Err(illegal(key, "unknown", ending.name())),
                    Life::Ended(from) => return Err(illegal(key, from, ending.name())),
                }
                codec::encode(&keys::item(keys::ENDING, stage, key), &fit::ending(ending))?;
                self.lives.insert(place, Life::Ended(ending.name()));
                for child in children {
                    self.admit(*stage, consumers, child)?;
                }
            }
            Change::Reopen { stage, key, .. } => {
                let place = (*stage, key.clone());
                match self.life(&place) {
                    Life::Ended(_) => self.lives.insert(place, Life::Pending),
                    Life::Pending => return Err(illegal(key, "pending", "pending again")),
                    Life::Unknown => return Err(illegal(key, "unknown", "pending")),
                };
            }
            // Long answers are split; only an absurd model name could make one too large.
            Change::Journal { key, entry } => {
                let bytes = entry.completion.model.len() + PIECE.min(entry.completion.content.len());
                if bytes > codec::MAX_RECORD && !self.state.journal.contains_key(key) {
                    return Err(StoreError::TooLarge {
                        what: format!("the model answer to request {}", key.short()),
                        bytes,
                        limit: codec::MAX_RECORD,
                    });
                }
            }
            Change::Meta { name, value } => {
                if let Some(value) = value {
                    codec::encode(&keys::meta(name), &MetaV1 { value: value.clone() })?;
                }
            }
        }
        Ok(())
    }
}

impl State {
    fn admit(&mut self, producer: StageKey, consumers: &[StageKey], item: &NewItem) {
        let output = Output { parent: item.parent, payload: item.payload.clone() };
        let mut new = false;
        self.outputs.entry((producer, item.key.clone())).or_insert_with(|| {
            new = true;
            output
        });
        if new {
            self.counts.entry(producer).or_default().emitted += 1;
        }
        for consumer in consumers {
            self.pend(producer, *consumer, &item.key);
        }
    }

    fn pend(&mut self, producer: StageKey, consumer: StageKey, key: &ItemKey) {
        let place = (consumer, key.clone());
        if !self.pending.contains_key(&place) && !self.endings.contains_key(&place) {
            self.pending.insert(place, (producer, Epoch(self.epoch)));
            self.counts.entry(consumer).or_default().admitted += 1;
        }
    }

    /// Applies a change that was checked.
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Admit { producer, consumers, item } => self.admit(*producer, consumers, item),
            Change::Seed { producer, consumer, key } => self.pend(*producer, *consumer, key),
            Change::Finish { stage, key, ending, children, consumers } => {
                let place = (*stage, key.clone());
                self.pending.remove(&place);
                *slot(self.counts.entry(*stage).or_default(), ending) += 1;
                self.endings.insert(place, fit::ending(ending));
                for child in children {
                    self.admit(*stage, consumers, child);
                }
            }
            Change::Reopen { stage, key, producer } => {
                let place = (*stage, key.clone());
                if let Some(ending) = self.endings.remove(&place) {
                    *slot(self.counts.entry(*stage).or_default(), &ending) -= 1;
                }
                self.pending.insert(place, (*producer, Epoch(self.epoch)));
            }
            Change::Journal { key, entry } => {
                if !self.journal.contains_key(key) {
                    self.model.calls += 1;
                    self.model.usage += entry.completion.usage;
                    self.journal.insert(*key, entry.clone());
                }
            }
            Change::Meta { name, value: Some(value) } => {
                self.meta.insert(name.clone(), value.clone());
            }
            Change::Meta { name, value: None } => {
                self.meta.remove(name);
            }
        }
    }
}

/// Where the records of `stage` that lie behind `after` begin, from one document on if it is given.
fn lower(stage: &StageKey, document: Option<&DocumentHash>, after: Option<&ItemKey>) -> Bound<Place> {
    let root = Lineage::document(document.unwrap_or(&DocumentHash([0; 32])));
    let first = ItemKey { lineage: root, id: ItemId([0; 32]) };
    match after {
        Some(after) if *after >= first => Bound::Excluded((*stage, after.clone())),
        _ => Bound::Included((*stage, first)),
    }
}

/// At most `limit` records of `stage` behind `after`, those of one document if it is given.
fn page<V: Clone>(
    map: &BTreeMap<Place, V>,
    stage: &StageKey,
    document: Option<&DocumentHash>,
    after: Option<&ItemKey>,
    limit: usize,
) -> Vec<(ItemKey, V)> {
    map.range((lower(stage, document, after), Bound::Unbounded))
        .take_while(|((of, key), _)| of == stage && document.is_none_or(|document| key.lineage.root() == *document))
        .take(limit)
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect()
}

impl Store for MemoryStore {
    fn commit(&self, changes: &[Change]) -> Result<Epoch, StoreError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if changes.is_empty() {
            return Ok(Epoch(state.epoch));
        }
        let mut check = Check { state: &state, lives: HashMap::new(), outputs: BTreeSet::new() };
        changes.iter().try_for_each(|change| check.change(change))?;
        state.epoch += 1;
        for change in changes {
            state.apply(change);
        }
        Ok(Epoch(state.epoch))
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.read().epoch)
    }

    fn pending(
        &self,
        stage: &StageKey,
        after: Option<&ItemKey>,
        until: Epoch,
        limit: usize,
    ) -> Result<Vec<PendingItem>, StoreError> {
        let state = self.read();
        Ok(state
            .pending
            .range((lower(stage, None, after), Bound::Unbounded))
            .take_while(|((of, _), _)| of == stage)
            .filter(|(_, (_, epoch))| *epoch <= until)
            .take(limit)
            .map(|((_, key), (producer, _))| PendingItem { key: key.clone(), producer: *producer })
            .collect())
    }

    fn pending_since(&self, stage: &StageKey, key: &ItemKey) -> Result<Option<Epoch>, StoreError> {
        Ok(self.read().pending.get(&(*stage, key.clone())).map(|(_, epoch)| *epoch))
    }

    fn endings(
        &self,
        stage: &StageKey,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Ending)>, StoreError> {
        Ok(page(&self.read().endings, stage, None, after, limit))
    }

    fn ending(&self, stage: &StageKey, key: &ItemKey) -> Result<Option<Ending>, StoreError> {
        Ok(self.read().endings.get(&(*stage, key.clone())).cloned())
    }

    fn outputs(
        &self,
        producer: &StageKey,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Output)>, StoreError> {
        Ok(page(&self.read().outputs, producer, None, after, limit))
    }

    fn outputs_of(
        &self,
        producer: &StageKey,
        document: &DocumentHash,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Output)>, StoreError> {
        Ok(page(&self.read().outputs, producer, Some(document), after, limit))
    }

    fn endings_of(
        &self,
        stage: &StageKey,
        document: &DocumentHash,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Ending)>, StoreError> {
        Ok(page(&self.read().endings, stage, Some(document), after, limit))
    }

    fn output(&self, producer: &StageKey, key: &ItemKey) -> Result<Option<Output>, StoreError> {
        Ok(self.read().outputs.get(&(*producer, key.clone())).cloned())
    }

    fn answer(&self, key: &RequestKey) -> Result<Option<JournalEntry>, StoreError> {
        Ok(self.read().journal.get(key).cloned())
    }

    fn counts(&self, stage: &StageKey) -> Result<StageCounts, StoreError> {
        Ok(self.read().counts.get(stage).copied().unwrap_or_default())
    }

    fn model_counts(&self) -> Result<ModelCounts, StoreError> {
        Ok(self.read().model)
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read().meta.get(name).cloned())
    }

    fn audit(&self) -> Result<Audit, StoreError> {
        let state = self.read();
        let mut audit = Audit::default();
        for ((stage, _), ending) in &state.endings {
            let counts = audit.recounted.entry(*stage).or_default();
            counts.admitted += 1;
            *slot(counts, ending) += 1;
        }
        for (stage, _) in state.outputs.keys() {
            audit.recounted.entry(*stage).or_default().emitted += 1;
        }
        for ((stage, item), (producer, _)) in &state.pending {
            audit.recounted.entry(*stage).or_default().admitted += 1;
            if !state.outputs.contains_key(&(*producer, item.clone())) {
                audit.damaged.push(DamagedRecord {
                    kind: "output",
                    stage: Some(*producer),
                    item: Some(item.clone()),
                    raw_key: keys::hex(&keys::item(keys::OUTPUT, producer, item)),
                    detail: MISSING_OUTPUT.into(),
                });
            }
        }
        for entry in state.journal.values() {
            audit.recounted_model.calls += 1;
            audit.recounted_model.usage += entry.completion.usage;
        }
        audit.records =
            (state.endings.len() + state.outputs.len() + state.pending.len() + state.journal.len() + state.meta.len())
                as u64;
        Ok(audit)
    }
}
