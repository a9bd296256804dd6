//! The decision before a larger batch: go or no-go, by rules written beforehand.

use serde::Serialize;

use super::book::{Entry, totals};
use super::outlook::Planned;
use super::scaling::pooled_by_sample;
use super::text::number;
pub use crate::config::GateConfig as Rules;
use crate::model::projection::BudgetState;

/// The budget and what is projected against it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BudgetFigures {
    /// GPU-hours.
    pub gpu_hours: f64,
    /// The part of it from which the state is `close`.
    pub warn_at: f64,
    /// What all work will have taken, if that can be said.
    pub whole: Option<Planned>,
}

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The rule, in words.
    pub rule: String,
    /// The figures.
    pub figures: String,
    /// Whether it holds; `None` if it cannot be said, which is no go.
    pub holds: Option<bool>,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// The record that was judged.
    pub id: String,
    /// Whether to go on.
    pub go: bool,
    /// Rule by rule.
    pub findings: Vec<Finding>,
}

fn at_most(rule: String, value: Option<f64>, bound: f64, digits: usize, why: &str) -> Finding {
    compared(rule, value, digits, why, |value| value <= bound)
}

fn at_least(rule: String, value: Option<f64>, bound: f64, digits: usize, why: &str) -> Finding {
    compared(rule, value, digits, why, |value| value >= bound)
}

fn compared(rule: String, value: Option<f64>, digits: usize, why: &str, holds: impl Fn(f64) -> bool) -> Finding {
    match value {
        Some(value) => Finding { rule, figures: format!("{value:.digits$}"), holds: Some(holds(value)) },
        None => Finding { rule, figures: format!("not known: {why}"), holds: None },
    }
}

/// Judges one record. `before` are the records of work before it.
pub fn decide(rules: &Rules, entry: &Entry, before: &[&Entry], budget: Option<&BudgetFigures>) -> Decision {
    let record = &entry.record;
    let why = |path: &str| record.not_measured.get(path).cloned().unwrap_or_else(|| super::yaml::UNSAID.to_owned());
    let mut findings = Vec::new();
    let results = &record.results;
    if let Some(most) = rules.max_minutes_per_pdf {
        let rule = format!("at most {most} minutes a document");
        let reason = why("results.avg_time_per_pdf_minutes");
        findings.push(at_most(rule, results.avg_time_per_pdf_minutes, most, 3, &reason));
    }
    if let Some(least) = rules.min_pdfs_per_hour {
        let rule = format!("at least {least} documents an hour");
        let reason = why("results.throughput_pdfs_per_hour");
        findings.push(at_least(rule, results.throughput_pdfs_per_hour, least, 2, &reason));
    }
    if let Some(most) = rules.max_gpu_hours_per_pdf {
        let rule = format!("at most {most} GPU-hours a document");
        findings.push(at_most(rule, results.gpu_hours_per_pdf, most, 4, &why("results.gpu_hours_per_pdf")));
    }
    let quality = &record.quality;
    for (name, value, least, path) in [
        ("mean clarity", quality.avg_clarity_score, rules.min_clarity, "quality.avg_clarity_score"),
        ("mean accuracy", quality.avg_accuracy_score, rules.min_accuracy, "quality.avg_accuracy_score"),
        ("mean relevance", quality.avg_relevance_score, rules.min_relevance, "quality.avg_relevance_score"),
        ("acceptance", quality.overall_acceptance_rate, rules.min_acceptance, "quality.overall_acceptance_rate"),
    ] {
        if let Some(least) = least {
            findings.push(at_least(format!("{name} at least {least}"), value, least, 2, &why(path)));
        }
    }
    if let Some(drop) = rules.max_quality_drop {
        let rule = format!("mean overall mark at most {drop} below the records before");
        findings.push(
            match (pooled_by_sample(before, |e| e.record.quality.avg_overall_score), quality.avg_overall_score) {
                (Some(old), Some(new)) => {
                    Finding { rule, figures: format!("{old:.2} before, {new:.2} now"), holds: Some(old - new <= drop) }
                }
                // The first record has nothing to fall below.
                (None, Some(new)) => {
                    Finding { rule, figures: format!("{new:.2}; no record before it has marks"), holds: Some(true) }
                }
                (_, None) => {
                    Finding { rule, figures: format!("not known: {}", why("quality.avg_overall_score")), holds: None }
                }
            },
        );
    }
    if let Some(most) = rules.max_failed {
        let failed = totals([entry]).failed_share();
        let rule = format!("fewer than {}% of the documents failed", most * 100.0);
        let reason = why("dataset.pdfs_failed");
        findings.push(match failed {
            Some(failed) => Finding {
                rule,
                figures: format!(
                    "{:.1}% ({} of {})",
                    failed * 100.0,
                    record.dataset.pdfs_failed.unwrap_or(0),
                    record.dataset.pdfs_processed.unwrap_or(0)
                ),
                holds: Some(failed < most || failed == 0.0),
            },
            None => Finding { rule, figures: format!("not known: {reason}"), holds: None },
        });
    }
    if let Some(worst) = rules.budget {
        findings.push(budget_rule(worst, budget));
    }
    if rules.no_critical_issue {
        let critical: Vec<String> =
            record.issues.list().into_iter().filter(|issue| issue.critical).map(|issue| issue.what).collect();
        findings.push(Finding {
            rule: "no critical issue".into(),
            figures: if critical.is_empty() { "none".into() } else { critical.join("; ") },
            holds: Some(critical.is_empty()),
        });
    }
    let go = findings.iter().all(|finding| finding.holds == Some(true));
    Decision { id: record.id.clone(), go, findings }
}

fn budget_rule(worst: BudgetState, budget: Option<&BudgetFigures>) -> Finding {
    let rule = format!(
        "the projection is {} the budget",
        match worst {
            BudgetState::Within => "within",
            BudgetState::Close => "within or close to",
            BudgetState::Over => "whatever it is beside",
        }
    );
    let Some(budget) = budget else {
        let figures = "not known: no budget is configured: give budget.gpu_hours in the run file, or --budget".into();
        return Finding { rule, figures, holds: None };
    };
    let Some(whole) = budget.whole else {
        let figures = "not known: the GPU-hours of the whole corpus cannot be projected".into();
        return Finding { rule, figures, holds: None };
    };
    let state = BudgetState::of(whole.expected, budget.gpu_hours, budget.warn_at);
    let interval = whole.projection.map_or_else(
        || format!("no interval: {}", super::outlook::no_interval()),
        |p| format!("{} to {}", number(p.low), number(p.high)),
    );
    Finding {
        rule,
        figures: format!(
            "{}: {} GPU-hours expected ({interval}) of {}",
            state.as_str(),
            number(whole.expected),
            number(budget.gpu_hours)
        ),
        holds: Some(state <= worst),
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::entry;
    use super::super::record::{Issue, Issues};
    use super::*;
    use crate::model::projection::Projection;

    fn good() -> Entry {
        let mut entry = entry("now", 100, 100.0, 30.0);
        let quality = &mut entry.record.quality;
        quality.sample_size = Some(500);
        quality.avg_clarity_score = Some(4.5);
        quality.avg_accuracy_score = Some(4.4);
        quality.avg_relevance_score = Some(4.3);
        quality.avg_overall_score = Some(4.3);
        quality.overall_acceptance_rate = Some(0.9);
        entry
    }

    fn budget(expected: f64) -> BudgetFigures {
        let projection = Projection { expected, low: expected * 0.9, high: expected * 1.1 };
        let whole = Planned { expected, projection: Some(projection) };
        BudgetFigures { gpu_hours: 1000.0, warn_at: 0.9, whole: Some(whole) }
    }

    fn broken(decision: &Decision) -> Vec<&str> {
        decision.findings.iter().filter(|f| f.holds != Some(true)).map(|f| f.rule.as_str()).collect()
    }

    #[test]
    fn what_holds_every_rule_is_a_go_and_each_broken_rule_is_named() {
        let rules = Rules { max_minutes_per_pdf: Some(2.0), min_pdfs_per_hour: Some(50.0), ..Rules::default() };
        let decision = decide(&rules, &good(), &[], Some(&budget(880.0)));
        assert!(decision.go, "{decision:?}");
        assert_eq!(decision.findings.len(), 10);

        let mut bad = good();
        bad.record.results.avg_time_per_pdf_minutes = Some(2.1);
        bad.record.quality.avg_accuracy_score = Some(4.1);
        bad.record.quality.overall_acceptance_rate = None;
        bad.record.dataset.pdfs_failed = Some(5);
        bad.record.issues =
            Issues::List(vec![Issue { what: "the run failed".into(), count: 1, critical: true, examples: vec![] }]);
        let decision = decide(&rules, &bad, &[], Some(&budget(1001.0)));
        assert!(!decision.go);
        assert_eq!(
            broken(&decision),
            [
                "at most 2 minutes a document",
                "mean accuracy at least 4.2",
                "acceptance at least 0.85",
                "fewer than 5% of the documents failed",
                "the projection is within or close to the budget",
                "no critical issue",
            ]
        );
        // What cannot be said is no go, and says why.
        assert!(
            decision.findings.iter().any(|f| f.holds.is_none() && f.figures == "not known: the record does not say")
        );
    }

    #[test]
    fn the_bounds_themselves_count_as_written() {
        let mut entry = good();
        // 4 of 100 is fewer than 5%, 5 is not; 900 of 1,000 is close, 1,000 is close, more is over.
        entry.record.dataset.pdfs_failed = Some(4);
        assert!(decide(&Rules::default(), &entry, &[], Some(&budget(1000.0))).go);
        let strict = Rules { budget: Some(BudgetState::Within), ..Rules::default() };
        assert!(decide(&strict, &entry, &[], Some(&budget(899.9))).go);
        assert!(!decide(&strict, &entry, &[], Some(&budget(900.0))).go);
        assert!(!decide(&Rules::default(), &entry, &[], None).go);
        let none = Rules { budget: None, ..Rules::default() };
        assert!(decide(&none, &entry, &[], None).go);
    }

    #[test]
    fn quality_is_compared_with_the_records_before() {
        let mut before = good();
        before.record.quality.avg_overall_score = Some(4.6);
        let rules = Rules { budget: None, ..Rules::default() };
        let decision = decide(&rules, &good(), &[&before], None);
        assert_eq!(broken(&decision), ["mean overall mark at most 0.2 below the records before"]);
        before.record.quality.avg_overall_score = Some(4.45);
        assert!(decide(&rules, &good(), &[&before], None).go);
    }
}
