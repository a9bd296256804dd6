//! The embedded model: SmolLM2-135M in the process.
