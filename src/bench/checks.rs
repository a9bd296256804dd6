//! What cannot be: figures of a record that no measurement gives, and figures that contradict each other. People
//! write and edit records too.

use super::book::Entry;
use super::derive::{disagreements, rounded};
use super::documents::OPEN;
use super::record::{RatedBy, Record};

/// What a figure may be.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Anything from 0.
    Amount,
    /// From 0 to 1.
    Share,
    /// From 0 to 100.
    Percent,
    /// From 1 to 5.
    Mark,
}

impl Kind {
    /// What is wrong with `value`, if it is beyond its bounds.
    fn beyond(self, value: f64) -> Option<&'static str> {
        match self {
            Self::Share if value > 1.0 => Some("a share is at most 1"),
            Self::Percent if value > 100.0 => Some("it is in percent, at most 100"),
            Self::Mark if !(1.0..=5.0).contains(&value) => Some("marks are from 1 to 5"),
            _ => None,
        }
    }
}

type Of = fn(&Record) -> Option<f64>;

/// Every figure of a record that is no count.
const FIGURES: [(&str, Kind, Of); 23] = [
    ("hardware.gpu_vram_gb", Kind::Amount, |r| r.hardware.gpu_vram_gb),
    ("hardware.ram_gb", Kind::Amount, |r| r.hardware.ram_gb),
    ("dataset.markdown_size_mb", Kind::Amount, |r| r.dataset.markdown_size_mb),
    ("results.total_time_minutes", Kind::Amount, |r| r.results.total_time_minutes),
    ("results.gpu_hours", Kind::Amount, |r| r.results.gpu_hours),
    ("results.qa_pairs_per_pdf", Kind::Amount, |r| r.results.qa_pairs_per_pdf),
    ("results.avg_time_per_pdf_minutes", Kind::Amount, |r| r.results.avg_time_per_pdf_minutes),
    ("results.throughput_pdfs_per_hour", Kind::Amount, |r| r.results.throughput_pdfs_per_hour),
    ("results.gpu_hours_per_pdf", Kind::Amount, |r| r.results.gpu_hours_per_pdf),
    ("results.avg_gpu_utilization_percent", Kind::Percent, |r| r.results.avg_gpu_utilization_percent),
    ("results.max_gpu_memory_gb", Kind::Amount, |r| r.results.max_gpu_memory_gb),
    ("results.avg_cpu_memory_gb", Kind::Amount, |r| r.results.avg_cpu_memory_gb),
    ("results.max_cpu_memory_gb", Kind::Amount, |r| r.results.max_cpu_memory_gb),
    ("results.job_efficiency_percent", Kind::Percent, |r| r.results.job_efficiency_percent),
    ("results.accepted_pairs_per_gpu_hour", Kind::Amount, |r| r.results.accepted_pairs_per_gpu_hour),
    ("results.prefix_cache_hit_rate", Kind::Share, |r| r.results.prefix_cache_hit_rate),
    ("results.energy_kwh", Kind::Amount, |r| r.results.energy_kwh),
    ("results.error_rates.documents_percent", Kind::Percent, |r| r.results.error_rates.documents_percent),
    ("quality.avg_clarity_score", Kind::Mark, |r| r.quality.avg_clarity_score),
    ("quality.avg_accuracy_score", Kind::Mark, |r| r.quality.avg_accuracy_score),
    ("quality.avg_relevance_score", Kind::Mark, |r| r.quality.avg_relevance_score),
    ("quality.avg_overall_score", Kind::Mark, |r| r.quality.avg_overall_score),
    ("quality.overall_acceptance_rate", Kind::Share, |r| r.quality.overall_acceptance_rate),
];

/// The figures that are there, with their paths.
fn figures(record: &Record) -> Vec<(String, Kind, f64)> {
    let rates = &record.results.error_rates;
    let stages = [
        ("dead_percent_by_stage", &rates.dead_percent_by_stage),
        ("rejected_percent_by_stage", &rates.rejected_percent_by_stage),
    ];
    let single = FIGURES.iter().filter_map(|(path, kind, of)| Some(((*path).to_owned(), *kind, of(record)?)));
    let by_stage = stages.into_iter().flat_map(|(name, map)| {
        map.iter().map(move |(stage, value)| (format!("results.error_rates.{name}.{stage}"), Kind::Percent, *value))
    });
    single.chain(by_stage).collect()
}

/// Whether a figure is negative or no number, which nothing measured is.
pub(super) fn is_damaged(value: f64) -> bool {
    !value.is_finite() || value < 0.0
}

/// The first figure that is negative or no number: the record is damaged. With its path.
pub fn damage(record: &Record) -> Option<(String, f64)> {
    figures(record).into_iter().find(|(.., value)| is_damaged(*value)).map(|(path, _, value)| (path, value))
}

/// Where the record contradicts itself or its documents, one sentence each: the field, what it says, and what it
/// contradicts. Figures that follow from others are compared as [`disagreements`] does.
pub fn contradictions(entry: &Entry) -> Vec<String> {
    let record = &entry.record;
    let mut found: Vec<String> = disagreements(record).iter().map(ToString::to_string).collect();
    for (path, kind, value) in figures(record) {
        if let Some(why) = kind.beyond(value) {
            found.push(format!("{path} is {value}, but {why}"));
        }
    }
    let (results, tokens, dataset) = (&record.results, &record.results.tokens, &record.dataset);
    let mut more_than = |path: &str, value: Option<u64>, other: &str, most: Option<u64>| {
        if let (Some(value), Some(most)) = (value, most)
            && value > most
        {
            found.push(format!("{path} is {value}, but {other} is {most}"));
        }
    };
    more_than("dataset.pdfs_failed", dataset.pdfs_failed, "dataset.pdfs_processed", dataset.pdfs_processed);
    more_than("results.tokens.cached", tokens.cached, "results.tokens.prompt", tokens.prompt);
    let pairs = results.qa_pairs_generated;
    more_than(
        "results.qa_pairs_generated",
        pairs,
        "dataset.pdfs_processed",
        dataset.pdfs_processed.filter(|n| *n == 0),
    );
    if let (Some(rate), Some(sample), Some(RatedBy::Judge)) =
        (record.quality.overall_acceptance_rate, record.quality.sample_size, record.quality.rated_by)
    {
        // The rate has six digits.
        let accepted = rounded(rate * sample as f64) - 0.5;
        let what = format!("results.qa_pairs_generated is {}", pairs.unwrap_or(0));
        if pairs.is_some_and(|pairs| accepted > pairs as f64) {
            found.push(format!(
                "quality.overall_acceptance_rate is {rate} of {sample} rated pairs, about {:.0}, but {what}",
                accepted + 0.5
            ));
        }
    }
    let Some(file) = dataset.documents_file.as_deref().filter(|_| !entry.documents.is_empty()) else { return found };
    let written: u64 = entry.documents.iter().map(|row| row.pairs_written).sum();
    let accepted: u64 = entry.documents.iter().map(|row| row.pairs_accepted).sum();
    let ended = entry.documents.iter().filter(|row| row.state != OPEN).count() as u64;
    for (path, value, what, of_rows) in [
        ("dataset.pdfs_processed", dataset.pdfs_processed, "documents that ended", ended),
        ("results.qa_pairs_generated", pairs, "accepted pairs", accepted),
    ] {
        if let Some(value) = value.filter(|value| *value != of_rows) {
            found.push(format!("{path} is {value}, but {file} has {of_rows} {what}"));
        }
    }
    if accepted > written {
        found.push(format!("{file} has {accepted} accepted pairs, but {written} that the model wrote"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::entry;
    use super::super::{derive, yaml};
    use super::*;

    /// An entry whose documents agree with it.
    fn sound() -> Entry {
        let mut entry = entry("sound", 10, 87.0, 2.9);
        entry.record.dataset.documents_file = Some("sound.documents.csv".into());
        for row in &mut entry.documents {
            (row.pairs_written, row.pairs_accepted) = (6, 5);
        }
        entry
    }

    fn contradicted(change: impl FnOnce(&mut Entry)) -> Vec<String> {
        let mut entry = sound();
        change(&mut entry);
        contradictions(&entry)
    }

    #[test]
    fn a_sound_record_has_none() {
        assert_eq!(contradictions(&sound()), Vec::<String>::new());
    }

    #[test]
    fn what_contradicts_is_named_with_both_values() {
        let found = contradicted(|e| e.record.quality.overall_acceptance_rate = Some(85.0));
        assert_eq!(found, ["quality.overall_acceptance_rate is 85, but a share is at most 1"]);
        let found = contradicted(|e| e.record.results.avg_gpu_utilization_percent = Some(101.0));
        assert_eq!(found, ["results.avg_gpu_utilization_percent is 101, but it is in percent, at most 100"]);
        let found = contradicted(|e| {
            e.record.results.error_rates.dead_percent_by_stage.insert("score".into(), 300.0);
        });
        assert_eq!(
            found,
            ["results.error_rates.dead_percent_by_stage.score is 300, but it is in percent, at most 100"]
        );
        let found = contradicted(|e| e.record.quality.avg_accuracy_score = Some(42.0));
        assert_eq!(found, ["quality.avg_accuracy_score is 42, but marks are from 1 to 5"]);
        let found = contradicted(|e| e.record.dataset.pdfs_failed = Some(11));
        assert_eq!(found, ["dataset.pdfs_failed is 11, but dataset.pdfs_processed is 10"]);
        let found = contradicted(|e| {
            e.record.results = super::super::record::Results { qa_pairs_generated: Some(52), ..Default::default() };
            e.record.dataset.pdfs_processed = Some(0);
            e.documents.clear();
        });
        assert_eq!(found, ["results.qa_pairs_generated is 52, but dataset.pdfs_processed is 0"]);
        let found = contradicted(|e| {
            let quality = &mut e.record.quality;
            (quality.overall_acceptance_rate, quality.sample_size) = (Some(0.9), Some(100));
            quality.rated_by = Some(RatedBy::Judge);
        });
        assert_eq!(
            found,
            [
                "quality.overall_acceptance_rate is 0.9 of 100 rated pairs, about 90, but results.qa_pairs_generated is 50"
            ]
        );
        let found = contradicted(|e| {
            e.record.results.qa_pairs_generated = Some(70);
            e.record.results.qa_pairs_per_pdf = Some(7.0);
            e.record.results.accepted_pairs_per_gpu_hour = None;
            e.documents[0].pairs_accepted = 25;
        });
        assert_eq!(found, ["sound.documents.csv has 70 accepted pairs, but 60 that the model wrote",]);
        let found = contradicted(|e| e.record.results.gpu_hours_per_pdf = Some(0.31));
        assert_eq!(found, ["results.gpu_hours_per_pdf is 0.31, but gpu_hours / pdfs_processed gives 0.29"]);
        let found = contradicted(|e| {
            e.documents.pop();
        });
        assert_eq!(
            found,
            [
                "dataset.pdfs_processed is 10, but sound.documents.csv has 9 documents that ended",
                "results.qa_pairs_generated is 50, but sound.documents.csv has 45 accepted pairs",
            ]
        );
    }

    #[test]
    fn every_figure_that_is_negative_or_no_number_is_damage() {
        let mut record = Record::default();
        derive::complete(&mut record);
        let mut refused = Vec::new();
        for path in yaml::gaps(&serde_json::to_value(&record).unwrap()) {
            for bad in ["-1.5", ".nan", ".inf"] {
                let keys =
                    path.split('.').enumerate().map(|(depth, key)| format!("\n{}{key}:", "  ".repeat(depth + 1)));
                let text = format!("benchmark_run:\n  id: x{} {bad}\n", keys.collect::<String>());
                // A text may be anything; a count refuses it by its form.
                if let Err(error) = yaml::read("r.yaml", &text)
                    && matches!(error, yaml::RecordError::Damaged { .. })
                {
                    assert!(error.to_string().starts_with(&format!("r.yaml: {path} is ")), "{error}");
                    refused.push(path.clone());
                }
            }
        }
        refused.dedup();
        assert_eq!(refused.len(), FIGURES.len(), "{refused:?}");
    }
}
