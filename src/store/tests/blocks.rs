//! Blocks and the log: that they are what is on disk, that the log is emptied, and what happens when they are damaged.

use std::ops::Bound;

use super::*;
use crate::model::StoreError;
use crate::model::record::StageCounts;
use crate::model::store::Store;
use crate::store::keys;
use crate::store::sled::{Value, Writes};

const ITEMS: u32 = 400;

fn items() -> Vec<ItemKey> {
    (0..ITEMS).map(|n| key((n % 3) as u8, &[n], 1)).collect()
}

/// All places of the database whose keys begin with `prefix`.
fn raw_keys(store: &SledStore, prefix: &[u8]) -> Vec<Vec<u8>> {
    let scan = store.table.database.scan(Bound::Included(prefix.to_vec()), keys::behind(prefix)).unwrap();
    scan.map(|pair| pair.unwrap().0.to_vec()).collect()
}

/// Flips a byte of a value of the database.
fn flip(store: &SledStore, key: &[u8]) {
    let mut bytes = store.table.database.get(key).unwrap().unwrap().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    store.table.database.apply(&Writes::from([(key.to_vec(), Some(Value::from(bytes)))])).unwrap();
}

/// Blocks with outputs, and a log that is empty.
fn sample() -> (tempfile::TempDir, SledStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for batch in items().chunks(50) {
        store.commit(&batch.iter().map(|k| admit(k, &[FIRST])).collect::<Vec<_>>()).unwrap();
    }
    store.table.compact().unwrap();
    (dir, store)
}

#[test]
fn records_lie_in_few_values_and_the_log_begins_anew() {
    let (dir, store) = sample();
    for prefix in [keys::OUTPUT, keys::PENDING, keys::ENDING, keys::JOURNAL] {
        assert_eq!(raw_keys(&store, prefix), Vec::<Vec<u8>>::new());
    }
    let blocks = raw_keys(&store, keys::BLOCK).len();
    assert!((5..40).contains(&blocks), "{blocks} blocks for {} records", 2 * ITEMS);
    let places = raw_keys(&store, b"w/").len();
    for k in items() {
        store.commit(&[finish(FIRST, &k, done(0), &[], &[])]).unwrap();
        store.table.compact().unwrap();
    }
    assert_eq!(raw_keys(&store, b"w/").len(), places, "places are used again");
    assert!(raw_keys(&store, keys::BLOCK).iter().all(|key| !key.starts_with(b"b/p/")), "nothing is pending");
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.counts(&FIRST).unwrap().done, u64::from(ITEMS));
    assert_eq!(store.audit().unwrap().damaged, []);
}

#[test]
fn what_a_scan_reads_stays_whole_while_blocks_are_made() {
    let (_dir, store) = sample();
    let extra: Vec<ItemKey> = (0..600).map(|n| key(1, &[n, 0], 1)).collect();
    store.commit(&extra.iter().map(|k| admit(k, &[])).collect::<Vec<_>>()).unwrap();
    let expected = store.outputs(&SOURCE, None, usize::MAX).unwrap();
    for stop in [0, 1, 100, 255, 256, 257, 700] {
        // Written again, so that they are in the memtable as well as in blocks.
        let again = expected.iter().step_by(2).map(|(k, _)| keys::item(keys::OUTPUT, &SOURCE, k));
        let writes: Writes = again.map(|key| (key.clone(), store.table.get(&key).unwrap())).collect();
        store.table.apply(&writes).unwrap();
        let lower = Bound::Included(keys::OUTPUT.to_vec());
        let mut scan = store.table.scan(lower, keys::behind(keys::OUTPUT)).unwrap();
        let mut read: Vec<Vec<u8>> = scan.by_ref().take(stop).map(|pair| pair.unwrap().0.to_vec()).collect();
        store.table.compact().unwrap();
        read.extend(scan.map(|pair| pair.unwrap().0.to_vec()));
        let keys: Vec<Vec<u8>> = expected.iter().map(|(k, _)| keys::item(keys::OUTPUT, &SOURCE, k)).collect();
        assert_eq!(read, keys, "stopped at {stop}");
    }
}

#[test]
fn a_block_that_cannot_be_read_hides_its_own_records_only() {
    let (_dir, store) = sample();
    let blocks = raw_keys(&store, b"b/o/");
    assert!(blocks.len() > 6);
    let damaged = [&blocks[1], &blocks[4]];
    for key in damaged {
        flip(&store, key);
    }
    let lost = items().iter().filter(|k| matches!(store.output(&SOURCE, k), Err(StoreError::Damaged { .. }))).count();
    let readable = items().iter().filter(|k| matches!(store.output(&SOURCE, k), Ok(Some(_)))).count();
    assert_eq!(lost + readable, ITEMS as usize, "never taken for missing");
    assert!(lost > 10 && readable > lost);
    assert!(store.outputs(&SOURCE, None, 1000).is_err());
    let audit = store.audit().unwrap();
    let details: Vec<&str> = audit.damaged.iter().map(|d| d.detail.as_str()).filter(|d| d.contains("block")).collect();
    assert_eq!(details.len(), 2, "{details:?}");
    assert!(details.iter().all(|d| d.contains("cannot be read") && d.contains("checksum")), "{details:?}");
    assert_eq!(audit.recounted[&SOURCE].emitted, readable as u64);

    let (_, store, notices) = store.rebuild(OpenOptions::default()).unwrap();
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!(store.outputs(&SOURCE, None, 1000).unwrap().len(), readable);
    // What was lost comes back when it is offered again.
    store.commit(&items().iter().map(|k| admit(k, &[FIRST])).collect::<Vec<_>>()).unwrap();
    assert_eq!(store.counts(&SOURCE).unwrap().emitted, u64::from(ITEMS));
    assert_eq!(store.audit().unwrap().damaged, []);
}

#[test]
fn a_damaged_log_is_refused_and_only_if_asked_given_up_batch_by_batch() {
    let (dir, store) = sample();
    let all = items();
    // Three commits; the middle one takes several places.
    store.commit(&[finish(FIRST, &all[0], done(0), &[], &[])]).unwrap();
    let large: Vec<NewItem> = (0..20).map(|n| item(&key(1, &[1, n], 7), &"long name ".repeat(100))).collect();
    store.commit(&[finish(FIRST, &all[1], done(20), &large, &[SECOND])]).unwrap();
    store.commit(&[finish(FIRST, &all[2], dead("no"), &[], &[])]).unwrap();
    flip(&store, &keys::log_place(2));
    drop(store);

    let error = SledStore::open(dir.path(), OpenOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("place 2 of the log") && error.contains("qaflow verify --repair"), "{error}");
    let options = OpenOptions { accept_loss: true, ..OpenOptions::default() };
    let (store, notices) = SledStore::open(dir.path(), options).unwrap();
    assert!(notices.iter().any(|n| n.contains("What it held is done again")), "{notices:?}");
    assert!(dir.path().join("damaged-1/db/db").is_file(), "a copy is kept");
    let expected = StageCounts { admitted: 400, done: 1, dead: 1, ..StageCounts::default() };
    assert_eq!(store.counts(&FIRST).unwrap(), expected, "the middle one is given up as a whole");
    assert_eq!(store.counts(&SECOND).unwrap(), StageCounts::default());
    let audit = store.audit().unwrap();
    assert_eq!((audit.damaged, audit.recounted[&FIRST]), (vec![], expected));
    store.commit(&[finish(FIRST, &all[1], done(20), &large, &[SECOND])]).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.counts(&SECOND).unwrap().pending(), 20);
}

#[test]
fn a_log_without_its_head_is_read_as_far_as_it_goes_if_asked() {
    let (dir, store) = sample();
    let all = items();
    for k in &all[..9] {
        store.commit(&[finish(FIRST, k, done(0), &[], &[])]).unwrap();
    }
    flip(&store, keys::LOG_HEAD);
    drop(store);
    assert!(SledStore::open(dir.path(), OpenOptions::default()).is_err());
    let options = OpenOptions { accept_loss: true, ..OpenOptions::default() };
    let (store, _) = SledStore::open(dir.path(), options).unwrap();
    assert_eq!(store.counts(&FIRST).unwrap().done, 9, "all of it, in this case");
    drop(store);
    assert_eq!(open(dir.path()).audit().unwrap().damaged, []);
}

#[test]
fn a_log_without_its_head_ends_where_nothing_can_be_read() {
    // Else a database that reads nothing would be asked for four billion places, each a fault to tell.
    let (dir, store) = sample();
    let all = items();
    for k in &all[..40] {
        store.commit(&[finish(FIRST, k, done(0), &[], &[])]).unwrap();
    }
    flip(&store, keys::LOG_HEAD);
    for place in 10..30 {
        flip(&store, &keys::log_place(place));
    }
    drop(store);
    let options = OpenOptions { accept_loss: true, ..OpenOptions::default() };
    let (store, notices) = SledStore::open(dir.path(), options).unwrap();
    let done = store.counts(&FIRST).unwrap().done;
    assert!((8..=10).contains(&done), "what lies before: {done}");
    assert!(notices.len() < 20, "{notices:?}");
}
