//! What `status` says of GPU time and its budget: a part of the state's `status.json`.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::budget::{expected, hours};
use super::counted;
use super::progress::{Phase, Status};
use crate::model::projection::{BudgetState, Projection};
use crate::telemetry::gpu::GpuNow;

/// GPU time of a run, and what its GPUs do now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuStatus {
    /// GPUs that this attempt holds; shown as none once it is over.
    pub held: u64,
    /// Where that is known from: `nvml`, `configured`, `simulated` or `none`; empty in a status of before.
    pub source: String,
    /// GPU-seconds held in this attempt.
    pub seconds_attempt: f64,
    /// GPU-seconds held over all attempts.
    pub seconds_total: f64,
    /// Attempts so far, this one included.
    pub attempts: u64,
    /// Those of them that were killed.
    pub killed: u64,
    /// Mean utilisation in this attempt, 0 to 1, where it is measured.
    pub utilization_mean: Option<f64>,
    /// Energy over all attempts, in joules, where it was measured.
    pub energy_joules: Option<f64>,
    /// Energy in this attempt, in joules, where it is measured.
    pub energy_joules_attempt: Option<f64>,
    /// The GPUs at their last reading.
    pub gpus: Vec<GpuNow>,
    /// Documents of which every item has ended.
    pub documents_done: u64,
    /// All documents, those not seen yet included.
    pub documents_total: u64,
    /// GPU-hours when the run is done, once it can be said.
    pub projection: Option<Projection>,
    /// The budget, if there is one.
    pub budget: Option<BudgetStatus>,
}

/// How a run stands to its budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetStatus {
    /// GPU-hours that may be used, extensions included.
    pub gpu_hours: f64,
    /// GPU-hours by which it was extended.
    pub extended_gpu_hours: f64,
    /// GPU-hours used over all attempts.
    pub used_gpu_hours: f64,
    /// The part of it from which on a projection is close.
    #[serde(default = "warn_at")]
    pub warn_at: f64,
    /// How the projection stands to it.
    pub state: BudgetState,
    /// How many states' budgets this sums up; 1 for one.
    #[serde(default = "one")]
    pub states: u32,
    /// Of several states: those that are expected to use more than their own, or were stopped by it.
    #[serde(default)]
    pub states_over: u32,
}

/// As `budget.warn_at` by default.
fn warn_at() -> f64 {
    0.9
}

fn one() -> u32 {
    1
}

impl GpuStatus {
    /// That of several states together.
    pub fn of_all(all: &[Status]) -> Self {
        let mut sum = Self::default();
        for status in all {
            sum.add(&status.gpu);
        }
        // A state that has finished uses no more; of all that have there is nothing to expect.
        let outlook = |status: &Status| match status.phase {
            Phase::Finished => Some(Projection::certain(status.gpu.seconds_total / 3600.0)),
            _ => status.gpu.projection,
        };
        let outlooks: Option<Vec<Projection>> = all.iter().map(outlook).collect();
        let open = all.iter().any(|status| status.phase != Phase::Finished);
        // The widest interval of a sum is the sum of the intervals.
        sum.projection = outlooks.filter(|_| open).and_then(|outlooks| outlooks.into_iter().reduce(Projection::plus));
        sum.budget = BudgetStatus::of_all(all);
        sum
    }

    fn add(&mut self, other: &Self) {
        self.held += other.held;
        if self.source != other.source && !other.source.is_empty() {
            self.source = if self.source.is_empty() { other.source.clone() } else { "several".into() };
        }
        self.utilization_mean = mean(self.utilization_mean, self.seconds_attempt, other);
        self.seconds_attempt += other.seconds_attempt;
        self.seconds_total += other.seconds_total;
        self.attempts += other.attempts;
        self.killed += other.killed;
        self.energy_joules = added(self.energy_joules, other.energy_joules);
        self.energy_joules_attempt = added(self.energy_joules_attempt, other.energy_joules_attempt);
        self.gpus.extend(other.gpus.iter().cloned());
        self.documents_done += other.documents_done;
        self.documents_total += other.documents_total;
    }

    /// That of a run in which nothing is left to do.
    pub(super) fn finish(&mut self) {
        self.projection = None;
        self.documents_total = self.documents_done;
        if let Some(budget) = &mut self.budget {
            budget.state = BudgetState::of(budget.used_gpu_hours, budget.gpu_hours, budget.warn_at);
        }
    }

    /// That of an attempt that is over: it holds no GPU.
    pub(super) fn let_go(&mut self) {
        self.held = 0;
        self.gpus.clear();
    }

    /// A line for people about so many states; `None` where no GPU time was ever counted and there is no budget.
    pub fn line(&self, states: u32) -> Option<String> {
        if self.seconds_total <= 0.0 && self.held == 0 && self.budget.is_none() {
            return None;
        }
        let simulated = if self.source == "simulated" { " (simulated)" } else { "" };
        let mut line = format!(
            "GPUs: {} held{simulated}, {} GPU-hours over {} attempt{}",
            self.held,
            hours(self.seconds_total / 3600.0),
            self.attempts,
            if self.attempts == 1 { "" } else { "s" }
        );
        if let Some(part) = self.utilization_mean {
            let _ = write!(line, ", {:.0}% busy", part * 100.0);
        }
        if let Some(budget) = &self.budget {
            let of = if states > 1 { format!(" of {}", counted(budget.states.into(), "state")) } else { String::new() };
            let _ = write!(line, "; budget {} GPU-hours{of}: {}", hours(budget.gpu_hours), budget.state.as_str());
            if budget.states_over > 0 {
                let _ = write!(line, ", {} of them over its own", budget.states_over);
            }
        }
        if let Some(projection) = &self.projection {
            let _ = write!(
                line,
                "; {} expected in all ({} to {})",
                hours(projection.expected),
                hours(projection.low),
                hours(projection.high)
            );
        }
        Some(line)
    }
}

impl BudgetStatus {
    /// The budgets of several states as one: what all together are expected to use beside what all together may. That
    /// each stops at its own is told by how many are over theirs.
    fn of_all(all: &[Status]) -> Option<Self> {
        let with_budget = all.iter().filter_map(|status| Some((status, status.gpu.budget.as_ref()?)));
        let (mut sum, mut all_expected, mut warn_hours) = (None::<Self>, 0.0, 0.0);
        for (status, own) in with_budget {
            all_expected += expected(own.used_gpu_hours, status.gpu.projection.as_ref());
            warn_hours += own.warn_at * own.gpu_hours;
            let over = u32::from(own.state == BudgetState::Over || status.stopped_by_budget());
            let sum = match &mut sum {
                None => sum.insert(own.clone()),
                Some(sum) => {
                    sum.gpu_hours += own.gpu_hours;
                    sum.extended_gpu_hours += own.extended_gpu_hours;
                    sum.used_gpu_hours += own.used_gpu_hours;
                    sum.states += own.states;
                    sum
                }
            };
            sum.states_over += over;
        }
        let mut sum = sum?;
        sum.warn_at = warn_hours / sum.gpu_hours;
        sum.state = BudgetState::of(all_expected, sum.gpu_hours, sum.warn_at);
        Some(sum)
    }
}

/// The sum of what is known.
pub(super) fn added(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.zip(b).map(|(a, b)| a + b).or(a).or(b)
}

/// The mean over both, weighted by GPU-time.
fn mean(own: Option<f64>, seconds: f64, other: &GpuStatus) -> Option<f64> {
    match (own, other.utilization_mean) {
        (Some(a), Some(b)) if seconds + other.seconds_attempt > 0.0 => {
            Some((a * seconds + b * other.seconds_attempt) / (seconds + other.seconds_attempt))
        }
        (a, b) => a.or(b),
    }
}
