//! The validate stage.

pub mod checks;
pub mod matching;
pub mod normalize;
pub mod tokens;
