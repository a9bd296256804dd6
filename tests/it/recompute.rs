//! Computes every figure of a `BENCHMARKS.md` anew from the records, the rows of documents, the prices and the results
//! of the runs, with nothing of the program's own arithmetic but the resampled intervals.

#![expect(clippy::float_cmp, reason = "counts are whole numbers, and figures that must be the same are the same")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// A record as its files say.
struct Recorded {
    id: String,
    yaml: Value,
    rows: Vec<BTreeMap<String, String>>,
}

impl Recorded {
    fn number(&self, path: &str) -> f64 {
        let value = path.split('.').fold(&self.yaml, |node, key| &node[key]);
        // A record in which no pair came to be judged weighs nothing.
        if value.is_null() && path.starts_with("quality.") {
            return 0.0;
        }
        value.as_f64().unwrap_or_else(|| panic!("{}: {path} is {value}", self.id))
    }

    fn text(&self, path: &str) -> &str {
        path.split('.').fold(&self.yaml, |node, key| &node[key]).as_str().unwrap_or_default()
    }

    fn gpu_hours_by_document(&self) -> Vec<f64> {
        let ended = self.rows.iter().filter(|row| row["state"] != "open");
        ended.map(|row| row["gpu_hours"].parse().unwrap()).collect()
    }
}

fn sum<'a>(records: impl IntoIterator<Item = &'a Recorded>, path: &str) -> f64 {
    records.into_iter().map(|record| record.number(path)).sum()
}

fn yaml(path: &Path) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn records(dir: &Path) -> Vec<Recorded> {
    let mut found: Vec<Recorded> = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .map(|path| {
            let yaml = yaml(&path)["benchmark_run"].clone();
            let id = yaml["id"].as_str().unwrap().to_owned();
            let mut reader = csv::Reader::from_path(dir.join(format!("{id}.documents.csv"))).unwrap();
            let rows = reader.deserialize().collect::<Result<Vec<BTreeMap<String, String>>, _>>().unwrap();
            Recorded { id, yaml, rows }
        })
        .collect();
    found.sort_by_key(|record| record.number("rung.position") as u64);
    found
}

/// The rows of the tables under a heading, each as cells by the table's head.
fn tables(page: &str, heading: &str) -> Vec<BTreeMap<String, String>> {
    let after = page.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}")).1;
    let section = after.split_once("\n## ").map_or(after, |(section, _)| section);
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    let mut rows = Vec::new();
    let mut head: Vec<String> = Vec::new();
    for line in section.lines() {
        if !line.starts_with('|') {
            head.clear();
        } else if head.is_empty() {
            head = cells(line);
        } else if !line.starts_with("|--") {
            rows.push(head.iter().cloned().zip(cells(line)).collect());
        }
    }
    rows
}

fn figure(cell: &str) -> f64 {
    let text: String = cell.chars().filter(|c| !matches!(c, ',' | '%' | '×' | ' ')).collect();
    text.parse().unwrap_or_else(|_| panic!("`{cell}` is no number"))
}

/// As shown with four digits.
#[track_caller]
fn same(cell: &str, value: f64) {
    let shown = figure(cell);
    assert!((shown - value).abs() <= value.abs() * 6e-4 + 1e-12, "the report says {cell}, the records {value}");
}

fn row<'a>(rows: &'a [BTreeMap<String, String>], column: &str, name: &str) -> &'a BTreeMap<String, String> {
    rows.iter().find(|row| row[column] == name).unwrap_or_else(|| panic!("no row {name}: {rows:?}"))
}

/// Checks the report of a climbed ladder in `root` over a corpus of so many documents.
pub(crate) fn check_report(root: &Path, corpus: usize) {
    let page = std::fs::read_to_string(root.join("BENCHMARKS.md")).unwrap();
    let records = records(&root.join("benchmarks"));
    no_blank(&page);
    against_the_results(root, &records, corpus);
    for record in &records {
        within(record);
    }
    totals(&page, &records);
    rungs(&page, &records);
    usage(&page, &records);
    comparison(&page, &records);
    scaling(&page, &records);
    outlook(root, &page, &records, corpus);
    decision(&page, &records);
}

fn no_blank(page: &str) {
    for (n, line) in page.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.iter().all(|cell| !cell.is_empty()), "line {}: a blank cell in {line}", n + 1);
    }
    assert!(page.contains("**Rehearsal.**"), "simulated GPUs are named");
    assert!(page.contains("A rehearsal costs nothing."), "what people wrote is in it");
}

/// What the records say against what the runs left behind.
fn against_the_results(root: &Path, records: &[Recorded], corpus: usize) {
    for environment in ["local", "cluster"] {
        let own: Vec<&Recorded> = records.iter().filter(|record| record.text("environment") == environment).collect();
        let manifest = std::fs::read(root.join("out").join(environment).join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let dataset = std::fs::read_to_string(root.join("out").join(environment).join("dataset.jsonl")).unwrap();
        // Each pair, document, attempt and call is in exactly one record.
        let all = |path: &str| sum(own.iter().copied(), path);
        // A pair that says what another one says is in neither.
        assert_eq!(all("results.qa_pairs_generated"), dataset.lines().count() as f64);
        let twins = manifest["near_duplicates_refused"].as_f64().unwrap_or(0.0);
        assert_eq!(all("results.near_duplicates_refused"), twins);
        assert_eq!(all("dataset.pdfs_processed"), manifest["documents"]["total"].as_f64().unwrap());
        assert_eq!(all("dataset.pdfs_failed"), manifest["documents"]["failed"].as_f64().unwrap());
        assert_eq!(all("results.attempts"), manifest["attempts"].as_f64().unwrap());
        assert_eq!(all("results.tokens.calls"), manifest["model_calls"].as_f64().unwrap());
        assert_eq!(all("results.tokens.prompt"), manifest["prompt_tokens"].as_f64().unwrap());
        let mut hashes: Vec<&str> =
            own.iter().flat_map(|record| record.rows.iter().map(|row| row["sha256"].as_str())).collect();
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count, "no document is in two records of a state");
        if environment == "cluster" {
            assert_eq!(count, corpus);
        }
        // The marks: all judged pairs, accepted or not.
        let mut marks = [0.0; 4];
        let mut judged = 0.0;
        let rejected = std::fs::read_to_string(root.join("out").join(environment).join("rejected.jsonl")).unwrap();
        for line in dataset.lines().chain(rejected.lines()) {
            let row: Value = serde_json::from_str(line).unwrap();
            let scores = if row["pair"].is_object() { &row["pair"]["scores"] } else { &row["scores"] };
            if scores.is_object() {
                judged += 1.0;
                for (sum, name) in marks.iter_mut().zip(["clarity", "accuracy", "relevance", "overall"]) {
                    *sum += scores[name].as_f64().unwrap();
                }
            }
        }
        assert_eq!(all("quality.sample_size"), judged);
        for (sum, name) in marks.into_iter().zip(["clarity", "accuracy", "relevance", "overall"]) {
            let path = format!("quality.avg_{name}_score");
            let rated = own.iter().filter(|record| !record.yaml["quality"]["sample_size"].is_null());
            let own: f64 = rated.map(|record| record.number(&path) * record.number("quality.sample_size")).sum();
            assert!((own - sum).abs() < sum * 1e-4, "{name}: {own} in the records, {sum} in the results");
        }
    }
}

/// The figures of a record against each other and its rows.
fn within(record: &Recorded) {
    let close = |path: &str, value: f64| {
        let own = record.number(path);
        assert!((own - value).abs() <= value.abs() * 1e-4 + 1e-9, "{}: {path} is {own}, not {value}", record.id);
    };
    let of = |column: &str| -> f64 { record.rows.iter().map(|row| row[column].parse::<f64>().unwrap()).sum() };
    let (pdfs, minutes) = (record.number("dataset.pdfs_processed"), record.number("results.total_time_minutes"));
    close("results.qa_pairs_generated", of("pairs_accepted"));
    close("dataset.pdfs_processed", record.rows.iter().filter(|row| row["state"] != "open").count() as f64);
    if pdfs > 0.0 {
        close("results.total_time_minutes", of("minutes"));
        close("results.gpu_hours", of("gpu_hours"));
        close("results.avg_time_per_pdf_minutes", minutes / pdfs);
        close("results.throughput_pdfs_per_hour", pdfs * 60.0 / minutes);
        close("results.gpu_hours_per_pdf", record.number("results.gpu_hours") / pdfs);
        close("results.qa_pairs_per_pdf", record.number("results.qa_pairs_generated") / pdfs);
    }
    // Held, not busy: GPUs × time.
    // The ledger keeps each attempt's seconds and GPU-seconds to the millisecond.
    let gpus = record.number("hardware.gpu_count");
    let rounding = record.number("results.attempts") * 0.001 * (gpus + 1.0) / 3600.0;
    let (hours, held) = (record.number("results.gpu_hours"), minutes / 60.0 * gpus);
    assert!((hours - held).abs() <= held * 1e-4 + rounding, "{}: {hours} GPU-hours, not {held}", record.id);
    assert_eq!(record.text("hardware.gpu_source"), "simulated");
}

fn totals(page: &str, records: &[Recorded]) {
    let rows = tables(page, "Key metrics");
    let value = |name: &str| row(&rows, "metric", name)["value"].clone();
    let all = |path: &str| sum(records, path);
    let (pdfs, hours) = (all("dataset.pdfs_processed"), all("results.gpu_hours"));
    same(&value("documents processed"), pdfs);
    same(&value("documents failed"), all("dataset.pdfs_failed"));
    let ended = records.iter().flat_map(|record| &record.rows).filter(|row| row["state"] != "open");
    let different: std::collections::BTreeSet<&String> = ended.map(|row| &row["sha256"]).collect();
    same(&value("different documents"), different.len() as f64);
    same(&value("accepted pairs"), all("results.qa_pairs_generated"));
    same(&value("pairs a document"), all("results.qa_pairs_generated") / pdfs);
    same(&value("hours at work"), all("results.total_time_minutes") / 60.0);
    same(&value("documents an hour"), pdfs / (all("results.total_time_minutes") / 60.0));
    same(&value("GPU-hours"), hours);
    same(&value("GPU-hours a document"), hours / pdfs);
    same(&value("accepted pairs a GPU-hour"), all("results.qa_pairs_generated") / hours);
    for (name, path) in [
        ("mean clarity", "quality.avg_clarity_score"),
        ("mean accuracy", "quality.avg_accuracy_score"),
        ("mean relevance", "quality.avg_relevance_score"),
        ("mean overall mark", "quality.avg_overall_score"),
    ] {
        same(&value(name), weighted(records, path));
    }
    same(&value("acceptance"), weighted(records, "quality.overall_acceptance_rate") * 100.0);
}

/// A mean of quality over records by their samples.
fn weighted<'a>(records: impl IntoIterator<Item = &'a Recorded>, path: &str) -> f64 {
    let (mut total, mut weight) = (0.0, 0.0);
    for record in records.into_iter().filter(|record| !record.yaml["quality"]["sample_size"].is_null()) {
        let sample = record.number("quality.sample_size");
        total += record.number(path) * sample;
        weight += sample;
    }
    total / weight
}

fn rungs(page: &str, records: &[Recorded]) {
    let rows = tables(page, "The ladder, rung by rung");
    assert_eq!(rows.len(), records.len());
    for record in records {
        let row = row(&rows, "record", &record.id);
        let (pdfs, minutes) = (record.number("dataset.pdfs_processed"), record.number("results.total_time_minutes"));
        same(&row["documents"], record.number("rung.documents"));
        same(&row["new"], pdfs);
        same(&row["reused"], record.number("rung.reused"));
        assert_eq!(pdfs + record.number("rung.reused"), record.number("rung.documents"), "{}", record.id);
        same(&row["minutes"], minutes);
        same(&row["GPU-hours"], record.number("results.gpu_hours"));
        same(&row["pairs"], record.number("results.qa_pairs_generated"));
        same(&row["attempts"], record.number("results.attempts"));
        if pdfs > 0.0 {
            same(&row["minutes a document"], minutes / pdfs);
            same(&row["documents an hour"], pdfs * 60.0 / minutes);
            same(&row["GPU-hours a document"], record.number("results.gpu_hours") / pdfs);
            same(&row["pairs a document"], record.number("results.qa_pairs_generated") / pdfs);
        }
        same(&row["GPU busy"], record.number("results.avg_gpu_utilization_percent"));
    }
}

fn usage(page: &str, records: &[Recorded]) {
    let rows = tables(page, "Production and cumulative totals");
    assert_eq!(rows.len(), records.len());
    // The report's own order is by day; within the climb that is the order of the rungs or of their names.
    let (mut pdfs, mut pairs, mut hours) = (0.0, 0.0, 0.0);
    for row in &rows {
        let record = records.iter().find(|record| record.id == row["batch"]).unwrap();
        pdfs += record.number("dataset.pdfs_processed");
        pairs += record.number("results.qa_pairs_generated");
        hours += record.number("results.gpu_hours");
        same(&row["cumulative documents"], pdfs);
        same(&row["cumulative pairs"], pairs);
        same(&row["cumulative GPU-hours"], hours);
        same(&row["remaining of the budget"], 1000.0 - hours);
    }
}

fn comparison(page: &str, records: &[Recorded]) {
    let rows = tables(page, "Local against cluster");
    let side =
        |name: &str| -> Vec<&Recorded> { records.iter().filter(|record| record.text("environment") == name).collect() };
    let (local, cluster) = (side("local"), side("cluster"));
    let all = |side: &[&Recorded], path: &str| sum(side.iter().copied(), path);
    let ratio = |side: &[&Recorded], a: &str, b: &str| all(side, a) / all(side, b);
    let most = |side: &[&Recorded], path: &str| {
        side.iter().map(|record| record.number(path)).fold(f64::NEG_INFINITY, f64::max)
    };
    let (minutes, pdfs, hours) = ("results.total_time_minutes", "dataset.pdfs_processed", "results.gpu_hours");
    let check = |label: &str, of: &dyn Fn(&[&Recorded]) -> f64| {
        let row = row(&rows, "figure", label);
        let (a, b) = (of(&local), of(&cluster));
        same(&row["local"], a);
        same(&row["cluster"], b);
        if a > 0.0 {
            same(&row["factor"], b / a);
        }
    };
    check("minutes a document", &|side| ratio(side, minutes, pdfs));
    check("documents an hour", &|side| 60.0 * ratio(side, pdfs, minutes));
    check("GPU-hours a document", &|side| ratio(side, hours, pdfs));
    check("most GPU memory (GB)", &|side| most(side, "results.max_gpu_memory_gb"));
    check("pairs a document", &|side| ratio(side, "results.qa_pairs_generated", pdfs));
    check("GPU-hours an accepted pair", &|side| ratio(side, hours, "results.qa_pairs_generated"));
    check("prefix cache hits (share)", &|side| ratio(side, "results.tokens.cached", "results.tokens.prompt"));
    let aws = row(&rows, "figure", "USD a document at AWS p4d.24xlarge");
    same(&aws["cluster"], 4.0 * ratio(&cluster, hours, pdfs));
}

fn scaling(page: &str, records: &[Recorded]) {
    let rows = tables(page, "Scaling");
    let points: Vec<(f64, f64)> = records
        .iter()
        .filter(|record| record.text("environment") == "cluster" && record.number("dataset.pdfs_processed") >= 5.0)
        .map(|record| {
            let pdfs = record.number("dataset.pdfs_processed");
            (pdfs.log2(), record.number("results.total_time_minutes") / pdfs)
        })
        .collect();
    let row = rows.iter().find(|row| row["where"] == "cluster" && row["figure"] == "minutes a document").unwrap();
    let n = points.len() as f64;
    same(&row["batches"], n);
    // The normal equations, written differently from the program's.
    let s = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>();
    let (sx, sy, sxy, sxx) = (s(&|p| p.0), s(&|p| p.1), s(&|p| p.0 * p.1), s(&|p| p.0 * p.0));
    let slope = (n * sxy - sx * sy) / (n * sxx - sx * sx);
    let shown = figure(&row["change for each doubling of the batch"]);
    let value = 100.0 * slope / (sy / n);
    assert!((shown - value).abs() < value.abs() * 2e-3 + 1e-6, "{shown} and {value}");
}

fn outlook(root: &Path, page: &str, records: &[Recorded], corpus: usize) {
    let rows = tables(page, "Projections");
    let (pdfs, hours) = ("dataset.pdfs_processed", "results.gpu_hours");
    for record in records.iter().filter(|record| record.number(pdfs) > 0.0) {
        let row = row(&rows, "from", &record.id);
        let expected = corpus as f64 * record.number(hours) / record.number(pdfs) * 1.1;
        same(&row["expected for the whole corpus"], expected);
        let each = record.gpu_hours_by_document();
        if each.len() >= qaflow::model::projection::LEAST_DOCUMENTS {
            // The resampling itself is the program's, tested where it stands; here it is given the rows anew.
            let drawn = qaflow::model::projection::project(&each, (each.len() + corpus) as u64, 0.1, 42).unwrap();
            let certain: f64 = each.iter().sum();
            let scale = expected / (drawn.expected - certain);
            same(&row["low"], (drawn.low - certain) * scale);
            same(&row["high"], (drawn.high - certain) * scale);
            assert!(figure(&row["low"]) <= expected * 1.001 && figure(&row["high"]) >= expected * 0.999);
        }
    }
    let cluster: Vec<&Recorded> = records.iter().filter(|record| record.text("environment") == "cluster").collect();
    let (own_hours, own_pdfs) = (sum(cluster.iter().copied(), hours), sum(cluster.iter().copied(), pdfs));
    let used = sum(records, hours);
    let rest = (corpus as f64 - own_pdfs) * own_hours / own_pdfs * 1.1;
    let whole = used + rest;
    let sentence = page.lines().find(|line| line.starts_with("Used so far: ")).unwrap();
    let words: Vec<&str> = sentence.split(' ').collect();
    same(words[3], used);
    assert!(sentence.contains("**within**"), "{sentence}");
    assert!(sentence.contains(&format!("Done in cluster: {own_pdfs} of ")) || own_pdfs >= 1000.0, "{sentence}");

    let rows = tables(page, "Cost");
    let prices = yaml(&root.join("configs/prices.yaml"));
    let per_pair = own_hours / sum(cluster.iter().copied(), "results.qa_pairs_generated");
    for offer in prices["offers"].as_array().unwrap() {
        let row = row(&rows, "offer", offer["name"].as_str().unwrap());
        match offer["per_hour"].as_f64() {
            Some(price) => {
                let price = price / offer["gpus"].as_f64().unwrap_or(1.0);
                same(&row["a GPU-hour"], price);
                same(&row["expected"], price * whole);
                same(&row["an accepted pair"], price * per_pair);
                assert!(figure(&row["best case"]) <= figure(&row["worst case"]));
            }
            None => assert!(row["expected"].starts_with("not known ("), "{row:?}"),
        }
    }
}

fn decision(page: &str, records: &[Recorded]) {
    let rows = tables(page, "Decision");
    let last = records.last().unwrap();
    let clarity = row(&rows, "rule", "mean clarity at least 4");
    assert_eq!(clarity["figures"], format!("{:.2}", last.number("quality.avg_clarity_score")));
    assert_eq!(clarity["holds"] == "yes", last.number("quality.avg_clarity_score") >= 4.0);
    let go = rows.iter().all(|row| row["holds"] == "yes");
    assert_eq!(page.contains(&format!("**Go** after {}", last.id)), go);
    assert_eq!(page.contains(&format!("**No-go** after {}", last.id)), !go);
}
