//! `statistics.json`: what a dataset is like, in numbers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rows::PairRow;

/// How often each whole number came. Its size is bounded by the longest text, not by the number of rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    counts: BTreeMap<u64, u64>,
}

/// A histogram in a few numbers. Quantiles are the smallest value that at least that share of the rows does not exceed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    min: u64,
    p10: u64,
    median: u64,
    mean: f64,
    p90: u64,
    max: u64,
}

impl Histogram {
    fn add(&mut self, value: u64) {
        *self.counts.entry(value).or_default() += 1;
    }

    fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    fn mean(&self) -> f64 {
        let sum: f64 = self.counts.iter().map(|(value, n)| *value as f64 * *n as f64).sum();
        round(sum / self.total() as f64)
    }

    fn summary(&self) -> Option<Summary> {
        let total = self.total();
        let quantile = |share: f64| {
            let rank = ((share * total as f64).ceil() as u64).max(1);
            let mut seen = 0;
            self.counts.iter().find(|(_, n)| {
                seen += **n;
                seen >= rank
            })
        };
        Some(Summary {
            min: *self.counts.keys().next()?,
            p10: *quantile(0.1)?.0,
            median: *quantile(0.5)?.0,
            mean: self.mean(),
            p90: *quantile(0.9)?.0,
            max: *self.counts.keys().next_back()?,
        })
    }
}

/// To three digits behind the point: the files of two machines are the same.
fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// What is gathered row by row.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    pub(super) pairs: u64,
    lengths: [Histogram; 4],
    words: [Histogram; 2],
    types: BTreeMap<String, u64>,
    marks: [Histogram; 4],
    match_scores: (f64, u64),
    pub(super) models: BTreeMap<String, u64>,
    pub(super) judges: BTreeMap<String, u64>,
    /// Checks that accepted pairs passed, with how many did.
    pub(super) checks: BTreeMap<String, u64>,
    /// Pairs of each document, by its SHA-256.
    pub(super) per_document: BTreeMap<String, u64>,
}

/// The texts whose lengths are counted.
const TEXTS: [&str; 4] = ["question", "answer", "quote", "context"];
/// The judge's marks.
pub(super) const MARKS: [&str; 4] = ["clarity", "accuracy", "relevance", "overall"];

impl Gathered {
    /// Counts a row.
    pub(super) fn add(&mut self, row: &PairRow) {
        self.pairs += 1;
        let chars = |text: &str| text.chars().count() as u64;
        self.lengths[0].add(chars(&row.question));
        self.lengths[1].add(chars(&row.answer));
        self.lengths[3].add(chars(&row.context));
        self.words[0].add(row.question.split_whitespace().count() as u64);
        self.words[1].add(row.answer.split_whitespace().count() as u64);
        for citation in &row.citations {
            self.lengths[2].add(chars(&citation.quote));
            self.match_scores.0 += citation.match_score;
            self.match_scores.1 += 1;
        }
        *self.types.entry(row.question_type.clone()).or_default() += 1;
        if let Some(scores) = &row.scores {
            let marks = [scores.clarity, scores.accuracy, scores.relevance, scores.overall];
            self.marks.iter_mut().zip(marks).for_each(|(histogram, mark)| histogram.add(u64::from(mark)));
        }
        *self.models.entry(row.model.clone()).or_default() += 1;
        if let Some(judge) = &row.judge_model {
            *self.judges.entry(judge.clone()).or_default() += 1;
        }
        for name in row.checks.keys() {
            *self.checks.entry(name.clone()).or_default() += 1;
        }
        *self.per_document.entry(row.source_sha256.clone()).or_default() += 1;
    }

    /// Mean of each mark; `None` without marks.
    pub(super) fn means(&self) -> Option<[f64; 4]> {
        (self.marks[0].total() > 0).then(|| self.marks.each_ref().map(Histogram::mean))
    }

    /// Question types with their counts, most frequent first.
    pub(super) fn types(&self) -> Vec<(&str, u64)> {
        let mut types: Vec<(&str, u64)> = self.types.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        types.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        types
    }
}

/// What a split holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct SplitCount {
    pub(super) documents: u64,
    pub(super) pairs: u64,
}

/// A document's share.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DocumentCount<'a> {
    pub(super) name: &'a str,
    pub(super) sha256: &'a str,
    pub(super) pairs: u64,
    pub(super) split: Option<&'static str>,
}

/// Renders `statistics.json`.
pub(super) fn render(
    gathered: &Gathered,
    splits: &BTreeMap<&'static str, SplitCount>,
    squad_left_out: Option<u64>,
    documents: &[DocumentCount<'_>],
) -> serde_json::Value {
    let named = |names: &[&'static str], histograms: &[Histogram]| -> BTreeMap<&'static str, Option<Summary>> {
        names.iter().copied().zip(histograms.iter().map(Histogram::summary)).collect()
    };
    let mut per_document = Histogram::default();
    for document in documents {
        per_document.add(document.pairs);
    }
    let marks: BTreeMap<&str, serde_json::Value> = MARKS
        .into_iter()
        .zip(&gathered.marks)
        .filter(|(_, histogram)| histogram.total() > 0)
        .map(|(name, histogram)| {
            let counts: BTreeMap<String, u64> =
                (1..=5).map(|mark| (mark.to_string(), histogram.counts.get(&mark).copied().unwrap_or(0))).collect();
            (name, serde_json::json!({"mean": histogram.mean(), "counts": counts}))
        })
        .collect();
    let (sum, quotes) = gathered.match_scores;
    serde_json::json!({
        "format": 1,
        "pairs": gathered.pairs,
        "documents": documents.len(),
        "documents_with_pairs": gathered.per_document.len(),
        "characters": named(&TEXTS, &gathered.lengths),
        "words": named(&TEXTS[..2], &gathered.words),
        "question_types": gathered.types,
        "scores": marks,
        "quotes": {"count": quotes, "mean_match_score": (quotes > 0).then(|| round(sum / quotes as f64))},
        "models": gathered.models,
        "judge_models": gathered.judges,
        "pairs_per_document": per_document.summary(),
        "splits": splits,
        "squad_left_out": squad_left_out,
        "per_document": documents,
    })
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::pair_row;
    use super::*;

    #[test]
    fn quantiles_of_a_histogram() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.summary(), None);
        (1..=10).for_each(|n| histogram.add(n));
        let summary = histogram.summary().expect("values");
        assert_eq!(summary, Summary { min: 1, p10: 1, median: 5, mean: 5.5, p90: 9, max: 10 });
    }

    #[test]
    fn rows_are_counted() {
        let mut gathered = Gathered::default();
        gathered.add(&pair_row("a", "An appeal is heard.", "appeal"));
        gathered.add(&pair_row("b", "Ä", "Ä"));
        let documents: Vec<DocumentCount<'_>> = ["a", "b", "c"]
            .into_iter()
            .map(|name| DocumentCount {
                name,
                sha256: name,
                pairs: gathered.per_document.get(name).copied().unwrap_or(0),
                split: None,
            })
            .collect();
        let json = render(&gathered, &BTreeMap::new(), Some(0), &documents);
        assert_eq!(json["pairs"], 2);
        assert_eq!(json["documents_with_pairs"], 2);
        assert_eq!(json["characters"]["context"]["min"], 1, "characters, not bytes");
        assert_eq!(json["scores"]["accuracy"]["counts"]["4"], 2);
        assert_eq!(json["pairs_per_document"]["min"], 0);
        assert_eq!(gathered.means(), Some([5.0, 4.0, 3.0, 4.0]));
    }
}
