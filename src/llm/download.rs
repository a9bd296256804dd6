//! x
/// The file's name.
pub const WEIGHTS_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
