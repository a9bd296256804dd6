//! The generate stage.
