//! The only writer: gathers whatever is waiting, applies it as one atomic batch, and answers all who wait.
//!
//! It runs on a thread of its own, since the store's flush blocks. While one epoch is being written the next
//! gathers, so that the size of a batch follows the load by itself: one fsync a batch, never one an item.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::progress::{CommitLoad, Counted};
use crate::model::StoreError;
use crate::model::record::{Change, Epoch};
use crate::model::store::{Commit, Lease, Store};
use crate::telemetry::metrics;

/// The most changes in one epoch: bounds the memory of a batch and the time of a flush.
const MAX_CHANGES: usize = 2_000;
/// The least time between the beginnings of two epochs, unless many wait: at model latencies a commit of its own for
/// every answer costs more than all else (measured: 0.85 ms of CPU a call without, 0.4 ms with), and nobody notices
/// 20 ms. A request that comes after a longer silence is written at once.
const SPACING: Duration = Duration::from_millis(20);
/// With so many waiting the next epoch begins at once.
const ENOUGH_WAIT: usize = 16;
/// The most requests that wait; more make their senders wait.
const QUEUE: usize = 1_024;

struct Request {
    changes: Vec<Change>,
    reply: oneshot::Sender<Result<Epoch, StoreError>>,
}

/// A handle to the writer; clones share it. The writer ends when the last handle is dropped.
#[derive(Clone)]
pub struct Committer {
    requests: mpsc::Sender<Request>,
    failed: Arc<Mutex<Option<StoreError>>>,
    load: Arc<CommitLoad>,
}

impl Committer {
    /// Starts the writer's thread. Before every batch it checks the lease.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(store: Arc<dyn Store>, lease: Arc<dyn Lease>) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let failed = Arc::new(Mutex::new(None));
        let load = Arc::new(CommitLoad::default());
        let (shared, counted) = (Arc::clone(&failed), Arc::clone(&load));
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || write(queue, store.as_ref(), lease.as_ref(), &shared, &counted))?;
        Ok((Self { requests, failed, load }, thread))
    }

    /// The error that ended the writing, if one did.
    pub fn failure(&self) -> Option<StoreError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How busy the writer is.
    pub fn load(&self) -> Arc<CommitLoad> {
        Arc::clone(&self.load)
    }

    fn gone(&self) -> StoreError {
        self.failure().unwrap_or_else(|| StoreError::Io {
            action: "cannot reach".into(),
            place: "the writer of the store".into(),
            detail: "its thread has ended".into(),
        })
    }
}

impl Commit for Committer {
    fn commit(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<Epoch, StoreError>> {
        Box::pin(async move {
            let _waiting = Counted::in_(&self.load.waiting);
            let (reply, answer) = oneshot::channel();
            if self.requests.send(Request { changes, reply }).await.is_err() {
                return Err(self.gone());
            }
            answer.await.unwrap_or_else(|_| Err(self.gone()))
        })
    }
}

fn write(
    mut queue: mpsc::Receiver<Request>,
    store: &dyn Store,
    lease: &dyn Lease,
    failed: &Mutex<Option<StoreError>>,
    load: &CommitLoad,
) {
    // A runtime of this thread alone, for its clock; the commits block it, and nothing else runs on it.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let fault = StoreError::Io {
                action: "cannot start".into(),
                place: "the writer of the store".into(),
                detail: error.to_string(),
            };
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
            return;
        }
    };
    let mut batch: Vec<Change> = Vec::new();
    let mut waiting = Vec::new();
    let mut broken = None;
    let mut next_epoch = Instant::now();
    while runtime.block_on(gather(&mut queue, &mut batch, &mut waiting, next_epoch)) {
        let began = Instant::now();
        next_epoch = began + SPACING;
        let result = match &broken {
            Some(error) => Err(StoreError::clone(error)),
            None => lease.check().and_then(|()| store.commit(&batch)),
        };
        if let Err(error) = &result
            && broken.is_none()
        {
            broken = Some(error.clone());
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
        let took = began.elapsed();
        metrics::commit(batch.len(), took);
        load.epochs.fetch_add(1, Ordering::Relaxed);
        load.busy_micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        for reply in waiting.drain(..) {
            // Who no longer waits was cancelled; the change is in the store all the same, and resume finds it there.
            let _ = reply.send(result.clone());
        }
        batch.clear();
    }
}

/// Waits for a request, then takes what else comes until `next_epoch` or until enough wait. False when nobody can ask
/// any more.
async fn gather(
    queue: &mut mpsc::Receiver<Request>,
    batch: &mut Vec<Change>,
    waiting: &mut Vec<oneshot::Sender<Result<Epoch, StoreError>>>,
    next_epoch: Instant,
) -> bool {
    let mut next = queue.recv().await;
    let something = next.is_some();
    while let Some(request) = next {
        batch.extend(request.changes);
        waiting.push(request.reply);
        next = if batch.len() >= MAX_CHANGES {
            None
        } else if let Ok(request) = queue.try_recv() {
            Some(request)
        } else if waiting.len() >= ENOUGH_WAIT {
            None
        } else {
            tokio::time::timeout_at(next_epoch.into(), queue.recv()).await.ok().flatten()
        };
    }
    something
}
