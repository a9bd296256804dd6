//! The page of plots, `report.html`, made of the records and what lies beside them.

use std::collections::BTreeMap;
use std::path::Path;

use super::files;
use super::sweep_report::Outcome;
use crate::bench::book::{Book, Entry, totals};
use crate::bench::html::figures::{self, BatchValue, BurnDown};
use crate::bench::html::{Figure, Headline, Page, Section};
use crate::bench::outlook::Outlook;
use crate::bench::text::{grouped, number};

/// The histories of at most so many records are shown, the last ones.
const MOST_HISTORIES: usize = 6;
/// Draws of the interval of a mean.
const DRAWS: usize = 1000;

/// The page of a book.
///
/// # Errors
/// If a file beside a record cannot be read.
pub(super) fn page(dir: &Path, book: &Book, outlook: &Outlook, sweeps: &[Outcome<'_>]) -> anyhow::Result<Page> {
    let work = book.work();
    let simulated = book.entries().iter().any(Entry::is_simulated);
    let mut page = Page {
        title: "Benchmarks".into(),
        subtitle: subtitle(book),
        warning: simulated.then(|| {
            "A rehearsal: GPUs of some records are simulated. Their GPU figures show how the book works and measure \
             nothing."
                .into()
        }),
        headlines: headlines(&work),
        sections: Vec::new(),
    };
    page.sections.push(Section {
        title: "Scaling and budget".into(),
        intro: "Whether a document costs the same in a large batch as in a small one, and what the whole corpus will \
                take."
            .into(),
        figures: vec![
            figures::ladder_scaling("ladder", &rungs(book)),
            figures::burn_down("budget", &burn_down(&work, outlook)),
        ],
    });
    page.sections.push(Section {
        title: "Quality".into(),
        intro: String::new(),
        figures: vec![figures::score_distribution("quality", &marks(&work))],
    });
    let mut histories: Vec<(&Entry, crate::bench::history::History)> = Vec::new();
    for entry in work.iter().rev() {
        let history = files::history(dir, &entry.record.id)?;
        if !history.samples.is_empty() && histories.len() < MOST_HISTORIES {
            histories.push((entry, history));
        }
    }
    histories.reverse();
    if histories.is_empty() {
        page.sections.push(Section {
            title: "Over time".into(),
            intro: String::new(),
            figures: figures::of_history("none", &crate::bench::history::History::default()),
        });
    }
    for (at, (entry, history)) in histories.iter().enumerate() {
        page.sections.push(Section {
            title: format!("Over time: {}", entry.record.id),
            intro: String::new(),
            figures: figures::of_history(&format!("run{}", at + 1), history),
        });
    }
    for (at, outcome) in sweeps.iter().enumerate() {
        let curves = outcome.curves();
        let figures: Vec<Figure> = curves
            .iter()
            .enumerate()
            .map(|(n, curve)| figures::sweep_curve(&format!("sweep{}-{}", at + 1, n + 1), curve))
            .collect();
        page.sections.push(Section { title: outcome.heading(), intro: String::new(), figures });
    }
    Ok(page)
}

fn subtitle(book: &Book) -> String {
    let dates: Vec<&str> = book.entries().iter().map(|entry| entry.record.date.as_str()).collect();
    match (dates.first(), dates.last()) {
        (Some(first), Some(last)) if first == last => format!("{} records of {first}", dates.len()),
        (Some(first), Some(last)) => format!("{} records, {first} to {last}", dates.len()),
        _ => "No record yet: `qaflow bench record` makes one of a run.".into(),
    }
}

fn headlines(work: &[&Entry]) -> Vec<Headline> {
    let all = totals(work.iter().copied());
    let line = |name: &str, value: Option<String>| Headline {
        name: name.into(),
        value: value.unwrap_or_else(|| "not known of every record".into()),
    };
    vec![
        line("Documents", all.pdfs.map(grouped)),
        line("Accepted pairs", all.pairs.map(grouped)),
        line("Documents an hour", all.pdfs_per_hour().map(number)),
        line("GPU-hours", all.gpu_hours.map(number)),
        line("Pairs a document", all.pairs_per_pdf().map(number)),
    ]
}

/// Minutes a document by rung; without a ladder, by record.
fn rungs(book: &Book) -> Vec<BatchValue> {
    let rungs = book.rungs();
    let entries = if rungs.is_empty() { book.work() } else { rungs };
    entries
        .iter()
        .filter_map(|entry| {
            let record = &entry.record;
            let name = record.rung.as_ref().map_or_else(|| record.id.clone(), |rung| rung.name.clone());
            let value = record.results.avg_time_per_pdf_minutes?;
            Some(BatchValue { name, value, interval: interval(entry) })
        })
        .collect()
}

/// The interval that holds the mean minutes a document with 90% probability: documents drawn again and again with
/// replacement (Efron 1979).
fn interval(entry: &Entry) -> Option<(f64, f64)> {
    let minutes: Vec<f64> = entry
        .documents
        .iter()
        .filter(|row| row.state != crate::bench::documents::OPEN)
        .map(|row| row.minutes)
        .collect();
    if minutes.len() < 3 {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(minutes.len() as u64);
    let mut means: Vec<f64> = (0..DRAWS)
        .map(|_| (0..minutes.len()).map(|_| minutes[random.usize(..minutes.len())]).sum::<f64>() / minutes.len() as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    Some((means[DRAWS / 20], means[DRAWS - 1 - DRAWS / 20]))
}

fn burn_down(work: &[&Entry], outlook: &Outlook) -> BurnDown {
    let (mut documents, mut hours) = (0.0, 0.0);
    let mut used = Vec::new();
    for entry in work {
        let (Some(pdfs), Some(gpu)) = (entry.record.dataset.pdfs_processed, entry.record.results.gpu_hours) else {
            continue;
        };
        documents += pdfs as f64;
        hours += gpu;
        used.push((documents, hours));
    }
    let all = outlook.documents.map_or(documents, |n| n as f64);
    let expected = outlook.rest.filter(|_| all > documents).map(|rest| {
        let (low, high) = rest.projection.map_or((rest.expected, rest.expected), |p| (p.low, p.high));
        (hours + rest.expected, hours + low, hours + high)
    });
    BurnDown { used, documents: all, expected, budget: outlook.budget }
}

fn marks(work: &[&Entry]) -> BTreeMap<String, [u64; 5]> {
    let mut sums: BTreeMap<String, [u64; 5]> = BTreeMap::new();
    for entry in work {
        for (name, counts) in &entry.record.quality.marks {
            sums.entry(name.clone()).or_default().iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        }
    }
    sums
}
