//! Tests of the lease.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use std::fs::File;
use std::time::SystemTime;

use super::*;

fn options(host: &str) -> LeaseOptions {
    LeaseOptions { host: host.into(), ..LeaseOptions::default() }
}

/// Plants a holder as another process would have left it, last heard of `age` ago.
fn plant(dir: &Path, change: impl FnOnce(&mut LeaseHolder), age: Duration) -> LeaseHolder {
    create_dirs(&dir.join(CLAIMS)).unwrap();
    let mut holder = myself(1, &options("node-a"));
    change(&mut holder);
    assert!(claim(dir, &holder).unwrap());
    beat(dir, &holder).unwrap();
    let heard = SystemTime::now() - age;
    for path in [dir.join(FILE), claim_path(dir, 1)] {
        File::options().write(true).open(path).unwrap().set_modified(heard).unwrap();
    }
    holder
}

/// A process elsewhere, of which nothing is known but its heartbeat.
fn elsewhere(holder: &mut LeaseHolder) {
    holder.pid = 4711;
    holder.boot_id = "another-boot".into();
    holder.job = Some("slurm 17".into());
}

#[test]
fn one_holder_at_a_time_and_release_on_drop() {
    let dir = tempfile::tempdir().unwrap();
    let first = FileLease::acquire(dir.path(), options("node-a")).unwrap();
    first.check().unwrap();
    assert_eq!(first.epoch(), 1);
    assert_eq!(LeaseHolder::read(dir.path()).unwrap().unwrap().id, first.holder().id);
    let refused = FileLease::acquire(dir.path(), options("node-a")).unwrap_err().to_string();
    assert!(refused.contains(&format!("process {} on host node-a", std::process::id())), "{refused}");
    drop(first);
    assert_eq!(LeaseHolder::read(dir.path()).unwrap(), None);
    assert!(!dir.path().join(FILE).exists());
    let second = FileLease::acquire(dir.path(), options("node-b")).unwrap();
    assert_eq!(second.epoch(), 2, "numbers only grow");
    second.check().unwrap();
}

#[test]
fn a_process_that_is_gone_is_succeeded_at_once() {
    for change in [
        (|holder| holder.pid = u32::MAX) as fn(&mut LeaseHolder),
        // The number was given to another process since.
        |holder| holder.pid_start += 1,
        // The host was booted since.
        |holder| holder.boot_id = "before".into(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        plant(dir.path(), change, Duration::ZERO);
        assert_eq!(FileLease::acquire(dir.path(), options("node-a")).unwrap().epoch(), 2);
    }
}

#[test]
fn a_process_that_runs_is_not_succeeded_however_old_its_heartbeat() {
    let dir = tempfile::tempdir().unwrap();
    plant(dir.path(), |_| (), Duration::from_secs(3600));
    let error = FileLease::acquire(dir.path(), options("node-a")).unwrap_err().to_string();
    assert!(error.contains("which is running"), "{error}");
}

#[test]
fn another_host_is_succeeded_once_its_heartbeat_is_old() {
    let dir = tempfile::tempdir().unwrap();
    plant(dir.path(), elsewhere, Duration::from_millis(20_500));
    let error = FileLease::acquire(dir.path(), options("node-b")).unwrap_err();
    assert!(matches!(error, StoreError::Lease(_)));
    let text = error.to_string().replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(text, @"the state DIR is in use by process 4711 on host node-a, job slurm 17, last heard of 20 s ago: stop it first, or, if it is gone, run the same command again in 40 s (a heartbeat counts for 60 s); `qaflow status` shows what it does meanwhile, and `qaflow run` with --take-over goes on without it at once");

    let dir = tempfile::tempdir().unwrap();
    plant(dir.path(), elsewhere, Duration::from_secs(61));
    assert_eq!(FileLease::acquire(dir.path(), options("node-b")).unwrap().epoch(), 2);
}

#[test]
fn a_container_on_this_host_is_judged_by_its_heartbeat() {
    let dir = tempfile::tempdir().unwrap();
    let container = |holder: &mut LeaseHolder| {
        holder.pid = u32::MAX;
        holder.pid_namespace = "pid:[1]".into();
    };
    plant(dir.path(), container, Duration::ZERO);
    assert!(FileLease::acquire(dir.path(), options("node-a")).is_err());
}

#[test]
fn a_requeued_job_succeeds_its_older_attempt_at_once() {
    let dir = tempfile::tempdir().unwrap();
    plant(dir.path(), elsewhere, Duration::ZERO);
    let other_job = LeaseOptions { job: Some("slurm 18".into()), ..options("node-b") };
    assert!(FileLease::acquire(dir.path(), other_job).is_err());
    let same_job = LeaseOptions { job: Some("slurm 17".into()), ..options("node-b") };
    assert_eq!(FileLease::acquire(dir.path(), same_job).unwrap().epoch(), 2);
}

#[test]
fn a_holder_that_was_taken_over_notices_and_leaves_the_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    let beats = LeaseOptions { heartbeat: Duration::from_millis(5), ..options("node-a") };
    let old = FileLease::acquire(dir.path(), beats.clone()).unwrap();
    let new = FileLease::acquire(dir.path(), LeaseOptions { take_over: true, ..beats }).unwrap();
    let error = old.check().unwrap_err();
    assert!(matches!(error, StoreError::Lease(_)) && error.to_string().contains("taken over by process"), "{error}");
    thread::sleep(Duration::from_millis(30));
    drop(old);
    new.check().unwrap();
    assert_eq!(LeaseHolder::read(dir.path()).unwrap().unwrap().id, new.holder().id);
}

#[test]
fn an_old_heartbeat_that_overwrites_the_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let old = plant(dir.path(), elsewhere, Duration::from_secs(100));
    let new = FileLease::acquire(dir.path(), options("node-b")).unwrap();
    beat(dir.path(), &old).unwrap();
    new.check().unwrap();
    assert_eq!(LeaseHolder::read(dir.path()).unwrap().unwrap().id, new.holder().id);
    assert!(FileLease::acquire(dir.path(), options("node-b")).is_err());
}

#[test]
fn the_heartbeat_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let lease =
        FileLease::acquire(dir.path(), LeaseOptions { heartbeat: Duration::from_millis(5), ..options("node-a") })
            .unwrap();
    let first = fs::read(dir.path().join(FILE)).unwrap();
    let changed = (0..400).any(|_| {
        thread::sleep(Duration::from_millis(5));
        fs::read(dir.path().join(FILE)).unwrap() != first
    });
    assert!(changed);
    lease.check().unwrap();
}

#[test]
fn of_racing_takers_exactly_one_wins() {
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        if round % 2 == 0 {
            plant(dir.path(), |holder| holder.pid = u32::MAX, Duration::ZERO);
        }
        let (start, winners) = (Barrier::new(8), AtomicUsize::new(0));
        let leases: Vec<FileLease> = thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let lease = FileLease::acquire(dir.path(), options("node-a")).ok();
                        winners.fetch_add(usize::from(lease.is_some()), Ordering::Relaxed);
                        lease
                    })
                })
                .collect();
            takers.into_iter().filter_map(|taker| taker.join().unwrap()).collect()
        });
        assert_eq!(winners.load(Ordering::Relaxed), 1);
        leases[0].check().unwrap();
    }
}

#[test]
fn a_claim_without_content_blocks_until_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    create_dirs(&dir.path().join(CLAIMS)).unwrap();
    File::create_new(claim_path(dir.path(), 3)).unwrap();
    let error = FileLease::acquire(dir.path(), options("node-a")).unwrap_err().to_string();
    assert!(error.contains("is being taken by another process"), "{error}");
    let heard = SystemTime::now() - Duration::from_secs(90);
    File::options().write(true).open(claim_path(dir.path(), 3)).unwrap().set_modified(heard).unwrap();
    assert_eq!(FileLease::acquire(dir.path(), options("node-a")).unwrap().epoch(), 4);
}

#[test]
fn removed_lease_files_stop_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let lease = FileLease::acquire(dir.path(), options("node-a")).unwrap();
    fs::remove_file(claim_path(dir.path(), 1)).unwrap();
    assert!(lease.check().is_err());
}
