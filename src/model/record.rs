//! What the store keeps of an item, and the steps that an item's life allows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{ItemId, Lineage, RequestKey, StageKey};
use super::llm::Completion;
use super::payload::{Payload, Usage};

/// A commit's number, counted over the whole life of a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// An item's place in the store: its lineage, then its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItemKey {
    /// Where it stands in the order of all items.
    pub lineage: Lineage,
    /// Its identity.
    pub id: ItemId,
}

/// How a stage ended an item. There is no record while an item is pending: the pending index holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ending {
    /// Its children are in the store.
    Done(Done),
    /// A check refused it.
    Rejected(Rejection),
    /// It was given up.
    Dead(DeadLetter),
}

impl Ending {
    /// `done`, `rejected` or `dead`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Rejected(_) => "rejected",
            Self::Dead(_) => "dead",
        }
    }
}

/// An item done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// How many children it has.
    pub children: u32,
    /// What a person should know, such as pages without text.
    pub warnings: Vec<String>,
    /// Counts for the manifest, such as `chunks_skipped_contents`.
    pub notes: BTreeMap<String, u64>,
}

/// An item that a check refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejection {
    /// The check's name, such as `quote_exists`.
    pub check: String,
    /// What was measured or found.
    pub value: String,
    /// The rule it broke, with its threshold.
    pub rule: String,
    /// All that was known of the item by then (the pair with its checks, or with its scores).
    pub evidence: Option<Box<Payload>>,
}

/// An item given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// A short label for counting.
    pub label: String,
    /// The reason, for people.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The raw model answers, newest last; cut where a record would be too large.
    pub raw: Vec<String>,
}

/// A child, or a document, that enters the flow.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    /// Its place.
    pub key: ItemKey,
    /// What it came from; a document has none.
    pub parent: Option<ItemId>,
    /// What it carries.
    pub payload: Payload,
}

/// An item as a stage's output keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// What it came from; a document has none.
    pub parent: Option<ItemId>,
    /// What it carries.
    pub payload: Payload,
}

/// An item that waits for a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingItem {
    /// Its place.
    pub key: ItemKey,
    /// The stage (or the source) that made it, whose outputs hold its payload.
    pub producer: StageKey,
}

/// One raw model answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The answer.
    pub completion: Completion,
}

/// The account of one stage. Always: admitted = done + rejected + dead + pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCounts {
    /// Items that ever entered.
    pub admitted: u64,
    /// Items done.
    pub done: u64,
    /// Items that a check refused.
    pub rejected: u64,
    /// Items given up.
    pub dead: u64,
    /// Children made.
    pub emitted: u64,
}

impl StageCounts {
    /// Items still to do.
    pub fn pending(&self) -> u64 {
        self.admitted.saturating_sub(self.ended())
    }

    /// Items that have ended, one way or another.
    pub fn ended(&self) -> u64 {
        self.done + self.rejected + self.dead
    }

    /// Both, each count by `of`.
    #[must_use]
    pub fn with(self, other: Self, of: fn(u64, u64) -> u64) -> Self {
        Self {
            admitted: of(self.admitted, other.admitted),
            done: of(self.done, other.done),
            rejected: of(self.rejected, other.rejected),
            dead: of(self.dead, other.dead),
            emitted: of(self.emitted, other.emitted),
        }
    }
}

impl ModelCounts {
    /// Both, each count by `of`.
    #[must_use]
    pub fn with(self, other: Self, of: fn(u64, u64) -> u64) -> Self {
        Self {
            calls: of(self.calls, other.calls),
            usage: Usage {
                prompt_tokens: of(self.usage.prompt_tokens, other.usage.prompt_tokens),
                completion_tokens: of(self.usage.completion_tokens, other.usage.completion_tokens),
                cached_tokens: of(self.usage.cached_tokens, other.usage.cached_tokens),
            },
        }
    }
}

/// The account of model answers, each counted once, when it was committed to the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCounts {
    /// Answers received and kept.
    pub calls: u64,
    /// Their tokens.
    pub usage: Usage,
}

/// One change of the store. A batch of them is applied as a whole or not at all.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "changes live for one commit; boxing each would cost more than it saves")]
pub enum Change {
    /// Documents (or any output of `producer`) enter the flow: the output is written, and it becomes pending in
    /// each of the consumers that does not know it yet.
    Admit {
        /// The stage or source whose output it is.
        producer: StageKey,
        /// The stages that take it.
        consumers: Vec<StageKey>,
        /// The item.
        item: NewItem,
    },
    /// An existing output of `producer` becomes pending in `consumer`, unless it is known there already.
    Seed {
        /// The stage or source whose output it is.
        producer: StageKey,
        /// The stage that takes it.
        consumer: StageKey,
        /// The item's place.
        key: ItemKey,
    },
    /// A pending item of `stage` ends; its children become pending in the consumers.
    Finish {
        /// The stage.
        stage: StageKey,
        /// The item's place.
        key: ItemKey,
        /// How it ended.
        ending: Ending,
        /// Its children; only an item that is done has any.
        children: Vec<NewItem>,
        /// The stages that take the children.
        consumers: Vec<StageKey>,
    },
    /// A dead or damaged item of `stage` becomes pending again.
    Reopen {
        /// The stage.
        stage: StageKey,
        /// The item's place.
        key: ItemKey,
        /// The stage (or source) whose output it is.
        producer: StageKey,
    },
    /// A model answer is kept. An answer that is already there stays as it is.
    Journal {
        /// The request.
        key: RequestKey,
        /// The answer.
        entry: JournalEntry,
    },
    /// A named value of the run itself, such as its identity.
    Meta {
        /// Its name.
        name: String,
        /// Its value; `None` removes it.
        value: Option<Vec<u8>>,
    },
}
