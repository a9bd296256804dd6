//! The budget of GPU time: when a warning is due, when the run stops, and how it is extended.
//!
//! The budget is that of a state: with shards, each has its own. What was used is the ledger's sum over all attempts;
//! extensions are kept in the ledger too, with the attempts that brought them.

use crate::config::BudgetConfig;
use crate::model::ledger::AttemptRecord;
use crate::model::projection::{BudgetState, Projection};

/// How the reason of a stop by the budget begins.
const USED_UP: &str = "the budget of GPU time is used up";

/// Whether a run that gives this reason was stopped by its budget; for status files that do not say so otherwise.
pub(super) fn is_why(reason: &str) -> bool {
    reason.starts_with(USED_UP)
}

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

    /// The part of it from which on a projection is close.
    pub fn warn_at(&self) -> f64 {
        self.config.warn_at
    }

    /// The part by which what is left is expected to take more.
    pub fn overhead(&self) -> f64 {
        self.config.overhead
    }

    /// Grants what `--extend-budget` asks for. A command that is started again after a kill extends nothing twice: what
    /// was granted before is granted anew only once it is used up, and by one job of the scheduler never.
    pub fn extend(&mut self, asked: f64, used: f64, job: Option<&str>, attempts: &[AttemptRecord]) -> Extension {
        let refused = |why: &str| Extension { granted: 0.0, why_not: Some(why.into()) };
        let same_job = |one: &&AttemptRecord| job.is_some() && one.job.as_deref() == job;
        if attempts.iter().filter(same_job).any(|one| one.budget_extended_gpu_hours > 0.0) {
            return refused("this job has extended the budget already");
        }
        let since_the_stop = attempts.iter().rev().take_while(|one| !one.budget_stopped);
        if used < self.stop_at() && since_the_stop.into_iter().any(|one| one.budget_extension_asked == Some(asked)) {
            return refused("the same command has extended it already, and that is not used up");
        }
        self.extended += asked;
        Extension { granted: asked, why_not: None }
    }

    /// GPU-hours at which the run stops.
    fn stop_at(&self) -> f64 {
        self.config.stop_at * self.limit()
    }

    /// Why the run must stop, if `used` GPU-hours have used the budget up.
    pub fn used_up(&self, used: f64, attempts: u64) -> Option<String> {
        (used >= self.stop_at()).then(|| {
            format!(
                "{USED_UP}: {} of {} GPU-hours over {attempts} attempt{} (to go on, give the \
                 same command --extend-budget HOURS)",
                hours(used),
                hours(self.stop_at()),
                if attempts == 1 { "" } else { "s" },
            )
        })
    }

    /// Why the run cannot go on although `asked` GPU-hours more were asked for, of which `extension` says what came.
    pub fn still_used_up(&self, asked: f64, extension: &Extension, used: f64) -> String {
        if let Some(why) = &extension.why_not {
            return format!(
                "{USED_UP}: {} of {} GPU-hours; it is not extended again: {why}",
                hours(used),
                hours(self.stop_at())
            );
        }
        let short = used / self.config.stop_at - self.limit();
        format!(
            "--extend-budget {asked} is not enough to go on, by {} GPU-hours: {} are used, and with it the run would stop \
             at {}. Nothing was extended: give the same command --extend-budget with more than {}",
            hours(short),
            hours(used),
            hours(self.stop_at()),
            hours(asked + short)
        )
    }

    /// How the run stands to its budget, and the warning that is due when it comes closer than it was warned of.
    pub fn judge(&mut self, used: f64, projection: Option<&Projection>) -> (BudgetState, Option<String>) {
        let state = BudgetState::of(expected(used, projection), self.limit(), self.config.warn_at);
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

/// GPU-hours that a run is expected to use: at least what it has used, which is all that is known without a projection.
pub(super) fn expected(used: f64, projection: Option<&Projection>) -> f64 {
    projection.map_or(used, |projection| projection.expected.max(used))
}

/// GPU-hours with as many digits as tell something.
pub fn hours(hours: f64) -> String {
    if hours >= 100.0 {
        format!("{hours:.0}")
    } else if hours >= 1.0 {
        format!("{hours:.1}")
    } else if hours <= 0.0 {
        "0".into()
    } else {
        // Three digits that count, however little it is.
        let places = (2.0 - hours.max(1e-6).log10().floor()) as usize;
        format!("{hours:.places$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::ledger::{Ledger, Moment, Origin};
    use crate::model::ledger::{Accounts, AttemptEnd, GpuHeld, GpuSource, LedgerTotals};

    const CONFIG: BudgetConfig = BudgetConfig { gpu_hours: 100.0, warn_at: 0.9, stop_at: 1.0, overhead: 0.1 };

    /// An attempt of four GPUs that began an hour of a simulated clock ago for each of `hours`.
    fn attempt(number: u64, hours: f64, job: Option<&str>) -> AttemptRecord {
        let gpus: Vec<GpuHeld> =
            (0..4).map(|at| GpuHeld { uuid: format!("held-{at}"), name: String::new(), memory_bytes: 0 }).collect();
        let at = |hours: f64| Moment {
            wall: "2026-01-01T00:00:00Z".into(),
            elapsed: std::time::Duration::from_secs_f64(hours * 3600.0),
        };
        let origin = Origin { job: job.map(str::to_owned), ..Origin::default() };
        let mut ledger = Ledger::begin(number, origin, &gpus, &GpuSource::Configured, Accounts::default(), &at(0.0));
        ledger.end(&at(hours), AttemptEnd::Finished, false);
        ledger.record().clone()
    }

    #[test]
    fn warnings_come_once_each_and_the_stop_at_the_end() {
        let mut budget = Budget::new(CONFIG, 0.0);
        let projected = |expected: f64| Projection { expected, low: expected * 0.9, high: expected * 1.2 };
        // Hour after hour of a simulated clock: what is used, what is projected, the state, whether it warns.
        for (used, expected, state, warns) in [
            (1.0, None, BudgetState::Within, false),
            (10.0, Some(80.0), BudgetState::Within, false),
            (20.0, Some(92.0), BudgetState::Close, true),
            (30.0, Some(85.0), BudgetState::Within, false),
            (40.0, Some(95.0), BudgetState::Close, false),
            (50.0, Some(120.0), BudgetState::Over, true),
            (60.0, Some(99.0), BudgetState::Close, false),
            (70.0, Some(130.0), BudgetState::Over, false),
        ] {
            let (found, warning) = budget.judge(used, expected.map(projected).as_ref());
            assert_eq!((found, warning.is_some()), (state, warns), "{used}");
            assert_eq!(budget.used_up(used, 1), None);
        }
        assert_eq!(budget.used_up(99.99, 3), None);
        insta::assert_snapshot!(
            budget.used_up(100.0, 3).unwrap(),
            @"the budget of GPU time is used up: 100 of 100 GPU-hours over 3 attempts (to go on, give the same command --extend-budget HOURS)"
        );
        // Without a projection what is used counts.
        let mut budget = Budget::new(CONFIG, 0.0);
        let (state, warning) = budget.judge(95.0, None);
        assert_eq!(state, BudgetState::Close);
        insta::assert_snapshot!(
            warning.unwrap(),
            @"the budget of GPU time will be nearly used up: 95.0 of 100 GPU-hours are used"
        );
    }

    #[test]
    fn the_ledger_of_a_simulated_clock_fills_the_budget() {
        // Attempts of four GPUs, five hours each: the fifth ends at the limit.
        let mut attempts = Vec::new();
        let budget = Budget::new(CONFIG, 0.0);
        for number in 1..=5 {
            attempts.push(attempt(number, 5.0, None));
            let used = LedgerTotals::of(&attempts).gpu_hours();
            assert!((used - 20.0 * number as f64).abs() < 1e-9);
            assert_eq!(budget.used_up(used, number).is_some(), number == 5);
        }
    }

    #[test]
    fn an_extension_is_granted_once() {
        let asked = |mut one: AttemptRecord, granted: f64, stopped: bool| {
            one.budget_extension_asked = Some(50.0);
            one.budget_extended_gpu_hours = granted;
            one.budget_stopped = stopped;
            one
        };
        let granted = |used: f64, job: Option<&str>, attempts: &[AttemptRecord]| {
            Budget::new(CONFIG, LedgerTotals::of(attempts).budget_extended_gpu_hours)
                .extend(50.0, used, job, attempts)
                .granted
        };
        let grants = |used: f64, job: Option<&str>, attempts: &[AttemptRecord]| granted(used, job, attempts) > 0.0;
        let first = asked(attempt(1, 5.0, None), 50.0, false);
        assert!(grants(0.0, None, &[]));
        // The same command after a kill; and with more between.
        assert!(!grants(20.0, None, std::slice::from_ref(&first)));
        assert!(!grants(20.0, None, &[first.clone(), attempt(2, 1.0, None)]));
        // Once that is used up, or since the budget stopped the run, it is asked anew.
        assert!(grants(150.0, None, std::slice::from_ref(&first)));
        assert!(grants(20.0, None, &[first.clone(), asked(attempt(2, 1.0, None), 0.0, true)]));
        // A job that the scheduler starts again and again extends once only.
        let of_job = asked(attempt(1, 5.0, Some("slurm 7")), 50.0, true);
        assert!(!grants(150.0, Some("slurm 7"), std::slice::from_ref(&of_job)));
        assert!(grants(150.0, Some("slurm 8"), &[of_job]));
    }

    #[test]
    fn an_extension_that_does_not_reach_is_told_by_how_much() {
        let mut budget = Budget::new(BudgetConfig { stop_at: 0.5, ..CONFIG }, 0.0);
        let extension = budget.extend(10.0, 80.0, None, &[]);
        assert!(budget.used_up(80.0, 1).is_some());
        insta::assert_snapshot!(
            budget.still_used_up(10.0, &extension, 80.0),
            @"--extend-budget 10 is not enough to go on, by 50.0 GPU-hours: 80.0 are used, and with it the run would stop at 55.0. Nothing was extended: give the same command --extend-budget with more than 60.0"
        );
        assert_eq!(Budget::new(BudgetConfig { stop_at: 0.5, ..CONFIG }, 60.1).used_up(80.0, 1), None);
        let refused = Extension { granted: 0.0, why_not: Some("this job has extended the budget already".into()) };
        insta::assert_snapshot!(
            budget.still_used_up(10.0, &refused, 80.0),
            @"the budget of GPU time is used up: 80.0 of 55.0 GPU-hours; it is not extended again: this job has extended the budget already"
        );
    }

    #[test]
    fn hours_show_what_counts() {
        let shown: Vec<String> = [1234.5, 99.94, 1.0, 0.5, 0.0123, 0.0].map(hours).into();
        assert_eq!(shown, ["1234", "99.9", "1.0", "0.500", "0.0123", "0"]);
    }
}
