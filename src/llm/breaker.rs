//! The circuit breaker of an endpoint: opens after repeated failure, so that the flow waits instead of hammering a
//! server that is down, and closes once a probe finds it well.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How long an endpoint stays out at first, and at most when it fails again right after it came back.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// An endpoint that was well for so long begins with the first pause again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(20);

/// What the breaker of an endpoint knows.
pub struct Breaker {
    threshold: u32,
    state: Mutex<State>,
    open: watch::Sender<bool>,
}

struct State {
    /// Failures since the last answer.
    failures: u32,
    /// Since when it is open.
    open_since: Option<Instant>,
    /// Since when requests have failed without any answer; outlives closings that did not help.
    silent_since: Option<Instant>,
    /// When it last closed.
    closed_at: Option<Instant>,
    pause: Duration,
    reason: String,
}

impl Breaker {
    /// Opens after `threshold` failures without an answer between them.
    pub fn new(threshold: u32) -> Self {
        let state = State {
            failures: 0,
            open_since: None,
            silent_since: None,
            closed_at: None,
            pause: FIRST_PAUSE,
            reason: String::new(),
        };
        Self { threshold: threshold.max(1), state: Mutex::new(state), open: watch::Sender::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer came.
    pub fn succeeded(&self) {
        let mut state = self.lock();
        state.failures = 0;
        state.silent_since = None;
    }

    /// A request failed by the endpoint's fault. Returns how long to wait before probing, if this opened the breaker.
    pub fn failed(&self, reason: &str) -> Option<Duration> {
        let mut state = self.lock();
        state.failures += 1;
        state.silent_since.get_or_insert_with(Instant::now);
        if state.open_since.is_some() || state.failures < self.threshold {
            return None;
        }
        let flapping = state.closed_at.is_some_and(|at| at.elapsed() < FORGIVEN_AFTER);
        state.pause = if flapping { (state.pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        state.open_since = Some(Instant::now());
        reason.clone_into(&mut state.reason);
        let pause = state.pause;
        drop(state);
        self.open.send_replace(true);
        Some(pause)
    }

    /// Opens at once, whatever was counted. Returns how long to wait before probing, if it was closed.
    pub fn trip(&self, reason: &str) -> Option<Duration> {
        let threshold = self.threshold;
        self.lock().failures = threshold;
        self.failed(reason)
    }

    /// A probe found the endpoint well. Returns how long it was out.
    pub fn close(&self) -> Duration {
        let mut state = self.lock();
        let out = state.open_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        state.failures = 0;
        state.closed_at = Some(Instant::now());
        drop(state);
        self.open.send_replace(false);
        out
    }

    /// Whether the endpoint is out.
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// How long the endpoint has been out, and why; `None` if it is well.
    pub fn outage(&self) -> Option<(Duration, String)> {
        let state = self.lock();
        state.open_since.map(|since| (since.elapsed(), state.reason.clone()))
    }

    /// How long no request has been answered, over closings that did not help.
    pub fn silent_for(&self) -> Option<Duration> {
        self.lock().silent_since.map(|since| since.elapsed())
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        let mut open = self.open.subscribe();
        // The sender lives as long as `self`.
        let _ = open.wait_for(|open| !open).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_after_repeated_failure_and_closes_by_a_probe() {
        let breaker = Breaker::new(3);
        assert_eq!(breaker.failed("reset"), None);
        assert_eq!(breaker.failed("reset"), None);
        breaker.succeeded();
        assert_eq!(breaker.silent_for(), None);
        assert_eq!(breaker.failed("a"), None);
        assert_eq!(breaker.failed("b"), None);
        assert_eq!(breaker.failed("http_503"), Some(FIRST_PAUSE));
        assert_eq!(breaker.failed("late"), None, "only one opening");
        assert!(breaker.is_open());
        assert_eq!(breaker.outage().map(|(_, why)| why).as_deref(), Some("http_503"));
        breaker.close();
        breaker.closed().await;
        assert!(!breaker.is_open() && breaker.silent_for().is_some(), "a probe is no answer");
        // It fails again at once: a longer pause.
        assert_eq!(breaker.trip("again"), Some(FIRST_PAUSE * 2));
        for _ in 0..9 {
            breaker.close();
            breaker.trip("again");
        }
        breaker.close();
        assert_eq!(breaker.trip("again"), Some(LONGEST_PAUSE));
    }
}
