//! The gate: holds back the passages of each document and lets them go in rounds, until the document has as many
//! accepted pairs as are wanted.
//!
//! It remembers nothing that the store does not know: whenever nothing of a document is under way any more, it is
//! surveyed anew, and the survey says what comes next. That nothing is under way is known by a ticket that all items of
//! a document share; it reports when the last of them is gone. A document that is begun holds a permit until it has
//! ended, so that few are open at once; the stage above waits for one, which is its backpressure.
//!
//! Nobody but the gate delivers to the held stages, and it waits for no one else: the stages below report without
//! waiting, so there is no circle in which all could wait for each other.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::progress::Progress;
use super::runtime::{EngineError, Flow};
use super::shutdown::Stop;
use super::survey::{CHECK, Gate, Survey, survey};
use super::worker::{Delivery, number};
use crate::model::record::{Change, Done, Ending, ItemKey, Rejection};
use crate::model::store::{Commit, Store};
use crate::model::target::Next;
use crate::model::{DocumentHash, Item, Payload};
use crate::telemetry::metrics;

/// The most items that are ended in one commit.
const BATCH: usize = 500;
/// The most documents that are taken in at once.
const REQUESTS: usize = 64;

/// The documents of which nothing is under way any more, and how many tickets are out.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    documents: Mutex<HashSet<DocumentHash>>,
    tickets: AtomicUsize,
    changed: Notify,
}

impl Quiet {
    /// Has a document looked at.
    pub(super) fn look_at(&self, document: DocumentHash) {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).insert(document);
        self.changed.notify_one();
    }

    /// A ticket for items of a document that are delivered from here on.
    pub(super) fn ticket(self: &Arc<Self>, document: DocumentHash) -> Arc<Ticket> {
        self.tickets.fetch_add(1, Ordering::AcqRel);
        Arc::new(Ticket { quiet: Arc::clone(self), document })
    }

    fn take(&self) -> HashSet<DocumentHash> {
        std::mem::take(&mut *self.documents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether no ticket is out and nothing was reported that has not been taken.
    fn is_over(&self) -> bool {
        // In this order: a ticket reports before it is counted as gone.
        self.tickets.load(Ordering::Acquire) == 0
            && self.documents.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Held by all items of a document that came from one delivery; reports when the last is gone, however that was.
#[derive(Debug)]
pub(super) struct Ticket {
    quiet: Arc<Quiet>,
    document: DocumentHash,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.quiet.look_at(self.document);
        self.quiet.tickets.fetch_sub(1, Ordering::AcqRel);
        self.quiet.changed.notify_one();
    }
}

/// The way to the gate for those who bring documents: the gate stays open for as long as one of these lives.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    requests: mpsc::Sender<(DocumentHash, OwnedSemaphorePermit)>,
    permits: Arc<Semaphore>,
    /// Where documents report.
    pub(super) quiet: Arc<Quiet>,
}

impl Entrance {
    /// Brings a document whose passages are in the store; waits until there is room for one more. Returns whether it
    /// was taken, which it is unless the run stops.
    pub(super) async fn bring(&self, document: DocumentHash, stop: &Stop) -> bool {
        tokio::select! {
            biased;
            () = stop.wait() => false,
            permit = Arc::clone(&self.permits).acquire_owned() => match permit {
                Ok(permit) => self.requests.send((document, permit)).await.is_ok(),
                Err(_) => false,
            },
        }
    }
}

/// The gate at work.
pub(super) struct Keeper {
    flow: Arc<Flow>,
    gate: Gate,
    store: Arc<dyn Store>,
    commit: Arc<dyn Commit>,
    stop: Stop,
    progress: Arc<Progress>,
    /// Of the held stages alone: whoever holds a stage's sender keeps it from ending.
    senders: HashMap<usize, mpsc::Sender<Delivery>>,
    requests: mpsc::Receiver<(DocumentHash, OwnedSemaphorePermit)>,
    quiet: Arc<Quiet>,
    /// The documents that are open.
    open: HashMap<DocumentHash, Open>,
}

#[derive(Default)]
struct Open {
    /// How many of its passages, in their order, were delivered in this attempt or had ended before.
    delivered: u32,
    permit: Option<OwnedSemaphorePermit>,
}

/// What was decided of some documents, on its way to the store.
#[derive(Default)]
struct Decided {
    changes: Vec<Change>,
    /// Stage and outcome of each.
    ended: Vec<(usize, &'static str)>,
}

impl Decided {
    fn finish(&mut self, flow: &Flow, at: usize, key: &ItemKey, ending: Ending, child: Option<Payload>) {
        self.ended.push((at, ending.name()));
        let children = number(key, &flow.nodes[at].identity, child.into_iter().collect());
        let (stage, key) = (flow.key(at), key.clone());
        self.changes.push(Change::Finish { stage, key, ending, children, consumers: Vec::new() });
    }
}

impl Keeper {
    /// The gate of a flow, and the way to it. As many documents are open at once as the held stages have room for.
    pub(super) fn new(
        flow: &Arc<Flow>,
        gate: &Gate,
        store: &Arc<dyn Store>,
        commit: &Arc<dyn Commit>,
        stop: &Stop,
        progress: &Arc<Progress>,
        senders: &[mpsc::Sender<Delivery>],
    ) -> (Self, Entrance) {
        let room: usize = gate.held.iter().map(|at| flow.nodes[*at].concurrency + flow.nodes[*at].buffer).sum();
        let (sender, requests) = mpsc::channel(REQUESTS);
        let quiet = Arc::new(Quiet::default());
        let permits = Arc::new(Semaphore::new(room.clamp(1, Semaphore::MAX_PERMITS)));
        let entrance = Entrance { requests: sender, permits, quiet: Arc::clone(&quiet) };
        let keeper = Self {
            flow: Arc::clone(flow),
            gate: gate.clone(),
            store: Arc::clone(store),
            commit: Arc::clone(commit),
            stop: stop.clone(),
            progress: Arc::clone(progress),
            senders: gate.held.iter().map(|at| (*at, senders[*at].clone())).collect(),
            requests,
            quiet,
            open: HashMap::new(),
        };
        (keeper, entrance)
    }

    /// Works until nothing can come any more: nobody is left who could bring a document, and nothing is under way.
    pub(super) async fn run(mut self) -> Result<(), EngineError> {
        let mut closed = false;
        let mut brought = Vec::new();
        loop {
            let stop = self.stop.clone();
            tokio::select! {
                biased;
                () = stop.wait() => return Ok(()),
                () = self.quiet.changed.notified() => {
                    let documents = self.quiet.take();
                    self.look_at(documents).await?;
                }
                n = self.requests.recv_many(&mut brought, REQUESTS), if !closed => {
                    closed = n == 0;
                    let documents: HashSet<DocumentHash> = brought.iter().map(|(document, _)| *document).collect();
                    for (document, permit) in brought.drain(..) {
                        self.open.entry(document).or_default().permit.get_or_insert(permit);
                    }
                    self.look_at(documents).await?;
                }
            }
            if closed && self.quiet.is_over() {
                return Ok(());
            }
        }
    }

    /// Does what comes next for some documents. What was decided of them goes into one commit: while it is written
    /// others report, so the number of commits does not grow with that of the documents.
    async fn look_at(&mut self, documents: HashSet<DocumentHash>) -> Result<(), EngineError> {
        let mut decided = Decided::default();
        let mut over = Vec::new();
        let mut deliveries = Vec::new();
        for document in documents {
            let found = survey(&self.flow, &self.gate, self.store.as_ref(), &document)?;
            if !found.complete {
                // The stage above brings it again when it is done with it.
                self.open.remove(&document);
                continue;
            }
            self.decide(&found, &mut decided)?;
            if found.ended {
                over.push(document);
                continue;
            }
            let open = self.open.entry(document).or_default();
            let new: Vec<_> = found.open.into_iter().filter(|(place, ..)| *place >= open.delivered).collect();
            let furthest = new.iter().map(|(place, ..)| place + 1).max().unwrap_or(0);
            open.delivered = open.delivered.max(furthest).max(found.asked);
            // A ticket for nothing would report at once, and again and again.
            if !new.is_empty() {
                deliveries.push((self.quiet.ticket(document), new));
            }
        }
        let mut changes = decided.changes.into_iter();
        loop {
            let batch: Vec<Change> = changes.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            self.commit.commit(batch).await?;
        }
        for (at, outcome) in decided.ended {
            metrics::item_decided(&self.flow.nodes[at].name, outcome);
            self.progress.stages[at].ended.fetch_add(1, Ordering::Relaxed);
        }
        for document in over {
            self.open.remove(&document);
        }
        for (ticket, items) in deliveries {
            for (_, node, key) in items {
                if !self.deliver(&ticket, node, key).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Delivers one item to a held stage; false if the run stops.
    async fn deliver(&self, ticket: &Arc<Ticket>, node: usize, key: ItemKey) -> Result<bool, EngineError> {
        let Some(output) = self.store.output(&self.flow.key(self.gate.from), &key)? else {
            tracing::warn!(
                "item {} of stage `{}` waits for what it carries to be made again",
                key.id.short(),
                self.flow.nodes[node].name
            );
            return Ok(true);
        };
        let item = Item { key, payload: output.payload, priority: self.flow.nodes[node].depth };
        let delivery = Delivery { item, ticket: Some(Arc::clone(ticket)) };
        let Some(sender) = self.senders.get(&node) else { return Ok(false) };
        Ok(tokio::select! {
            biased;
            () = self.stop.wait() => false,
            sent = sender.send(delivery) => sent.is_ok(),
        })
    }

    /// Adds what was decided of a document: pairs that are kept, pairs too many, passages that are never asked.
    fn decide(&self, found: &Survey, decided: &mut Decided) -> Result<(), EngineError> {
        let keeper = self.gate.keeper;
        for key in &found.keep {
            if let Some(payload) = self.carried(key)? {
                let ending = Ending::Done(Done { children: 1, ..Done::default() });
                decided.finish(&self.flow, keeper, key, ending, Some(payload));
            }
        }
        let Some((end, standing)) = &found.end else { return Ok(()) };
        let target = &self.gate.target;
        let met = format!("{0} of {0} accepted", target.accepted);
        let wanted = format!("at most {} accepted pairs of a document", target.accepted);
        let refused = |value: &str, rule: &str, evidence: Option<Payload>| {
            let (value, rule) = (value.to_owned(), rule.to_owned());
            Ending::Rejected(Rejection { check: CHECK.into(), value, rule, evidence: evidence.map(Box::new) })
        };
        for key in &found.surplus {
            if let Some(payload) = self.carried(key)? {
                decided.finish(&self.flow, keeper, key, refused(&met, &wanted, Some(payload)), None);
            }
        }
        let (value, rule) = if *end == Next::Capped {
            let value = format!("{} candidates made, {} accepted", standing.candidates, standing.accepted);
            (value, format!("at most {} candidates of a document", target.candidates))
        } else {
            (met, wanted)
        };
        for (at, key) in &found.unasked {
            decided.finish(&self.flow, *at, key, refused(&value, &rule, None), None);
        }
        Ok(())
    }

    /// What an item that came to the keeper carries.
    fn carried(&self, key: &ItemKey) -> Result<Option<Payload>, EngineError> {
        for producer in self.gate.keeper_feeds(&self.flow) {
            if let Some(output) = self.store.output(&producer, key)? {
                return Ok(Some(output.payload));
            }
        }
        tracing::warn!("item {} waits for what it carries to be made again", key.id.short());
        Ok(None)
    }
}
