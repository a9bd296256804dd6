//! The commands: the only place that puts the rest together.

pub mod model_pull;
pub mod simulate_llm;
