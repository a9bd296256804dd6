//! Tests of fencing: what a process that was taken over still writes is read by nobody.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::model::record::{Change, Epoch};
use crate::model::store::{Lease as _, Store as _};
use crate::store::lease_files::{CLAIMS, FILE as LEASE_FILE, beat, claim, myself};
use crate::store::{FileLease, LeaseOptions, SledStore};

fn options(take_over: bool) -> LeaseOptions {
    LeaseOptions { host: "node-a".into(), take_over, ..LeaseOptions::default() }
}

fn note(store: &SledStore, name: &str) {
    store.commit(&[Change::Meta { name: name.into(), value: Some(name.into()) }]).unwrap();
}

fn knows(store: &SledStore, name: &str) -> bool {
    store.meta(name).unwrap().is_some()
}

fn open(folder: &Path) -> SledStore {
    let (store, notices) = SledStore::open(folder, OpenOptions::default()).unwrap();
    assert!(notices.is_empty(), "{notices:?}");
    store
}

/// A holder on another host that nothing is heard of.
fn plant_elsewhere(dir: &Path, change: impl FnOnce(&mut LeaseHolder), age: Duration) {
    create_dirs(&dir.join(CLAIMS)).unwrap();
    let mut holder = myself(1, &LeaseOptions { host: "node-z".into(), ..options(false) });
    (holder.boot_id, holder.pid) = ("another-boot".into(), 4711);
    change(&mut holder);
    assert!(claim(dir, &holder).unwrap());
    beat(dir, &holder).unwrap();
    for path in [dir.join(LEASE_FILE), dir.join(CLAIMS).join(format!("epoch-{}", holder.epoch))] {
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }
}

#[test]
fn what_is_written_late_is_read_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let old_lease = FileLease::acquire(dir.path(), options(false)).unwrap();
    assert_eq!(old_lease.folder(), dir.path());
    let old = open(&old_lease.folder());
    note(&old, "before");
    assert!(FileLease::acquire(dir.path(), options(false)).unwrap_err().to_string().contains("--take-over"));

    let lease = FileLease::acquire(dir.path(), options(true)).unwrap();
    assert_eq!(lease.folder(), dir.path().join("db-2"));
    let new = open(&lease.folder());
    assert!(knows(&new, "before"));
    assert_eq!((new.epoch(), new.state_id()), (old.epoch(), old.state_id()));
    // The commit that the old process was in when it froze.
    for n in 0..20 {
        note(&old, &format!("late-{n}"));
    }
    assert!(old_lease.check().is_err());
    note(&new, "after");
    drop((new, lease));
    drop((old, old_lease));

    assert!(holds_state(dir.path()));
    assert_eq!(current_folder(dir.path()).unwrap(), dir.path().join("db-2"));
    let lease = FileLease::acquire(dir.path(), options(false)).unwrap();
    assert_eq!((lease.epoch(), lease.folder()), (3, dir.path().join("db-2")), "without need nothing is copied");
    let again = open(dir.path());
    assert!(knows(&again, "before") && knows(&again, "after") && !knows(&again, "late-0"));
}

#[test]
fn a_writer_that_is_still_busy_is_copied_whole() {
    let dir = tempfile::tempdir().unwrap();
    let old_lease = FileLease::acquire(dir.path(), options(false)).unwrap();
    let old = open(&old_lease.folder());
    note(&old, "first");
    let (done, known) = (AtomicBool::new(false), std::sync::Mutex::new(Epoch(0)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // As its committer does: the lease is asked before each commit.
            while old_lease.check().is_ok() {
                note(&old, &"x".repeat(40_000));
                *known.lock().unwrap() = old.epoch();
            }
            done.store(true, Ordering::Release);
        });
        std::thread::sleep(Duration::from_millis(100));
        let lease = FileLease::acquire(dir.path(), options(true)).unwrap();
        let new = open(&lease.folder());
        assert!(done.load(Ordering::Acquire), "the writer had seen the claim before the copy was whole");
        assert!(knows(&new, "first"));
        assert!(new.epoch() >= *known.lock().unwrap(), "a commit that was acknowledged is not in the copy");
    });
}

#[test]
fn a_silent_holder_elsewhere_is_fenced_off_and_a_dead_one_here_is_not() {
    let dir = tempfile::tempdir().unwrap();
    plant_elsewhere(dir.path(), |_| (), Duration::from_secs(61));
    drop(open(dir.path()));
    let lease = FileLease::acquire(dir.path(), options(false)).unwrap();
    assert_eq!(lease.folder(), dir.path().join("db-2"));

    let dir = tempfile::tempdir().unwrap();
    plant_elsewhere(dir.path(), |holder| holder.host = "node-a".into(), Duration::ZERO);
    let lease = FileLease::acquire(dir.path(), options(false)).unwrap();
    assert_eq!(lease.folder(), dir.path(), "its host was booted since");
}

#[test]
fn a_copy_that_was_never_finished_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    note(&open(dir.path()), "before");
    // A newcomer that died while it copied: its own end is certain, that of the one before it is not.
    let died = |holder: &mut LeaseHolder| {
        holder.released = true;
        holder.epoch = 4;
        holder.folder = name(4);
        holder.copied_from = Some(String::new());
    };
    plant_elsewhere(dir.path(), died, Duration::ZERO);
    fs::remove_file(dir.path().join(LEASE_FILE)).unwrap();
    create_dirs(&dir.path().join("db-4.copying/db")).unwrap();
    assert_eq!(current_folder(dir.path()).unwrap(), dir.path());
    let lease = FileLease::acquire(dir.path(), options(false)).unwrap();
    assert_eq!((lease.epoch(), lease.folder()), (5, dir.path().join("db-5")));
    assert!(knows(&open(&lease.folder()), "before"));
    assert!(!dir.path().join("db-4.copying").exists());
}

#[test]
fn without_the_leases_files_the_newest_copy_counts() {
    let dir = tempfile::tempdir().unwrap();
    note(&open(dir.path()), "before");
    let first = FileLease::acquire(dir.path(), options(false)).unwrap();
    let second = FileLease::acquire(dir.path(), options(true)).unwrap();
    note(&open(&second.folder()), "after");
    drop((first, second));
    fs::remove_dir_all(dir.path().join(CLAIMS)).unwrap();
    assert!(knows(&open(dir.path()), "after"));
    let lease = FileLease::acquire(dir.path(), options(false)).unwrap();
    assert_eq!((lease.epoch(), lease.folder()), (3, dir.path().join("db-2")), "no number is given twice");
}

#[test]
fn a_folder_that_no_claim_names_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    plant_elsewhere(dir.path(), |holder| holder.folder = "../elsewhere".into(), Duration::from_secs(100));
    let error = FileLease::acquire(dir.path(), options(false)).unwrap_err().to_string();
    assert!(error.contains("names a folder `../elsewhere`"), "{error}");
}

#[test]
fn old_databases_go_when_their_processes_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    note(&open(dir.path()), "before");
    let first = FileLease::acquire(dir.path(), options(false)).unwrap();
    let second = FileLease::acquire(dir.path(), options(true)).unwrap();
    let third = FileLease::acquire(dir.path(), options(true)).unwrap();
    assert_eq!(third.folder(), dir.path().join("db-3"));
    drop((first, second, third));
    drop(FileLease::acquire(dir.path(), options(false)).unwrap());
    assert!(dir.path().join("db").exists() && dir.path().join("db-2").exists(), "this process is alive");
    let path = dir.path().join("db-3").join(FILE);
    let text =
        fs::read_to_string(&path).unwrap().replace(&format!("\"pid\": {}", std::process::id()), "\"pid\": 4294967295");
    fs::write(&path, text).unwrap();
    drop(FileLease::acquire(dir.path(), options(false)).unwrap());
    assert!(!dir.path().join("db").exists() && !dir.path().join("db-2").exists() && !path.exists());
    assert!(knows(&open(dir.path()), "before"));
}
