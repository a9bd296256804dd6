//! The engine over the in-memory store, with stages made for the test: what flows, in which number, and what is left
//! after a stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::*;
use crate::model::graph::{Graph, StageDecl};
use crate::model::params::Place;
use crate::model::payload::{Document, DocumentFormat};
use crate::model::record::{Ending, ItemKey, Rejection};
use crate::model::store::{Commit, Lease, Store};
use crate::model::{
    DocumentHash, ErrorClass, Fingerprint, Item, ItemId, Outcome, Payload, PayloadKind, Stage, StageError, StoreError,
};
use crate::store::MemoryStore;

/// A lease that is never lost.
struct Held;
impl Lease for Held {
    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn document(n: u32) -> Document {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    let name = format!("d{n}");
    Document { name, sha256: DocumentHash(hash), path: String::new(), bytes: 0, format: DocumentFormat::Text }
}

/// Makes `fan` children of each item, after getting a permit; every third child of a chain is refused by `refuse`.
struct Fan {
    children: u32,
    gate: Arc<Semaphore>,
    begun: Arc<AtomicUsize>,
    refuse: bool,
}

impl Fan {
    fn free(fan: u32) -> Self {
        Self {
            children: fan,
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            begun: Arc::default(),
            refuse: false,
        }
    }
}

impl Stage for Fan {
    fn accepts(&self) -> PayloadKind {
        PayloadKind::Document
    }
    fn emits(&self) -> PayloadKind {
        PayloadKind::Document
    }
    fn determinants(&self) -> String {
        format!("fan {}", self.children)
    }
    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>> {
        Box::pin(async move {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let permit = self.gate.acquire().await;
            if let Ok(permit) = permit {
                permit.forget();
            }
            let Payload::Document(parent) = &item.payload else { panic!("{:?}", item.payload) };
            if self.refuse && item.key.lineage.ordinals().last() == Some(&2) {
                let rejection = Rejection {
                    check: "third".into(),
                    value: "2".into(),
                    rule: "not the third".into(),
                    evidence: None,
                };
                return Ok(Outcome::Reject(rejection));
            }
            let child = |i| Payload::Document(Document { name: format!("{}.{i}", parent.name), ..parent.clone() });
            Ok(Outcome::emit((0..self.children).map(child).collect()))
        })
    }
}

/// A stage with the indices of its inputs (none for the source), its concurrency and its buffer.
pub(super) type Declared = (Arc<dyn Stage>, Vec<usize>, usize, usize);

/// A flow of the given stages.
#[expect(clippy::needless_pass_by_value, reason = "each test makes its stages for one flow")]
pub(super) fn flow(stages: Vec<Declared>) -> Flow {
    let name = |i: usize| format!("s{i}");
    let decls: Vec<StageDecl> = stages
        .iter()
        .enumerate()
        .map(|(i, (_, inputs, ..))| StageDecl {
            name: name(i),
            kinds: Some((PayloadKind::Document, PayloadKind::Document)),
            inputs: if inputs.is_empty() { vec!["source".into()] } else { inputs.iter().map(|f| name(*f)).collect() },
            place: Place { file: "test".into(), line: i as u32 },
        })
        .collect();
    let graph = Graph::build(&decls).unwrap();
    let fingerprints = graph.fingerprints(|at| {
        let declared = graph.declared[at];
        format!("{declared} {}", stages[declared].0.determinants()).into_bytes()
    });
    let nodes = graph.nodes.iter().enumerate().map(|(at, node)| {
        let (stage, _, concurrency, buffer) = &stages[graph.declared[at]];
        FlowNode {
            name: node.name.clone(),
            stage: Arc::clone(stage),
            fingerprint: fingerprints[at],
            identity: fingerprints[at],
            inputs: node.inputs.clone(),
            from_source: node.from_source,
            consumers: node.consumers.clone(),
            depth: node.depth,
            concurrency: *concurrency,
            buffer: *buffer,
            asking: Arc::default(),
        }
    });
    Flow { nodes: nodes.collect(), gate: None }
}

pub(super) struct Bench {
    pub(super) engine: Arc<Engine>,
    pub(super) store: Arc<MemoryStore>,
    pub(super) writer: std::thread::JoinHandle<()>,
}

pub(super) fn bench(flow: Flow, store: Arc<MemoryStore>) -> Bench {
    let dynamic: Arc<dyn Store> = store.clone();
    let (committer, writer) = Committer::start(Arc::clone(&dynamic), Arc::new(Held)).unwrap();
    let progress = Arc::new(Progress::new(&flow, committer.load(), Arc::default()));
    let engine = Engine {
        flow: Arc::new(flow),
        store: dynamic,
        commit: Arc::new(committer) as Arc<dyn Commit>,
        stop: Stop::default(),
        grace: Duration::from_secs(5),
        progress,
    };
    Bench { engine: Arc::new(engine), store, writer }
}

pub(super) fn documents(n: u32) -> impl futures::Stream<Item = Result<Document, String>> + Send + Unpin + 'static {
    futures::stream::iter((0..n).map(|i| Ok(document(i))))
}

/// All outputs of a stage: place and name, in the store's order.
fn outputs(bench: &Bench, at: usize) -> Vec<(ItemKey, String)> {
    let page = bench.store.outputs(&bench.engine.flow.key(at), None, usize::MAX).unwrap();
    page.into_iter().map(|(key, output)| (key, output.payload.document_name().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_stages_accounts_for_every_item() {
    let refusing = Fan { refuse: true, ..Fan::free(2) };
    let stages: Vec<Declared> = vec![
        (Arc::new(Fan::free(3)), vec![], 4, 2),
        (Arc::new(refusing), vec![0], 3, 1),
        (Arc::new(Fan::free(1)), vec![1], 8, 4),
    ];
    let bench = bench(flow(stages), Arc::new(MemoryStore::new()));
    assert_eq!(bench.engine.run(documents(50)).await.unwrap(), RunEnd::Finished);
    let counts = bench.engine.counts().unwrap();
    let of = |name: &str| {
        let c = counts[name];
        (c.admitted, c.done, c.rejected, c.dead, c.emitted)
    };
    assert_eq!(of("s0"), (50, 50, 0, 0, 150));
    assert_eq!(of("s1"), (150, 100, 50, 0, 200));
    assert_eq!(of("s2"), (200, 200, 0, 0, 200));
    // The order of results follows from lineage alone.
    let names: Vec<String> = outputs(&bench, 2).into_iter().map(|(_, name)| name).take(4).collect();
    assert_eq!(names, ["d0.0.0.0", "d0.0.1.0", "d0.1.0.0", "d0.1.1.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_channel_makes_the_stage_above_wait() {
    // The second stage holds everything it gets. Above it: its channel, and what the first stage has in hand.
    let (first, second) = (Fan::free(1), Fan { gate: Arc::new(Semaphore::new(0)), ..Fan::free(1) });
    let (begun_first, begun_second, gate) = (first.begun.clone(), second.begun.clone(), second.gate.clone());
    let (concurrency_1, buffer_1, concurrency_2, buffer_2) = (3, 2, 4, 5);
    let stages: Vec<Declared> =
        vec![(Arc::new(first), vec![], concurrency_1, buffer_1), (Arc::new(second), vec![0], concurrency_2, buffer_2)];
    let bench = bench(flow(stages), Arc::new(MemoryStore::new()));
    let running = tokio::spawn({
        let engine = Arc::clone(&bench.engine);
        async move { engine.run(documents(100)).await }
    });
    // In the second stage's hands, in its channel, and done by the first but not taken off its hands.
    let expected = concurrency_2 + buffer_2 + concurrency_1;
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        if begun_first.load(Ordering::SeqCst) == expected {
            break;
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(begun_first.load(Ordering::SeqCst), expected, "the first stage goes on although nobody takes its items");
    assert_eq!(begun_second.load(Ordering::SeqCst), concurrency_2);
    gate.add_permits(1);
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        if begun_first.load(Ordering::SeqCst) == expected + 1 {
            break;
        }
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(begun_first.load(Ordering::SeqCst), expected + 1, "one item taken off makes room for one");
    gate.add_permits(1000);
    assert_eq!(running.await.unwrap().unwrap(), RunEnd::Finished);
    assert_eq!(outputs(&bench, 1).len(), 100);
}

/// Fails in the given way the first time it sees each item, and remembers how often it saw it.
struct Faulty {
    class: ErrorClass,
    seen: Mutex<BTreeMap<ItemId, u32>>,
}

impl Stage for Faulty {
    fn accepts(&self) -> PayloadKind {
        PayloadKind::Document
    }
    fn emits(&self) -> PayloadKind {
        PayloadKind::Document
    }
    fn determinants(&self) -> String {
        "faulty".into()
    }
    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>> {
        let n = {
            let mut seen = self.seen.lock().unwrap();
            let n = seen.entry(*item.id()).or_default();
            *n += 1;
            *n
        };
        Box::pin(async move {
            if n == 1 && item.payload.document_name() != "d1" {
                return Ok(Outcome::emit(vec![]));
            }
            if n == 1 {
                return Err(StageError::new(self.class, "test", "on purpose").with_raw(3, vec!["raw".into()]));
            }
            Ok(Outcome::emit(vec![]))
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_go_where_their_class_says() {
    for class in [ErrorClass::Transient, ErrorClass::Poison, ErrorClass::Fatal] {
        let stage = Arc::new(Faulty { class, seen: Mutex::default() });
        let bench = bench(flow(vec![(stage.clone(), vec![], 1, 1)]), Arc::new(MemoryStore::new()));
        let ended = bench.engine.run(documents(3)).await;
        let counts = bench.engine.counts().unwrap()["s0"];
        match class {
            ErrorClass::Transient => {
                assert_eq!(ended.unwrap(), RunEnd::Finished);
                assert_eq!((counts.done, counts.dead), (3, 0));
                assert!(stage.seen.lock().unwrap().values().any(|n| *n == 2), "tried again");
            }
            ErrorClass::Poison => {
                assert_eq!(ended.unwrap(), RunEnd::Finished);
                assert_eq!((counts.done, counts.dead), (2, 1));
                let endings = bench.store.endings(&bench.engine.flow.key(0), None, 10).unwrap();
                let dead = endings.into_iter().find_map(|(_, ending)| match ending {
                    Ending::Dead(letter) => Some(letter),
                    _ => None,
                });
                let letter = dead.unwrap();
                assert_eq!((letter.attempts, letter.raw), (3, vec!["raw".to_owned()]));
            }
            _ => {
                assert_eq!(ended.unwrap_err().to_string(), "on purpose");
                assert!(counts.pending() >= 1, "the item that stopped the run is still to do: {counts:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_stage_redoes_it_and_what_is_below() {
    let store = Arc::new(MemoryStore::new());
    let build = |second: u32| -> (Flow, Vec<Arc<AtomicUsize>>) {
        let stages = [Fan::free(2), Fan::free(second), Fan::free(1)];
        let begun = stages.iter().map(|s| s.begun.clone()).collect();
        let stages = stages.into_iter().enumerate().map(|(i, s)| {
            let inputs = if i == 0 { vec![] } else { vec![i - 1] };
            (Arc::new(s) as Arc<dyn Stage>, inputs, 4, 4)
        });
        (flow(stages.collect()), begun)
    };
    let begun = |begun: &[Arc<AtomicUsize>]| begun.iter().map(|b| b.load(Ordering::SeqCst)).collect::<Vec<_>>();
    for (second, documents_now, expected) in [
        (1, 10, vec![10, 20, 20]),
        (1, 10, vec![0, 0, 0]),   // nothing changed
        (3, 10, vec![0, 20, 60]), // the second stage and what is below
        (3, 12, vec![2, 4, 12]),  // two documents more
        (1, 12, vec![0, 4, 4]),   // back to the first way: what was done then is still done
    ] {
        let (flow, counters) = build(second);
        let bench = bench(flow, Arc::clone(&store));
        assert_eq!(bench.engine.run(documents(documents_now)).await.unwrap(), RunEnd::Finished);
        assert_eq!(begun(&counters), expected, "fan {second}, {documents_now} documents");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_drains_what_is_in_hand_and_leaves_the_rest_pending() {
    let held = Fan { gate: Arc::new(Semaphore::new(0)), ..Fan::free(1) };
    let (gate, begun) = (held.gate.clone(), held.begun.clone());
    let bench = bench(flow(vec![(Arc::new(held), vec![], 4, 2)]), Arc::new(MemoryStore::new()));
    let running = tokio::spawn({
        let engine = Arc::clone(&bench.engine);
        async move { engine.run(documents(20)).await }
    });
    while begun.load(Ordering::SeqCst) < 4 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(bench.engine.stop.request(StopReason::Signal("SIGTERM")));
    assert!(!bench.engine.stop.request(StopReason::Signal("SIGINT")), "a second signal changes nothing");
    gate.add_permits(100);
    assert_eq!(running.await.unwrap().unwrap(), RunEnd::Interrupted("stopped by SIGTERM".into()));
    let counts = bench.engine.counts().unwrap()["s0"];
    assert_eq!(counts.done, 4, "what was in hand is done: {counts:?}");
    assert_eq!(counts.done + counts.pending(), counts.admitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_within_the_grace_stays_pending() {
    let held = Fan { gate: Arc::new(Semaphore::new(0)), ..Fan::free(1) };
    let begun = held.begun.clone();
    let Bench { engine, store, .. } = bench(flow(vec![(Arc::new(held), vec![], 4, 2)]), Arc::new(MemoryStore::new()));
    let engine = Arc::new(Engine { grace: Duration::from_millis(50), ..Arc::into_inner(engine).unwrap() });
    let running = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move { engine.run(documents(4)).await }
    });
    while begun.load(Ordering::SeqCst) < 4 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    engine.stop.request(StopReason::Signal("SIGTERM"));
    assert!(matches!(running.await.unwrap(), Ok(RunEnd::Interrupted(_))));
    let counts = store.counts(&engine.flow.key(0)).unwrap();
    assert_eq!((counts.done, counts.pending()), (0, 4));
}

#[derive(Debug, Clone)]
struct RandomFlow {
    stages: Vec<(u32, BTreeSet<usize>, usize, usize)>,
    documents: u32,
}

fn random_flow() -> impl Strategy<Value = RandomFlow> {
    let stage = |i: usize| {
        let inputs = proptest::collection::btree_set(0..i.max(1), 0..=i.min(3));
        (0_u32..3, inputs, 1_usize..4, 1_usize..4)
    };
    let stages = (1_usize..6).prop_flat_map(move |n| (0..n).map(stage).collect::<Vec<_>>());
    (stages, 0_u32..12).prop_map(|(mut stages, documents)| {
        stages[0].1.clear();
        RandomFlow { stages, documents }
    })
}

fn build(random: &RandomFlow) -> Flow {
    flow(
        random
            .stages
            .iter()
            .map(|(fan, inputs, concurrency, buffer)| {
                let stage: Arc<dyn Stage> = Arc::new(Fan::free(*fan));
                (stage, inputs.iter().copied().collect(), *concurrency, *buffer)
            })
            .collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the graph, its sizes and the moment of a stop: after going on, every stage holds exactly what an
    /// uninterrupted run holds, and every item is accounted for.
    #[test]
    fn random_graphs_end_in_the_same_records(random in random_flow(), stop_after in 0_u64..30) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let whole = bench(build(&random), Arc::new(MemoryStore::new()));
            assert_eq!(whole.engine.run(documents(random.documents)).await.unwrap(), RunEnd::Finished);

            let store = Arc::new(MemoryStore::new());
            let first = bench(build(&random), Arc::clone(&store));
            let stop = first.engine.stop.clone();
            let stopper = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(stop_after * 100)).await;
                stop.request(StopReason::Signal("SIGTERM"));
            });
            first.engine.run(documents(random.documents)).await.unwrap();
            stopper.abort();
            let second = bench(build(&random), Arc::clone(&store));
            assert_eq!(second.engine.run(documents(random.documents)).await.unwrap(), RunEnd::Finished);

            for at in 0..random.stages.len() {
                assert_eq!(outputs(&whole, at), outputs(&second, at), "stage {at}");
                let counts = second.engine.counts().unwrap();
                let counts = counts[&second.engine.flow.nodes[at].name];
                assert_eq!(counts.admitted, counts.done, "stage {at}: {counts:?}");
            }
        });
    }
}

#[test]
fn the_source_has_a_name_space_of_its_own() {
    assert_ne!(Fingerprint::source().key(), Fingerprint::of(&[("own", b"source")]).key());
}
