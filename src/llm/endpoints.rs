//! The endpoints: each with its slots, limits and breaker. Work goes to the least loaded, but all calls about one
//! chunk stay on one server, whose prefix cache holds it. A dead server drops out and comes back.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all, select_all};
use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;

use super::adaptive::{Answered, Controller};
pub use super::endpoint::{Endpoint, EndpointStatus};
use super::endpoint::{Outstanding, task_number};
use super::homes::{Home, Homes};
use super::limits::estimate;
use super::probe::{ProbeReport, probe};
use super::retry::{FAILS_WHILE_WELL, GiveUp, TIMES_OUT_WHILE_WELL, is_own_fault};
use super::server_figures::ServerFigures;
use crate::model::llm::{Completion, CompletionRequest, LlmClient};
use crate::model::{ItemId, LlmError};
use crate::telemetry::metrics;

/// How often a server that is out is looked at.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// What the start-up probe needs.
#[derive(Clone, Debug)]
pub struct ProbePlan {
    /// The model that must be served.
    pub model: Arc<str>,
    /// Whether a schema must be obeyed.
    pub schema_expected: bool,
    /// How long a server that cannot be reached is waited for.
    pub patience: Duration,
    /// Whether it is found out if a time-out is the request's own fault.
    pub time_outs_count: bool,
}

/// All servers, as one client.
pub struct Endpoints {
    all: Vec<Arc<Endpoint>>,
    homes: Mutex<Homes>,
    plan: ProbePlan,
    probed: OnceCell<()>,
    stop: CancellationToken,
    /// How long nothing may be answered before the run is asked to stop.
    patience: Option<Duration>,
    give_up: GiveUp,
    recovered: Arc<Notify>,
}

impl Endpoints {
    /// The servers, of which there must be at least one. When none answers for `patience`, `give_up` is told.
    pub fn new(
        all: Vec<Endpoint>,
        plan: ProbePlan,
        patience: Option<Duration>,
        stop: CancellationToken,
        give_up: GiveUp,
    ) -> Self {
        let all: Vec<Arc<Endpoint>> = all.into_iter().map(Arc::new).collect();
        for endpoint in all.iter().filter(|endpoint| endpoint.controller.is_some()) {
            endpoint.watch_load(stop.clone());
        }
        Self {
            all,
            homes: Mutex::default(),
            plan,
            probed: OnceCell::new(),
            stop,
            patience,
            give_up,
            recovered: Arc::default(),
        }
    }

    /// Tells who waits to try again that a server is back.
    pub fn recovered(&self) -> Arc<Notify> {
        Arc::clone(&self.recovered)
    }

    /// How the servers stand.
    pub fn status(&self) -> Vec<EndpointStatus> {
        self.all.iter().map(|endpoint| endpoint.status()).collect()
    }

    /// What the servers say about themselves, by address; asked all at once, but not those that are out.
    pub async fn figures(&self) -> Vec<(String, Option<ServerFigures>)> {
        let asked = self.all.iter().map(|endpoint| async move {
            let figures = if endpoint.breaker.is_open() { None } else { endpoint.figures().await };
            (endpoint.url().to_owned(), figures)
        });
        join_all(asked).await
    }

    /// Slots over all servers.
    pub fn slots(&self) -> usize {
        self.all.iter().map(|endpoint| endpoint.slots.level().1).sum()
    }

    /// Probes all servers, once. One that cannot be reached is left out until it is well, as long as another is.
    ///
    /// # Errors
    /// [`LlmError::Misconfigured`] with what is wrong and the way out.
    pub async fn ensure_probed(&self) -> Result<(), LlmError> {
        self.probed.get_or_try_init(|| self.probe_all()).await.copied()
    }

    async fn probe_all(&self) -> Result<(), LlmError> {
        let ProbePlan { model, schema_expected, patience, .. } = &self.plan;
        let probes = self.all.iter().map(|endpoint| probe(&endpoint.client, model, *schema_expected, *patience));
        let results: Vec<Result<ProbeReport, LlmError>> = join_all(probes).await;
        let reachable = results.iter().any(Result::is_ok);
        for (endpoint, result) in self.all.iter().zip(results) {
            match result {
                Ok(_) => {}
                Err(LlmError::Unavailable { message, .. }) if reachable => {
                    tracing::warn!("going on without {}: {message}", endpoint.url());
                    self.take_out(endpoint, endpoint.breaker.trip(&message));
                }
                Err(LlmError::Unavailable { message, .. }) => {
                    return Err(LlmError::Misconfigured {
                        message: format!(
                            "{message}. Is the server running, and is llm.endpoints right? \
                             If it takes long to start, set llm.wait_for_server"
                        ),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The server for a request: the chunk's own while it is well, else the least loaded; `None` if all are out.
    fn choose(&self, affinity: &ItemId) -> Option<Home> {
        let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(home) = homes.get(affinity)
            && !self.all[home.endpoint].breaker.is_open()
        {
            return Some(home);
        }
        let well = (0..self.all.len()).filter(|at| !self.all[*at].breaker.is_open());
        let endpoint = well.min_by(|a, b| self.all[*a].load().total_cmp(&self.all[*b].load()))?;
        let home = Home { endpoint, warmth: Arc::default() };
        homes.set(*affinity, home.clone());
        Some(home)
    }

    /// Waits until some server is well again.
    async fn any_well(&self) -> Result<(), LlmError> {
        // As long as nobody answers, by whichever server was silent the shortest.
        let silent = self.all.iter().filter_map(|endpoint| endpoint.breaker.silent_for()).min().unwrap_or_default();
        let over = async {
            match self.patience {
                Some(patience) => tokio::time::sleep(patience.saturating_sub(silent)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(LlmError::Interrupted),
            _ = select_all(self.all.iter().map(|endpoint| Box::pin(endpoint.breaker.closed()))) => Ok(()),
            () = over => {
                let why: Vec<String> = self
                    .all
                    .iter()
                    .filter_map(|e| e.breaker.outage().map(|(out, why)| format!("{} for {out:.0?}: {why}", e.url())))
                    .collect();
                (self.give_up)(format!("no model server answers (outage.give_up_after): {}", why.join("; ")));
                Err(LlmError::Interrupted)
            }
        }
    }

    /// Says that a server is out, and looks after it until it is well.
    fn take_out(&self, endpoint: &Arc<Endpoint>, opened: Option<Duration>) {
        let Some(pause) = opened else { return };
        let reason = endpoint.breaker.outage().map(|(_, reason)| reason).unwrap_or_default();
        tracing::warn!("{} is out, nothing is sent to it until it is well: {reason}", endpoint.url());
        metrics::breaker(endpoint.url(), true);
        let (endpoint, stop, recovered) = (Arc::clone(endpoint), self.stop.clone(), Arc::clone(&self.recovered));
        tokio::spawn(async move {
            let mut wait = pause;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
                if endpoint.client.healthy().await {
                    break;
                }
                wait = PROBE_EVERY;
            }
            let out = endpoint.breaker.close();
            tracing::info!("{} is well again after {out:.1?}", endpoint.url());
            metrics::breaker(endpoint.url(), false);
            recovered.notify_waiters();
        });
    }

    /// Sends a request. Also gives whether the server, asked the smallest of requests when half of this one's time was
    /// over, answered that one sooner: then this one does not wait behind others.
    async fn ask(&self, endpoint: &Endpoint, request: &CompletionRequest) -> (Result<Completion, LlmError>, bool) {
        if !self.plan.time_outs_count {
            return (endpoint.client.complete(request).await, false);
        }
        let mut call = pin!(endpoint.client.complete(request));
        tokio::select! {
            biased;
            result = &mut call => return (result, false),
            () = tokio::time::sleep(endpoint.client.patience(request) / 2) => {}
        }
        tokio::select! {
            biased;
            result = &mut call => (result, false),
            well = endpoint.client.answers(&self.plan.model) => (call.await, well),
        }
    }

    /// One call to one server, its slot and limits waited for; `None` if the server went out meanwhile.
    async fn call(
        &self,
        endpoint: &Arc<Endpoint>,
        request: &CompletionRequest,
    ) -> Option<Result<Completion, LlmError>> {
        let _outstanding = Outstanding::begin(&endpoint.outstanding);
        let estimate = estimate(request);
        let slot = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Some(Err(LlmError::Interrupted)),
            slot = endpoint.slots.acquire(request.priority) => slot,
        };
        let limited = Outstanding::begin(&endpoint.limited);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Some(Err(LlmError::Interrupted)),
            () = async { endpoint.unpaused().await; endpoint.limits.admit(estimate).await } => {}
        }
        drop(limited);
        if endpoint.breaker.is_open() {
            return None;
        }
        let (began, in_flight) = (Instant::now(), endpoint.slots.level().0);
        let answered = endpoint.answered.load(Ordering::Relaxed);
        let (mut result, quick) = self.ask(endpoint, request).await;
        // A server that answers small requests but none of the flow's is too slow for it. One that did answer some has
        // perhaps nothing else left to answer.
        let others =
            endpoint.answered.load(Ordering::Relaxed) > answered || (answered > 0 && endpoint.slots.waiting() == 0);
        drop(slot);
        if let Err(LlmError::Unavailable { label, .. }) = &mut result {
            if label == "timeout" && quick && others {
                TIMES_OUT_WHILE_WELL.clone_into(label);
            } else if ["http_500", "not_an_answer"].contains(&label.as_str())
                && endpoint.client.answers(&self.plan.model).await
            {
                FAILS_WHILE_WELL.clone_into(label);
            }
        }
        match &result {
            Ok(completion) => {
                endpoint.answered.fetch_add(1, Ordering::Relaxed);
                endpoint.breaker.succeeded();
                let usage = completion.usage;
                let answered = Answered {
                    task: task_number(&request.task),
                    latency: began.elapsed(),
                    completion_tokens: usage.completion_tokens,
                    in_flight_at_start: in_flight,
                };
                endpoint.adapt(|controller, now| controller.completed(now, &answered));
                endpoint.limits.correct(estimate, usage.prompt_tokens + usage.completion_tokens);
            }
            Err(LlmError::Refused { .. }) => endpoint.breaker.succeeded(),
            Err(LlmError::Unavailable { label, .. }) if is_own_fault(label) => {}
            Err(LlmError::Unavailable { label, retry_after, .. }) if label == "http_429" => {
                // Busy, not ill: it is left alone for as long as it asks.
                endpoint.pause(retry_after.unwrap_or(Duration::ZERO));
                endpoint.adapt(Controller::refused);
            }
            Err(LlmError::Unavailable { message, .. }) => {
                let opened = endpoint.breaker.failed(message);
                endpoint.adapt(Controller::refused);
                self.take_out(endpoint, opened);
            }
            Err(_) => {}
        }
        Some(result)
    }
}

impl LlmClient for Endpoints {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(async move {
            self.ensure_probed().await?;
            loop {
                let Some(home) = self.choose(&request.affinity) else {
                    self.any_well().await?;
                    continue;
                };
                let leader = tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Err(LlmError::Interrupted),
                    leader = home.warmth.enter() => leader,
                };
                let result = self.call(&self.all[home.endpoint], request).await;
                drop(leader);
                if let Some(result) = result {
                    return result;
                }
            }
        })
    }
}
