//! Records side by side: local against cluster, or any.

use super::book::{Entry, Totals, totals};
use super::prices::{Offer, Prices};
use super::record::{Environment, Record};
use super::scaling::pooled_by_sample;
use super::text::{Table, number};

/// One side of a comparison: a record, or several pooled.
pub struct Side<'a> {
    /// What it is called.
    pub name: String,
    entries: Vec<&'a Entry>,
    totals: Totals,
}

impl<'a> Side<'a> {
    /// Records pooled under a name.
    pub fn pooled(name: &str, entries: Vec<&'a Entry>) -> Self {
        let totals = totals(entries.iter().copied());
        Self { name: name.into(), entries, totals }
    }

    /// One record.
    pub fn one(entry: &'a Entry) -> Self {
        Self::pooled(&entry.record.id, vec![entry])
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn is_local(&self) -> bool {
        self.entries.iter().all(|entry| entry.record.environment == Some(Environment::Local))
    }

    /// A figure of which the largest over the records counts.
    fn most(&self, of: fn(&Record) -> Option<f64>) -> Option<f64> {
        self.entries.iter().map(|entry| of(&entry.record)).collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::max)
    }

    /// A mean over the records, weighted by GPU-hours.
    fn mean_by_gpu_hours(&self, of: fn(&Record) -> Option<f64>) -> Option<f64> {
        let (mut sum, mut weight) = (0.0, 0.0);
        for entry in &self.entries {
            let hours = entry.record.results.gpu_hours?;
            sum += of(&entry.record)? * hours;
            weight += hours;
        }
        (weight > 0.0).then(|| sum / weight)
    }

    fn hit_rate(&self) -> Option<f64> {
        let sum = |of: fn(&Record) -> Option<u64>| {
            self.entries.iter().map(|entry| of(&entry.record)).sum::<Option<u64>>().map(|n| n as f64)
        };
        let prompt = sum(|r| r.results.tokens.prompt).filter(|n| *n > 0.0)?;
        Some(sum(|r| r.results.tokens.cached)? / prompt)
    }

    /// Why a value is missing: the first record's reason.
    fn reason(&self, path: &str) -> String {
        let reason = self.entries.iter().find_map(|entry| {
            entry.record.not_measured.get(path).map(|reason| format!("{}: {reason}", entry.record.id))
        });
        reason.unwrap_or_else(|| format!("no record of {}", self.name))
    }

    fn words(&self, of: fn(&Record) -> Option<String>) -> Option<String> {
        let mut words: Vec<String> = self.entries.iter().filter_map(|entry| of(&entry.record)).collect();
        words.sort();
        words.dedup();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// The cost of a document at a price, if the price is for where this side ran.
    fn cost(&self, offer: &Offer) -> Result<f64, String> {
        if offer.local != self.is_local() {
            return Err(format!("{} is not where {} ran", offer.name, self.name));
        }
        let price =
            offer.per_gpu_hour().ok_or_else(|| format!("the price of {} is not in the file of prices", offer.name))?;
        let hours = self.totals.gpu_hours_per_pdf().ok_or_else(|| self.reason("results.gpu_hours"))?;
        Ok(price * hours)
    }
}

/// A figure of the comparison.
struct Figure {
    label: &'static str,
    path: &'static str,
    of: fn(&Side<'_>) -> Option<f64>,
}

const FIGURES: [Figure; 13] = [
    Figure { label: "documents", path: "dataset.pdfs_processed", of: |s| s.totals.pdfs.map(|n| n as f64) },
    Figure { label: "minutes a document", path: "results.total_time_minutes", of: |s| s.totals.minutes_per_pdf() },
    Figure { label: "documents an hour", path: "results.total_time_minutes", of: |s| s.totals.pdfs_per_hour() },
    Figure { label: "GPU-hours a document", path: "results.gpu_hours", of: |s| s.totals.gpu_hours_per_pdf() },
    Figure {
        label: "most GPU memory (GB)",
        path: "results.max_gpu_memory_gb",
        of: |s| s.most(|r| r.results.max_gpu_memory_gb),
    },
    Figure {
        label: "GPU utilisation (%)",
        path: "results.avg_gpu_utilization_percent",
        of: |s| s.mean_by_gpu_hours(|r| r.results.avg_gpu_utilization_percent),
    },
    Figure {
        label: "most CPU memory (GB)",
        path: "results.max_cpu_memory_gb",
        of: |s| s.most(|r| r.results.max_cpu_memory_gb),
    },
    Figure { label: "pairs a document", path: "results.qa_pairs_generated", of: |s| s.totals.pairs_per_pdf() },
    Figure { label: "GPU-hours an accepted pair", path: "results.gpu_hours", of: |s| s.totals.gpu_hours_per_pair() },
    Figure { label: "prefix cache hits (share)", path: "results.tokens.cached", of: |s| s.hit_rate() },
    Figure {
        label: "mean overall mark",
        path: "quality.avg_overall_score",
        of: |s| pooled_by_sample(&s.entries, |e| e.record.quality.avg_overall_score),
    },
    Figure {
        label: "acceptance (share)",
        path: "quality.overall_acceptance_rate",
        of: |s| pooled_by_sample(&s.entries, |e| e.record.quality.overall_acceptance_rate),
    },
    Figure { label: "documents failed (share)", path: "dataset.pdfs_failed", of: |s| s.totals.failed_share() },
];

/// The sides in columns; of two sides also the factor, the second by the first.
pub fn table(sides: &[Side<'_>], prices: Option<&Prices>) -> Table {
    let mut head: Vec<&str> = vec!["figure"];
    head.extend(sides.iter().map(|side| side.name.as_str()));
    if sides.len() == 2 {
        head.push("factor");
    }
    let mut table = Table::new(&head);
    for (label, of) in [
        ("GPU", (|r: &Record| r.hardware.gpu_model.clone()) as fn(&Record) -> Option<String>),
        ("model", |r| r.model.name.clone()),
        ("served by", |r| r.model.serving.clone()),
    ] {
        let path = match label {
            "GPU" => "hardware.gpu_model",
            "model" => "model.name",
            _ => "model.serving",
        };
        let mut row = vec![label.to_owned()];
        for side in sides {
            let words = side.words(of);
            row.push(table.text(words.as_deref(), || side.reason(path)));
        }
        if sides.len() == 2 {
            row.push("–".into());
        }
        table.row(row);
    }
    for figure in &FIGURES {
        let values: Vec<Result<f64, String>> =
            sides.iter().map(|side| (figure.of)(side).ok_or_else(|| side.reason(figure.path))).collect();
        add(&mut table, figure.label, values);
    }
    if let Some(prices) = prices {
        for offer in &prices.offers {
            let values: Vec<Result<f64, String>> = sides.iter().map(|side| side.cost(offer)).collect();
            if values.iter().any(Result::is_ok) {
                add(&mut table, &format!("{} a document at {}", prices.currency, offer.name), values);
            }
        }
    }
    table
}

fn add(table: &mut Table, label: &str, values: Vec<Result<f64, String>>) {
    let factor = match &values[..] {
        [Ok(first), Ok(second)] if *first > 0.0 => Some(format!("{} ×", number(second / first))),
        [Ok(_), Ok(_)] => Some("–".into()),
        [_, _] => Some("not known".into()),
        _ => None,
    };
    let mut row = vec![label.to_owned()];
    for value in values {
        row.push(match value {
            Ok(value) => number(value),
            Err(reason) => table.unknown(reason),
        });
    }
    row.extend(factor);
    table.row(row);
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::entry;
    use super::*;

    #[test]
    fn sides_are_pooled_and_the_factor_is_the_second_by_the_first() {
        let mut local = entry("local", 10, 87.0, 2.9);
        local.record.environment = Some(Environment::Local);
        crate::bench::yaml::fill(&mut local.record);
        let (a, b) = (entry("a", 50, 100.0, 10.0), entry("b", 150, 200.0, 20.0));
        let sides = [Side::pooled("local", vec![&local]), Side::pooled("cluster", vec![&a, &b])];
        let prices = Prices::read("p", include_str!("../../configs/prices.yaml")).unwrap();
        let shown = table(&sides, Some(&prices)).markdown();
        let row = |label: &str| -> Vec<String> {
            let line = shown.lines().find(|line| line.starts_with(&format!("| {label} "))).unwrap();
            line.split('|').map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).skip(1).collect()
        };
        // 87 / 10, 300 / 200; 10 an 87 minutes, 200 in 300 minutes.
        assert_eq!(row("minutes a document"), ["8.7", "1.5", "0.1724 ×"]);
        assert_eq!(row("documents an hour"), ["6.897", "40", "5.8 ×"]);
        assert_eq!(row("GPU-hours a document"), ["0.29", "0.15", "0.5172 ×"]);
        // 4 $ × 0.15; the local machine is not rented there.
        assert_eq!(row("USD a document at AWS p4d.24xlarge"), ["not known (3)", "0.6", "not known"]);
        assert!(shown.contains("(3) AWS p4d.24xlarge is not where local ran"), "{shown}");
        assert!(!shown.contains("campus"), "no side has a price there");
    }
}
