//! Logs, metrics, GPU figures.

pub mod exporter;
pub mod log;
pub mod metrics;
