//! Measurements of the store, run by hand:
//! `cargo test --release --lib store::tests::measure -- --ignored --nocapture`.

use std::time::Instant;

use super::*;
use crate::model::store::Store;
use crate::store::disk_bytes;

/// Resident memory of this process in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// User and system time of this process so far, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[test]
#[ignore = "a measurement, by hand"]
#[expect(clippy::print_stderr, reason = "the result of a measurement")]
fn a_hundred_thousand_finished_items() {
    const ITEMS: u32 = 100_000;
    const BATCH: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let name = "n".repeat(1500);
    let keys: Vec<ItemKey> = (0..ITEMS).map(|n| key((n % 200) as u8, &[n, 1], 1)).collect();
    let mut logical = 0;
    let mut phase = |label: &str, batches: &mut dyn Iterator<Item = Vec<Change>>, bytes: u64| {
        let (start, cpu_before) = (Instant::now(), cpu());
        let mut slowest = 0.0_f64;
        for batch in batches {
            let one = Instant::now();
            store.commit(&batch).unwrap();
            slowest = slowest.max(one.elapsed().as_secs_f64());
        }
        logical += bytes;
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "{label}: {:.1} s, {:.0} changes/s, {:.3} ms cpu each, slowest commit {:.1} ms, rss {} MiB, disk {} MiB \
             for about {} MiB",
            seconds,
            f64::from(ITEMS) / seconds,
            (cpu() - cpu_before) * 1000.0 / f64::from(ITEMS),
            slowest * 1000.0,
            resident(),
            disk_bytes(dir.path()).unwrap() >> 20,
            logical >> 20,
        );
    };
    eprintln!("start: rss {} MiB", resident());
    phase("admit", &mut keys.chunks(BATCH).map(|c| c.iter().map(|k| admit(k, &[FIRST])).collect()), 100_000 * 300);
    // In the order in which a run would finish them: interleaved over documents.
    let child = |k: &ItemKey| {
        let lineage = k.lineage.child(0);
        item(&ItemKey { lineage, id: k.id }, &name)
    };
    phase(
        "finish with one child of 3 KB",
        &mut keys.chunks(BATCH).map(|c| c.iter().map(|k| finish(FIRST, k, done(1), &[child(k)], &[SECOND])).collect()),
        100_000 * 3500,
    );
    let start = Instant::now();
    let audit = store.audit().unwrap();
    eprintln!("audit: {} records in {:.1} s, rss {} MiB", audit.records, start.elapsed().as_secs_f64(), resident());
    drop(store);
    let start = Instant::now();
    let store = open(dir.path());
    eprintln!("open: {:.2} s, rss {} MiB", start.elapsed().as_secs_f64(), resident());
    assert_eq!(store.counts(&FIRST).unwrap().done, u64::from(ITEMS));
    let start = Instant::now();
    let (_, store, _) = store.rebuild(OpenOptions::default()).unwrap();
    let disk = disk_bytes(dir.path()).unwrap() >> 20;
    eprintln!("rebuild: {:.1} s, rss {} MiB, disk {disk} MiB", start.elapsed().as_secs_f64(), resident());
    assert_eq!(store.counts(&FIRST).unwrap().done, u64::from(ITEMS));
}

/// Run on a small file system of its own: `QAFLOW_SMALL_DISK=/mnt/small cargo test … a_full_disk -- --ignored`.
#[test]
#[ignore = "needs a small file system"]
fn a_full_disk_is_a_clear_error_and_keeps_what_was_acknowledged() {
    let Ok(place) = std::env::var("QAFLOW_SMALL_DISK") else { return };
    let dir = tempfile::tempdir_in(&place).unwrap();
    let ballast = std::path::Path::new(&place).join("ballast");
    std::fs::write(&ballast, vec![1; 40 << 20]).unwrap();
    let store = open(dir.path());
    let mut acknowledged = 0;
    let error = loop {
        let batch: Vec<Change> = (0..20).map(|m| admit(&key(1, &[acknowledged, m], 1), &[FIRST])).collect();
        match store.commit(&batch) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, crate::model::StoreError::Full { .. }), "{error}");
    assert!(store.commit(&[admit(&key(2, &[], 1), &[])]).is_err(), "nothing is taken after a failure");
    drop(store);
    if let Err(error) = SledStore::open(dir.path(), OpenOptions::default()) {
        assert!(matches!(error, crate::model::StoreError::Full { .. }), "{error}");
    }
    std::fs::remove_file(&ballast).unwrap();
    let store = open(dir.path());
    assert!(store.epoch().0 >= u64::from(acknowledged) && acknowledged > 10);
    assert_eq!(store.outputs(&SOURCE, None, usize::MAX).unwrap().len() as u64, 20 * store.epoch().0);
    store.commit(&[admit(&key(2, &[], 1), &[])]).unwrap();
}
