//! The trait of the store. Reads come in pages, so that nothing is ever wholly in memory.

use super::error::StoreError;
use super::ids::{ItemId, RequestKey, StageKey};
use super::record::{Change, Ending, Epoch, ItemKey, JournalEntry, ModelCounts, Output, PendingItem, StageCounts};

/// Where items, answers and accounts are kept.
///
/// One writer at a time calls [`Store::commit`]; readers may read meanwhile.
pub trait Store: Send + Sync {
    /// Applies the changes in order, all or none, and returns once they are on disk.
    ///
    /// # Errors
    /// [`StoreError::IllegalTransition`] if an item that is not pending is finished, or one that is neither dead
    /// nor done is reopened: then nothing of the batch is applied. After any other error the caller must stop.
    fn commit(&self, changes: &[Change]) -> Result<Epoch, StoreError>;

    /// The number of the last commit; 0 in a new store.
    fn epoch(&self) -> Epoch;

    /// At most `limit` pending items of `stage` in lineage order, those behind `after` only, and only those that
    /// became pending in a commit up to `until`.
    fn pending(
        &self,
        stage: &StageKey,
        after: Option<&ItemKey>,
        until: Epoch,
        limit: usize,
    ) -> Result<Vec<PendingItem>, StoreError>;

    /// The commit in which an item became pending in `stage`; `None` if it is not pending there.
    fn pending_since(&self, stage: &StageKey, key: &ItemKey) -> Result<Option<Epoch>, StoreError>;

    /// At most `limit` ended items of `stage` in lineage order, those behind `after` only.
    fn endings(
        &self,
        stage: &StageKey,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Ending)>, StoreError>;

    /// How `stage` ended one item; `None` if it is pending or unknown.
    fn ending(&self, stage: &StageKey, key: &ItemKey) -> Result<Option<Ending>, StoreError>;

    /// At most `limit` outputs of `producer` in lineage order, those behind `after` only.
    fn outputs(
        &self,
        producer: &StageKey,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Output)>, StoreError>;

    /// The outputs of `producer` that come from one document and lie behind `after`, at most `limit`, in lineage order.
    fn outputs_of(
        &self,
        producer: &StageKey,
        document: &super::ids::DocumentHash,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Output)>, StoreError>;

    /// The ended items of `stage` that come from one document and lie behind `after`, at most `limit`, in lineage order.
    fn endings_of(
        &self,
        stage: &StageKey,
        document: &super::ids::DocumentHash,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Ending)>, StoreError>;

    /// One output of `producer`.
    fn output(&self, producer: &StageKey, key: &ItemKey) -> Result<Option<Output>, StoreError>;

    /// The answer to a request, if it was ever received.
    fn answer(&self, key: &RequestKey) -> Result<Option<JournalEntry>, StoreError>;

    /// The account of a stage, kept with every commit.
    fn counts(&self, stage: &StageKey) -> Result<StageCounts, StoreError>;

    /// The account of model answers, kept with every commit.
    fn model_counts(&self) -> Result<ModelCounts, StoreError>;

    /// A named value of the run itself.
    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Reads every record and reports what is damaged or does not add up; see [`Audit`].
    fn audit(&self) -> Result<Audit, StoreError>;
}

/// What reading every record found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    /// Records read, of all kinds.
    pub records: u64,
    /// Records that cannot be read back, each with what it is.
    pub damaged: Vec<DamagedRecord>,
    /// The accounts as recounted from the records.
    pub recounted: std::collections::BTreeMap<StageKey, StageCounts>,
    /// The model account as recounted from the journal.
    pub recounted_model: ModelCounts,
}

/// A record that cannot be read back.
#[derive(Clone, Debug, PartialEq)]
pub struct DamagedRecord {
    /// `ending`, `output`, `pending`, `journal`, `counts` or `meta`.
    pub kind: &'static str,
    /// The stage it belongs to, if its key can be read.
    pub stage: Option<StageKey>,
    /// The item, if its key can be read.
    pub item: Option<ItemKey>,
    /// The raw database key, in hexadecimal.
    pub raw_key: String,
    /// How the damage shows.
    pub detail: String,
}

/// The right of one process to write a state, checked before every commit.
pub trait Lease: Send + Sync {
    /// Fails with [`StoreError::Lease`] once another process has taken the state over.
    fn check(&self) -> Result<(), StoreError>;
}

/// The parent's place, if `key` has one whose id is `parent`.
pub fn parent_key(key: &ItemKey, parent: &ItemId) -> Option<ItemKey> {
    key.lineage.parent().map(|lineage| ItemKey { lineage, id: *parent })
}

/// The way to the one writer. A commit waits until its epoch is on disk.
pub trait Commit: Send + Sync {
    /// Hands changes to the writer; they are applied in one epoch, all or none.
    ///
    /// # Errors
    /// As [`Store::commit`]; after an error nothing more is accepted.
    fn commit(&self, changes: Vec<Change>) -> futures::future::BoxFuture<'_, Result<Epoch, StoreError>>;
}
