//! Waits out what is the world's fault: refused connections, overload, restarts, time-outs. The only user of backoff.
//!
//! Such faults never count against an item, but for those that are the request's own; a call is tried again until it is
//! answered or the run stops. When nothing at all was answered for `give_up_after`, the run is asked to stop, everything
//! kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::model::llm::{Completion, CompletionRequest, LlmClient};
use crate::model::{ErrorClass, LlmError};
use crate::telemetry::errors::ErrorLog;
use crate::telemetry::metrics;

/// The label of a failure (status 500, or an answer that is none) that a server gave to this request while it answered
/// another one. So many of them make the request a dead letter.
pub const FAILS_WHILE_WELL: &str = "fails_while_well";
const FAULTS_OF_ITS_OWN: u32 = 8;
/// The label of a time-out of this request while the server answered others. [`RetryPolicy::timeouts`] of them make the
/// request a dead letter; no other failure of transport does.
pub const TIMES_OUT_WHILE_WELL: &str = "times_out_while_well";

/// Whether a failure with this label is the request's own fault, not the server's.
pub fn is_own_fault(label: &str) -> bool {
    [FAILS_WHILE_WELL, TIMES_OUT_WHILE_WELL].contains(&label)
}

/// Called once with the reason when patience is over.
pub type GiveUp = Arc<dyn Fn(String) + Send + Sync>;

/// How long to wait between tries, and how long in all.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Mean of the first wait; each later one is twice as long.
    pub first: Duration,
    /// Mean of the longest wait.
    pub longest: Duration,
    /// How long the endpoint may answer nothing at all before the run stops; `None` waits for ever.
    pub give_up_after: Option<Duration>,
    /// So many time-outs of one request while its server answered others make it a dead letter; `None`: it is never given
    /// up.
    pub timeouts: Option<u32>,
}

/// A client that tries again.
pub struct Retried<C> {
    inner: C,
    policy: RetryPolicy,
    stop: CancellationToken,
    give_up: GiveUp,
    /// Ends all waits when a server is back.
    recovered: Arc<Notify>,
    /// Where failed calls are noted.
    errors: Arc<ErrorLog>,
    /// Since when nothing has been answered; `None` while all is well.
    silent_since: Mutex<Option<Instant>>,
}

impl<C> Retried<C> {
    /// Tries `inner` again by `policy` until `stop` is set; whoever waits when `recovered` is notified tries at once.
    /// Failed calls are noted in `errors`.
    pub fn new(
        inner: C,
        policy: RetryPolicy,
        stop: CancellationToken,
        give_up: GiveUp,
        recovered: Arc<Notify>,
        errors: Arc<ErrorLog>,
    ) -> Self {
        Self { inner, policy, stop, give_up, recovered, errors, silent_since: Mutex::new(None) }
    }

    /// Notes a failed call; returns how long nothing has been answered.
    fn failed(&self) -> Duration {
        let mut since = self.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now).elapsed()
    }

    /// Notes that the endpoint has answered, this request or another: it is not silent.
    fn succeeded(&self) {
        let before = self.silent_since.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(since) = before.filter(|since| since.elapsed() > Duration::from_secs(5)) {
            tracing::info!("the model answers again after {:.0?}", since.elapsed());
        }
    }
}

impl<C: LlmClient> LlmClient for Retried<C> {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(async move {
            // Full jitter (Brooker, "Exponential backoff and jitter", 2015): uniform between 0 and twice the mean.
            let mut waits = ExponentialBackoff {
                initial_interval: self.policy.first,
                current_interval: self.policy.first,
                max_interval: self.policy.longest,
                multiplier: 2.0,
                randomization_factor: 1.0,
                max_elapsed_time: None,
                ..ExponentialBackoff::default()
            };
            let mut tries = 0_u32;
            let (mut broken, mut late) = (0_u32, 0_u32);
            loop {
                tries += 1;
                let (label, message, retry_after) = match self.inner.complete(request).await {
                    Ok(completion) => {
                        self.succeeded();
                        return Ok(completion);
                    }
                    Err(LlmError::Unavailable { label, message, retry_after }) => {
                        broken += u32::from(label == FAILS_WHILE_WELL);
                        late += u32::from(label == TIMES_OUT_WHILE_WELL);
                        // The server is well and fails on this very request: some time it is the request's fault.
                        if broken >= FAULTS_OF_ITS_OWN || self.policy.timeouts.is_some_and(|most| late >= most) {
                            let hint = if label == TIMES_OUT_WHILE_WELL {
                                " (llm.retry.timeouts; if such an answer takes longer, raise llm.request_timeout_seconds)"
                            } else {
                                ""
                            };
                            let message = format!(
                                "{message}; tried {} times, while the server answered other requests{hint}",
                                broken + late
                            );
                            return Err(LlmError::Refused { label, message });
                        }
                        self.errors.note(ErrorClass::Transient, "model", &label, &message);
                        (label, message, retry_after)
                    }
                    // A refusal is an answer too: the endpoint lives.
                    Err(error @ LlmError::Refused { .. }) => {
                        self.succeeded();
                        return Err(error);
                    }
                    Err(error) => return Err(error),
                };
                let silent = if is_own_fault(&label) {
                    self.succeeded();
                    None
                } else {
                    Some(self.failed())
                };
                if let (Some(patience), Some(silent)) = (self.policy.give_up_after, silent)
                    && silent >= patience
                {
                    (self.give_up)(format!(
                        "the model has answered nothing for {silent:.0?} (outage.give_up_after): {message}"
                    ));
                    return Err(LlmError::Interrupted);
                }
                let wait = waits.next_backoff().unwrap_or(self.policy.longest).max(retry_after.unwrap_or_default());
                metrics::model_retried(&label);
                tracing::debug!(tries, ?wait, "trying a model call again: {message}");
                if tries == 6 {
                    tracing::warn!("a model call has failed {tries} times and goes on trying: {message}");
                }
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Err(LlmError::Interrupted),
                    () = tokio::time::sleep(wait) => {}
                    () = self.recovered.notified(), if retry_after.is_none() => {}
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::llm::openai::tests_support::{answer, request, unavailable};

    struct Flaky {
        failures: u32,
        label: &'static str,
        seen: AtomicU32,
    }

    impl LlmClient for Flaky {
        fn complete<'a>(&'a self, _: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
            let n = self.seen.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                if n < self.failures {
                    Err(unavailable(self.label, Some(Duration::from_millis(60))))
                } else {
                    Ok(answer("yes"))
                }
            })
        }
    }

    fn retried(failures: u32, give_up_after: Option<Duration>) -> (Retried<Flaky>, Arc<Mutex<Option<String>>>) {
        flaky("http_503", failures, give_up_after)
    }

    fn flaky(
        label: &'static str,
        failures: u32,
        give_up_after: Option<Duration>,
    ) -> (Retried<Flaky>, Arc<Mutex<Option<String>>>) {
        let (first, longest) = (Duration::from_millis(1), Duration::from_millis(4));
        let policy = RetryPolicy { first, longest, give_up_after, timeouts: Some(3) };
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        let give_up: GiveUp = Arc::new(move |why| *tell.lock().unwrap() = Some(why));
        let inner = Flaky { failures, label, seen: AtomicU32::new(0) };
        (Retried::new(inner, policy, CancellationToken::new(), give_up, Arc::default(), Arc::default()), told)
    }

    #[tokio::test]
    async fn waits_at_least_what_the_server_asks_and_then_succeeds() {
        let (client, told) = retried(3, None);
        let began = Instant::now();
        assert_eq!(client.complete(&request()).await.unwrap().content, "yes");
        assert!(began.elapsed() >= Duration::from_millis(180), "three times 60 ms: {:?}", began.elapsed());
        assert_eq!(*told.lock().unwrap(), None);
    }

    #[tokio::test]
    async fn gives_up_the_run_but_not_the_item() {
        let (client, told) = retried(u32::MAX, Some(Duration::ZERO));
        let error = client.complete(&request()).await.unwrap_err();
        assert!(matches!(error, LlmError::Interrupted), "{error}");
        let why = told.lock().unwrap().clone().unwrap();
        assert!(why.contains("outage.give_up_after"), "{why}");
    }

    #[tokio::test]
    async fn a_request_that_times_out_while_others_are_answered_is_given_up_alone() {
        // However little patience there is with a silent server: this one is not silent.
        let (client, told) = flaky(TIMES_OUT_WHILE_WELL, u32::MAX, Some(Duration::ZERO));
        let error = client.complete(&request()).await.unwrap_err();
        assert!(matches!(error, LlmError::Refused { .. }) && error.label() == TIMES_OUT_WHILE_WELL, "{error}");
        assert!(error.to_string().contains("tried 3 times"), "{error}");
        assert_eq!((client.inner.seen.load(Ordering::Relaxed), told.lock().unwrap().clone()), (3, None));
        // Time-outs of a server that answers nothing never count.
        let (client, _) = flaky("timeout", 5, None);
        assert_eq!(client.complete(&request()).await.unwrap().content, "yes");
    }

    #[tokio::test]
    async fn stops_waiting_when_the_run_stops() {
        let (client, _) = retried(u32::MAX, None);
        client.stop.cancel();
        assert!(matches!(client.complete(&request()).await, Err(LlmError::Interrupted)));
    }
}
