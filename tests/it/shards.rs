//! A corpus in shares gives the dataset that one process over the whole gives, byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::{Place, Server, expect, output, qaflow, run};

/// All files of a results folder but the manifest, which knows the clock.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    // The names at the top are links to the export in force.
    let files = walkdir::WalkDir::new(folder)
        .follow_links(true)
        .into_iter()
        .filter_entry(|entry| entry.file_name() != ".export")
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file());
    files
        .map(|entry| (entry.path().strip_prefix(folder).unwrap().to_owned(), std::fs::read(entry.path()).unwrap()))
        // These say which states and attempts it was made of.
        .filter(|(name, _)| !["manifest.json", "README.md", "SHA256SUMS"].iter().any(|own| name == Path::new(own)))
        .collect()
}

fn same(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, content) in &a {
        assert!(*content == b[name], "{} differs", name.display());
    }
}

fn says(place: &Place, args: &[&str], code: i32) -> String {
    let output = output(&mut qaflow(&place.path(""), args));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

fn json(place: &Place, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&expect(&mut qaflow(&place.path(""), args), 0)).unwrap()
}

#[test]
fn shares_export_the_bytes_of_the_whole() {
    let place = Place::new();
    let corpus = place.corpus(14, 2);
    // The same content under two names, a document that is given up, and names that need their folders.
    std::fs::copy(corpus.join("bulletin-0003.md"), corpus.join("a-copy.md")).unwrap();
    std::fs::write(corpus.join("empty.txt"), "").unwrap();
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 8);
    run(&place, &config, &["--state", "whole", "--out", "whole-out"], 0);
    assert!(place.results("whole-out")["dead_letters.jsonl"].lines().count() > 0);
    assert!(place.results("whole-out")["rejected.jsonl"].lines().count() > 0);

    // The folders of the configuration, with the share behind them; and in an array the share of the task.
    run(&place, &config, &["--shard", "0/3"], 0);
    run(&place, &config, &["--shard", "2/3"], 0);
    let lacking = says(&place, &["export", "--state", "state-*"], 1);
    assert!(lacking.contains("share 2 of 3 (--shard 1/3) is missing"), "{lacking}");
    assert!(!place.path("out").exists(), "nothing was written");
    let mut task = qaflow(&place.path(""), &["run", "run.yaml", "--shard", "auto"]);
    for (name, value) in [("ID", "8"), ("COUNT", "3"), ("MIN", "7"), ("MAX", "9")] {
        task.env(format!("SLURM_ARRAY_TASK_{name}"), value);
    }
    expect(&mut task, 0);
    assert!(place.path("state-2-of-3").is_dir() && place.path("out-2-of-3/manifest.json").is_file());

    // By default to the folder that the shares' are named after.
    let said = says(&place, &["export", "--state", "state-*-of-3"], 0);
    assert!(said.contains("in 3 states written to "), "{said}");
    same(&place.path("whole-out"), &place.path("out"));
    // Named one by one, in any order.
    let args =
        ["export", "--state", "state-3-of-3", "--state", "state-1-of-3", "--state", "state-2-of-3", "--out", "o2"];
    says(&place, &args, 0);
    same(&place.path("whole-out"), &place.path("o2"));
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("o2/manifest.json")).unwrap()).unwrap();
    let whole: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("whole-out/manifest.json")).unwrap()).unwrap();
    for key in ["run_id", "finished", "documents", "stages", "pairs_accepted", "files", "notes", "model_calls"] {
        assert_eq!(manifest[key], whole[key], "{key}");
    }
    assert_eq!(manifest["states"].as_array().unwrap().len(), 3);

    // The other commands.
    let status = json(&place, &["status", "--state", "state-*", "--json"]);
    assert_eq!((status["states"].as_array().unwrap().len(), status["missing"].as_array().unwrap().len()), (3, 0));
    let one = json(&place, &["status", "--state", "whole", "--json"]);
    for (sum, stage) in status["total"]["stages"].as_array().unwrap().iter().zip(one["stages"].as_array().unwrap()) {
        for count in ["name", "admitted", "done", "rejected", "dead", "pending", "emitted"] {
            assert_eq!(sum[count], stage[count], "{count}");
        }
    }
    let verified = json(&place, &["verify", "--state", "state-*", "--json"]);
    let whole = json(&place, &["verify", "--state", "whole", "--json"]);
    assert_eq!(verified["stages"], whole["stages"]);
    let failures = expect(&mut qaflow(&place.path(""), &["failures", "list", "--json", "--state", "state-*"]), 0);
    assert_eq!(failures, expect(&mut qaflow(&place.path(""), &["failures", "list", "--json", "--state", "whole"]), 0));
    let id = serde_json::from_str::<serde_json::Value>(failures.lines().next().unwrap()).unwrap()["id"].clone();
    let shown = says(&place, &["failures", "show", id.as_str().unwrap(), "--state", "state-*"], 0);
    assert!(shown.contains("empty.txt"), "{shown}");
    let again = says(&place, &["failures", "retry", "--state", "state-*", "--id", id.as_str().unwrap()], 0);
    assert!(again.starts_with("1 pending again"), "{again}");
    let lacking = says(&place, &["export", "--state", "state-*"], 1);
    assert!(lacking.contains("is not finished: 1 item pending"), "{lacking}");
    let said = says(&place, &["export", "--state", "state-*", "--partial", "--out", "part"], 0);
    assert!(said.contains("the dataset is not whole"), "{said}");
    assert!(place.path("part/dataset.jsonl").is_file());
}

#[test]
fn a_growing_corpus_leaves_documents_in_their_shares() {
    let place = Place::new();
    place.corpus(8, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 8);
    for share in ["0/2", "1/2"] {
        run(&place, &config, &["--shard", share], 0);
    }
    place.corpus(15, 1);
    let before = server.requests().arrived.len();
    let first_passages = server.requests().passages.len();
    for share in ["0/2", "1/2"] {
        run(&place, &config, &["--shard", share], 0);
    }
    let requests = server.requests();
    let new: usize = requests.since(before).values().sum();
    assert!(new > 0 && requests.passages.len() > first_passages);
    let distinct: std::collections::BTreeSet<&String> = requests.arrived.iter().map(|(id, _)| id).collect();
    assert_eq!(distinct.len(), requests.arrived.len(), "a document changed its share, and was asked about twice");
    run(&place, &config, &["--state", "whole", "--out", "whole-out"], 0);
    says(&place, &["export", "--state", "state-*"], 0);
    same(&place.path("whole-out"), &place.path("out"));
}

#[test]
fn states_that_do_not_belong_together_are_named() {
    let place = Place::new();
    place.corpus(6, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 8);
    run(&place, &config, &["--shard", "0/2"], 0);
    let refused = says(&place, &["run", "run.yaml", "--shard", "1/2", "--state", "state-1-of-2"], 2);
    assert!(refused.contains("holds share 1 of 2 (--shard 0/2), and this run takes share 2 of 2"), "{refused}");
    let refused = says(&place, &["run", "run.yaml", "--state", "state-1-of-2", "--out", "o"], 2);
    assert!(refused.contains("and this run takes no share") && refused.contains("--change-shard"), "{refused}");
    assert!(says(&place, &["run", "run.yaml", "--shard", "auto"], 2).contains("SLURM_ARRAY_TASK_ID is not set"));

    // Another plan.
    let pipeline = std::fs::read_to_string(place.path("pipeline.yaml")).unwrap();
    std::fs::write(place.path("other.yaml"), pipeline.replace("questions_per_chunk: 3", "questions_per_chunk: 2"))
        .unwrap();
    run(&place, &config, &["--shard", "1/2", "--set", "pipeline=other.yaml"], 0);
    let refused = says(&place, &["export", "--state", "state-*"], 2);
    assert!(
        refused.contains("were run by different plans")
            && refused.contains("of `generate`, `score`, `validate` differ"),
        "{refused}"
    );
    assert!(refused.contains("state-1-of-2") && refused.contains("state-2-of-2"), "{refused}");

    // Another division, the same share twice, no share at all.
    run(&place, &config, &["--shard", "0/3", "--state", "third", "--out", "third-out"], 0);
    let refused = says(&place, &["status", "--state", "state-1-of-2", "third"], 2);
    assert!(refused.contains("they are not shares of one division"), "{refused}");
    run(&place, &config, &["--shard", "0/2", "--state", "twice", "--out", "twice-out"], 0);
    let refused = says(&place, &["export", "--state", "state-1-of-2", "twice"], 2);
    assert!(refused.contains("the same share is there twice"), "{refused}");
    assert!(says(&place, &["verify", "--state", "nothing-*"], 2).contains("no folder that holds a state fits"));

    // Two states over inputs that overlap: each document once.
    std::fs::create_dir(place.path("more")).unwrap();
    std::fs::copy(place.path("corpus/bulletin-0002.md"), place.path("more/again.md")).unwrap();
    std::fs::write(
        place.path("more/new.md"),
        std::fs::read_to_string(place.path("corpus/bulletin-0001.md")).unwrap() + "x",
    )
    .unwrap();
    run(&place, &config, &["--state", "left", "--out", "left-out"], 0);
    run(&place, &config, &["more", "--state", "right", "--out", "right-out"], 0);
    run(&place, &config, &["corpus", "more", "--state", "both", "--out", "both-out"], 0);
    assert!(
        says(&place, &["export", "--state", "left", "right"], 2).contains("name the folder of the results with --out")
    );
    says(&place, &["export", "--state", "left", "right", "--out", "union"], 0);
    same(&place.path("both-out"), &place.path("union"));
}

#[test]
fn a_state_that_holds_two_shares_says_so() {
    let place = Place::new();
    place.corpus(9, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 8);
    run(&place, &config, &["--state", "whole", "--out", "whole-out"], 0);
    for share in ["0/3", "1/3", "2/3"] {
        run(&place, &config, &["--shard", share], 0);
    }
    let change = ["--shard", "1/3", "--change-shard", "--state", "state-1-of-3", "--out", "out-1-of-3"];
    run(&place, &config, &change, 0);
    // Where the share that it held before lies nowhere else, that is said, and not taken for granted.
    let mixed = "state-1-of-3 holds share 2 of 3 (--shard 1/3), and was run over share 1 of 3 (--shard 0/3) before";
    let lacking = says(&place, &["export", "--state", "state-1-of-3", "state-3-of-3", "--out", "o"], 1);
    assert!(lacking.contains("share 1 of 3 (--shard 0/3) is missing") && lacking.contains(mixed), "{lacking}");
    for command in ["status", "verify"] {
        let said = says(&place, &[command, "--state", "state-1-of-3", "state-3-of-3"], 0);
        assert!(said.contains(mixed), "{said}");
    }
    // With another state for that share the dataset is that of the whole, and says what it was made of.
    run(&place, &config, &["--shard", "0/3", "--state", "first", "--out", "first-out"], 0);
    let said = says(&place, &["export", "--state", "first", "state-1-of-3", "state-3-of-3", "--out", "o"], 0);
    assert!(said.contains(mixed), "{said}");
    same(&place.path("whole-out"), &place.path("o"));
    let manifest = std::fs::read_to_string(place.path("o/manifest.json")).unwrap();
    assert!(manifest.contains(mixed) && manifest.contains("in two states: "), "{manifest}");
}
