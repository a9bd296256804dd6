//! The gate over the in-memory store: rounds, accounts, and the same records whatever the order, the concurrency and the
//! moment of a stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use proptest::prelude::*;

use super::tests::{Bench, bench, documents, flow};
use super::*;
use crate::model::record::{Ending, ItemKey, Rejection};
use crate::model::store::Store;
use crate::model::target::Target;
use crate::model::{DocumentHash, Item, Outcome, Payload, PayloadKind, Stage, StageError};
use crate::store::MemoryStore;

/// A number that follows from an item's place alone.
fn number_of(item: &Item, salt: u32) -> u32 {
    let bytes = blake3::hash(&[item.key.lineage.as_bytes(), &salt.to_be_bytes()].concat());
    u32::from_be_bytes([bytes.as_bytes()[0], bytes.as_bytes()[1], bytes.as_bytes()[2], bytes.as_bytes()[3]])
}

/// Makes up to `most` children, or refuses one item in `refuse`, as the item's place says; takes a while.
#[derive(Clone)]
struct Maker {
    name: &'static str,
    most: u32,
    refuse: u32,
    wait_micros: u64,
}

impl Stage for Maker {
    fn accepts(&self) -> PayloadKind {
        PayloadKind::Document
    }
    fn emits(&self) -> PayloadKind {
        PayloadKind::Document
    }
    fn determinants(&self) -> String {
        format!("{} {} {}", self.name, self.most, self.refuse)
    }
    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>> {
        Box::pin(async move {
            if self.wait_micros > 0 {
                let wait = u64::from(fastrand::u32(..)) % self.wait_micros;
                tokio::time::sleep(Duration::from_micros(wait)).await;
            }
            if self.refuse > 0 && number_of(item, 1).is_multiple_of(self.refuse) {
                let (check, value, rule) = (self.name.to_owned(), String::new(), String::new());
                return Ok(Outcome::Reject(Rejection { check, value, rule, evidence: None }));
            }
            let n = if self.most == 1 { 1 } else { number_of(item, 2) % (self.most + 1) };
            Ok(Outcome::emit(vec![item.payload.clone(); n as usize]))
        })
    }
}

/// Documents to passages, passages to candidates, candidates checked, and a keeper.
fn gated(target: Target, passages: u32, concurrency: usize, wait_micros: u64) -> Flow {
    let stage = |name, most, refuse| -> Arc<dyn Stage> { Arc::new(Maker { name, most, refuse, wait_micros }) };
    let mut flow = flow(vec![
        (stage("split", passages, 0), vec![], concurrency, 2),
        (stage("make", 3, 9), vec![0], concurrency, 2),
        (stage("check", 1, 3), vec![1], concurrency, 2),
        (stage("keep", 1, 0), vec![2], concurrency, 2),
    ]);
    flow.gate = Some(Gate {
        from: 0,
        held: vec![1],
        keeper: 3,
        target,
        most_each: 3,
        above: vec![true, false, false, false],
        below: vec![false, true, true, true],
    });
    flow
}

/// Everything that a run left, by stage: each ended item and how it ended.
fn endings(bench: &Bench) -> Vec<Vec<(ItemKey, Ending)>> {
    let keys = (0..4).map(|at| bench.engine.flow.key(at));
    keys.map(|key| bench.store.endings(&key, None, usize::MAX).unwrap()).collect()
}

async fn run_to_the_end(store: &Arc<MemoryStore>, flow: Flow, n: u32) -> Bench {
    let bench = bench(flow, Arc::clone(store));
    let ended = tokio::time::timeout(Duration::from_secs(60), bench.engine.run(documents(n))).await;
    assert_eq!(ended.expect("it hangs").unwrap(), RunEnd::Finished);
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn each_document_gets_what_is_wanted_and_no_more_is_asked() {
    let target = Target { accepted: 4, candidates: 12 };
    let bench = run_to_the_end(&Arc::default(), gated(target, 40, 4, 200), 60).await;
    let all = endings(&bench);
    let mut made: BTreeMap<DocumentHash, u32> = BTreeMap::new();
    let (mut asked, mut unasked) = (0, 0);
    for (key, ending) in &all[1] {
        match ending {
            Ending::Done(done) => {
                *made.entry(key.lineage.root()).or_default() += done.children;
                asked += 1;
            }
            Ending::Rejected(rejection) if rejection.check == "target" => unasked += 1,
            _ => asked += 1,
        }
    }
    assert!(made.values().all(|n| *n <= target.candidates), "{made:?}");
    assert!(unasked > asked, "of about 20 passages a document, few are asked: {asked} asked, {unasked} not");
    let mut kept: BTreeMap<DocumentHash, u32> = BTreeMap::new();
    for (key, ending) in &all[3] {
        match ending {
            Ending::Done(_) => *kept.entry(key.lineage.root()).or_default() += 1,
            Ending::Rejected(rejection) => assert_eq!(rejection.value, "4 of 4 accepted"),
            Ending::Dead(letter) => panic!("{letter:?}"),
        }
    }
    assert!(kept.values().all(|n| *n <= target.accepted), "{kept:?}");
    // Whoever has fewer has no passage left, or reached the cap.
    for (key, _) in &all[0] {
        let document = key.lineage.root();
        if kept.get(&document).copied().unwrap_or(0) < target.accepted {
            let left = all[1]
                .iter()
                .filter(|(key, _)| key.lineage.root() == document)
                .any(|(_, ending)| matches!(ending, Ending::Rejected(r) if r.check == "target"));
            let made = made.get(&document).copied().unwrap_or(0);
            assert!(!left || made + 3 > target.candidates, "{document:?} gave up early: {made} made");
        }
    }
    for (name, counts) in bench.engine.counts().unwrap() {
        assert_eq!(counts.pending(), 0, "{name}: {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_more_documents_than_permits_and_a_concurrency_of_one() {
    let target = Target { accepted: 2, candidates: 6 };
    let wide = run_to_the_end(&Arc::default(), gated(target, 12, 16, 0), 300).await;
    let narrow = run_to_the_end(&Arc::default(), gated(target, 12, 1, 0), 300).await;
    assert_eq!(endings(&wide), endings(&narrow));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the target, the sizes and the moments of several stops: the records are those of a run that nobody
    /// stopped.
    #[test]
    fn stops_change_nothing(
        accepted in 1_u32..6, more in 0_u32..12, passages in 1_u32..20, concurrency in 1_usize..6, n in 0_u32..12,
        stops in proptest::collection::vec(0_u64..40, 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let target = Target { accepted, candidates: (accepted + more).max(3) };
            let whole = run_to_the_end(&Arc::default(), gated(target, passages, 4, 0), n).await;
            let store = Arc::new(MemoryStore::new());
            for after in stops {
                let stopped = bench(gated(target, passages, concurrency, 300), Arc::clone(&store));
                // Half of them are cut off at once, as by a kill.
                let grace = if after % 2 == 0 { Duration::ZERO } else { Duration::from_secs(5) };
                let engine = Engine { grace, ..Arc::into_inner(stopped.engine).unwrap() };
                let stop = engine.stop.clone();
                let stopper = tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_micros(after * 150)).await;
                    stop.request(StopReason::Signal("SIGTERM"));
                });
                engine.run(documents(n)).await.unwrap();
                stopper.abort();
                // What was given to the writer is in the store before the next attempt begins, as after a run's end.
                drop(engine);
                tokio::task::spawn_blocking(move || stopped.writer.join()).await.unwrap().unwrap();
            }
            let resumed = run_to_the_end(&store, gated(target, passages, concurrency, 0), n).await;
            assert_eq!(endings(&whole), endings(&resumed));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_without_passages_and_payloads_are_no_trouble() {
    let target = Target { accepted: 3, candidates: 9 };
    // Nothing passes the check that refuses every item.
    let mut refusing = gated(target, 6, 2, 0);
    refusing.nodes[2].stage = Arc::new(Maker { name: "check", most: 1, refuse: 1, wait_micros: 0 });
    let bench = run_to_the_end(&Arc::default(), refusing, 20).await;
    let counts = bench.engine.counts().unwrap();
    assert_eq!((counts["s3"].admitted, counts["s2"].rejected), (0, counts["s2"].admitted));
    let none: Vec<_> = bench.store.outputs(&bench.engine.flow.key(3), None, 10).unwrap();
    assert!(none.iter().all(|(_, output)| matches!(output.payload, Payload::Document(_))) && none.is_empty());
}
