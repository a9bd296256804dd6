//! Change one thing, redo one thing: shown by what the server was asked.

use crate::support::{Place, Server, run, verify, write_document};

#[test]
fn only_what_a_change_determines_is_asked_again() {
    let place = Place::new();
    let corpus = place.corpus(8, 3);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 16);
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/prompts/score.md"), place.path("score.md")).unwrap();
    let pipeline = std::fs::read_to_string(place.path("pipeline.yaml")).unwrap();
    let pipeline = pipeline.replace("{kind: score,", "{kind: score, prompt: score.md,");
    std::fs::write(place.path("pipeline.yaml"), pipeline).unwrap();

    run(&place, &config, &[], 0);
    let first = server.requests();
    assert!(first.of("qa_pairs") > 0 && first.of("answer") > 0 && first.of("scores") > 0);
    let mut seen = first.arrived.len();
    let mut asked = |place: &Place, extra: &[&str]| {
        run(place, &config, extra, 0);
        verify(place, "state");
        let requests = server.requests();
        let new = requests.since(seen);
        seen = requests.arrived.len();
        new
    };

    // Concurrency, rates and retries determine nothing.
    let speed = ["--set", "llm.concurrency=3", "--set", "llm.retry.initial_ms=7", "--set", "stages.generate.buffer=2"];
    assert!(asked(&place, &speed).is_empty());
    assert!(asked(&place, &["--set", "stages.validate.concurrency=2"]).is_empty());

    // Thresholds of validate: the pairs stay, and so do the answers of the round trip.
    let new = asked(&place, &["--set", "stages.validate.round_trip.min_f1=0.5"]);
    assert_eq!(new.get("qa_pairs"), None, "{new:?}");
    assert_eq!(new.get("answer"), None, "{new:?}");
    let new = asked(&place, &["--set", "stages.validate.judge.min_groundedness=3"]);
    assert_eq!((new.get("qa_pairs"), new.get("answer"), new.get("judge")), (None, None, None), "{new:?}");
    let new = asked(&place, &[]);
    assert!(new.is_empty(), "back to where it was: {new:?}");

    // Thresholds of score: no call at all, the judge's answers stay.
    let before = place.results("out")["dataset.jsonl"].lines().count();
    assert!(asked(&place, &["--set", "stages.score.keep.accuracy=5"]).is_empty());
    let after = place.results("out")["dataset.jsonl"].lines().count();
    assert!(after < before, "a stricter threshold keeps fewer pairs: {after} of {before}");

    // The score prompt: score runs again, nothing else.
    let prompt = std::fs::read_to_string(place.path("score.md")).unwrap();
    std::fs::write(place.path("score.md"), prompt.replace("judge the", "judge strictly the")).unwrap();
    let new = asked(&place, &[]);
    assert_eq!(new.keys().collect::<Vec<_>>(), ["scores"]);
    assert_eq!(new["scores"], first.of("scores"));

    // One more document: that document alone.
    write_document(&corpus, 100, 3);
    let new = asked(&place, &[]);
    assert!(new["qa_pairs"] >= 1 && new["qa_pairs"] <= first.of("qa_pairs") / 4, "{new:?}");
    let dataset = &place.results("out")["dataset.jsonl"];
    assert!(dataset.contains("bulletin-0100.md"));

    // The same content under another name: nothing.
    std::fs::copy(corpus.join("bulletin-0000.md"), corpus.join("copy.md")).unwrap();
    assert!(asked(&place, &[]).is_empty());
}

#[test]
fn a_fork_and_a_join_give_both_branches_pairs() {
    let place = Place::new();
    place.corpus(4, 3);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 16);
    let root = env!("CARGO_MANIFEST_DIR");
    let pipeline = format!("pipeline={root}/pipelines/medicaid-two-generators.yaml");
    run(&place, &config, &["--set", &pipeline], 0);
    let findings = verify(&place, "state");
    let admitted = |name: &str| {
        let stages = findings["stages"].as_array().unwrap();
        stages.iter().find(|s| s["stage"] == name).unwrap()["admitted"].as_u64().unwrap()
    };
    assert_eq!(admitted("facts"), admitted("rules"));
    assert!(admitted("validate") >= 2 * admitted("facts"));
    let dataset = &place.results("out")["dataset.jsonl"];
    let types = |wanted: &[&str]| {
        dataset
            .lines()
            .filter(|line| wanted.iter().any(|t| line.contains(&format!("\"question_type\":\"{t}\""))))
            .count()
    };
    assert!(types(&["factual", "definition", "numeric"]) > 0);
    assert!(types(&["procedural", "conditional", "exception", "comparison"]) > 0);
}

#[test]
fn a_changed_concurrency_gives_the_same_bytes() {
    let place = Place::new();
    place.corpus(12, 3);
    let server = Server::start(&["--latency-ms", "5", "--jitter", "1"]);
    let config = place.config(&server, 1);
    run(&place, &config, &["--state", "one", "--out", "one-out"], 0);
    let wide =
        ["--state", "many", "--out", "many-out", "--set", "llm.concurrency=64", "--set", "stages.chunk.buffer=1"];
    run(&place, &config, &wide, 0);
    assert_eq!(place.results("one-out"), place.results("many-out"));
}
