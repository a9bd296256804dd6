//! What `status` says of real runs: the bottleneck by name, from another process and without the lease.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Place, Server, expect, output, qaflow, run};

/// Runs with a delay and gives the names that `status --json` gave meanwhile, and the last status.
fn observed(place: &Place, config: &Path, delay: (&str, &str)) -> (Vec<String>, serde_json::Value) {
    let dir = place.path("");
    let mut child = qaflow(&dir, &["run", &config.display().to_string()])
        .env(delay.0, delay.1)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut names = Vec::new();
    loop {
        if let Some(ended) = child.try_wait().unwrap() {
            assert_eq!(ended.code(), Some(0));
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
        if place.path("state/status.json").exists() {
            let status: serde_json::Value =
                serde_json::from_str(&expect(&mut qaflow(&dir, &["status", "--state", "state", "--json"]), 0)).unwrap();
            names.extend(status["bottleneck"]["name"].as_str().map(str::to_owned));
        }
    }
    let last = std::fs::read_to_string(place.path("state/status.json")).unwrap();
    (names, serde_json::from_str(&last).unwrap())
}

fn named(delay: (&str, &str), documents: usize, server: &[&str], concurrency: usize) -> (String, serde_json::Value) {
    let place = Place::new();
    place.corpus(documents, 2);
    let server = Server::start(server);
    let config = place.config(&server, concurrency);
    let pipeline = std::fs::read_to_string(place.path("pipeline.yaml")).unwrap();
    // A slow stage must be narrow to be the slowest.
    let stage = delay.1.split(':').next().unwrap_or_default();
    let pipeline = pipeline.replace(&format!("{{kind: {stage},"), &format!("{{kind: {stage}, concurrency: 2,"));
    std::fs::write(place.path("pipeline.yaml"), pipeline).unwrap();
    let (live, last) = observed(&place, &config, delay);
    let most = last["limited_by"][0]["name"].as_str().unwrap_or("nothing").to_owned();
    assert!(live.contains(&most), "named at the end, but never while it ran: {most} of {live:?}");
    assert_eq!(last["phase"], "finished");
    let url = server.base_url.clone();
    (if most == url { "the server".into() } else { most }, last)
}

#[test]
fn a_slow_extract_is_named() {
    assert_eq!(named(("QAFLOW_SLOW_STAGE", "extract:250ms"), 48, &["--latency-ms", "0"], 32).0, "extract");
}

#[test]
fn a_slow_chunk_is_named() {
    assert_eq!(named(("QAFLOW_SLOW_STAGE", "chunk:250ms"), 48, &["--latency-ms", "0"], 32).0, "chunk");
}

#[test]
fn a_slow_generate_is_named() {
    assert_eq!(named(("QAFLOW_SLOW_STAGE", "generate:250ms"), 24, &["--latency-ms", "0"], 32).0, "generate");
}

#[test]
fn a_slow_validate_is_named() {
    assert_eq!(named(("QAFLOW_SLOW_STAGE", "validate:250ms"), 10, &["--latency-ms", "0"], 32).0, "validate");
}

#[test]
fn a_slow_score_is_named() {
    assert_eq!(named(("QAFLOW_SLOW_STAGE", "score:250ms"), 10, &["--latency-ms", "0"], 32).0, "score");
}

#[test]
fn a_full_server_is_named() {
    let (name, last) = named(("QAFLOW_UNUSED", ""), 12, &["--latency-ms", "300"], 4);
    assert_eq!(name, "the server", "{last}");
    assert!(last["limited_by"][0]["share"].as_f64().unwrap() > 0.5, "{}", last["limited_by"]);
}

#[test]
fn a_slow_disk_is_named() {
    let (name, last) = named(("QAFLOW_SLOW_COMMIT", "150ms"), 60, &["--latency-ms", "0"], 32);
    assert_eq!(name, "disk", "{last}");
    assert!(last["writer"]["commit_seconds"].as_f64().unwrap() >= 0.15, "{}", last["writer"]);
}

#[test]
fn a_delay_that_cannot_be_read_is_refused() {
    let place = Place::new();
    place.corpus(1, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 4).display().to_string();
    for (name, value) in [("QAFLOW_SLOW_STAGE", "chunk=5"), ("QAFLOW_SLOW_COMMIT", "soon")] {
        let output = qaflow(&place.path(""), &["run", &config]).env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(name) && text.contains(value), "{text}");
    }
}

#[test]
fn errors_are_shown_by_class_and_the_screen_fits_eighty_columns() {
    let place = Place::new();
    place.corpus(6, 2);
    std::fs::write(place.path("corpus/broken.pdf"), b"%PDF-1.4\nnothing").unwrap();
    let server = Server::start(&["--latency-ms", "20", "--fault-503", "0.3"]);
    let config = place.config(&server, 8);
    run(&place, &config, &["--set", "max_failure_ratio=1"], 0);
    let dir = place.path("");
    let text = expect(&mut qaflow(&dir, &["status", "--state", "state"]), 0);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("finished") && text.contains("model http_503") && text.contains("extract"), "{text}");
    let json = expect(&mut qaflow(&dir, &["status", "--state", "state", "--json", "--watch"]), 0);
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    let errors = status["errors"].as_array().unwrap();
    let busy = errors.iter().find(|e| e["label"] == "http_503").unwrap();
    assert_eq!((busy["class"].as_str(), busy["stage"].as_str()), (Some("transient"), Some("model")));
    assert!(errors.iter().any(|e| e["class"] == "poison" && e["stage"] == "extract"), "{errors:?}");
}

#[test]
fn a_killed_run_is_told_and_no_longer_watched() {
    let place = Place::new();
    place.corpus(20, 3);
    let server = Server::start(&["--latency-ms", "300"]);
    let config = place.config(&server, 2).display().to_string();
    let dir = place.path("");
    let mut child = qaflow(&dir, &["run", &config]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let json = || -> serde_json::Value {
        serde_json::from_str(&expect(&mut qaflow(&dir, &["status", "--state", "state", "--json"]), 0)).unwrap()
    };
    while !place.path("state/status.json").exists() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let running = json();
    assert_eq!((running["life"].as_str(), running["ended"].as_str()), (Some("running"), None), "{running}");
    assert!(running["age_seconds"].as_f64().unwrap() < 30.0, "{running}");
    child.kill().unwrap();
    child.wait().unwrap();
    // Its process is gone from this machine: that is known at once.
    let killed = json();
    assert_eq!((killed["phase"].as_str(), killed["life"].as_str()), (Some("running"), Some("ended")), "{killed}");
    assert_eq!(killed["ended"], "killed");
    for args in [&["status", "--state", "state", "--watch"][..], &["status", "--state", "state*", "--watch"]] {
        let said = expect(&mut qaflow(&dir, args), 0);
        assert!(said.contains(&format!("process {}", child.id())) && said.contains("resumes"), "{said}");
        assert_eq!(said.matches("stage  ").count(), 1, "shown once: {said}");
    }
    // The next attempt ends as it says itself.
    run(&place, &place.path("run.yaml"), &["--limit", "1"], 0);
    let finished = json();
    assert_eq!((finished["life"].as_str(), finished["ended"].as_str()), (Some("ended"), Some("finished")));
    let watched = output(&mut qaflow(&dir, &["status", "--state", "state", "--watch", "--json"]));
    assert_eq!(String::from_utf8_lossy(&watched.stdout).lines().count(), 1);
}
