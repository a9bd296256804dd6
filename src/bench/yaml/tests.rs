//! Tests of records as YAML.

use proptest::prelude::*;

use super::*;
use crate::bench::derive::{QualityTargets, complete, disagreements};
use crate::bench::record::{Covered, Environment, Experiment, Issue, Issues, Limit, RatedBy, Rung};

const EXAMPLE: &str = include_str!("../../../tests/data/benchmarks/local_test_2025-11-04_001.yaml");

fn example() -> Record {
    let read = read("example.yaml", EXAMPLE).unwrap();
    assert_eq!(read.remarks, Vec::<String>::new());
    read.record
}

#[test]
fn the_example_of_the_users_is_read_and_its_figures_agree() {
    let record = example();
    assert_eq!((record.id.as_str(), record.environment), ("local_test_2025-11-04_001", Some(Environment::Local)));
    assert_eq!(record.dataset.pdfs_processed, Some(10));
    assert_eq!(record.results.total_time_minutes, Some(87.0));
    assert_eq!(record.results.qa_pairs_generated, Some(52));
    assert_eq!((record.results.gpu_hours, record.results.throughput_pdfs_per_hour), (Some(2.9), Some(6.9)));
    // 87 / 60 × 2 = 2.9, 52 / 10 = 5.2, 10 / 1.45 = 6.897.
    assert_eq!(disagreements(&record), []);
    assert_eq!(record.not_measured["results.avg_gpu_utilization_percent"], UNSAID);
}

#[test]
fn a_figure_that_does_not_follow_from_the_others_is_named() {
    let wrong = EXAMPLE.replace("throughput_pdfs_per_hour: 6.9", "throughput_pdfs_per_hour: 7.9");
    let found = disagreements(&read("x", &wrong.replace("gpu_hours: 2.9", "gpu_hours: 1.45")).unwrap().record);
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "results.gpu_hours is 1.45, but total_time_minutes / 60 × gpu_count gives 2.9",
            "results.throughput_pdfs_per_hour is 7.9, but pdfs_processed / (total_time_minutes / 60) gives 6.89655",
            "results.gpu_hours_per_pdf is 0.29, but gpu_hours / pdfs_processed gives 0.145",
        ]
    );
}

#[test]
fn unknown_fields_are_named_with_the_nearest_known_one() {
    let text = EXAMPLE.replace("gpu_count: 2", "gpu_cuont: 2\n    colour: red") + "notes: later\n";
    let read = read("r.yaml", &text).unwrap();
    assert_eq!(
        read.remarks,
        [
            "r.yaml: unknown field `hardware.colour` is not read",
            "r.yaml: unknown field `hardware.gpu_cuont` is not read (is `gpu_count` meant?)",
            "r.yaml: unknown field `notes` beside benchmark_run is not read",
        ]
    );
    assert_eq!(read.record.hardware.gpu_count, None);
}

#[test]
fn what_is_no_record_newer_or_malformed_is_refused_with_file_and_line() {
    let newer = EXAMPLE.replace("  date:", "  format: 9\n  date:");
    assert_eq!(read("r.yaml", &newer), Err(RecordError::Newer { file: "r.yaml".into(), found: 9 }));
    assert_eq!(read("r.yaml", "a: 1"), Err(RecordError::Other { file: "r.yaml".into() }));
    let malformed = read("r.yaml", &EXAMPLE.replace("gpu_count: 2", "gpu_count: many")).unwrap_err().to_string();
    assert!(malformed.contains("r.yaml: ") && malformed.contains("line 8"), "{malformed}");
    let negative = read("r.yaml", &EXAMPLE.replace("gpu_count: 2", "gpu_count: -2")).unwrap_err().to_string();
    assert!(negative.contains("this must be a whole number from 0 up"), "{negative}");
    for text in ["", "[]", "benchmark_run: 3", "benchmark_run: {}", "{", "benchmark_run: &a [*a]", "\u{0}"] {
        assert!(read("r.yaml", text).is_err(), "{text:?}");
    }
}

#[test]
fn the_quick_form_is_read_and_written() {
    let text = "run_id: cluster_smoke_2025-11-10\ndate: 2025-11-10\npdfs: 4\ntime_minutes: 10\nqa_pairs: 20\n\
                gpu_hours: 0.5\nquality_ok: true\nissues: one time-out\nmood: good\n";
    let read = read("q.yaml", text).unwrap();
    let record = &read.record;
    assert_eq!(record.environment, Some(Environment::Cluster));
    assert_eq!(record.results.avg_time_per_pdf_minutes, Some(2.5));
    assert_eq!(record.results.gpu_hours_per_pdf, Some(0.125));
    assert_eq!(record.issues.list()[0].what, "one time-out");
    assert_eq!(read.remarks, ["q.yaml: unknown field `mood` is not read"]);
    insta::assert_snapshot!(write_quick(&to_quick(&example(), &QualityTargets::default())).unwrap(), @r#"
    run_id: local_test_2025-11-04_001
    date: "2025-11-04"
    pdfs: 10
    time_minutes: 87.0
    qa_pairs: 52
    gpu_hours: 2.9
    quality_ok: null
    issues: none
    "#);
}

#[test]
fn a_gap_without_a_reason_is_not_written() {
    let record = Record { id: "x".into(), ..Record::default() };
    let error = write(&record).unwrap_err().to_string();
    assert!(error.contains("is empty without a reason"), "{error}");
    let mut record = example();
    record.results.gpu_hours = Some(f64::NAN);
    assert!(write(&record).is_err());
}

#[test]
fn issues_are_none_a_sentence_or_a_list() {
    for (text, expected) in [
        ("none", vec![]),
        ("[a, b]", vec!["a", "b"]),
        ("{what: x}", vec![]),
        ("[{what: a, count: 3, critical: true}]", vec!["a"]),
    ] {
        let read = read("x", &EXAMPLE.replace("issues: none", &format!("issues: {text}")));
        match read {
            Ok(read) => {
                let whats: Vec<String> = read.record.issues.list().into_iter().map(|issue| issue.what).collect();
                assert_eq!(whats, expected);
            }
            Err(error) => assert_eq!(text, "{what: x}", "{error}"),
        }
    }
}

fn words() -> impl Strategy<Value = String> {
    // What YAML takes for something else unless it is quoted, and anything at all.
    prop_oneof![
        Just("null".to_owned()),
        Just("2025-11-04".to_owned()),
        Just("1e3".to_owned()),
        Just("~".to_owned()),
        Just("yes: no # why".to_owned()),
        Just("- a\n- b\n".to_owned()),
        Just(String::new()),
        "\\PC{0,40}",
        "[ -~\n\t]{0,120}",
    ]
}

fn number() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![Just(None), (0.0..1e9_f64).prop_map(Some), Just(Some(0.0)), Just(Some(1e-9)), Just(Some(3.0))]
}

fn count() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), (0..u64::from(u32::MAX)).prop_map(Some)]
}

prop_compose! {
    fn record()(
        id in "[a-z0-9_.-]{1,40}",
        texts in prop::collection::vec(words(), 8),
        numbers in prop::collection::vec(number(), 12),
        counts in prop::collection::vec(count(), 12),
        critical in any::<bool>(),
        kind in 0..3_u8,
    ) -> Record {
        let mut record = Record { id, format: RECORD_FORMAT, date: texts[0].clone(), ..Record::default() };
        record.environment = [None, Some(Environment::Local), Some(Environment::Cluster)][usize::from(kind)];
        record.commit_sha = Some(texts[1].clone());
        record.covers = vec![Covered { state: texts[2].clone(), first_attempt: 1, ..Covered::default() }];
        record.rung = (kind > 0).then(|| Rung { name: texts[3].clone(), position: 2, ..Rung::default() });
        record.experiment = (kind > 1).then(|| Experiment {
            name: "e".into(),
            settings: BTreeMap::from([(texts[4].clone(), texts[5].clone())]),
            repeat: 1,
        });
        record.hardware.gpu_model = Some(texts[6].clone());
        record.hardware.gpu_count = counts[0];
        record.hardware.gpu_vram_gb = numbers[0];
        record.dataset.pdfs_processed = counts[1];
        record.configuration.concurrency_limit = match kind {
            0 => None,
            1 => Some(Limit::Number(20)),
            _ => Some(Limit::Word("auto".into())),
        };
        record.results.total_time_minutes = numbers[1];
        record.results.gpu_hours = numbers[2];
        record.results.tokens.prompt = counts[2];
        record.results.error_rates.dead_percent_by_stage = BTreeMap::from([("generate".into(), 1.5)]);
        record.quality.avg_clarity_score = numbers[3];
        record.quality.rated_by = (kind == 1).then_some(RatedBy::People);
        if kind != 1 {
            record.issues = Issues::List(vec![Issue {
                what: texts[7].clone(), count: 3, critical, examples: texts[..2].to_vec(),
            }]);
        }
        complete(&mut record);
        fill(&mut record);
        record
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_the_same(record in record()) {
        let text = write(&record).unwrap();
        let read = read("x", &text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(read.remarks, Vec::<String>::new());
        prop_assert_eq!(read.record, record, "{}", text);
    }

    #[test]
    fn nothing_that_is_read_panics(text in "\\PC{0,200}") {
        let _ = read("x", &format!("benchmark_run: {text}"));
        let _ = read("x", &text);
    }
}
