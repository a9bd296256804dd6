//! Logs, metrics, GPU figures.

pub mod catalogue;
pub mod errors;
pub mod exporter;
pub mod gpu;
pub mod log;
pub mod metrics;
pub mod process;
pub mod push;
pub mod target;
