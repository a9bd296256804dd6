//! `qaflow bench show` and `qaflow bench compare`: records one by one, listed, and side by side.

use std::path::Path;

use super::files;
use crate::app::export::print;
use crate::app::{Exit, UsageError};
use crate::bench::book::{Book, Entry};
use crate::bench::compare::{self, Side};
use crate::bench::derive::QualityTargets;
use crate::bench::record::Environment;
use crate::bench::text::{Table, number};
use crate::bench::yaml;

/// The record that an id means.
pub(super) fn find<'a>(book: &'a Book, id: &str) -> anyhow::Result<&'a Entry> {
    book.find(id).ok_or_else(|| {
        let ids: Vec<&str> = book.entries().iter().map(|entry| entry.record.id.as_str()).collect();
        let how =
            if ids.iter().any(|known| known.starts_with(id)) { "several records begin" } else { "no record begins" };
        UsageError(format!("{how} with `{id}`; there are: {}", ids.join(", "))).into()
    })
}

/// Shows one record, or lists all.
pub(super) fn show(dir: &Path, id: Option<&str>, quick: bool, json: bool) -> anyhow::Result<Exit> {
    let book = files::load_some(dir)?;
    let entries: Vec<&Entry> = match id {
        Some(id) => vec![find(&book, id)?],
        None => book.entries().iter().collect(),
    };
    if json {
        let records: Vec<_> = entries.iter().map(|entry| &entry.record).collect();
        print(&if id.is_some() { serde_json::to_string(&records[0])? } else { serde_json::to_string(&records)? });
    } else if quick {
        let targets = QualityTargets::default();
        let shown: Vec<String> = entries
            .iter()
            .map(|entry| yaml::write_quick(&yaml::to_quick(&entry.record, &targets)))
            .collect::<Result<_, _>>()?;
        print(shown.join("---\n").trim_end());
    } else if id.is_some() {
        print(yaml::write(&entries[0].record)?.trim_end());
    } else {
        let mut table = Table::new(&["record", "date", "documents", "minutes", "pairs", "GPU-hours", "issues"]);
        for entry in entries {
            let record = &entry.record;
            let or = |value: Option<f64>| value.map_or_else(|| "not known".to_owned(), number);
            table.row(vec![
                record.id.clone(),
                record.date.clone(),
                or(record.dataset.pdfs_processed.map(|n| n as f64)),
                or(record.results.total_time_minutes),
                or(record.results.qa_pairs_generated.map(|n| n as f64)),
                or(record.results.gpu_hours),
                record.issues.list().len().to_string(),
            ]);
        }
        print(table.markdown().trim_end());
    }
    Ok(Exit::Done)
}

/// Shows records side by side; without ids, local against cluster.
pub(super) fn compare(dir: &Path, ids: &[String], json: bool) -> anyhow::Result<Exit> {
    let book = files::load_some(dir)?;
    let sides: Vec<Side<'_>> = match ids {
        [] => [Environment::Local, Environment::Cluster]
            .into_iter()
            .map(|environment| Side::pooled(environment.as_str(), book.in_environment(environment)))
            .collect(),
        [_] => return Err(UsageError("name at least two records, or none for local against cluster".into()).into()),
        ids => ids.iter().map(|id| find(&book, id).map(Side::one)).collect::<anyhow::Result<_>>()?,
    };
    if let Some(empty) = sides.iter().find(|side| side.is_empty()) {
        return Err(UsageError(format!(
            "no record is of environment {}: name the records to compare, as `qaflow bench show` lists them",
            empty.name
        ))
        .into());
    }
    let prices = super::prices_or_why(Path::new(super::DEFAULT_PRICES))?.ok();
    let table = compare::table(&sides, prices.as_ref());
    print(&if json { serde_json::to_string(&table.rows())? } else { table.markdown().trim_end().to_owned() });
    Ok(Exit::Done)
}
