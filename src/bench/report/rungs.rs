//! The rungs of the ladder: each with its figures, or that it is not done.

use super::Report;
use crate::bench::book::Entry;
use crate::bench::record::{Environment, Record};
use crate::bench::text::{Table, escaped, grouped, number};

/// The rungs in a table, then what went wrong in each.
pub(super) fn section(report: &Report<'_>) -> String {
    let rungs = report.book.rungs();
    if rungs.is_empty() && report.ladder.is_none() {
        return "No record is a rung of a ladder: `qaflow manifest ladder` makes one, and a run given one of its \
                manifests is a rung.\n"
            .into();
    }
    let mut text = table(&rungs, report.ladder).markdown();
    text.push_str(
        "\nA rung counts only what is new in it: documents that a rung below had processed in the same state are reused \
         and cost nothing.\n",
    );
    for entry in &rungs {
        text.push_str(&one(entry));
    }
    text
}

/// The rungs in a table, those of the ladder that are not done too.
pub fn table(rungs: &[&Entry], ladder: Option<&crate::bench::ladder::Ladder>) -> Table {
    let mut table = Table::new(&[
        "rung",
        "where",
        "documents",
        "new",
        "reused",
        "failed",
        "minutes",
        "minutes a document",
        "documents an hour",
        "pairs",
        "pairs a document",
        "GPU-hours",
        "GPU-hours a document",
        "GPU busy",
        "overall mark",
        "acceptance",
        "attempts",
        "record",
    ]);
    let mut rows: Vec<(u32, String, Vec<String>)> = Vec::new();
    for entry in rungs {
        let record = &entry.record;
        let Some(rung) = &record.rung else { continue };
        let results = &record.results;
        let why = |path: &str| reason(record, path);
        let cells = vec![
            escaped(&rung.name),
            record.environment.map_or("not known", Environment::as_str).to_owned(),
            grouped(rung.documents),
            table.count(record.dataset.pdfs_processed, || why("dataset.pdfs_processed")),
            grouped(rung.reused),
            table.count(record.dataset.pdfs_failed, || why("dataset.pdfs_failed")),
            table.number(results.total_time_minutes, || why("results.total_time_minutes")),
            table.number(results.avg_time_per_pdf_minutes, || why("results.avg_time_per_pdf_minutes")),
            table.number(results.throughput_pdfs_per_hour, || why("results.throughput_pdfs_per_hour")),
            table.count(results.qa_pairs_generated, || why("results.qa_pairs_generated")),
            table.number(results.qa_pairs_per_pdf, || why("results.qa_pairs_per_pdf")),
            table.number(results.gpu_hours, || why("results.gpu_hours")),
            table.number(results.gpu_hours_per_pdf, || why("results.gpu_hours_per_pdf")),
            table.percent(results.avg_gpu_utilization_percent.map(|p| p / 100.0), || {
                why("results.avg_gpu_utilization_percent")
            }),
            table.number(record.quality.avg_overall_score, || why("quality.avg_overall_score")),
            table.percent(record.quality.overall_acceptance_rate, || why("quality.overall_acceptance_rate")),
            table.count(results.attempts, || why("results.attempts")),
            record.id.clone(),
        ];
        rows.push((rung.position, record.id.clone(), cells));
    }
    for rung in ladder.iter().flat_map(|ladder| &ladder.rungs) {
        if !rows.iter().any(|(position, ..)| *position == rung.position) {
            let mut cells = vec![escaped(&rung.name), "not done".into(), grouped(rung.documents)];
            cells.extend((0..15).map(|_| "–".to_owned()));
            rows.push((rung.position, String::new(), cells));
        }
    }
    rows.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    for (_, _, cells) in rows {
        table.row(cells);
    }
    table
}

fn one(entry: &Entry) -> String {
    let record = &entry.record;
    let name = record.rung.as_ref().map_or("", |rung| rung.name.as_str());
    let mut text = format!("\n### {} ({})\n\n", escaped(name), record.date);
    text.push_str(&issues(record));
    text
}

/// What went wrong, as a list.
pub(super) fn issues(record: &Record) -> String {
    let list = record.issues.list();
    if list.is_empty() {
        return "Issues: none.\n".into();
    }
    let mut text = String::from("Issues:\n\n");
    for issue in list {
        let critical = if issue.critical { "**critical:** " } else { "" };
        text.push_str(&format!("- {critical}{} ({} ×)", escaped(&issue.what), number(issue.count as f64)));
        if let Some(example) = issue.examples.first() {
            text.push_str(&format!(", for instance {}", escaped(example)));
        }
        text.push('\n');
    }
    text
}

/// Why a value of a record is missing.
pub(super) fn reason(record: &Record, path: &str) -> String {
    record.not_measured.get(path).cloned().unwrap_or_else(|| crate::bench::yaml::UNSAID.to_owned())
}
