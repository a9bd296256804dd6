//! So many accepted pairs of each document: met, within the cap, and the same bytes whatever happens meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Place, Server, output, qaflow, run, verify};

const WANTED: usize = 5;
const CAP: usize = 15;

/// The configuration of the tests, with a target behind it.
fn config(place: &Place, server: &Server, concurrency: usize) -> PathBuf {
    let config = place.config(server, concurrency);
    let pipeline = std::fs::read_to_string(place.path("pipeline.yaml"))
        .unwrap()
        .replace("questions_per_chunk: 3", "questions_per_chunk: 2")
        + &format!(
            "  target: {{kind: target, input: score, accepted_per_document: {WANTED}, at_most_candidates: {CAP}}}\n"
        );
    std::fs::write(place.path("pipeline.yaml"), pipeline).unwrap();
    config
}

/// Accepted pairs, candidates and passages never asked, by document.
#[derive(Debug, Default)]
struct Tally {
    accepted: usize,
    candidates: usize,
    unasked: usize,
    passages: BTreeSet<String>,
}

fn tally(place: &Place, out: &str) -> BTreeMap<String, Tally> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let results = place.results(out);
    let rows = |name: &str| -> Vec<serde_json::Value> {
        results[name].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for row in rows("dataset.jsonl") {
        let of = tallies.entry(row["source_document"].as_str().unwrap().into()).or_default();
        of.accepted += 1;
        of.candidates += 1;
        of.passages.insert(row["chunk_id"].as_str().unwrap().into());
    }
    for row in rows("rejected.jsonl").iter().chain(&rows("dead_letters.jsonl")) {
        let of = tallies.entry(row["source_document"].as_str().unwrap().into()).or_default();
        match (row["stage"].as_str().unwrap(), row["rejected_by"].as_str()) {
            ("generate", Some("target")) => of.unasked += 1,
            ("validate" | "score" | "target", _) => of.candidates += 1,
            _ => {}
        }
    }
    tallies
}

#[test]
fn every_document_with_enough_text_has_what_is_wanted() {
    let place = Place::new();
    place.corpus(20, 24);
    let server = Server::start(&["--latency-ms", "5"]);
    let config = config(&place, &server, 32);
    run(&place, &config, &[], 0);
    verify(&place, "state");
    let tallies = tally(&place, "out");
    assert_eq!(tallies.len(), 20);
    for (name, of) in &tallies {
        assert_eq!(of.accepted, WANTED, "{name}: {of:?}");
        assert!(of.candidates <= CAP && of.unasked > 0 && of.passages.len() >= 3, "{name}: {of:?}");
    }
    let results = place.results("out");

    // Another concurrency and another order of answers: the same bytes.
    run(&place, &config, &["--state", "narrow", "--out", "narrow-out", "--set", "llm.concurrency=2"], 0);
    assert_eq!(place.results("narrow-out"), results);

    // Another target: what was asked is not asked again. Back again: nothing is asked, and the bytes are the same.
    let asked = |place: &Place, wanted: &str| {
        let before = server.requests().arrived.len();
        run(place, &config, &["--set", wanted], 0);
        verify(place, "state");
        server.requests().arrived.split_off(before)
    };
    let old: BTreeSet<String> = server.requests().arrived.into_iter().map(|(id, _)| id).collect();
    let new = asked(&place, "stages.target.accepted_per_document=6");
    assert!(!new.is_empty() && new.iter().all(|(id, _)| !old.contains(id)), "an answer was bought twice");
    let more = tally(&place, "out");
    assert!(more.values().all(|of| of.accepted == 6 && of.candidates <= CAP), "{more:?}");
    assert!(asked(&place, "stages.target.accepted_per_document=5").is_empty());
    assert_eq!(place.results("out"), results);
}

fn killed(place: &Place, config: &Path, kills: u32, seed: u64) -> u32 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut done = 0;
    loop {
        let mut child = qaflow(
            &place.path(""),
            &["run", &config.display().to_string(), "--state", "killed", "--out", "killed-out"],
        )
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
        if done < kills {
            std::thread::sleep(Duration::from_millis(random.u64(30..1400)));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
                done += 1;
                if place.path("killed/identity.json").exists() {
                    verify(place, "killed");
                }
                continue;
            }
        }
        assert_eq!(child.wait().unwrap().code(), Some(0));
        return done;
    }
}

#[test]
fn sigkill_at_random_moments_gives_the_same_pairs() {
    let place = Place::new();
    place.corpus(60, 16);
    let whole = Server::start(&["--slots", "64", "--latency-ms", "150", "--jitter", "0.5"]);
    let configuration = config(&place, &whole, 24);
    run(&place, &configuration, &["--state", "whole", "--out", "whole-out"], 0);
    let server = Server::start(&["--slots", "64", "--latency-ms", "150", "--jitter", "0.5"]);
    let configuration = config(&place, &server, 24);
    let seed =
        std::env::var("QAFLOW_CRASH_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed} (QAFLOW_CRASH_SEED repeats the moments)");
    let kills = killed(&place, &configuration, 8, seed);
    println!("{kills} kills");
    assert!(kills >= 5, "only {kills} kills: the corpus is too small");
    verify(&place, "killed");
    let results = place.results("whole-out");
    for (name, content) in place.results("killed-out") {
        assert!(content == results[name], "{name} differs from that of the run that was not killed");
    }
    let tallies = tally(&place, "killed-out");
    assert!(tallies.values().all(|of| of.accepted <= WANTED && of.candidates <= CAP), "{tallies:?}");
}

#[test]
fn the_samples_give_five_of_five() {
    let place = Place::new();
    let server = Server::start(&["--latency-ms", "5"]);
    let config = config(&place, &server, 16);
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/samples");
    run(&place, &config, &["--set", "max_failure_ratio=1", samples], 0);
    verify(&place, "state");
    let tallies = tally(&place, "out");
    let with_passages: Vec<_> = tallies.iter().filter(|(_, of)| of.candidates > 0).collect();
    assert!(with_passages.len() >= 6, "{tallies:?}");
    for (name, of) in with_passages {
        assert!(of.candidates <= CAP, "{name}: {of:?}");
        assert_eq!(of.accepted, WANTED, "{name}: {of:?}");
    }
}

#[test]
fn pipelines_that_cannot_have_a_target_are_refused() {
    let place = Place::new();
    place.corpus(1, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    let path = config(&place, &server, 4);
    let good = std::fs::read_to_string(place.path("pipeline.yaml")).unwrap();
    let refused = |pipeline: String, expected: &str| {
        std::fs::write(place.path("pipeline.yaml"), pipeline).unwrap();
        let output = output(&mut qaflow(&place.path(""), &["run", &path.display().to_string()]));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(expected) && text.contains("pipeline.yaml:"), "expected “{expected}” in: {text}");
    };
    refused(good.replace("at_most_candidates: 15", "at_most_candidates: 4"), "fewer than");
    refused(good.replace("questions_per_chunk: 2", "questions_per_chunk: 20"), "at_most_candidates is 15");
    refused(
        good.replace("input: validate", "input: [validate, validate2]")
            + "  small: {kind: chunk, input: extract, size: 300}\n  other: {kind: generate, input: small}\n  \
               validate2: {kind: validate, input: other}\n",
        "one and the same stage",
    );
    refused(good.clone() + "  more: {kind: target, input: score}\n", "there is a target already");
    refused(good + "  more: {kind: target, input: target}\n", "leave one out");
}
