//! Builds the channels, starts every stage's runner, feeds them, and brings the run to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures::Stream;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::gate::Keeper;
use super::progress::Progress;
use super::resume::{feed_entry_rest, feed_pending, feed_source, seed_edges};
use super::shutdown::{Stop, StopReason};
use super::survey::Gate;
use super::worker::{Delivery, Shared, run_stage};
use crate::model::payload::Document;
use crate::model::record::StageCounts;
use crate::model::store::{Commit, Store};
use crate::model::{Fingerprint, Stage, StageKey, StoreError};

/// A stage, ready to run.
pub struct FlowNode {
    /// Its name in the pipeline.
    pub name: String,
    /// The operator.
    pub stage: Arc<dyn Stage>,
    /// What determines its results, upstream included: its name space in the store.
    pub fingerprint: Fingerprint,
    /// What determines its results except which items it is given: the ids of its children follow from it. It differs
    /// from `fingerprint` only in a flow with a gate: a change of the target changes no id.
    pub identity: Fingerprint,
    /// Indices of the stages that feed it.
    pub inputs: Vec<usize>,
    /// Whether the source feeds it.
    pub from_source: bool,
    /// Indices of the stages that it feeds.
    pub consumers: Vec<usize>,
    /// The longest way from the source.
    pub depth: u32,
    /// How many items it processes at once, at least 1.
    pub concurrency: usize,
    /// The size of its channel, at least 1.
    pub buffer: usize,
    /// Counted by whoever built the stage: its items that wait for a model call.
    pub asking: Arc<AtomicUsize>,
}

/// A graph, ready to run: its nodes in topological order.
pub struct Flow {
    /// The nodes, each after all that feed it.
    pub nodes: Vec<FlowNode>,
    /// The part that is asked in rounds, if so many accepted pairs of each document are wanted.
    pub gate: Option<Gate>,
}

impl Flow {
    /// A node's name space in the store.
    pub fn key(&self, node: usize) -> StageKey {
        self.nodes[node].fingerprint.key()
    }

    /// Nodes that feed nothing: where the results are.
    pub fn terminals(&self) -> impl Iterator<Item = usize> + '_ {
        self.nodes.iter().enumerate().filter(|(_, node)| node.consumers.is_empty()).map(|(at, _)| at)
    }

    /// The edges as pairs of name spaces, from producer to consumer; the source is a producer.
    pub fn edges(&self) -> Vec<(StageKey, StageKey)> {
        let mut edges = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if node.from_source {
                edges.push((Fingerprint::source().key(), self.key(at)));
            }
            edges.extend(node.inputs.iter().map(|from| (self.key(*from), self.key(at))));
        }
        edges
    }
}

/// How a run ended, when nothing went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Every item of every stage has ended.
    Finished,
    /// It was asked to stop; everything received is kept, and the same command goes on.
    Interrupted(String),
}

/// Why a run could not go on.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A document could not be read from the source.
    #[error("{0}")]
    Source(String),
    /// A stage met something that stops the run.
    #[error("{0}")]
    Stage(String),
    /// Items are unaccounted for.
    #[error(
        "the run ended with {pending} items of stage `{stage}` still pending: run `qaflow verify`, then start again"
    )]
    Unbalanced {
        /// The stage.
        stage: String,
        /// How many.
        pending: u64,
    },
    /// A thread or task failed.
    #[error("{0}")]
    Internal(String),
}

/// What a run needs.
pub struct Engine {
    /// The graph.
    pub flow: Arc<Flow>,
    /// Where items are read from.
    pub store: Arc<dyn Store>,
    /// The way to the one writer.
    pub commit: Arc<dyn Commit>,
    /// The stop request.
    pub stop: Stop,
    /// How long items in flight may go on after a stop request.
    pub grace: Duration,
    /// Where progress is shown.
    pub progress: Arc<Progress>,
}

impl Engine {
    /// Makes pending in every stage what the stages that feed it have made already, after a change of the graph. A run
    /// does so itself; whoever counts what is pending before it starts does it first. Doing it twice changes nothing.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn seed(flow: &Flow, store: &dyn Store, commit: &dyn Commit) -> Result<(), EngineError> {
        seed_edges(flow, store, commit).await.map(|_| ())
    }

    /// Runs until everything is done or the run is asked to stop.
    ///
    /// The documents are those of the input, each once; those that the store knows already are passed over.
    ///
    /// # Errors
    /// Whatever stops a run for good; everything committed is kept.
    pub async fn run<S>(&self, documents: S) -> Result<RunEnd, EngineError>
    where
        S: Stream<Item = Result<Document, String>> + Send + Unpin + 'static,
    {
        let started_at = seed_edges(&self.flow, self.store.as_ref(), self.commit.as_ref()).await?;
        let (senders, receivers): (Vec<_>, Vec<_>) =
            self.flow.nodes.iter().map(|node| mpsc::channel::<Delivery>(node.buffer.max(1))).unzip();
        let shared = Arc::new(Shared {
            flow: Arc::clone(&self.flow),
            store: Arc::clone(&self.store),
            commit: Arc::clone(&self.commit),
            stop: self.stop.clone(),
            progress: Arc::clone(&self.progress),
        });

        for (stage, sender) in self.progress.stages.iter().zip(&senders) {
            // A second run on the same progress, which only tests do, shows the first one's.
            let _ = stage.queue.set(sender.downgrade());
        }
        let mut runners = JoinSet::new();
        let gate = self.flow.gate.as_ref();
        let entrance = gate.map(|gate| {
            let (keeper, entrance) =
                Keeper::new(&self.flow, gate, &self.store, &self.commit, &self.stop, &self.progress, &senders);
            runners.spawn(keeper.run());
            entrance
        });
        for (at, receiver) in receivers.into_iter().enumerate() {
            if gate.is_some_and(|gate| gate.keeper == at) {
                // The gate itself ends what comes to it.
                continue;
            }
            let edges = self.flow.nodes[at].consumers.iter().map(|to| senders[*to].clone()).collect();
            let entrance = entrance.clone().filter(|_| gate.is_some_and(|gate| gate.above[at]));
            runners.spawn(run_stage(Arc::clone(&shared), at, receiver, edges, entrance));
        }
        let feeder = {
            let (flow, store) = (Arc::clone(&self.flow), Arc::clone(&self.store));
            let (commit, stop, progress) = (Arc::clone(&self.commit), self.stop.clone(), Arc::clone(&self.progress));
            runners.spawn(async move {
                let fed = async {
                    feed_pending(&flow, store.as_ref(), &stop, &senders, started_at, entrance.as_ref()).await?;
                    let delivered = feed_source(
                        &flow,
                        store.as_ref(),
                        commit.as_ref(),
                        &stop,
                        &progress,
                        &senders,
                        documents,
                        started_at,
                    )
                    .await?;
                    feed_entry_rest(&flow, store.as_ref(), &stop, &senders, started_at, &delivered).await
                };
                let result = fed.await;
                drop((senders, entrance));
                result
            })
        };
        let outcome = self.join(runners).await;
        drop(feeder);
        outcome?;
        if let Some(reason) = self.stop.reason() {
            return match reason {
                StopReason::Fatal(why) => Err(EngineError::Stage(why)),
                other => Ok(RunEnd::Interrupted(other.to_string())),
            };
        }
        for (at, node) in self.flow.nodes.iter().enumerate() {
            let pending = self.store.counts(&self.flow.key(at))?.pending();
            if pending > 0 {
                return Err(EngineError::Unbalanced { stage: node.name.clone(), pending });
            }
        }
        Ok(RunEnd::Finished)
    }

    /// Waits for all tasks. After a stop request they have the grace time, then they are cut off: whatever they were
    /// doing stays pending in the store. The first error stops the others.
    async fn join(&self, mut tasks: JoinSet<Result<(), EngineError>>) -> Result<(), EngineError> {
        let mut first_error = None;
        let deadline = async {
            self.stop.wait().await;
            tokio::time::sleep(self.grace).await;
        };
        tokio::pin!(deadline);
        let mut cut = false;
        loop {
            let ended = tokio::select! {
                ended = tasks.join_next() => ended,
                () = &mut deadline, if !cut => {
                    tracing::warn!("grace of {:?} is over: what is still in flight stays pending", self.grace);
                    cut = true;
                    tasks.abort_all();
                    continue;
                }
            };
            let error = match ended {
                None => break,
                Some(Ok(Ok(()))) => continue,
                Some(Ok(Err(error))) => error,
                Some(Err(join)) if join.is_cancelled() => continue,
                Some(Err(join)) => EngineError::Internal(format!("a task of the engine failed: {join}")),
            };
            self.stop.request(StopReason::Fatal(error.to_string()));
            first_error.get_or_insert(error);
        }
        first_error.map_or(Ok(()), Err)
    }

    /// The accounts of all stages, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn counts(&self) -> Result<BTreeMap<String, StageCounts>, StoreError> {
        let mut counts = BTreeMap::new();
        for (at, node) in self.flow.nodes.iter().enumerate() {
            counts.insert(node.name.clone(), self.store.counts(&self.flow.key(at))?);
        }
        Ok(counts)
    }
}
