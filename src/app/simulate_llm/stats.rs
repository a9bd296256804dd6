//! What the server counts, as JSON for rehearsals and under vLLM's names for Prometheus.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Instant;

use serde::Serialize;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Answered; the whole answer was handed to the connection.
    Ok,
    /// Answered with broken JSON.
    Malformed,
    /// Answered, cut off.
    Truncated,
    /// 400: not a request, or too long.
    BadRequest,
    /// 401: no key or a wrong one.
    Unauthorized,
    /// 404: another model.
    NotFound,
    /// 429.
    TooManyRequests,
    /// 502: a 503 in a proxy's HTML.
    BadGateway,
    /// 503: a fault, an outage, or the queue is full.
    Unavailable,
    /// The connection was reset instead of an answer.
    Reset,
    /// Never answered.
    Hang,
    /// The client left, or the server was stopped, before the answer.
    Aborted,
}

impl Outcome {
    /// Its name in log and statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::BadRequest => "400",
            Self::Unauthorized => "401",
            Self::NotFound => "404",
            Self::TooManyRequests => "429",
            Self::BadGateway => "502",
            Self::Unavailable => "503",
            Self::Reset => "reset",
            Self::Hang => "hang",
            Self::Aborted => "aborted",
        }
    }
}

/// More different tasks than this are counted together as `other`.
const MAX_TASKS: usize = 32;

/// What `GET /sim/stats` answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatsReport {
    /// Seconds since the server started.
    pub seconds_since_start: f64,
    /// Seconds since the last reset, or the start; all below counts from then.
    pub seconds_since_reset: f64,
    /// How many requests may be in service.
    pub slots: u32,
    /// Requests in service now.
    pub running: u64,
    /// Requests queued now.
    pub waiting: u64,
    /// Requests that arrived.
    pub requests: u64,
    /// Requests that ended, by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// The same by task (the name of the schema, `free` without one), then by outcome.
    pub tasks: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Seconds that slots were busy, summed over slots.
    pub busy_slot_seconds: f64,
    /// Share of the slots' time that they were busy, 0 to 1.
    pub utilisation: f64,
    /// The most requests at one time, in service or queued.
    pub max_in_flight: u64,
    /// The most requests at one time in service.
    pub max_running: u64,
    /// Different `x-request-id`s (requests without one count by body).
    pub distinct_ids: u64,
    /// Ids that came more than once.
    pub repeated_ids: u64,
    /// Ids that were answered (outcome ok) more than once: answers bought twice, unless the client was killed before it
    /// could keep the first.
    pub ids_answered_again: u64,
    /// Tokens of the prompts of requests that were started.
    pub prompt_tokens: u64,
    /// Those found in the prefix cache.
    pub cached_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// Lines that could not be written to the request log.
    pub log_lines_lost: u64,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    arrived: u32,
    answered: u32,
}

/// The counts. About 30 bytes stay for each different request id.
pub(super) struct Stats {
    started: Instant,
    reset: Instant,
    slots: u32,
    requests: u64,
    outcomes: BTreeMap<String, BTreeMap<Outcome, u64>>,
    ids: HashMap<u64, Seen>,
    running: u64,
    waiting: u64,
    /// Tokens held by the requests in service.
    running_tokens: u64,
    max_in_flight: u64,
    max_running: u64,
    busy_seconds: f64,
    busy_until: Instant,
    started_prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    /// Never reset: Prometheus counters only grow. Prompt tokens, answer tokens, answers.
    ever: [u64; 3],
    next: u64,
}

impl Stats {
    pub(super) fn new(slots: u32, now: Instant) -> Self {
        Self {
            started: now,
            reset: now,
            slots,
            requests: 0,
            outcomes: BTreeMap::new(),
            ids: HashMap::new(),
            running: 0,
            waiting: 0,
            running_tokens: 0,
            max_in_flight: 0,
            max_running: 0,
            busy_seconds: 0.0,
            busy_until: now,
            started_prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            ever: [0; 3],
            next: 0,
        }
    }

    /// Forgets all but what is in flight; attempts of an id are counted from 1 again.
    pub(super) fn reset(&mut self, now: Instant) {
        let fresh = Self::new(self.slots, now);
        *self = Self {
            started: self.started,
            running: self.running,
            waiting: self.waiting,
            running_tokens: self.running_tokens,
            max_in_flight: self.running + self.waiting,
            max_running: self.running,
            ever: self.ever,
            next: self.next,
            ..fresh
        };
    }

    /// A request arrives: its number since the start, and the how-many-th attempt of its identity it is; both from 1.
    pub(super) fn arrive(&mut self, identity: u64) -> (u64, u32) {
        self.next += 1;
        self.requests += 1;
        let seen = self.ids.entry(identity).or_default();
        seen.arrived += 1;
        (self.next, seen.arrived)
    }

    /// A request ends.
    pub(super) fn end(&mut self, identity: u64, task: &str, outcome: Outcome) {
        let task = if self.outcomes.contains_key(task) || self.outcomes.len() < MAX_TASKS { task } else { "other" };
        if !self.outcomes.contains_key(task) {
            self.outcomes.insert(task.to_owned(), BTreeMap::new());
        }
        if let Some(counts) = self.outcomes.get_mut(task) {
            *counts.entry(outcome).or_default() += 1;
        }
        if outcome == Outcome::Ok
            && let Some(seen) = self.ids.get_mut(&identity)
        {
            seen.answered += 1;
        }
    }

    /// Whether another request may queue, with `max_queue` places behind the slots.
    pub(super) fn has_room(&self, max_queue: Option<u32>) -> bool {
        max_queue.is_none_or(|places| self.running + self.waiting < u64::from(self.slots) + u64::from(places))
    }

    /// A request queues, if only for no time.
    pub(super) fn wait(&mut self) {
        self.waiting += 1;
        self.max_in_flight = self.max_in_flight.max(self.running + self.waiting);
    }

    /// A queued request leaves without a slot.
    pub(super) fn give_up(&mut self) {
        self.waiting -= 1;
    }

    /// A queued request gets a slot. Returns how many are in service now, this one included.
    pub(super) fn start(&mut self, now: Instant, prompt_tokens: u64) -> u64 {
        self.advance(now);
        self.waiting -= 1;
        self.running += 1;
        self.running_tokens += prompt_tokens;
        self.started_prompt_tokens += prompt_tokens;
        self.ever[0] += prompt_tokens;
        self.max_running = self.max_running.max(self.running);
        self.running
    }

    /// A slot becomes free.
    pub(super) fn stop(&mut self, now: Instant, prompt_tokens: u64) {
        self.advance(now);
        self.running -= 1;
        self.running_tokens -= prompt_tokens;
    }

    /// Tokens of a request that was started: found in the cache.
    pub(super) fn cached(&mut self, tokens: u64) {
        self.cached_tokens += tokens;
    }

    /// An answer of this many tokens was made.
    pub(super) fn answered(&mut self, tokens: u64) {
        self.completion_tokens += tokens;
        self.ever[1] += tokens;
        self.ever[2] += 1;
    }

    fn advance(&mut self, now: Instant) {
        self.busy_seconds += self.running as f64 * now.saturating_duration_since(self.busy_until).as_secs_f64();
        self.busy_until = self.busy_until.max(now);
    }

    /// All of it.
    pub(super) fn report(&mut self, now: Instant, log_lines_lost: u64) -> StatsReport {
        self.advance(now);
        let seconds = now.saturating_duration_since(self.reset).as_secs_f64();
        let mut outcomes = BTreeMap::new();
        let mut tasks = BTreeMap::new();
        for (task, counts) in &self.outcomes {
            for (outcome, count) in counts {
                *outcomes.entry(outcome.name()).or_default() += count;
            }
            tasks.insert(task.clone(), counts.iter().map(|(outcome, count)| (outcome.name(), *count)).collect());
        }
        StatsReport {
            seconds_since_start: now.saturating_duration_since(self.started).as_secs_f64(),
            seconds_since_reset: seconds,
            slots: self.slots,
            running: self.running,
            waiting: self.waiting,
            requests: self.requests,
            outcomes,
            tasks,
            busy_slot_seconds: self.busy_seconds,
            utilisation: if seconds > 0.0 { self.busy_seconds / (seconds * f64::from(self.slots)) } else { 0.0 },
            max_in_flight: self.max_in_flight,
            max_running: self.max_running,
            distinct_ids: self.ids.len() as u64,
            repeated_ids: self.ids.values().filter(|seen| seen.arrived > 1).count() as u64,
            ids_answered_again: self.ids.values().filter(|seen| seen.answered > 1).count() as u64,
            prompt_tokens: self.started_prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            log_lines_lost,
        }
    }

    /// vLLM's metrics in Prometheus' text format. `cache` is the prefix cache's queried and hit tokens and `capacity`
    /// how many tokens it can hold.
    pub(super) fn metrics(&self, model: &str, cache: (u64, u64), capacity: u64) -> String {
        let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let usage = if capacity == 0 { 0.0 } else { (self.running_tokens as f64 / capacity as f64).min(1.0) };
        let mut text = String::with_capacity(2_048);
        for (name, kind, help, value) in [
            ("num_requests_running", "gauge", "Requests in service.", self.running as f64),
            ("num_requests_waiting", "gauge", "Requests queued.", self.waiting as f64),
            ("kv_cache_usage_perc", "gauge", "Share of the cache held by requests in service, 0 to 1.", usage),
            ("prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache.", cache.0 as f64),
            ("prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.", cache.1 as f64),
            ("num_preemptions_total", "counter", "Preemptions; the simulation has none.", 0.0),
            ("prompt_tokens_total", "counter", "Prompt tokens of requests started.", self.ever[0] as f64),
            ("generation_tokens_total", "counter", "Tokens of answers.", self.ever[1] as f64),
            ("request_success_total", "counter", "Answers made.", self.ever[2] as f64),
        ] {
            let _ = writeln!(
                text,
                "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}\nvllm:{name}{{engine=\"0\",model_name=\"{model}\"}} {value}"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn busy_time_is_the_integral_of_running_requests() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut stats = Stats::new(4, t0);
        for ms in [0, 100] {
            stats.wait();
            stats.start(at(ms), 10);
        }
        stats.stop(at(300), 10);
        let report = stats.report(at(1_000), 0);
        assert!((report.busy_slot_seconds - 1.2).abs() < 1e-9, "{}", report.busy_slot_seconds);
        assert!((report.utilisation - 0.3).abs() < 1e-9);
        assert_eq!((report.max_running, report.max_in_flight, report.running), (2, 2, 1));
        stats.reset(at(1_000));
        let report = stats.report(at(1_500), 0);
        assert!((report.busy_slot_seconds - 0.5).abs() < 1e-9, "the request in flight goes on counting");
    }

    #[test]
    fn ids_are_counted() {
        let mut stats = Stats::new(1, Instant::now());
        assert_eq!(stats.arrive(5), (1, 1));
        assert_eq!(stats.arrive(6), (2, 1));
        assert_eq!(stats.arrive(5), (3, 2));
        stats.end(5, "qa_pairs", Outcome::Unavailable);
        stats.end(5, "qa_pairs", Outcome::Ok);
        stats.end(6, "answer", Outcome::Ok);
        let report = stats.report(Instant::now(), 0);
        assert_eq!((report.distinct_ids, report.repeated_ids, report.ids_answered_again), (2, 1, 0));
        insta::assert_snapshot!(serde_json::to_string(&report.tasks).unwrap(), @r#"{"answer":{"ok":1},"qa_pairs":{"503":1,"ok":1}}"#);
        stats.reset(Instant::now());
        assert_eq!(stats.arrive(5), (4, 1), "attempts are counted anew, request numbers go on");
    }

    #[test]
    fn tasks_are_bounded() {
        let mut stats = Stats::new(1, Instant::now());
        for i in 0..100 {
            stats.end(i, &format!("task {i}"), Outcome::Ok);
        }
        let report = stats.report(Instant::now(), 0);
        assert_eq!((report.tasks.len(), report.outcomes["ok"]), (MAX_TASKS + 1, 100));
    }

    #[test]
    fn metrics_have_vllms_names() {
        let stats = Stats::new(1, Instant::now());
        let text = stats.metrics("a\"b", (320, 64), 1_000);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).take(5).collect();
        insta::assert_snapshot!(samples.join("\n"), @r#"
        vllm:num_requests_running{engine="0",model_name="a\"b"} 0
        vllm:num_requests_waiting{engine="0",model_name="a\"b"} 0
        vllm:kv_cache_usage_perc{engine="0",model_name="a\"b"} 0
        vllm:prefix_cache_queries_total{engine="0",model_name="a\"b"} 320
        vllm:prefix_cache_hits_total{engine="0",model_name="a\"b"} 64
        "#);
    }
}
