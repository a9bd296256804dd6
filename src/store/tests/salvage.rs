//! A database that does not open: what was paid for is taken out of its files, and nothing else.

use std::time::Duration;

use super::damage::{copy, flip, sample, try_open, used};
use super::*;
use crate::model::StoreError;
use crate::model::ledger::record_name;
use crate::model::record::Epoch;
use crate::model::store::Store;
use crate::store::Salvaged;

const ANSWERS: u64 = 100;
const REPAIR: OpenOptions =
    OpenOptions { cache_bytes: 16 << 20, open_limit: Duration::from_secs(300), create: false, accept_loss: true };

fn salvage(dir: &Path) -> Result<Salvaged, StoreError> {
    SledStore::salvage(dir, &["attempts"])
}

/// [`sample`] with the accounts of two attempts and a long answer.
fn paid() -> tempfile::TempDir {
    let dir = sample();
    let store = open(dir.path());
    let meta = |name: &str, value: &str| Change::Meta { name: name.into(), value: Some(value.as_bytes().to_vec()) };
    for seconds in 1..5 {
        let account =
            |number: u64| meta(&record_name(number), &format!(r#"{{"number":{number},"seconds":{seconds}}}"#));
        store.commit(&[account(1), account(2), meta("attempts", &seconds.to_string())]).unwrap();
    }
    store.commit(&[answer(200, &"long ".repeat(30_000), 9)]).unwrap();
    drop(store);
    dir
}

/// The answers and accounts of [`paid`] are there, but for `missing` answers, and nothing else is.
fn holds_what_was_paid_for(store: &SledStore, missing: u64) {
    let audit = store.audit().unwrap();
    assert_eq!((audit.damaged, audit.recounted), (vec![], [].into()));
    assert_eq!(audit.recounted_model, store.model_counts().unwrap());
    assert!(audit.recounted_model.calls + missing > ANSWERS, "{:?}", audit.recounted_model);
    assert_eq!(store.meta("attempts").unwrap().unwrap(), b"4");
    for number in [1, 2] {
        let account = store.meta(&record_name(number)).unwrap().unwrap();
        assert!(account.ends_with(b"\"seconds\":4}"), "the newest: {}", String::from_utf8_lossy(&account));
    }
    assert_eq!(store.meta("run").unwrap(), None, "not asked for");
}

#[test]
fn answers_and_accounts_are_taken_from_a_database_that_does_not_open() {
    let dir = paid();
    let id = open(dir.path()).state_id();
    let before = std::fs::read(dir.path().join("db/db")).unwrap();
    flip(&dir.path().join("db/conf"), 3);
    let error = try_open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("qaflow verify --repair"), "{error}");
    let saved = salvage(dir.path()).unwrap();
    assert_eq!((saved.answers, saved.known), (ANSWERS + 1, Some(ANSWERS + 1)));
    assert_eq!(saved.kept, dir.path().join("damaged-1"));
    assert!(std::fs::read(saved.kept.join("db/db")).unwrap() == before, "the damaged one is kept as it was");

    let store = open(dir.path());
    holds_what_was_paid_for(&store, 0);
    assert_eq!(store.state_id(), id);
    assert!(store.epoch() > Epoch(1000), "commit numbers only grow");
    let long = store.answer(&RequestKey([200; 32])).unwrap().unwrap();
    assert_eq!(long.completion.content, "long ".repeat(30_000));
    // The next run does everything anew.
    let first = key(0, &[0], 1);
    store.commit(&[admit(&first, &[FIRST])]).unwrap();
    store.commit(&[finish(FIRST, &first, done(0), &[], &[])]).unwrap();
    assert_eq!(store.audit().unwrap().recounted[&FIRST], store.counts(&FIRST).unwrap());
}

#[test]
fn flipped_bytes_cost_few_answers_wherever_they_lie() {
    let sample = paid();
    let places = used(&sample.path().join("db/db"));
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..40 {
        let dir = copy(&sample);
        let at = places[random.usize(..places.len())];
        flip(&dir.path().join("db/db"), at);
        let saved = salvage(dir.path()).unwrap();
        assert!(saved.answers >= ANSWERS, "byte {at}: {saved:?}");
        let audit = open(dir.path()).audit().unwrap();
        assert_eq!((audit.damaged, audit.recounted_model.calls), (vec![], saved.answers), "byte {at}");
    }
}

#[test]
fn answers_that_lie_in_blocks_and_in_files_of_their_own_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut random = fastrand::Rng::with_seed(9);
    let mut text = || std::iter::repeat_with(|| random.alphanumeric()).take(30_000).collect::<String>();
    let contents: Vec<String> = (0..60).map(|_| text()).collect();
    for (n, content) in contents.iter().enumerate() {
        store.commit(&[answer(n as u8, content, 1)]).unwrap();
        if n == 40 {
            store.table.compact().unwrap();
        }
    }
    drop(store);
    assert!(std::fs::read_dir(dir.path().join("db/blobs")).unwrap().count() > 0, "no page is large enough for a file");
    assert_eq!(salvage(dir.path()).unwrap().answers, 60);
    let store = open(dir.path());
    for (n, content) in contents.iter().enumerate() {
        let entry = store.answer(&RequestKey([n as u8; 32])).unwrap().unwrap();
        assert!(entry.completion.content == *content, "answer {n}");
    }
}

#[test]
fn an_answer_without_one_of_its_parts_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(&[answer(1, &"x".repeat(150_000), 1), answer(2, "short", 1)]).unwrap();
    drop(store);
    let path = dir.path().join("db/db");
    let mut bytes = std::fs::read(&path).unwrap();
    let part = crate::store::keys::journal_part(&RequestKey([1; 32]), 2);
    let mut found = 0;
    for at in 0..bytes.len() - part.len() {
        if bytes[at..].starts_with(&part) {
            bytes[at + part.len() + 500] ^= 1;
            found += 1;
        }
    }
    assert!(found > 0);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(salvage(dir.path()).unwrap().answers, 1);
    let store = open(dir.path());
    assert_eq!(store.answer(&RequestKey([1; 32])).unwrap(), None);
    assert_eq!(store.audit().unwrap().damaged, []);
}

/// The thread of an opening that was given up may go on: what it overwrites is taken from before it began.
#[test]
fn a_database_whose_opening_does_not_come_back_is_taken_as_it_was() {
    let dir = paid();
    let before = std::fs::read(dir.path().join("db/db")).unwrap();
    let options = OpenOptions { open_limit: Duration::ZERO, ..REPAIR };
    let error = SledStore::open(dir.path(), options).unwrap_err().to_string();
    assert!(error.contains("did not answer within"), "{error}");
    assert!(dir.path().join("before-open").is_dir());
    // As if it had wiped all that sled may wipe.
    std::fs::write(dir.path().join("db/db"), vec![0; before.len()]).unwrap();
    let saved = salvage(dir.path()).unwrap();
    assert_eq!(saved.answers, ANSWERS + 1);
    assert!(std::fs::read(saved.kept.join("db/db")).unwrap() == before);
    assert!(!dir.path().join("before-open").exists(), "it would be put over the new database");
    holds_what_was_paid_for(&open(dir.path()), 0);
}

#[test]
fn nothing_is_changed_where_there_is_nothing_to_take() {
    let refused = |dir: &Path, expected: &str| {
        let error = salvage(dir).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }) && error.to_string().contains(expected), "{error}");
        assert!(!dir.join("damaged-1").exists() && !dir.join("db.tmp").exists());
    };
    let dir = paid();
    let stranger = sample();
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    refused(dir.path(), "it is missing");
    crate::store::files::copy_dir(&stranger.path().join("db"), &dir.path().join("db")).unwrap();
    refused(dir.path(), "it belongs to the state");
    std::fs::write(dir.path().join("db/db"), b"").unwrap();
    refused(dir.path(), "its files hold none of 101 model answers");
}

#[test]
fn answers_of_lost_commits_are_taken_from_the_copy() {
    let dir = sample();
    let places = used(&dir.path().join("db/db"));
    flip(&dir.path().join("db/db"), places[places.len() * 3 / 4]);
    let error = try_open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("it is older than it was"), "{error}");
    let (store, _) = SledStore::open(dir.path(), REPAIR).unwrap();
    let (counts, audit) = (store.counts(&FIRST).unwrap(), store.audit().unwrap());
    assert!(counts.pending() > 20, "what the lost commits held is done again: {counts:?}");
    assert_eq!((audit.damaged, audit.recounted[&FIRST]), (vec![], counts));
    assert_eq!(audit.recounted_model, store.model_counts().unwrap());
    assert!(audit.recounted_model.calls >= ANSWERS - 1, "{:?}", audit.recounted_model);
}
