//! What is counted, as functions by event. The only user of the metrics macros; the names stand in the catalogue.
#![expect(clippy::disallowed_macros, reason = "this is the one place that names metrics")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::catalogue::{self as c, CATALOGUE, Kind};

/// Describes all metrics to the installed recorder.
pub fn describe() {
    for metric in CATALOGUE {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => describe_histogram!(metric.name, metric.help),
        }
    }
}

/// Values of one label that are told apart; any further one counts as `other`.
const MOST_VALUES: usize = 40;
/// The values seen so far, by label.
static SEEN: Mutex<BTreeMap<&'static str, BTreeSet<String>>> = Mutex::new(BTreeMap::new());

/// A label's value, if it is one of a bounded number of short words; else `other`. Reasons come from checks, stages and
/// servers, and each new value makes a time series for good.
fn bounded(label: &'static str, value: &str) -> String {
    let word = (1..=40).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if word {
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        let values = seen.entry(label).or_default();
        if values.contains(value) || values.len() < MOST_VALUES {
            if !values.contains(value) {
                values.insert(value.to_owned());
            }
            return value.to_owned();
        }
    }
    "other".to_owned()
}

// The run.

/// What runs, in which attempt, since when (seconds since 1970).
pub fn run(run_id: &str, pipeline: &str, model: &str, attempt: u64, started: f64) {
    let (run_id, pipeline, model) = (run_id.to_owned(), pipeline.to_owned(), model.to_owned());
    let version = env!("CARGO_PKG_VERSION");
    gauge!(c::RUN_INFO.name, "run_id" => run_id, "version" => version, "pipeline" => pipeline, "model" => model)
        .set(1.0);
    gauge!(c::RUN_ATTEMPT.name).set(attempt as f64);
    gauge!(c::PROCESS_START.name).set(started);
}

/// Makes the counters of these stages, and those of the model, begin at zero: a rate does not see the first event of a
/// series that begins with it.
pub fn begin<'a>(stages: impl Iterator<Item = &'a str>) {
    for stage in stages {
        counter!(c::ITEMS_IN.name, "stage" => stage.to_owned()).increment(0);
        counter!(c::ITEMS_EMITTED.name, "stage" => stage.to_owned()).increment(0);
        for outcome in ["done", "rejected", "dead"] {
            counter!(c::ITEMS.name, "stage" => stage.to_owned(), "outcome" => outcome).increment(0);
        }
        for metric in [c::ITEMS_REJECTED, c::ITEMS_DEAD, c::ITEMS_RETRIED] {
            counter!(metric.name, "stage" => stage.to_owned(), "reason" => "other").increment(0);
        }
    }
    for metric in [c::MODEL_RETRIES, c::ANSWERS_UNUSABLE] {
        counter!(metric.name, "reason" => "other").increment(0);
    }
    for kind in ["prompt", "cached", "completion"] {
        counter!(c::MODEL_TOKENS.name, "kind" => kind).increment(0);
    }
    counter!(c::JOURNAL_HITS.name).increment(0);
}

/// Seconds to the end, if anything can be said.
pub fn eta(seconds: Option<f64>) {
    gauge!(c::ETA.name).set(seconds.unwrap_or(f64::NAN));
}

/// Documents of the input.
pub fn documents_found(found: u64) {
    gauge!(c::DOCUMENTS_FOUND.name).set(found as f64);
}

/// Documents all of whose items have ended.
pub fn documents_done(done: u64) {
    gauge!(c::DOCUMENTS_DONE.name).set(done as f64);
}

/// Pairs over all attempts.
pub fn pairs(accepted: u64, rejected: u64, dead: u64, open: u64) {
    for (outcome, count) in [("accepted", accepted), ("rejected", rejected), ("dead", dead), ("open", open)] {
        gauge!(c::PAIRS.name, "outcome" => outcome).set(count as f64);
    }
}

// Stages and the store.

/// How a stage ended an item.
#[derive(Clone, Debug)]
pub enum Ended {
    /// It made so many children.
    Done(u64),
    /// This check refused it.
    Rejected(String),
    /// It was given up, with this label.
    Dead(String),
}

/// A stage took an item up.
pub fn item_taken(stage: &str) {
    counter!(c::ITEMS_IN.name, "stage" => stage.to_owned()).increment(1);
}

/// A stage ended an item.
pub fn item_ended(stage: &str, ended: &Ended, took: Duration) {
    let outcome = match ended {
        Ended::Done(children) => {
            counter!(c::ITEMS_EMITTED.name, "stage" => stage.to_owned()).increment(*children);
            "done"
        }
        Ended::Rejected(check) => {
            let reason = bounded("check", check);
            counter!(c::ITEMS_REJECTED.name, "stage" => stage.to_owned(), "reason" => reason).increment(1);
            "rejected"
        }
        Ended::Dead(label) => {
            let reason = bounded("dead", label);
            counter!(c::ITEMS_DEAD.name, "stage" => stage.to_owned(), "reason" => reason).increment(1);
            "dead"
        }
    };
    counter!(c::ITEMS.name, "stage" => stage.to_owned(), "outcome" => outcome).increment(1);
    histogram!(c::STAGE_DURATION.name, "stage" => stage.to_owned()).record(took);
}

/// A stage tries an item again.
pub fn item_retried(stage: &str, label: &str) {
    let reason = bounded("retry", label);
    counter!(c::ITEMS_RETRIED.name, "stage" => stage.to_owned(), "reason" => reason).increment(1);
}

/// How a stage stands: what is in its hands, in its channel, and the channel's size.
pub fn stage_level(stage: &str, in_flight: u64, queued: u64, capacity: u64) {
    gauge!(c::STAGE_IN_FLIGHT.name, "stage" => stage.to_owned()).set(in_flight as f64);
    gauge!(c::QUEUE_DEPTH.name, "stage" => stage.to_owned()).set(queued as f64);
    gauge!(c::QUEUE_CAPACITY.name, "stage" => stage.to_owned()).set(capacity as f64);
}

/// What a stage did over all attempts: items done, rejected, dead, pending, and made.
pub fn stage_totals(stage: &str, [done, rejected, dead, pending, emitted]: [u64; 5]) {
    for (outcome, count) in [("done", done), ("rejected", rejected), ("dead", dead), ("pending", pending)] {
        gauge!(c::STAGE_ITEMS.name, "stage" => stage.to_owned(), "outcome" => outcome).set(count as f64);
    }
    gauge!(c::STAGE_EMITTED.name, "stage" => stage.to_owned()).set(emitted as f64);
}

/// One epoch of `changes` changes was written.
pub fn commit(changes: usize, took: Duration) {
    histogram!(c::COMMIT_DURATION.name).record(took);
    histogram!(c::COMMIT_CHANGES.name).record(changes as f64);
}

/// The file system that holds the state, and what the state takes of it, in bytes.
pub fn disk(free: u64, total: u64) {
    gauge!(c::DISK_FREE.name).set(free as f64);
    gauge!(c::DISK_TOTAL.name).set(total as f64);
}

/// A stage's item was ended without being processed, by what became of others.
pub fn item_decided(stage: &str, outcome: &'static str) {
    counter!(c::ITEMS.name, "stage" => stage.to_owned(), "outcome" => outcome).increment(1);
}

/// What the state takes on disk, in bytes.
pub fn state_bytes(bytes: u64) {
    gauge!(c::STATE_BYTES.name).set(bytes as f64);
}

// The model.

/// A request to an endpoint ended.
pub fn model_request(endpoint: &str, outcome: &str, took: Duration) {
    let outcome = bounded("outcome", outcome);
    counter!(c::MODEL_REQUESTS.name, "endpoint" => endpoint.to_owned(), "outcome" => outcome).increment(1);
    histogram!(c::MODEL_DURATION.name, "endpoint" => endpoint.to_owned()).record(took);
}

/// An answer's tokens.
pub fn model_tokens(prompt: u64, cached: u64, completion: u64) {
    counter!(c::MODEL_TOKENS.name, "kind" => "prompt").increment(prompt);
    counter!(c::MODEL_TOKENS.name, "kind" => "cached").increment(cached);
    counter!(c::MODEL_TOKENS.name, "kind" => "completion").increment(completion);
}

/// A model call is made again.
pub fn model_retried(label: &str) {
    counter!(c::MODEL_RETRIES.name, "reason" => bounded("model_retry", label)).increment(1);
}

/// An answer could not be used.
pub fn answer_unusable(label: &str) {
    counter!(c::ANSWERS_UNUSABLE.name, "reason" => bounded("unusable", label)).increment(1);
}

/// An answer came from the journal.
pub fn journal_hit() {
    counter!(c::JOURNAL_HITS.name).increment(1);
}

/// An endpoint went out, or came back.
pub fn breaker(endpoint: &str, open: bool) {
    gauge!(c::BREAKER_OPEN.name, "endpoint" => endpoint.to_owned()).set(if open { 1.0 } else { 0.0 });
    if open {
        counter!(c::BREAKER_OPENED.name, "endpoint" => endpoint.to_owned()).increment(1);
    }
}

/// How an endpoint stands.
#[derive(Clone, Copy, Debug)]
pub struct EndpointLevel {
    /// Requests that are with it.
    pub in_flight: u64,
    /// Requests that may be with it at once.
    pub slots: u64,
    /// Requests that wait for a slot.
    pub waiting: u64,
    /// Whether it is out.
    pub out: bool,
    /// Whether requests fail without an answer since.
    pub silent: bool,
}

/// How an endpoint stands; all its series are there from the start.
pub fn endpoint_level(endpoint: &str, level: EndpointLevel) {
    let flag = |yes: bool| if yes { 1.0 } else { 0.0 };
    for (metric, value) in [
        (c::MODEL_IN_FLIGHT, level.in_flight as f64),
        (c::MODEL_SLOTS, level.slots as f64),
        (c::MODEL_WAITING, level.waiting as f64),
        (c::BREAKER_OPEN, flag(level.out)),
        (c::ENDPOINT_UP, flag(!level.out && !level.silent)),
    ] {
        gauge!(metric.name, "endpoint" => endpoint.to_owned()).set(value);
    }
    counter!(c::BREAKER_OPENED.name, "endpoint" => endpoint.to_owned()).increment(0);
}

/// What a model server says about itself. `queries` and `hits` are what was added to its prefix cache's counters since
/// they were last read.
pub fn server(endpoint: &str, running: f64, waiting: f64, kv_usage: f64, queries: u64, hits: u64) {
    for (metric, value) in [(c::SERVER_RUNNING, running), (c::SERVER_WAITING, waiting), (c::SERVER_KV_CACHE, kv_usage)]
    {
        gauge!(metric.name, "endpoint" => endpoint.to_owned()).set(value);
    }
    counter!(c::SERVER_PREFIX_QUERIES.name, "endpoint" => endpoint.to_owned()).increment(queries);
    counter!(c::SERVER_PREFIX_HITS.name, "endpoint" => endpoint.to_owned()).increment(hits);
}

/// A server no longer says anything about itself: old figures must not stand as if they were new.
pub fn server_silent(endpoint: &str) {
    for metric in [c::SERVER_RUNNING, c::SERVER_WAITING, c::SERVER_KV_CACHE] {
        gauge!(metric.name, "endpoint" => endpoint.to_owned()).set(f64::NAN);
    }
}

// GPUs, the process, and the budget of GPU time.

/// How many GPUs the attempt holds.
pub fn gpu_held(count: usize) {
    gauge!("qaflow_gpu_held").set(count as f64);
}

/// Sets a level of the GPU with a UUID.
type SetLevel = fn(&str, f64);

/// The levels of a GPU: utilisation (0 to 1), memory in use (bytes), power (watts), temperature (degrees Celsius).
pub const GPU_LEVELS: [SetLevel; 4] = [
    |gpu, value| gauge!("qaflow_gpu_utilization_ratio", "gpu" => gpu.to_owned()).set(value),
    |gpu, value| gauge!("qaflow_gpu_memory_used_bytes", "gpu" => gpu.to_owned()).set(value),
    |gpu, value| gauge!("qaflow_gpu_power_watts", "gpu" => gpu.to_owned()).set(value),
    |gpu, value| gauge!("qaflow_gpu_temperature_celsius", "gpu" => gpu.to_owned()).set(value),
];

/// The memory of a GPU, in bytes.
pub fn gpu_memory_total(uuid: &str, bytes: f64) {
    gauge!("qaflow_gpu_memory_total_bytes", "gpu" => uuid.to_owned()).set(bytes);
}

/// Energy that a GPU used in this attempt, in joules.
pub fn gpu_energy(uuid: &str, joules: f64) {
    counter!("qaflow_gpu_energy_joules_total", "gpu" => uuid.to_owned()).absolute(joules.max(0.0) as u64);
}

/// GPU-seconds over all attempts of the run.
pub fn gpu_seconds(total: f64) {
    counter!("qaflow_gpu_seconds_total").absolute(total.max(0.0) as u64);
}

/// What this process uses.
pub fn process(now: &super::process::ProcessUse) {
    gauge!("qaflow_process_memory_bytes").set(now.memory_bytes as f64);
    gauge!("qaflow_process_memory_peak_bytes").set(now.memory_peak_bytes as f64);
    counter!("qaflow_process_cpu_seconds_total").absolute(now.cpu_seconds as u64);
}

/// The budget and what is used of it, in GPU-hours.
pub fn budget(gpu_hours: f64, used: f64, state: u8) {
    gauge!("qaflow_budget_gpu_seconds").set(gpu_hours * 3600.0);
    gauge!("qaflow_budget_used_gpu_seconds").set(used * 3600.0);
    gauge!("qaflow_budget_state").set(f64::from(state));
}

/// What the run will have used when it is done, in GPU-hours.
pub fn budget_projection(low: f64, expected: f64, high: f64) {
    gauge!("qaflow_budget_projected_gpu_seconds", "bound" => "low").set(low * 3600.0);
    gauge!("qaflow_budget_projected_gpu_seconds", "bound" => "expected").set(expected * 3600.0);
    gauge!("qaflow_budget_projected_gpu_seconds", "bound" => "high").set(high * 3600.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_bounded() {
        assert_eq!(bounded("t1", "http_503"), "http_503");
        for unexpected in ["", "Has Spaces", "évil", "a\"b", &"x".repeat(41)] {
            assert_eq!(bounded("t1", unexpected), "other");
        }
        for n in 0..200 {
            bounded("t2", &format!("v{n}"));
        }
        assert_eq!((bounded("t2", "v0").as_str(), bounded("t2", "v199").as_str()), ("v0", "other"));
        assert_eq!(bounded("t3", "v199"), "v199", "each label has values of its own");
    }
}
