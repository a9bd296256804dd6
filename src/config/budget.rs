//! The run file's section `budget`: how much GPU time the run may use.

use crate::model::params::{Reader, Value};

use super::forms::wrong;

/// The most GPU-hours that a budget may have: a thousand GPUs for ten years.
const MOST_HOURS: f64 = 1e8;

/// How much GPU time a run may use, over all its attempts. It is kept for each state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetConfig {
    /// GPU-hours; above 0.
    pub gpu_hours: f64,
    /// The part of the budget from which on a projection is called close, 0 to 1.
    pub warn_at: f64,
    /// The part of the budget at which the run stops.
    pub stop_at: f64,
    /// The part by which what is left is expected to take more than what was done, for restarts and waiting.
    pub overhead: f64,
}

/// Reads the section; `None` if it names no hours.
pub(super) fn read(r: &mut Reader<'_>) -> Option<BudgetConfig> {
    let form = "a number of GPU-hours above 0";
    let meaning = "GPU-hours that the run may use over all its attempts (for each state: give each shard its share); \
                   the run stops when they are used, and goes on with `--extend-budget`";
    let hours = r.raw("gpu_hours", form, "no limit", meaning).and_then(|node| {
        let hours = match node.value {
            Value::Int(n) => n as f64,
            Value::Float(n) => n,
            _ => f64::NAN,
        };
        let good = hours > 0.0 && hours <= MOST_HOURS;
        if !good {
            wrong(r, "gpu_hours", node, form);
        }
        good.then_some(hours)
    });
    let warn_at = r.float(
        "warn_at",
        0.9,
        0.0..=1.0,
        "the part of the budget from which on the projection counts as close, and a warning is given",
    );
    let stop_at = r.float("stop_at", 1.0, 0.01..=100.0, "the part of the budget at which the run stops");
    let overhead = r.float(
        "overhead",
        0.1,
        0.0..=10.0,
        "the part by which what is left is expected to take more than what is done, for restarts and waiting",
    );
    hours.map(|gpu_hours| BudgetConfig { gpu_hours, warn_at, stop_at, overhead })
}
