//! Where a document stands that is asked in rounds: found from the store alone, so that it is the same after a kill.
//!
//! The walk goes from the document down. An item that is done says how many children it has, and their keys follow from
//! its own; so nothing is read but the endings of the document's own items.

use super::runtime::{EngineError, Flow};
use crate::model::record::{Ending, ItemKey};
use crate::model::store::Store;
use crate::model::target::{Next, Standing, Target, spread};
use crate::model::{DocumentHash, ItemId, Lineage, StageKey, StoreError};

/// The part of a graph that is asked in rounds.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The stage whose children wait until it is their turn.
    pub from: usize,
    /// The stages that take them; all that they are fed by is `from`.
    pub held: Vec<usize>,
    /// The last stage, which keeps as many of what it is given as are wanted.
    pub keeper: usize,
    /// What is wanted of each document.
    pub target: Target,
    /// The most children that the held stages together make of one item.
    pub most_each: u32,
    /// By node: whether it is `from` or feeds it.
    pub above: Vec<bool>,
    /// By node: whether it is a held stage or fed by one.
    pub below: Vec<bool>,
}

/// What is to be done for a document.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Whether all stages above are done with it; if not, nothing else is known.
    pub(super) complete: bool,
    /// Whether everything was decided: with what stands below, the document has ended.
    pub(super) ended: bool,
    /// Items of the rounds begun that wait for a held stage, each with its place in the order and the stage.
    pub(super) open: Vec<(u32, usize, ItemKey)>,
    /// How many passages were begun.
    pub(super) asked: u32,
    /// Items that the keeper keeps.
    pub(super) keep: Vec<ItemKey>,
    /// Items that the keeper refuses, and why.
    pub(super) surplus: Vec<ItemKey>,
    /// Items that are never asked, each with its stage.
    pub(super) unasked: Vec<(usize, ItemKey)>,
    /// Why the rounds ended, and how the document stood then.
    pub(super) end: Option<(Next, Standing)>,
}

/// What became of one held item.
#[derive(Default)]
struct Branch {
    /// Held stages in which it is pending.
    waiting: Vec<usize>,
    /// Whether a held stage has ended it otherwise than by the target's rule.
    begun: bool,
    /// Items further down that are pending.
    open: u64,
    /// Children of the held stages.
    candidates: u32,
    /// Items that came to the keeper, with what it did.
    arrived: Vec<(ItemKey, Option<bool>)>,
}

/// The check's name in a rejection.
pub(super) const CHECK: &str = "target";

/// Surveys one document.
pub(super) fn survey(
    flow: &Flow,
    gate: &Gate,
    store: &dyn Store,
    document: &DocumentHash,
) -> Result<Survey, EngineError> {
    let Some(held) = held_items(flow, gate, store, document)? else { return Ok(Survey::default()) };
    let order = spread(held.len() as u32);
    let mut found = Survey { complete: true, ..Survey::default() };
    let mut standing = Standing { passages: held.len() as u32, ..Standing::default() };
    let mut arrived: Vec<(ItemKey, Option<bool>)> = Vec::new();
    let end = loop {
        let more = match gate.target.next(&standing, gate.most_each) {
            Next::Ask(more) => more,
            end => break end,
        };
        // What came to the keeper in the rounds before is kept: the target was not met by it.
        let before = arrived.len();
        let mut open = 0;
        for place in standing.asked..standing.asked + more {
            let key = &held[order[place as usize] as usize];
            let branch = branch(flow, gate, store, key)?;
            open += branch.open + branch.waiting.len() as u64;
            found.open.extend(branch.waiting.into_iter().map(|node| (place, node, key.clone())));
            standing.candidates += branch.candidates;
            arrived.extend(branch.arrived);
        }
        standing.asked += more;
        if open > 0 {
            found.asked = standing.asked;
            arrived.truncate(before);
            found.keep = arrived.into_iter().filter(|(_, done)| done.is_none()).map(|(key, _)| key).collect();
            return Ok(found);
        }
        standing.accepted = arrived.len() as u32;
    };
    found.asked = standing.asked;
    // Passages behind the last round are never asked. A retried failure can have made an earlier round give more than
    // it gave before, so that some were asked already: those are finished, and what they gave counts last.
    let mut open = 0;
    for place in standing.asked..standing.passages {
        let key = &held[order[place as usize] as usize];
        let branch = branch(flow, gate, store, key)?;
        open += branch.open;
        arrived.extend(branch.arrived);
        if branch.begun {
            open += branch.waiting.len() as u64;
            found.open.extend(branch.waiting.into_iter().map(|node| (place, node, key.clone())));
        } else {
            found.unasked.extend(branch.waiting.into_iter().map(|node| (node, key.clone())));
        }
    }
    let mut kept = arrived.iter().filter(|(_, done)| *done == Some(true)).count();
    for (key, done) in arrived {
        if done.is_some() {
            continue;
        }
        if kept < gate.target.accepted as usize {
            kept += 1;
            found.keep.push(key);
        } else {
            found.surplus.push(key);
        }
    }
    found.ended = open == 0;
    found.end = Some((end, standing));
    Ok(found)
}

/// All items that wait for, or have passed, the held stages, in lineage order; `None` while a stage above has work on
/// the document.
fn held_items(
    flow: &Flow,
    gate: &Gate,
    store: &dyn Store,
    document: &DocumentHash,
) -> Result<Option<Vec<ItemKey>>, StoreError> {
    let root = ItemKey { lineage: Lineage::document(document), id: ItemId::document(document) };
    let entries = (0..flow.nodes.len()).filter(|at| gate.above[*at] && flow.nodes[*at].from_source);
    let mut open: Vec<(usize, ItemKey)> = entries.map(|at| (at, root.clone())).collect();
    let mut held = Vec::new();
    while let Some((at, key)) = open.pop() {
        match store.ending(&flow.key(at), &key)? {
            None => return Ok(None),
            Some(Ending::Done(done)) => {
                for child in children(flow, at, &key, done.children) {
                    let consumers = flow.nodes[at].consumers.iter().filter(|to| gate.above[**to]);
                    open.extend(consumers.map(|to| (*to, child.clone())));
                    if at == gate.from {
                        held.push(child);
                    }
                }
            }
            Some(_) => {}
        }
    }
    held.sort_unstable();
    Ok(Some(held))
}

/// Follows one held item down to the keeper.
fn branch(flow: &Flow, gate: &Gate, store: &dyn Store, key: &ItemKey) -> Result<Branch, StoreError> {
    let mut found = Branch::default();
    let mut open: Vec<(usize, ItemKey)> = Vec::new();
    let down = |at: usize, key: &ItemKey, n: u32, open: &mut Vec<(usize, ItemKey)>| {
        for child in children(flow, at, key, n) {
            open.extend(flow.nodes[at].consumers.iter().map(|to| (*to, child.clone())));
        }
    };
    for at in &gate.held {
        match store.ending(&flow.key(*at), key)? {
            None if store.pending_since(&flow.key(*at), key)?.is_some() => found.waiting.push(*at),
            // Its records are lost; `verify --repair` has it handed on again.
            None => {}
            Some(Ending::Done(done)) => {
                found.begun = true;
                found.candidates += done.children;
                down(*at, key, done.children, &mut open);
            }
            Some(Ending::Rejected(rejection)) if rejection.check == CHECK => {}
            Some(_) => found.begun = true,
        }
    }
    while let Some((at, key)) = open.pop() {
        let ending = store.ending(&flow.key(at), &key)?;
        if at == gate.keeper {
            found.arrived.push((key, ending.map(|ending| matches!(ending, Ending::Done(_)))));
            continue;
        }
        match ending {
            None => found.open += 1,
            Some(Ending::Done(done)) => down(at, &key, done.children, &mut open),
            Some(_) => {}
        }
    }
    found.arrived.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// The keys of an item's children.
fn children<'a>(flow: &'a Flow, at: usize, key: &'a ItemKey, n: u32) -> impl Iterator<Item = ItemKey> + 'a {
    let identity = flow.nodes[at].identity;
    (0..n).map(move |ordinal| ItemKey {
        lineage: key.lineage.child(ordinal),
        id: ItemId::derive(&key.id, &identity, ordinal),
    })
}

impl Gate {
    /// The name spaces whose outputs the keeper takes.
    pub(super) fn keeper_feeds(&self, flow: &Flow) -> Vec<StageKey> {
        flow.nodes[self.keeper].inputs.iter().map(|from| flow.key(*from)).collect()
    }

    /// Whether the gate, and nobody else, delivers to this stage.
    pub(super) fn delivers_to(&self, node: usize) -> bool {
        node == self.keeper || self.held.contains(&node)
    }
}
