//! The dataset's formats: other programs read them, splits share no document, a killed export is the old or the new.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Place, Server, expect, output, qaflow, run};

/// A finished run of twelve documents in `state`, its results in `out`.
fn finished(extra: &str) -> Place {
    let place = Place::new();
    place.corpus(12, 3);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 8);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}{extra}")).unwrap();
    run(&place, &config, &[], 0);
    place
}

fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `sha256sum -c SHA256SUMS` in a folder; the file's content.
fn checked_sums(out: &Path) -> String {
    let said =
        Command::new("sha256sum").args(["-c", "--strict", "--quiet", "SHA256SUMS"]).current_dir(out).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    std::fs::read_to_string(out.join("SHA256SUMS")).unwrap()
}

/// Every file that a person sees below a folder, links followed.
fn files(out: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![out.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.exists() {
                found.insert(path.strip_prefix(out).unwrap().into());
            }
        }
    }
    found
}

#[test]
fn a_run_writes_every_format_and_no_document_is_in_two_splits() {
    let place = finished("export: {formats: all, splits: {train: 0.8, validation: 0.1, test: 0.1, seed: 42}}\n");
    let out = place.path("out");
    let all = rows(&out.join("dataset.jsonl"));
    assert!(all.len() > 12);
    checked_sums(&out);
    let mut split_of: BTreeMap<String, &str> = BTreeMap::new();
    let mut total = 0;
    for split in ["train", "validation", "test"] {
        let pairs = rows(&out.join(format!("jsonl/{split}.jsonl")));
        assert!(!pairs.is_empty(), "{split} is empty");
        for row in &pairs {
            let document = row["source_sha256"].as_str().unwrap().to_owned();
            assert_eq!(*split_of.entry(document).or_insert(split), split, "a document is in two splits");
        }
        let alpaca = rows(&out.join(format!("alpaca/{split}.jsonl")));
        let sharegpt = rows(&out.join(format!("sharegpt/{split}.jsonl")));
        let openai = rows(&out.join(format!("openai/{split}.jsonl")));
        let squad = rows(&out.join(format!("squad/{split}.jsonl")));
        for (n, row) in pairs.iter().enumerate() {
            assert_eq!((&alpaca[n]["instruction"], &alpaca[n]["output"]), (&row["question"], &row["answer"]));
            assert_eq!(sharegpt[n]["conversations"][1]["value"], row["answer"]);
            assert_eq!(openai[n]["messages"][0]["content"], row["question"]);
            assert_eq!(squad[n]["id"], row["id"], "every pair of this corpus has its quote in its passage");
        }
        for row in &squad {
            let context: Vec<char> = row["context"].as_str().unwrap().chars().collect();
            let text = row["answers"]["text"][0].as_str().unwrap();
            let start = row["answers"]["answer_start"][0].as_u64().unwrap() as usize;
            let found: String = context[start..start + text.chars().count()].iter().collect();
            assert_eq!(found, text);
        }
        total += pairs.len();
    }
    assert_eq!(total, all.len());
    let shares: BTreeMap<&str, usize> = split_of.values().fold(BTreeMap::new(), |mut counts, split| {
        *counts.entry(*split).or_default() += 1;
        counts
    });
    assert_eq!(shares, BTreeMap::from([("train", 10), ("validation", 1), ("test", 1)]));

    let statistics: Value = serde_json::from_slice(&std::fs::read(out.join("statistics.json")).unwrap()).unwrap();
    assert_eq!(statistics["pairs"].as_u64().unwrap() as usize, all.len());
    assert_eq!(statistics["per_document"].as_array().unwrap().len(), 12);
    assert_eq!(statistics["splits"]["train"]["documents"], 10);
    let sources = std::fs::read_to_string(out.join("sources.csv")).unwrap();
    assert_eq!(sources.lines().count(), 13);
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(
        card.starts_with("---\n") && card.contains("config_name: squad") && card.contains("bulletin-0003.md"),
        "{card}"
    );

    // The same again, byte for byte, the manifest and its clock apart.
    expect(&mut qaflow(&place.path(""), &["export", "--state", "state", "--out", "again"]), 0);
    assert_eq!(checked_sums(&place.path("again")), checked_sums(&out));
}

#[test]
fn export_takes_formats_from_the_command_line() {
    let place = finished("");
    let out = place.path("out");
    assert!(!out.join("alpaca").exists() && out.join("README.md").exists());
    std::fs::write(out.join("notes.txt"), "mine").unwrap();
    expect(&mut qaflow(&place.path(""), &["export", "--state", "state", "--format", "alpaca,parquet"]), 0);
    assert_eq!(rows(&out.join("alpaca/train.jsonl")).len(), rows(&out.join("dataset.jsonl")).len());
    assert!(out.join("parquet/train.parquet").exists() && !out.join("parquet/test.parquet").exists());
    expect(&mut qaflow(&place.path(""), &["export", "--state", "state", "--format", "parquet", "--split"]), 0);
    assert!(!out.join("alpaca").exists() && out.join("parquet/test.parquet").exists());
    assert_eq!(std::fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    let refused = output(&mut qaflow(&place.path(""), &["export", "--state", "state", "--format", "csv"]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no format is called `csv`"));
    // What no export wrote is not replaced, and a run says so before it begins.
    std::fs::create_dir_all(place.path("theirs/squad")).unwrap();
    let args = ["export", "--state", "state", "--out", "theirs", "--format", "squad"];
    let refused = output(&mut qaflow(&place.path(""), &args));
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("theirs/squad was not written by an export"));
}

#[test]
fn a_killed_export_leaves_the_old_or_the_new_whole() {
    let place = finished("");
    let out = place.path("out");
    let few = ["export", "--state", "state", "--format", "jsonl"];
    let many = ["export", "--state", "state", "--format", "all", "--split"];
    let began = Instant::now();
    expect(&mut qaflow(&place.path(""), &many), 0);
    let usual = began.elapsed();
    let (many_files, many_sums) = (files(&out), checked_sums(&out));
    expect(&mut qaflow(&place.path(""), &few), 0);
    let (few_files, few_sums) = (files(&out), checked_sums(&out));
    assert_ne!(many_sums, few_sums);
    let mut random = fastrand::Rng::new();
    let (mut old, mut new, mut kills) = (0, 0, 0);
    while kills < 30 {
        let was_few = checked_sums(&out) == few_sums;
        let args = if was_few { &many[..] } else { &few[..] };
        let mut child = qaflow(&place.path(""), args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.u64(0..usual.as_micros() as u64 * 3 / 2)));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        kills += usize::from(ended.code().is_none());
        let sums = checked_sums(&out);
        let is_few = sums == few_sums;
        assert!(is_few || sums == many_sums, "neither the old nor the new");
        assert_eq!(&files(&out), if is_few { &few_files } else { &many_files }, "files of both are mixed");
        if is_few == was_few {
            old += 1;
        } else {
            new += 1;
        }
        if ended.code() == Some(0) {
            assert_ne!(is_few, was_few, "an export that ended well is in force");
        }
    }
    println!("{kills} kills: {old} times the old export was in force, {new} times the new");
    expect(&mut qaflow(&place.path(""), &few), 0);
    assert_eq!(checked_sums(&out), few_sums);
    let left: Vec<_> =
        std::fs::read_dir(out.join(".export")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 3, "what killed exports left is cleared away: {left:?}");
}

#[test]
fn an_export_that_cannot_be_written_says_what_to_do_and_leaves_the_last_one() {
    let place = Place::new();
    let corpus = place.corpus(1, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 4);
    run(&place, &config, &[], 0);
    let before = place.results("out");
    // Its text is the only large file: the state holds it compressed, and a single passage of it.
    let large =
        format!("# Notice\n\n{}", "The county office must answer each letter within nine days.\n\n".repeat(60_000));
    std::fs::write(corpus.join("large.md"), large).unwrap();
    let limited = "trap '' XFSZ; ulimit -f 2048; exec \"$@\"";
    let command = [limited, "bash", crate::support::QAFLOW, "run", "run.yaml", "--set", "stages.chunk.select=1"];
    let mut bash = std::process::Command::new("bash");
    let failed = output(bash.arg("-c").args(command).current_dir(place.path("")));
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{said}");
    for part in [".md: the system allows no larger file here", "The last export is untouched", "give another --out"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(place.results("out"), before);
    let exports = std::fs::read_dir(place.path("out/.export")).unwrap().flatten();
    let exports: Vec<_> = exports.filter(|entry| entry.file_name().to_string_lossy().starts_with("g-")).collect();
    assert_eq!(exports.len(), 1, "what was begun is removed: {exports:?}");
    run(&place, &config, &["--set", "stages.chunk.select=1"], 0);
    assert_ne!(place.results("out"), before);

    std::fs::write(place.path("file"), "").unwrap();
    let onto_file = output(&mut qaflow(&place.path(""), &["export", "--state", "state", "--out", "file"]));
    let said = String::from_utf8_lossy(&onto_file.stderr).into_owned();
    assert!(said.contains("Nothing else was changed: mend that, or give another --out"), "{said}");
}

#[test]
#[ignore = "needs Python with pandas, pyarrow and datasets: make test-formats"]
fn python_reads_every_format() {
    let python = std::env::var("QAFLOW_PYTHON").unwrap();
    for splits in ["", ", splits: true"] {
        let place = finished(&format!("export: {{formats: all{splits}}}\n"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats.py");
        let home = place.path("hub");
        let mut command = Command::new(&python);
        command.arg(script).arg(place.path("out")).env("HF_HOME", &home).env("HF_HUB_OFFLINE", "1");
        print!("{}", expect(&mut command, 0));
    }
}
