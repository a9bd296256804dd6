//! The page of plots, `report.html`, made of the records and what lies beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::files;
use super::sweep_report::Outcome;
use crate::bench::book::{Book, Entry, totals};
use crate::bench::html::figures::{self, BatchValue, BurnDown};
use crate::bench::html::{Figure, Headline, Page, Section};
use crate::bench::outlook::Outlook;
use crate::bench::record::Environment;
use crate::bench::text::{counted, grouped, number};

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
        headlines: headlines(book, &work),
        sections: Vec::new(),
    };
    page.sections.push(Section {
        title: "Scaling and budget".into(),
        intro: "Whether a document costs the same in a large batch as in a small one, and what the whole corpus will \
                take."
            .into(),
        figures: vec![figures::ladder_scaling("ladder", &rungs(book)), burn_down(book, outlook)],
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
    let records = counted(dates.len() as u64, "record");
    match (dates.first(), dates.last()) {
        (Some(first), Some(last)) if first == last => format!("{records} of {first}"),
        (Some(first), Some(last)) => format!("{records}, {first} to {last}"),
        _ => "No record yet: `qaflow bench record` makes one of a run.".into(),
    }
}

fn headlines(book: &Book, work: &[&Entry]) -> Vec<Headline> {
    let all = totals(work.iter().copied());
    // A document that was processed in two places counts twice, and experiments are no work.
    let places: BTreeSet<&str> = work.iter().filter_map(|e| e.record.environment).map(Environment::as_str).collect();
    let documents = match places.len() {
        0 | 1 => "Documents".to_owned(),
        _ => format!("Documents, {}", Vec::from_iter(places).join(" and ")),
    };
    let hours = if book.experiments().is_empty() { "GPU-hours" } else { "GPU-hours without experiments" };
    let line = |name: &str, value: Option<String>| Headline {
        name: name.into(),
        value: value.unwrap_or_else(|| "not known of every record".into()),
    };
    vec![
        line(&documents, all.pdfs.map(grouped)),
        line("Accepted pairs", all.pairs.map(grouped)),
        line("Documents an hour", all.pdfs_per_hour().map(number)),
        line(hours, all.gpu_hours.map(number)),
        line("Pairs a document", all.pairs_per_pdf().map(number)),
    ]
}

/// Minutes a document by rung, with the environment; without a ladder, by record.
fn rungs(book: &Book) -> Vec<(&'static str, BatchValue)> {
    let rungs = book.rungs();
    let entries = if rungs.is_empty() { book.work() } else { rungs };
    entries
        .iter()
        .filter_map(|entry| {
            let record = &entry.record;
            let name = record.rung.as_ref().map_or_else(|| record.id.clone(), |rung| rung.name.clone());
            let value = record.results.avg_time_per_pdf_minutes?;
            let place = record.environment.map_or("not known where", Environment::as_str);
            Some((place, BatchValue { name, value, interval: interval(entry) }))
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

/// The budget over the documents, by the figures of the outlook: GPU-hours of every record, documents of the environment
/// that the rest is projected from.
fn burn_down(book: &Book, outlook: &Outlook) -> Figure {
    let place = outlook.environment.map_or("in all records", |place| match place {
        Environment::Local => "locally",
        Environment::Cluster => "on the cluster",
    });
    let doubles = book.doubles();
    let (mut documents, mut hours) = (Some(0), Some(0.0));
    let mut used = Vec::new();
    for entry in book.entries().iter().filter(|entry| !doubles.contains_key(&entry.record.id)) {
        let record = &entry.record;
        hours = hours.zip(record.results.gpu_hours).map(|(sum, own)| sum + own);
        if record.experiment.is_none() && (outlook.environment.is_none() || record.environment == outlook.environment) {
            documents = documents.zip(record.dataset.pdfs_processed).map(|(sum, own)| sum + own);
        }
        // As in the totals: half a sum is no sum.
        used.extend(documents.zip(hours).map(|(documents, hours)| (documents as f64, hours)));
    }
    if documents.zip(hours).is_none() {
        used.clear();
    }
    let expected = outlook.whole.map(|whole| {
        let ends = whole.projection.map_or((whole.expected, whole.expected), |p| (p.low, p.high));
        (whole.expected, ends.0, ends.1)
    });
    let all = outlook.documents.filter(|all| *all > outlook.done);
    let burn = BurnDown {
        used,
        place: place.into(),
        documents: all.map_or(0.0, |all| all as f64),
        expected: expected.filter(|_| all.is_some()),
        budget: outlook.budget,
    };
    figures::burn_down("budget", &burn)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::book::tests::entry;
    use crate::bench::outlook::{OVERHEAD, Question, WARN_AT, outlook};
    use crate::bench::record::Experiment;

    const QUESTION: Question =
        Question { documents: Some(1100), budget: Some(1000.0), warn_at: WARN_AT, overhead: OVERHEAD };

    fn ends(figure: &Figure) -> (f64, f64, f64, f64) {
        let Figure::Plot(plot) = figure else { panic!("no plot: {figure:?}") };
        let last = |at: usize| plot.series[at].points.last().map(|point| (point.x, point.y)).unwrap();
        let ((done, used), (all, expected)) = (last(0), last(1));
        (done, used, all, expected)
    }

    #[test]
    fn the_budget_is_drawn_by_the_figures_of_the_projection() {
        let mut local = entry("local", 20, 100.0, 10.0);
        local.record.environment = Some(Environment::Local);
        let mut tried = entry("tried", 5, 10.0, 2.0);
        tried.record.experiment = Some(Experiment::default());
        let mut last = entry("zlast", 30, 90.0, 4.5);
        for (day, one) in [&mut local, &mut tried, &mut last].into_iter().enumerate() {
            one.record.date = format!("2025-12-0{}", day + 1);
        }
        let mut entries = vec![local, tried, entry("cluster", 50, 100.0, 5.0), last];
        let book = Book::new(entries.clone());
        let outlook = outlook(&book, QUESTION);
        let whole = outlook.whole.unwrap().expected;
        let (done, used, all, expected) = ends(&burn_down(&book, &outlook));
        // 80 documents on the cluster; 21.5 GPU-hours of every record.
        assert_eq!((done, all, outlook.done), (80.0, 1100.0, 80));
        assert!((used - 21.5).abs() < 1e-9 && (used - outlook.used.unwrap()).abs() < 1e-9);
        assert!((expected - whole).abs() < 1e-9);
        // Half a sum is no sum, there and here.
        entries[0].record.results.gpu_hours = None;
        let book = Book::new(entries);
        let outlook = crate::bench::outlook::outlook(&book, QUESTION);
        assert_eq!(outlook.used, None);
        assert!(matches!(burn_down(&book, &outlook), Figure::Missing { .. }));
    }
}
