//! How a run is asked to stop, by whom, and what everybody who waits for something watches meanwhile.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// Why a run stops before everything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A signal; the same command resumes.
    Signal(&'static str),
    /// Some limit that the user set, such as the end of an outage's patience; the same command resumes.
    Limit(String),
    /// Nothing can go on.
    Fatal(String),
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => write!(f, "stopped by {name}"),
            Self::Limit(why) | Self::Fatal(why) => f.write_str(why),
        }
    }
}

/// A run's stop request, shared by all that work on it. The first request counts; later ones change nothing, so
/// that a second signal cannot cut a flush short.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<Mutex<Option<StopReason>>>,
}

impl Stop {
    /// Asks the run to stop. Returns whether this was the first request.
    pub fn request(&self, reason: StopReason) -> bool {
        let mut slot = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        let first = slot.is_none();
        if first {
            *slot = Some(reason);
        }
        drop(slot);
        self.token.cancel();
        first
    }

    /// Whether the run has been asked to stop.
    pub fn requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The first request's reason.
    pub fn reason(&self) -> Option<StopReason> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a request.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// The token for layers below, which need to know only *that* the run stops.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}
