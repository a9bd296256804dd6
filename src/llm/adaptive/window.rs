//! One measurement of the adaptive limit: the latencies at one level, comparable whatever the mix of tasks.

use std::time::{Duration, Instant};

use super::Answered;

/// Kinds of request that are told apart; higher numbers share the last place.
const TASKS: usize = 8;

/// What was seen of one kind of request. Seconds and tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    n: f64,
    latency: f64,
    latency_squared: f64,
    tokens: f64,
    tokens_squared: f64,
    product: f64,
}

impl Tally {
    fn add(&mut self, latency: f64, tokens: f64) {
        self.n += 1.0;
        self.latency += latency;
        self.latency_squared += latency * latency;
        self.tokens += tokens;
        self.tokens_squared += tokens * tokens;
        self.product += latency * tokens;
    }

    /// Sums of squares and products about the means: latency, tokens, both.
    fn centred(&self) -> (f64, f64, f64) {
        (
            (self.latency_squared - self.latency * self.latency / self.n).max(0.0),
            (self.tokens_squared - self.tokens * self.tokens / self.n).max(0.0),
            self.product - self.latency * self.tokens / self.n,
        )
    }
}

/// Answers to requests that began since the limit was set to one level, and found it fully used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    since: Instant,
    /// The limit meanwhile.
    pub(super) level: usize,
    tallies: [Tally; TASKS],
    /// Answers counted.
    pub(super) samples: u64,
    in_flight: u64,
    /// Answers to requests that found the limit not fully used, and so tell nothing about it.
    pub(super) unused: u64,
}

/// What two windows at different levels say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    /// `d ln(throughput) / d ln(requests in flight)`: 1 where more requests bring as much more, 0 where they bring
    /// nothing, negative where they harm.
    pub(super) elasticity: f64,
    /// Its standard error, the latencies taken as independent.
    pub(super) error: f64,
    /// Coefficient of variation of the latency, beyond what task and length explain.
    pub(super) spread: f64,
}

impl Window {
    pub(super) fn new(now: Instant, level: usize) -> Self {
        Self { since: now, level, tallies: [Tally::default(); TASKS], samples: 0, in_flight: 0, unused: 0 }
    }

    /// Whether a request that ends now after `latency` began in this window.
    pub(super) fn holds(&self, now: Instant, latency: Duration) -> bool {
        now.saturating_duration_since(self.since) >= latency
    }

    /// Counts an answer to a request that began in this window.
    pub(super) fn add(&mut self, answered: &Answered) {
        // Below 95% of the limit there was not enough work; lo and hi would not be what they claim to be.
        if answered.in_flight_at_start.saturating_mul(20) < self.level.saturating_mul(19) {
            self.unused += 1;
            return;
        }
        let task = usize::from(answered.task).min(TASKS - 1);
        self.tallies[task].add(answered.latency.as_secs_f64(), answered.completion_tokens as f64);
        self.samples += 1;
        self.in_flight = self.in_flight.saturating_add(answered.in_flight_at_start as u64);
    }

    fn mean_in_flight(&self) -> f64 {
        self.in_flight as f64 / self.samples.max(1) as f64
    }
}

/// The elasticity of throughput between two windows; `None` if they cannot be compared.
///
/// By Little's law the throughput of a full closed loop is requests in flight over mean latency, so that its
/// elasticity is 1 minus that of the latency. Unlike a count of answers per second, a latency does not depend on
/// where the window's edges fall. The latencies are compared within each task and at equal answer lengths (analysis
/// of covariance, the length's slope pooled over both windows), then averaged by time spent.
pub(super) fn compare(a: &Window, b: &Window) -> Option<Comparison> {
    let (low, high) = if a.mean_in_flight() <= b.mean_in_flight() { (a, b) } else { (b, a) };
    let levels = (high.mean_in_flight() / low.mean_in_flight()).ln();
    let intended = (high.level as f64 / low.level as f64).ln();
    if !levels.is_finite() || levels <= 0.5 * intended || intended <= 0.0 {
        return None;
    }
    let (mut log_ratio, mut variance, mut weights) = (0.0, 0.0, 0.0);
    for (low, high) in low.tallies.iter().zip(&high.tallies) {
        if low.n < 2.0 || high.n < 2.0 {
            continue;
        }
        let n = low.n + high.n;
        let (latency, tokens) = ((low.latency + high.latency) / n, (low.tokens + high.tokens) / n);
        let ((yy, xx, xy), (yy_high, xx_high, xy_high)) = (low.centred(), high.centred());
        let (yy, xx, xy) = (yy + yy_high, xx + xx_high, xy + xy_high);
        let slope = if xx > 0.0 { (xy / xx).clamp(0.0, latency / tokens) } else { 0.0 };
        let adjusted = |tally: &Tally| (tally.latency - slope * (tally.tokens - tokens * tally.n)) / tally.n;
        let (fast, slow) = (adjusted(low).max(1e-9), adjusted(high).max(1e-9));
        let weight = low.n * high.n / n * latency.max(1e-9);
        log_ratio += weight * (slow / fast).ln();
        variance += weight * (yy - 2.0 * slope * xy + slope * slope * xx).max(0.0)
            / ((n - 2.0) * (latency * latency).max(1e-18));
        weights += weight;
    }
    let spread = (variance / weights).sqrt();
    let error = spread * (1.0 / low.samples as f64 + 1.0 / high.samples as f64).sqrt() / levels;
    (weights > 0.0).then_some(Comparison { elasticity: 1.0 - log_ratio / weights / levels, error, spread })
}
