//! What the help says, and that commands do what it says.

use crate::support::{Place, Server, expect, output, qaflow, run};

#[test]
fn help_teaches() {
    let place = Place::new();
    for (name, args) in [
        ("help", &["--help"][..]),
        ("help_run", &["run", "--help"]),
        ("help_failures", &["failures", "--help"]),
        ("help_verify", &["verify", "--help"]),
    ] {
        let said = expect(qaflow(&place.path(""), args).env("COLUMNS", "100"), 0);
        insta::assert_snapshot!(name, said);
    }
}

/// The README's tables name every command of `--help` and every target that `make help` names.
#[test]
fn the_readme_names_every_command_and_target() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let help = expect(&mut qaflow(root, &["--help"]), 0);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A long description goes on in a line that is further in.
    let commands: Vec<&str> = commands.filter(|l| !l.starts_with("   ")).map(|l| words(l)[0]).collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        assert!(readme.contains(&format!("| `qaflow {command}")), "qaflow {command} is not in the README's table");
    }
    let makefile = std::fs::read_to_string(root.join("Makefile")).unwrap();
    let targets: Vec<&str> =
        makefile.lines().filter(|line| line.starts_with("\t@echo \"make ")).map(|line| words(line)[2]).collect();
    assert!(targets.len() > 10, "{targets:?}");
    for target in targets {
        let named = [format!("| `make {target}`"), format!("| `make {target} ")];
        assert!(named.iter().any(|named| readme.contains(named)), "make {target} is not in the README's table");
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn failures_are_listed_shown_and_retried() {
    let place = Place::new();
    let corpus = place.corpus(2, 1);
    std::fs::write(corpus.join("broken.pdf"), "%PDF-1.4\nnothing of use\n").unwrap();
    std::fs::write(corpus.join("empty.pdf"), "").unwrap();
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 4);
    run(&place, &config, &[], 0);
    let list = |args: &[&str]| expect(&mut qaflow(&place.path(""), args), 0);
    let listed = list(
        &["failures", "list", "--json"].map(|s| s).iter().copied().chain(["--state", "state"]).collect::<Vec<_>>(),
    );
    let rows: Vec<serde_json::Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    let empty = rows.iter().find(|row| row["document"] == "empty.pdf").unwrap();
    assert_eq!(empty["reason"], "empty file (0 bytes)");
    let id = empty["id"].as_str().unwrap();
    let shown = list(&["failures", "show", &id[..8], "--state", "state"]);
    assert!(shown.contains("empty.pdf") && shown.contains("empty file"), "{shown}");

    // Too many failures: exit code 3, the results are there all the same.
    let code = output(&mut qaflow(&place.path(""), &["run", "run.yaml", "--set", "max_failure_ratio=0.1"]));
    assert_eq!(code.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&code.stderr).contains("2 of 4 items failed (50.0%)"));

    // Retried: pending, and dead again after a run, since nothing has changed.
    let said = list(&["failures", "retry", "--id", &id[..8], "--state", "state"]);
    assert!(said.starts_with("1 pending again"), "{said}");
    let verified = crate::support::verify(&place, "state");
    assert_eq!(verified["stages"][0]["pending"], 1);
    run(&place, &config, &[], 0);
    assert_eq!(crate::support::verify(&place, "state")["stages"][0]["dead"], 2);
}

#[test]
fn export_writes_the_same_files_again() {
    let place = Place::new();
    place.corpus(3, 2);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 4);
    let summary = run(&place, &config, &["--json"], 0);
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let dataset = &place.results("out")["dataset.jsonl"];
    assert_eq!(summary["pairs_accepted"].as_u64().unwrap() as usize, dataset.lines().count());
    expect(&mut qaflow(&place.path(""), &["export", "--state", "state", "--out", "again"]), 0);
    assert_eq!(place.results("out"), place.results("again"));
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("again/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["files"]["dataset.jsonl"]["rows"].as_u64().unwrap() as usize, dataset.lines().count());
    assert_eq!(manifest["finished"], true);
    let stages = manifest["config"]["stages"].as_array().unwrap();
    let of = |kind: &str| &stages.iter().find(|stage| stage["kind"] == kind).unwrap()["parameters"];
    assert_eq!((&of("chunk")["size"], &of("chunk")["unit"]), (&600.into(), &"characters".into()));
    assert_eq!(of("score")["keep"]["accuracy"], 4);
    assert_eq!(of("generate")["prompt"]["file"], serde_json::Value::Null);
}

#[test]
fn limit_and_shards_divide_the_corpus() {
    let place = Place::new();
    place.corpus(9, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 4);
    let documents = |extra: &[&str]| {
        let mut args = extra.to_vec();
        args.push("--json");
        let said = run(&place, &config, &args, 0);
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["documents"].as_u64().unwrap()
    };
    assert_eq!(documents(&["--state", "few", "--out", "few-out", "--limit", "4"]), 4);
    assert_eq!(documents(&["--state", "few", "--out", "few-out"]), 9, "the rest follows without the limit");
    let a = documents(&["--state", "a", "--out", "a-out", "--shard", "0/2"]);
    let b = documents(&["--state", "b", "--out", "b-out", "--shard", "1/2"]);
    assert_eq!(a + b, 9);
}

#[test]
fn doctor_checks_the_world() {
    let place = Place::new();
    place.corpus(2, 1);
    let server = Server::start(&["--latency-ms", "0", "--max-model-len", "2000"]);
    place.config(&server, 4);
    let found = output(&mut qaflow(&place.path(""), &["doctor", "run.yaml"]));
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(said.contains("schema obeyed"), "{said}");
    // Three pairs a chunk, each with its round trip, its judge and its marks.
    assert!(
        said.contains("model calls    10 for a chunk whose every pair passes: generate 1, validate 6, score 3"),
        "{said}"
    );
    for (off, calls) in [("round_trip", 7), ("judge", 7)] {
        let set = format!("stages.validate.{off}.enabled=false");
        let less = output(&mut qaflow(&place.path(""), &["doctor", "run.yaml", "--set", &set]));
        let less = String::from_utf8_lossy(&less.stdout).into_owned();
        assert!(less.contains(&format!("model calls    {calls} for a chunk")), "{less}");
    }
    assert!(said.contains("BAD      context"), "the model's context is too short for generate: {said}");
}

#[test]
fn the_configuration_reference_is_that_of_the_program() {
    let place = Place::new();
    let made = expect(&mut qaflow(&place.path(""), &["config-reference"]), 0);
    let committed = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    assert!(
        made.trim() == committed.trim(),
        "docs/configuration.md is out of date: qaflow config-reference > docs/configuration.md"
    );
}

#[test]
fn shipped_configurations_are_sound() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");
    for entry in std::fs::read_dir(root).unwrap().flatten() {
        let path = entry.path();
        // Prices are no run; they have a test of their own.
        if path.ends_with("prices.yaml") {
            continue;
        }
        let loaded = qaflow::app::build::load(&path, &[]);
        assert!(loaded.is_ok(), "{}: {:?}", path.display(), loaded.err());
    }
}

#[test]
fn arguments_of_a_run_are_checked_before_the_job_is_sent() {
    let place = Place::new();
    place.corpus(1, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    place.config(&server, 4);
    let says = |args: &[&str], code: i32| {
        let args = [&["slurm", "submit", "run.yaml", "--dry-run"], args].concat();
        let output = output(&mut qaflow(&place.path(""), &args));
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        text
    };
    let job = says(&["--set", "llm.concurrency=2", "--", "--limit", "5", "--set", "llm.threads=2", "-v"], 0);
    assert!(job.contains("--set llm.concurrency=2 --limit 5 --set llm.threads=2 -v"), "{job}");
    let typo = says(&["--", "--limt", "5"], 2);
    assert!(typo.contains("behind -- stand arguments of `qaflow run`: unexpected argument '--limt'"), "{typo}");
    assert!(says(&["--", "--limit", "none"], 2).contains("invalid value 'none' for '--limit <N>'"));
    assert!(says(&["--", "--set", "llm.concurency=50"], 2).contains("llm.concurency"));
    assert!(says(&["--", "--help"], 2).contains("neither --help nor --version"));
    assert!(says(&["--", "--bench", "a/b"], 2).contains("a/b"));
    for (args, name) in [(["--state=s"].as_slice(), "--state"), (&["--shard", "0/2"], "--shard")] {
        let refused = says(&[&["--set", "slurm.shards=2", "--"], args].concat(), 2);
        assert!(refused.contains(&format!("{name} cannot be given to the jobs of an array")), "{refused}");
    }
}

#[test]
fn a_job_whose_run_would_not_begin_is_not_sent() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    place.corpus(1, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    place.config(&server, 4);
    // In place of Slurm's.
    let sbatch = place.path("bin/sbatch");
    std::fs::create_dir(place.path("bin")).unwrap();
    std::fs::write(&sbatch, "#!/bin/sh\ncat >sent.sh\necho 17\n").unwrap();
    std::fs::set_permissions(&sbatch, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
    let says = |args: &[&str], code: i32| {
        let output = output(qaflow(&place.path(""), args).env("PATH", &path));
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        text
    };
    let refused = [
        (["nowhere.pdf"].as_slice(), "nowhere.pdf does not exist: check the path"),
        (&["--manifest", "none.txt"], "the manifest none.txt does not exist: check the path"),
        (&["--state", "corpus/state"], "the state folder corpus/state lies in the input folder"),
        (&["--state", "same", "--out", "same"], "state and out must be different folders"),
    ];
    for (args, why) in refused {
        let run = says(&[&["run", "run.yaml"], args].concat(), 2);
        let job = says(&[&["slurm", "submit", "run.yaml", "--"], args].concat(), 2);
        assert!(run.contains(why) && job.contains(why) && job.contains("nothing was sent"), "{run}{job}");
        assert!(!place.path("sent.sh").exists() && !place.path("corpus/state").exists());
        for only_shown in
            [["slurm", "submit", "run.yaml", "--dry-run", "--"].as_slice(), &["slurm", "script", "run.yaml", "--"]]
        {
            let shown = says(&[only_shown, args].concat(), 0);
            assert!(shown.contains(why) && shown.contains("#SBATCH"), "{shown}");
        }
    }
    let auto = says(&["slurm", "submit", "run.yaml", "--dry-run", "--", "--shard", "auto"], 2);
    assert!(auto.contains("set slurm.shards"), "{auto}");
    let array = "slurm.options=[\"--array=0-7\"]";
    says(&["slurm", "submit", "run.yaml", "--set", array, "--dry-run", "--", "--shard", "auto"], 0);
    says(&["slurm", "submit", "run.yaml", "--set", "slurm.shards=8", "--dry-run"], 0);
    assert!(says(&["slurm", "submit", "run.yaml", "--unchecked", "--", "nowhere.pdf"], 0).contains("17"));
    assert!(std::fs::read_to_string(place.path("sent.sh")).unwrap().contains("run.yaml nowhere.pdf"));
}
