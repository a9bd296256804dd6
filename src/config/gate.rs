//! The section `gate` of the run file: the rules by which `qaflow bench gate` decides whether to go on.

use super::forms::wrong;
use crate::model::params::{Node, Reader, Value};
use crate::model::projection::BudgetState;

/// The rules; `None` is no rule.
#[derive(Clone, Debug, PartialEq)]
pub struct GateConfig {
    /// The most minutes a document.
    pub max_minutes_per_pdf: Option<f64>,
    /// The fewest documents an hour.
    pub min_pdfs_per_hour: Option<f64>,
    /// The most GPU-hours a document.
    pub max_gpu_hours_per_pdf: Option<f64>,
    /// Least mean clarity, 1 to 5.
    pub min_clarity: Option<f64>,
    /// Least mean accuracy, 1 to 5.
    pub min_accuracy: Option<f64>,
    /// Least mean relevance, 1 to 5.
    pub min_relevance: Option<f64>,
    /// Least share of accepted pairs, 0 to 1.
    pub min_acceptance: Option<f64>,
    /// The most that the mean overall mark may fall.
    pub max_quality_drop: Option<f64>,
    /// The most documents that may fail, 0 to 1.
    pub max_failed: Option<f64>,
    /// The worst state of the budget that is allowed.
    pub budget: Option<BudgetState>,
    /// Whether a critical issue forbids to go on.
    pub no_critical_issue: bool,
}

impl Default for GateConfig {
    /// The project's targets: clarity 4.0, accuracy 4.2, relevance 4.0, acceptance 85%, fewer than 5% of the documents
    /// failed, the projection within or close to the budget, no critical issue. Speed has no rule unless one is written.
    fn default() -> Self {
        Self {
            max_minutes_per_pdf: None,
            min_pdfs_per_hour: None,
            max_gpu_hours_per_pdf: None,
            min_clarity: Some(4.0),
            min_accuracy: Some(4.2),
            min_relevance: Some(4.0),
            min_acceptance: Some(0.85),
            max_quality_drop: Some(0.2),
            max_failed: Some(0.05),
            budget: Some(BudgetState::Close),
            no_critical_issue: true,
        }
    }
}

/// Reads the section.
pub(super) fn read_gate(r: &mut Reader<'_>) -> GateConfig {
    let d = GateConfig::default();
    GateConfig {
        max_minutes_per_pdf: bound(
            r,
            "max_minutes_per_pdf",
            d.max_minutes_per_pdf,
            0.0..=1e6,
            "the most minutes a document may take",
        ),
        min_pdfs_per_hour: bound(
            r,
            "min_pdfs_per_hour",
            d.min_pdfs_per_hour,
            0.0..=1e9,
            "the fewest documents an hour",
        ),
        max_gpu_hours_per_pdf: bound(
            r,
            "max_gpu_hours_per_pdf",
            d.max_gpu_hours_per_pdf,
            0.0..=1e6,
            "the most GPU-hours a document",
        ),
        min_clarity: bound(r, "min_clarity", d.min_clarity, 1.0..=5.0, "the least mean mark for clarity"),
        min_accuracy: bound(r, "min_accuracy", d.min_accuracy, 1.0..=5.0, "the least mean mark for accuracy"),
        min_relevance: bound(r, "min_relevance", d.min_relevance, 1.0..=5.0, "the least mean mark for relevance"),
        min_acceptance: bound(
            r,
            "min_acceptance",
            d.min_acceptance,
            0.0..=1.0,
            "the least share of rated pairs accepted",
        ),
        max_quality_drop: bound(
            r,
            "max_quality_drop",
            d.max_quality_drop,
            0.0..=4.0,
            "the most that the mean overall mark may lie below that of the records before",
        ),
        max_failed: bound(r, "max_failed", d.max_failed, 0.0..=1.0, "fewer than this share of the documents may fail"),
        budget: budget(r),
        no_critical_issue: r.bool("no_critical_issue", true, "whether a critical issue in the record forbids to go on"),
    }
}

/// A number within a range; `off` is no rule.
fn bound(
    r: &mut Reader<'_>,
    key: &str,
    default: Option<f64>,
    range: std::ops::RangeInclusive<f64>,
    meaning: &str,
) -> Option<f64> {
    let form = format!("a number from {} to {}, or off", range.start(), range.end());
    let shown = default.map_or_else(|| "off".to_owned(), |value| value.to_string());
    let Some(node) = r.raw(key, &form, &shown, meaning) else { return default };
    let number = match node.value {
        Value::Int(n) => n as f64,
        Value::Float(n) => n,
        _ if is_off(node) => return None,
        _ => f64::NAN,
    };
    if !range.contains(&number) {
        wrong(r, key, node, &form);
        return default;
    }
    Some(number)
}

fn is_off(node: &Node) -> bool {
    matches!(&node.value, Value::Bool(false)) || matches!(&node.value, Value::Text(text) if text == "off")
}

fn budget(r: &mut Reader<'_>) -> Option<BudgetState> {
    let form = "one of within, close, off";
    let meaning = "the worst that the projection may be beside the budget: `within` (below its warning), `close` (below \
                   the budget), or `off` for no rule";
    let Some(node) = r.raw("budget", form, "close", meaning) else { return Some(BudgetState::Close) };
    match &node.value {
        Value::Text(text) if text == "within" => Some(BudgetState::Within),
        Value::Text(text) if text == "close" => Some(BudgetState::Close),
        _ if is_off(node) => None,
        _ => {
            wrong(r, "budget", node, form);
            Some(BudgetState::Close)
        }
    }
}
