//! Every metric: its name, labels and help in one place. The only user of the metrics macros.
#![expect(clippy::disallowed_macros, reason = "this is the one place that names metrics")]

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Describes all metrics to the installed recorder.
pub fn describe() {
    describe_counter!("qaflow_items_total", "Items that a stage ended, by outcome (done, rejected, dead)");
    describe_counter!("qaflow_items_retried_total", "Items that a stage tried again after a transient fault");
    describe_gauge!("qaflow_stage_in_flight", "Items that a stage is processing");
    describe_gauge!("qaflow_queue_depth", "Items waiting in a stage's channel");
    describe_gauge!("qaflow_queue_capacity", "Size of a stage's channel");
    describe_histogram!("qaflow_stage_duration_seconds", Unit::Seconds, "Time a stage takes for an item");
    describe_histogram!("qaflow_commit_duration_seconds", Unit::Seconds, "Time of one commit, flush included");
    describe_histogram!("qaflow_commit_changes", "Changes in one commit");
    describe_counter!("qaflow_model_requests_total", "Requests sent to a model, by endpoint and outcome");
    describe_counter!("qaflow_model_tokens_total", "Tokens of answers received, by kind (prompt, cached, completion)");
    describe_counter!("qaflow_journal_hits_total", "Answers taken from the journal instead of the model");
    describe_histogram!("qaflow_model_request_duration_seconds", Unit::Seconds, "Time to a model's answer");
    describe_gauge!("qaflow_model_breaker_open", "1 while an endpoint is out and nothing is sent to it");
    describe_gauge!("qaflow_model_slots", "Requests that may be with the model at once");
    describe_gauge!("qaflow_model_in_flight", "Requests that are with the model");
    describe_accounts();
}

/// One epoch of `changes` changes was written.
pub fn commit(changes: usize, took: Duration) {
    histogram!("qaflow_commit_duration_seconds").record(took);
    histogram!("qaflow_commit_changes").record(changes as f64);
}

/// A stage ended an item.
pub fn item_ended(stage: &str, outcome: &'static str, took: Duration) {
    counter!("qaflow_items_total", "stage" => stage.to_owned(), "outcome" => outcome).increment(1);
    histogram!("qaflow_stage_duration_seconds", "stage" => stage.to_owned()).record(took);
}

/// A stage's item was ended without being processed, by what became of others.
pub fn item_decided(stage: &str, outcome: &'static str) {
    counter!("qaflow_items_total", "stage" => stage.to_owned(), "outcome" => outcome).increment(1);
}

/// A stage tries an item again.
pub fn item_retried(stage: &str) {
    counter!("qaflow_items_retried_total", "stage" => stage.to_owned()).increment(1);
}

/// How a stage stands.
pub fn stage_level(stage: &str, in_flight: usize, queued: usize, capacity: usize) {
    gauge!("qaflow_stage_in_flight", "stage" => stage.to_owned()).set(in_flight as f64);
    gauge!("qaflow_queue_depth", "stage" => stage.to_owned()).set(queued as f64);
    gauge!("qaflow_queue_capacity", "stage" => stage.to_owned()).set(capacity as f64);
}

/// A request to an endpoint ended.
pub fn model_request(endpoint: &str, outcome: &str, took: Duration) {
    counter!("qaflow_model_requests_total", "endpoint" => endpoint.to_owned(), "outcome" => outcome.to_owned())
        .increment(1);
    histogram!("qaflow_model_request_duration_seconds", "endpoint" => endpoint.to_owned()).record(took);
}

/// An answer's tokens.
pub fn model_tokens(prompt: u64, cached: u64, completion: u64) {
    counter!("qaflow_model_tokens_total", "kind" => "prompt").increment(prompt);
    counter!("qaflow_model_tokens_total", "kind" => "cached").increment(cached);
    counter!("qaflow_model_tokens_total", "kind" => "completion").increment(completion);
}

/// An answer came from the journal.
pub fn journal_hit() {
    counter!("qaflow_journal_hits_total").increment(1);
}

/// Whether an endpoint is out.
pub fn breaker(endpoint: &str, open: bool) {
    gauge!("qaflow_model_breaker_open", "endpoint" => endpoint.to_owned()).set(if open { 1.0 } else { 0.0 });
}

/// How the slots of the model stand.
pub fn model_level(in_flight: usize, slots: usize) {
    gauge!("qaflow_model_in_flight").set(in_flight as f64);
    gauge!("qaflow_model_slots").set(slots as f64);
}

// GPUs, the process, and the budget of GPU time.

fn describe_accounts() {
    describe_gauge!("qaflow_gpu_utilization_ratio", "Part of the time in which a GPU was busy, 0 to 1");
    describe_gauge!("qaflow_gpu_memory_used_bytes", Unit::Bytes, "Memory in use on a GPU");
    describe_gauge!("qaflow_gpu_memory_total_bytes", Unit::Bytes, "Memory of a GPU");
    describe_gauge!("qaflow_gpu_power_watts", "Power that a GPU draws");
    describe_gauge!("qaflow_gpu_temperature_celsius", "Temperature of a GPU");
    describe_counter!("qaflow_gpu_energy_joules_total", "Energy that a GPU used in this attempt");
    describe_gauge!("qaflow_gpu_held", "GPUs that this attempt holds");
    describe_counter!("qaflow_gpu_seconds_total", Unit::Seconds, "GPUs held times time, over all attempts of the run");
    describe_gauge!("qaflow_process_memory_bytes", Unit::Bytes, "Resident memory of this process");
    describe_gauge!("qaflow_process_memory_peak_bytes", Unit::Bytes, "Most resident memory of this process so far");
    describe_counter!(
        "qaflow_process_cpu_seconds_total",
        Unit::Seconds,
        "Processor time of this process and its workers"
    );
    describe_gauge!("qaflow_budget_gpu_hours", "GPU-hours that the run may use, extensions included");
    describe_gauge!("qaflow_budget_used_gpu_hours", "GPU-hours used, over all attempts of the run");
    describe_gauge!(
        "qaflow_budget_projected_gpu_hours",
        "GPU-hours used when the run is done, by bound (low, expected, high): expected, and a 90% interval"
    );
    describe_gauge!("qaflow_budget_state", "How the projection stands to the budget: 0 within, 1 close, 2 over");
}

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
    gauge!("qaflow_budget_gpu_hours").set(gpu_hours);
    gauge!("qaflow_budget_used_gpu_hours").set(used);
    gauge!("qaflow_budget_state").set(f64::from(state));
}

/// What the run will have used when it is done, in GPU-hours.
pub fn budget_projection(low: f64, expected: f64, high: f64) {
    gauge!("qaflow_budget_projected_gpu_hours", "bound" => "low").set(low);
    gauge!("qaflow_budget_projected_gpu_hours", "bound" => "expected").set(expected);
    gauge!("qaflow_budget_projected_gpu_hours", "bound" => "high").set(high);
}
