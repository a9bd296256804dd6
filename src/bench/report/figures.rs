//! The figures of the report: key metrics, totals, comparisons, scaling, experiments, bottlenecks, the records.

use std::fmt::Write as _;

use super::Report;
use super::rungs::{issues, reason};
use crate::bench::book::{Entry, totals};
use crate::bench::bottlenecks;
use crate::bench::checks;
use crate::bench::compare::{self, Side};
use crate::bench::record::{Environment, RatedBy, Record};
use crate::bench::scaling::{Allowed, COMPARED, LEAST_DOCUMENTS, Slope, Trend, degradations, pooled_by_sample, slope};
use crate::bench::text::{Table, counted, escaped, grouped, number};

/// The figure that is a share.
const ACCEPTANCE: &str = "quality.overall_acceptance_rate";

/// A figure of a record.
type Of = fn(&Entry) -> Option<f64>;

/// What a reader wants to know first.
pub(super) fn key(report: &Report<'_>) -> String {
    let work = report.book.work();
    let sums = totals(work.iter().copied());
    if work.is_empty() {
        return "No record of work.\n".into();
    }
    let why = |path: &'static str| move |work: &[&Entry]| missing(work, path);
    let mut table = Table::new(&["metric", "value", "over"]);
    let over = counted(sums.records as u64, "record");
    let rows: [(&str, Option<f64>, &'static str); 9] = [
        ("documents processed", sums.pdfs.map(|n| n as f64), "dataset.pdfs_processed"),
        ("documents failed", sums.failed.map(|n| n as f64), "dataset.pdfs_failed"),
        ("accepted pairs", sums.pairs.map(|n| n as f64), "results.qa_pairs_generated"),
        ("pairs a document", sums.pairs_per_pdf(), "results.qa_pairs_generated"),
        ("hours at work", sums.minutes.map(|m| m / 60.0), "results.total_time_minutes"),
        ("documents an hour", sums.pdfs_per_hour(), "results.total_time_minutes"),
        ("GPU-hours", sums.gpu_hours, "results.gpu_hours"),
        ("GPU-hours a document", sums.gpu_hours_per_pdf(), "results.gpu_hours"),
        ("accepted pairs a GPU-hour", sums.gpu_hours_per_pair().map(|h| 1.0 / h), "results.gpu_hours"),
    ];
    for (name, value, path) in rows {
        let cell = table.number(value, || why(path)(&work));
        table.row(vec![name.into(), cell, over.clone()]);
    }
    let distinct = distinct_documents(&work);
    let cell = table.count(distinct, || "a record has no file of documents".into());
    table.row(vec!["different documents".into(), cell, over.clone()]);
    for (name, of, path) in [
        (
            "mean clarity",
            (|e: &Entry| e.record.quality.avg_clarity_score) as fn(&Entry) -> Option<f64>,
            "quality.avg_clarity_score",
        ),
        ("mean accuracy", |e| e.record.quality.avg_accuracy_score, "quality.avg_accuracy_score"),
        ("mean relevance", |e| e.record.quality.avg_relevance_score, "quality.avg_relevance_score"),
        ("mean overall mark", |e| e.record.quality.avg_overall_score, "quality.avg_overall_score"),
        ("acceptance", |e| e.record.quality.overall_acceptance_rate, ACCEPTANCE),
    ] {
        let rated: u64 = work.iter().filter(|e| of(e).is_some()).filter_map(|e| e.record.quality.sample_size).sum();
        let by = by_whom(&work);
        let value = pooled_by_sample(&work, of);
        let cell = if path == ACCEPTANCE {
            table.percent(value, || why(path)(&work))
        } else {
            table.number(value, || why(path)(&work))
        };
        let over = if rated > 0 { format!("{} rated by {by}", counted(rated, "pair")) } else { over.clone() };
        table.row(vec![name.into(), cell, over]);
    }
    let mut text = table.markdown();
    text.push_str(
        "\nAccepted pairs are rows of the dataset. Acceptance is their share of the pairs that were rated; what a check \
         refused before was not. A document that several states processed counts in each of them as processed, once \
         among the different ones.",
    );
    let experiments = report.book.experiments();
    if !experiments.is_empty() {
        let hours = totals(experiments.iter().copied()).gpu_hours.map_or_else(|| "not known how many".into(), number);
        let _ = write!(text, " Experiments are not in this table: they used GPU-hours too ({hours}).");
    }
    text.push('\n');
    text
}

/// Documents that ended, each counted once however many states processed it.
fn distinct_documents(work: &[&Entry]) -> Option<u64> {
    let mut hashes = std::collections::BTreeSet::new();
    for entry in work.iter().filter(|entry| entry.record.dataset.pdfs_processed != Some(0)) {
        if entry.documents.is_empty() {
            return None;
        }
        let ended = entry.documents.iter().filter(|row| row.state != crate::bench::documents::OPEN);
        hashes.extend(ended.map(|row| row.sha256.as_str()));
    }
    Some(hashes.len() as u64)
}

fn by_whom(work: &[&Entry]) -> &'static str {
    let of = |who: RatedBy| work.iter().any(|entry| entry.record.quality.rated_by == Some(who));
    match (of(RatedBy::Judge), of(RatedBy::People)) {
        (true, true) => "the judge and by people",
        (true, false) => "the judge",
        (false, true) => "people",
        (false, false) => "whom the records do not say",
    }
}

/// Why a sum over records is missing: the first record's reason.
pub(super) fn missing(work: &[&Entry], path: &str) -> String {
    work.iter()
        .find_map(|entry| entry.record.not_measured.get(path).map(|reason| format!("{}: {reason}", entry.record.id)))
        .unwrap_or_else(|| "no record has it".into())
}

/// What each batch used, what all together did, and what is left of the budget.
pub(super) fn usage(report: &Report<'_>) -> String {
    let entries: Vec<&Entry> = report.book.entries().iter().collect();
    if entries.is_empty() {
        return "No record.\n".into();
    }
    let doubles = report.book.doubles();
    let mut table = Table::new(&[
        "batch",
        "date",
        "where",
        "documents",
        "cumulative documents",
        "minutes",
        "pairs",
        "cumulative pairs",
        "GPU-hours",
        "cumulative GPU-hours",
        "remaining of the budget",
    ]);
    let mut counted: Vec<&Entry> = Vec::new();
    for entry in entries {
        let record = &entry.record;
        if doubles.contains_key(&record.id) {
            continue;
        }
        counted.push(entry);
        let sums = totals(counted.iter().copied());
        let why = |path: &'static str| reason(record, path);
        let before = |path: &'static str| missing(&counted, path);
        let experiment = if record.experiment.is_some() { " (experiment)" } else { "" };
        let budget = report.outlook.budget;
        let cells = vec![
            format!("{}{experiment}", record.id),
            record.date.clone(),
            record.environment.map_or("not known", Environment::as_str).to_owned(),
            table.count(record.dataset.pdfs_processed, || why("dataset.pdfs_processed")),
            table.count(sums.pdfs, || before("dataset.pdfs_processed")),
            table.number(record.results.total_time_minutes, || why("results.total_time_minutes")),
            table.count(record.results.qa_pairs_generated, || why("results.qa_pairs_generated")),
            table.count(sums.pairs, || before("results.qa_pairs_generated")),
            table.number(record.results.gpu_hours, || why("results.gpu_hours")),
            table.number(sums.gpu_hours, || before("results.gpu_hours")),
            table.number(sums.gpu_hours.zip(budget).map(|(used, budget)| budget - used), || match budget {
                None => "no budget is configured (budget.gpu_hours)".into(),
                Some(_) => before("results.gpu_hours"),
            }),
        ];
        table.row(cells);
    }
    let mut text = table.markdown();
    text.push_str("\nEvery record counts here, experiments too: they use GPU time like anything else.\n");
    text.push_str(&production(report));
    text
}

/// How far the last rung, the whole corpus, has come.
fn production(report: &Report<'_>) -> String {
    let rungs = report.book.rungs();
    let last = rungs.last().and_then(|entry| Some((&entry.record, entry.record.rung.as_ref()?)));
    let Some((record, rung)) = last.filter(|(_, rung)| rung.documents == rung.corpus_documents) else {
        return "\nProduction (the last rung, the whole corpus) is not recorded.\n".into();
    };
    let (id, all, issues) = (&record.id, counted(rung.documents, "document"), issues(record));
    match record.dataset.pdfs_processed.map(|new| new.saturating_add(rung.reused)) {
        Some(ended) if ended >= rung.documents => {
            format!("\nProduction is done: the whole corpus, {all}, has ended with {id}. {issues}")
        }
        ended => {
            let ended = ended.map_or_else(|| "not known how many".into(), grouped);
            format!("\nProduction is not done: of the whole corpus, {all}, ended with {id}: {ended}. {issues}")
        }
    }
}

/// Local records against those of the cluster.
pub(super) fn comparison(report: &Report<'_>) -> String {
    let sides: Vec<Side<'_>> = [Environment::Local, Environment::Cluster]
        .into_iter()
        .map(|environment| (environment, report.book.in_environment(environment)))
        .filter(|(_, entries)| !entries.is_empty())
        .map(|(environment, entries)| Side::pooled(environment.as_str(), entries))
        .collect();
    match &sides[..] {
        [] => "No record says where it ran.\n".into(),
        [only] => format!(
            "All records are of one environment ({}), so there is nothing to compare them with.\n\n{}",
            only.name,
            compare::table(&sides, report.prices.as_ref().ok().copied()).markdown()
        ),
        _ => compare::table(&sides, report.prices.as_ref().ok().copied()).markdown(),
    }
}

/// Whether time a document is stable over batches, and quality is kept.
pub(super) fn scaling(report: &Report<'_>) -> String {
    let mut text = String::new();
    let mut table =
        Table::new(&["where", "figure", "change for each doubling of the batch", "90% interval", "batches", "so it"]);
    let figures: [(&str, Of); 4] = [
        ("minutes a document", |e| e.record.results.avg_time_per_pdf_minutes),
        ("GPU-hours a document", |e| e.record.results.gpu_hours_per_pdf),
        ("mean overall mark", |e| e.record.quality.avg_overall_score),
        ("acceptance", |e| e.record.quality.overall_acceptance_rate),
    ];
    for environment in [Environment::Local, Environment::Cluster] {
        let entries = report.book.in_environment(environment);
        if entries.is_empty() {
            continue;
        }
        for (name, of) in figures {
            let found = slope(entries.iter().copied(), of);
            let why = || {
                "an interval needs three batches of at least 5 documents with this figure, of different sizes"
                    .to_owned()
            };
            let percent = |part: f64| format!("{}%", number(part * 100.0));
            let cells = vec![
                environment.as_str().to_owned(),
                name.to_owned(),
                found.map_or_else(|| table.unknown(why()), |slope| percent(slope.per_doubling)),
                found.map_or_else(
                    || table.unknown(why()),
                    |slope| format!("{} to {}", percent(slope.low), percent(slope.high)),
                ),
                found.map_or_else(|| table.unknown(why()), |slope| slope.batches.to_string()),
                found.map_or_else(|| table.unknown(why()), |slope| in_words(&slope).to_owned()),
            ];
            table.row(cells);
        }
    }
    if table.is_empty() {
        return "No record says where it ran, so none can be compared by size.\n".into();
    }
    text.push_str(&table.markdown());
    text.push_str(
        "\nLeast squares over the batches, size in doublings, Student's interval: what differs from batch to batch is in \
         it. A change below 5% for each doubling does not matter.\n\n",
    );
    let work = report.book.work();
    let compared = degradations(&work, Allowed::default());
    let needs = format!(
        "it takes two batches of at least {LEAST_DOCUMENTS} documents with the figure, for speed in one environment"
    );
    if compared.not_compared.len() == COMPARED.len() {
        let _ = writeln!(text, "Degradation from batch to batch cannot be told: {needs}.");
        return text;
    }
    if compared.found.is_empty() {
        text.push_str(
            "No degradation: no batch is more than 25% slower a document than those before it in the same environment, \
             more than 0.2 marks lower, or more than 5 points less accepted.\n",
        );
    }
    if !compared.not_compared.is_empty() {
        let _ = writeln!(text, "Not compared: {}; {needs}.\n", compared.not_compared.join(", "));
    }
    for one in compared.found {
        let _ = writeln!(
            text,
            "- **Degradation** in {}: {} was {} before, is {}.",
            one.id,
            one.what,
            number(one.before),
            number(one.after)
        );
    }
    text
}

fn in_words(slope: &Slope) -> &'static str {
    match slope.trend() {
        Trend::Stable => "is stable",
        Trend::Grows => "grows with the batch",
        Trend::Falls => "falls with the batch",
        Trend::Unclear => "cannot be told",
    }
}

/// What was set, and what came of it.
pub(super) fn experiments(report: &Report<'_>) -> String {
    let mut table = Table::new(&[
        "record",
        "chunk size",
        "questions a chunk",
        "concurrency",
        "settings",
        "minutes a document",
        "pairs a document",
        "accepted pairs a GPU-hour",
        "overall mark",
    ]);
    for entry in report.book.entries() {
        let record = &entry.record;
        let (results, set) = (&record.results, &record.configuration);
        let why = |path: &'static str| reason(record, path);
        let settings = record.experiment.as_ref().map_or_else(
            || "–".to_owned(),
            |experiment| {
                let pairs: Vec<String> = experiment.settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{} {} #{}", experiment.name, pairs.join(" "), experiment.repeat)
            },
        );
        let limit = set.concurrency_limit.as_ref().map(ToString::to_string);
        let cells = vec![
            record.id.clone(),
            table.count(set.chunk_size, || why("configuration.chunk_size")),
            table.count(set.questions_per_chunk, || why("configuration.questions_per_chunk")),
            table.text(limit.as_deref(), || why("configuration.concurrency_limit")),
            escaped(&settings),
            table.number(results.avg_time_per_pdf_minutes, || why("results.avg_time_per_pdf_minutes")),
            table.number(results.qa_pairs_per_pdf, || why("results.qa_pairs_per_pdf")),
            table.number(results.accepted_pairs_per_gpu_hour, || why("results.accepted_pairs_per_gpu_hour")),
            table.number(record.quality.avg_overall_score, || why("quality.avg_overall_score")),
        ];
        table.row(cells);
    }
    let mut text = table.markdown();
    for (heading, sweep) in report.sweeps {
        let _ = write!(text, "\n### {heading}\n\n{}\n", sweep.trim_end());
    }
    if report.sweeps.is_empty() && report.book.experiments().is_empty() {
        text.push_str("\nExperiments: none recorded; `qaflow bench sweep` makes them.\n");
    }
    text
}

/// What held runs up.
pub(super) fn bottlenecks(report: &Report<'_>) -> String {
    let work = report.book.work();
    let found = bottlenecks::find(&work);
    if found.is_empty() {
        return format!("None found. Looked at in {}.\n", bottlenecks::looked_at(&work));
    }
    let mut table = Table::new(&["record", "symptom", "impact", "cause"]);
    for one in found {
        table.row([one.id, one.symptom, one.impact, one.cause].iter().map(|cell| escaped(cell)).collect());
    }
    table.markdown()
}

/// Every record, what it ran on, what does not agree in it, and why its gaps are gaps.
pub(super) fn records(report: &Report<'_>) -> String {
    let mut text = String::new();
    for entry in report.book.entries() {
        text.push_str(&one_record(report, entry));
    }
    if text.is_empty() { "None.\n".into() } else { text }
}

fn one_record(report: &Report<'_>, entry: &Entry) -> String {
    let record = &entry.record;
    let hardware = &record.hardware;
    let mut text = format!(
        "### {}\n\n- Commit {}, configuration {}\n- GPU: {}; {} cores, {} GB of memory; node {}, job {}\n- Model: {}, \
         served by {}\n",
        record.id,
        or_dash(record.commit_sha.as_deref()),
        or_dash(record.config_file.as_deref()),
        gpus(record),
        or_dash(hardware.cpu_cores),
        or_dash(hardware.ram_gb.map(number)),
        or_dash(hardware.node.as_deref()),
        or_dash(hardware.job_id.as_deref()),
        or_dash(record.model.name.as_deref()),
        or_dash(record.model.serving.as_deref()),
    );
    if let (Some(percent), Some(source)) =
        (record.results.job_efficiency_percent, &record.results.job_efficiency_source)
    {
        let _ = writeln!(text, "- Processor time used of what was held: {}% (by {source})", number(percent));
    }
    for contradiction in checks::in_book(report.book, entry) {
        let _ = writeln!(text, "- **Does not agree:** {}", escaped(&contradiction));
    }
    if record.rung.is_none() {
        let _ = write!(text, "- {}", issues(record).replace("\n\n- ", " ").replace("\n- ", "; "));
    }
    // One line a reason, however many values lack for it.
    let mut by_reason: Vec<(&str, Vec<&str>)> = Vec::new();
    for (path, reason) in &record.not_measured {
        match by_reason.iter_mut().find(|(known, _)| known == reason) {
            Some((_, paths)) => paths.push(path),
            None => by_reason.push((reason, vec![path])),
        }
    }
    for (reason, paths) in by_reason {
        let _ = writeln!(text, "- Without a value: {}: {}", paths.join(", "), escaped(reason));
    }
    text.push('\n');
    text
}

/// A value, or a dash: its reason stands below, with all that lack for it.
fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

fn gpus(record: &Record) -> String {
    let hardware = &record.hardware;
    if hardware.gpu_count.is_none() && hardware.gpu_source.as_deref() == Some("none") {
        return "none counted".into();
    }
    let (count, model) = (or_dash(hardware.gpu_count), or_dash(hardware.gpu_model.as_deref()));
    format!("{count} × {model}, source {}", or_dash(hardware.gpu_source.as_deref()))
}
