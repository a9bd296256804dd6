//! Whether the run that a status file speaks of is at work, silent, or over; told without the lease.

use std::path::Path;
use std::time::Duration;

use super::progress::{Phase, Status};
use super::state::host;
use crate::store::{Holding, holding};

/// A run whose status is older than this shows no sign of life.
const SILENT_AFTER: Duration = Duration::from_secs(30);

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It writes its status.
    Running,
    /// It has not written its status for more than 30 seconds.
    Silent,
    /// It is over.
    Ended(Ending),
}

/// How a run ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Every item has ended.
    Finished,
    /// Stopped; the same command resumes.
    Interrupted,
    /// By an error.
    Failed,
    /// Without a word: its process is gone, or holds the state no more.
    Killed,
}

/// How a run stands, and since when that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// How it stands.
    pub life: Life,
    /// How long ago its status was written, by this machine's clock; `None` if the file does not say.
    pub age: Option<Duration>,
    /// Whether it will never be heard of again as far as can be told: it has ended, or its lease has run out.
    pub over: bool,
    /// Whether its process is there, on this machine.
    pub alive: bool,
}

impl Liveness {
    /// How the run of `status` stands, whose state lies in `dir`.
    pub fn of(dir: &Path, status: &Status) -> Self {
        let age = age(status);
        let ended = |ending| Self { life: Life::Ended(ending), age, over: true, alive: false };
        match status.phase {
            Phase::Finished => return ended(Ending::Finished),
            Phase::Interrupted => return ended(Ending::Interrupted),
            Phase::Failed => return ended(Ending::Failed),
            Phase::Running | Phase::Stopping => {}
        }
        let holding = holding(dir, status.pid, &status.host, &host());
        if holding == Holding::Gone {
            return ended(Ending::Killed);
        }
        let silent = age.filter(|age| *age > SILENT_AFTER);
        let over = match holding {
            Holding::Claimed { lease } => silent.is_some_and(|age| age > lease),
            Holding::Alive | Holding::Gone | Holding::Unknown => false,
        };
        let life = if silent.is_some() { Life::Silent } else { Life::Running };
        Self { life, age, over, alive: holding == Holding::Alive }
    }

    /// That of several: over when all are, silent while one of them that has not said how it ended is.
    pub fn of_all(all: &[Self]) -> Option<Self> {
        if let [one] = all {
            return Some(*one);
        }
        let over = all.iter().all(|one| one.over);
        let mute = |one: &&Self| matches!(one.life, Life::Silent | Life::Ended(Ending::Killed));
        let longest = |lives: &mut dyn Iterator<Item = &Self>| lives.max_by_key(|one| one.age).copied();
        let chosen = longest(&mut all.iter().filter(mute))
            .map(|one| Self { life: Life::Silent, ..one })
            .or_else(|| longest(&mut all.iter().filter(|one| one.life == Life::Running)))
            .or_else(|| {
                all.iter().copied().max_by_key(|one| match one.life {
                    Life::Ended(ending) => Some(ending),
                    Life::Running | Life::Silent => None,
                })
            })?;
        Some(Self { over, ..chosen })
    }

    /// Adds what is known to a status as JSON: `age_seconds`, `life` and `ended`.
    pub fn add_to(self, status: &mut serde_json::Value) {
        let (life, ended) = match self.life {
            Life::Running => ("running", None),
            Life::Silent => ("silent", None),
            Life::Ended(ending) => ("ended", Some(ending.name())),
        };
        status["age_seconds"] = self.age.map(|age| (age.as_secs_f64() * 10.0).round() / 10.0).into();
        status["life"] = life.into();
        status["ended"] = ended.into();
    }
}

impl Ending {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Killed => "killed",
        }
    }
}

/// How long ago a status was written, by this machine's clock; nothing if that is yet to come.
fn age(status: &Status) -> Option<Duration> {
    let written: jiff::Timestamp = status.updated.parse().ok()?;
    Some(Duration::try_from(jiff::Timestamp::now().duration_since(written)).unwrap_or_default())
}
