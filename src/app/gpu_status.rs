//! What `status` says of GPU time and its budget: a part of the state's `status.json`.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::budget::hours;
use crate::model::projection::{BudgetState, Projection};
use crate::telemetry::gpu::GpuNow;

/// GPU time of a run, and what its GPUs do now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuStatus {
    /// GPUs that this attempt holds.
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
    /// Energy in this attempt, in joules, where it is measured.
    pub energy_joules: Option<f64>,
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
    /// How the projection stands to it.
    pub state: BudgetState,
}

impl GpuStatus {
    /// Adds another state's. Budgets are each state's own, so they add up; the widest interval of a sum is the sum of
    /// the intervals, which is what is shown.
    pub fn add(&mut self, other: &Self) {
        self.held += other.held;
        if self.source != other.source && !other.source.is_empty() {
            self.source = if self.source.is_empty() { other.source.clone() } else { "several".into() };
        }
        self.utilization_mean = mean(self.utilization_mean, self.seconds_attempt, other);
        self.seconds_attempt += other.seconds_attempt;
        self.seconds_total += other.seconds_total;
        self.attempts += other.attempts;
        self.killed += other.killed;
        self.energy_joules = match (self.energy_joules, other.energy_joules) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        self.gpus.extend(other.gpus.iter().cloned());
        self.documents_done += other.documents_done;
        self.documents_total += other.documents_total;
        self.projection = self.projection.zip(other.projection).map(|(a, b)| Projection {
            expected: a.expected + b.expected,
            low: a.low + b.low,
            high: a.high + b.high,
        });
        self.budget = match (self.budget.take(), &other.budget) {
            (Some(a), Some(b)) => Some(BudgetStatus {
                gpu_hours: a.gpu_hours + b.gpu_hours,
                extended_gpu_hours: a.extended_gpu_hours + b.extended_gpu_hours,
                used_gpu_hours: a.used_gpu_hours + b.used_gpu_hours,
                state: if a.state.level() >= b.state.level() { a.state } else { b.state },
            }),
            (a, b) => a.or_else(|| b.clone()),
        };
    }

    /// A line for people; `None` where no GPU time was ever counted and there is no budget.
    pub fn line(&self) -> Option<String> {
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
            let _ = write!(line, "; budget {} GPU-hours: {}", hours(budget.gpu_hours), budget.state.as_str());
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

/// The mean over both, weighted by GPU-time.
fn mean(own: Option<f64>, seconds: f64, other: &GpuStatus) -> Option<f64> {
    match (own, other.utilization_mean) {
        (Some(a), Some(b)) if seconds + other.seconds_attempt > 0.0 => {
            Some((a * seconds + b * other.seconds_attempt) / (seconds + other.seconds_attempt))
        }
        (a, b) => a.or(b),
    }
}
