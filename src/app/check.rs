//! `qaflow check`: runs the checks in code over pairs from anywhere, and measures the checks where the pairs are
//! labelled.

use std::path::PathBuf;

use super::check_table::Table;
use super::export::print;
use super::pairs_file::{PairRow, Rows};
use super::{Exit, UsageError, build, grouped};
use crate::export::near_duplicates::NearDuplicates;
use crate::model::near_duplicates::NearDuplicateParams;
use crate::model::payload::{CheckValue, Checks, UNANSWERABLE};
use crate::stages::StageParams;
use crate::stages::validate::checks::{CheckInput, CheckParams, run};

/// What the command line says.
#[derive(Clone, Debug)]
pub struct CheckArgs {
    /// The file of pairs; `-` for standard input.
    pub pairs: PathBuf,
    /// A run file, whose pipeline says how strict the checks are; `None`: as they come.
    pub config: Option<PathBuf>,
    /// `--set`.
    pub set: Vec<String>,
    /// Whether each pair's result is shown as a row of JSON.
    pub json: bool,
}

/// The checks in code, and near-duplicates among the pairs that passed.
pub(super) struct CodeChecks {
    params: CheckParams,
    seen: NearDuplicates,
}

/// What the checks say of a pair.
pub(super) struct Found {
    /// What each check found.
    pub(super) checks: Checks,
    /// The check that refused it, what it found, and its rule.
    pub(super) refused: Option<(String, String, String)>,
}

impl CodeChecks {
    /// With these thresholds.
    pub(super) fn new(params: CheckParams, near_duplicates: NearDuplicateParams) -> Self {
        Self { params, seen: NearDuplicates::new(near_duplicates) }
    }

    /// Checks a pair; whether it is new is said with regard to those checked before.
    fn check(&mut self, id: &str, row: &PairRow) -> Found {
        let report = run(
            &self.params,
            &CheckInput {
                question: &row.question,
                answer: &row.answer,
                quote: row.quote(),
                source: &row.context,
                unanswerable: row.question_type.as_deref() == Some(UNANSWERABLE),
            },
        );
        let refused = report.failed.map(|failure| (failure.check, failure.value, failure.rule)).or_else(|| {
            let twin = self.seen.offer(id, &row.question, &row.answer)?;
            let refused = twin.rejection(self.seen.params());
            Some((refused.check, refused.value, refused.rule))
        });
        Found { checks: report.checks, refused }
    }
}

/// Checks the pairs of a file.
///
/// # Errors
/// If the file or the configuration cannot be read. Rows that cannot be used are named, and make the exit code 1.
pub fn check(args: &CheckArgs) -> anyhow::Result<Exit> {
    let mut checks = code_checks(args)?;
    let (mut table, mut pairs, mut bad) = (Table::default(), 0_u64, 0_u64);
    let mut labelled = false;
    for next in Rows::open(&args.pairs)? {
        let (line, row) = next?;
        let row = match row {
            Ok(row) => row,
            Err(fault) => {
                tracing::error!("{fault}");
                bad += 1;
                continue;
            }
        };
        pairs += 1;
        let id = row.id.clone().unwrap_or_else(|| format!("line {line}"));
        let found = checks.check(&id, &row);
        let by = found.refused.as_ref().map(|(check, ..)| check.as_str());
        labelled |= row.label.is_some();
        table.count(row.label.as_deref().unwrap_or("unlabelled"), by);
        if args.json {
            print(&row_json(line, &row, &found).to_string());
        }
    }
    if pairs == 0 && bad == 0 {
        return Err(UsageError(format!("{} holds no pairs", args.pairs.display())).into());
    }
    if !args.json && !table.is_empty() {
        if labelled {
            print(&table.text());
        } else {
            let row = table.row("unlabelled");
            let by: Vec<String> = row.by.iter().map(|(check, n)| format!("{check} {}", grouped(*n))).collect();
            let by = if by.is_empty() { String::new() } else { format!(": {}", by.join(", ")) };
            print(&format!("{} of {} pairs refused{by}", grouped(row.refused), grouped(pairs)));
        }
    }
    if bad > 0 {
        tracing::error!("{} of {} rows could not be used", grouped(bad), grouped(pairs + bad));
        return Ok(Exit::Error);
    }
    Ok(Exit::Done)
}

fn code_checks(args: &CheckArgs) -> anyhow::Result<CodeChecks> {
    let Some(config) = &args.config else {
        if !args.set.is_empty() {
            return Err(UsageError("--set changes a configuration: name one with --config".into()).into());
        }
        return Ok(CodeChecks::new(CheckParams::default(), NearDuplicateParams::default()));
    };
    let loaded = build::load(config, &args.set)?;
    let params = loaded.pipeline.stages.iter().find_map(|entry| match &entry.params {
        StageParams::Validate(params) => Some(params.checks.clone()),
        _ => None,
    });
    let params = params.ok_or_else(|| {
        UsageError(format!(
            "{} has no stage of kind validate, whose checks could be run",
            loaded.run.pipeline.display()
        ))
    })?;
    Ok(CodeChecks::new(params, loaded.pipeline.near_duplicates))
}

fn row_json(line: u64, row: &PairRow, found: &Found) -> serde_json::Value {
    let checks: serde_json::Map<String, serde_json::Value> = found
        .checks
        .iter()
        .map(|(name, check)| {
            let value = match &check.value {
                CheckValue::Number(number) => serde_json::json!(number),
                CheckValue::Text(text) => serde_json::json!(text),
            };
            (name.clone(), serde_json::json!({ "pass": check.pass, "value": value }))
        })
        .collect();
    let part = |of: fn(&(String, String, String)) -> &String| found.refused.as_ref().map(of);
    serde_json::json!({
        "line": line, "id": row.id, "label": row.label, "pass": found.refused.is_none(),
        "refused_by": part(|refused| &refused.0), "value": part(|refused| &refused.1),
        "rule": part(|refused| &refused.2), "checks": checks,
    })
}
