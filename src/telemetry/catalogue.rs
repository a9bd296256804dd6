//! The table of all metrics: name, kind, unit, labels and help of each, in one place for the code, the documentation
//! and the tests of the dashboards.

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Grows only, from zero with each attempt.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations below each of these upper bounds.
    Histogram(&'static [f64]),
}

/// What the number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Things, named by the metric's name.
    Count,
    /// Seconds.
    Seconds,
    /// Seconds since 1970-01-01, UTC.
    Timestamp,
    /// Bytes.
    Bytes,
    /// A share, 0 to 1.
    Ratio,
    /// Watts.
    Watts,
    /// Degrees Celsius.
    Celsius,
    /// Joules.
    Joules,
    /// GPU-seconds.
    GpuSeconds,
    /// A number that stands for a state.
    State,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name, as Prometheus sees it.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What the number counts.
    pub measure: Measure,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// Upper bounds in seconds for the times of stages and model calls: from an answer out of the journal, over one of a
/// few hundred milliseconds, to a queue of minutes.
pub const CALL_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0,
    60.0, 90.0, 120.0, 300.0, 600.0,
];
/// Upper bounds in seconds for commits: a flush takes milliseconds on a local disk, seconds on a sick one.
pub const COMMIT_BUCKETS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Upper bounds for the changes of one commit, of which there are 2,000 at most.
pub const CHANGES_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0];

macro_rules! catalogue {
    ($($id:ident: $kind:expr, $measure:ident, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`")]
            pub const $id: Metric = Metric {
                name: $name, kind: $kind, measure: Measure::$measure, labels: &[$($label),*], help: $help,
            };
        )*
        /// All metrics, in the order of the documentation.
        pub const CATALOGUE: &[Metric] = &[$($id),*];
    };
}

use Kind::{Counter, Gauge, Histogram};

catalogue! {
    RUN_INFO: Gauge, State, "qaflow_run_info", ["run_id", "version", "pipeline", "model"],
        "1; its labels say what runs";
    RUN_ATTEMPT: Gauge, Count, "qaflow_run_attempt", [],
        "Number of this attempt at the run, from 1";
    PROCESS_START: Gauge, Timestamp, "qaflow_process_start_time_seconds", [],
        "When this attempt began";
    ETA: Gauge, Seconds, "qaflow_eta_seconds", [],
        "Estimated time to the end; not a number while nothing can be said";

    DOCUMENTS_FOUND: Gauge, Count, "qaflow_documents_found", [],
        "Documents of the input; with a share about so many, until all were read";
    DOCUMENTS_DONE: Gauge, Count, "qaflow_documents_done", [],
        "Documents all of whose items have ended, over all attempts";
    PAIRS: Gauge, Count, "qaflow_pairs", ["outcome"],
        "Pairs over all attempts: accepted, rejected, dead, open";

    STAGE_ITEMS: Gauge, Count, "qaflow_stage_items", ["stage", "outcome"],
        "Items of a stage over all attempts, from the store: done, rejected, dead, pending; together all that came in";
    STAGE_EMITTED: Gauge, Count, "qaflow_stage_emitted", ["stage"],
        "Items that a stage made, over all attempts, from the store";
    ITEMS_IN: Counter, Count, "qaflow_items_in_total", ["stage"],
        "Items that a stage took up";
    ITEMS: Counter, Count, "qaflow_items_total", ["stage", "outcome"],
        "Items that a stage ended: done, rejected, dead";
    ITEMS_EMITTED: Counter, Count, "qaflow_items_emitted_total", ["stage"],
        "Items that a stage made and handed on";
    ITEMS_REJECTED: Counter, Count, "qaflow_items_rejected_total", ["stage", "reason"],
        "Items that a check refused, by check";
    ITEMS_DEAD: Counter, Count, "qaflow_items_dead_total", ["stage", "reason"],
        "Items given up, by label of the dead letter";
    ITEMS_RETRIED: Counter, Count, "qaflow_items_retried_total", ["stage", "reason"],
        "Times that a stage tried an item again after a transient fault";
    STAGE_IN_FLIGHT: Gauge, Count, "qaflow_stage_in_flight", ["stage"],
        "Items that a stage is processing";
    QUEUE_DEPTH: Gauge, Count, "qaflow_queue_depth", ["stage"],
        "Items waiting in a stage's channel";
    QUEUE_CAPACITY: Gauge, Count, "qaflow_queue_capacity", ["stage"],
        "Size of a stage's channel";
    STAGE_DURATION: Histogram(CALL_BUCKETS), Seconds, "qaflow_stage_duration_seconds", ["stage"],
        "Time a stage takes for an item, its commit included";
    COMMIT_DURATION: Histogram(COMMIT_BUCKETS), Seconds, "qaflow_commit_duration_seconds", [],
        "Time of one commit, flush included";
    COMMIT_CHANGES: Histogram(CHANGES_BUCKETS), Count, "qaflow_commit_changes", [],
        "Changes in one commit";

    MODEL_REQUESTS: Counter, Count, "qaflow_model_requests_total", ["endpoint", "outcome"],
        "Requests that ended: ok, or the failure's label";
    MODEL_DURATION: Histogram(CALL_BUCKETS), Seconds, "qaflow_model_request_duration_seconds", ["endpoint"],
        "Time from a request to its answer or failure";
    MODEL_TOKENS: Counter, Count, "qaflow_model_tokens_total", ["kind"],
        "Tokens of answers received: prompt, cached (those of the prompt that the server had in its cache), completion";
    MODEL_RETRIES: Counter, Count, "qaflow_model_retries_total", ["reason"],
        "Times that a model call was made again after a failure of transport or server";
    ANSWERS_UNUSABLE: Counter, Count, "qaflow_answers_unusable_total", ["reason"],
        "Answers that could not be used: asked again, or given up at the last try";
    JOURNAL_HITS: Counter, Count, "qaflow_journal_hits_total", [],
        "Answers taken from the journal instead of the model";
    MODEL_SLOTS: Gauge, Count, "qaflow_model_slots", ["endpoint"],
        "Requests that may be with an endpoint at once: the concurrency limit";
    MODEL_IN_FLIGHT: Gauge, Count, "qaflow_model_in_flight", ["endpoint"],
        "Requests that are with an endpoint";
    MODEL_WAITING: Gauge, Count, "qaflow_model_waiting", ["endpoint"],
        "Requests that wait for one of an endpoint's slots";
    BREAKER_OPEN: Gauge, State, "qaflow_model_breaker_open", ["endpoint"],
        "1 while an endpoint is out and nothing is sent to it, else 0";
    BREAKER_OPENED: Counter, Count, "qaflow_model_breaker_opened_total", ["endpoint"],
        "Times that an endpoint went out";
    ENDPOINT_UP: Gauge, State, "qaflow_model_endpoint_up", ["endpoint"],
        "1 unless the latest requests to an endpoint failed without an answer since, then 0";

    SERVER_RUNNING: Gauge, Count, "qaflow_server_requests_running", ["endpoint"],
        "Requests in service, as the model server says; with telemetry.vllm_metrics";
    SERVER_WAITING: Gauge, Count, "qaflow_server_requests_waiting", ["endpoint"],
        "Requests in the model server's queue, as it says; with telemetry.vllm_metrics";
    SERVER_KV_CACHE: Gauge, Ratio, "qaflow_server_kv_cache_usage_ratio", ["endpoint"],
        "Share of the model server's key-value cache in use; with telemetry.vllm_metrics";
    SERVER_PREFIX_QUERIES: Counter, Count, "qaflow_server_prefix_cache_queries_total", ["endpoint"],
        "Prompt tokens that the model server looked up in its prefix cache; with telemetry.vllm_metrics";
    SERVER_PREFIX_HITS: Counter, Count, "qaflow_server_prefix_cache_hits_total", ["endpoint"],
        "Prompt tokens that the model server found in its prefix cache; with telemetry.vllm_metrics";

    DISK_FREE: Gauge, Bytes, "qaflow_disk_free_bytes", [],
        "Free space of the file system that holds the state, as far as this user may use it";
    DISK_TOTAL: Gauge, Bytes, "qaflow_disk_total_bytes", [],
        "Size of the file system that holds the state";
    STATE_BYTES: Gauge, Bytes, "qaflow_state_bytes", [],
        "Space that the state's database and texts take";

    GPU_UTILIZATION: Gauge, Ratio, "qaflow_gpu_utilization_ratio", ["gpu"],
        "Share of the last interval in which a GPU was at work";
    GPU_MEMORY_USED: Gauge, Bytes, "qaflow_gpu_memory_used_bytes", ["gpu"],
        "Memory in use on a GPU";
    GPU_MEMORY_TOTAL: Gauge, Bytes, "qaflow_gpu_memory_total_bytes", ["gpu"],
        "Memory of a GPU";
    GPU_POWER: Gauge, Watts, "qaflow_gpu_power_watts", ["gpu"],
        "Power that a GPU draws";
    GPU_TEMPERATURE: Gauge, Celsius, "qaflow_gpu_temperature_celsius", ["gpu"],
        "Temperature of a GPU";
    GPU_ENERGY: Counter, Joules, "qaflow_gpu_energy_joules_total", ["gpu"],
        "Energy that a GPU has used in this attempt";
    GPU_HELD: Gauge, Count, "qaflow_gpu_held", [],
        "GPUs that this attempt holds";
    GPU_SECONDS: Counter, Seconds, "qaflow_gpu_seconds_total", [],
        "GPU-seconds held, over all attempts";
    PROCESS_MEMORY: Gauge, Bytes, "qaflow_process_memory_bytes", [],
        "Memory that the process has resident";
    PROCESS_MEMORY_PEAK: Gauge, Bytes, "qaflow_process_memory_peak_bytes", [],
        "The most memory that the process has had resident";
    PROCESS_CPU: Counter, Seconds, "qaflow_process_cpu_seconds_total", [],
        "Processor time of the process";
    BUDGET: Gauge, GpuSeconds, "qaflow_budget_gpu_seconds", [],
        "GPU-seconds that the run may use";
    BUDGET_USED: Gauge, GpuSeconds, "qaflow_budget_used_gpu_seconds", [],
        "GPU-seconds that the run has used, over all attempts";
    BUDGET_PROJECTED: Gauge, GpuSeconds, "qaflow_budget_projected_gpu_seconds", ["bound"],
        "GPU-seconds that the whole run is projected to use: low and high bound of 90%, expected";
    BUDGET_STATE: Gauge, State, "qaflow_budget_state", [],
        "How the projection stands to the budget: 0 within, 1 close, 2 over";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_prometheus_rules() {
        let mut seen = BTreeSet::new();
        for Metric { name, kind, measure, labels, help } in CATALOGUE {
            assert!(seen.insert(name), "{name} stands twice");
            assert!(name.starts_with("qaflow_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Counter, "{name}: counters alone end in _total");
            let stem = name.trim_end_matches("_total");
            let unit = match measure {
                Measure::Seconds | Measure::Timestamp => "_seconds",
                Measure::Bytes => "_bytes",
                Measure::Ratio => "_ratio",
                Measure::Watts => "_watts",
                Measure::Celsius => "_celsius",
                Measure::Joules => "_joules",
                Measure::GpuSeconds => "_gpu_seconds",
                Measure::Count | Measure::State => "",
            };
            assert!(stem.ends_with(unit), "{name} does not end in its unit {unit}");
            assert!(labels.len() <= 4 && !help.is_empty() && !help.ends_with('.'), "{name}");
            if let Histogram(bounds) = kind {
                assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{name}: bounds must rise");
            }
        }
    }
}
