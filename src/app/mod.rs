//! The commands: the only place that puts the rest together.

pub mod bench;
pub mod book;
pub mod bottleneck;
pub mod budget;
pub mod build;
pub mod canary;
pub mod check;
mod check_table;
mod display;
pub mod doctor;
pub mod eta;
pub mod export;
pub mod failures;
pub mod gpu_status;
pub mod gpu_time;
pub mod history;
pub mod ledger;
pub mod liveness;
pub mod model_pull;
mod observe;
mod observed;
mod pairs_file;
pub(crate) mod places;
pub mod progress;
pub mod review;
pub mod run;
mod run_args;
mod sampling;
pub mod screen;
pub mod shard;
pub mod signals;
pub mod simulate_llm;
pub mod slurm;
pub mod state;
pub mod states;
pub mod status;
pub mod status_many;
pub mod tally;
mod target;
pub mod verify;
mod watch;

pub(crate) use crate::bench::text::{counted, grouped};

/// What a command's exit code says. The numbers are a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything is done.
    Done,
    /// An error.
    Error,
    /// Bad usage or configuration.
    Usage,
    /// Finished, but more items failed than `max_failure_ratio` allows.
    TooManyFailures,
    /// The gate says no-go.
    NoGo,
    /// Interrupted; the same command resumes.
    Interrupted,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::TooManyFailures => 3,
            Self::NoGo => 4,
            Self::Interrupted => 75,
        }
    }
}

/// A fault of usage or configuration: exit code 2 instead of 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Writes a file beside its place first, so that nobody ever reads half of it.
pub(crate) fn write_whole(path: &std::path::Path, content: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.partial"));
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}

/// A number of the command line that must not be zero.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "give a whole number of at least 1".into())
}

/// The time in UTC, RFC 3339, to the second.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A duration in the two largest units, as in `2 h 5 min`.
pub(crate) fn spoken(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_and_times_are_readable() {
        assert_eq!((grouped(0), grouped(999), grouped(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!((counted(1, "state"), counted(2_000, "state")), ("1 state".into(), "2,000 states".into()));
        let shown: Vec<String> = [5, 65, 7500, 200_000].map(|s| spoken(Duration::from_secs(s))).into();
        assert_eq!(shown, ["5 s", "1 min 5 s", "2 h 5 min", "2 d 7 h"]);
    }
}
