//! One server: its client, slots, limits and breaker, and how the number of its slots follows what it bears.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::adaptive::{Controller, ServerLoad};
use super::breaker::Breaker;
use super::concurrency::Slots;
use super::limits::Limits;
use super::openai::OpenAiClient;
use super::server_figures::ServerFigures;
use crate::model::llm::Task;

/// How often a server's own figures are read.
const LOAD_EVERY: Duration = Duration::from_secs(2);

/// One server.
pub struct Endpoint {
    pub(super) client: OpenAiClient,
    pub(super) weight: u32,
    pub(super) slots: Slots,
    pub(super) limits: Limits,
    pub(super) breaker: Breaker,
    pub(super) outstanding: AtomicUsize,
    /// Requests that hold a slot and wait for a rate limit, or until the server wants to be asked again.
    pub(super) limited: AtomicUsize,
    /// Requests that were answered.
    pub(super) answered: AtomicU64,
    /// Finds the best number of slots, if it is not fixed.
    pub(super) controller: Option<Mutex<Controller>>,
    /// Until when the server asked to be left alone.
    pub(super) paused_until: Mutex<Option<Instant>>,
}

/// How a server stands.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EndpointStatus {
    /// Its address.
    pub url: String,
    /// Requests that are with it.
    pub in_flight: u64,
    /// Requests that may be with it at once.
    pub limit: u64,
    /// Requests that wait for one of its slots.
    pub waiting: u64,
    /// Of the slots in use: requests that wait for a rate limit, or until the server wants to be asked again.
    #[serde(default)]
    pub limited: u64,
    /// For how many seconds it has been out; `None` if it is well.
    pub out_seconds: Option<f64>,
    /// Why it is out.
    pub reason: Option<String>,
    /// For how many seconds requests to it have failed without an answer; `None` if the latest was answered.
    #[serde(default)]
    pub silent_seconds: Option<f64>,
}

impl Endpoint {
    /// A server with `slots` slots.
    pub fn new(client: OpenAiClient, weight: u32, slots: usize, limits: Limits) -> Self {
        // All requests under way fail together when a server dies; an overloaded one answers some.
        let threshold = slots.clamp(5, 20) as u32;
        Self {
            client,
            weight: weight.max(1),
            slots: Slots::new(slots),
            limits,
            breaker: Breaker::new(threshold),
            outstanding: AtomicUsize::new(0),
            limited: AtomicUsize::new(0),
            answered: AtomicU64::new(0),
            controller: None,
            paused_until: Mutex::new(None),
        }
    }

    /// A server whose best number of slots, up to `max`, is found while it works, beginning with `start`.
    pub fn adaptive(client: OpenAiClient, weight: u32, start: usize, max: usize, limits: Limits) -> Self {
        let controller = Controller::new(start, max, Instant::now());
        Self { controller: Some(Mutex::new(controller)), ..Self::new(client, weight, start, limits) }
    }

    /// Tells the controller what was seen, and follows its limit.
    pub(super) fn adapt(&self, tell: impl FnOnce(&mut Controller, Instant)) {
        let Some(controller) = &self.controller else { return };
        let mut controller = controller.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&mut controller, Instant::now());
        let limit = controller.limit();
        drop(controller);
        if limit != self.slots.level().1 {
            self.slots.set_limit(limit);
        }
    }

    /// Reads the server's own figures for as long as the endpoint is in use.
    pub(super) fn watch_load(self: &Arc<Self>, stop: CancellationToken) {
        let endpoint = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(LOAD_EVERY) => {}
                }
                let Some(endpoint) = endpoint.upgrade() else { return };
                if endpoint.breaker.is_open() {
                    continue;
                }
                if let Some(figures) = endpoint.figures().await {
                    let load = ServerLoad {
                        waiting: figures.waiting as u64,
                        kv_usage: figures.kv_usage,
                        preemptions_total: figures.preemptions,
                    };
                    endpoint.adapt(|controller, now| controller.observed(now, load));
                }
            }
        });
    }

    /// What the server says about itself; `None` if it says nothing that is known.
    pub(super) async fn figures(&self) -> Option<ServerFigures> {
        self.client.metrics_page().await.and_then(|page| ServerFigures::read(&page))
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        self.client.base_url()
    }

    pub(super) fn load(&self) -> f64 {
        self.outstanding.load(Ordering::Relaxed) as f64 / f64::from(self.weight)
    }

    pub(super) fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |earlier| earlier.max(until)));
    }

    pub(super) async fn unpaused(&self) {
        loop {
            let until = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
            match until.and_then(|until| until.checked_duration_since(Instant::now())) {
                Some(wait) if !wait.is_zero() => tokio::time::sleep(wait).await,
                _ => return,
            }
        }
    }

    pub(super) fn status(&self) -> EndpointStatus {
        let (in_flight, limit) = self.slots.level();
        let outage = self.breaker.outage();
        EndpointStatus {
            url: self.url().into(),
            in_flight: in_flight as u64,
            limit: limit as u64,
            waiting: self.slots.waiting() as u64,
            limited: self.limited.load(Ordering::Relaxed) as u64,
            out_seconds: outage.as_ref().map(|(out, _)| out.as_secs_f64()),
            reason: outage.map(|(_, reason)| reason),
            silent_seconds: self.breaker.silent_for().map(|silent| silent.as_secs_f64()),
        }
    }
}

/// Kinds of requests differ in length.
pub(super) fn task_number(task: &Task) -> u8 {
    match task {
        Task::Generate { .. } => 0,
        Task::Answer { .. } => 1,
        Task::Score { .. } => 2,
        Task::Free => 3,
        Task::Judge { .. } => 4,
    }
}

/// Counts a request with its endpoint while it lives.
pub(super) struct Outstanding<'a>(&'a AtomicUsize);

impl<'a> Outstanding<'a> {
    pub(super) fn begin(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
