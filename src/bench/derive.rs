//! Figures that follow from others: averages, rates, and whether those that a record gives agree with them.

use serde::Serialize;

use super::record::{Quality, Record};

/// Rounded to six significant digits: what a record keeps, far finer than anything here is measured.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 5 - value.abs().log10().floor() as i32;
    // Scaling by a power of ten that is itself exact keeps decimal figures clean: 2.9 stays 2.9.
    if digits >= 0 {
        let scale = 10_f64.powi(digits.min(300));
        (value * scale).round() / scale
    } else {
        let scale = 10_f64.powi(-digits);
        (value / scale).round() * scale
    }
}

/// One figure, how it follows from others, and where the record has another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disagreement {
    /// Its path, as in `results.gpu_hours_per_pdf`.
    pub path: &'static str,
    /// What the record says.
    pub recorded: f64,
    /// What follows from its other figures.
    pub derived: f64,
    /// How it follows.
    pub rule: &'static str,
}

impl std::fmt::Display for Disagreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}, but {} gives {}", self.path, self.recorded, self.rule, rounded(self.derived))
    }
}

/// How a figure is got at and set.
struct Rule {
    path: &'static str,
    how: &'static str,
    field: fn(&mut Record) -> &mut Option<f64>,
    derive: fn(&Record) -> Option<f64>,
}

fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    let (a, b) = (a?, b?);
    (b > 0.0).then(|| a / b)
}

fn count(n: Option<u64>) -> Option<f64> {
    n.map(|n| n as f64)
}

const RULES: [Rule; 8] = [
    Rule {
        path: "results.gpu_hours",
        how: "total_time_minutes / 60 × gpu_count",
        field: |r| &mut r.results.gpu_hours,
        derive: |r| Some(r.results.total_time_minutes? / 60.0 * count(r.hardware.gpu_count)?),
    },
    Rule {
        path: "results.qa_pairs_per_pdf",
        how: "qa_pairs_generated / pdfs_processed",
        field: |r| &mut r.results.qa_pairs_per_pdf,
        derive: |r| ratio(count(r.results.qa_pairs_generated), count(r.dataset.pdfs_processed)),
    },
    Rule {
        path: "results.avg_time_per_pdf_minutes",
        how: "total_time_minutes / pdfs_processed",
        field: |r| &mut r.results.avg_time_per_pdf_minutes,
        derive: |r| ratio(r.results.total_time_minutes, count(r.dataset.pdfs_processed)),
    },
    Rule {
        path: "results.throughput_pdfs_per_hour",
        how: "pdfs_processed / (total_time_minutes / 60)",
        field: |r| &mut r.results.throughput_pdfs_per_hour,
        derive: |r| ratio(count(r.dataset.pdfs_processed).map(|n| n * 60.0), r.results.total_time_minutes),
    },
    Rule {
        path: "results.gpu_hours_per_pdf",
        how: "gpu_hours / pdfs_processed",
        field: |r| &mut r.results.gpu_hours_per_pdf,
        derive: |r| ratio(r.results.gpu_hours, count(r.dataset.pdfs_processed)),
    },
    Rule {
        path: "results.accepted_pairs_per_gpu_hour",
        how: "qa_pairs_generated / gpu_hours",
        field: |r| &mut r.results.accepted_pairs_per_gpu_hour,
        derive: |r| ratio(count(r.results.qa_pairs_generated), r.results.gpu_hours),
    },
    Rule {
        path: "results.prefix_cache_hit_rate",
        how: "tokens.cached / tokens.prompt",
        field: |r| &mut r.results.prefix_cache_hit_rate,
        derive: |r| ratio(count(r.results.tokens.cached), count(r.results.tokens.prompt)),
    },
    Rule {
        path: "results.error_rates.documents_percent",
        how: "pdfs_failed × 100 / pdfs_processed",
        field: |r| &mut r.results.error_rates.documents_percent,
        derive: |r| ratio(count(r.dataset.pdfs_failed).map(|n| n * 100.0), count(r.dataset.pdfs_processed)),
    },
];

/// Fills what follows from what is there. GPU-hours are never filled: whether GPUs were held all the time is not
/// for arithmetic to say.
pub fn complete(record: &mut Record) {
    for rule in RULES.iter().filter(|rule| rule.path != "results.gpu_hours") {
        if (rule.field)(record).is_none() {
            *(rule.field)(record) = (rule.derive)(record).map(rounded);
        }
    }
}

/// Works out anew what follows from other figures, after those at the paths `given` were set; those stay. GPU-hours are
/// never worked out, as in [`complete`].
pub fn follow(record: &mut Record, given: &[&str]) {
    for rule in RULES.iter().filter(|rule| rule.path != "results.gpu_hours" && !given.contains(&rule.path)) {
        if let Some(derived) = (rule.derive)(record) {
            *(rule.field)(record) = Some(rounded(derived));
        }
    }
}

/// As a part: figures that differ by less agree. People round.
pub(super) const AGREES: f64 = 0.01;

/// Half a unit of the last digit with which a figure is written: it may have been rounded by so much.
pub(super) fn half_digit(figure: f64) -> f64 {
    let text = format!("{figure}");
    let decimals = text.split_once('.').map_or(0, |(_, digits)| digits.len().min(300) as u32);
    0.5 * 10_f64.powf(-f64::from(decimals)) * 1.000_001
}

/// Where figures of a record do not follow from its others. People round: half a unit of the last digit that the
/// record gives, or 1%, whichever is more, is agreement.
///
/// GPU-hours are compared only where people gave them: what the ledger sums over attempts and shards differs from
/// minutes × GPUs for good reasons.
pub fn disagreements(record: &Record) -> Vec<Disagreement> {
    let mut found = Vec::new();
    for rule in &RULES {
        if rule.path == "results.gpu_hours" && record.format > 0 {
            continue;
        }
        let mut copy = record.clone();
        if let (Some(recorded), Some(derived)) = (*(rule.field)(&mut copy), (rule.derive)(record)) {
            let allowed = half_digit(recorded).max(derived.abs() * AGREES);
            if (recorded - derived).abs() > allowed {
                found.push(Disagreement { path: rule.path, recorded, derived, rule: rule.how });
            }
        }
    }
    found
}

/// What the mean marks should reach.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QualityTargets {
    /// Least mean clarity.
    pub clarity: f64,
    /// Least mean accuracy.
    pub accuracy: f64,
    /// Least mean relevance.
    pub relevance: f64,
    /// Least share of accepted pairs, 0 to 1.
    pub acceptance: f64,
}

impl Default for QualityTargets {
    /// The project's own targets: clarity above 4.0, accuracy above 4.2, relevance above 4.0, acceptance above 85%.
    fn default() -> Self {
        Self { clarity: 4.0, accuracy: 4.2, relevance: 4.0, acceptance: 0.85 }
    }
}

impl QualityTargets {
    /// Whether all are reached; `None` where none of the figures is there.
    pub fn reached(&self, quality: &Quality) -> Option<bool> {
        let pairs = [
            (quality.avg_clarity_score, self.clarity),
            (quality.avg_accuracy_score, self.accuracy),
            (quality.avg_relevance_score, self.relevance),
            (quality.overall_acceptance_rate, self.acceptance),
        ];
        let known: Vec<bool> = pairs.iter().filter_map(|(value, least)| Some((*value)? >= *least)).collect();
        (!known.is_empty()).then(|| known.into_iter().all(|ok| ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_worked_out_anew_and_what_was_given_stays() {
        let mut record = Record::default();
        record.dataset.pdfs_processed = Some(10);
        record.results.total_time_minutes = Some(60.0);
        record.results.gpu_hours = Some(5.0);
        complete(&mut record);
        assert_eq!(record.results.avg_time_per_pdf_minutes, Some(6.0));
        record.results.total_time_minutes = Some(30.0);
        complete(&mut record);
        assert_eq!(record.results.avg_time_per_pdf_minutes, Some(6.0), "only what is missing is filled");
        record.results.throughput_pdfs_per_hour = Some(19.0);
        follow(&mut record, &["results.total_time_minutes", "results.throughput_pdfs_per_hour"]);
        let results = &record.results;
        assert_eq!((results.avg_time_per_pdf_minutes, results.throughput_pdfs_per_hour), (Some(3.0), Some(19.0)));
        assert_eq!((results.gpu_hours, results.qa_pairs_per_pdf), (Some(5.0), None));
    }
}
