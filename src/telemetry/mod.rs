//! Logs, metrics, GPU figures.

pub mod errors;
pub mod exporter;
pub mod gpu;
pub mod log;
pub mod metrics;
pub mod process;
