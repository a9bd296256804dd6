//! What a sweep's records say: its table, the best setting of each measure, and curves for the page of plots.

use std::fmt::Write as _;

use super::sweep::record_id;
use crate::bench::book::Book;
use crate::bench::html::figures::{BatchValue, SweepCurve};
use crate::bench::record::Record;
use crate::bench::sweep::{Measure, Sweep, Table, Turn, Verdict, judge};
use crate::bench::text::number;

type Value = fn(&Record) -> Option<f64>;

const MEASURES: [(Measure, Value); 7] = [
    (Measure { name: "Time a document", unit: "min", more_is_better: false }, |r| r.results.avg_time_per_pdf_minutes),
    (Measure { name: "GPU utilisation", unit: "%", more_is_better: true }, |r| r.results.avg_gpu_utilization_percent),
    (Measure { name: "Pairs a document", unit: "pairs", more_is_better: true }, |r| r.results.qa_pairs_per_pdf),
    (Measure { name: "Overall mark", unit: "1 to 5", more_is_better: true }, |r| r.quality.avg_overall_score),
    (Measure { name: "Acceptance", unit: "part", more_is_better: true }, |r| r.quality.overall_acceptance_rate),
    (Measure { name: "Accepted pairs a GPU-hour", unit: "pairs", more_is_better: true }, |r| {
        r.results.accepted_pairs_per_gpu_hour
    }),
    (Measure { name: "GPU time a document", unit: "GPU-hours", more_is_better: false }, |r| {
        r.results.gpu_hours_per_pdf
    }),
];

/// What came out of a sweep.
pub(super) struct Outcome<'a> {
    sweep: &'a Sweep,
    labels: Vec<String>,
    measures: Vec<(Measure, Verdict)>,
    runs: usize,
}

impl<'a> Outcome<'a> {
    /// From the records of a book.
    pub(super) fn of(sweep: &'a Sweep, book: &Book) -> Self {
        let cells = sweep.cells();
        let record = |cell: usize, repeat: u32| book.find(&record_id(sweep, &Turn { repeat, cell })).map(|e| &e.record);
        let measures = MEASURES.map(|(measure, value)| {
            let table: Table = (0..cells.len())
                .map(|cell| (1..=sweep.repeats).map(|repeat| record(cell, repeat).and_then(value)).collect())
                .collect();
            (measure, judge(&table, measure.more_is_better))
        });
        let runs = (0..cells.len())
            .map(|cell| (1..=sweep.repeats).filter(|repeat| record(cell, *repeat).is_some()).count())
            .sum();
        Self { sweep, labels: cells.iter().map(|cell| sweep.label(cell)).collect(), measures: measures.into(), runs }
    }

    /// The heading in a report.
    pub(super) fn heading(&self) -> String {
        format!("Sweep {}", self.sweep.name)
    }

    /// As Markdown: the table of means, then what can be said of each measure.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let w = &mut text;
        let wanted = self.labels.len() * self.sweep.repeats as usize;
        let _ = writeln!(
            w,
            "{} of {wanted} runs: {} settings, {} repeats of each, in an order of its own in every repeat. Reading and \
             chunking are shared and not in the times. Means, and half the width of their 95% interval.\n",
            self.runs,
            self.labels.len(),
            self.sweep.repeats
        );
        let shown: Vec<&(Measure, Verdict)> =
            self.measures.iter().filter(|(_, verdict)| verdict.means.iter().any(Option::is_some)).collect();
        let heads: Vec<String> = shown.iter().map(|(m, _)| format!("{} ({})", m.name, m.unit)).collect();
        let _ = writeln!(w, "| setting | {} |", heads.join(" | "));
        let _ = writeln!(w, "|---|{}", "--:|".repeat(heads.len()));
        for (at, label) in self.labels.iter().enumerate() {
            let cells: Vec<String> = shown
                .iter()
                .map(|(_, verdict)| match verdict.means[at] {
                    Some((mean, Some((low, high)))) => {
                        format!("{} ± {}", number(mean), number(f64::midpoint(high, -low)))
                    }
                    Some((mean, None)) => number(mean),
                    None => "not measured".into(),
                })
                .collect();
            let _ = writeln!(w, "| {label} | {} |", cells.join(" | "));
        }
        w.push('\n');
        for (measure, verdict) in &self.measures {
            let _ = writeln!(w, "- **{}**: {}", measure.name, verdict.words(&self.labels));
        }
        text.trim_end().to_owned()
    }

    /// As JSON.
    pub(super) fn json(&self) -> anyhow::Result<String> {
        let measures: Vec<serde_json::Value> = self
            .measures
            .iter()
            .map(|(measure, verdict)| {
                serde_json::json!({
                    "measure": measure.name, "unit": measure.unit, "more_is_better": measure.more_is_better,
                    "best": verdict.best.map(|at| &self.labels[at]), "real": verdict.is_real(),
                    "words": verdict.words(&self.labels), "verdict": verdict,
                })
            })
            .collect();
        Ok(serde_json::to_string(&serde_json::json!({
            "name": self.sweep.name, "settings": self.labels, "repeats": self.sweep.repeats, "runs": self.runs,
            "measures": measures,
        }))?)
    }

    /// One curve for each measure that was taken: over the first parameter, a line for each value of the others.
    pub(super) fn curves(&self) -> Vec<SweepCurve> {
        let Some(first) = self.sweep.parameters.first() else { return Vec::new() };
        let cells = self.sweep.cells();
        let rest = |cell: &crate::bench::sweep::Settings| {
            let others = self.sweep.parameters.iter().skip(1);
            let parts = others.filter_map(|p| Some(format!("{}={}", p.name, cell.get(&p.path)?)));
            parts.collect::<Vec<_>>().join(", ")
        };
        let taken = self.measures.iter().filter(|(_, verdict)| verdict.means.iter().any(Option::is_some));
        taken
            .map(|(measure, verdict)| {
                let mut lines: Vec<(String, Vec<BatchValue>)> = Vec::new();
                for (at, cell) in cells.iter().enumerate() {
                    let Some((value, interval)) = verdict.means[at] else { continue };
                    let name = rest(cell);
                    let point = BatchValue { name: cell[&first.path].clone(), value, interval };
                    match lines.iter_mut().find(|(line, _)| *line == name) {
                        Some((_, points)) => points.push(point),
                        None => lines.push((name, vec![point])),
                    }
                }
                SweepCurve {
                    measure: measure.name.into(),
                    unit: measure.unit.into(),
                    parameter: first.name.clone(),
                    settings: first.values.clone(),
                    lines,
                }
            })
            .collect()
    }
}
