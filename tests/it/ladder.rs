//! The whole ladder by simulation: growing batches of a generated corpus, killed on the way, recorded, and a report of
//! which every figure is computed anew from the records.
//!
//! The short form runs with the tests. `make ladder` is the ignored one, over 1,100 documents.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::recompute::check_report;
use crate::support::{Place, Server, expect, qaflow, stats, verify, write_document};

/// What is climbed.
struct Climb {
    documents: usize,
    sizes: &'static str,
    /// Kills in each of the rungs that last long enough.
    kills: usize,
    latency_ms: &'static str,
}

const PIPELINE: &str = "name: ladder
stages:
  extract: {kind: extract, input: source}
  chunk: {kind: chunk, input: extract, size: 900}
  generate: {kind: generate, input: chunk, questions_per_chunk: 2}
  validate: {kind: validate, input: generate}
  score: {kind: score, input: validate, keep: {accuracy: 4, relevance: 4, clarity: 3}}
";

/// Lengths in paragraphs, skewed as policy documents are: most are short, few are long.
fn paragraphs(n: usize) -> usize {
    match n * 7 % 20 {
        0 => 12,
        1..=3 => 6,
        4..=9 => 3,
        _ => 1,
    }
}

/// Climbs in `place` and gives the folder of the report.
fn climb(place: &Place, climb: &Climb) -> PathBuf {
    let corpus = place.path("corpus");
    std::fs::create_dir_all(&corpus).unwrap();
    for n in 0..climb.documents {
        write_document(&corpus, n, paragraphs(n));
    }
    // One that cannot be read: no UTF-8.
    std::fs::write(corpus.join("broken.txt"), [0xff, 0xfe, 0x00, 0xd8, 0xc3, 0x28, 0xff]).unwrap();
    let server = Server::start(&["--slots", "32", "--latency-ms", climb.latency_ms, "--bad-pairs", "0.1"]);
    std::fs::write(place.path("pipeline.yaml"), PIPELINE).unwrap();
    for (environment, gpus) in [("local", 2), ("cluster", 4)] {
        let config = format!(
            "pipeline: pipeline.yaml\ninput: [corpus]\nstate: state/{environment}\nout: out/{environment}\nenvironment: \
             {environment}\nllm:\n  provider: openai\n  endpoints: [{{base_url: \"{}\"}}]\n  model: simulated\n  \
             concurrency: 32\n  retry: {{initial_ms: 50, max_ms: 1000}}\ntelemetry: {{gpu: {{simulated: {gpus}}}}}\n\
             budget: {{gpu_hours: 1000}}\ngate: {{min_acceptance: 0.5, min_accuracy: 3.5, max_failed: 0.3}}\n",
            server.base_url
        );
        std::fs::write(place.path(&format!("{environment}.yaml")), config).unwrap();
    }
    std::fs::create_dir_all(place.path("configs")).unwrap();
    let prices = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/prices.yaml");
    std::fs::copy(prices, place.path("configs/prices.yaml")).unwrap();

    let root = place.path("");
    let args = ["manifest", "ladder", "corpus", "--out", "manifests", "--sizes", climb.sizes, "--json"];
    let ladder: Value = serde_json::from_str(&expect(&mut qaflow(&root, &args), 0)).unwrap();
    let mut killed = 0;
    let mut random = fastrand::Rng::with_seed(7);
    for (at, rung) in ladder["rungs"].as_array().unwrap().iter().enumerate() {
        // The first two are local trials, the rest is on the cluster.
        let environment = if at < 2 { "local" } else { "cluster" };
        let manifest = format!("manifests/{}", rung["manifest"].as_str().unwrap());
        let config = format!("{environment}.yaml");
        let run = ["run", config.as_str(), "--manifest", &manifest];
        let new = rung["new_documents"].as_u64().unwrap();
        for _ in 0..if new >= 10 { climb.kills } else { 0 } {
            killed += usize::from(kill_on_the_way(&root, &run, &server, 20 + random.u64(0..60)));
        }
        expect(&mut qaflow(&root, &run), 0);
        let state = format!("state/{environment}");
        let made = expect(&mut qaflow(&root, &["bench", "record", "--state", &state]), 0);
        assert!(made.contains(&format!("benchmarks/{environment}_")), "{made}");
        let gate = crate::support::output(&mut qaflow(&root, &["bench", "gate", &config]));
        let said = String::from_utf8_lossy(&gate.stdout).into_owned();
        assert!(matches!(gate.status.code(), Some(0 | 4)), "{said}");
        assert_eq!(gate.status.code() == Some(0), said.starts_with("GO after"), "{said}");
    }
    assert!(killed >= climb.kills, "only {killed} runs lasted long enough to be killed");
    println!("{killed} kills over {} rungs", ladder["rungs"].as_array().unwrap().len());
    verify(place, "state/local");
    verify(place, "state/cluster");

    std::fs::write(place.path("benchmarks/NOTES.md"), "# Lessons\n\nA rehearsal costs nothing.\n").unwrap();
    let report = ["bench", "report", "cluster.yaml"];
    assert!(expect(&mut qaflow(&root, &report), 0).contains("written"));
    assert!(expect(&mut qaflow(&root, &report), 0).contains("unchanged"), "the clock is not in it");
    let listed = expect(&mut qaflow(&root, &["bench", "ladder", "--json"]), 0);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert!(listed.as_array().unwrap().iter().all(|rung| rung["done"] == true), "{listed}");
    place.path("")
}

/// Starts a run and kills it once it has had so many answers; says whether it was killed before it ended.
fn kill_on_the_way(root: &Path, run: &[&str], server: &Server, answers: u64) -> bool {
    let served = |server: &Server| stats(server)["outcomes"]["ok"].as_u64().unwrap_or(0);
    let before = served(server);
    let mut child = qaflow(root, run).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if served(server) >= before + answers {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_ladder_is_climbed_and_every_figure_follows_from_the_records() {
    let place = Place::new();
    let root = climb(&place, &Climb { documents: 79, sizes: "4,12,1,25,50,rest", kills: 1, latency_ms: "8" });
    check_report(&root, 80);
}

#[test]
#[ignore = "minutes: make ladder"]
fn the_whole_ladder() {
    let dir = std::env::var("QAFLOW_LADDER_DIR")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/ladder"), PathBuf::from);
    let place = Place::at(&dir);
    let root = climb(&place, &Climb { documents: 1099, sizes: "5,20,1,50,200,500,rest", kills: 2, latency_ms: "10" });
    check_report(&root, 1100);
    println!("{}", root.join("BENCHMARKS.md").display());
}
