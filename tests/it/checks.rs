//! The checks measured: on labelled pairs, on planted faults, and on a whole dataset with duplicates and questions
//! without answer.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Place, Server, expect, qaflow, run, verify};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn labelled() -> PathBuf {
    root().join("tests/data/labelled_pairs.jsonl")
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn read_rows(path: &Path) -> Vec<Value> {
    rows(&std::fs::read_to_string(path).unwrap())
}

/// `dataset.jsonl` and `rejected.jsonl` of a results folder.
fn dataset_and_rejected(place: &Place, out: &str) -> (Vec<Value>, Vec<Value>) {
    (read_rows(&place.path(out).join("dataset.jsonl")), read_rows(&place.path(out).join("rejected.jsonl")))
}

fn manifest(place: &Place, out: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place.path(out).join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn the_labelled_pairs_are_over_the_samples() {
    let folded = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let pairs = read_rows(&labelled());
    assert!(pairs.len() >= 200, "{}", pairs.len());
    let words = |text: &str| -> std::collections::BTreeSet<String> {
        let joined = text.replace("\u{ad}\n", "").replace("-\n", "-").replace(['\u{ad}', '\u{2060}'], "");
        joined.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 3).map(str::to_lowercase).collect()
    };
    for pair in &pairs {
        let text = |key: &str| pair[key].as_str().unwrap();
        let quote = folded(text("context")).contains(&folded(text("quote")));
        assert_eq!(quote, text("label") != "foreign_quote", "{}", text("id"));
        let sample = text("source_document").replace(".pdf", ".txt");
        let sample = std::fs::read_to_string(root().join("tests/data/samples").join(sample)).unwrap();
        let (there, context) = (words(&sample), words(text("context")));
        let missing: Vec<&String> = context.difference(&there).collect();
        assert!(missing.len() * 25 <= context.len(), "{}: not in the sample: {missing:?}", text("id"));
    }
}

#[test]
fn the_checks_in_code_catch_what_they_are_for_and_spare_good_pairs() {
    let file = labelled();
    let table = expect(&mut qaflow(&root(), &["check", file.to_str().unwrap()]), 0);
    println!("{table}");
    let results = rows(&expect(&mut qaflow(&root(), &["check", "--json", file.to_str().unwrap()]), 0));
    assert_eq!(results.len(), read_rows(&file).len());
    let share = |label: &str| {
        let of: Vec<&Value> = results.iter().filter(|row| row["label"] == label).collect();
        assert!(!of.is_empty(), "{label}");
        of.iter().filter(|row| row["pass"] == false).count() as f64 / of.len() as f64
    };
    for label in ["changed_number", "changed_date", "foreign_quote", "refusal", "vague_reference", "leak", "duplicate"]
    {
        assert!(share(label) >= 0.95, "{label}: only {:.3} caught", share(label));
    }
    assert!(share("good") <= 0.02, "{:.3} of the good pairs refused", share("good"));
    // A refusal says by what and why.
    for row in results.iter().filter(|row| row["pass"] == false) {
        assert!(row["refused_by"].is_string() && row["rule"].is_string() && row["value"].is_string(), "{row}");
    }
}

#[test]
fn check_names_rows_that_cannot_be_used_and_takes_standard_input() {
    let place = Place::new();
    let good = std::fs::read_to_string(labelled()).unwrap().lines().next().unwrap().to_owned();
    let mut child = qaflow(&place.path(""), &["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{good}\n{{\"question\": 1}}\n{good}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(err.contains("-:2: invalid type: integer `1`") && err.contains("1 of 3 rows could not be used"), "{err}");
    assert!(out.contains("good pairs") && out.contains("new 1"), "the second copy is no new pair: {out}");

    std::fs::write(place.path("empty.jsonl"), "\n").unwrap();
    expect(&mut qaflow(&place.path(""), &["check", "empty.jsonl"]), 2);
    expect(&mut qaflow(&place.path(""), &["check", "nowhere.jsonl"]), 2);
    expect(&mut qaflow(&place.path(""), &["check", "."]), 2);
    expect(&mut qaflow(&place.path(""), &["check", "empty.jsonl", "--set", "stages.validate.max_leak=0.1"]), 2);
}

#[test]
fn check_takes_the_thresholds_of_a_configuration() {
    let place = Place::new();
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 4).display().to_string();
    let file = labelled().display().to_string();
    let refused = |extra: &[&str]| {
        let mut args = vec!["check", "--json", file.as_str(), "--config", config.as_str()];
        args.extend(extra);
        rows(&expect(&mut qaflow(&place.path(""), &args), 0)).iter().filter(|row| row["pass"] == false).count()
    };
    let usual = refused(&[]);
    assert!(refused(&["--set", "stages.validate.min_answer_chars=80"]) > usual);
    assert!(refused(&["--set", "near_duplicates.enabled=false"]) < usual);
}

#[test]
fn the_canary_measures_the_checks_and_is_the_same_again() {
    let place = Place::new();
    place.corpus(10, 4);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 16);
    run(&place, &config, &[], 0);
    let config = config.display().to_string();
    let canary = |args: &[&str]| -> Value {
        let mut all = vec!["canary", "--json", "--limit", "40"];
        all.extend(args);
        serde_json::from_str(&expect(&mut qaflow(&place.path(""), &all), 0)).unwrap()
    };
    let share = |report: &Value, kind: &str| report["faults"][kind]["share"].as_f64().unwrap();

    let code = canary(&["--code-only", "--dataset", "out/dataset.jsonl"]);
    println!("{code:#}");
    for kind in ["changed_number", "foreign_quote", "refusal", "vague_reference", "leak", "duplicate"] {
        assert!(share(&code, kind) >= 0.95, "{kind}: {code:#}");
    }
    assert_eq!(code["good"]["refused"], 0, "{code:#}");
    assert_eq!(code["good"]["pairs"], 40);
    assert_eq!(canary(&["--code-only", "--dataset", "out/dataset.jsonl"]), code, "the same again");
    assert_ne!(canary(&["--code-only", "--dataset", "out/dataset.jsonl", "--seed", "7"]), code);

    // With the model: what no check in code can see is found by the judge; a good pair meets the same answers again.
    let judged = canary(&[config.as_str(), "--state", "state"]);
    println!("{judged:#}");
    for kind in ["unsupported_claim", "swapped_negation"] {
        assert!(share(&code, kind) < 0.5, "{kind} is nothing for code: {code:#}");
        assert!(share(&judged, kind) >= 0.9, "{kind}: {judged:#}");
    }
    assert_eq!(judged["good"]["refused"], 0, "{judged:#}");
    assert_eq!(judged["model"], "simulated");

    // Without a configuration there is no model, and without pairs nothing to plant into.
    expect(&mut qaflow(&place.path(""), &["canary", "--dataset", "out/dataset.jsonl"]), 2);
    std::fs::write(place.path("none.jsonl"), "").unwrap();
    expect(&mut qaflow(&place.path(""), &["canary", "--code-only", "--dataset", "none.jsonl"]), 2);
}

#[test]
fn near_duplicates_are_refused_with_their_twin_and_the_accounts_balance() {
    let place = Place::new();
    place.corpus(40, 6);
    let server = Server::start(&["--latency-ms", "3", "--jitter", "1", "--bad-pairs", "0.6", "--doubts", "0"]);
    let config = place.config(&server, 1);
    run(&place, &config, &["--state", "one", "--out", "one-out"], 0);
    let wide = ["--state", "many", "--out", "many-out", "--set", "llm.concurrency=64"];
    run(&place, &config, &wide, 0);
    assert_eq!(place.results("one-out"), place.results("many-out"), "the order of arrival changes nothing");

    let (dataset, rejected) = dataset_and_rejected(&place, "one-out");
    let refused: Vec<&Value> = rejected.iter().filter(|row| row["rejected_by"] == "new").collect();
    assert!(!refused.is_empty(), "the server repeats some pairs");
    for row in &refused {
        let value = row["value"].as_str().unwrap();
        let twin = value.rsplit(' ').next().unwrap();
        assert!(dataset.iter().any(|kept| kept["id"] == twin), "{value}");
        assert_eq!(row["stage"], "export");
        assert!(dataset.iter().all(|kept| kept["id"] != row["id"]));
    }
    let accounts = |out: &str| {
        let manifest = manifest(&place, out);
        let count = |value: &Value| value.as_u64().unwrap();
        let emitted = count(&manifest["stages"]["score"]["emitted"]);
        (count(&manifest["pairs_accepted"]), count(&manifest["near_duplicates_refused"]), emitted)
    };
    let (accepted, duplicates, emitted) = accounts("one-out");
    assert_eq!((accepted, duplicates), (dataset.len() as u64, refused.len() as u64));
    assert_eq!(accepted + duplicates, emitted);
    verify(&place, "one");

    // Off, every pair stays, and nothing is asked again.
    let asked = server.requests().arrived.len();
    run(&place, &config, &["--state", "one", "--out", "one-out", "--set", "near_duplicates.enabled=false"], 0);
    assert_eq!(server.requests().arrived.len(), asked);
    assert_eq!(accounts("one-out"), (emitted, 0, emitted));
    // `export` keeps to the run's last configuration.
    expect(&mut qaflow(&place.path(""), &["export", "--state", "one", "--out", "again"]), 0);
    assert_eq!(accounts("again"), (emitted, 0, emitted));
}

#[test]
fn question_types_have_their_shares_and_unanswerable_ones_are_marked() {
    let place = Place::new();
    place.corpus(24, 6);
    let server = Server::start(&["--latency-ms", "0", "--bad-pairs", "0", "--doubts", "0"]);
    let config = place.config(&server, 16);
    let pipeline = std::fs::read_to_string(place.path("pipeline.yaml")).unwrap();
    let types = "question_types: {factual: 5, numeric: 3, procedural: 1, unanswerable: 1}";
    let pipeline = pipeline.replace("questions_per_chunk: 3", &format!("questions_per_chunk: 3, {types}"));
    std::fs::write(place.path("pipeline.yaml"), pipeline).unwrap();
    run(&place, &config, &[], 0);
    verify(&place, "state");

    let (dataset, rejected) = dataset_and_rejected(&place, "out");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let pairs = dataset.iter().chain(rejected.iter().map(|row| &row["pair"]));
    for pair in pairs {
        *counts.entry(pair["question_type"].as_str().unwrap().into()).or_default() += 1;
    }
    let all: usize = counts.values().sum();
    assert!(all > 200, "{counts:?}");
    for (name, share) in [("factual", 0.5), ("numeric", 0.3), ("procedural", 0.1), ("unanswerable", 0.1)] {
        let found = counts[name] as f64 / all as f64;
        assert!((found - share).abs() < 0.03, "{name}: {found:.3} of {counts:?}");
    }
    let without_answer: Vec<&Value> = dataset.iter().filter(|row| row["question_type"] == "unanswerable").collect();
    assert!(!without_answer.is_empty());
    for row in &dataset {
        assert_eq!(row["is_impossible"], row["question_type"] == "unanswerable");
    }
    for row in without_answer {
        assert_eq!(row["checks"]["round_trip"]["value"], "cannot be answered");
        assert_eq!(row["checks"]["round_trip"]["pass"], true);
        assert_eq!(row["checks"]["says_unstated"]["pass"], true);
        assert!(row["checks"].get("no_refusal").is_none());
    }
}
