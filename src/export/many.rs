//! Several states read as one: the shares of a corpus give the rows that one state over the whole corpus would give.
//!
//! A document is read from one state alone. Where two hold it, that is the one in which its name sorts first, as one
//! run over both would have met it first. Nothing is held in memory but which documents lie elsewhere than their share
//! says.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::ids::{BlobId, DocumentHash, RequestKey, StageKey};
use crate::model::record::{
    Change, Ending, Epoch, ItemKey, JournalEntry, ModelCounts, Output, PendingItem, StageCounts,
};
use crate::model::store::{Audit, Store};
use crate::model::text::{ExtractedText, TextStore};
use crate::model::{Fingerprint, Payload, StoreError};
use crate::sources::Shard;

/// Records read at once from each state while they are merged.
const PAGE: usize = 64;

/// One of the states.
pub struct Part {
    /// Its records.
    pub store: Arc<dyn Store>,
    /// Its documents' texts.
    pub texts: Arc<dyn TextStore>,
    /// The share that it holds, if it holds one.
    pub shard: Option<Shard>,
}

/// The states as one, for reading: a [`Store`] that takes no commits, and a [`TextStore`] that takes no texts.
pub struct Many {
    parts: Vec<Part>,
    /// By the number of the share, the part that holds it.
    holders: Vec<usize>,
    /// Documents that lie elsewhere than `holders` says.
    elsewhere: HashMap<DocumentHash, usize>,
    duplicates: u64,
    outputs: Mutex<Option<Merge>>,
    /// The part that was read last: a text that is asked for next lies there.
    last: AtomicUsize,
}

/// Outputs of one producer, from all parts, in lineage order.
struct Merge {
    producer: StageKey,
    /// What was given last.
    given: Option<ItemKey>,
    ahead: Vec<Ahead>,
}

/// What was read ahead of one part.
#[derive(Default)]
struct Ahead {
    after: Option<ItemKey>,
    records: VecDeque<(ItemKey, Output)>,
    ended: bool,
}

impl Merge {
    fn new(parts: usize, producer: StageKey, after: Option<&ItemKey>) -> Self {
        let ahead = || Ahead { after: after.cloned(), ..Ahead::default() };
        Self { producer, given: after.cloned(), ahead: (0..parts).map(|_| ahead()).collect() }
    }

    /// The next record of all, and the part that it comes from.
    fn next(&mut self, parts: &[Part]) -> Result<Option<(usize, ItemKey, Output)>, StoreError> {
        for (ahead, part) in self.ahead.iter_mut().zip(parts) {
            if ahead.records.is_empty() && !ahead.ended {
                let page = part.store.outputs(&self.producer, ahead.after.as_ref(), PAGE)?;
                ahead.ended = page.len() < PAGE;
                ahead.after = page.last().map(|(key, _)| key.clone()).or(ahead.after.take());
                ahead.records = page.into();
            }
        }
        let fronts = self.ahead.iter().enumerate();
        let first = fronts.filter_map(|(at, ahead)| Some((&ahead.records.front()?.0, at))).min().map(|(_, at)| at);
        Ok(first.and_then(|at| self.ahead[at].records.pop_front().map(|(key, output)| (at, key, output))))
    }
}

impl Many {
    /// Reads the list of documents of every state once, to find those that lie in several, or elsewhere than their share
    /// says.
    ///
    /// # Errors
    /// If a state cannot be read.
    pub fn new(parts: Vec<Part>) -> Result<Self, StoreError> {
        let count = parts.iter().filter_map(|part| part.shard).map(Shard::count).max().unwrap_or(1);
        let mut holders = vec![0; count as usize];
        for (at, part) in parts.iter().enumerate() {
            if let Some(holder) = part.shard.and_then(|shard| holders.get_mut(shard.index() as usize)) {
                *holder = at;
            }
        }
        let mut many = Self {
            parts,
            holders,
            elsewhere: HashMap::new(),
            duplicates: 0,
            outputs: Mutex::default(),
            last: AtomicUsize::new(0),
        };
        let mut merge = Merge::new(many.parts.len(), Fingerprint::source().key(), None);
        let mut current: Option<(DocumentHash, String, usize)> = None;
        while let Some((at, key, output)) = merge.next(&many.parts)? {
            let Payload::Document(document) = output.payload else { continue };
            let hash = key.lineage.root();
            current = Some(match current.take() {
                Some((same, name, holder)) if same == hash => {
                    many.duplicates += 1;
                    if document.name < name { (hash, document.name, at) } else { (same, name, holder) }
                }
                before => {
                    many.settle(before.as_ref());
                    (hash, document.name, at)
                }
            });
        }
        many.settle(current.as_ref());
        Ok(many)
    }

    fn settle(&mut self, found: Option<&(DocumentHash, String, usize)>) {
        if let Some((hash, _, at)) = found
            && self.expected(hash) != *at
        {
            self.elsewhere.insert(*hash, *at);
        }
    }

    /// How many documents lie in a state although another one gives them.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    fn expected(&self, hash: &DocumentHash) -> usize {
        self.holders[Shard::of(hash, self.holders.len() as u32) as usize]
    }

    /// The part that gives a document.
    fn home(&self, hash: &DocumentHash) -> usize {
        self.elsewhere.get(hash).copied().unwrap_or_else(|| self.expected(hash))
    }

    fn store_of(&self, hash: &DocumentHash) -> &dyn Store {
        let home = self.home(hash);
        self.last.store(home, Ordering::Relaxed);
        self.parts[home].store.as_ref()
    }

    /// Reads from all parts and gives the first of all; for what is read seldom.
    fn first_of_all<T>(
        &self,
        limit: usize,
        key: impl Fn(&T) -> &ItemKey,
        read: impl Fn(&dyn Store) -> Result<Vec<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            all.extend(
                read(part.store.as_ref())?.into_iter().filter(|item| self.home(&key(item).lineage.root()) == at),
            );
        }
        all.sort_by(|a, b| key(a).cmp(key(b)));
        all.truncate(limit);
        Ok(all)
    }

    fn read_only(what: &str) -> StoreError {
        StoreError::Io {
            action: format!("cannot {what}"),
            place: "several states at once".into(),
            detail: "they are open for reading as one".into(),
        }
    }
}

impl Store for Many {
    fn commit(&self, _: &[Change]) -> Result<Epoch, StoreError> {
        Err(Self::read_only("commit to"))
    }

    fn epoch(&self) -> Epoch {
        self.parts.iter().map(|part| part.store.epoch()).max().unwrap_or_default()
    }

    fn pending(
        &self,
        stage: &StageKey,
        after: Option<&ItemKey>,
        until: Epoch,
        limit: usize,
    ) -> Result<Vec<PendingItem>, StoreError> {
        self.first_of_all(limit, |item: &PendingItem| &item.key, |store| store.pending(stage, after, until, limit))
    }

    fn pending_since(&self, stage: &StageKey, key: &ItemKey) -> Result<Option<Epoch>, StoreError> {
        self.store_of(&key.lineage.root()).pending_since(stage, key)
    }

    fn endings(
        &self,
        stage: &StageKey,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Ending)>, StoreError> {
        self.first_of_all(limit, |item: &(ItemKey, Ending)| &item.0, |store| store.endings(stage, after, limit))
    }

    fn ending(&self, stage: &StageKey, key: &ItemKey) -> Result<Option<Ending>, StoreError> {
        self.store_of(&key.lineage.root()).ending(stage, key)
    }

    fn outputs(
        &self,
        producer: &StageKey,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Output)>, StoreError> {
        let mut slot = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut merge = match slot.take() {
            Some(merge) if merge.producer == *producer && merge.given.as_ref() == after => merge,
            _ => Merge::new(self.parts.len(), *producer, after),
        };
        let mut page = Vec::new();
        while page.len() < limit
            && let Some((at, key, output)) = merge.next(&self.parts)?
        {
            if self.home(&key.lineage.root()) == at {
                merge.given = Some(key.clone());
                page.push((key, output));
            }
        }
        *slot = Some(merge);
        Ok(page)
    }

    fn outputs_of(
        &self,
        producer: &StageKey,
        document: &DocumentHash,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Output)>, StoreError> {
        self.store_of(document).outputs_of(producer, document, after, limit)
    }

    fn endings_of(
        &self,
        stage: &StageKey,
        document: &DocumentHash,
        after: Option<&ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Ending)>, StoreError> {
        self.store_of(document).endings_of(stage, document, after, limit)
    }

    fn output(&self, producer: &StageKey, key: &ItemKey) -> Result<Option<Output>, StoreError> {
        self.store_of(&key.lineage.root()).output(producer, key)
    }

    fn answer(&self, key: &RequestKey) -> Result<Option<JournalEntry>, StoreError> {
        for part in &self.parts {
            if let Some(entry) = part.store.answer(key)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The sum over the states; a document that lies in two counts twice.
    fn counts(&self, stage: &StageKey) -> Result<StageCounts, StoreError> {
        let mut sum = StageCounts::default();
        for part in &self.parts {
            let counts = part.store.counts(stage)?;
            sum.admitted += counts.admitted;
            sum.done += counts.done;
            sum.rejected += counts.rejected;
            sum.dead += counts.dead;
            sum.emitted += counts.emitted;
        }
        Ok(sum)
    }

    /// The sum over the states.
    fn model_counts(&self) -> Result<ModelCounts, StoreError> {
        let mut sum = ModelCounts::default();
        for part in &self.parts {
            let counts = part.store.model_counts()?;
            sum.calls += counts.calls;
            sum.usage += counts.usage;
        }
        Ok(sum)
    }

    /// None: a named value belongs to one state.
    fn meta(&self, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn audit(&self) -> Result<Audit, StoreError> {
        Err(Self::read_only("audit"))
    }
}

impl TextStore for Many {
    fn put(&self, _: &ExtractedText) -> Result<BlobId, StoreError> {
        Err(Self::read_only("store a text in"))
    }

    fn get(&self, id: &BlobId) -> Result<Arc<ExtractedText>, StoreError> {
        let last = self.last.load(Ordering::Relaxed);
        let first = self.parts[last].texts.get(id);
        if first.is_ok() {
            return first;
        }
        let mut others = self.parts.iter().enumerate().filter(|(at, _)| *at != last);
        others.find_map(|(_, part)| part.texts.get(id).ok()).map_or(first, Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ItemId;
    use crate::model::ids::Lineage;
    use crate::model::payload::{Document, DocumentFormat};
    use crate::model::record::NewItem;
    use crate::store::MemoryStore;

    struct NoTexts;

    impl TextStore for NoTexts {
        fn put(&self, _: &ExtractedText) -> Result<BlobId, StoreError> {
            Err(Many::read_only("test"))
        }

        fn get(&self, _: &BlobId) -> Result<Arc<ExtractedText>, StoreError> {
            Err(Many::read_only("test"))
        }
    }

    fn part(documents: &[(&str, &str)], shard: Option<Shard>) -> Part {
        let store = MemoryStore::new();
        let stage = Fingerprint::of(&[("kind", b"test")]).key();
        for (name, content) in documents {
            let sha256 = DocumentHash::of(content.as_bytes());
            let key = ItemKey { lineage: Lineage::document(&sha256), id: ItemId::document(&sha256) };
            let document =
                Document { name: (*name).into(), sha256, path: String::new(), bytes: 1, format: DocumentFormat::Text };
            store
                .commit(&[Change::Admit {
                    producer: Fingerprint::source().key(),
                    consumers: vec![stage],
                    item: NewItem { key, parent: None, payload: Payload::Document(document) },
                }])
                .unwrap();
        }
        Part { store: Arc::new(store), texts: Arc::new(NoTexts), shard }
    }

    fn names(many: &Many, page: usize) -> Vec<String> {
        let mut names = Vec::new();
        let mut after = None;
        loop {
            let found = many.outputs(&Fingerprint::source().key(), after.as_ref(), page).unwrap();
            let Some((last, _)) = found.last() else { return names };
            after = Some(last.clone());
            names.extend(found.iter().map(|(_, output)| output.payload.document_name().to_owned()));
        }
    }

    #[test]
    fn shares_read_like_the_whole_whatever_the_page() {
        let documents: Vec<(String, String)> = (0..300).map(|n| (format!("d{n}"), format!("text {n}"))).collect();
        let all: Vec<(&str, &str)> = documents.iter().map(|(n, c)| (n.as_str(), c.as_str())).collect();
        let whole = Many::new(vec![part(&all, None)]).unwrap();
        let share = |index| {
            let shard = Shard::new(index, 3).unwrap();
            let own: Vec<_> =
                all.iter().copied().filter(|(_, c)| shard.holds(&DocumentHash::of(c.as_bytes()))).collect();
            part(&own, Some(shard))
        };
        // In any order.
        let shares = Many::new(vec![share(2), share(0), share(1)]).unwrap();
        assert_eq!((shares.duplicates(), shares.elsewhere.len()), (0, 0));
        for page in [1, 7, 64, 1000] {
            assert_eq!(names(&shares, page), names(&whole, page));
        }
        let stage = Fingerprint::of(&[("kind", b"test")]).key();
        assert_eq!(shares.counts(&stage).unwrap().admitted, 300);
        assert_eq!(
            shares.pending(&stage, None, Epoch(u64::MAX), 5).unwrap(),
            whole.pending(&stage, None, Epoch(u64::MAX), 5).unwrap()
        );
        assert!(shares.commit(&[]).is_err());
    }

    #[test]
    fn content_in_two_states_is_read_once_by_the_name_that_sorts_first() {
        let a = part(&[("m.txt", "same"), ("x.txt", "only a")], None);
        let b = part(&[("b.txt", "same"), ("y.txt", "only b")], None);
        let many = Many::new(vec![a, b]).unwrap();
        assert_eq!(many.duplicates(), 1);
        let mut found = names(&many, 2);
        found.sort();
        assert_eq!(found, ["b.txt", "x.txt", "y.txt"]);
        let twice = Many::new(vec![part(&[("m.txt", "same")], None), part(&[("m.txt", "same")], None)]).unwrap();
        assert_eq!((names(&twice, 9), twice.home(&DocumentHash::of(b"same"))), (vec!["m.txt".to_owned()], 0));
    }
}
