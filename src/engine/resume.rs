//! What stands in the store at the start of an attempt, and how it gets back into the flow, a page at a time.
//!
//! Every pending entry knows the epoch in which it became pending. The feeders below deliver those up to the epoch
//! at which this attempt began; whatever becomes pending later is delivered through the channels by whoever
//! committed it. So each item is delivered once, with nothing to remember in memory.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc::Sender;

use super::gate::Entrance;
use super::progress::Progress;
use super::runtime::{EngineError, Flow};
use super::shutdown::Stop;
use super::worker::Delivery;
use crate::model::payload::Document;
use crate::model::record::{Change, Epoch, ItemKey, NewItem, Output, PendingItem};
use crate::model::store::{Commit, Store};
use crate::model::{Fingerprint, Item, ItemId, Lineage, Payload, StageKey};

/// Records read at once.
const PAGE: usize = 256;
/// The meta value that lists the edges whose consumers know all their producer's outputs. Without it, the next run
/// offers every output to every consumer again.
pub const ACTIVE_EDGES: &str = "active_edges";

/// Makes sure that each stage knows every output of the stages that feed it, and returns the epoch at which the
/// attempt begins. There is something to do only after the graph or a fingerprint changed: then the outputs already
/// made by the stages above become pending in the new name space.
pub(super) async fn seed_edges(flow: &Flow, store: &dyn Store, commit: &dyn Commit) -> Result<Epoch, EngineError> {
    let active = store.meta(ACTIVE_EDGES)?.unwrap_or_default();
    let known: HashSet<&[u8]> = active.chunks_exact(32).collect();
    let mut now = Vec::new();
    for (producer, consumer) in flow.edges() {
        let mut edge = [0; 32];
        edge[..16].copy_from_slice(&producer.0);
        edge[16..].copy_from_slice(&consumer.0);
        now.extend_from_slice(&edge);
        if known.contains(&edge[..]) {
            continue;
        }
        let mut after: Option<ItemKey> = None;
        loop {
            let page = store.outputs(&producer, after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            commit.commit(page.into_iter().map(|(key, _)| Change::Seed { producer, consumer, key }).collect()).await?;
        }
    }
    // Only now: a kill before this seeds again, which changes nothing where an item is known already.
    if now != active {
        commit.commit(vec![Change::Meta { name: ACTIVE_EDGES.into(), value: Some(now) }]).await?;
    }
    Ok(store.epoch())
}

/// Streams what was pending at the start into every stage that other stages feed, the furthest stage first.
pub(super) async fn feed_pending(
    flow: &Flow,
    store: &dyn Store,
    stop: &Stop,
    senders: &[Sender<Delivery>],
    until: Epoch,
    entrance: Option<&Entrance>,
) -> Result<(), EngineError> {
    for at in (0..flow.nodes.len()).rev() {
        if flow.nodes[at].from_source {
            continue;
        }
        match (&flow.gate, entrance) {
            (Some(gate), Some(entrance)) if gate.delivers_to(at) => {
                bring_documents(flow, at, store, stop, until, entrance, at == gate.keeper).await?;
            }
            (Some(gate), Some(entrance)) if gate.below[at] => {
                feed_stage(flow, at, store, stop, &senders[at], until, &HashSet::new(), Some(entrance)).await?;
            }
            _ => feed_stage(flow, at, store, stop, &senders[at], until, &HashSet::new(), None).await?,
        }
    }
    Ok(())
}

/// Brings to the gate every document that had something pending in a stage that the gate delivers to. What came to the
/// last stage alone waits for no passage: the gate looks at it at once.
async fn bring_documents(
    flow: &Flow,
    at: usize,
    store: &dyn Store,
    stop: &Stop,
    until: Epoch,
    entrance: &Entrance,
    at_once: bool,
) -> Result<(), EngineError> {
    let mut after: Option<ItemKey> = None;
    let mut brought = None;
    loop {
        let page = store.pending(&flow.key(at), after.as_ref(), until, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        for item in page {
            let document = item.key.lineage.root();
            if brought.replace(document) == Some(document) {
                continue;
            }
            if at_once {
                entrance.quiet.look_at(document);
            } else if !entrance.bring(document, stop).await {
                return Ok(());
            }
        }
    }
}

/// Streams what was pending at the start in the stages that the source feeds, and that the source has not shown
/// again: documents that are no longer among the input.
pub(super) async fn feed_entry_rest(
    flow: &Flow,
    store: &dyn Store,
    stop: &Stop,
    senders: &[Sender<Delivery>],
    until: Epoch,
    delivered: &HashSet<ItemId>,
) -> Result<(), EngineError> {
    for at in (0..flow.nodes.len()).rev() {
        if flow.nodes[at].from_source {
            feed_stage(flow, at, store, stop, &senders[at], until, delivered, None).await?;
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the feeder sits between all parts of the engine")]
async fn feed_stage(
    flow: &Flow,
    at: usize,
    store: &dyn Store,
    stop: &Stop,
    sender: &Sender<Delivery>,
    until: Epoch,
    except: &HashSet<ItemId>,
    entrance: Option<&Entrance>,
) -> Result<(), EngineError> {
    let (stage, priority) = (flow.key(at), flow.nodes[at].depth);
    let mut after: Option<ItemKey> = None;
    loop {
        let page = store.pending(&stage, after.as_ref(), until, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        for PendingItem { key, producer } in page {
            if except.contains(&key.id) {
                continue;
            }
            let Some(output) = store.output(&producer, &key)? else {
                // Lost with a damaged part of the database; the stage above, reopened by a repair, makes it again.
                tracing::warn!(
                    "item {} of stage `{}` waits for what it carries to be made again",
                    key.id.short(),
                    flow.nodes[at].name
                );
                continue;
            };
            let payload = output.payload;
            let ticket = entrance.map(|entrance| entrance.quiet.ticket(key.lineage.root()));
            let item = Item { key, payload, priority };
            if !deliver(sender, Delivery { item, ticket }, stop).await {
                return Ok(());
            }
        }
    }
}

/// Sends unless the run stops; returns whether it was sent.
async fn deliver(sender: &Sender<Delivery>, delivery: Delivery, stop: &Stop) -> bool {
    tokio::select! {
        biased;
        () = stop.wait() => false,
        sent = sender.send(delivery) => sent.is_ok(),
    }
}

/// Brings the input's documents into the flow: new ones are admitted, those pending since before are delivered with
/// the place where they lie now, the rest is passed over. Returns the old pending ones that were delivered.
#[expect(clippy::too_many_arguments, reason = "the feeder sits between all parts of the engine")]
pub(super) async fn feed_source<S>(
    flow: &Flow,
    store: &dyn Store,
    commit: &dyn Commit,
    stop: &Stop,
    progress: &Progress,
    senders: &[Sender<Delivery>],
    documents: S,
    until: Epoch,
) -> Result<HashSet<ItemId>, EngineError>
where
    S: Stream<Item = Result<Document, String>> + Send + Unpin,
{
    let entries: Vec<usize> = (0..flow.nodes.len()).filter(|at| flow.nodes[*at].from_source).collect();
    let consumers: Vec<StageKey> = entries.iter().map(|at| flow.key(*at)).collect();
    let producer = Fingerprint::source().key();
    let mut delivered = HashSet::new();
    // Whatever is ready is admitted in one commit.
    let mut batches = documents.ready_chunks(64);
    loop {
        let batch = tokio::select! {
            biased;
            () = stop.wait() => return Ok(delivered),
            batch = batches.next() => batch,
        };
        let Some(batch) = batch else { break };
        let mut admit = Vec::new();
        let mut items: Vec<(Item, Vec<usize>)> = Vec::new();
        for document in batch {
            let document = document.map_err(EngineError::Source)?;
            progress.documents_seen.fetch_add(1, Ordering::Relaxed);
            let id = ItemId::document(&document.sha256);
            let key = ItemKey { lineage: Lineage::document(&document.sha256), id };
            let known = store.output(&producer, &key)?;
            let document = match &known {
                // Known under this name; only where it lies may have changed.
                Some(Output { payload: Payload::Document(kept), .. }) => {
                    Document { path: document.path, ..kept.clone() }
                }
                _ => document,
            };
            let item = Item { key: key.clone(), payload: Payload::Document(document), priority: 0 };
            if known.is_none() {
                let new = NewItem { key, parent: None, payload: item.payload.clone() };
                admit.push(Change::Admit { producer, consumers: consumers.clone(), item: new });
                items.push((item, entries.clone()));
                continue;
            }
            let mut waiting = Vec::new();
            for at in &entries {
                if store.pending_since(&flow.key(*at), &key)?.is_some_and(|since| since <= until) {
                    waiting.push(*at);
                }
            }
            if !waiting.is_empty() {
                delivered.insert(id);
                items.push((item, waiting));
            }
        }
        let mut epoch = None;
        if !admit.is_empty() {
            epoch = Some(commit.commit(admit).await?);
        }
        for (item, to) in items {
            for at in to {
                let since = store.pending_since(&flow.key(at), &item.key)?;
                if since != epoch && since.is_none_or(|since| since > until) {
                    continue;
                }
                let item = Item { priority: flow.nodes[at].depth, ..item.clone() };
                if !deliver(&senders[at], Delivery { item, ticket: None }, stop).await {
                    return Ok(delivered);
                }
            }
        }
    }
    progress.source_ended.store(true, Ordering::Relaxed);
    Ok(delivered)
}
