//! The benchmark book's commands: records of runs by the real program, and what they refuse.

use serde_json::Value;

use crate::support::{Place, Server, expect, output, qaflow, run};

fn example() -> String {
    std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/benchmarks/local_test_2025-11-04_001.yaml"),
    )
    .unwrap()
}

fn shown(place: &Place, id: &str) -> Value {
    let out = expect(&mut qaflow(&place.path(""), &["bench", "show", id, "--json"]), 0);
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_run_leaves_its_record_and_a_longer_corpus_a_second_one_of_the_new_documents() {
    let place = Place::new();
    let server = Server::start(&["--slots", "8", "--latency-ms", "2"]);
    place.corpus(3, 2);
    let config = place.config(&server, 8);
    run(&place, &config, &["--bench", "local_first_2026-01-01"], 0);
    let first = shown(&place, "local_first");
    assert_eq!(first["dataset"]["pdfs_processed"], 3);
    assert_eq!(first["configuration"]["chunk_size"], 600);
    assert_eq!(first["configuration"]["questions_per_chunk"], 3);
    assert_eq!(first["configuration"]["concurrency_limit"], 8);
    assert_eq!(first["model"]["serving"], format!("qaflow simulate-llm {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(first["quality"]["rated_by"], "judge");
    let dataset = std::fs::read_to_string(place.path("out/dataset.jsonl")).unwrap().lines().count();
    assert_eq!(first["results"]["qa_pairs_generated"], dataset);

    // Nothing new: nothing to record, and the name is taken.
    let again = output(&mut qaflow(&place.path(""), &["bench", "record", "--state", "state"]));
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is in a record already"));
    run(&place, &config, &["--bench", "local_first_2026-01-01"], 2);
    run(&place, &config, &["--bench", "../sly"], 2);

    place.corpus(5, 2);
    run(&place, &config, &[], 0);
    let args =
        ["bench", "record", "--state", "state", "--describe", "longer", "--set", "model.tensor_parallel=4", "--quick"];
    let said = expect(&mut qaflow(&place.path(""), &args), 0);
    assert!(said.contains("run_id: local_longer_") && said.contains("pdfs: 2"), "{said}");
    let second = shown(&place, "local_longer");
    assert_eq!(second["dataset"]["pdfs_processed"], 2, "the three of the first record are not counted again");
    assert_eq!(second["model"]["tensor_parallel"], 4);
    assert_eq!(second["not_measured"]["model.tensor_parallel"], Value::Null);
    assert_eq!(second["covers"][0]["first_attempt"], 2);
    let dataset = std::fs::read_to_string(place.path("out/dataset.jsonl")).unwrap().lines().count() as u64;
    let of = |record: &Value| record["results"]["qa_pairs_generated"].as_u64().unwrap();
    assert_eq!(of(&first) + of(&second), dataset);

    // The same record again, because ratings by people came in.
    std::fs::write(place.path("ratings.csv"), "clarity,accuracy,relevance,overall,accepted\n5,4,4,4,yes\n3,4,5,3,no\n")
        .unwrap();
    let id = second["id"].as_str().unwrap();
    let args = ["bench", "record", "--state", "state", "--id", id, "--replace", "--ratings", "ratings.csv"];
    expect(&mut qaflow(&place.path(""), &args), 0);
    let rated = shown(&place, id);
    assert_eq!(rated["dataset"]["pdfs_processed"], 2);
    assert_eq!(rated["quality"]["rated_by"], "people");
    assert_eq!(
        (rated["quality"]["avg_clarity_score"].as_f64(), rated["quality"]["sample_size"].as_u64()),
        (Some(4.0), Some(2))
    );
    assert_eq!(rated["quality"]["overall_acceptance_rate"].as_f64(), Some(0.5));
    std::fs::write(place.path("ratings.csv"), "clarity,accuracy,relevance,overall,accepted\n5,9,4,4,yes\n").unwrap();
    let bad = output(&mut qaflow(&place.path(""), &args));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("line 2: accuracy must be a whole number from 1 to 5"));
}

#[test]
fn a_state_in_use_a_missing_one_and_a_bad_field_are_refused() {
    let place = Place::new();
    for (args, said) in [
        (vec!["bench", "record", "--state", "nowhere"], "nowhere holds no state"),
        (vec!["bench", "record"], "no state was found below state/"),
        (vec!["bench", "record", "--id", "a/b"], "give letters, digits"),
        (vec!["bench", "show"], "holds no benchmark record"),
        (vec!["bench", "gate"], "holds no benchmark record"),
        (vec!["bench", "compare"], "holds no benchmark record"),
        (vec!["bench", "ladder"], "make a ladder with"),
        (vec!["manifest", "ladder", "nowhere"], "nowhere does not exist"),
    ] {
        let output = output(&mut qaflow(&place.path(""), &args));
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)) && err.contains(said), "{args:?}: {err}");
    }
}

#[test]
fn the_users_example_goes_through_every_command() {
    let place = Place::new();
    std::fs::create_dir(place.path("benchmarks")).unwrap();
    std::fs::write(place.path("benchmarks/local_test_2025-11-04_001.yaml"), example()).unwrap();
    let cluster =
        "run_id: cluster_smoke_2025-11-10\ndate: 2025-11-10\npdfs: 50\ntime_minutes: 60\nqa_pairs: 260\ngpu_hours: 8\n";
    std::fs::write(place.path("benchmarks/smoke.yaml"), cluster).unwrap();
    std::fs::write(place.path("benchmarks/other.yaml"), "something: else\n").unwrap();
    let prices = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/prices.yaml").display().to_string();
    let root = place.path("");
    let said = expect(&mut qaflow(&root, &["bench", "compare"]), 0);
    // 87 / 10 against 60 / 50.
    assert!(said.contains("| minutes a document") && said.contains("| 8.7") && said.contains("0.1379 ×"), "{said}");
    let args = ["bench", "project", "--documents", "1100", "--budget", "1000", "--prices", &prices];
    let said = expect(&mut qaflow(&root, &args), 0);
    // 1,100 × 0.29 × 1.1 from the trial. In all: 10.9 used, and 1,050 × 0.16 × 1.1 = 184.8 to come.
    assert!(said.contains("| 350.9"), "{said}");
    assert!(said.contains("All: 195.7 GPU-hours") && said.contains("**within**"), "{said}");
    // Nobody rated these: that is no go, and says so.
    let gate = ["bench", "gate", "--documents", "1100", "--budget", "1000"];
    let said = expect(&mut qaflow(&root, &gate), 4);
    assert!(said.starts_with("NO-GO after cluster_smoke_2025-11-10"), "{said}");
    assert!(said.contains("not known: the record does not say"), "{said}");
    let args = ["bench", "report", "--documents", "1100", "--budget", "1000", "--prices", &prices];
    expect(&mut qaflow(&root, &args), 0);
    let page = std::fs::read_to_string(place.path("BENCHMARKS.md")).unwrap();
    assert!(page.contains("Nobody has written any yet.") && page.contains("## Cost"), "{page}");
    // A broken record is named and nothing is written over.
    std::fs::write(place.path("benchmarks/bad.yaml"), "benchmark_run: {id: x, results: {gpu_hours: lots}}\n").unwrap();
    let output = output(&mut qaflow(&root, &args));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && err.contains("benchmarks/bad.yaml: "), "{err}");
    assert_eq!(std::fs::read_to_string(place.path("BENCHMARKS.md")).unwrap(), page);
}

#[test]
fn the_gate_goes_by_the_rules_of_the_configuration() {
    let place = Place::new();
    let server = Server::start(&["--slots", "8", "--latency-ms", "2"]);
    place.corpus(3, 1);
    let config = place.config(&server, 8);
    run(&place, &config, &["--bench", "one"], 0);
    let gate = |set: &[&str], code: i32| -> Value {
        let config = config.display().to_string();
        let mut args = vec!["bench", "gate", config.as_str(), "--json", "--set", "gate.budget=off"];
        args.extend(set.iter().flat_map(|set| ["--set", set]));
        serde_json::from_str(&expect(&mut qaflow(&place.path(""), &args), code)).unwrap()
    };
    let low = ["gate.min_accuracy=1", "gate.min_clarity=1", "gate.min_relevance=1", "gate.min_acceptance=0"];
    let go = gate(&low, 0);
    assert_eq!(go["go"], true);
    let strict: Vec<&str> = low.into_iter().chain(["gate.min_clarity=5", "gate.max_failed=0"]).collect();
    let no = gate(&strict, 4);
    let broken: Vec<&Value> = no["findings"].as_array().unwrap().iter().filter(|f| f["holds"] != true).collect();
    assert_eq!(broken.len(), 1, "no document failed, so that rule holds even at zero: {no}");
    let config = config.display().to_string();
    let bad = output(&mut qaflow(&place.path(""), &["bench", "gate", &config, "--set", "gate.min_clarity=9"]));
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("gate.min_clarity must be a number from 1 to 5, or off"));
}

#[test]
fn manifests_of_a_ladder_are_nested_and_run_as_they_are() {
    let place = Place::new();
    let server = Server::start(&["--slots", "8", "--latency-ms", "0"]);
    place.corpus(12, 1);
    let config = place.config(&server, 8);
    let root = place.path("");
    let make = ["manifest", "ladder", "corpus", "--out", "lists/a", "--sizes", "2,5,1,rest"];
    let said = expect(&mut qaflow(&root, &make), 0);
    assert!(said.contains("| 04-rest") && said.contains("lists/a/04-rest.txt"), "{said}");
    let names = |rung: &str| -> Vec<String> {
        let text = std::fs::read_to_string(place.path("lists/a").join(rung)).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let (two, five, one, all) =
        (names("01-batch-2.txt"), names("02-batch-5.txt"), names("03-smoke-1.txt"), names("04-rest.txt"));
    assert_eq!((two.len(), five.len(), one.len(), all.len()), (2, 5, 1, 12));
    assert!(five.starts_with(&two) && two.starts_with(&one) && all.starts_with(&five));
    assert!(two[0].starts_with("../../corpus/"), "{two:?}");
    // Made again it is the same; with another seed it would be another, which is refused.
    expect(&mut qaflow(&root, &make), 0);
    let mut other = make.to_vec();
    other.extend(["--seed", "7"]);
    expect(&mut qaflow(&root, &other), 2);
    run(&place, &config, &["--manifest", "lists/a/01-batch-2.txt"], 0);
    expect(&mut qaflow(&root, &["bench", "record", "--state", "state"]), 0);
    run(&place, &config, &["--manifest", "lists/a/02-batch-5.txt"], 0);
    expect(&mut qaflow(&root, &["bench", "record", "--state", "state"]), 0);
    let said = expect(&mut qaflow(&root, &["bench", "ladder", "--json"]), 0);
    let rungs: Value = serde_json::from_str(&said).unwrap();
    let of = |at: usize| (rungs[at]["done"].clone(), rungs[at]["records"][0]["dataset"]["pdfs_processed"].clone());
    assert_eq!((of(0), of(1), of(2).0), ((true.into(), 2.into()), (true.into(), 3.into()), false.into()));
    assert_eq!(rungs[1]["records"][0]["rung"]["reused"], 2);
    assert_eq!(rungs[1]["records"][0]["rung"]["corpus_documents"], 12);
    let said = expect(&mut qaflow(&root, &["bench", "ladder"]), 0);
    assert!(said.contains("Next: 03-smoke-1 (1 documents, 0 new)"), "{said}");
    // A smoke test in a state that has done more than its one document: only that one is reused.
    run(&place, &config, &["--manifest", "lists/a/03-smoke-1.txt"], 0);
    expect(&mut qaflow(&root, &["bench", "record", "--state", "state", "--id", "smoke"]), 0);
    let smoke = shown(&place, "smoke");
    assert_eq!((&smoke["rung"]["reused"], &smoke["dataset"]["pdfs_processed"]), (&1.into(), &0.into()));
}

#[test]
fn near_duplicates_are_no_accepted_pairs_and_are_counted_once_over_the_records_of_a_state() {
    let place = Place::new();
    let server = Server::start(&["--slots", "8", "--latency-ms", "0"]);
    place.corpus(2, 2);
    let config = place.config(&server, 8);
    run(&place, &config, &["--bench", "first"], 0);
    // The same text in another document, whose name comes first: its pairs repeat those that are recorded.
    let text =
        std::fs::read_to_string(std::fs::read_dir(place.path("corpus")).unwrap().flatten().next().unwrap().path());
    std::fs::write(place.path("corpus/again.md"), text.unwrap() + "\n\n").unwrap();
    std::fs::rename(place.path("corpus/again.md"), place.path("corpus/000-again.md")).unwrap();
    run(&place, &config, &["--bench", "second"], 0);
    let records = [shown(&place, "first"), shown(&place, "second")];
    let sum = |path: &str| records.iter().map(|r| r.pointer(path).unwrap().as_u64().unwrap()).sum::<u64>();
    let rows = std::fs::read_to_string(place.path("out/dataset.jsonl")).unwrap().lines().count() as u64;
    let manifest: Value = serde_json::from_slice(&std::fs::read(place.path("out/manifest.json")).unwrap()).unwrap();
    assert_eq!(sum("/results/qa_pairs_generated"), rows);
    assert_eq!(Some(sum("/results/near_duplicates_refused")), manifest["near_duplicates_refused"].as_u64());
    let second = &records[1];
    assert!(second["results"]["near_duplicates_refused"].as_u64().unwrap() > 0, "{second}");
    // What follows from accepted pairs follows from those that stay.
    let pairs = second["results"]["qa_pairs_generated"].as_u64().unwrap();
    let of_rows: u64 = csv::Reader::from_path(place.path("benchmarks/second.documents.csv"))
        .unwrap()
        .deserialize::<std::collections::BTreeMap<String, String>>()
        .map(|row| row.unwrap()["pairs_accepted"].parse::<u64>().unwrap())
        .sum();
    assert_eq!(of_rows, pairs);
    let kept = second["quality"]["overall_acceptance_rate"].as_f64().unwrap()
        * second["quality"]["sample_size"].as_f64().unwrap();
    assert!((kept - pairs as f64).abs() < 0.01, "{kept} of {pairs}");
}

#[test]
fn attempts_that_a_record_counts_already_are_named() {
    let place = Place::new();
    let server = Server::start(&["--slots", "8", "--latency-ms", "0"]);
    place.corpus(2, 1);
    let config = place.config(&server, 8);
    run(&place, &config, &["--bench", "first"], 0);
    place.corpus(3, 1);
    run(&place, &config, &["--bench", "second"], 0);
    let record = |extra: &[&str]| {
        let mut args = vec!["bench", "record", "--state", "state"];
        args.extend(extra);
        let output = output(&mut qaflow(&place.path(""), &args));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = record(&["--from-attempt", "1", "--id", "twice"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("attempt 1 of state is counted by first already"), "{said}");
    assert!(said.contains("attempt 2 of state is counted by second already"), "{said}");
    std::fs::remove_file(place.path("benchmarks/twice.yaml")).unwrap();
    // Written anew, a record keeps to its own attempts and documents.
    let (code, said) = record(&["--id", "first", "--replace"]);
    assert!(code == Some(0) && !said.contains("counted by"), "{said}");
    let first = shown(&place, "first");
    assert_eq!((&first["covers"][0]["last_attempt"], &first["dataset"]["pdfs_processed"]), (&1.into(), &2.into()));
    // Without a name there is nothing to write anew; a figure below zero is no figure.
    assert_eq!(record(&["--replace"]).0, Some(2));
    let (code, said) = record(&["--from-attempt", "2", "--id", "bad", "--set", "results.gpu_hours=-1"]);
    assert!(code == Some(2) && said.contains("results.gpu_hours would be -1"), "{said}");
    assert!(!place.path("benchmarks/bad.yaml").exists());
}

#[test]
fn a_record_that_does_not_say_what_it_counts_is_not_counted_on_from() {
    let place = Place::new();
    let server = Server::start(&["--slots", "8", "--latency-ms", "0"]);
    place.corpus(2, 1);
    let config = place.config(&server, 8);
    run(&place, &config, &["--bench", "first"], 0);
    place.corpus(3, 1);
    run(&place, &config, &[], 0);
    let said = |args: &[&str], code: i32| {
        let output = output(&mut qaflow(&place.path(""), args));
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        err
    };
    let first = place.path("benchmarks/first.yaml");
    let sound = std::fs::read_to_string(&first).unwrap();
    for (last, odd) in [("0", " is 0, but covers.first_attempt is 1"), ("9", "")] {
        std::fs::write(&first, sound.replace("last_attempt: 1", &format!("last_attempt: {last}"))).unwrap();
        let err = said(&["bench", "record", "--state", "state"], 2);
        let why = format!("benchmarks/first.yaml counts attempts 1 to {last} of state, which has had 2 attempts");
        assert!(err.contains(&why) && err.contains("--id first --replace") && err.contains(odd), "{err}");
        // A report is made all the same.
        said(&["bench", "report"], 0);
        let page = std::fs::read_to_string(place.path("BENCHMARKS.md")).unwrap();
        assert!(
            odd.is_empty() || (page.contains("**Does not agree:** covers.last_attempt of ") && page.contains(odd)),
            "{page}"
        );
    }
    // What people set is followed by what follows from it.
    std::fs::write(&first, &sound).unwrap();
    let err = said(&["bench", "record", "--state", "state", "--id", "second", "--set", "results.gpu_hours=3"], 0);
    assert!(!err.contains("second: "), "{err}");
    let second = shown(&place, "second");
    assert_eq!((&second["covers"][0]["first_attempt"], &second["results"]["attempts"]), (&2.into(), &1.into()));
    assert_eq!(second["results"]["gpu_hours_per_pdf"].as_f64(), Some(3.0));
    // The odd record is written anew, up to the one that follows.
    std::fs::write(&first, sound.replace("last_attempt: 1", "last_attempt: 9")).unwrap();
    said(&["bench", "record", "--state", "state", "--id", "first", "--replace", "--from-attempt", "1"], 0);
    let again = shown(&place, "first");
    assert_eq!((&again["covers"][0]["last_attempt"], &again["dataset"]["pdfs_processed"]), (&1.into(), &2.into()));
    // A record in a file of another name keeps its name.
    std::fs::rename(&first, place.path("benchmarks/moved.yaml")).unwrap();
    let err = said(&["bench", "record", "--state", "state", "--from-attempt", "1", "--id", "first"], 2);
    assert!(err.contains("rename that file to first.yaml"), "{err}");
}

#[test]
fn contradictions_are_named_and_shown_beside_the_record_and_damage_is_refused() {
    let place = Place::new();
    let root = place.path("");
    std::fs::create_dir(place.path("benchmarks")).unwrap();
    let file = place.path("benchmarks/hand.yaml");
    let write = |changes: &[(&str, &str)]| {
        let text = changes.iter().fold(example(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        std::fs::write(&file, text).unwrap();
    };
    let report = ["bench", "report", "--documents", "1100", "--budget", "1000"];
    write(&[("gpu_hours: 2.9", "gpu_hours: 5.8"), ("date: 2025-", "date: 2199-")]);
    std::fs::write(place.path("benchmarks/NOTES.md"), "# Lessons\n\n```sh\n# all of it\n").unwrap();
    for (args, code) in
        [(&report[..], 0), (&["bench", "show"], 0), (&["bench", "gate", "--documents", "1100", "--budget", "9"], 4)]
    {
        let output = output(&mut qaflow(&root, args));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        let wanted =
            "benchmarks/hand.yaml: results.gpu_hours_per_pdf is 0.29, but gpu_hours / pdfs_processed gives 0.58";
        assert!(said.contains(wanted), "{args:?}: {said}");
        assert!(
            said.contains("benchmarks/hand.yaml: id is local_test_2025-11-04_001, but the file is called hand"),
            "{said}"
        );
        assert!(said.contains("benchmarks/hand.yaml: date is 2199-11-04, but today is "), "{said}");
        assert_eq!(said.contains("benchmarks/NOTES.md:3: this code block is never closed"), args == report, "{said}");
    }
    let page = std::fs::read_to_string(place.path("BENCHMARKS.md")).unwrap();
    let record = page.split_once("### local_test_2025-11-04_001").unwrap().1;
    assert!(record.contains("**Does not agree:** results.gpu_hours_per_pdf is 0.29"), "{record}");
    assert!(page.contains("# all of it\n```\n\n## Records"), "{page}");
    write(&[("gpu_hours: 2.9", "gpu_hours: -2.9")]);
    let output = output(&mut qaflow(&root, &report));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("hand.yaml: results.gpu_hours is -2.9"), "{said}");
}

#[test]
fn shards_make_one_record_and_the_scheduler_is_asked_for_efficiency() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let server = Server::start(&["--slots", "8", "--latency-ms", "2"]);
    place.corpus(6, 1);
    let config = place.config(&server, 8);
    let root = place.path("");
    // A scheduler's accounting that knows the two jobs: 30 of 200 and 10 of 200 processor seconds.
    std::fs::create_dir(place.path("bin")).unwrap();
    let script = "#!/bin/sh\nfor last; do :; done\ncase $last in\n4711_0) echo '4711_0|50|00:30|4' ;;\n\
                  4711_1) echo '4711_1|50|00:10|4' ;;\n*) exit 1 ;;\nesac\n";
    std::fs::write(place.path("bin/sacct"), script).unwrap();
    std::fs::set_permissions(place.path("bin/sacct"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
    let config = config.display().to_string();
    for shard in ["0", "1"] {
        let (state, out) = (format!("s{shard}"), format!("o{shard}"));
        let share = format!("{shard}/2");
        let args = ["run", &config, "--shard", &share, "--state", &state, "--out", &out];
        let mut command = qaflow(&root, &args);
        command.env("SLURM_JOB_ID", "99").env("SLURM_ARRAY_JOB_ID", "4711").env("SLURM_ARRAY_TASK_ID", shard);
        expect(command.args(["--set", "telemetry.gpu={simulated: 2}"]), 0);
    }
    let args = ["bench", "record", "--state", "s0", "--state", "s1", "--id", "both"];
    expect(qaflow(&root, &args).env("PATH", &path), 0);
    let record = shown(&place, "both");
    assert_eq!(record["dataset"]["pdfs_processed"], 6);
    let rows = |out: &str| std::fs::read_to_string(place.path(out).join("dataset.jsonl")).unwrap().lines().count();
    assert_eq!(record["results"]["qa_pairs_generated"], rows("o0") + rows("o1"));
    assert_eq!(record["covers"].as_array().unwrap().len(), 2);
    assert_eq!(record["hardware"]["gpu_count"], 4, "two of each shard");
    assert_eq!(record["hardware"]["job_id"], "slurm 4711_0, slurm 4711_1");
    assert_eq!(record["results"]["job_efficiency_source"], "sacct");
    assert_eq!(record["results"]["job_efficiency_percent"].as_f64(), Some(10.0));
    assert_eq!(record["results"]["attempts"], 2);
    // Without accounting the program's own figures are taken.
    let args = ["bench", "record", "--state", "s[01]", "--id", "both", "--replace"];
    std::fs::write(place.path("bin/sacct"), "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
        .unwrap();
    expect(qaflow(&root, &args).env("PATH", &path), 0);
    let record = shown(&place, "both");
    assert_eq!(record["results"]["job_efficiency_source"], "own figures");
    // States of different configurations are no shards of one run.
    let other = ["run", &config, "--limit", "1", "--state", "s2", "--out", "o2", "--set", "stages.chunk.size=400"];
    expect(&mut qaflow(&root, &other), 0);
    let refused =
        output(&mut qaflow(&root, &["bench", "record", "--state", "s0", "--state", "s2", "--from-attempt", "1"]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ran different configurations"));
}
