//! The projection of finished records into files people read. Nothing here changes the store, and apart from the
//! manifest nothing in these files depends on the clock, the host or the number of attempts.

mod card;
pub mod dataset;
mod documents;
mod edited;
pub mod encounters;
mod file;
mod formats;
pub mod generation;
mod given_up;
mod jsonl;
pub mod manifest;
pub mod many;
pub mod minhash;
pub mod near_duplicates;
mod parquet;
pub mod rows;
mod splits;
mod squad;
mod statistics;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use self::documents::DocumentEntry;
pub use self::file::WrittenFile;
pub use self::given_up::given_up;
use crate::model::payload::Document;
use crate::model::plan::Plan;
use crate::model::record::{Ending, ItemKey, StageCounts};
use crate::model::store::Store;
use crate::model::text::TextStore;
use crate::model::{Fingerprint, Payload, StageKey, StoreError};

/// Records read at once.
const PAGE: usize = 256;

/// Why an export failed; the files of an earlier export stay as they were.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be written.
    #[error("cannot write {}: {}", path.display(), given_up::in_words(error))]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// As [`ExportError::Write`], before the export was put in force.
    #[error("{error}. {advice}")]
    GivenUp {
        /// What could not be written.
        error: Box<Self>,
        /// What became of the export before, and what to do.
        advice: String,
    },
    /// A file of the export itself cannot be read back.
    #[error("cannot read {} back: {detail}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Another process exports to the same folder.
    #[error("another export to {} is under way: wait for its end, or give another --out", out.display())]
    Busy {
        /// The results folder.
        out: PathBuf,
    },
    /// Something that no export wrote stands where one must be written.
    #[error("{} was not written by an export and would be replaced: move it away, or give another --out", path.display())]
    Occupied {
        /// What stands there.
        path: PathBuf,
    },
}

/// What is exported from where.
pub struct Export<'a> {
    /// The graph, for its stages' names and name spaces.
    pub plan: &'a Plan,
    /// The records.
    pub store: &'a dyn Store,
    /// The documents' texts.
    pub texts: &'a dyn TextStore,
    /// Asked before each file gets its name: an error if the files are no longer this process's to write.
    pub held: &'a dyn Fn() -> Result<(), StoreError>,
}

/// What an export found and wrote.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// The files by name.
    pub files: BTreeMap<String, WrittenFile>,
    /// Accepted pairs.
    pub accepted: u64,
    /// Pairs that all stages accepted and that the check `new` refused; they count in `rejected` too.
    pub near_duplicates: u64,
    /// Rejected items by check.
    pub rejected: BTreeMap<String, u64>,
    /// Dead letters by stage and label.
    pub dead: BTreeMap<String, u64>,
    /// Documents whose extraction failed.
    pub documents_failed: u64,
    /// Documents in all.
    pub documents: u64,
    /// The documents, in the order of the dataset.
    pub entries: Vec<DocumentEntry>,
    /// Sums of the stages' notes, as `stage.note`.
    pub notes: BTreeMap<String, u64>,
    /// The accounts, by stage, in the order of the graph.
    pub counts: Vec<(String, StageCounts)>,
    /// Sums of the marks of accepted pairs: clarity, accuracy, relevance, overall; and how many pairs have marks.
    pub score_sums: [u64; 4],
    /// Accepted pairs with marks.
    pub scored: u64,
}

impl Exported {
    /// The average marks of accepted pairs: clarity, accuracy, relevance, overall; `None` without marks.
    pub fn average_scores(&self) -> Option<[f64; 4]> {
        (self.scored > 0).then(|| self.score_sums.map(|sum| (sum as f64 / self.scored as f64 * 100.0).round() / 100.0))
    }

    /// The average marks by name.
    pub fn average_scores_by_name(&self) -> Option<BTreeMap<&'static str, f64>> {
        let names = ["clarity", "accuracy", "relevance", "overall"];
        self.average_scores().map(|average| names.into_iter().zip(average).collect())
    }
}

impl Export<'_> {
    /// Writes `dataset.jsonl`, `rejected.jsonl`, `dead_letters.jsonl` and `documents/` to `out`. Each file is written
    /// beside its place and put there whole.
    ///
    /// # Errors
    /// If the store cannot be read or a file cannot be written.
    pub fn write(&self, out: &Path) -> Result<Exported, ExportError> {
        let mut exported = Exported::default();
        let documents = self.documents()?;
        exported.documents = documents.len() as u64;
        std::fs::create_dir_all(out).map_err(|error| ExportError::Write { path: out.into(), error })?;
        file::sweep(out);
        file::sweep(&out.join("documents"));
        documents::write(self, out, &documents, &mut exported)?;
        jsonl::write(self, out, &documents, &mut exported)?;
        for (at, node) in self.plan.nodes.iter().enumerate() {
            exported.counts.push((node.name.clone(), self.store.counts(&self.plan.key(at))?));
        }
        Ok(exported)
    }

    /// All documents, by name: the order of every file. Names are few beside everything else, so they are held.
    fn documents(&self) -> Result<Vec<Document>, StoreError> {
        let mut documents = Vec::new();
        self.each_made(&Fingerprint::source().key(), |_, payload| {
            if let Payload::Document(document) = payload {
                documents.push(document);
            }
            Ok::<(), StoreError>(())
        })?;
        documents.sort_by(|a, b| (&a.name, a.sha256).cmp(&(&b.name, b.sha256)));
        Ok(documents)
    }

    /// Calls `each` with every output that `producer` made, in lineage order.
    fn each_made<E: From<StoreError>>(
        &self,
        producer: &StageKey,
        mut each: impl FnMut(ItemKey, Payload) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut after: Option<ItemKey> = None;
        loop {
            let page = self.store.outputs(producer, after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, output) in page {
                each(key, output.payload)?;
            }
        }
    }

    /// Calls `each` with every output that `producer` made of one document, in lineage order.
    fn each_output<E: From<StoreError>>(
        &self,
        producer: &StageKey,
        document: &Document,
        mut each: impl FnMut(ItemKey, Payload) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut after: Option<ItemKey> = None;
        loop {
            let page = self.store.outputs_of(producer, &document.sha256, after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, output) in page {
                each(key, output.payload)?;
            }
        }
    }

    /// Calls `each` with every item of one document that `stage` ended, in lineage order.
    fn each_ending<E: From<StoreError>>(
        &self,
        stage: &StageKey,
        document: &Document,
        mut each: impl FnMut(ItemKey, Ending) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut after: Option<ItemKey> = None;
        loop {
            let page = self.store.endings_of(stage, &document.sha256, after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, ending) in page {
                each(key, ending)?;
            }
        }
    }

    /// What an item of stage `at` carries: an output of one of the stages that feed it.
    fn payload_of(&self, at: usize, key: &ItemKey) -> Result<Option<Payload>, StoreError> {
        for producer in self.plan.producers(at) {
            if let Some(output) = self.store.output(&producer, key)? {
                return Ok(Some(output.payload));
            }
        }
        Ok(None)
    }
}
