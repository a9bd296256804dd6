//! Logs, metrics, GPU figures.

pub mod errors;
pub mod exporter;
pub mod log;
pub mod metrics;
