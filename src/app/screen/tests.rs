//! The screen of a status, and the sum of several.

use super::*;
use crate::app::bottleneck::Bottleneck;
use crate::llm::endpoints::EndpointStatus;
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
        gpu: crate::app::gpu_status::GpuStatus::default(),
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
    for key in ["eta_interval_seconds", "bottleneck", "limited_by", "writer", "errors", "states"] {
        value.as_object_mut().unwrap().remove(key);
    }
    for key in ["concurrency", "held_up", "queue_full", "per_minute_now"] {
        value["stages"][0].as_object_mut().unwrap().remove(key);
    }
    value["model"]["endpoints"][0].as_object_mut().unwrap().remove("limited");
    let read: Status = serde_json::from_value(value).unwrap();
    assert_eq!((read.states, read.bottleneck, read.eta_seconds), (1, None, Some(7500.0)));
}

#[test]
fn shards_add_up() {
    assert_eq!(merge(&[]), None);
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
    let sum = merge(&[status(), other.clone()]).unwrap();
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
    let sum = merge(&[finished.clone(), status()]).unwrap();
    assert_eq!((sum.phase, sum.eta_seconds), (Phase::Running, Some(7500.0)));
    let failed = Status { phase: Phase::Failed, reason: Some("why".into()), ..finished.clone() };
    let sum = merge(&[finished, failed]).unwrap();
    assert_eq!((sum.phase, sum.reason.as_deref()), (Phase::Failed, Some("why")));
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
