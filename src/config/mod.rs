//! Configuration files to typed values; every fault is reported at once, with file and line.
//!
//! A run has two files: the run file (`configs/*.yaml`) and the pipeline file that it names (`pipelines/*.yaml`).
//! [`load`] reads both, with environment variables expanded and `--set` overrides applied.

use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use crate::model::graph::Graph;
use crate::model::params::{Documented, Fault, Node, Place};

mod budget;
mod env;
mod export;
mod forms;
mod gate;
mod llm;
mod overrides;
mod pipeline;
pub mod reference;
mod run;
mod slurm;
mod telemetry;
mod telemetry_targets;
mod yaml;

pub use budget::BudgetConfig;
pub use env::Lookup;
pub use gate::GateConfig;
pub use llm::{Concurrency, EMBEDDED_MODEL, Endpoint, LlmConfig, Provider, StructuredOutput};
pub use overrides::HELP as OVERRIDES_HELP;
pub use pipeline::{Kinds, PipelineDoc, StageEntry};
pub use run::{Environment, RunConfig, StoreConfig};
pub use slurm::{ServerConfig, SlurmConfig};
pub use telemetry::TelemetryConfig;
pub use telemetry_targets::TelemetryTargets;

use overrides::{Override, Target};

/// Both files, read and checked.
#[derive(Clone, Debug)]
pub struct Loaded<P> {
    /// The run.
    pub run: RunConfig,
    /// The pipeline.
    pub pipeline: PipelineDoc<P>,
    /// The pipeline's graph; [`Graph::declared`] points into the pipeline's stages.
    pub graph: Graph,
    /// What is not wrong but looks so, to be shown to people.
    pub warnings: Vec<Fault>,
    /// Every value that was asked for, those of stages by the stages' names.
    pub documented: Vec<Documented>,
}

/// A configuration with faults.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", render(.faults))]
pub struct ConfigError {
    /// The faults, by file and line; at least one.
    pub faults: Vec<Fault>,
}

fn render(faults: &[Fault]) -> String {
    let mut lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    lines.push(match faults.len() {
        1 => "1 fault: nothing was started".into(),
        n => format!("{n} faults: nothing was started"),
    });
    lines.join("\n")
}

/// Reads the run file at `path` and the pipeline file that it names. `overrides` are the values of `--set`, the
/// later ones winning.
///
/// # Errors
/// Every fault of the overrides and of both files.
pub fn load<K: Kinds>(path: &Path, overrides: &[String], kinds: &K) -> Result<Loaded<K::Params>, ConfigError> {
    load_with(path, overrides, kinds, &|name| std::env::var(name))
}

/// As [`load`], with environment variables from `lookup`.
///
/// # Errors
/// As [`load`].
pub fn load_with<K: Kinds>(
    path: &Path,
    overrides: &[String],
    kinds: &K,
    lookup: Lookup<'_>,
) -> Result<Loaded<K::Params>, ConfigError> {
    // What is wrong with the text of the files and overrides, and what is found in their values.
    let (mut faults, mut found) = (Vec::new(), Vec::new());
    let mut parsed = Vec::new();
    for text in overrides {
        match Override::parse(text, lookup) {
            Ok(parsed_override) => parsed.push(parsed_override),
            Err(wrong) => faults.extend(wrong),
        }
    }
    let (mut warnings, mut documented) = (Vec::new(), Vec::new());
    let mut read_all = || {
        let file = name_of(path);
        let nowhere = Place { file: Arc::clone(&file), line: 0 };
        let mut tree = read_tree(path, &file, &nowhere, lookup, &mut faults, &mut found)?;
        apply(&parsed, Target::Run, &mut tree, &mut faults);
        let run = run::read(&tree, path, &mut found, &mut warnings, &mut documented);
        if run.pipeline.as_os_str().is_empty() {
            return None;
        }
        let named_at = tree.get("pipeline").map_or(nowhere, Node::place);
        let file = name_of(&run.pipeline);
        let mut tree = read_tree(&run.pipeline, &file, &named_at, lookup, &mut faults, &mut found)?;
        apply(&parsed, Target::Pipeline, &mut tree, &mut faults);
        let stem = run.pipeline.file_stem().unwrap_or_default().to_string_lossy();
        let (pipeline, graph) = pipeline::read(&tree, &stem, kinds, &mut found, &mut documented)?;
        Some((run, pipeline, graph))
    };
    match read_all() {
        Some((run, pipeline, graph)) if faults.is_empty() && found.is_empty() => {
            Ok(Loaded { run, pipeline, graph, warnings, documented })
        }
        _ => Err(ConfigError { faults: settle(faults, found) }),
    }
}

/// All faults by file and line, each once, without those `found` that only follow from a variable that could not be
/// expanded.
fn settle(mut faults: Vec<Fault>, mut found: Vec<Fault>) -> Vec<Fault> {
    found.retain(|f| !(f.message.contains("${") && faults.iter().any(|fault| fault.place == f.place)));
    faults.extend(found);
    faults.sort();
    faults.dedup();
    faults
}

fn apply(overrides: &[Override], target: Target, tree: &mut Node, faults: &mut Vec<Fault>) {
    for one in overrides.iter().filter(|one| one.target == target) {
        faults.extend(one.apply(tree).err());
    }
}

/// Reads a file; what keeps it from being read is blamed on `named_at`.
fn read_tree(
    path: &Path,
    file: &Arc<str>,
    named_at: &Place,
    lookup: Lookup<'_>,
    faults: &mut Vec<Fault>,
    found: &mut Vec<Fault>,
) -> Option<Node> {
    let problem = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => "it is a folder, not a file".into(),
        Ok(meta) if meta.len() > yaml::MAX_BYTES as u64 => {
            format!("it has {} bytes; a configuration has at most {}", meta.len(), yaml::MAX_BYTES)
        }
        Ok(_) => match std::fs::read(path) {
            Ok(bytes) => return yaml::parse(file, &bytes, lookup, faults),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "there is no such file".into(),
        Err(error) => error.to_string(),
    };
    found.push(Fault { place: named_at.clone(), message: format!("cannot read {}: {problem}", path.display()) });
    None
}

fn name_of(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

#[cfg(test)]
mod tests;
