//! Damage: never a panic, never silently empty, and nothing overwritten.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::model::StoreError;
use crate::model::record::Epoch;
use crate::model::store::Store;
use crate::store::codec::{self, StateV1};
use crate::store::files::copy_dir;
use crate::store::identity::{FILE, FORMAT, Identity};
use crate::store::keys;
use crate::store::sled::{Value, Writes};

const ITEMS: u32 = 120;

fn items() -> impl Iterator<Item = ItemKey> {
    (0..ITEMS).map(|n| key((n % 3) as u8, &[n], 1))
}

fn ending_of(n: u32) -> Ending {
    match n % 4 {
        0 => rejected(),
        1 => dead("not JSON"),
        _ => done(0),
    }
}

/// A state with items done, rejected, dead and pending, answers and a named value; closed.
pub(super) fn sample() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for chunk in items().collect::<Vec<_>>().chunks(10) {
        store.commit(&chunk.iter().map(|k| admit(k, &[FIRST])).collect::<Vec<_>>()).unwrap();
    }
    drop(store);
    // Opened a second time, so that there is a snapshot, and a log behind it.
    let store = open(dir.path());
    for (n, key) in (0..ITEMS - 20).zip(items()) {
        let change = finish(FIRST, &key, ending_of(n), &[], &[]);
        store.commit(&[change, answer(n as u8, &format!("answer {n} ").repeat(20), 3)]).unwrap();
    }
    store.commit(&[Change::Meta { name: "run".into(), value: Some(b"identity".to_vec()) }]).unwrap();
    drop(store);
    dir
}

/// A copy of a state, to be damaged.
pub(super) fn copy(of: &tempfile::TempDir) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(of.path(), dir.path()).unwrap();
    dir
}

/// Opens without a limit that a slow machine could reach.
pub(super) fn try_open(dir: &Path) -> Result<(SledStore, Vec<String>), StoreError> {
    SledStore::open(dir, OpenOptions::default())
}

/// Whether everything in [`sample`] can be read back, and is what it was. `Err` says what was reported instead.
fn intact(store: &SledStore) -> Result<(), StoreError> {
    let endings = store.endings(&FIRST, None, 1000)?;
    assert_eq!(endings.len() as u32, ITEMS - 20, "endings are missing silently");
    for (n, key) in (0..ITEMS - 20).zip(items()) {
        assert_eq!(store.ending(&FIRST, &key)?, Some(ending_of(n)));
        let entry = store.answer(&RequestKey([n as u8; 32]))?.expect("an answer is missing silently");
        assert_eq!(entry.completion.content, format!("answer {n} ").repeat(20));
    }
    assert_eq!(store.pending(&FIRST, None, Epoch(u64::MAX), 1000)?.len(), 20, "pending items are missing silently");
    assert_eq!(store.outputs(&SOURCE, None, 1000)?.len() as u32, ITEMS, "outputs are missing silently");
    assert_eq!(store.meta("run")?, Some(b"identity".to_vec()));
    let (counts, audit) = (store.counts(&FIRST)?, store.audit()?);
    assert_eq!((counts.admitted, counts.pending()), (u64::from(ITEMS), 20));
    assert_eq!(audit.damaged, [], "what the audit finds, reads find too");
    assert_eq!(audit.recounted[&FIRST], counts);
    Ok(())
}

fn snapshot(dir: &Path) -> PathBuf {
    let mut files = fs::read_dir(dir.join("db")).unwrap().map(|e| e.unwrap().path());
    files.find(|p| p.file_name().unwrap().to_string_lossy().starts_with("snap.")).expect("sled writes one")
}

pub(super) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x41;
    fs::write(path, bytes).unwrap();
}

/// Where a sparse file holds anything.
pub(super) fn used(path: &Path) -> Vec<usize> {
    fs::read(path).unwrap().iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect()
}

#[test]
fn flipped_bytes_never_panic_and_never_pass_for_an_empty_store() {
    let sample = sample();
    let places = used(&sample.path().join("db/db"));
    let mut reported = 0;
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let dir = copy(&sample);
        let at = places[random.usize(..places.len())];
        flip(&dir.path().join("db/db"), at);
        if round % 3 == 0 {
            // Without the snapshot sled reads the whole log.
            fs::remove_file(snapshot(dir.path())).unwrap();
        }
        let before = bytes_of(dir.path());
        match try_open(dir.path()) {
            Ok((store, _)) => match intact(&store) {
                Ok(()) => {}
                Err(StoreError::Damaged { .. }) => reported += 1,
                Err(other) => panic!("byte {at}: {other}"),
            },
            Err(StoreError::Damaged { .. }) => {
                reported += 1;
                assert!(bytes_of(dir.path()) == before, "byte {at}: the failed opening changed something");
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(reported > 5, "only {reported} of 60 flips were noticed");
}

/// All files of a state, by name.
fn bytes_of(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter().map(Result::unwrap);
    let files = entries.filter(|e| e.file_type().is_file());
    files.map(|e| (e.path().to_owned(), fs::read(e.path()).unwrap())).collect()
}

/// sled takes a damaged record at the end of its log for a write that was cut short, and wipes what follows.
#[test]
fn commits_lost_to_damage_are_noticed_also_after_a_kill_and_given_up_only_if_asked() {
    let sample = sample();
    // As a killed process leaves it: the identity is that of the last opening.
    let mut identity = Identity::load(sample.path()).unwrap().unwrap();
    identity.epoch = 13;
    fs::write(sample.path().join(FILE), serde_json::to_vec(&identity).unwrap()).unwrap();
    let dir = copy(&sample);
    let places = used(&dir.path().join("db/db"));
    flip(&dir.path().join("db/db"), places[places.len() * 3 / 4]);
    let before = bytes_of(dir.path());
    let error = try_open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("it is older than it was") && error.contains("it had 113"), "{error}");
    assert!(bytes_of(dir.path()) == before, "the failed opening changed something");

    let options = OpenOptions { accept_loss: true, ..OpenOptions::default() };
    let (store, notices) = SledStore::open(dir.path(), options).unwrap();
    assert!(notices.iter().any(|n| n.contains("to 113 to damage: what they held is done again")), "{notices:?}");
    assert!(store.epoch() > Epoch(113));
    assert!(store.opened_with_losses(), "a repair begins its files anew");
    let kept = dir.path().join("damaged-1/db/db");
    assert!(before.iter().any(|(path, bytes)| path.ends_with("db/db") && *bytes == fs::read(&kept).unwrap()));
    let (counts, audit) = (store.counts(&FIRST).unwrap(), store.audit().unwrap());
    assert_eq!((audit.damaged, audit.recounted[&FIRST]), (vec![], counts), "an older state, but a whole one");
    assert!(counts.done > 0 && counts.pending() > 20, "{counts:?}");
    let (_, store, _) = store.rebuild(OpenOptions::default()).unwrap();
    assert!(!store.opened_with_losses());
    drop(store);
    assert_eq!(try_open(dir.path()).unwrap().1, Vec::<String>::new());
}

#[test]
fn a_broken_snapshot_is_set_aside_and_everything_is_recovered() {
    let sample = sample();
    for damage in [0, 1, 2] {
        let dir = copy(&sample);
        let path = snapshot(dir.path());
        let size = fs::metadata(&path).unwrap().len() as usize;
        match damage {
            0 => flip(&path, size / 2),
            1 => fs::write(&path, &fs::read(&path).unwrap()[..size / 2]).unwrap(),
            _ => fs::write(&path, b"").unwrap(),
        }
        let broken = fs::read(&path).unwrap();
        let (store, notices) = try_open(dir.path()).unwrap();
        intact(&store).unwrap();
        if !notices.is_empty() {
            assert!(notices[0].contains("damaged-1"), "{notices:?}");
            let kept = dir.path().join("damaged-1/db").join(path.file_name().unwrap());
            assert_eq!(fs::read(kept).unwrap(), broken);
        }
        assert!(damage == 2 || !notices.is_empty(), "damage {damage} went unnoticed");
        store.commit(&[admit(&key(9, &[], 1), &[FIRST])]).unwrap();
    }
}

#[test]
fn a_cut_or_missing_or_emptied_database_is_an_error() {
    let sample = sample();
    let check = |damage: &dyn Fn(&Path), expected: &str| {
        let dir = copy(&sample);
        damage(dir.path());
        let error = try_open(dir.path()).and_then(|(store, _)| intact(&store)).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        dir
    };
    check(&|dir| fs::remove_dir_all(dir.join("db")).unwrap(), "it is missing");
    let dir = check(&|dir| fs::remove_file(dir.join("db/db")).unwrap(), "it is missing");
    assert!(!dir.path().join("db/db").exists(), "nothing is made anew");
    let empty = |dir: &Path| {
        fs::remove_dir_all(dir.join("db")).unwrap();
        fs::create_dir(dir.join("db")).unwrap();
        fs::write(dir.join("db/db"), b"").unwrap();
    };
    check(&empty, "it opens empty, though identity.json records commit 113");
    check(&|dir| flip(&dir.join("db/conf"), 3), "the database");
    let cut =
        |dir: &Path, keep: u64| fs::File::options().write(true).open(dir.join("db/db")).unwrap().set_len(keep).unwrap();
    for keep in [0, 1000, 40_000] {
        check(&|dir| cut(dir, keep), "");
        let without_snapshot = |dir: &Path| {
            cut(dir, keep);
            fs::remove_file(snapshot(dir)).unwrap();
        };
        check(&without_snapshot, "");
    }
}

#[test]
fn an_older_copy_and_a_strangers_database_are_refused() {
    let dir = sample();
    let older = copy(&dir);
    let store = open(dir.path());
    let state = store.state_id();
    store.commit(&[Change::Meta { name: "run".into(), value: None }]).unwrap();
    drop(store);
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    copy_dir(&older.path().join("db"), &dir.path().join("db")).unwrap();
    let error = try_open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("it is older than it was: its last readable commit is 113, and it had 114"), "{error}");

    let stranger = tempfile::tempdir().unwrap();
    drop(open(stranger.path()));
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    copy_dir(&stranger.path().join("db"), &dir.path().join("db")).unwrap();
    let error = try_open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("it belongs to the state") && error.contains(&state), "{error}");
}

#[test]
fn identity_is_rebuilt_where_the_database_can_say_what_it_is() {
    let dir = sample();
    fs::write(dir.path().join(FILE), b"{\"form").unwrap();
    let (store, notices) = try_open(dir.path()).unwrap();
    assert!(notices.len() == 1 && notices[0].contains("set aside as"), "{notices:?}");
    assert_eq!(fs::read(dir.path().join("damaged-1").join(FILE)).unwrap(), b"{\"form");
    drop(store);
    fs::remove_file(dir.path().join(FILE)).unwrap();
    let (store, notices) = try_open(dir.path()).unwrap();
    assert!(notices.len() == 1 && notices[0].contains("was missing"), "{notices:?}");
    intact(&store).unwrap();
    drop(store);
    let identity = Identity::load(dir.path()).unwrap().unwrap();
    assert_eq!((identity.epoch, identity.stages[&FIRST.hex()].admitted), (113, u64::from(ITEMS)));
}

#[test]
fn a_newer_format_is_refused() {
    let dir = sample();
    let store = open(dir.path());
    put_raw(&store, keys::STORE, |_| {
        codec::encode(keys::STORE, &StateV1 { format: FORMAT + 1, id: store.id, epoch: 113 }).unwrap()
    });
    drop(store);
    // Closing wrote the identity of this version, so it is the database that says so.
    let error = try_open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found, known: FORMAT, .. } if found == FORMAT + 1), "{error}");
}

#[test]
fn an_older_format_is_refused_with_the_way_out() {
    let dir = sample();
    let store = open(dir.path());
    put_raw(&store, keys::STORE, |_| {
        codec::encode(keys::STORE, &StateV1 { format: 1, id: store.id, epoch: 113 }).unwrap()
    });
    drop(store);
    let before = bytes_of(&dir.path().join("db"));
    let error = try_open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("has format 1") && error.contains("another state folder (`--state`)"), "{error}");
    assert!(bytes_of(&dir.path().join("db")) == before, "the refused opening changed something");
}

#[test]
fn a_second_opener_is_told_that_another_has_it() {
    let dir = sample();
    let _first = open(dir.path());
    let error = try_open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Lease(_)) && error.to_string().contains("another process has"), "{error}");
}

#[test]
fn a_state_that_is_not_there_is_only_made_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions { create: false, ..OpenOptions::default() };
    assert!(matches!(SledStore::open(dir.path(), options), Err(StoreError::Io { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Replaces a record's bytes behind the store's back.
fn put_raw(store: &SledStore, key: &[u8], change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let old = store.table.get(key).unwrap().unwrap();
    let writes = Writes::from([(key.to_vec(), Some(Value::from(change(old.to_vec()))))]);
    store.table.apply(&writes).unwrap();
}

/// Flips the last byte of a record.
fn spoil(store: &SledStore, key: &[u8]) {
    put_raw(store, key, |mut bytes| {
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    });
}

#[test]
fn unreadable_endings_are_reported_and_reopening_balances_the_accounts() {
    let dir = sample();
    let store = open(dir.path());
    let before = store.counts(&FIRST).unwrap();
    // One of each: rejected, dead, done.
    let spoiled: Vec<ItemKey> = items().take(3).collect();
    for item in &spoiled {
        spoil(&store, &keys::item(keys::ENDING, &FIRST, item));
        let error = store.ending(&FIRST, item).unwrap_err().to_string();
        assert!(error.contains(&item.id.short()) && error.contains("--repair"), "{error}");
    }
    assert!(store.endings(&FIRST, None, 1000).is_err());
    let audit = store.audit().unwrap();
    let mut found: Vec<_> = audit.damaged.iter().map(|d| (d.kind, d.stage, d.item.clone().unwrap())).collect();
    found.sort_by(|a, b| a.2.cmp(&b.2));
    let mut expected: Vec<_> = spoiled.iter().map(|item| ("ending", Some(FIRST), item.clone())).collect();
    expected.sort_by(|a, b| a.2.cmp(&b.2));
    assert_eq!(found, expected);

    // With a sound one of the same kind before it in the batch, which must not be mistaken for it.
    let sound = items().nth(4).unwrap();
    let mut batch = vec![reopen(FIRST, &sound)];
    batch.extend(spoiled.iter().map(|item| reopen(FIRST, item)));
    store.commit(&batch).unwrap();
    let after = store.counts(&FIRST).unwrap();
    assert_eq!((after.rejected, after.dead, after.done), (before.rejected - 2, before.dead - 1, before.done - 1));
    assert_eq!(after.pending(), 24);
    let audit = store.audit().unwrap();
    assert_eq!((audit.damaged, audit.recounted[&FIRST]), (vec![], after));
}

#[test]
fn unreadable_outputs_and_pending_entries_are_made_anew() {
    let dir = sample();
    let store = open(dir.path());
    let (ended, waiting) = (items().next().unwrap(), items().last().unwrap());
    spoil(&store, &keys::item(keys::OUTPUT, &SOURCE, &ended));
    spoil(&store, &keys::item(keys::PENDING, &FIRST, &waiting));
    assert!(store.output(&SOURCE, &ended).is_err());
    assert!(store.pending(&FIRST, None, store.epoch(), 99).is_err());
    assert_eq!(store.audit().unwrap().damaged.len(), 2);
    let before = (store.counts(&SOURCE).unwrap(), store.counts(&FIRST).unwrap());
    store.commit(&[admit(&ended, &[FIRST]), reopen(FIRST, &waiting)]).unwrap();
    assert_eq!((store.counts(&SOURCE).unwrap(), store.counts(&FIRST).unwrap()), before);
    intact(&store).unwrap();
}

#[test]
fn unreadable_answers_are_set_aside_and_counted_anew() {
    let dir = sample();
    let store = open(dir.path());
    let request = RequestKey([5; 32]);
    let raw_key = keys::journal(&request);
    spoil(&store, &raw_key);
    assert!(store.answer(&request).is_err());
    let aside = store.set_aside_damaged().unwrap();
    assert_eq!(aside.iter().map(|d| d.kind).collect::<Vec<_>>(), ["journal"]);
    assert_eq!(store.answer(&request).unwrap(), None);
    assert!(store.table.get(&keys::set_aside(&raw_key)).unwrap().is_some(), "its bytes are kept");
    assert_eq!(store.model_counts().unwrap().calls, u64::from(ITEMS) - 21);
    assert_eq!(store.audit().unwrap().recounted_model, store.model_counts().unwrap());
    store.commit(&[answer(5, "again", 3)]).unwrap();
    assert_eq!(store.model_counts().unwrap().calls, u64::from(ITEMS) - 20);
}

#[test]
fn a_long_answer_without_one_of_its_parts_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(&[answer(1, &"x".repeat(150_000), 1)]).unwrap();
    let request = RequestKey([1; 32]);
    let writes = Writes::from([(keys::journal_part(&request, 2), None)]);
    store.table.apply(&writes).unwrap();
    let error = store.answer(&request).unwrap_err().to_string();
    assert!(error.contains("part 2 of 3 is missing"), "{error}");
    store.commit(&[answer(1, "shorter", 1)]).unwrap();
    assert_eq!(store.answer(&request).unwrap().unwrap().completion.content, "shorter");
    assert_eq!(store.model_counts().unwrap().calls, 1);
}

#[test]
fn unreadable_accounts_are_recounted_at_opening() {
    let dir = sample();
    let store = open(dir.path());
    let (counts, model) = (store.counts(&FIRST).unwrap(), store.model_counts().unwrap());
    spoil(&store, &keys::ledger(&FIRST));
    spoil(&store, keys::LEDGER_MODEL);
    drop(store);
    let (store, notices) = try_open(dir.path()).unwrap();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices.iter().all(|n| n.contains("recounted")), "{notices:?}");
    assert_eq!((store.counts(&FIRST).unwrap(), store.model_counts().unwrap()), (counts, model));
    store.set_aside_damaged().unwrap();
    drop(store);
    assert_eq!(try_open(dir.path()).unwrap().1, Vec::<String>::new());
}

#[test]
fn an_unreadable_state_record_is_made_anew_from_the_identity() {
    let dir = sample();
    let store = open(dir.path());
    let (id, epoch) = (store.state_id(), store.epoch());
    spoil(&store, keys::STORE);
    drop(store);
    let (store, notices) = try_open(dir.path()).unwrap();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(store.state_id(), id);
    assert!(store.epoch() > epoch, "commit numbers only grow");
    intact(&store).unwrap();
}

#[test]
fn a_rebuilt_database_holds_the_same_and_a_killed_rebuild_is_settled() {
    let dir = sample();
    let store = open(dir.path());
    let (epoch, counts, model) = (store.epoch(), store.counts(&FIRST).unwrap(), store.model_counts().unwrap());
    let (found, store, notices) = store.rebuild(OpenOptions::default()).unwrap();
    assert_eq!((found.damaged, notices), (vec![], vec![]));
    intact(&store).unwrap();
    assert_eq!((store.epoch(), store.counts(&FIRST).unwrap(), store.model_counts().unwrap()), (epoch, counts, model));
    drop(store);
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|n| n.to_string_lossy().contains("damaged") || n == "db.tmp"), "{names:?}");
    fs::rename(dir.path().join("db"), dir.path().join("db.rebuilt")).unwrap();
    intact(&open(dir.path())).unwrap();
}

/// A page that the engine cannot read hides a handful of records: the rest is saved, and the accounts fit it.
#[test]
fn what_can_be_read_of_a_database_with_a_broken_page_is_saved() {
    let sample = tempfile::tempdir().unwrap();
    let store = open(sample.path());
    // Enough for several of sled's segments: in the newest, a flip is noticed at opening.
    let mut random = fastrand::Rng::with_seed(5);
    let all: Vec<Change> = (0..800_u32)
        .map(|n| (key((n % 7) as u8, &[n], 1), vec![FIRST]))
        .map(|(key, consumers)| {
            let name: String = std::iter::repeat_with(|| random.alphanumeric()).take(3000).collect();
            Change::Admit { producer: SOURCE, consumers, item: item(&key, &name) }
        })
        .collect();
    for (n, batch) in all.chunks(20).enumerate() {
        store.commit(batch).unwrap();
        if n % 10 == 9 {
            store.table.compact().unwrap();
        }
    }
    drop(store);
    drop(open(sample.path()));
    let places = used(&sample.path().join("db/db"));
    let mut saved = Vec::new();
    for _ in 0..200 {
        let dir = copy(&sample);
        flip(&dir.path().join("db/db"), places[random.usize(..places.len())]);
        let Ok((store, _)) = try_open(dir.path()) else { continue };
        let audit = store.audit().unwrap();
        if audit.damaged.is_empty() {
            // The flip hit what later pages had superseded.
            assert_eq!(audit.recounted[&FIRST], store.counts(&FIRST).unwrap());
            continue;
        }
        assert!(store.outputs(&SOURCE, None, 1000).is_err() || store.pending(&FIRST, None, Epoch(99), 1000).is_err());
        let (_, store, _) = store.rebuild(OpenOptions::default()).unwrap();
        assert!(dir.path().join("damaged-1/db/db").is_file());
        let after = store.audit().unwrap();
        assert!(after.damaged.iter().all(|d| d.detail.contains("it is missing")), "{:?}", after.damaged);
        // All that the audit could read is there, and nothing was made up.
        assert_eq!(after.recounted, audit.recounted);
        assert_eq!(after.recounted[&FIRST], store.counts(&FIRST).unwrap());
        // What was lost comes back when it is offered again.
        store.commit(&all).unwrap();
        assert_eq!(store.counts(&FIRST).unwrap().pending(), 800);
        assert_eq!(store.audit().unwrap().damaged, []);
        saved.push(after.records);
        if saved.len() == 3 {
            break;
        }
    }
    assert_eq!(saved.len(), 3, "too few flips broke a page");
    // One page hides few; a page that leads to others, which the flip rarely hits, hides more.
    assert!(saved.iter().any(|records| *records > 1500), "{saved:?} of 1600 records");
}
