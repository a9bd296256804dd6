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
