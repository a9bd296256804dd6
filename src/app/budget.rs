//! The budget of GPU time: when a warning is due, when the run stops, and how it is extended.
//!
//! The budget is that of a state: with shards, each has its own. What was used is the ledger's sum over all attempts;
//! extensions are kept in the ledger too, with the attempts that brought them.

use crate::config::BudgetConfig;
use crate::model::ledger::{AttemptEnd, AttemptRecord};
use crate::model::projection::{BudgetState, Projection};

/// The budget of a run.
#[derive(Clone, Debug)]
pub struct Budget {
    config: BudgetConfig,
    extended: f64,
    warned: BudgetState,
}

/// What `--extend-budget` does.
#[derive(Clone, Debug, PartialEq)]
pub struct Extension {
    /// GPU-hours that are granted.
    pub granted: f64,
    /// Why fewer were granted than asked for.
    pub why_not: Option<String>,
}

impl Budget {
    /// A budget that was extended by `extended` GPU-hours so far.
    pub fn new(config: BudgetConfig, extended: f64) -> Self {
        Self { config, extended, warned: BudgetState::Within }
    }

    /// GPU-hours that may be used, extensions included.
    pub fn limit(&self) -> f64 {
        self.config.gpu_hours + self.extended
    }

    /// GPU-hours by which it was extended.
    pub fn extended(&self) -> f64 {
        self.extended
    }

    /// The part by which what is left is expected to take more.
    pub fn overhead(&self) -> f64 {
        self.config.overhead
    }

    /// Grants what `--extend-budget` asks for, once for each time that the budget stopped the run: a command that is
    /// started again after a kill, or by the scheduler, extends nothing twice.
    pub fn extend(&mut self, asked: f64, job: Option<&str>, attempts: &[AttemptRecord]) -> Extension {
        let refused = |why: &str| Extension { granted: 0.0, why_not: Some(why.into()) };
        let same_job = |one: &&AttemptRecord| job.is_some() && one.job.as_deref() == job;
        if attempts.iter().filter(same_job).any(|one| one.budget_extended_gpu_hours > 0.0) {
            return refused("this job has extended the budget already");
        }
        // The newest attempt that asked for the same, if none behind it was stopped by the budget.
        let resumed = attempts
            .iter()
            .rev()
            .take_while(|one| !one.budget_stopped && one.end != AttemptEnd::Finished)
            .any(|one| one.budget_extension_asked == Some(asked));
        if resumed {
            return refused("the same command was interrupted before, and its extension is granted already");
        }
        self.extended += asked;
        Extension { granted: asked, why_not: None }
    }

    /// Why the run must stop, if `used` GPU-hours have used the budget up.
    pub fn used_up(&self, used: f64, attempts: u64) -> Option<String> {
        let stop_at = self.config.stop_at * self.limit();
        (used >= stop_at).then(|| {
            format!(
                "the budget of GPU time is used up: {} of {} GPU-hours over {attempts} attempt{}; to go on, give the \
                 same command --extend-budget HOURS",
                hours(used),
                hours(stop_at),
                if attempts == 1 { "" } else { "s" },
            )
        })
    }

    /// How the run stands to its budget, and the warning that is due when it comes closer than it was warned of.
    pub fn judge(&mut self, used: f64, projection: Option<&Projection>) -> (BudgetState, Option<String>) {
        let expected = projection.map_or(used, |projection| projection.expected.max(used));
        let state = BudgetState::of(expected, self.limit(), self.config.warn_at);
        if state <= self.warned {
            return (state, None);
        }
        self.warned = state;
        let interval = projection.map_or_else(String::new, |projection| {
            format!(
                "; the whole run is expected to take {} (between {} and {} with 90% confidence)",
                hours(projection.expected),
                hours(projection.low),
                hours(projection.high)
            )
        });
        let verdict = match state {
            BudgetState::Over => "is expected to run out before the run is done",
            _ => "will be nearly used up",
        };
        let warning = format!(
            "the budget of GPU time {verdict}: {} of {} GPU-hours are used{interval}",
            hours(used),
            hours(self.limit())
        );
        (state, Some(warning))
    }
}

/// GPU-hours with as many digits as tell something.
pub fn hours(hours: f64) -> String {
    if hours >= 100.0 {
        format!("{hours:.0}")
    } else if hours >= 1.0 {
        format!("{hours:.1}")
    } else {
        // Three digits that count, however little it is.
        let places = (2.0 - hours.max(1e-6).log10().floor()) as usize;
        format!("{hours:.places$}")
    }
}
