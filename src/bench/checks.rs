//! What cannot be: figures of a record that no measurement gives, and figures that contradict each other. People
//! write and edit records too.

use jiff::civil::Date;

use super::book::{Book, Entry};
use super::derive::{AGREES, disagreements, half_digit, rounded};
use super::documents::{FAILED, OPEN};
use super::record::{Covered, RatedBy, Record};

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

/// Figures that others bound, as pairs of paths: none of the first is more than the second.
const BOUNDED: [(&str, &str); 3] = [
    ("results.max_gpu_memory_gb", "hardware.gpu_vram_gb"),
    ("results.avg_cpu_memory_gb", "results.max_cpu_memory_gb"),
    ("results.max_cpu_memory_gb", "hardware.ram_gb"),
];
/// Means of marks that people rounded lie at most so far from what they rounded.
const ROUNDED_MARK: f64 = 0.05;
/// Shards know when an attempt began to the second.
const SHARD_HOURS: f64 = 1.0 / 3600.0;

/// A day as records write it.
fn day(text: &str) -> Option<Date> {
    (text.len() == 10).then(|| text.parse().ok())?
}

/// Where a record is of a day that is still to come. `today` is in UTC; people's own day can be one ahead of it.
pub fn in_future(record: &Record, today: &str) -> Option<String> {
    let (own, now) = (day(&record.date)?, day(today)?);
    (own.duration_since(now).as_hours() > 24).then(|| format!("date is {}, but today is {today}", record.date))
}

/// Where a record contradicts itself, its documents or the other records of its book.
pub fn in_book(book: &Book, entry: &Entry) -> Vec<String> {
    let mut found = contradictions(entry);
    let record = &entry.record;
    let Some(own) = day(&record.date) else { return found };
    // The attempts of a state follow each other.
    let later = book.entries().iter().map(|other| &other.record).find(|other| {
        let follows = |covered: &Covered| {
            ranges(other).any(|before| before.state_id == covered.state_id && before.span().1 < covered.first_attempt)
        };
        other.id != record.id && ranges(record).any(follows) && day(&other.date).is_some_and(|day| own < day)
    });
    if let Some(other) = later {
        found.push(format!(
            "date is {}, but date of {} is {}, which counts earlier attempts of the same state",
            record.date, other.id, other.date
        ));
    }
    found
}

/// What a record counts, where it says so.
fn ranges(record: &Record) -> impl Iterator<Item = &Covered> {
    record.covers.iter().filter(|covered| covered.is_range() && !covered.state_id.is_empty())
}

/// Dates that are none, and limits of attempts that are no range.
fn when(record: &Record) -> Vec<String> {
    let mut found = Vec::new();
    let own = day(&record.date);
    if own.is_none() {
        found.push(format!("date is `{}`, but a day is written as in 2025-11-04", record.date));
    }
    if !record.ended.is_empty() {
        // A time with another offset than UTC's can be of the day beside.
        let ended = record.ended.parse::<jiff::Timestamp>().ok().and_then(|_| day(record.ended.get(..10)?));
        match (ended, own) {
            (None, _) => {
                found.push(format!("ended is `{}`, but a time is written as in 2025-11-04T10:31:00Z", record.ended));
            }
            (Some(ended), Some(own)) if ended.duration_since(own).as_hours().abs() > 24 => {
                found.push(format!("ended is {}, but date is {}", record.ended, record.date));
            }
            _ => {}
        }
    }
    for covered in record.covers.iter().filter(|covered| !covered.is_range()) {
        let (first, last) = (covered.first_attempt, covered.last_attempt);
        found.push(if first == 0 {
            format!("covers.first_attempt of {} is 0, but attempts are numbered from 1", covered.state)
        } else {
            format!("covers.last_attempt of {} is {last}, but covers.first_attempt is {first}", covered.state)
        });
    }
    found
}

/// Means and sample against how often each mark was given.
fn marks(record: &Record) -> Vec<String> {
    let quality = &record.quality;
    let mut found = Vec::new();
    let mut counts = Vec::new();
    for (name, mean) in [
        ("clarity", quality.avg_clarity_score),
        ("accuracy", quality.avg_accuracy_score),
        ("relevance", quality.avg_relevance_score),
        ("overall", quality.avg_overall_score),
    ] {
        let Some(marks) = quality.marks.get(name) else { continue };
        let count: f64 = marks.iter().map(|n| *n as f64).sum();
        let sum: f64 = marks.iter().zip(1_u32..).map(|(n, mark)| *n as f64 * f64::from(mark)).sum();
        counts.push((name, count));
        if let Some(mean) = mean.filter(|_| count > 0.0) {
            let derived = sum / count;
            if (mean - derived).abs() > half_digit(mean).min(ROUNDED_MARK) {
                let gives = rounded(derived);
                found.push(format!("quality.avg_{name}_score is {mean}, but quality.marks.{name} gives {gives}"));
            }
        }
    }
    let other = quality.sample_size.and_then(|sample| {
        let other = counts.into_iter().find(|(_, count)| (count - sample as f64).abs() > 0.5)?;
        Some((sample, other))
    });
    if let Some((sample, (name, count))) = other {
        found.push(format!("quality.sample_size is {sample}, but quality.marks.{name} has {count} marks"));
    }
    found
}

/// GPU-hours that cannot have been held, and memory that is not there.
fn machine(record: &Record) -> Vec<String> {
    let mut found = Vec::new();
    let (results, hardware) = (&record.results, &record.hardware);
    // What people wrote is compared with minutes × GPUs in any case. Of the program's own records that is the most:
    // `gpu_count` is the most at once, and an attempt may have held fewer.
    if let (Some(hours), Some(minutes), Some(gpus), 1..) =
        (results.gpu_hours, results.total_time_minutes, hardware.gpu_count, record.format)
    {
        let most = minutes / 60.0 * gpus as f64;
        let unsure = results.attempts.unwrap_or(0) as f64 * gpus as f64 * SHARD_HOURS;
        if hours > most * (1.0 + AGREES) + unsure {
            let most = rounded(most);
            found.push(format!(
                "results.gpu_hours is {hours}, but total_time_minutes / 60 × gpu_count allows at most {most}"
            ));
        }
    }
    let figures = figures(record);
    let value = |path: &str| figures.iter().find(|(known, ..)| known == path).map(|(.., value)| *value);
    for (path, bound) in BOUNDED {
        if let (Some(own), Some(most)) = (value(path), value(bound))
            && own > most * (1.0 + AGREES) + half_digit(most) + half_digit(own)
        {
            found.push(format!("{path} is {own}, but {bound} is {most}"));
        }
    }
    found
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
    for more in [when, marks, machine] {
        found.extend(more(record));
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
    // A state can have lost the account of an attempt, so there may be fewer.
    let covered = record.covers.iter().map(|c| c.last_attempt.saturating_sub(c.first_attempt).saturating_add(1));
    let covered = covered.fold(0, u64::saturating_add);
    let known = !record.covers.is_empty() && record.covers.iter().all(Covered::is_range);
    more_than("results.attempts", results.attempts, "what covers counts", known.then_some(covered));
    if let Some(rung) = &record.rung {
        // People's rungs may not say how large the corpus is.
        let corpus = Some(rung.corpus_documents).filter(|n| *n > 0);
        more_than("rung.documents", Some(rung.documents), "rung.corpus_documents", corpus);
        more_than("rung.reused", Some(rung.reused), "rung.documents", Some(rung.documents));
    }
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
    let failed = entry.documents.iter().filter(|row| row.state == FAILED).count() as u64;
    let pages = entry.documents.iter().map(|row| u64::from(row.pages)).sum();
    for (path, value, what, of_rows) in [
        ("dataset.pdfs_processed", dataset.pdfs_processed, "documents that ended", ended),
        ("dataset.pdfs_failed", dataset.pdfs_failed, "documents that failed", failed),
        ("dataset.pages", dataset.pages, "pages", pages),
        ("results.qa_pairs_generated", pairs, "accepted pairs", accepted),
    ] {
        if let Some(value) = value.filter(|value| *value != of_rows) {
            found.push(format!("{path} is {value}, but {file} has {of_rows} {what}"));
        }
    }
    // Minutes and GPU-hours are shared out over the documents.
    let minutes = Some(entry.documents.iter().map(|row| row.minutes).sum());
    let hours = entry.documents.iter().map(|row| row.gpu_hours).sum::<Option<f64>>();
    for (path, value, what, of_rows) in [
        ("results.total_time_minutes", results.total_time_minutes, "minutes", minutes),
        ("results.gpu_hours", results.gpu_hours, "GPU-hours", hours),
    ] {
        if let (Some(value), Some(of_rows)) = (value, of_rows)
            && (value - of_rows).abs() > half_digit(value).max(of_rows * AGREES)
        {
            found.push(format!("{path} is {value}, but {file} has {} {what}", rounded(of_rows)));
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
        assert_eq!(
            found,
            [
                "results.error_rates.documents_percent is 0, but pdfs_failed × 100 / pdfs_processed gives 110",
                "dataset.pdfs_failed is 11, but dataset.pdfs_processed is 10",
                "dataset.pdfs_failed is 11, but sound.documents.csv has 0 documents that failed",
            ]
        );
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
                "results.total_time_minutes is 87, but sound.documents.csv has 78.3 minutes",
                "results.gpu_hours is 2.9, but sound.documents.csv has 2.61 GPU-hours",
            ]
        );
    }

    fn covered(first_attempt: u64, last_attempt: u64) -> Vec<Covered> {
        vec![Covered { state_id: "s".into(), state: "state/a".into(), first_attempt, last_attempt }]
    }

    #[test]
    fn attempts_that_cannot_be_counted_so_are_named() {
        let of = |first, last, attempts| {
            contradicted(|e| {
                e.record.covers = covered(first, last);
                e.record.results.attempts = Some(attempts);
            })
        };
        assert_eq!(of(3, 1, 3), ["covers.last_attempt of state/a is 1, but covers.first_attempt is 3"]);
        assert_eq!(of(0, 2, 2), ["covers.first_attempt of state/a is 0, but attempts are numbered from 1"]);
        assert_eq!(of(1, 2, 3), ["results.attempts is 3, but what covers counts is 2"]);
        assert_eq!((of(1, 3, 3), of(1, 3, 2)), (vec![], vec![]));
    }

    #[test]
    fn marks_are_compared_with_their_means_and_the_sample() {
        let of = |mean, sample| {
            contradicted(|e| {
                let quality = &mut e.record.quality;
                (quality.avg_clarity_score, quality.sample_size) = (Some(mean), Some(sample));
                // 3 × 4 and 5 × 5 are 37 of 8.
                quality.marks.insert("clarity".into(), [0, 0, 0, 3, 5]);
            })
        };
        assert_eq!((of(4.625, 8), of(4.63, 8), of(4.6, 8)), (vec![], vec![], vec![]));
        assert_eq!(of(4.62, 8), of(4.625, 8), "rounded down is rounded too");
        assert_eq!(of(4.8, 8), ["quality.avg_clarity_score is 4.8, but quality.marks.clarity gives 4.625"]);
        assert_eq!(of(5.0, 8), ["quality.avg_clarity_score is 5, but quality.marks.clarity gives 4.625"]);
        assert_eq!(of(4.625, 9), ["quality.sample_size is 9, but quality.marks.clarity has 8 marks"]);
    }

    #[test]
    fn more_gpu_hours_than_were_held_and_memory_that_is_not_there_are_named() {
        // 87 minutes of 2 GPUs are 2.9 GPU-hours; with more at times, it may be fewer.
        let of = |gpus| contradicted(|e| e.record.hardware.gpu_count = Some(gpus));
        assert_eq!((of(2), of(3)), (vec![], vec![]));
        assert_eq!(of(1), ["results.gpu_hours is 2.9, but total_time_minutes / 60 × gpu_count allows at most 1.45"]);
        let found = contradicted(|e| {
            (e.record.hardware.gpu_vram_gb, e.record.results.max_gpu_memory_gb) = (Some(24.0), Some(31.5));
            (e.record.results.avg_cpu_memory_gb, e.record.results.max_cpu_memory_gb) = (Some(2.5), Some(1.5));
        });
        assert_eq!(
            found,
            [
                "results.max_gpu_memory_gb is 31.5, but hardware.gpu_vram_gb is 24",
                "results.avg_cpu_memory_gb is 2.5, but results.max_cpu_memory_gb is 1.5",
            ]
        );
    }

    #[test]
    fn dates_that_cannot_be_are_named() {
        let of =
            |date: &str, ended: &str| contradicted(|e| (e.record.date, e.record.ended) = (date.into(), ended.into()));
        assert_eq!(of("2026-01-02", "2026-01-01T23:59:00Z"), Vec::<String>::new(), "another place's day");
        assert_eq!(of("2026-02-30", ""), ["date is `2026-02-30`, but a day is written as in 2025-11-04"]);
        assert_eq!(of("", ""), ["date is ``, but a day is written as in 2025-11-04"]);
        assert_eq!(
            of("2026-01-02", "yesterday"),
            ["ended is `yesterday`, but a time is written as in 2025-11-04T10:31:00Z"]
        );
        assert_eq!(of("2026-02-01", "2026-01-01T23:59:00Z"), ["ended is 2026-01-01T23:59:00Z, but date is 2026-02-01"]);
        let record = sound().record;
        assert_eq!((in_future(&record, "2026-01-01"), in_future(&record, "2025-12-31")), (None, None));
        let said = in_future(&record, "2025-12-30").unwrap();
        assert_eq!(said, "date is 2026-01-01, but today is 2025-12-30");
    }

    #[test]
    fn records_of_a_state_follow_each_other() {
        let of = |id: &str, date: &str, first, last| {
            let mut entry = sound();
            (entry.record.id, entry.record.date) = (id.into(), date.into());
            entry.record.results.attempts = Some(1);
            entry.record.covers = covered(first, last);
            entry
        };
        let (first, second) = (of("first", "2026-01-05", 1, 2), of("second", "2026-01-04", 3, 3));
        let book = Book::new(vec![first.clone(), second.clone()]);
        assert_eq!(
            in_book(&book, &second),
            ["date is 2026-01-04, but date of first is 2026-01-05, which counts earlier attempts of the same state"]
        );
        assert_eq!(in_book(&book, &first), Vec::<String>::new());
        let elsewhere = {
            let mut entry = second;
            entry.record.covers[0].state_id = "t".into();
            entry
        };
        assert_eq!(in_book(&book, &elsewhere), Vec::<String>::new());
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
