//! The runtime of the graph; it knows no stage by name.
//!
//! Each stage has one runner, which takes items from its bounded channel and processes a bounded number of them at
//! once. What a stage makes of an item goes to the committer, the only writer; only after the commit are the
//! children sent down the edges. A full channel makes its senders wait: that is the backpressure.
//!
//! An item is delivered exactly once per attempt. Items that were pending when the attempt began are streamed from
//! the store ([`resume`]), which knows them by the epoch in which they became pending; items that become pending
//! later travel through the channels.
//!
//! Where so many accepted pairs of each document are wanted, a gate ([`gate`]) holds its passages back and lets them go in
//! rounds; where a document stands is found from the store ([`survey`](mod@survey)).

mod committer;
mod gate;
mod progress;
mod resume;
mod runtime;
mod shutdown;
mod survey;
mod worker;

pub use committer::Committer;
pub use progress::{CommitLoad, Counted, Progress, StageProgress};
pub use resume::ACTIVE_EDGES;
pub use runtime::{Engine, EngineError, Flow, FlowNode, RunEnd};
pub use shutdown::{Stop, StopReason};
pub use survey::Gate;

#[cfg(test)]
mod gate_tests;
#[cfg(test)]
mod tests;
