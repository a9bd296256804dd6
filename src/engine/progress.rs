//! What the stages are doing at this moment, as counters that cost nothing to keep and that others read.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc::WeakSender;

use super::runtime::Flow;
use super::worker::Delivery;
use crate::telemetry::errors::ErrorLog;

/// What a stage is doing; read by the status display while the run goes on.
#[derive(Debug, Default)]
pub struct StageProgress {
    /// Items in its hands.
    pub in_flight: AtomicUsize,
    /// Items that may be in its hands at once.
    pub concurrency: AtomicUsize,
    /// Of those in its hands: items that wait for a model call, from asking to having the answer on disk.
    pub asking: Arc<AtomicUsize>,
    /// Of those in its hands: items whose outcome waits for its commit.
    pub committing: AtomicUsize,
    /// Of those in its hands: items that are done and wait for room in the channels below.
    pub sending: AtomicUsize,
    /// Items ended since this attempt began.
    pub ended: AtomicU64,
    /// Sum of the times of those items, in microseconds.
    pub busy_micros: AtomicU64,
    /// Children made since this attempt began.
    pub children: AtomicU64,
    /// Sum over the items ended since then of the square of their number of children.
    pub children_squared: AtomicU64,
    /// Items in its channel when its runner last took one, and how many that holds.
    pub(super) seen: (AtomicUsize, AtomicUsize),
    /// Its channel; not kept open by this.
    pub(super) queue: OnceLock<WeakSender<Delivery>>,
}

impl StageProgress {
    /// Items in its channel, and how many that holds.
    pub fn queue(&self) -> (usize, usize) {
        match self.queue.get().and_then(WeakSender::upgrade) {
            Some(sender) => (sender.max_capacity() - sender.capacity(), sender.max_capacity()),
            // Nobody sends any more: only the runner changes it.
            None => (self.seen.0.load(Ordering::Relaxed), self.seen.1.load(Ordering::Relaxed)),
        }
    }
}

/// How busy the one writer is.
#[derive(Debug, Default)]
pub struct CommitLoad {
    /// Requests that wait for their epoch, the one being written included.
    pub waiting: AtomicUsize,
    /// Epochs written.
    pub epochs: AtomicU64,
    /// Time spent on writing them, in microseconds.
    pub busy_micros: AtomicU64,
}

/// What all stages, the source and the writer are doing.
#[derive(Debug, Default)]
pub struct Progress {
    /// By node.
    pub stages: Vec<StageProgress>,
    /// Documents that the source has shown so far.
    pub documents_seen: AtomicU64,
    /// Whether the source has shown all.
    pub source_ended: AtomicBool,
    /// The writer.
    pub commits: Arc<CommitLoad>,
    /// The last errors.
    pub errors: Arc<ErrorLog>,
}

impl Progress {
    /// For a flow whose writer and errors are known.
    pub fn new(flow: &Flow, commits: Arc<CommitLoad>, errors: Arc<ErrorLog>) -> Self {
        let stage = |at: usize| {
            let node = &flow.nodes[at];
            StageProgress {
                concurrency: AtomicUsize::new(node.concurrency),
                asking: Arc::clone(&node.asking),
                ..StageProgress::default()
            }
        };
        Self { stages: (0..flow.nodes.len()).map(stage).collect(), commits, errors, ..Self::default() }
    }
}

/// Counts one in a gauge while it lives, however that ends.
#[derive(Debug)]
pub struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    /// Begins to count.
    pub fn in_(gauge: &'a AtomicUsize) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
