//! Models: over HTTP and in the process, and the decorators around them.

pub mod download;
pub mod embedded;
