//! Logs, metrics, GPU figures.
