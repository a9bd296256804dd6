//! SIGKILL at random moments: what was acknowledged is there, every batch is whole, and the next process takes over.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::model::record::Epoch;
use crate::model::store::{Lease as _, Store};
use crate::store::{FileLease, LeaseOptions};

const DIR: &str = "QAFLOW_TEST_KILL_DIR";
const PER_COMMIT: u32 = 3;

/// The process that is killed: commits for ever and says what was acknowledged.
#[test]
#[ignore = "started by the test below"]
fn writer() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let lease = FileLease::acquire(&dir, LeaseOptions::default()).unwrap();
    let store = open(Path::new(&dir));
    for n in store.epoch().0.. {
        let changes: Vec<Change> = (0..PER_COMMIT).map(|m| admit(&key(1, &[n as u32, m], 1), &[FIRST])).collect();
        lease.check().unwrap();
        let Epoch(epoch) = store.commit(&changes).unwrap();
        // So that many are killed in the middle of it.
        if n % 3 == 0 {
            store.table.compact().unwrap();
        }
        let mut out = std::io::stdout().lock();
        out.write_all(format!("acknowledged {epoch}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn killed_writers_lose_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let mut last = 0;
    let rounds = std::env::var("QAFLOW_TEST_KILLS").map_or(5, |n| n.parse().unwrap());
    for _ in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "store::tests::kill::writer"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let number = |line: &String| line.strip_prefix("acknowledged ").and_then(|n| n.parse::<u64>().ok());
        let before = last;
        last = lines.by_ref().find_map(|line| number(&line)).expect("the writer gets to its first commit");
        assert!(last > before);
        std::thread::sleep(Duration::from_millis(random.u64(0..120)));
        child.kill().unwrap();
        last = lines.filter_map(|line| number(&line)).last().unwrap_or(last);
        child.wait().unwrap();

        let store = open(dir.path());
        assert!(store.epoch().0 >= last, "commit {last} was acknowledged, the store has {:?}", store.epoch());
        last = store.epoch().0;
        let audit = store.audit().unwrap();
        assert_eq!(audit.damaged, []);
        assert_eq!(audit.recounted[&FIRST].admitted, u64::from(PER_COMMIT) * last, "batches are whole");
        assert_eq!(audit.recounted[&FIRST], store.counts(&FIRST).unwrap());
    }
}
