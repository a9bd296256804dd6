//! What each document has cost so far, and which documents are done: a count kept as items end, restored at the start
//! of an attempt by one pass over the store.
//!
//! The work of a document is the number of its items that the stages asking the model have ended. GPU time is shared
//! out to documents in proportion to it: each such item is one call of the model, or a few, whose mean differs little
//! from one document to another, and the number can be restored exactly from the store, which seconds could not.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;

use crate::model::ledger::{Accounts, StageAccount};
use crate::model::plan::Plan;
use crate::model::projection::{Ahead, Measured, Size};
use crate::model::record::{Change, Ending, Epoch, ItemKey};
use crate::model::store::{Commit, Store};
use crate::model::{DocumentHash, Fingerprint, Payload, PayloadKind, StageKey, StoreError};

/// Records read at once.
const PAGE: usize = 1_024;

/// What each document has cost so far.
#[derive(Debug, Default)]
pub struct Tally {
    roles: HashMap<StageKey, Role>,
    documents: HashMap<DocumentHash, Known>,
    names: HashSet<u64>,
    done: u64,
    work: u64,
    /// Work that GPU time was spent on in earlier attempts, be it that the store no longer shows it.
    paid: u64,
}

/// What the tally wants to know of a stage.
#[derive(Clone, Copy, Debug)]
struct Role {
    asks_model: bool,
    makes_chunks: bool,
}

/// A document that the store knows.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    bytes: u64,
    chunks: u32,
    /// Items of it that are pending in any stage.
    open: u32,
    work: u32,
    /// Whether a stage has ever taken it.
    entered: bool,
}

impl Known {
    fn done(&self) -> bool {
        self.entered && self.open == 0
    }
}

/// A document that the store does not know yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// What the dataset will call it.
    pub name: String,
    /// The size of its file in bytes.
    pub bytes: u64,
}

impl Tally {
    /// Counts what is in the store.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn scan(plan: &Plan, store: &dyn Store) -> Result<Self, StoreError> {
        let mut tally = Self::default();
        let source = Fingerprint::source().key();
        pages(
            |after| store.outputs(&source, after, PAGE),
            |(key, output)| {
                if let Payload::Document(document) = &output.payload {
                    tally.names.insert(hash(&document.name));
                    tally.documents.entry(key.lineage.root()).or_default().bytes = document.bytes;
                }
            },
            |(key, _)| key,
        )?;
        for (at, node) in plan.nodes.iter().enumerate() {
            let stage = plan.key(at);
            let role = Role {
                asks_model: matches!(node.accepts, PayloadKind::Chunk | PayloadKind::Pair | PayloadKind::Verdict),
                makes_chunks: node.emits == PayloadKind::Chunk,
            };
            tally.roles.insert(stage, role);
            pages(
                |after| store.pending(&stage, after, Epoch(u64::MAX), PAGE),
                |item| {
                    let known = tally.documents.entry(item.key.lineage.root()).or_default();
                    known.open += 1;
                    known.entered = true;
                },
                |item| &item.key,
            )?;
            if !role.asks_model && !role.makes_chunks && !node.from_source {
                continue;
            }
            pages(
                |after| store.endings(&stage, after, PAGE),
                |(key, ending)| {
                    let known = tally.documents.entry(key.lineage.root()).or_default();
                    known.entered = true;
                    known.work += u32::from(role.asks_model);
                    tally.work += u64::from(role.asks_model);
                    if let (true, Ending::Done(done)) = (role.makes_chunks, ending) {
                        known.chunks += done.children;
                    }
                },
                |(key, _)| key,
            )?;
        }
        tally.done = tally.documents.values().filter(|known| known.done()).count() as u64;
        Ok(tally)
    }

    /// Documents of which every item has ended, those given up included.
    pub fn documents_done(&self) -> u64 {
        self.done
    }

    /// Documents that the store knows.
    pub fn documents_known(&self) -> u64 {
        self.documents.len() as u64
    }

    /// Notes the work that was done before the attempt. After a database was begun anew it is more than the store shows:
    /// what is done again meanwhile is done from answers that were paid for, so that a document takes its share of all.
    pub fn note_paid(&mut self, at_start: &Accounts) {
        let asks = |account: &&StageAccount| {
            let role = StageKey::from_hex(&account.key).and_then(|key| self.roles.get(&key));
            role.is_some_and(|role| role.asks_model)
        };
        self.paid = at_start.stages.values().filter(asks).map(|account| account.counts.ended()).sum();
    }

    /// The documents done and those ahead, with `gpu_hours` shared out among them; of `unseen`, only those that the
    /// store does not know.
    pub fn split<'a>(&self, gpu_hours: f64, unseen: impl Iterator<Item = &'a Unseen>) -> (Vec<Measured>, Vec<Ahead>) {
        let work = self.work.max(self.paid);
        let share = if work == 0 { 0.0 } else { gpu_hours / work as f64 };
        let (mut done, mut ahead) = (Vec::new(), Vec::new());
        for known in self.documents.values() {
            let used = f64::from(known.work) * share;
            let (bytes, chunks) = (known.bytes as f64, f64::from(known.chunks));
            if known.done() {
                done.push(Measured { used, bytes, chunks });
            } else {
                let size = if known.chunks > 0 { Size::Chunks(chunks) } else { Size::Bytes(bytes) };
                ahead.push(Ahead { used, size });
            }
        }
        ahead.extend(
            unseen
                .filter(|one| !self.names.contains(&hash(&one.name)))
                .map(|one| Ahead { used: 0.0, size: Size::Bytes(one.bytes as f64) }),
        );
        // The order of a hash map differs from process to process; the interval's random draws follow the order.
        done.sort_by(|a, b| a.used.total_cmp(&b.used).then(a.bytes.total_cmp(&b.bytes)));
        (done, ahead)
    }

    fn change(&mut self, document: DocumentHash, change: impl FnOnce(&mut Known)) {
        let known = self.documents.entry(document).or_default();
        let before = known.done();
        change(known);
        match (before, known.done()) {
            (false, true) => self.done += 1,
            (true, false) => self.done = self.done.saturating_sub(1),
            _ => {}
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Opened { key, document, pending } => {
                if let Some((name, bytes)) = document {
                    self.names.insert(*name);
                    self.change(key.lineage.root(), |known| known.bytes = *bytes);
                }
                self.change(key.lineage.root(), |known| {
                    known.open += pending;
                    known.entered |= *pending > 0;
                });
            }
            Event::Ended { key, stage, children, pending } => {
                let role = self.roles.get(stage).copied();
                let asks = role.is_some_and(|role| role.asks_model);
                self.work += u64::from(asks);
                self.change(key.lineage.root(), |known| {
                    known.work += u32::from(asks);
                    if role.is_some_and(|role| role.makes_chunks) {
                        known.chunks += children;
                    }
                    known.open = (known.open + pending).saturating_sub(1);
                });
            }
        }
    }
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// Reads pages to their end.
fn pages<T>(
    mut read: impl FnMut(Option<&ItemKey>) -> Result<Vec<T>, StoreError>,
    mut take: impl FnMut(&T),
    key: impl Fn(&T) -> &ItemKey,
) -> Result<(), StoreError> {
    let mut after: Option<ItemKey> = None;
    loop {
        let page = read(after.as_ref())?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(key(last).clone());
        page.iter().for_each(&mut take);
    }
}

/// A change of the store, as far as it concerns the tally.
enum Event {
    /// An output became pending in so many stages; of a document also the hash of its name, and its size.
    Opened { key: ItemKey, document: Option<(u64, u64)>, pending: u32 },
    /// An item ended, and its children became pending in stages, so many times in all.
    Ended { key: ItemKey, stage: StageKey, children: u32, pending: u32 },
}

/// Hands changes to the writer and keeps the tally: whatever was committed is counted before anybody acts on it.
pub struct Tallied {
    inner: Arc<dyn Commit>,
    store: Arc<dyn Store>,
    tally: Arc<Mutex<Tally>>,
}

impl Tallied {
    /// Around a writer of `store`.
    pub fn new(inner: Arc<dyn Commit>, store: Arc<dyn Store>, tally: Arc<Mutex<Tally>>) -> Self {
        Self { inner, store, tally }
    }

    /// In how many of the stages a commit has made an item pending: not in those that knew it already.
    fn pending(&self, key: &ItemKey, consumers: &[StageKey], epoch: Epoch) -> Result<u32, StoreError> {
        let mut pending = 0;
        for consumer in consumers {
            pending += u32::from(self.store.pending_since(consumer, key)? == Some(epoch));
        }
        Ok(pending)
    }

    fn count(&self, watched: &[Watched], epoch: Epoch) -> Result<(), StoreError> {
        let mut events = Vec::with_capacity(watched.len());
        for one in watched {
            events.push(match one {
                Watched::Opened { key, document, consumers } => {
                    let pending = self.pending(key, consumers, epoch)?;
                    Event::Opened { key: key.clone(), document: *document, pending }
                }
                Watched::Ended { key, stage, children, consumers } => {
                    let mut pending = 0;
                    for child in children {
                        pending += self.pending(child, consumers, epoch)?;
                    }
                    Event::Ended { key: key.clone(), stage: *stage, children: children.len() as u32, pending }
                }
            });
        }
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        for event in &events {
            tally.apply(event);
        }
        Ok(())
    }
}

/// What is kept of a change while it is committed.
enum Watched {
    Opened { key: ItemKey, document: Option<(u64, u64)>, consumers: Vec<StageKey> },
    Ended { key: ItemKey, stage: StageKey, children: Vec<ItemKey>, consumers: Vec<StageKey> },
}

impl Watched {
    fn of(change: &Change) -> Option<Self> {
        match change {
            Change::Admit { consumers, item, .. } => {
                let document = match &item.payload {
                    Payload::Document(document) => Some((hash(&document.name), document.bytes)),
                    _ => None,
                };
                Some(Self::Opened { key: item.key.clone(), document, consumers: consumers.clone() })
            }
            Change::Seed { consumer, key, .. } => {
                Some(Self::Opened { key: key.clone(), document: None, consumers: vec![*consumer] })
            }
            Change::Finish { stage, key, children, consumers, .. } => Some(Self::Ended {
                key: key.clone(),
                stage: *stage,
                children: children.iter().map(|child| child.key.clone()).collect(),
                consumers: consumers.clone(),
            }),
            Change::Reopen { .. } | Change::Journal { .. } | Change::Meta { .. } => None,
        }
    }
}

impl Commit for Tallied {
    fn commit(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<Epoch, StoreError>> {
        let watched: Vec<Watched> = changes.iter().filter_map(Watched::of).collect();
        Box::pin(async move {
            let epoch = self.inner.commit(changes).await?;
            if !watched.is_empty() {
                self.count(&watched, epoch)?;
            }
            Ok(epoch)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::StageCounts;

    #[test]
    fn what_is_done_again_from_paid_answers_takes_its_share_of_all() {
        let key = StageKey([7; 16]);
        let done = Known { work: 10, entered: true, ..Known::default() };
        let mut tally = Tally {
            roles: HashMap::from([(key, Role { asks_model: true, makes_chunks: false })]),
            documents: HashMap::from([(DocumentHash([1; 32]), done)]),
            work: 10,
            done: 1,
            ..Tally::default()
        };
        let used = |tally: &Tally| tally.split(40.0, [].iter()).0[0].used;
        assert!((used(&tally) - 40.0).abs() < 1e-9);
        // Before its database was begun anew the state had four times the work.
        let counts = StageCounts { admitted: 60, done: 30, rejected: 8, dead: 2, emitted: 90 };
        let at_start = |key: &str| Accounts {
            stages: [("score".to_owned(), StageAccount { key: key.into(), counts })].into(),
            ..Accounts::default()
        };
        tally.note_paid(&at_start(&key.hex()));
        assert!((used(&tally) - 10.0).abs() < 1e-9);
        // Work of a stage that is no longer there was for something else.
        tally.note_paid(&at_start(&StageKey([8; 16]).hex()));
        assert!((used(&tally) - 40.0).abs() < 1e-9);
    }
}
