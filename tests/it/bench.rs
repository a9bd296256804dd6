//! `bench flow` measures what it says: the shape of its report, and accounts that agree. Not the speed.

use crate::support::{Place, expect, qaflow};

#[test]
fn bare_loop_and_flow_are_measured_and_the_accounts_agree() {
    let place = Place::new();
    let work = place.path("work");
    std::fs::create_dir(&work).unwrap();
    let dir = work.display().to_string();
    let args = ["bench", "flow", "--slots", "8", "--latency-ms", "20", "--seconds", "3", "--rounds", "1", "--json"];
    let said = expect(qaflow(&place.path(""), &args).args(["--dir", &dir]), 0);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let setting = &report["settings"][0];
    assert_eq!((setting["slots"].as_u64(), setting["latency_ms"].as_f64()), (Some(8), Some(20.0)));
    for client in ["bare", "flow"] {
        let client = &setting[client];
        let utilisation = client["utilisation"].as_f64().unwrap();
        assert!(utilisation > 0.0 && utilisation <= 1.001, "{client}");
        assert!(client["requests_per_second"].as_f64().unwrap() > 1.0, "{client}");
        assert!(client["cpu_ms_per_request"].as_f64().unwrap() > 0.0, "{client}");
    }
    assert!(setting["ratio"].as_f64().unwrap() > 0.0);
    assert!(setting["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(setting["rounds"].as_array().unwrap().len(), 1);
    let account = &setting["accounts"][0];
    assert!(account["served"].as_u64().unwrap() > 10, "{account}");
    assert_eq!(account["served"], account["journaled"], "every answer that was given is in the journal, once");
    let target = &setting["targets"][0];
    assert_eq!(target["met"], target["measured"].as_f64().unwrap() <= target["bound"].as_f64().unwrap());
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_corpus_that_is_done_early_is_measured_without_its_tail() {
    let place = Place::new();
    // 700 calls, of which 8 take 20 ms together: neither over at once nor, on a machine with much else to do, longer
    // than the time.
    let args = [
        "bench",
        "flow",
        "--slots",
        "8",
        "--latency-ms",
        "20",
        "--seconds",
        "15",
        "--rounds",
        "1",
        "--documents",
        "2",
        "--json",
        "--keep",
        "--dir",
        ".",
    ];
    let said = expect(&mut qaflow(&place.path(""), &args), 0);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let account = &report["settings"][0]["accounts"][0];
    assert_eq!((account["served"].clone(), account["ran_out"].clone()), (account["journaled"].clone(), true.into()));
    let kept = std::fs::read_dir(place.path("")).unwrap().flatten().next().unwrap().path();
    assert!(kept.join("0/state-1.out/dataset.jsonl").is_file(), "the flow ended by itself and wrote its results");
}
