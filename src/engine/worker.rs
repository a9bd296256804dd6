//! One stage's runner: takes items from its channel, processes a bounded number at once, commits, sends on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::gate::{Entrance, Ticket};
use super::progress::{Counted, Progress};
use super::runtime::{EngineError, Flow};
use super::shutdown::{Stop, StopReason};
use crate::model::record::{Change, DeadLetter, Done, Ending, ItemKey, NewItem};
use crate::model::store::{Commit, Store};
use crate::model::{ErrorClass, Item, ItemId, Outcome, Payload, StageError};
use crate::telemetry::{log, metrics};

/// First and longest wait before an item is tried again after a transient fault that reached the engine. (Faults of
/// the model are waited out below, in the model's own client.)
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// An item on its way to a stage.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) item: Item,
    /// Of an item of a document that is asked in rounds.
    pub(super) ticket: Option<Arc<Ticket>>,
}

/// What all runners share.
pub(super) struct Shared {
    pub(super) flow: Arc<Flow>,
    pub(super) store: Arc<dyn Store>,
    pub(super) commit: Arc<dyn Commit>,
    pub(super) stop: Stop,
    pub(super) progress: Arc<Progress>,
}

/// Runs stage `at` until its channel is closed and empty, or the run stops. Holding `edges` keeps the channels of
/// the stages below open, and holding `entrance` the gate; they close when this returns.
pub(super) async fn run_stage(
    shared: Arc<Shared>,
    at: usize,
    mut items: mpsc::Receiver<Delivery>,
    edges: Vec<mpsc::Sender<Delivery>>,
    entrance: Option<Entrance>,
) -> Result<(), EngineError> {
    let node = &shared.flow.nodes[at];
    let progress = &shared.progress.stages[at];
    progress.seen.1.store(items.max_capacity(), Ordering::Relaxed);
    let mut tasks: JoinSet<Result<(), EngineError>> = JoinSet::new();
    loop {
        progress.in_flight.store(tasks.len(), Ordering::Relaxed);
        progress.seen.0.store(items.len(), Ordering::Relaxed);
        tokio::select! {
            biased;
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => flatten(ended)?,
            () = shared.stop.wait() => break,
            item = items.recv(), if tasks.len() < node.concurrency.max(1) => match item {
                None => break,
                Some(delivery) => {
                    let item = &delivery.item;
                    let span = log::item_span(&node.name, &item.key.id.short(), item.payload.document_name());
                    let (shared, edges, entrance) = (Arc::clone(&shared), edges.clone(), entrance.clone());
                    let task = async move { process(&shared, at, delivery, &edges, entrance.as_ref()).await };
                    tasks.spawn(task.instrument(span));
                }
            },
        }
    }
    // Nothing more is taken. What is in hand is finished; what lies in the channel is pending in the store.
    while let Some(ended) = tasks.join_next().await {
        progress.in_flight.store(tasks.len(), Ordering::Relaxed);
        flatten(ended)?;
    }
    progress.in_flight.store(0, Ordering::Relaxed);
    progress.seen.0.store(0, Ordering::Relaxed);
    Ok(())
}

fn flatten(ended: Result<Result<(), EngineError>, tokio::task::JoinError>) -> Result<(), EngineError> {
    match ended {
        Ok(result) => result,
        Err(join) if join.is_cancelled() => Ok(()),
        Err(join) => Err(EngineError::Internal(format!("a stage's task failed, please report it: {join}"))),
    }
}

/// Takes one item to its end.
async fn process(
    shared: &Shared,
    at: usize,
    delivery: Delivery,
    edges: &[mpsc::Sender<Delivery>],
    entrance: Option<&Entrance>,
) -> Result<(), EngineError> {
    let Delivery { item, ticket } = delivery;
    let node = &shared.flow.nodes[at];
    let began = Instant::now();
    metrics::item_taken(&node.name);
    let Some(result) = attempt(shared, at, &item).await else { return Ok(()) };
    let (ending, children) = match result {
        Ok(Outcome::Emit { children, warnings, notes }) => {
            let children = number(&item.key, &node.identity, children);
            match children.iter().try_for_each(crate::store::fits) {
                Ok(()) => (Ending::Done(Done { children: children.len() as u32, warnings, notes }), children),
                Err(error) => {
                    let (label, reason) = ("too_large".to_owned(), error.to_string());
                    (Ending::Dead(DeadLetter { label, reason, attempts: 1, raw: Vec::new() }), Vec::new())
                }
            }
        }
        Ok(Outcome::Reject(rejection)) => (Ending::Rejected(rejection), Vec::new()),
        Err(StageError { class: ErrorClass::Fatal, label, reason, .. }) => {
            tracing::error!(label, "{reason}");
            shared.progress.errors.note(ErrorClass::Fatal, &node.name, &label, &reason);
            shared.stop.request(StopReason::Fatal(reason));
            return Ok(());
        }
        Err(StageError { label, reason, attempts, raw, .. }) => {
            shared.progress.errors.note(ErrorClass::Poison, &node.name, &label, &reason);
            // What the world says of a file is fit for the log; what is said of the model's answers quotes them.
            if matches!(item.payload, Payload::Document(_)) {
                tracing::warn!(label, "given up: {reason}");
            } else {
                tracing::warn!(label, "given up: `qaflow failures show {}` tells why", item.key.id.short());
                tracing::debug!(label, "given up: {reason}");
            }
            (Ending::Dead(DeadLetter { label, reason, attempts, raw }), Vec::new())
        }
    };
    let ended = match &ending {
        Ending::Done(done) => metrics::Ended::Done(u64::from(done.children)),
        Ending::Rejected(rejection) => metrics::Ended::Rejected(rejection.check.clone()),
        Ending::Dead(letter) => metrics::Ended::Dead(letter.label.clone()),
    };
    let consumers = node.consumers.iter().map(|to| shared.flow.key(*to)).collect();
    let below = children.clone();
    let change = Change::Finish { stage: shared.flow.key(at), key: item.key.clone(), ending, children, consumers };
    let progress = &shared.progress.stages[at];
    let epoch = {
        let _committing = Counted::in_(&progress.committing);
        shared.commit.commit(vec![change]).await?
    };
    let took = began.elapsed();
    metrics::item_ended(&node.name, &ended, took);
    progress.ended.fetch_add(1, Ordering::Relaxed);
    progress.children.fetch_add(below.len() as u64, Ordering::Relaxed);
    progress.children_squared.fetch_add((below.len() * below.len()) as u64, Ordering::Relaxed);
    progress.busy_micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);

    let _sending = Counted::in_(&progress.sending);
    let gate = shared.flow.gate.as_ref();
    if let (Some(entrance), Some(gate)) = (entrance, gate)
        && (at == gate.from || below.is_empty())
    {
        // What waits for its turn is delivered by the gate. A document may be complete with an item that has no
        // children, too.
        entrance.bring(item.key.lineage.root(), &shared.stop).await;
    }
    for child in below {
        for (edge, to) in edges.iter().zip(&node.consumers) {
            if gate.is_some_and(|gate| gate.delivers_to(*to)) {
                continue;
            }
            // An item done anew makes children that the stages below know already: done, or waiting for the feeder.
            if shared.store.pending_since(&shared.flow.key(*to), &child.key)? != Some(epoch) {
                continue;
            }
            let priority = shared.flow.nodes[*to].depth;
            let item = Item { key: child.key.clone(), payload: child.payload.clone(), priority };
            tokio::select! {
                biased;
                () = shared.stop.wait() => return Ok(()),
                sent = edge.send(Delivery { item, ticket: ticket.clone() }) => if sent.is_err() {
                    // The stage below has ended early, which it does only when the run stops.
                    return Ok(());
                },
            }
        }
    }
    Ok(())
}

/// Processes an item, waiting out transient faults; `None` if the run stops first, and the item stays pending.
async fn attempt(shared: &Shared, at: usize, item: &Item) -> Option<Result<Outcome, StageError>> {
    let node = &shared.flow.nodes[at];
    let mut wait = RETRY_FIRST;
    loop {
        match node.stage.process(item).await {
            Err(error) if error.class == ErrorClass::Interrupted => return None,
            Err(error) if error.class == ErrorClass::Transient => {
                metrics::item_retried(&node.name, &error.label);
                shared.progress.errors.note(ErrorClass::Transient, &node.name, &error.label, &error.reason);
                tracing::warn!(label = error.label, "trying again in {wait:?}: {}", error.reason);
                tokio::select! {
                    () = shared.stop.wait() => return None,
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(RETRY_LONGEST);
            }
            result => return Some(result),
        }
    }
}

/// Gives children their places and ids, which follow from the parent, the stage and the ordinal alone.
pub(super) fn number(
    parent: &ItemKey,
    fingerprint: &crate::model::Fingerprint,
    children: Vec<crate::model::Payload>,
) -> Vec<NewItem> {
    children
        .into_iter()
        .enumerate()
        .map(|(ordinal, payload)| {
            let ordinal = ordinal as u32;
            let id = ItemId::derive(&parent.id, fingerprint, ordinal);
            NewItem { key: ItemKey { lineage: parent.lineage.child(ordinal), id }, parent: Some(parent.id), payload }
        })
        .collect()
}
