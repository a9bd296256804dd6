//! The run file: what is run, where it is kept, and how fast it goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::budget::{self, BudgetConfig};
use super::forms::{duration, is_plain_name, optional_path, paths};
use super::gate::{GateConfig, read_gate};
use super::llm::{LlmConfig, read_llm};
use super::slurm::{SlurmConfig, read_slurm};
use super::telemetry::{self, TelemetryConfig};
use super::telemetry_targets::{TelemetryTargets, read_targets};
use crate::model::dataset::ExportOptions;
use crate::model::params::{Documented, Fault, Node, Reader};

/// A run, as its file and the command line describe it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// The pipeline file.
    pub pipeline: PathBuf,
    /// Files and folders of documents; empty if none are given here.
    pub input: Vec<PathBuf>,
    /// A file that lists documents, one path a line.
    pub manifest: Option<PathBuf>,
    /// The folder of the state.
    pub state: PathBuf,
    /// The folder of the results.
    pub out: PathBuf,
    /// Where this runs, for the benchmark record.
    pub environment: Environment,
    /// The name of the run in every row; derived from what determines the results if `None`.
    pub run_id: Option<String>,
    /// The language model.
    pub llm: LlmConfig,
    /// How long work in flight may go on after the first signal to stop.
    pub shutdown_grace: Duration,
    /// The share of items, 0 to 1, that may become dead letters before the run counts as failed.
    pub max_failure_ratio: f64,
    /// What the results are written as.
    pub export: ExportOptions,
    /// The store.
    pub store: StoreConfig,
    /// The batch job that `qaflow slurm` writes.
    pub slurm: SlurmConfig,
    /// What is measured, and where it is read.
    pub telemetry: TelemetryConfig,
    /// How much GPU time the run may use; `None`: any.
    pub budget: Option<BudgetConfig>,
    /// Where metrics go.
    pub targets: TelemetryTargets,
    /// The rules by which `qaflow bench gate` decides.
    pub gate: GateConfig,
}

/// Where a run takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// One machine.
    Local,
    /// A cluster, under a scheduler.
    Cluster,
}

impl Environment {
    /// Its name in configuration and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cluster => "cluster",
        }
    }
}

/// How the store is run; nothing here changes results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The most memory that the database's cache takes, in MiB.
    pub cache_mb: u32,
    /// How long the lease's holder may be silent before another process may take over.
    pub lease: Duration,
}

/// Reads the run file's tree. `file` is the run file's path, from whose stem the names of state and results come if
/// they are not given. Faults, warnings and the rows of the reference are added to.
pub(super) fn read(
    tree: &Node,
    file: &Path,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<Fault>,
    documented: &mut Vec<Documented>,
) -> RunConfig {
    let stem = file.file_stem().map_or_else(|| "run".into(), |stem| stem.to_string_lossy().into_owned());
    let mut reader = Reader::new(tree, "", faults, documented);
    let meaning = "the pipeline file: the graph of stages";
    let pipeline = optional_path(&mut reader, "pipeline", "required", meaning);
    if !reader.has("pipeline") {
        reader.fault("pipeline", format!("pipeline is missing: {meaning}"));
    }
    let input = paths(
        &mut reader,
        tree,
        "input",
        "files and folders of .pdf, .md and .txt documents; the command line may give others instead",
    );
    let manifest = optional_path(
        &mut reader,
        "manifest",
        "none",
        "a file that lists documents, one path a line, in place of `input`",
    );
    if manifest.is_some() && !input.is_empty() {
        reader.fault("manifest", "give either `input` or `manifest`, not both: it must be clear what the corpus is");
    }
    let state = optional_path(
        &mut reader,
        "state",
        "state/NAME in the working directory, NAME being this file's name without its ending",
        "the folder of the state: every item's checkpoint, and every answer of the model",
    )
    .unwrap_or_else(|| Path::new("state").join(&stem));
    let out = optional_path(&mut reader, "out", "out/NAME in the working directory", "the folder of the results")
        .unwrap_or_else(|| Path::new("out").join(&stem));
    if state == out {
        reader.fault("out", "`state` and `out` must be different folders");
    }
    let environment = reader
        .choice(
            "environment",
            "local",
            &[("local", Environment::Local), ("cluster", Environment::Cluster)],
            "where this runs: goes into the benchmark record",
        )
        .unwrap_or(Environment::Local);
    let run_id = reader.optional_text(
        "run_id",
        "derived from what determines the results",
        "the name of the run, in every row: letters, digits and `._-`, at most 100",
    );
    if let Some(id) = &run_id
        && !is_plain_name(id)
    {
        reader.fault("run_id", "run_id must be letters, digits and `._-`, at most 100, with a letter or digit first");
    }
    let max_failure_ratio = reader.float(
        "max_failure_ratio",
        0.05,
        0.0..=1.0,
        "the share of documents and items that may become dead letters; above it the run ends with exit code 3",
    );
    let shutdown_grace = reader.section("shutdown", |r| {
        duration(
            r,
            "grace",
            Duration::from_secs(20),
            Duration::ZERO,
            "how long work in flight may go on after the first signal to stop; keep it below the time until the \
             scheduler kills (Slurm: KillWait, 30 s as it comes)",
        )
    });
    let export = reader.section("export", super::export::read);
    let store = reader.section("store", |r| StoreConfig {
        cache_mb: small(r.int("cache_mb", 16, 8..=65_536, "the most memory that the database's cache takes, in MiB")),
        lease: duration(
            r,
            "lease_seconds",
            Duration::from_secs(60),
            Duration::from_secs(5),
            "how long the process that holds the state may be silent before another may take over",
        ),
    });
    let slurm = reader.section("slurm", read_slurm);
    let (targets, telemetry) = reader.section("telemetry", |r| (read_targets(r), telemetry::read(r)));
    let budget = reader.section("budget", budget::read);
    let gate = reader.section("gate", read_gate);
    let llm = reader.section("llm", |r| read_llm(r, tree.get("llm")));
    reader.finish();
    let llm = llm.with_endpoints(tree.get("llm"), faults, warnings, documented);
    RunConfig {
        pipeline: pipeline.unwrap_or_default(),
        input,
        manifest,
        state,
        out,
        environment,
        run_id,
        llm,
        shutdown_grace,
        max_failure_ratio,
        export,
        store,
        slurm,
        telemetry,
        budget,
        targets,
        gate,
    }
}

/// A number that a reader has checked to be small, as `u32`.
pub(super) fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
