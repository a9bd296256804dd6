//! The ledger from outside: killed at random moments, its sums are what really happened; and the budget's stop.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use qaflow::app::ledger::{attempts, totals};
use qaflow::model::RequestKey;
use qaflow::model::ledger::{AttemptEnd, AttemptRecord};
use qaflow::model::payload::Usage;
use qaflow::model::store::Store;
use qaflow::store::{OpenOptions, SledStore};

use crate::support::{Place, Server, expect, output, qaflow, run, verify};

const GPUS: u32 = 3;
const KILLS: usize = 20;
/// The time between two ticks of an attempt's first ten seconds, and what a loaded machine takes to write one.
const TICK: f64 = 1.0 + 1.0;

fn open(place: &Place) -> SledStore {
    SledStore::open(place.path("state"), OpenOptions::default()).unwrap().0
}

/// Answers that the store holds, of those that the server gave, and their tokens: counted anew, without the accounts.
fn journal(store: &SledStore, answered: &BTreeSet<String>) -> (u64, Usage) {
    let (mut calls, mut usage) = (0, Usage::default());
    for id in answered {
        let entry = RequestKey::from_hex(id).and_then(|key| store.answer(&key).unwrap());
        if let Some(entry) = entry {
            calls += 1;
            usage += entry.completion.usage;
        }
    }
    (calls, usage)
}

#[test]
fn the_sums_hold_over_twenty_kills() {
    let place = Place::new();
    place.corpus(40, 3);
    let server = Server::start(&["--slots", "8", "--latency-ms", "400", "--jitter", "0.5"]);
    let config = place.config(&server, 8).display().to_string();
    let held = format!("telemetry.gpu={{held: {GPUS}}}");
    let args = ["run", config.as_str(), "--set", held.as_str()];
    let seed =
        std::env::var("QAFLOW_CRASH_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed} (QAFLOW_CRASH_SEED repeats the moments)");
    let mut random = fastrand::Rng::with_seed(seed);
    // What each process really took, and what the store held when it had ended.
    let mut walls: Vec<f64> = Vec::new();
    let mut held_calls: Vec<(u64, Usage)> = Vec::new();
    for at in 0..=KILLS {
        let began = Instant::now();
        let mut child = qaflow(&place.path(""), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let killed = at < KILLS;
        if killed {
            std::thread::sleep(Duration::from_millis(random.u64(300..3_000)));
            assert_eq!(child.try_wait().unwrap(), None, "the corpus is too small for {KILLS} kills");
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        let wall = began.elapsed().as_secs_f64();
        assert_eq!(status.code(), if killed { None } else { Some(0) });
        if !place.path("state").join("identity.json").exists() {
            continue;
        }
        let store = open(&place);
        let records = attempts(&store).unwrap();
        // A process that was killed before it had taken its number held its GPUs for less than a tick.
        if records.len() == walls.len() {
            assert!(wall < TICK, "{wall:.2} s left no trace");
            continue;
        }
        walls.push(wall);
        assert_eq!(records.len(), walls.len());
        held_calls.push(journal(&store, &server.requests().answered));
    }

    let store = open(&place);
    let records = attempts(&store).unwrap();
    let sum = totals(&store).unwrap();
    let mut worst: f64 = 0.0;
    let mut before = (0, Usage::default());
    for ((record, wall), now) in records.iter().zip(&walls).zip(&held_calls) {
        let missing = wall - record.seconds;
        worst = worst.max(missing);
        assert!(missing >= 0.0, "attempt {} counts {} s of {wall:.3} s", record.number, record.seconds);
        assert!(missing <= TICK, "attempt {} lost {missing:.3} s of {wall:.3} s", record.number);
        assert!((record.gpu_seconds - f64::from(GPUS) * record.seconds).abs() < 0.002 * f64::from(GPUS), "{record:?}");
        // Calls and tokens of each attempt, killed ones included, are those that the journal gained in it.
        assert_eq!(record.calls, now.0 - before.0, "attempt {}", record.number);
        assert_eq!(record.prompt_tokens, now.1.prompt_tokens - before.1.prompt_tokens);
        assert_eq!(record.completion_tokens, now.1.completion_tokens - before.1.completion_tokens);
        assert_eq!(record.cached_tokens, now.1.cached_tokens - before.1.cached_tokens);
        before = *now;
    }
    let really: f64 = walls.iter().sum();
    println!(
        "{} attempts, {really:.1} s in all, {:.1} s counted, at most {worst:.2} s lost by one",
        records.len(),
        sum.seconds
    );
    let ends: BTreeSet<&str> = records.iter().map(|record| record.end.name()).collect();
    assert_eq!(ends, BTreeSet::from(["finished", "killed"]));
    assert_eq!(sum.killed, records.len() as u64 - 1);

    // The sums are those of the whole: the server's answers, the store's accounts, the manifest.
    let model = store.model_counts().unwrap();
    let requests = server.requests();
    // Not the probe at each start, which is answered too, but is no work.
    let asked: BTreeSet<String> = requests.arrived.into_iter().map(|(id, _)| id).collect();
    let answered = requests.answered.intersection(&asked).count() as u64;
    assert_eq!((sum.calls, sum.calls), (model.calls, answered));
    assert_eq!((sum.prompt_tokens, sum.completion_tokens), (model.usage.prompt_tokens, model.usage.completion_tokens));
    assert_eq!(sum.documents_done, 40);
    drop(store);
    items_add_up(&place, &records);
    verify(&place, "state");
}

/// The changes of all attempts are the accounts of the end, stage by stage.
fn items_add_up(place: &Place, records: &[AttemptRecord]) {
    let manifest = manifest(place);
    let stages = manifest["stages"].as_object().unwrap();
    assert_eq!(stages.len(), 5);
    for (name, account) in stages {
        let sum = |of: fn(&qaflow::model::record::StageCounts) -> u64| {
            records.iter().map(|record| record.items.get(name).map_or(0, of)).sum::<u64>()
        };
        for (field, counted) in [
            ("admitted", sum(|c| c.admitted)),
            ("done", sum(|c| c.done)),
            ("rejected", sum(|c| c.rejected)),
            ("dead", sum(|c| c.dead)),
            ("emitted", sum(|c| c.emitted)),
        ] {
            assert_eq!(account[field].as_u64(), Some(counted), "{field} of {name}");
        }
    }
    assert_eq!(manifest["ledger"]["attempts"].as_array().unwrap().len(), records.len());
}

fn manifest(place: &Place) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(place.path("out").join("manifest.json")).unwrap()).unwrap()
}

fn stderr(place: &Place, config: &Path, extra: &[&str], code: i32) -> String {
    let config = config.display().to_string();
    let mut args = vec!["run", config.as_str()];
    args.extend(extra);
    let output = output(qaflow(&place.path(""), &args).env("QAFLOW_HOLD_FILE", place.path("hold")));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

#[test]
fn a_used_up_budget_stops_the_run_until_it_is_extended() {
    let place = Place::new();
    place.corpus(30, 3);
    let server = Server::start(&["--slots", "8", "--latency-ms", "300"]);
    let config = place.config(&server, 8);
    // Eight GPUs use this in 1.8 s.
    let sets = ["--set", "telemetry.gpu={simulated: 8}", "--set", "budget={gpu_hours: 0.004}"];
    let stopped = stderr(&place, &config, &sets, 75);
    assert!(
        stopped.contains("the budget of GPU time is used up: ") && stopped.contains("--extend-budget"),
        "{stopped}"
    );
    let hold = std::fs::read_to_string(place.path("hold")).unwrap();
    assert!(hold.starts_with("the budget of GPU time is used up: "), "{hold}");
    std::fs::remove_file(place.path("hold")).unwrap();
    let asked = server.requests().arrived.len();
    // Nothing is begun, and nothing asked.
    let refused = stderr(&place, &config, &sets, 75);
    assert!(refused.contains("the budget of GPU time is used up: "), "{refused}");
    assert_eq!(server.requests().arrived.len(), asked);
    assert!(place.path("hold").exists());
    std::fs::remove_file(place.path("hold")).unwrap();
    assert_eq!(attempts(&open(&place)).unwrap().len(), 1);

    // An extension that does not reach is told, and not kept.
    let few = stderr(&place, &config, &[&sets[..], &["--extend-budget", "0.000001"]].concat(), 75);
    assert!(few.contains("--extend-budget 0.000001 is not enough to go on, by "), "{few}");
    assert_eq!((server.requests().arrived.len(), attempts(&open(&place)).unwrap().len()), (asked, 1));
    assert!(std::fs::read_to_string(place.path("hold")).unwrap().contains("is not enough"));
    std::fs::remove_file(place.path("hold")).unwrap();

    let extended = [&sets[..], &["--extend-budget", "1000"]].concat();
    stderr(&place, &config, &extended, 0);
    assert!(!place.path("hold").exists());
    let records = attempts(&open(&place)).unwrap();
    assert!(records[0].budget_stopped && matches!(records[0].end, AttemptEnd::Interrupted { .. }), "{:?}", records[0]);
    assert_eq!((records.len(), records[1].budget_extended_gpu_hours), (2, 1_000.0));
    // The same command again extends nothing twice; without it the extension holds.
    let again = stderr(&place, &config, &extended, 0);
    assert!(again.contains("the budget is not extended again"), "{again}");
    stderr(&place, &config, &sets, 0);
    assert!((totals(&open(&place)).unwrap().budget_extended_gpu_hours - 1_000.0).abs() < 1e-9);
    let status = expect(&mut qaflow(&place.path(""), &["status", "--json", "--state", "state"]), 0);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((status["gpu"]["source"].as_str(), status["gpu"]["held"].as_u64()), (Some("simulated"), Some(0)));
    assert_eq!(status["budget_stopped"], false);
    // The energy of the run is that of all attempts.
    let energy = |name: &str| status["gpu"][name].as_f64().unwrap();
    let earlier: f64 = attempts(&open(&place)).unwrap().iter().rev().skip(1).filter_map(|one| one.energy_joules).sum();
    let difference = energy("energy_joules") - energy("energy_joules_attempt");
    assert!(earlier > 0.0 && (difference - earlier).abs() < 0.01, "{earlier} {status}");
    assert_eq!(status["gpu"]["budget"]["gpu_hours"], 1_000.004);

    // Without a budget there is nothing to extend.
    let none = stderr(&place, &config, &["--extend-budget", "5"], 2);
    assert!(none.contains("no budget.gpu_hours"), "{none}");
}

#[test]
fn shares_show_one_budget_and_which_is_over_its_own() {
    let place = Place::new();
    place.corpus(24, 3);
    let server = Server::start(&["--slots", "8", "--latency-ms", "200"]);
    let config = place.config(&server, 8);
    let gpus = ["--set", "telemetry.gpu={simulated: 8}"];
    stderr(&place, &config, &[&gpus[..], &["--shard", "0/2", "--set", "budget={gpu_hours: 0.004}"]].concat(), 75);
    let whole = ["--shard", "1/2", "--limit", "4", "--set", "budget={gpu_hours: 10}"];
    stderr(&place, &config, &[&gpus[..], &whole].concat(), 0);
    let text = expect(&mut qaflow(&place.path(""), &["status", "--state", "state-*"]), 0);
    let line = text.lines().find(|line| line.starts_with("state-1-of-2")).unwrap();
    assert!(line.contains("stopped by its budget") && line.contains("(the budget of GPU time is used up"), "{text}");
    // The screen breaks its lines.
    let screen = text.split_whitespace().collect::<Vec<&str>>().join(" ");
    assert!(screen.contains("interrupted, at least one state by its budget (state-1-of-2: the budget of"), "{text}");
    assert!(screen.contains("GPUs: 0 held (simulated)"), "{text}");
    assert!(screen.contains("budget 10.0 GPU-hours of 2 states: within, 1 of them over its own"), "{text}");
    let json = expect(&mut qaflow(&place.path(""), &["status", "--json", "--state", "state-*"]), 0);
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    let total = &status["total"];
    assert!(total["reason"].as_str().unwrap().starts_with("state-1-of-2: the budget of GPU time"), "{total}");
    assert_eq!((total["budget_stopped"].as_bool(), total["gpu"]["held"].as_u64()), (Some(true), Some(0)), "{total}");
    let budget = &total["gpu"]["budget"];
    assert_eq!((budget["state"].as_str(), budget["states_over"].as_u64()), (Some("within"), Some(1)), "{budget}");
    assert_eq!(status["states"][0]["status"]["budget_stopped"], true);
    assert_eq!(status["states"][1]["status"]["budget_stopped"], false);
}

#[test]
fn the_documents_counted_as_they_end_are_those_that_the_store_holds() {
    let place = Place::new();
    place.corpus(12, 2);
    let server = Server::start(&["--latency-ms", "20"]);
    let config = place.config(&server, 8);
    run(&place, &config, &["--limit", "5"], 0);
    // A changed prompt asks anew, from a stage in the middle: seven documents are new, five are done again.
    run(&place, &config, &["--set", "stages.chunk.size=500"], 0);
    let records = attempts(&open(&place)).unwrap();
    assert_eq!(records.iter().map(|record| record.documents_done).collect::<Vec<u64>>(), [5, 12]);
    assert_eq!(records[1].at_start.documents_done, 0);
}
