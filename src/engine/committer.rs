//! The only writer: gathers whatever is waiting, applies it as one atomic batch, and answers all who wait.
//!
//! It runs on a thread of its own, since the store's flush blocks. While one epoch is being written the next
//! gathers, so that the size of a batch follows the load by itself: one fsync a batch, never one an item.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::model::StoreError;
use crate::model::record::{Change, Epoch};
use crate::model::store::{Commit, Lease, Store};
use crate::telemetry::metrics;

/// The most changes in one epoch: bounds the memory of a batch and the time of a flush.
const MAX_CHANGES: usize = 2_000;
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
}

impl Committer {
    /// Starts the writer's thread. Before every batch it checks the lease.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(store: Arc<dyn Store>, lease: Arc<dyn Lease>) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let failed = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&failed);
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || write(queue, store.as_ref(), lease.as_ref(), &shared))?;
        Ok((Self { requests, failed }, thread))
    }

    /// The error that ended the writing, if one did.
    pub fn failure(&self) -> Option<StoreError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
            let (reply, answer) = oneshot::channel();
            if self.requests.send(Request { changes, reply }).await.is_err() {
                return Err(self.gone());
            }
            answer.await.unwrap_or_else(|_| Err(self.gone()))
        })
    }
}

fn write(mut queue: mpsc::Receiver<Request>, store: &dyn Store, lease: &dyn Lease, failed: &Mutex<Option<StoreError>>) {
    let mut batch: Vec<Change> = Vec::new();
    let mut waiting = Vec::new();
    let mut broken = None;
    while let Some(first) = queue.blocking_recv() {
        let mut next = Some(first);
        while let Some(request) = next {
            batch.extend(request.changes);
            waiting.push(request.reply);
            next = if batch.len() < MAX_CHANGES { queue.try_recv().ok() } else { None };
        }
        let began = Instant::now();
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
        metrics::commit(batch.len(), began.elapsed());
        for reply in waiting.drain(..) {
            // Who no longer waits was cancelled; the change is in the store all the same, and resume finds it there.
            let _ = reply.send(result.clone());
        }
        batch.clear();
    }
}
