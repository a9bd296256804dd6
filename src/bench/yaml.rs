//! Records as YAML: written whole, read with every unknown field named and every gap given its reason.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use super::record::{QuickRecord, RECORD_FORMAT, Record};
use crate::model::params::nearest;

/// The reason of gaps in records that give none.
pub const UNSAID: &str = "the record does not say";
/// Records are small; what is larger is something else.
const MAX_BYTES: usize = 4 << 20;

/// Why a record cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// It is not YAML, or a value has the wrong form.
    #[error("{file}: {detail}")]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong, with the line.
        detail: String,
    },
    /// It is something else.
    #[error("{file} is no benchmark record: it has neither `benchmark_run` nor `run_id` at its top")]
    Other {
        /// The file.
        file: String,
    },
    /// A newer program wrote it.
    #[error("{file} has format {found}; this program reads up to {RECORD_FORMAT}: use the newer qaflow that wrote it")]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        found: u64,
    },
    /// A figure that no measurement gives.
    #[error(
        "{file}: {path} is {value}: no figure is negative or not a number, so the record is damaged: correct it, or make \
         it anew with `qaflow bench record`"
    )]
    Damaged {
        /// The file.
        file: String,
        /// The figure's path.
        path: String,
        /// What it says.
        value: String,
    },
    /// It cannot be written.
    #[error("the record {id} cannot be written as YAML: {detail}")]
    Unwritable {
        /// The record.
        id: String,
        /// The serializer's words.
        detail: String,
    },
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The record; every `None` in it has its reason.
    pub record: Record,
    /// What a person should know of it: unknown fields.
    pub remarks: Vec<String>,
}

#[derive(Serialize, serde::Deserialize)]
struct Whole {
    benchmark_run: Record,
}

/// A record as YAML.
///
/// # Errors
/// [`RecordError::Unwritable`], for instance if a number is not finite.
pub fn write(record: &Record) -> Result<String, RecordError> {
    let failed = |detail: String| RecordError::Unwritable { id: record.id.clone(), detail };
    // Through a tree, which refuses what is no number.
    let tree = serde_json::to_value(record).map_err(|error| failed(error.to_string()))?;
    for path in gaps(&tree) {
        if !record.not_measured.contains_key(&path) {
            return Err(failed(format!("{path} is empty without a reason")));
        }
    }
    serde_saphyr::to_string(&Whole { benchmark_run: record.clone() }).map_err(|error| failed(error.to_string()))
}

/// The quick form as YAML.
///
/// # Errors
/// [`RecordError::Unwritable`].
pub fn write_quick(quick: &QuickRecord) -> Result<String, RecordError> {
    serde_saphyr::to_string(quick)
        .map_err(|error| RecordError::Unwritable { id: quick.run_id.clone(), detail: error.to_string() })
}

/// Reads a record in its full or quick form. `file` is for messages.
///
/// # Errors
/// See [`RecordError`].
pub fn read(file: &str, text: &str) -> Result<Read, RecordError> {
    // What the reader of YAML calls a u64 is a count to people.
    let malformed = |detail: String| {
        let detail = detail.replace("invalid u64", "this must be a whole number from 0 up");
        RecordError::Malformed { file: file.into(), detail }
    };
    if text.len() > MAX_BYTES {
        return Err(malformed(format!("it has {} bytes; a record has at most {MAX_BYTES}", text.len())));
    }
    let tree: Value = serde_saphyr::from_str(text).map_err(|error| malformed(error.to_string()))?;
    let (mut record, mut remarks) = if let Some(inner) = tree.get("benchmark_run") {
        if let Some(found) = inner.get("format").and_then(Value::as_u64).filter(|f| *f > u64::from(RECORD_FORMAT)) {
            return Err(RecordError::Newer { file: file.into(), found });
        }
        let whole: Whole = serde_saphyr::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let mut remarks = unknown(file, inner, &template(), "");
        let beside = tree.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "benchmark_run");
        remarks.extend(beside.map(|key| format!("{file}: unknown field `{key}` beside benchmark_run is not read")));
        (whole.benchmark_run, remarks)
    } else if tree.get("run_id").is_some() {
        let quick: QuickRecord = serde_saphyr::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let known = serde_json::to_value(QuickRecord::default()).unwrap_or_default();
        (from_quick(quick), unknown(file, &tree, &known, ""))
    } else {
        return Err(RecordError::Other { file: file.into() });
    };
    if record.id.is_empty() {
        return Err(malformed("benchmark_run.id is missing: every record has a name".into()));
    }
    if let Some((path, value)) = super::checks::damage(&record) {
        return Err(RecordError::Damaged { file: file.into(), path, value: value.to_string() });
    }
    fill(&mut record);
    remarks.sort();
    Ok(Read { record, remarks })
}

/// Gives every gap that has no reason one, and drops reasons of values that are there.
pub fn fill(record: &mut Record) {
    let gaps = gaps(&serde_json::to_value(&*record).unwrap_or_default());
    record.not_measured.retain(|path, _| gaps.contains(path));
    for path in gaps {
        record.not_measured.entry(path).or_insert_with(|| UNSAID.into());
    }
}

/// Paths of what is `null`. `rung` and `experiment` are for records that are one.
pub fn gaps(tree: &Value) -> Vec<String> {
    fn walk(tree: &Value, path: &str, found: &mut Vec<String>) {
        let Value::Object(map) = tree else { return };
        for (key, value) in map {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match value {
                Value::Null if !matches!(path.as_str(), "rung" | "experiment") => found.push(path),
                Value::Object(_) => walk(value, &path, found),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(tree, "", &mut found);
    found
}

/// A record in which every field can be seen.
fn template() -> Value {
    let record = Record {
        covers: vec![super::record::Covered::default()],
        rung: Some(super::record::Rung::default()),
        experiment: Some(super::record::Experiment::default()),
        ..Record::default()
    };
    serde_json::to_value(record).unwrap_or_default()
}

/// The fields of `tree` that `known` lacks, each as a remark.
fn unknown(file: &str, tree: &Value, known: &Value, path: &str) -> Vec<String> {
    let (Value::Object(tree), Value::Object(known)) = (tree, known) else { return Vec::new() };
    // A map whose keys are free.
    if known.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = known.keys().cloned().collect();
    let mut remarks = Vec::new();
    for (key, value) in tree {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if let Some(known) = known.get(key) {
            remarks.extend(unknown(file, value, known, &path));
        } else {
            let hint = nearest(key, &names).map_or(String::new(), |near| format!(" (is `{near}` meant?)"));
            remarks.push(format!("{file}: unknown field `{path}` is not read{hint}"));
        }
    }
    remarks
}

/// What the quick form says, as a record.
pub fn from_quick(quick: QuickRecord) -> Record {
    let environment = ["local", "cluster"].into_iter().find(|name| quick.run_id.starts_with(name));
    let mut record = Record {
        id: quick.run_id,
        date: quick.date,
        environment: environment.map(|name| match name {
            "local" => super::record::Environment::Local,
            _ => super::record::Environment::Cluster,
        }),
        issues: quick.issues,
        ..Record::default()
    };
    record.dataset.pdfs_processed = quick.pdfs;
    record.results.total_time_minutes = quick.time_minutes;
    record.results.qa_pairs_generated = quick.qa_pairs;
    record.results.gpu_hours = quick.gpu_hours;
    super::derive::complete(&mut record);
    record
}

/// The quick form of a record. `quality_ok` says whether the mean marks reach the project's targets, where marks are.
pub fn to_quick(record: &Record, targets: &super::derive::QualityTargets) -> QuickRecord {
    QuickRecord {
        run_id: record.id.clone(),
        date: record.date.clone(),
        pdfs: record.dataset.pdfs_processed,
        time_minutes: record.results.total_time_minutes,
        qa_pairs: record.results.qa_pairs_generated,
        gpu_hours: record.results.gpu_hours,
        quality_ok: targets.reached(&record.quality),
        issues: record.issues.clone(),
    }
}

/// Reasons by path, for building a record.
pub type Reasons = BTreeMap<String, String>;

#[cfg(test)]
mod tests;
