//! Errors that say what is to be done about them.

use std::time::Duration;

use thiserror::Error;

/// What an error means for the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The world is at fault for a while: wait and try again; never counts against the item.
    Transient,
    /// The item is at fault: it becomes a dead letter.
    Poison,
    /// Nothing can go on: the run stops.
    Fatal,
    /// The run is being stopped: the item stays pending, untouched.
    Interrupted,
}

/// Why a stage could not process an item.
#[derive(Clone, Debug, Error)]
#[error("{reason}")]
pub struct StageError {
    /// What to do.
    pub class: ErrorClass,
    /// A short, bounded label for counting, such as `encrypted` or `bad_json`.
    pub label: String,
    /// The reason, for people.
    pub reason: String,
    /// How many times it was tried within the stage.
    pub attempts: u32,
    /// The raw model answers that could not be used, newest last.
    pub raw: Vec<String>,
}

impl StageError {
    /// The item is at fault.
    pub fn poison(label: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(ErrorClass::Poison, label, reason)
    }

    /// Nothing can go on.
    pub fn fatal(label: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(ErrorClass::Fatal, label, reason)
    }

    /// The world is at fault for a while.
    pub fn transient(label: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(ErrorClass::Transient, label, reason)
    }

    /// An error of any class after one attempt.
    pub fn new(class: ErrorClass, label: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { class, label: label.into(), reason: reason.into(), attempts: 1, raw: Vec::new() }
    }

    /// Keeps the raw answers with the error, and how many attempts were made.
    #[must_use]
    pub fn with_raw(mut self, attempts: u32, raw: Vec<String>) -> Self {
        self.attempts = attempts;
        self.raw = raw;
        self
    }
}

impl From<LlmError> for StageError {
    fn from(error: LlmError) -> Self {
        Self::new(error.class(), error.label(), error.to_string())
    }
}

impl From<StoreError> for StageError {
    fn from(error: StoreError) -> Self {
        Self::fatal("store", error.to_string())
    }
}

/// Why a model call gave no answer.
#[derive(Clone, Debug, Error)]
pub enum LlmError {
    /// Refused, reset, timed out, or the server is overloaded or restarting.
    #[error("{message}")]
    Unavailable {
        /// A short label: `connect`, `timeout`, `reset`, `http_429`, `http_503` …
        label: String,
        /// What happened, with the endpoint.
        message: String,
        /// What the server asked us to wait.
        retry_after: Option<Duration>,
    },
    /// The server will never accept this request (400, 413, 422).
    #[error("{message}")]
    Refused {
        /// A short label such as `http_400`.
        label: String,
        /// The server's words.
        message: String,
    },
    /// Wrong key, model or address: no call can succeed.
    #[error("{message}")]
    Misconfigured {
        /// What is wrong and what to do about it.
        message: String,
    },
    /// The run is being stopped.
    #[error("interrupted: the run is stopping")]
    Interrupted,
    /// The answer could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LlmError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unavailable { .. } => ErrorClass::Transient,
            Self::Refused { .. } => ErrorClass::Poison,
            Self::Misconfigured { .. } | Self::Store(_) => ErrorClass::Fatal,
            Self::Interrupted => ErrorClass::Interrupted,
        }
    }

    /// A short, bounded label for counting.
    pub fn label(&self) -> &str {
        match self {
            Self::Unavailable { label, .. } | Self::Refused { label, .. } => label,
            Self::Misconfigured { .. } => "misconfigured",
            Self::Interrupted => "interrupted",
            Self::Store(_) => "store",
        }
    }
}

/// Why the store could not do what was asked. None of these loses what was acknowledged.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// No room on the disk.
    #[error(
        "no space left on the disk that holds {place}: free some space, then run the same command again; everything acknowledged is kept"
    )]
    Full {
        /// The folder of the store.
        place: String,
    },
    /// Something cannot be read back.
    #[error("{what} is damaged: {detail}. {remedy}")]
    Damaged {
        /// What is damaged, with its key.
        what: String,
        /// How it shows.
        detail: String,
        /// What to do.
        remedy: String,
    },
    /// Written by a newer program.
    #[error(
        "{what} has format {found}, and this program reads formats up to {known}: use the newer qaflow that wrote it"
    )]
    Newer {
        /// What is newer.
        what: String,
        /// Its format.
        found: u32,
        /// The newest format this program reads.
        known: u32,
    },
    /// Written by an older program, in a format that is no longer read.
    #[error(
        "{what} has format {found}, and this program reads format {known} only: finish it with the older qaflow that wrote it, or begin anew with another state folder (`--state`)"
    )]
    Older {
        /// What is older.
        what: String,
        /// Its format.
        found: u32,
        /// The format this program reads.
        known: u32,
    },
    /// A change that the life of a record does not allow.
    #[error("item {item} is {from} and cannot become {to}: the flow tried an illegal step, please report it")]
    IllegalTransition {
        /// The item.
        item: String,
        /// Its state.
        from: String,
        /// The state asked for.
        to: String,
    },
    /// Larger than a record may be.
    #[error("{what} has {bytes} bytes, more than the {limit} a record may have")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Another process holds the state, or took it over.
    #[error("{0}")]
    Lease(String),
    /// Any other fault of the disk or the database.
    #[error("{action} {place}: {detail}")]
    Io {
        /// What was being done, as in `cannot write`.
        action: String,
        /// Where.
        place: String,
        /// The system's words.
        detail: String,
    },
}

impl StoreError {
    /// A fault of the file system at `place`; a full disk is recognised.
    pub fn io(action: &str, place: &std::path::Path, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full { place: place.display().to_string() };
        }
        Self::Io { action: action.into(), place: place.display().to_string(), detail: error.to_string() }
    }
}
