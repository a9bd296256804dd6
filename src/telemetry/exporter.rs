//! Where Prometheus reads the metrics: `/metrics` over HTTP, only if an address is configured.

use std::net::SocketAddr;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

/// Upper bounds in seconds for the times of stages and model calls: from a cached answer to a queue of minutes.
const CALL_BUCKETS: [f64; 14] = [0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0];
/// Upper bounds in seconds for commits: a flush takes milliseconds on a local disk, seconds on a sick one.
const COMMIT_BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0];
/// Upper bounds for the changes of one commit.
const CHANGES_BUCKETS: [f64; 8] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0];

/// Starts the listener on the running runtime.
///
/// # Errors
/// If the address cannot be listened at, or a recorder is installed already.
pub fn start(address: SocketAddr) -> Result<(), String> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    let builder = PrometheusBuilder::new()
        .with_http_listener(address)
        .set_buckets_for_metric(full("qaflow_stage_duration_seconds"), &CALL_BUCKETS)
        .and_then(|b| b.set_buckets_for_metric(full("qaflow_model_request_duration_seconds"), &CALL_BUCKETS))
        .and_then(|b| b.set_buckets_for_metric(full("qaflow_commit_duration_seconds"), &COMMIT_BUCKETS))
        .and_then(|b| b.set_buckets_for_metric(full("qaflow_commit_changes"), &CHANGES_BUCKETS))
        .map_err(|error| error.to_string())?;
    builder.install().map_err(|error| format!("telemetry.prometheus: cannot listen at {address}: {error}"))?;
    super::metrics::describe();
    Ok(())
}
