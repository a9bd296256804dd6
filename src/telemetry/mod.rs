//! Logs, metrics, GPU figures.

pub mod log;
pub mod metrics;
