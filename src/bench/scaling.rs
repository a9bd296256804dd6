//! How figures change with the size of a batch: whether time a document is stable, and whether quality is kept.

use serde::Serialize;

use super::book::Entry;
use super::student::quantile;

/// Batches of fewer documents say more about the start of a run than about its speed.
pub const LEAST_DOCUMENTS: u64 = 5;
/// The fewest batches from which a slope has an interval.
pub const LEAST_BATCHES: usize = 3;
/// A change of less than so much for each doubling of the batch is no change that matters.
pub const MATTERS: f64 = 0.05;
/// The probability with which an interval holds the slope.
const LEVEL: f64 = 0.90;

/// The change of a figure for each doubling of the batch, as a part of its mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Slope {
    /// The change for each doubling: 0.1 is a tenth more.
    pub per_doubling: f64,
    /// Lower end of its 90% interval.
    pub low: f64,
    /// Upper end of its 90% interval.
    pub high: f64,
    /// From how many batches.
    pub batches: usize,
}

/// What a slope says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trend {
    /// The whole interval is within what does not matter.
    Stable,
    /// The whole interval is above zero, and the change matters.
    Grows,
    /// The whole interval is below zero, and the change matters.
    Falls,
    /// The interval is too wide to tell.
    Unclear,
}

impl Slope {
    /// What it says.
    pub fn trend(&self) -> Trend {
        if self.low > -MATTERS && self.high < MATTERS {
            Trend::Stable
        } else if self.low > 0.0 && self.per_doubling >= MATTERS {
            Trend::Grows
        } else if self.high < 0.0 && self.per_doubling <= -MATTERS {
            Trend::Falls
        } else {
            Trend::Unclear
        }
    }
}

/// The slope of `figure` over the batches' sizes in doublings, by least squares, with Student's interval: what
/// differs from batch to batch is in it. `None` with fewer than [`LEAST_BATCHES`] batches of at least
/// [`LEAST_DOCUMENTS`] documents, or if all are of one size.
pub fn slope<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    figure: impl Fn(&Entry) -> Option<f64>,
) -> Option<Slope> {
    let points: Vec<(f64, f64)> = entries
        .into_iter()
        .filter_map(|entry| {
            let pdfs = entry.record.dataset.pdfs_processed.filter(|n| *n >= LEAST_DOCUMENTS)?;
            Some(((pdfs as f64).log2(), figure(entry)?))
        })
        .collect();
    let n = points.len();
    if n < LEAST_BATCHES {
        return None;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n as f64;
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let sxx: f64 = points.iter().map(|(x, _)| (x - mx).powi(2)).sum();
    if sxx <= 0.0 || my <= 0.0 {
        return None;
    }
    let b = points.iter().map(|(x, y)| (x - mx) * (y - my)).sum::<f64>() / sxx;
    let residuals: f64 = points.iter().map(|(x, y)| (y - my - b * (x - mx)).powi(2)).sum();
    let freedom = n - 2;
    let error = (residuals / freedom as f64 / sxx).sqrt();
    let wide = quantile(1.0 - LEVEL, freedom as f64) * error;
    Some(Slope { per_doubling: b / my, low: (b - wide) / my, high: (b + wide) / my, batches: n })
}

/// A figure that became worse from the batches below to a batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Degradation {
    /// The record.
    pub id: String,
    /// What became worse.
    pub what: &'static str,
    /// The figure of the batches before it, pooled.
    pub before: f64,
    /// The record's own.
    pub after: f64,
}

/// How much worse a figure may be than that of the batches before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Allowed {
    /// More minutes a document, as a part.
    pub slower: f64,
    /// Marks lost, on the scale from 1 to 5.
    pub marks: f64,
    /// Acceptance lost, 0 to 1.
    pub acceptance: f64,
}

impl Default for Allowed {
    fn default() -> Self {
        Self { slower: 0.25, marks: 0.2, acceptance: 0.05 }
    }
}

/// What became worse, and what cannot be said of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Degradations {
    /// What became worse.
    pub found: Vec<Degradation>,
    /// Figures that no batch could be compared by.
    pub not_compared: Vec<&'static str>,
}

/// Figures by which batches are compared.
pub const COMPARED: [&str; 3] = ["minutes a document", "mean overall mark", "acceptance"];

/// What became worse from batch to batch, `entries` being in order. Speed is compared within one environment,
/// quality over all.
pub fn degradations(entries: &[&Entry], allowed: Allowed) -> Degradations {
    let mut found = Vec::new();
    let mut not_compared = COMPARED.to_vec();
    for (at, entry) in entries.iter().enumerate() {
        let record = &entry.record;
        if record.dataset.pdfs_processed.is_none_or(|n| n < LEAST_DOCUMENTS) {
            continue;
        }
        let before: Vec<&Entry> = entries[..at]
            .iter()
            .copied()
            .filter(|e| e.record.dataset.pdfs_processed.is_some_and(|n| n >= LEAST_DOCUMENTS))
            .collect();
        let mut note = |what, before: Option<f64>, after: Option<f64>, worse: &dyn Fn(f64, f64) -> bool| {
            let (Some(before), Some(after)) = (before, after) else { return };
            not_compared.retain(|figure| *figure != what);
            if worse(before, after) {
                found.push(Degradation { id: record.id.clone(), what, before, after });
            }
        };
        let alike = before.iter().copied().filter(|e| e.record.environment == record.environment);
        let speed = super::book::totals(alike).minutes_per_pdf();
        let slower = |b: f64, a: f64| a > b * (1.0 + allowed.slower);
        note(COMPARED[0], speed, record.results.avg_time_per_pdf_minutes, &slower);
        let pooled = |of: fn(&Entry) -> Option<f64>| pooled_by_sample(&before, of);
        let lower = |b: f64, a: f64| b - a > allowed.marks;
        note(COMPARED[1], pooled(|e| e.record.quality.avg_overall_score), record.quality.avg_overall_score, &lower);
        let fewer = |b: f64, a: f64| b - a > allowed.acceptance;
        note(
            COMPARED[2],
            pooled(|e| e.record.quality.overall_acceptance_rate),
            record.quality.overall_acceptance_rate,
            &fewer,
        );
    }
    Degradations { found, not_compared }
}

/// The mean of a figure of quality over records, weighted by their samples; records without it are left out.
pub fn pooled_by_sample(entries: &[&Entry], of: fn(&Entry) -> Option<f64>) -> Option<f64> {
    let (mut sum, mut weight) = (0.0, 0.0);
    for entry in entries {
        if let (Some(value), Some(sample)) = (of(entry), entry.record.quality.sample_size) {
            sum += value * sample as f64;
            weight += sample as f64;
        }
    }
    (weight > 0.0).then(|| sum / weight)
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::entry;
    use super::*;

    fn minutes(entry: &Entry) -> Option<f64> {
        entry.record.results.avg_time_per_pdf_minutes
    }

    #[test]
    fn a_slope_is_as_computed_by_hand() {
        // Sizes 8, 16, 32: doublings 3, 4, 5. Minutes a document 2, 3, 4: slope 1, mean 3, no residual.
        let entries = [entry("a", 8, 16.0, 1.0), entry("b", 16, 48.0, 1.0), entry("c", 32, 128.0, 1.0)];
        let found = slope(&entries, minutes).unwrap();
        assert!((found.per_doubling - 1.0 / 3.0).abs() < 1e-9 && found.high - found.low < 1e-9);
        assert_eq!((found.trend(), found.batches), (Trend::Grows, 3));
        // 2, 3, 2: slope 0, mean 7/3, residuals (1/3)², (2/3)², (1/3)² = 2/3; error sqrt(2/3 / 1 / 2) = 0.57735.
        let entries = [entry("a", 8, 16.0, 1.0), entry("b", 16, 48.0, 1.0), entry("c", 32, 64.0, 1.0)];
        let found = slope(&entries, minutes).unwrap();
        assert!(found.per_doubling.abs() < 1e-9);
        // Two-sided 10% with one degree of freedom: the tangent of 0.45 π, 6.314 in any table.
        assert!((found.high - 6.313_751_5 * 0.577_350_27 / (7.0 / 3.0)).abs() < 1e-6, "{found:?}");
        assert_eq!(found.trend(), Trend::Unclear);
    }

    #[test]
    fn equal_times_are_stable_and_few_or_small_batches_say_nothing() {
        let entries = [entry("a", 8, 16.0, 1.0), entry("b", 16, 32.0, 1.0), entry("c", 32, 64.0, 1.0)];
        assert_eq!(slope(&entries, minutes).unwrap().trend(), Trend::Stable);
        assert_eq!(slope(&entries[..2], minutes), None);
        let with_smoke = [entry("a", 1, 16.0, 1.0), entry("b", 16, 32.0, 1.0), entry("c", 32, 64.0, 1.0)];
        assert_eq!(slope(&with_smoke, minutes), None);
        let equal = [entry("a", 8, 16.0, 1.0), entry("b", 8, 32.0, 1.0), entry("c", 8, 64.0, 1.0)];
        assert_eq!(slope(&equal, minutes), None);
    }

    #[test]
    fn degradation_is_named_against_what_was_before() {
        let mut entries =
            [entry("a", 8, 16.0, 1.0), entry("b", 16, 32.0, 1.0), entry("c", 32, 90.0, 1.0), entry("d", 1, 50.0, 1.0)];
        for (entry, (overall, acceptance)) in entries.iter_mut().zip([(4.5, 0.9), (4.4, 0.9), (4.1, 0.8), (1.0, 0.1)]) {
            entry.record.quality.sample_size = entry.record.dataset.pdfs_processed;
            entry.record.quality.avg_overall_score = Some(overall);
            entry.record.quality.overall_acceptance_rate = Some(acceptance);
        }
        let refs: Vec<&Entry> = entries.iter().collect();
        let Degradations { found, not_compared } = degradations(&refs, Allowed::default());
        assert_eq!(not_compared, Vec::<&str>::new());
        let shown: Vec<String> =
            found.iter().map(|d| format!("{} {} {:.3} {:.3}", d.id, d.what, d.before, d.after)).collect();
        // 4.5 and 4.4 weighted 8 to 16 are 4.433.
        assert_eq!(
            shown,
            ["c minutes a document 2.000 2.812", "c mean overall mark 4.433 4.100", "c acceptance 0.900 0.800"]
        );
        // One batch, and one too small: nothing was compared, which is not the same as nothing became worse.
        let few = degradations(&[refs[0], refs[3]], Allowed::default());
        assert_eq!(few, Degradations { found: vec![], not_compared: COMPARED.to_vec() });
    }
}
