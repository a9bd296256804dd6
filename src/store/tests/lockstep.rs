//! The store on disk against the one in memory: the same changes, the same answers, the same reads.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::model::StoreError;
use crate::model::record::{Epoch, PendingItem, StageCounts};
use crate::model::store::Store;
use crate::store::MemoryStore;

const STAGES: [StageKey; 3] = [SOURCE, FIRST, SECOND];

/// One step of the comparison.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Change>),
    /// Makes blocks of the latest changes, which nobody may notice.
    Compact,
    /// Closes the store on disk and opens it again.
    Restart,
}

fn any_key() -> impl Strategy<Value = ItemKey> {
    let ordinals = prop_oneof![3 => Just(vec![]), 3 => Just(vec![0]), 1 => Just(vec![0, 256])];
    // Few, so that changes often meet.
    (1..3_u8, ordinals, prop_oneof![4 => Just(4_u8), 1 => Just(5_u8)])
        .prop_map(|(doc, ordinals, branch)| key(doc, &ordinals, branch))
}

fn any_stage() -> impl Strategy<Value = StageKey> {
    prop_oneof![1 => Just(SOURCE), 4 => Just(FIRST), 4 => Just(SECOND)]
}

fn consumers() -> impl Strategy<Value = Vec<StageKey>> {
    proptest::sample::subsequence(vec![FIRST, SECOND], 0..=2)
}

fn size(common: Range<usize>, huge: Range<usize>) -> impl Strategy<Value = usize> {
    prop_oneof![12 => common, 1 => huge]
}

fn any_item() -> impl Strategy<Value = NewItem> {
    // A few are too large for a record.
    (any_key(), size(0..9, 65_000..66_500)).prop_map(|(key, len)| item(&key, &"n".repeat(len)))
}

fn any_ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        3 => (0..4_u32).prop_map(done),
        1 => Just(rejected()),
        2 => size(0..9, 60_000..80_000).prop_map(|len| dead(&"ü".repeat(len))),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any_stage(), consumers(), any_item())
            .prop_map(|(producer, consumers, item)| Change::Admit { producer, consumers, item }),
        1 => (any_stage(), any_stage(), any_key())
            .prop_map(|(producer, consumer, key)| Change::Seed { producer, consumer, key }),
        6 => (any_stage(), any_key(), any_ending(), vec(any_item(), 0..3), consumers()).prop_map(
            |(stage, key, ending, children, consumers)| {
                // Children of what is not done are illegal: keep a few of those.
                let keep = matches!(ending, Ending::Done(_)) || key.id.0[0] == 4;
                let children = if keep { children } else { Vec::new() };
                Change::Finish { stage, key, ending, children, consumers }
            }
        ),
        4 => (any_stage(), any_key(), any_stage())
            .prop_map(|(stage, key, producer)| Change::Reopen { stage, key, producer }),
        2 => (0..3_u8, size(0..20, 40_000..200_000), 0..50_u64)
            .prop_map(|(request, len, tokens)| answer(request, &"é".repeat(len), tokens)),
        1 => (0..3_u8, proptest::option::of(size(0..20, 65_000..66_000))).prop_map(|(name, value)| Change::Meta {
            name: format!("name/{name}"),
            value: value.map(|len| vec![7; len]),
        }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // One illegal change spoils its batch, so most are alone.
        20 => any_change().prop_map(|change| Step::Commit(vec![change])),
        6 => vec(any_change(), 2..4).prop_map(Step::Commit),
        // Chosen so that long batches often are legal.
        2 => vec((any_key(), consumers()), 1..12).prop_map(|items| {
            Step::Commit(items.iter().map(|(key, consumers)| admit(key, consumers)).collect())
        }),
        3 => Just(Step::Compact),
        1 => Just(Step::Restart),
    ]
}

/// All pages of a read, `limit` at a time.
fn pages<T: Clone>(limit: usize, key: impl Fn(&T) -> ItemKey, read: impl Fn(Option<&ItemKey>) -> Vec<T>) -> Vec<T> {
    let mut all = Vec::new();
    let mut after: Option<ItemKey> = None;
    loop {
        let page = read(after.as_ref());
        assert!(page.len() <= limit);
        let Some(last) = page.last() else { return all };
        after = Some(key(last));
        all.extend(page);
    }
}

fn keyed<T>((key, _): &(ItemKey, T)) -> ItemKey {
    key.clone()
}

fn compare(disk: &dyn Store, memory: &dyn Store, limit: usize) {
    assert_eq!(disk.epoch(), memory.epoch());
    assert_eq!(disk.model_counts().unwrap(), memory.model_counts().unwrap());
    for name in 0..3 {
        let name = format!("name/{name}");
        assert_eq!(disk.meta(&name).unwrap(), memory.meta(&name).unwrap());
    }
    for request in 0..3 {
        let request = RequestKey([request; 32]);
        assert_eq!(disk.answer(&request).unwrap(), memory.answer(&request).unwrap());
    }
    for stage in &STAGES {
        let counts = disk.counts(stage).unwrap();
        assert_eq!(counts, memory.counts(stage).unwrap());
        for until in [0, disk.epoch().0 / 2, disk.epoch().0] {
            let read =
                |store: &dyn Store, after: Option<&ItemKey>| store.pending(stage, after, Epoch(until), limit).unwrap();
            let pending = pages(limit, |p: &PendingItem| p.key.clone(), |after| read(disk, after));
            assert_eq!(pending, pages(limit, |p: &PendingItem| p.key.clone(), |after| read(memory, after)));
            assert!(pending.is_sorted_by_key(|p| &p.key));
            if until == disk.epoch().0 {
                assert_eq!(pending.len() as u64, counts.pending());
            }
        }
        for item in disk.pending(stage, None, disk.epoch(), usize::MAX).unwrap() {
            let since = disk.pending_since(stage, &item.key).unwrap();
            assert_eq!(since, memory.pending_since(stage, &item.key).unwrap());
            assert!(since.is_some_and(|since| since <= disk.epoch()));
        }
        let endings = pages(limit, keyed, |after| disk.endings(stage, after, limit).unwrap());
        assert_eq!(endings, pages(limit, keyed, |after| memory.endings(stage, after, limit).unwrap()));
        assert_eq!(endings.len() as u64, counts.done + counts.rejected + counts.dead);
        let outputs = pages(limit, keyed, |after| disk.outputs(stage, after, limit).unwrap());
        assert_eq!(outputs, pages(limit, keyed, |after| memory.outputs(stage, after, limit).unwrap()));
        assert_eq!(outputs.len() as u64, counts.emitted);
        assert!(outputs.is_sorted_by_key(|(k, _)| k) && endings.is_sorted_by_key(|(k, _)| k));
        for (key, ending) in &endings {
            assert_eq!(disk.ending(stage, key).unwrap().as_ref(), Some(ending));
            assert_eq!(disk.pending_since(stage, key).unwrap(), None);
        }
        for (key, output) in &outputs {
            assert_eq!(disk.output(stage, key).unwrap().as_ref(), Some(output));
        }
        for doc in 0..4 {
            let doc = DocumentHash([doc; 32]);
            let of = pages(limit, keyed, |after| disk.outputs_of(stage, &doc, after, limit).unwrap());
            let expected: Vec<_> = outputs.iter().filter(|(k, _)| k.lineage.root() == doc).cloned().collect();
            assert_eq!(of, expected);
            let of = pages(limit, keyed, |after| disk.endings_of(stage, &doc, after, limit).unwrap());
            let expected: Vec<_> = endings.iter().filter(|(k, _)| k.lineage.root() == doc).cloned().collect();
            assert_eq!(of, expected);
            // A place before or behind the document.
            for other in [key(1, &[], 0), key(3, &[7], 0)] {
                assert_eq!(
                    disk.outputs_of(stage, &doc, Some(&other), 99).unwrap(),
                    memory.outputs_of(stage, &doc, Some(&other), 99).unwrap()
                );
                assert_eq!(
                    disk.endings_of(stage, &doc, Some(&other), 99).unwrap(),
                    memory.endings_of(stage, &doc, Some(&other), 99).unwrap()
                );
            }
        }
    }
    let (audit, expected) = (disk.audit().unwrap(), memory.audit().unwrap());
    let sorted = |mut damaged: Vec<crate::model::store::DamagedRecord>| {
        damaged.sort_by(|a, b| a.raw_key.cmp(&b.raw_key));
        damaged
    };
    assert_eq!(sorted(audit.damaged), sorted(expected.damaged));
    assert_eq!(audit.recounted, expected.recounted);
    assert_eq!(audit.recounted_model, expected.recounted_model);
    assert_eq!(audit.recounted_model, disk.model_counts().unwrap());
    for stage in &STAGES {
        assert_eq!(audit.recounted.get(stage).copied().unwrap_or_default(), disk.counts(stage).unwrap());
    }
}

/// Errors as far as both must agree; sizes are those of different encodings.
fn kind(result: Result<Epoch, StoreError>) -> Result<Epoch, String> {
    result.map_err(|error| match error {
        StoreError::TooLarge { .. } => "too large".into(),
        other => other.to_string(),
    })
}

/// The state in a folder of its own: sled may hold the lock of a database that this process closed for a while.
fn moved(from: &tempfile::TempDir) -> tempfile::TempDir {
    fn copy(from: &std::path::Path, to: &std::path::Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let (path, target) = (entry.path(), to.join(entry.file_name()));
            if path.is_dir() {
                copy(&path, &target);
            } else {
                std::fs::copy(&path, &target).unwrap();
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy(from.path(), to.path());
    to
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn disk_and_memory_agree(steps in vec(any_step(), 20..80), limit in 1..5_usize) {
        let mut dir = tempfile::tempdir().unwrap();
        let mut disk = Some(open(dir.path()));
        let memory = MemoryStore::new();
        for step in &steps {
            match step {
                Step::Commit(changes) => {
                    let store = disk.as_ref().unwrap();
                    prop_assert_eq!(kind(store.commit(changes)), kind(memory.commit(changes)));
                }
                Step::Compact => disk.as_ref().unwrap().table.compact().unwrap(),
                Step::Restart => {
                    drop(disk.take());
                    dir = moved(&dir);
                    disk = Some(open(dir.path()));
                }
            }
        }
        compare(disk.as_ref().unwrap(), &memory, limit);
        drop(disk.take());
        dir = moved(&dir);
        let disk = open(dir.path());
        compare(&disk, &memory, limit);
        disk.table.compact().unwrap();
        compare(&disk, &memory, limit);
    }
}

/// Both stores, for tests of single rules.
fn both(test: impl Fn(&dyn Store)) {
    test(&MemoryStore::new());
    let dir = tempfile::tempdir().unwrap();
    test(&open(dir.path()));
}

#[test]
fn an_item_moves_and_the_accounts_balance() {
    both(|store| {
        let document = key(1, &[], 1);
        let (a, b) = (key(1, &[0], 2), key(1, &[1], 3));
        assert_eq!(store.epoch(), Epoch(0));
        store.commit(&[admit(&document, &[FIRST])]).unwrap();
        let children = [item(&a, "a"), item(&b, "b")];
        store.commit(&[finish(FIRST, &document, done(2), &children, &[SECOND])]).unwrap();
        store.commit(&[finish(SECOND, &b, rejected(), &[], &[])]).unwrap();
        let expected = StageCounts { admitted: 2, rejected: 1, ..StageCounts::default() };
        assert_eq!(store.counts(&SECOND).unwrap(), expected);
        let pending = store.pending(&SECOND, None, Epoch(3), 9).unwrap();
        assert_eq!(pending.iter().map(|p| (&p.key, p.producer)).collect::<Vec<_>>(), [(&a, FIRST)]);
        assert!(store.pending(&SECOND, None, Epoch(1), 9).unwrap().is_empty(), "it became pending in commit 2");
        assert_eq!(store.endings(&SECOND, None, 9).unwrap(), [(b, rejected())]);
    });
}

#[test]
fn an_illegal_step_leaves_nothing_of_its_batch() {
    both(|store| {
        let (known, other) = (key(1, &[], 1), key(2, &[], 2));
        store.commit(&[admit(&known, &[FIRST])]).unwrap();
        let batch = [finish(FIRST, &known, done(0), &[], &[]), finish(FIRST, &other, done(0), &[], &[])];
        let error = store.commit(&batch).unwrap_err().to_string();
        assert!(error.contains("is unknown and cannot become done"), "{error}");
        assert_eq!(store.epoch(), Epoch(1));
        assert_eq!(store.counts(&FIRST).unwrap().pending(), 1);
        assert_eq!(store.ending(&FIRST, &known).unwrap(), None);
        // The same batch without the fault goes through: the store is not left unusable.
        store.commit(&batch[..1]).unwrap();
        let error = store.commit(&batch[..1]).unwrap_err().to_string();
        assert!(error.contains("is done and cannot become done"), "{error}");
        let error = store.commit(&[reopen(FIRST, &other)]).unwrap_err().to_string();
        assert!(error.contains("is unknown and cannot become pending"), "{error}");
    });
}

#[test]
fn dead_items_can_be_reopened_and_finished_again() {
    both(|store| {
        let document = key(1, &[], 1);
        store.commit(&[admit(&document, &[FIRST]), finish(FIRST, &document, dead("x"), &[], &[])]).unwrap();
        assert_eq!(store.counts(&FIRST).unwrap().dead, 1);
        store.commit(&[reopen(FIRST, &document)]).unwrap();
        assert_eq!(store.counts(&FIRST).unwrap().pending(), 1);
        assert!(store.commit(&[reopen(FIRST, &document)]).is_err());
        store.commit(&[finish(FIRST, &document, done(0), &[], &[])]).unwrap();
        let expected = StageCounts { admitted: 1, done: 1, ..StageCounts::default() };
        assert_eq!(store.counts(&FIRST).unwrap(), expected);
    });
}

#[test]
fn the_first_answer_stays_and_is_counted_once() {
    both(|store| {
        let long = "word ".repeat(50_000);
        store.commit(&[answer(1, &long, 5), answer(1, "second", 9), answer(2, "", 1)]).unwrap();
        store.commit(&[answer(1, "third", 100)]).unwrap();
        assert_eq!(store.answer(&RequestKey([1; 32])).unwrap().unwrap().completion.content, long);
        let counts = store.model_counts().unwrap();
        assert_eq!((counts.calls, counts.usage.completion_tokens), (2, 6));
        assert_eq!(store.answer(&RequestKey([3; 32])).unwrap(), None);
    });
}

#[test]
fn too_large_a_payload_is_refused_and_harms_nothing() {
    both(|store| {
        let document = key(1, &[], 1);
        let large = item(&document, &"n".repeat(70_000));
        let error = store.commit(&[Change::Admit { producer: SOURCE, consumers: vec![FIRST], item: large.clone() }]);
        assert!(matches!(error, Err(StoreError::TooLarge { .. })));
        assert!(crate::store::fits(&large).is_err());
        assert_eq!(store.outputs(&SOURCE, None, 9).unwrap(), []);
        store.commit(&[admit(&document, &[FIRST])]).unwrap();
    });
}
