//! The screen of a status, and the sum of several.

use super::*;
use crate::app::bottleneck::Bottleneck;
use crate::app::gpu_status::BudgetStatus;
use crate::llm::endpoints::EndpointStatus;
use crate::model::projection::{BudgetState, Projection};
use crate::telemetry::errors::ErrorSeen;

const RUNNING: Liveness = Liveness { life: Life::Running, age: Some(Duration::from_secs(1)), over: false, alive: true };

fn stage(name: &str, done: u64, pending: u64, in_flight: u64) -> StageStatus {
    StageStatus {
        name: name.into(),
        admitted: done + pending,
        done,
        pending,
        in_flight,
        queued: 32,
        capacity: 64,
        per_minute: 40.26,
        per_minute_now: 1234.5,
        mean_seconds: 2.0,
        ..StageStatus::default()
    }
}

fn status() -> Status {
    Status {
        format: 1,
        run_id: "medicaid-qa-6028ac5e8fe4".into(),
        phase: Phase::Running,
        reason: None,
        budget_stopped: false,
        pid: 4711,
        host: "node7".into(),
        attempt: 3,
        started: "2026-11-01T10:00:00Z".into(),
        updated: "2026-11-01T11:00:00Z".into(),
        elapsed_seconds: 3600.0,
        documents_found: 1100,
        stages: vec![stage("extract", 1_000, 100, 2), stage("generate-with-a-long-name", 123_456, 45_678, 96)],
        model: ModelStatus {
            name: "meta-llama/Llama-3.1-70B-Instruct".into(),
            calls: 1_234_567,
            prompt_tokens: 2_000_000_000,
            cached_tokens: 1_500_000_000,
            completion_tokens: 300_000_000,
            in_flight: 64,
            slots: 64,
            waiting: 35,
            endpoints: vec![EndpointStatus {
                url: "http://node9:8000/v1".into(),
                in_flight: 64,
                limit: 64,
                waiting: 35,
                ..EndpointStatus::default()
            }],
        },
        eta_seconds: Some(7500.0),
        eta_interval_seconds: Some((6600.0, 9000.0)),
        bottleneck: Some(Bottleneck {
            kind: BottleneckKind::Endpoint,
            name: "http://node9:8000/v1".into(),
            reason: "all 64 slots are in use 98% of the time, and 35 requests wait for one".into(),
        }),
        limited_by: vec![LimitedBy { name: "http://node9:8000/v1".into(), share: 0.93 }],
        writer: WriterStatus::default(),
        errors: vec![ErrorSeen {
            class: "transient".into(),
            stage: "model".into(),
            label: "http_503".into(),
            text: "http://node9:8000/v1 says 503: overloaded".into(),
            count: 17,
            last: "2026-11-01T10:59:12Z".into(),
        }],
        gpu: GpuStatus::default(),
        states: 1,
    }
}

#[test]
fn the_screen_fits_eighty_columns_and_says_it_all() {
    let text = render(&status(), "state/medicaid", RUNNING);
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    insta::assert_snapshot!(text, @r"
    medicaid-qa-6028ac5e8fe4: running, about 2 h 5 min to go (90%: 1 h 50 min to 2 h
    30 min)
    state/medicaid, attempt 3 for 1 h 0 min, process 4711 on node7

    stage            done rejected   dead   waiting in flight    /min overall queue
    extract         1,000        0      0        98         2   1,235    40.3   50%
    generate-w…   123,456        0      0    45,582        96   1,235    40.3   50%

    limited by http://node9:8000/v1: all 64 slots are in use 98% of the time, and 35
      requests wait for one
    over this attempt's time: http://node9:8000/v1 93%

    model meta-llama/Llama-3.1-70B-Instruct: 64 of 64 slots in use, 35 waiting;
      1,234,567 answers, 2,000,000,000 prompt and 300,000,000 completion tokens
      75% of prompt tokens from the server's cache

    last errors of this attempt
      10:59:12 17×, waited out: model http_503: http://node9:8000/v1 says 503:
        overloaded
    ");
}

#[test]
fn a_silent_run_and_one_that_is_over_are_told_apart() {
    let old = |life| Liveness { life, age: Some(Duration::from_secs(120)), over: true, alive: false };
    assert!(render(&status(), "s", old(Life::Silent)).contains("no sign of life for 2 min"));
    let killed = render(&status(), "s", old(Life::Ended(Ending::Killed)));
    assert!(killed.contains("killed: process 4711 on node7 is gone") && !killed.contains("to go"), "{killed}");
    let finished = Status { phase: Phase::Finished, bottleneck: None, ..status() };
    let text = render(&finished, "s", old(Life::Ended(Ending::Finished)));
    assert!(text.starts_with("medicaid-qa-6028ac5e8fe4: finished"), "{text}");
    assert!(!text.contains("limited by") && text.contains("over this attempt's time"), "{text}");
}

#[test]
fn an_older_status_file_is_read() {
    let mut value = serde_json::to_value(status()).unwrap();
    for key in ["eta_interval_seconds", "bottleneck", "limited_by", "writer", "errors", "states", "budget_stopped"] {
        value.as_object_mut().unwrap().remove(key);
    }
    for key in ["concurrency", "held_up", "queue_full", "per_minute_now"] {
        value["stages"][0].as_object_mut().unwrap().remove(key);
    }
    value["model"]["endpoints"][0].as_object_mut().unwrap().remove("limited");
    let read: Status = serde_json::from_value(value).unwrap();
    assert_eq!((read.states, read.bottleneck, read.eta_seconds), (1, None, Some(7500.0)));
}

/// The sum of states called `run-1`, `run-2` and so on.
fn merged(all: &[Status]) -> Status {
    let names: Vec<String> = (1..=all.len()).map(|n| format!("run-{n}")).collect();
    merge(&names, all).unwrap()
}

/// One of eight shards with an eighth of a budget of 1,000 GPU-hours, four GPUs, a kilojoule an hour.
pub(in crate::app) fn shard(used: f64, expected: Option<f64>, state: BudgetState) -> Status {
    let gpu = GpuStatus {
        held: 4,
        source: "nvml".into(),
        seconds_attempt: used * 1800.0,
        seconds_total: used * 3600.0,
        attempts: 2,
        energy_joules: Some(used * 1000.0),
        energy_joules_attempt: Some(used * 500.0),
        projection: expected.map(|expected| Projection { expected, low: expected - 5.0, high: expected + 5.0 }),
        budget: Some(BudgetStatus {
            gpu_hours: 125.0,
            extended_gpu_hours: 0.0,
            used_gpu_hours: used,
            warn_at: 0.9,
            state,
            states: 1,
            states_over: 0,
        }),
        ..GpuStatus::default()
    };
    Status { gpu, ..status() }
}

#[test]
fn eight_shards_are_held_against_the_budget_of_all() {
    let within = shard(50.0, Some(100.0), BudgetState::Within);
    let over = shard(60.0, Some(130.0), BudgetState::Over);
    // One has finished: it uses no more, and nobody holds its GPUs.
    let mut finished = Status { phase: Phase::Finished, ..shard(90.0, None, BudgetState::Within) };
    finished.gpu.let_go();
    let mut eight = vec![within; 8];
    (eight[2], eight[5]) = (over, finished);
    let sum = merged(&eight);
    let (gpu, budget) = (&sum.gpu, sum.gpu.budget.as_ref().unwrap());
    assert_eq!((budget.gpu_hours, budget.used_gpu_hours), (1000.0, 450.0));
    assert_eq!((budget.states, budget.states_over, budget.state), (8, 1, BudgetState::Within));
    assert_eq!(gpu.projection, Some(Projection { expected: 820.0, low: 785.0, high: 855.0 }));
    assert_eq!((gpu.held, gpu.energy_joules, gpu.energy_joules_attempt), (28, Some(450_000.0), Some(225_000.0)));
    insta::assert_snapshot!(
        gpu.line(sum.states).unwrap(),
        @"GPUs: 28 held, 450 GPU-hours over 16 attempts; budget 1000 GPU-hours of 8 states: within, 1 of them over its own; 820 expected in all (785 to 855)"
    );
    // The word is that of all together.
    let close = merged(&vec![shard(50.0, Some(115.0), BudgetState::Close); 8]);
    assert_eq!(close.gpu.budget.unwrap().state, BudgetState::Close);
    let over = merged(&vec![shard(50.0, Some(126.0), BudgetState::Over); 8]).gpu.budget.unwrap();
    assert_eq!((over.state, over.states_over), (BudgetState::Over, 8));
    // One of which nothing can be said yet counts with what it has used; the sum has no projection then.
    let early = merged(&[shard(50.0, Some(100.0), BudgetState::Within), shard(2.0, None, BudgetState::Within)]);
    assert_eq!((early.gpu.projection, early.gpu.budget.unwrap().state), (None, BudgetState::Within));
}

#[test]
fn a_stop_by_the_budget_is_told_by_its_mark_and_names_its_state() {
    let reason = Some("used up, in other words".to_owned());
    let stopped = Status { phase: Phase::Interrupted, budget_stopped: true, reason, ..status() };
    assert_eq!(stopped.eta_text(), "stopped by its budget");
    let words = Some("the budget of GPU time is used up: 1 of 1 GPU-hours".to_owned());
    let other = Status { budget_stopped: false, reason: words, ..stopped.clone() };
    assert_eq!(other.eta_text(), "interrupted: the same command resumes");
    // Of several it is said of which.
    let finished = Status { phase: Phase::Finished, reason: None, budget_stopped: false, ..stopped.clone() };
    let mut over = shard(125.0, None, BudgetState::Close);
    (over.phase, over.budget_stopped, over.reason) = (Phase::Interrupted, true, stopped.reason.clone());
    let sum = merged(&[finished, over.clone()]);
    assert_eq!(sum.eta_text(), "interrupted, at least one state by its budget");
    assert_eq!(sum.reason.as_deref(), Some("run-2: used up, in other words"));
    assert_eq!(sum.gpu.budget.unwrap().states_over, 1);
    let running = merged(&[over, status()]);
    assert_eq!((running.phase, running.budget_stopped), (Phase::Running, true));
}

#[test]
fn shards_add_up() {
    assert_eq!(merge(&[], &[]), None);
    let mut other = status();
    other.host = "node8".into();
    other.updated = "2026-11-01T11:00:30Z".into();
    other.stages[1].done += 7;
    other.stages[1].admitted += 7;
    other.eta_seconds = Some(9000.0);
    other.eta_interval_seconds = Some((8000.0, 9900.0));
    other.bottleneck = Some(Bottleneck { kind: BottleneckKind::Disk, name: "disk".into(), reason: "slow".into() });
    other.limited_by = vec![LimitedBy { name: "disk".into(), share: 0.5 }];
    other.errors[0].count = 3;
    let sum = merged(&[status(), other.clone()]);
    assert_eq!((sum.states, sum.host.as_str(), sum.documents_found), (2, "node7, node8", 2200));
    assert_eq!(sum.updated, "2026-11-01T11:00:00Z", "the one silent for longest");
    assert_eq!((sum.eta_seconds, sum.eta_interval_seconds), (Some(9000.0), Some((8000.0, 9900.0))));
    assert_eq!(sum.bottleneck.as_ref().unwrap().name, "disk", "that of the shard that takes longest");
    let stage = &sum.stages[1];
    assert_eq!((stage.done, stage.pending, stage.in_flight), (246_919, 91_356, 192));
    assert_eq!(stage.admitted, stage.done + stage.pending);
    assert_eq!((sum.errors.len(), sum.errors[0].count), (1, 20));
    assert_eq!((sum.model.slots, sum.model.endpoints.len(), sum.model.endpoints[0].limit), (128, 1, 128));
    assert!((sum.limited_by[0].share - 0.465).abs() < 1e-9, "{:?}", sum.limited_by);

    let finished = Status { phase: Phase::Finished, eta_seconds: None, eta_interval_seconds: None, ..other };
    let sum = merged(&[finished.clone(), status()]);
    assert_eq!((sum.phase, sum.eta_seconds), (Phase::Running, Some(7500.0)));
    let failed = Status { phase: Phase::Failed, reason: Some("why".into()), ..finished.clone() };
    let sum = merged(&[finished, failed.clone()]);
    assert_eq!((sum.phase, sum.reason.as_deref()), (Phase::Failed, Some("run-2: why")));
    let stopped = Status { phase: Phase::Interrupted, reason: Some("stopped by SIGTERM".into()), ..status() };
    let three = merged(&[stopped.clone(), failed, stopped]);
    assert_eq!(three.reason.as_deref(), Some("run-2: why; 2 states stopped or failed too"));
    let failed = Liveness { life: Life::Ended(Ending::Failed), age: None, over: true, alive: false };
    let text = render(&sum, "", failed);
    assert!(text.contains("\n2 states, on node8; the longest attempt"), "{text}");
}

#[test]
fn several_are_over_when_all_are_and_silent_while_one_is() {
    let one = |life, seconds, over| Liveness { life, age: Some(Duration::from_secs(seconds)), over, alive: false };
    let (running, finished) = (one(Life::Running, 1, false), one(Life::Ended(Ending::Finished), 500, true));
    let killed = one(Life::Ended(Ending::Killed), 90, true);
    assert_eq!(Liveness::of_all(&[]), None);
    assert_eq!(Liveness::of_all(&[finished, running]), Some(running));
    assert_eq!(Liveness::of_all(&[running, killed, finished]), Some(one(Life::Silent, 90, false)));
    assert_eq!(Liveness::of_all(&[killed, finished]), Some(one(Life::Silent, 90, true)));
    assert_eq!(Liveness::of_all(&[finished]), Some(finished));
}
