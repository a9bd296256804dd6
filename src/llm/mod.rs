//! Models: over HTTP and in the process, and the decorators around them.
//!
//! From the outside in: [`journal`] answers what was answered before and keeps what is new; [`retry`] waits out what
//! is the world's fault; [`concurrency`] grants the slots, the furthest stage first, as many as [`adaptive`] finds
//! best; then comes the model itself, [`openai`] over HTTP or [`embedded`] in the process.

pub mod adaptive;
pub mod breaker;
pub mod concurrency;
pub mod download;
pub mod embedded;
mod endpoint;
pub mod endpoints;
mod homes;
pub mod journal;
pub mod limits;
pub mod openai;
pub mod probe;
pub mod retry;
pub mod server_figures;
mod wire;
