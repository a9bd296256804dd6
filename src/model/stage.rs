//! The trait of a stage: an operator of the graph.

use std::collections::BTreeMap;

use futures::future::BoxFuture;

use super::error::StageError;
use super::ids::ItemId;
use super::payload::{Payload, PayloadKind};
use super::record::{ItemKey, Rejection};
use super::target::Target;

/// An item in the hands of a stage.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its place and identity.
    pub key: ItemKey,
    /// What it carries; of the kind that the stage accepts.
    pub payload: Payload,
    /// How far along the graph the stage is; model slots go to the furthest first.
    pub priority: u32,
}

impl Item {
    /// Its identity.
    pub fn id(&self) -> &ItemId {
        &self.key.id
    }
}

/// What a stage made of an item.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Children in order; their ids follow from their ordinals.
    Emit {
        /// The children.
        children: Vec<Payload>,
        /// What a person should know.
        warnings: Vec<String>,
        /// Counts for the manifest.
        notes: BTreeMap<String, u64>,
    },
    /// A check refused the item.
    Reject(Rejection),
}

impl Outcome {
    /// Children without warnings or notes.
    pub fn emit(children: Vec<Payload>) -> Self {
        Self::Emit { children, warnings: Vec::new(), notes: BTreeMap::new() }
    }
}

/// An operator of the graph. It keeps no state and may be cancelled at any await: the engine owns retries of
/// transient faults, commits, metrics and shutdown. Given the same item and the same model answers, it gives
/// the same outcome.
pub trait Stage: Send + Sync {
    /// The kind of payload it takes.
    fn accepts(&self) -> PayloadKind;

    /// The kind of payload of its children.
    fn emits(&self) -> PayloadKind;

    /// All that determines its results besides its input and its code: parameters, prompts, model. Two stages with
    /// equal determinants give equal results. What only determines speed does not belong here.
    fn determinants(&self) -> String;

    /// The most children that it makes of one item; `None` if there is no such bound.
    fn most_children(&self) -> Option<u32> {
        None
    }

    /// How many of its items are wanted of each document, if it is the stage that says so.
    fn target(&self) -> Option<Target> {
        None
    }

    /// Processes one item.
    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>>;
}
