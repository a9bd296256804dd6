//! A state taken over from a process that is frozen, not dead: the newcomer finishes, and whatever the old process does
//! when it wakes, nobody reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Place, Server, expect, output, qaflow, run, verify};

const SLOTS: usize = 16;
const LATENCY: [&str; 4] = ["--latency-ms", "120", "--jitter", "0.5"];

/// A run under way, with what it writes to standard error in a file.
struct Running {
    child: Child,
    log: std::path::PathBuf,
}

impl Running {
    fn start(place: &Place, name: &str, extra: &[&str]) -> Self {
        let log = place.path(name);
        let mut args = vec!["run", "run.yaml"];
        args.extend(extra);
        let child = qaflow(&place.path(""), &args)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Its exit code and its last words.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, std::fs::read_to_string(&self.log).unwrap())
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every file below a folder with its content.
fn content(folder: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let files =
        walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    files.map(|entry| (entry.path().to_owned(), std::fs::read(entry.path()).unwrap())).collect()
}

/// The results of a run that nothing disturbed.
fn undisturbed(place: &Place) -> BTreeMap<&'static str, String> {
    let server = Server::start(&LATENCY);
    let config = place.config(&server, SLOTS);
    run(place, &config, &["--state", "whole", "--out", "whole-out"], 0);
    place.results("whole-out")
}

#[derive(Clone, Copy, PartialEq)]
enum Woken {
    /// As soon as the newcomer has made its claim.
    AtOnce,
    /// When the newcomer has ended.
    AfterTheEnd,
}

fn taken_over(woken: Woken) {
    let place = Place::new();
    place.corpus(24, 3);
    let whole = undisturbed(&place);
    let server = Server::start(&LATENCY);
    place.config(&server, SLOTS);

    let first = Running::start(&place, "first.log", &[]);
    wait_for("answers", || server.requests().answered.len() > 60);
    let refused = output(&mut qaflow(&place.path(""), &["run", "run.yaml"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for part in [
        format!("is in use by process {} on host {}, last heard of ", first.child.id(), host.trim()),
        " s ago, which is running".into(),
        "--take-over".into(),
    ] {
        assert!(said.contains(&part), "{part} is not in: {said}");
    }
    first.signal("-STOP");
    let frozen = server.requests();

    let second = Running::start(&place, "second.log", &["--take-over"]);
    let second_pid = second.child.id();
    if woken == Woken::AtOnce {
        wait_for("the claim", || place.path("state/lease/epoch-2").exists());
        first.signal("-CONT");
    }
    let (code, said) = second.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("process {}", first.child.id())), "whom it takes the state from: {said}");
    assert_eq!(place.results("out"), whole);
    let (out, status) = (content(&place.path("out")), content(&place.path("state/status.json")));
    if woken == Woken::AfterTheEnd {
        first.signal("-CONT");
    }
    let (code, said) = first.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("was taken over by process {second_pid} on host")), "{said}");
    assert!(said.contains("stops without writing any more"), "{said}");
    assert!(content(&place.path("out")) == out, "the old process changed the results");
    assert!(content(&place.path("state/status.json")) == status, "the old process changed the status");

    verify(&place, "state");
    // What may be asked again is what was in flight when the first froze.
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    for (id, _) in server.requests().arrived {
        *asked.entry(id).or_default() += 1;
    }
    let again = asked.values().filter(|times| **times > 1).count();
    assert!(again <= 3 * SLOTS, "{again} requests were sent again; {} had been answered", frozen.answered.len());

    let before = server.requests().arrived.len();
    run(&place, &place.path("run.yaml"), &[], 0);
    assert_eq!(server.requests().arrived.len(), before, "a finished state asks nothing");
    assert_eq!(place.results("out"), whole);
    assert!(!place.path("state/db").exists(), "the database of a process that is gone is removed");
    assert!(place.path("state/db-2/db/db").exists());
}

#[test]
fn a_frozen_process_that_wakes_at_once_commits_nothing_that_anyone_reads() {
    taken_over(Woken::AtOnce);
}

#[test]
fn a_frozen_process_that_wakes_after_the_end_changes_nothing() {
    taken_over(Woken::AfterTheEnd);
}

#[test]
fn a_chain_of_take_overs_at_random_moments_gives_the_same_bytes() {
    let place = Place::new();
    place.corpus(30, 3);
    let whole = undisturbed(&place);
    let server = Server::start(&LATENCY);
    place.config(&server, SLOTS);
    let mut random = fastrand::Rng::new();
    println!("seed {}", random.get_seed());
    let mut frozen: Vec<Running> = Vec::new();
    for round in 0..4 {
        let extra: &[&str] = if round == 0 { &[] } else { &["--take-over"] };
        let next = Running::start(&place, &format!("{round}.log"), extra);
        let own = format!("\"pid\": {},", next.child.id());
        let claims = || walkdir::WalkDir::new(place.path("state/lease")).into_iter().flatten();
        wait_for("its claim", || {
            claims().any(|claim| std::fs::read_to_string(claim.path()).is_ok_and(|text| text.contains(&own)))
        });
        // Frozen anywhere from its claim on: copying, opening, committing.
        std::thread::sleep(Duration::from_millis(random.u64(0..700)));
        next.signal("-STOP");
        if random.bool()
            && let Some(old) = frozen.last()
        {
            old.signal("-CONT");
        }
        frozen.push(next);
    }
    let last = Running::start(&place, "last.log", &["--take-over"]);
    let (code, said) = last.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.results("out"), whole);
    let out = content(&place.path("out"));
    for (round, old) in frozen.into_iter().enumerate() {
        old.signal("-CONT");
        let (code, said) = old.end();
        assert_eq!(code, Some(1), "{round}: {said}");
        assert!(said.contains("was taken over by process"), "{round}: {said}");
    }
    assert!(content(&place.path("out")) == out, "an old process changed the results");
    verify(&place, "state");
    expect(&mut qaflow(&place.path(""), &["export", "--state", "state", "--out", "again"]), 0);
    assert_eq!(place.results("again"), whole);
}
