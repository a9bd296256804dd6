//! Logs, metrics, GPU figures.

pub mod catalogue;
pub mod exporter;
pub mod log;
pub mod metrics;
pub mod push;
pub mod target;
