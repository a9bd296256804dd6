//! The model's slots: at most so many requests at once, granted to the furthest stage first.
//!
//! A plain semaphore would serve who came first, so that hundreds of chunks would be half done at any time. Serving
//! the furthest stage first finishes what was begun: few open items, and calls about one chunk close together.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::model::LlmError;
use crate::model::llm::{Completion, CompletionRequest, LlmClient};

/// A number of slots with a queue in front, ordered by priority, then by arrival.
#[derive(Clone)]
pub struct Slots {
    state: Arc<Mutex<State>>,
}

struct State {
    limit: usize,
    used: usize,
    arrivals: u64,
    waiting: BinaryHeap<Waiter>,
}

struct Waiter {
    priority: u32,
    arrival: u64,
    grant: oneshot::Sender<Slot>,
}

impl PartialEq for Waiter {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Waiter {}
impl PartialOrd for Waiter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiter {
    fn cmp(&self, other: &Self) -> Ordering {
        self.priority.cmp(&other.priority).then(other.arrival.cmp(&self.arrival))
    }
}

/// The right to have one request with the model; given back when dropped.
pub struct Slot {
    state: Arc<Mutex<State>>,
}

impl Slots {
    /// At most `limit` slots, at least 1.
    pub fn new(limit: usize) -> Self {
        let state = State { limit: limit.max(1), used: 0, arrivals: 0, waiting: BinaryHeap::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a slot. Cancel-safe.
    pub async fn acquire(&self, priority: u32) -> Slot {
        let granted = {
            let mut state = lock(&self.state);
            if state.used < state.limit {
                state.used += 1;
                return Slot { state: Arc::clone(&self.state) };
            }
            let (grant, granted) = oneshot::channel();
            let arrival = state.arrivals;
            state.arrivals += 1;
            state.waiting.push(Waiter { priority, arrival, grant });
            granted
        };
        match granted.await {
            Ok(slot) => slot,
            // The queue holds the sender until it grants, so this does not happen; a fresh try is right in any case.
            Err(_) => Box::pin(self.acquire(priority)).await,
        }
    }

    /// Slots in use and the limit.
    pub fn level(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.used, state.limit)
    }

    /// How many wait for a slot.
    pub fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// Changes the limit (at least 1). Requests that are under way go on; a higher limit is used at once.
    pub fn set_limit(&self, limit: usize) {
        lock(&self.state).limit = limit.max(1);
        grant_waiting(&self.state);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.state).used -= 1;
        grant_waiting(&self.state);
    }
}

/// Hands free slots to who waits. A waiter that has given up is passed over.
fn grant_waiting(shared: &Arc<Mutex<State>>) {
    loop {
        let waiter = {
            let mut state = lock(shared);
            if state.used >= state.limit {
                return;
            }
            let Some(waiter) = state.waiting.pop() else { return };
            if waiter.grant.is_closed() {
                continue;
            }
            state.used += 1;
            waiter
        };
        // If the waiter gives up at this very moment, the slot comes back in the error and its drop grants the next.
        drop(waiter.grant.send(Slot { state: Arc::clone(shared) }));
    }
}

fn lock(state: &Arc<Mutex<State>>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client that holds a slot during each call.
pub struct Slotted<C> {
    inner: C,
    slots: Slots,
    stop: CancellationToken,
}

impl<C> Slotted<C> {
    /// Calls made while `stop` is not set wait for one of `slots`; once it is set, none begins any more.
    pub fn new(inner: C, slots: Slots, stop: CancellationToken) -> Self {
        Self { inner, slots, stop }
    }
}

impl<C: LlmClient> LlmClient for Slotted<C> {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(async move {
            let slot = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(LlmError::Interrupted),
                slot = self.slots.acquire(request.priority) => slot,
            };
            let answer = self.inner.complete(request).await;
            drop(slot);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_furthest_stage_goes_first_then_who_came_first() {
        let slots = Slots::new(1);
        let held = slots.acquire(0).await;
        let (served, mut order) = tokio::sync::mpsc::channel(8);
        for (name, priority) in [("chunk a", 2), ("score", 5), ("chunk b", 2), ("validate", 4)] {
            let (mine, served, before) = (slots.clone(), served.clone(), slots.waiting());
            tokio::spawn(async move {
                let _slot = mine.acquire(priority).await;
                served.send(name).await.unwrap();
            });
            while slots.waiting() == before {
                tokio::task::yield_now().await;
            }
        }
        while slots.waiting() < 4 {
            tokio::task::yield_now().await;
        }
        drop((held, served));
        let mut seen = Vec::new();
        while let Some(name) = order.recv().await {
            seen.push(name);
        }
        assert_eq!(seen, ["score", "validate", "chunk a", "chunk b"]);
        assert_eq!(slots.level(), (0, 1));
    }

    #[tokio::test]
    async fn who_gives_up_leaks_no_slot() {
        let slots = Slots::new(2);
        for round in 0..200 {
            let held = slots.acquire(1).await;
            let more = slots.acquire(1).await;
            let waiting = tokio::spawn({
                let slots = slots.clone();
                async move { drop(slots.acquire(1).await) }
            });
            if round % 3 > 0 {
                tokio::task::yield_now().await;
            }
            if round % 2 == 0 {
                waiting.abort();
            }
            drop((held, more));
            let _ = waiting.await;
        }
        assert_eq!(slots.level(), (0, 2));
    }

    #[tokio::test]
    async fn a_raised_limit_serves_who_waits() {
        let slots = Slots::new(1);
        let held = slots.acquire(1).await;
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.acquire(1).await }
        });
        tokio::task::yield_now().await;
        let third = tokio::spawn({
            let slots = slots.clone();
            async move { slots.acquire(1).await }
        });
        while slots.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        slots.set_limit(3);
        let (second, third) = (waiting.await.unwrap(), third.await.unwrap());
        assert_eq!(slots.level(), (3, 3), "all who fit are served at once");
        slots.set_limit(1);
        drop((held, second, third));
        assert_eq!(slots.level(), (0, 1));
    }
}
