//! Finds how many requests in flight one model server takes best: a pure controller, without clock or I/O.
//!
//! A server's throughput grows with the requests in flight up to a knee that depends on model, hardware and prompts,
//! and stays flat or falls beyond it. Latency alone does not show the knee: on a batching server it rises from the
//! first request on, while throughput still grows. So the controller measures at two levels of the limit and judges
//! by the *elasticity* of the throughput between them, `ln(T_high/T_low) / ln(L_high/L_low)`: it goes up while the
//! elasticity is above 0.15 and down while it is below. The phases:
//!
//! - *search*: the limit times 1.5, then doubled for as long as that pays in full, or halved for as long as it costs
//!   nothing; the first pair of levels with the knee between them gives the first estimate.
//! - *probe* and *hold*: a window 8% below the estimate, one 8% above, a small step, a rest at the estimate. The step
//!   grows while its direction stays and shrinks when it turns (Riedmiller and Braun's Rprop, 1993).
//! - *recover*: after an outage, doubled with every round of answers up to what was right before.
//!
//! Refusals, a server's own queue, and preemptions cut the limit at once. What was refused or preempted at a level
//! becomes a ceiling, which rises again, slowly at first and then ever faster. Only answers to requests that began
//! after the last change, and that found the limit fully used, are learned from.

mod window;

use std::time::{Duration, Instant};

use window::{Window, compare};

/// The elasticity at which more requests no longer pay: 1% more in flight would bring less than 0.15% more answers.
///
/// Low, since GPU time is dear and latency hardly matters here; not zero, since beyond a knee the curve may be flat.
const TARGET: f64 = 0.15;
/// Distance from [`TARGET`] at which a step has its full size; nearer it is proportionally smaller.
const BAND: f64 = 0.2;
/// From this elasticity on, the search takes the levels to lie below the knee.
const FULL: f64 = 0.8;
/// Distance of the two probed levels from the estimate, as a factor.
const REACH: f64 = 1.08;
/// Length of a window of the search in rounds, a round being as many answers as the limit.
const SEARCH_ROUNDS: f64 = 2.5;
/// Bounds of the length of a probe's window in rounds; the noisier the latencies, the longer.
const PROBE_ROUNDS: (f64, f64) = (3.0, 16.0);
/// Any window takes at least so many answers.
const LEAST_SAMPLES: f64 = 12.0;
/// The standard error of the elasticity for which the number of rounds is chosen.
const TOLERANCE: f64 = 0.1;
/// Rest between two probes, in windows of a probe.
const HOLD: f64 = 2.5;
/// Bounds of the step's size, in natural logarithm of the limit, and its size at first.
const STEP: (f64, f64) = (0.06, 0.5);
const FIRST_STEP: f64 = 0.2;
/// Share of refusals among the recent answers that counts as overload; stray 503s and 429s do not.
const REFUSED_SHARE: f64 = 0.3;
/// The limit is cut at most once in the time of a request, and that is bounded so.
const REACTION: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Use of the key-value cache, 0 to 1, above which the limit is not raised.
const KV_FULL: f64 = 0.95;

/// One answer that came.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// A number that tells kinds of request with different lengths apart: 0 to 7, higher ones count as 7.
    pub task: u8,
    /// From the moment the slot was granted to the end of the answer.
    pub latency: Duration,
    /// Tokens of the answer; 0 where unknown.
    pub completion_tokens: u64,
    /// Requests in flight when it began, itself among them.
    pub in_flight_at_start: usize,
}

/// What the server says about itself on `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServerLoad {
    /// Requests in the server's own queue (`vllm:num_requests_waiting`).
    pub waiting: u64,
    /// Share of the key-value cache in use, 0 to 1 (`vllm:kv_cache_usage_perc`); 0 where unknown.
    pub kv_usage: f64,
    /// Preemptions since the server started (`vllm:num_preemptions_total`); 0 where unknown.
    pub preemptions_total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `proven`: the level before paid in full.
    Search {
        proven: bool,
    },
    Probe,
    Hold,
    Recover {
        answers: usize,
    },
}

/// A level at which the server refused or preempted.
#[derive(Clone, Copy, Debug)]
struct Ceiling {
    level: f64,
    /// By how much, in natural logarithm, it rises after the next probe; doubled each time.
    growth: f64,
    /// With which growth it began.
    first_growth: f64,
}

/// The controller of one server's limit. Every method takes the present time and costs well under a
/// microsecond; [`Controller::limit`] may change with each call, and the caller applies it then.
///
/// ```
/// use std::time::{Duration, Instant};
/// use qaflow::llm::adaptive::{Answered, Controller};
///
/// let mut now = Instant::now();
/// let mut controller = Controller::new(10, 256, now);
/// for _ in 0..100 {
///     let in_flight_at_start = controller.limit();
///     now += Duration::from_millis(300);
///     let latency = Duration::from_millis(300);
///     controller.completed(now, &Answered { task: 0, latency, completion_tokens: 50, in_flight_at_start });
/// }
/// assert!(controller.limit() > 10, "ever more requests at the same latency: go on");
/// ```
#[derive(Clone, Debug)]
pub struct Controller {
    max: usize,
    limit: usize,
    /// The present estimate of the best limit; `limit` moves around it.
    base: f64,
    phase: Phase,
    window: Window,
    /// The other window of the pair.
    reference: Option<Window>,
    /// Rounds of a probe's window; equal for both of a pair, since short windows miss the longest answers.
    rounds: f64,
    step: f64,
    /// The last step went up.
    upwards: Option<bool>,
    /// The next pair begins with its higher level; turns each time, so that a drift of the server cancels out.
    high_first: bool,
    ceiling: Option<Ceiling>,
    /// Mean latency in seconds, exponentially weighted.
    latency: f64,
    /// Share of refusals, exponentially weighted over about a round.
    refused_share: f64,
    last_cut: Option<Instant>,
    /// Estimate and ceiling before the first of the cuts between which no request was answered.
    before_cut: Option<(f64, Option<Ceiling>)>,
    answered_since_cut: bool,
    waiting_seen: u32,
    preemptions: Option<u64>,
    kv_usage: f64,
}

impl Controller {
    /// Begins at `start` and stays within 1 to `max` (at least 1).
    pub fn new(start: usize, max: usize, now: Instant) -> Self {
        let max = max.max(1);
        let limit = start.clamp(1, max);
        Self {
            max,
            limit,
            base: limit as f64,
            phase: Phase::Search { proven: false },
            window: Window::new(now, limit),
            reference: None,
            rounds: PROBE_ROUNDS.0,
            step: FIRST_STEP,
            upwards: None,
            high_first: true,
            ceiling: None,
            latency: 0.0,
            refused_share: 0.0,
            last_cut: None,
            before_cut: None,
            answered_since_cut: false,
            waiting_seen: 0,
            preemptions: None,
            kv_usage: 0.0,
        }
    }

    /// How many requests may be in flight now; at least 1.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What it is doing, for logs: `search`, `probe`, `hold` or `recover`.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Search { .. } => "search",
            Phase::Probe => "probe",
            Phase::Hold => "hold",
            Phase::Recover { .. } => "recover",
        }
    }

    /// A request was answered. Leave out requests that the server turned down for what they are (400, 422).
    pub fn completed(&mut self, now: Instant, answered: &Answered) {
        let seconds = answered.latency.as_secs_f64();
        let horizon = self.horizon();
        self.latency = if self.latency == 0.0 { seconds } else { self.latency + (seconds - self.latency) / horizon };
        self.refused_share -= self.refused_share / horizon;
        let began_after = |then: Instant| now.saturating_duration_since(then) >= answered.latency;
        if self.last_cut.is_none_or(began_after) {
            self.answered_since_cut = true;
        }
        if !self.window.holds(now, answered.latency) {
            return;
        }
        if let Phase::Recover { answers } = &mut self.phase {
            *answers += 1;
            if *answers >= self.limit {
                self.recover(now);
            }
            return;
        }
        self.window.add(answered);
        if self.window.samples as f64 >= self.rounds() * self.window.level as f64 {
            self.measured(now);
        } else if self.window.unused > 2 * self.limit as u64 {
            self.unused(now);
        }
    }

    /// A request got no answer for a fault that passes: 429, 503, a time-out, a lost or refused connection; that is,
    /// [`LlmError::Unavailable`](crate::model::LlmError::Unavailable).
    pub fn refused(&mut self, now: Instant) {
        self.refused_share += (1.0 - self.refused_share) / self.horizon();
        if self.refused_share < REFUSED_SHARE || self.reacting(now) {
            return;
        }
        self.refused_share = 0.0;
        let outage = match (self.answered_since_cut, self.before_cut) {
            // Nothing at all is answered, which says nothing about the level.
            (false, Some(before)) => Some(before),
            // Some is answered again, or always was, but not as much as before: that is approached in both directions.
            (true, before) if matches!(self.phase, Phase::Recover { .. }) => {
                let base = (self.base * 0.85).max(self.limit as f64 * 0.7);
                Some((base, before.and_then(|(_, ceiling)| ceiling)))
            }
            _ => None,
        };
        if let Some((base, ceiling)) = outage {
            (self.base, self.ceiling, self.before_cut) = (base, ceiling, outage);
            self.cut_made(now);
            self.phase = Phase::Recover { answers: 0 };
            self.reference = None;
            self.set(now, self.limit as f64 * 0.7);
            return;
        }
        self.before_cut = Some((self.base, self.ceiling));
        let known = self.lower_ceiling();
        self.cut(now, self.base.min(self.limit as f64) * if known { 0.9 } else { 0.7 });
    }

    /// The server told its load; to be called every second to every few seconds where it does.
    pub fn observed(&mut self, now: Instant, load: ServerLoad) {
        self.kv_usage = load.kv_usage;
        let preempted = self.preemptions.is_some_and(|before| load.preemptions_total > before);
        self.preemptions = Some(load.preemptions_total);
        // A few may wait for a moment on any server; a tenth of all, twice in a row, is a queue.
        let queue = load.waiting.saturating_mul(10) > self.limit as u64;
        self.waiting_seen = if queue { self.waiting_seen + 1 } else { 0 };
        if self.reacting(now) || matches!(self.phase, Phase::Recover { .. }) {
            return;
        }
        let limit = self.limit as f64;
        if preempted {
            self.lower_ceiling();
            self.cut(now, self.base.min(limit) * 0.9);
        } else if self.waiting_seen >= 2 {
            // The queue may be others' too, so it is not taken for ours beyond a third.
            let running = (limit - load.waiting as f64).max(0.7 * limit);
            let searching = matches!(self.phase, Phase::Search { .. });
            if searching || running < self.base {
                self.cut(now, running);
            }
        }
    }

    /// Answers over which a moving mean is taken: about a round.
    fn horizon(&self) -> f64 {
        self.limit.max(16) as f64
    }

    /// Whether the last cut is so fresh that its effect cannot be seen yet.
    fn reacting(&self, now: Instant) -> bool {
        let wait = Duration::try_from_secs_f64(self.latency).unwrap_or_default().clamp(REACTION.0, REACTION.1);
        self.last_cut.is_some_and(|then| now.saturating_duration_since(then) < wait)
    }

    /// Rounds that the present window takes.
    fn rounds(&self) -> f64 {
        match self.phase {
            Phase::Hold => HOLD * self.probe_rounds(),
            Phase::Probe => self.probe_rounds(),
            Phase::Search { .. } | Phase::Recover { .. } => SEARCH_ROUNDS.max(LEAST_SAMPLES / self.window.level as f64),
        }
    }

    /// Rounds of each of a probe's windows.
    fn probe_rounds(&self) -> f64 {
        self.rounds.max(LEAST_SAMPLES / self.base)
    }

    /// The highest level allowed at present.
    fn cap(&self) -> f64 {
        let max = self.max as f64;
        self.ceiling.map_or(max, |ceiling| ceiling.level.min(max)).max(1.0)
    }

    /// Sets the limit and begins a window.
    fn set(&mut self, now: Instant, level: f64) {
        self.limit = (level.round() as usize).clamp(1, self.max);
        self.window = Window::new(now, self.limit);
    }

    /// Remembers the present limit as too high; true if that was known already.
    fn lower_ceiling(&mut self) -> bool {
        let level = self.limit as f64;
        let known = self.ceiling.filter(|ceiling| (level / ceiling.level).ln().abs() < 0.15);
        let first_growth = known.map_or(0.005, |ceiling| (ceiling.first_growth / 2.0).max(0.0005));
        self.ceiling = Some(Ceiling { level: (level * 0.97).max(1.0), growth: first_growth, first_growth });
        known.is_some()
    }

    fn cut_made(&mut self, now: Instant) {
        self.last_cut = Some(now);
        self.answered_since_cut = false;
        self.waiting_seen = 0;
    }

    /// Lowers the estimate to `base` and goes on from there.
    fn cut(&mut self, now: Instant, base: f64) {
        self.base = base.max(1.0);
        self.cut_made(now);
        self.settle(now, self.base);
    }

    /// The limit is not used: nothing can be learned, and half a measurement would be stale when work comes again.
    fn unused(&mut self, now: Instant) {
        self.reference = None;
        if let Phase::Search { .. } = self.phase {
            // What the search is at stays: the work there is fits under it, and below it some would wait.
            self.phase = Phase::Search { proven: false };
            self.set(now, self.limit as f64);
        } else {
            self.phase = Phase::Hold;
            self.set(now, self.base);
        }
    }

    /// A round was answered after an outage.
    fn recover(&mut self, now: Instant) {
        if self.limit as f64 * 2.0 < self.base {
            self.phase = Phase::Recover { answers: 0 };
            self.set(now, self.limit as f64 * 2.0);
        } else {
            self.before_cut = None;
            self.settle(now, self.base);
        }
    }

    /// A window is full.
    fn measured(&mut self, now: Instant) {
        match self.phase {
            Phase::Search { proven } => self.search(now, proven),
            Phase::Hold => self.probe(now),
            Phase::Probe => match self.reference.take() {
                None => {
                    let (low, high) = self.levels();
                    self.reference = Some(self.window);
                    self.set(now, if self.window.level == high { low as f64 } else { high as f64 });
                }
                Some(first) => self.track(now, &first),
            },
            Phase::Recover { .. } => {}
        }
    }

    /// One step of the search: doubles while that pays in full, halves while it costs nothing.
    fn search(&mut self, now: Instant, proven: bool) {
        let here = self.window;
        let level = here.level as f64;
        let cap = self.cap();
        let Some(reference) = self.reference else {
            self.reference = Some(here);
            let up = (level * 1.5).max(level + 1.0).min(cap);
            return if up > level { self.set(now, up) } else { self.descend(now, level) };
        };
        let Some(comparison) = compare(&reference, &here) else { return self.settle(now, self.base) };
        self.plan(comparison.spread);
        let e = comparison.elasticity;
        let (low, high) = (level.min(reference.level as f64), level.max(reference.level as f64));
        // With a slope of 1 up to the knee and 0 beyond it, this is where the knee is.
        let knee = low * (high / low).powf(e.clamp(0.0, 1.0));
        let rose = here.level > reference.level;
        if rose && e >= FULL && level < cap {
            self.base = level;
            self.reference = Some(here);
            self.phase = Phase::Search { proven: true };
            self.set(now, (level * 2.0).min(cap));
        } else if e < TARGET && !proven && low > 1.0 {
            // Of the two the lower one is the next reference; going down, that is this one.
            if !rose {
                self.reference = Some(here);
            }
            self.base = low;
            self.descend(now, low);
        } else {
            self.settle(now, knee);
        }
    }

    fn descend(&mut self, now: Instant, level: f64) {
        if level > 1.0 {
            self.set(now, (level / 2.0).floor().max(1.0));
        } else {
            self.settle(now, 1.0);
        }
    }

    /// Ends the search with an estimate.
    fn settle(&mut self, now: Instant, base: f64) {
        self.base = base.clamp(1.0, self.cap());
        self.step = FIRST_STEP;
        self.upwards = None;
        self.probe(now);
    }

    /// The two levels that a probe compares.
    fn levels(&self) -> (usize, usize) {
        let highest = self.cap().floor();
        let high = (self.base * REACH).round().max(self.base.floor() + 1.0).min(highest);
        let low = (self.base / REACH).round().min(self.base.ceil() - 1.0).min(high - 1.0);
        ((low as usize).max(1), high as usize)
    }

    fn probe(&mut self, now: Instant) {
        let (low, high) = self.levels();
        self.reference = None;
        if low == high {
            // A ceiling at 1 leaves nothing to compare; it has to rise first.
            self.phase = Phase::Hold;
            self.raise_ceiling();
            self.set(now, low as f64);
            return;
        }
        self.phase = Phase::Probe;
        self.set(now, if self.high_first { high as f64 } else { low as f64 });
        self.high_first = !self.high_first;
    }

    /// Chooses how long a probe's windows must be for latencies that vary by `spread`.
    fn plan(&mut self, spread: f64) {
        let (low, high) = self.levels();
        let width = (high as f64 / low as f64).ln().max(f64::EPSILON);
        let samples = 2.0 * (spread / (TOLERANCE * width)).powi(2);
        self.rounds = (samples / self.base).clamp(PROBE_ROUNDS.0, PROBE_ROUNDS.1);
    }

    fn raise_ceiling(&mut self) {
        let max = self.max as f64;
        self.ceiling = self.ceiling.take().filter(|ceiling| ceiling.level < max).map(|ceiling| Ceiling {
            level: ceiling.level * ceiling.growth.exp(),
            growth: (ceiling.growth * 2.0).min(STEP.1),
            ..ceiling
        });
    }

    /// Both windows of a probe are full: a step towards the elasticity wanted.
    fn track(&mut self, now: Instant, first: &Window) {
        let Some(comparison) = compare(first, &self.window) else { return self.unused(now) };
        self.raise_ceiling();
        let e = comparison.elasticity;
        let certain = 1.0 / (1.0 + (comparison.error / BAND).powi(2));
        let error = ((e - TARGET) / BAND).clamp(-1.0, if self.kv_usage > KV_FULL { 0.0 } else { 1.0 }) * certain;
        self.plan(comparison.spread);

        let upwards = error > 0.0;
        let turned = self.upwards.is_some_and(|before| before != upwards);
        if turned {
            self.step *= 0.5;
        } else if error.abs() > 0.3 && self.upwards.is_some() {
            self.step *= 1.6;
        }
        self.step = self.step.clamp(STEP.0, STEP.1);
        self.upwards = Some(upwards);
        let before = self.base;
        self.base = (before * (self.step * error).exp()).clamp(1.0, self.cap());
        // No rest on the way, but at the bounds.
        if error.abs() > 0.5 && !turned && (self.base - before).abs() > 0.01 {
            self.probe(now);
        } else {
            self.phase = Phase::Hold;
            self.set(now, self.base);
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
