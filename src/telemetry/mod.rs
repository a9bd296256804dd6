//! Logs, metrics, GPU figures.

pub mod metrics;
