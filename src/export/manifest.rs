//! `manifest.json`: what a run was, what came out, and how to check it. The one file that knows the clock.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::file::write_whole;
use crate::model::ledger::{AttemptRecord, LedgerTotals};
use crate::model::plan::Plan;

use super::{DocumentEntry, ExportError, Exported, WrittenFile};

/// What the program knows about a run besides its records.
#[derive(Clone, Debug, Serialize)]
pub struct RunFacts {
    /// Whether every item has ended.
    pub finished: bool,
    /// When the state was begun (RFC 3339), if known.
    pub state_created: Option<String>,
    /// When this was written (RFC 3339).
    pub written: String,
    /// How many processes have worked on the state.
    pub attempts: u64,
    /// Answers received from the model, and their tokens.
    pub model_calls: u64,
    /// Prompt tokens of those answers.
    pub prompt_tokens: u64,
    /// Completion tokens of those answers.
    pub completion_tokens: u64,
    /// What each attempt held, used and brought about, and the sums.
    pub ledger: LedgerFacts,
    /// What else a reader must know, such as that a demo model was used.
    pub remarks: Vec<String>,
}

/// The ledger in the manifest.
#[derive(Clone, Debug, Serialize)]
pub struct LedgerFacts {
    /// Sums over all attempts.
    pub totals: LedgerTotals,
    /// The attempts, the oldest first.
    pub attempts: Vec<AttemptRecord>,
}

#[derive(Serialize)]
struct Manifest<'a> {
    format: u32,
    program: &'static str,
    version: &'static str,
    run_id: &'a str,
    pipeline: &'a str,
    provider: &'a str,
    model: &'a str,
    config_file: &'a str,
    config: &'a serde_json::Value,
    fingerprints: BTreeMap<String, String>,
    #[serde(flatten)]
    facts: &'a RunFacts,
    documents: Documents<'a>,
    stages: BTreeMap<&'a str, StageRow>,
    stage_order: Vec<&'a str>,
    pairs_accepted: u64,
    average_scores: Option<BTreeMap<&'static str, f64>>,
    rejected_by_check: &'a BTreeMap<String, u64>,
    dead_by_reason: &'a BTreeMap<String, u64>,
    notes: &'a BTreeMap<String, u64>,
    files: &'a BTreeMap<String, WrittenFile>,
}

#[derive(Serialize)]
struct Documents<'a> {
    total: u64,
    failed: u64,
    with_warnings: Vec<Warned<'a>>,
    dead: Vec<Warned<'a>>,
}

#[derive(Serialize)]
struct Warned<'a> {
    name: &'a str,
    sha256: &'a str,
    messages: Vec<&'a str>,
}

#[derive(Serialize)]
struct StageRow {
    admitted: u64,
    done: u64,
    rejected: u64,
    dead: u64,
    pending: u64,
    emitted: u64,
}

/// Writes `manifest.json`, the last file of an export.
///
/// # Errors
/// If it cannot be written.
pub fn write(out: &Path, plan: &Plan, facts: &RunFacts, exported: &Exported) -> Result<(), ExportError> {
    let warned = |entry: &'_ DocumentEntry| !entry.warnings.is_empty();
    let manifest = Manifest {
        format: 1,
        program: "qaflow",
        version: env!("CARGO_PKG_VERSION"),
        run_id: &plan.run_id,
        pipeline: &plan.pipeline,
        provider: &plan.provider,
        model: &plan.model,
        config_file: &plan.config_file,
        config: &plan.config,
        fingerprints: plan.fingerprints(),
        facts,
        documents: Documents {
            total: exported.documents,
            failed: exported.documents_failed,
            with_warnings: exported
                .entries
                .iter()
                .filter(|entry| warned(entry))
                .map(|entry| Warned {
                    name: &entry.name,
                    sha256: &entry.sha256,
                    messages: entry.warnings.iter().map(String::as_str).collect(),
                })
                .collect(),
            dead: exported
                .entries
                .iter()
                .filter(|entry| entry.state == "dead")
                .map(|entry| Warned {
                    name: &entry.name,
                    sha256: &entry.sha256,
                    messages: entry.reason.as_deref().into_iter().collect(),
                })
                .collect(),
        },
        stages: exported
            .counts
            .iter()
            .map(|(name, counts)| {
                let row = StageRow {
                    admitted: counts.admitted,
                    done: counts.done,
                    rejected: counts.rejected,
                    dead: counts.dead,
                    pending: counts.pending(),
                    emitted: counts.emitted,
                };
                (name.as_str(), row)
            })
            .collect(),
        stage_order: exported.counts.iter().map(|(name, _)| name.as_str()).collect(),
        pairs_accepted: exported.accepted,
        average_scores: exported.average_scores_by_name(),
        rejected_by_check: &exported.rejected,
        dead_by_reason: &exported.dead,
        notes: &exported.notes,
        files: &exported.files,
    };
    let path = out.join("manifest.json");
    let mut json = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| ExportError::Write { path: path.clone(), error: error.into() })?;
    json.push(b'\n');
    write_whole(&path, &json)
}
