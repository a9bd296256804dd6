//! The stages, and the only registry of them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::model::llm::LlmClient;
use crate::model::text::TextStore;

pub mod chunk;
pub mod extract;
pub mod generate;
pub mod prompt;
pub mod score;
pub mod validate;

/// What the stages of one run share.
#[derive(Clone)]
pub struct StageContext {
    /// Documents' texts.
    pub texts: Arc<dyn TextStore>,
    /// The model, behind journal, retries and limits.
    pub llm: Arc<dyn LlmClient>,
    /// The model's name as the server knows it; a stage may name another.
    pub model: Arc<str>,
    /// The program that worker processes are started from: this binary.
    pub worker_program: PathBuf,
}
