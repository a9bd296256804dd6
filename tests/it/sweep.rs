//! Sweeps from outside: a grid run by the real program, killed in the middle, gone on with, and its verdict.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Place, Server, expect, qaflow};

fn records(place: &Place) -> usize {
    let Ok(entries) = std::fs::read_dir(place.path("benchmarks")) else { return 0 };
    entries.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "yaml")).count()
}

#[test]
fn a_killed_sweep_goes_on_and_finds_the_better_setting() {
    let place = Place::new();
    place.corpus(6, 3);
    // One request at a time takes many times as long as eight.
    let server = Server::start(&["--slots", "16", "--latency-ms", "40"]);
    let config = place.config(&server, 4);
    let text = std::fs::read_to_string(&config).unwrap() + "telemetry: {gpu: {held: 2}}\n";
    std::fs::write(&config, text).unwrap();
    let args =
        ["bench", "sweep", "run.yaml", "--param", "concurrency=1,8", "--repeats", "3", "--name", "speed", "--json"];

    let mut child = qaflow(&place.path(""), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while records(&place) < 2 {
        assert!(began.elapsed() < Duration::from_secs(120), "the sweep does not get on");
        assert!(child.try_wait().unwrap().is_none(), "the sweep ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
    // In the middle of the third run.
    std::thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    let before = records(&place);
    assert!((2..6).contains(&before), "{before} records at the kill");
    let kept = std::fs::read(place.path("benchmarks/sweep_speed_r1_c01.yaml")).unwrap();

    let found: serde_json::Value = serde_json::from_str(&expect(&mut qaflow(&place.path(""), &args), 0)).unwrap();
    assert_eq!(found["runs"], 6);
    assert_eq!(
        std::fs::read(place.path("benchmarks/sweep_speed_r1_c01.yaml")).unwrap(),
        kept,
        "a finished run is kept"
    );
    let measures = found["measures"].as_array().unwrap();
    let measure = |name: &str| measures.iter().find(|m| m["measure"] == name).unwrap();
    for name in ["Time a document", "Accepted pairs a GPU-hour", "GPU time a document"] {
        let one = measure(name);
        assert_eq!((one["best"].as_str(), one["real"].as_bool()), (Some("concurrency=8"), Some(true)), "{one}");
    }
    // Both settings give the same pairs: nothing to choose between them.
    let pairs = measure("Pairs a document");
    assert!(pairs["words"].as_str().unwrap().contains("no real difference"), "{pairs}");

    // Everything is there: asking again runs nothing, and a report shows it.
    let requests = server.requests().arrived.len();
    expect(&mut qaflow(&place.path(""), &args), 0);
    assert_eq!(server.requests().arrived.len(), requests);
    expect(&mut qaflow(&place.path(""), &["bench", "report"]), 0);
    let report = std::fs::read_to_string(place.path("BENCHMARKS.md")).unwrap();
    assert!(report.contains("concurrency=8 is better than every other"), "{report}");
    let page = std::fs::read_to_string(place.path("report.html")).unwrap();
    assert!(page.contains("Time a document by concurrency"));

    // Another grid under the same name would mix two experiments.
    let other = ["bench", "sweep", "run.yaml", "--param", "concurrency=2,3", "--name", "speed"];
    expect(&mut qaflow(&place.path(""), &other), 2);
    let fewer = ["bench", "sweep", "run.yaml", "--param", "concurrency=1,8", "--repeats", "2", "--name", "speed"];
    let said = qaflow(&place.path(""), &fewer).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("holds this sweep with 3 repeats: give at least as many --repeats"), "{said}");
}

#[test]
fn a_wrong_cell_is_named_before_anything_is_run() {
    let place = Place::new();
    place.corpus(1, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    place.config(&server, 4);
    for (param, word) in [
        ("concurrency=0,4", "llm.concurrency"),
        ("chunk_size=500,abc", "stages.chunk.size"),
        ("colour=red", "give concurrency"),
        ("stages.chnk.size=500", "no stage is called `chnk`; there are extract, chunk,"),
        ("concurrency=4,4", "twice"),
        ("concurrency=", "empty"),
    ] {
        let output = qaflow(&place.path(""), &["bench", "sweep", "run.yaml", "--param", param]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{param}: {error}");
        assert!(error.contains(word), "{param}: {error}");
    }
    assert!(server.requests().arrived.is_empty());
}
