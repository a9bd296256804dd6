//! The benchmark record: what one run did, on what, how fast and how well. One YAML file a record.
//!
//! `GB` are 2³⁰ bytes and `MB` 2²⁰ bytes, as GPU vendors count memory. What was not measured is `null` and has its
//! reason in `not_measured`, under its path.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::config::Environment;

/// The newest format that this program reads. A record without `format` was written by people.
pub const RECORD_FORMAT: u32 = 1;

/// The record of one run: the value of the key `benchmark_run`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The format of the record; 0 for one that people wrote.
    pub format: u32,
    /// Its name, and the file's: `<environment>_<description>_<date>`, as in `local_test_2025-11-04_001`.
    pub id: String,
    /// The day on which the run ended, `YYYY-MM-DD` in UTC.
    pub date: String,
    /// When its last attempt ended (RFC 3339); empty where only the day is known.
    pub ended: String,
    /// Where it took place; `None` where a record does not say.
    pub environment: Option<Environment>,
    /// The commit of the program, if it ran in or was built from a repository.
    pub commit_sha: Option<String>,
    /// The run file.
    pub config_file: Option<String>,
    /// What is counted: attempts of states.
    pub covers: Vec<Covered>,
    /// The rung of the ladder that it is, if it is one.
    pub rung: Option<Rung>,
    /// The experiment that it is a point of, if it is one; such records are in no total.
    pub experiment: Option<Experiment>,
    /// The machine.
    pub hardware: Hardware,
    /// The documents.
    pub dataset: Dataset,
    /// The language model.
    pub model: Model,
    /// What determined speed and results.
    pub configuration: Configuration,
    /// What came out, and what it took.
    pub results: Results,
    /// How good the pairs are.
    pub quality: Quality,
    /// What went wrong, grouped.
    pub issues: Issues,
    /// Why a value is `null`, by its path, as in `hardware.gpu_model`.
    pub not_measured: BTreeMap<String, String>,
}

/// Attempts of one state that a record counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Covered {
    /// The state's identity, which a move does not change.
    pub state_id: String,
    /// The state's folder when the record was made.
    pub state: String,
    /// Its first attempt that is counted, from 1.
    pub first_attempt: u64,
    /// Its last attempt that is counted.
    pub last_attempt: u64,
}

impl Covered {
    /// Whether it says which attempts it counts: they are numbered from 1, and the last is not below the first.
    pub fn is_range(&self) -> bool {
        (1..=self.last_attempt).contains(&self.first_attempt)
    }

    /// All attempts that it may count, from the first to the last, whichever of its limits is the lower one.
    pub fn span(&self) -> (u64, u64) {
        (self.first_attempt.min(self.last_attempt), self.first_attempt.max(self.last_attempt))
    }

    /// Whether both count, or may count, an attempt of the same state.
    pub fn overlaps(&self, other: &Self) -> bool {
        let ((first, last), (other_first, other_last)) = (self.span(), other.span());
        self.state_id == other.state_id && !self.state_id.is_empty() && first <= other_last && other_first <= last
    }
}

/// A rung of the ladder of growing batches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rung {
    /// The ladder's file, `ladder.json` beside its manifests.
    pub ladder: String,
    /// Its place in the ladder, from 1.
    pub position: u32,
    /// Its name, as in `05-batch-200`.
    pub name: String,
    /// Documents of its manifest, those of lower rungs included.
    pub documents: u64,
    /// Those of them that a rung below had already processed in the same state: not in this record's figures.
    pub reused: u64,
    /// Documents of the whole corpus that the ladder is of.
    pub corpus_documents: u64,
}

/// A point of an experiment (a sweep).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Experiment {
    /// The experiment's name.
    pub name: String,
    /// What was set, by configuration path.
    pub settings: BTreeMap<String, String>,
    /// Which repeat it is, from 1.
    pub repeat: u32,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// The GPUs' model; several different ones joined by ` + `.
    pub gpu_model: Option<String>,
    /// GPUs held at once.
    pub gpu_count: Option<u64>,
    /// Memory of one GPU in GB.
    pub gpu_vram_gb: Option<f64>,
    /// From where the GPU figures are: `nvml`, `configured` (held, not measured), `simulated`, `none`.
    pub gpu_source: Option<String>,
    /// Processor cores that the run could use.
    pub cpu_cores: Option<u64>,
    /// Main memory in GB.
    pub ram_gb: Option<f64>,
    /// The Slurm job, or several joined by a comma.
    pub job_id: Option<String>,
    /// The node, or several joined by a comma.
    pub node: Option<String>,
}

/// The documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dataset {
    /// Documents that ended within this record, failed ones included.
    pub pdfs_processed: Option<u64>,
    /// Those of them that failed.
    pub pdfs_failed: Option<u64>,
    /// The list of documents that the run was given, if it was one.
    pub manifest: Option<String>,
    /// Their extracted text in MB.
    pub markdown_size_mb: Option<f64>,
    /// Their pages.
    pub pages: Option<u64>,
    /// The file beside the record with one line a document; `None` without.
    pub documents_file: Option<String>,
}

/// The language model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    /// Its name.
    pub name: Option<String>,
    /// What served it, with its version, as in `vllm 0.33.0`.
    pub serving: Option<String>,
    /// Over how many GPUs each layer was split.
    pub tensor_parallel: Option<u64>,
    /// The weights: revision or checksum.
    pub checkpoint: Option<String>,
}

/// What determined speed and results.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// Target size of a chunk, in the unit of the pipeline (characters unless it says otherwise).
    pub chunk_size: Option<u64>,
    /// Pairs asked for each chunk.
    pub questions_per_chunk: Option<u64>,
    /// Requests in flight at most; `auto` where it was found by the program.
    pub concurrency_limit: Option<Limit>,
    /// What determines the results of the last stage, so that runs can be told to be alike.
    pub fingerprint: Option<String>,
}

/// A limit: a number or `auto`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Limit {
    /// Fixed.
    Number(u64),
    /// A word, such as `auto`.
    Word(String),
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Word(word) => f.write_str(word),
        }
    }
}

/// What came out, and what it took. All of it within this record: of rungs, the new documents only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Results {
    /// Time during which at least one process worked, in minutes.
    pub total_time_minutes: Option<f64>,
    /// Accepted pairs: rows of the dataset.
    pub qa_pairs_generated: Option<u64>,
    /// Pairs that all stages accepted and that the export refused because an earlier one says the same.
    pub near_duplicates_refused: Option<u64>,
    /// Accepted pairs a document.
    pub qa_pairs_per_pdf: Option<f64>,
    /// Minutes a document.
    pub avg_time_per_pdf_minutes: Option<f64>,
    /// Documents an hour.
    pub throughput_pdfs_per_hour: Option<f64>,
    /// GPUs held × hours, over all attempts.
    pub gpu_hours: Option<f64>,
    /// GPU-hours a document.
    pub gpu_hours_per_pdf: Option<f64>,
    /// Mean GPU utilisation, 0 to 100, weighted by GPU-time.
    pub avg_gpu_utilization_percent: Option<f64>,
    /// The most memory used of one GPU, in GB.
    pub max_gpu_memory_gb: Option<f64>,
    /// Mean resident memory of the process, in GB, weighted by time.
    pub avg_cpu_memory_gb: Option<f64>,
    /// The most resident memory of one process, in GB.
    pub max_cpu_memory_gb: Option<f64>,
    /// Processor time used, as a share of what was held, 0 to 100.
    pub job_efficiency_percent: Option<f64>,
    /// From where that is: `sacct`, or `own figures`.
    pub job_efficiency_source: Option<String>,
    /// Accepted pairs a GPU-hour.
    pub accepted_pairs_per_gpu_hour: Option<f64>,
    /// Tokens of the model's answers.
    pub tokens: Tokens,
    /// The share of prompt tokens that the server took from its prefix cache, 0 to 1.
    pub prefix_cache_hit_rate: Option<f64>,
    /// What failed, in percent.
    pub error_rates: ErrorRates,
    /// Processes that worked on it; one without interruption.
    pub attempts: Option<u64>,
    /// Electrical energy of the GPUs in kWh.
    pub energy_kwh: Option<f64>,
}

/// Tokens of the model's answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// Answers.
    pub calls: Option<u64>,
    /// Tokens of the prompts.
    pub prompt: Option<u64>,
    /// Those of them that came from the server's prefix cache.
    pub cached: Option<u64>,
    /// Tokens of the answers.
    pub completion: Option<u64>,
}

/// What failed, in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorRates {
    /// Of the documents, those that could not be read.
    pub documents_percent: Option<f64>,
    /// Of the items of each stage, those given up.
    pub dead_percent_by_stage: BTreeMap<String, f64>,
    /// Of the items of each stage, those that a check refused.
    pub rejected_percent_by_stage: BTreeMap<String, f64>,
}

/// How good the pairs are. Marks from 1 (worst) to 5 (best).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quality {
    /// Pairs that were rated.
    pub sample_size: Option<u64>,
    /// Mean mark.
    pub avg_clarity_score: Option<f64>,
    /// Mean mark.
    pub avg_accuracy_score: Option<f64>,
    /// Mean mark.
    pub avg_relevance_score: Option<f64>,
    /// Mean mark.
    pub avg_overall_score: Option<f64>,
    /// The share of rated pairs that were accepted, 0 to 1.
    pub overall_acceptance_rate: Option<f64>,
    /// Who rated.
    pub rated_by: Option<RatedBy>,
    /// How often each mark was given, from 1 to 5, by criterion; empty where only the means are known.
    pub marks: BTreeMap<String, [u64; 5]>,
}

/// Who rated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RatedBy {
    /// People.
    People,
    /// The judge model.
    Judge,
}

impl RatedBy {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::People => "people",
            Self::Judge => "judge",
        }
    }
}

/// What went wrong: `none`, a sentence, or a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Issues {
    /// `none`, or what people wrote.
    Text(String),
    /// Grouped by what it is.
    List(Vec<Issue>),
}

impl Default for Issues {
    fn default() -> Self {
        Self::Text("none".into())
    }
}

impl Issues {
    /// The issues one by one; `none` and nothing are no issue.
    pub fn list(&self) -> Vec<Issue> {
        match self {
            Self::List(list) => list.clone(),
            Self::Text(text) if matches!(text.trim(), "" | "none" | "None" | "no" | "-") => Vec::new(),
            Self::Text(text) => {
                vec![Issue { what: text.trim().into(), count: 1, critical: false, examples: Vec::new() }]
            }
        }
    }
}

/// One kind of thing that went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// What it is.
    pub what: String,
    /// How often.
    pub count: u64,
    /// Whether going on to a larger batch would be wrong.
    pub critical: bool,
    /// Up to three cases.
    pub examples: Vec<String>,
}

impl<'de> Deserialize<'de> for Issue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// People list sentences, the program maps.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Sentence(String),
            Map {
                what: String,
                #[serde(default = "once")]
                count: u64,
                #[serde(default)]
                critical: bool,
                #[serde(default)]
                examples: Vec<String>,
            },
        }
        fn once() -> u64 {
            1
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Sentence(what) => Self { what, count: 1, critical: false, examples: Vec::new() },
            Form::Map { what, count, critical, examples } => Self { what, count, critical, examples },
        })
    }
}

/// The quick form: what a person notes in a minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuickRecord {
    /// The record's id.
    pub run_id: String,
    /// The day.
    pub date: String,
    /// Documents.
    pub pdfs: Option<u64>,
    /// Minutes.
    pub time_minutes: Option<f64>,
    /// Accepted pairs.
    pub qa_pairs: Option<u64>,
    /// GPU-hours.
    pub gpu_hours: Option<f64>,
    /// Whether the quality is good enough; `None` if nobody knows.
    pub quality_ok: Option<bool>,
    /// What went wrong.
    pub issues: Issues,
}

/// One document of a record: a row of `<id>.documents.csv`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DocumentRow {
    /// Its content hash.
    pub sha256: String,
    /// Its name.
    pub name: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Pages; 0 if it could not be read.
    pub pages: u32,
    /// Characters of its text.
    pub chars: u64,
    /// Chunks.
    pub chunks: u64,
    /// Pairs written by the model.
    pub pairs_written: u64,
    /// Accepted pairs.
    pub pairs_accepted: u64,
    /// Items of it that were given up.
    pub dead: u64,
    /// `done`, `failed` or `open`.
    pub state: String,
    /// Model work by which time is shared out: see [`super::documents`].
    pub work: f64,
    /// Its share of the record's minutes.
    pub minutes: f64,
    /// Its share of the record's GPU-hours; empty where those are not known.
    pub gpu_hours: Option<f64>,
}
