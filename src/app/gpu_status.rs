//! What `status` says of GPU time and its budget: a part of the state's `status.json`.

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
            line += &format!(", {:.0}% busy", part * 100.0);
        }
        if let Some(budget) = &self.budget {
            line += &format!("; budget {} GPU-hours: {}", hours(budget.gpu_hours), budget.state.as_str());
        }
        if let Some(projection) = &self.projection {
            line += &format!(
                "; {} expected in all ({} to {})",
                hours(projection.expected),
                hours(projection.low),
                hours(projection.high)
            );
        }
        Some(line)
    }
}
