//! `qaflow model pull`: fetches the embedded model's weights and checks their hash.
use std::path::PathBuf;
/// x
pub fn default_weights_path() -> PathBuf { PathBuf::from("/root/.cache/qaflow/models/SmolLM2-135M-Instruct.Q4_1.gguf") }
