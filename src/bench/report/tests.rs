//! Tests of the report as a page.

use super::super::book::Entry;
use super::super::book::tests::entry;
use super::super::outlook::{OVERHEAD, Question, WARN_AT, outlook};
use super::super::record::{Environment, Issue, Issues};
use super::super::{derive, gate, yaml};
use super::*;

fn book() -> Book {
    let mut entries = vec![
        entry("local_batch-5", 5, 45.0, 1.5),
        entry("local_batch-20", 20, 176.0, 5.9),
        entry("cluster_batch-50", 50, 60.0, 8.0),
        entry("cluster_batch-200", 200, 232.0, 31.0),
        entry("cluster_batch-500", 500, 590.0, 78.0),
    ];
    for (n, entry) in entries.iter_mut().enumerate() {
        let record = &mut entry.record;
        record.date = format!("2026-01-{:02}", n + 1);
        if n < 2 {
            record.environment = Some(Environment::Local);
        }
        if let Some(rung) = &mut record.rung {
            rung.corpus_documents = 1100;
        }
        record.quality.sample_size = record.dataset.pdfs_processed.map(|n| n * 6);
        record.quality.avg_overall_score = Some(4.4);
        record.issues = if n == 2 {
            Issues::List(vec![Issue { what: "attempts killed without a word".into(), count: 1, ..Issue::default() }])
        } else {
            Issues::default()
        };
        derive::complete(record);
        yaml::fill(record);
    }
    Book::new(entries)
}

fn page(book: &Book) -> String {
    let question = Question { documents: None, budget: Some(1000.0), warn_at: WARN_AT, overhead: OVERHEAD };
    let outlook = outlook(book, question);
    let prices = Prices::read("p", include_str!("../../../configs/prices.yaml")).unwrap();
    let work = book.work();
    let last = work[work.len() - 1];
    let decision =
        gate::decide(&gate::Rules::default(), last, &work[..work.len() - 1], outlook.budget_figures().as_ref());
    Report {
        book,
        outlook: &outlook,
        prices: Ok(&prices),
        decision: Some(&decision),
        rules_from: "a test",
        ladder: None,
        sweeps: &[],
        notes: Ok("# Lessons\n\nAsk early.\n"),
    }
    .markdown()
}

#[test]
fn the_sections_stand_in_their_order_and_none_is_blank() {
    let page = page(&book());
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(
        headings,
        [
            "Key metrics",
            "The ladder, rung by rung",
            "Production and cumulative totals",
            "Local against cluster",
            "Scaling",
            "Configurations and experiments",
            "Bottlenecks",
            "Projections",
            "Cost",
            "Decision",
            "Lessons and questions",
            "Records"
        ]
    );
    assert!(page.contains("\n### Lessons\n\nAsk early.\n"), "notes are kept, below the page's own headings");
    assert_no_blank(&page);
    assert_eq!(page, self::page(&book()), "nothing in it depends on the clock");
}

fn assert_no_blank(page: &str) {
    for (n, line) in page.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert!(cells.iter().all(|cell| !cell.is_empty()), "line {}: a blank cell in {line}", n + 1);
        // A cell that is not known has its reason under the table.
        for cell in cells.iter().filter(|cell| cell.starts_with("not known (")) {
            let mark = cell.trim_start_matches("not known ");
            let below = page.lines().skip(n).find(|line| line.starts_with(mark));
            assert!(below.is_some_and(|line| line.len() > mark.len() + 5), "line {}: {cell} has no reason", n + 1);
        }
    }
}

#[test]
fn the_outlook_and_the_cost_are_as_computed_by_hand() {
    let page = page(&book());
    // Cluster: 117 GPU-hours over 750 documents are 0.156 each. All used: 124.4. Rest: 350 × 0.156 × 1.1 = 60.06.
    assert!(
        page.contains(
            "Used so far: 124.4 GPU-hours by all records, experiments too. Done in cluster: 750 of 1,100 documents. The \
             rest (350 documents, by the documents of cluster): 60.06"
        ),
        "{page}"
    );
    assert!(page.contains("All: 184.5 GPU-hours"), "{page}");
    assert!(page.contains("over above: **within**"));
    // 184.46 × 4 $.
    let aws = page.lines().find(|line| line.starts_with("| AWS")).unwrap();
    assert!(aws.contains("| 737.8 "), "{aws}");
    // 0.156 GPU-hours and 5 pairs a document: 0.0312 × 4 $.
    assert!(aws.contains("| 0.1248 "), "{aws}");
}

/// A book of two rungs without GPUs, the last of them the whole corpus of 8 documents.
fn small() -> Vec<Entry> {
    let mut entries = vec![entry("a", 3, 5.0, 0.0), entry("b", 4, 6.0, 0.0)];
    for entry in &mut entries {
        let record = &mut entry.record;
        record.environment = Some(Environment::Local);
        (record.results.gpu_hours, record.results.gpu_hours_per_pdf) = (None, None);
        record.hardware.gpu_source = Some("none".into());
        record.not_measured.insert("results.gpu_hours".into(), "no GPU is counted".into());
        record.not_measured.insert("hardware.job_id".into(), "it was no job".into());
        yaml::fill(record);
    }
    if let Some(rung) = &mut entries[1].record.rung {
        (rung.documents, rung.corpus_documents, rung.reused) = (8, 8, 3);
    }
    entries
}

#[test]
fn what_is_not_known_or_not_done_is_not_said_to_be() {
    let page = page(&Book::new(small()));
    // Nothing was compared: that is not the same as nothing became worse.
    assert!(!page.contains("No degradation") && page.contains("Degradation from batch to batch cannot be told"));
    // The reason is the GPU-hours, not the documents.
    assert!(page.contains("(1) no GPU is counted") && !page.contains("single documents are not known"), "{page}");
    assert!(page.contains("- GPU: none counted; – cores") && page.contains("job –\n"), "{page}");
    assert!(page.contains("- Without a value: hardware.job_id: it was no job\n"), "{page}");
    // 4 and 3 reused are not all 8.
    assert!(page.contains("Production is not done: of the whole corpus, 8 documents, ended with b: 7."), "{page}");
    let mut whole = small();
    if let Some(rung) = &mut whole[1].record.rung {
        rung.reused = 4;
    }
    let page = self::page(&Book::new(whole));
    assert!(page.contains("Production is done: the whole corpus, 8 documents, has ended with b."), "{page}");
}

#[test]
fn a_rehearsal_and_double_counting_are_said_at_the_top() {
    let mut entries: Vec<Entry> = book().entries().to_vec();
    entries[0].record.hardware.gpu_source = Some("simulated".into());
    for entry in &mut entries[..2] {
        entry.record.covers = vec![crate::bench::record::Covered {
            state_id: "s".into(),
            first_attempt: 1,
            last_attempt: 2,
            ..Default::default()
        }];
    }
    let page = page(&Book::new(entries));
    assert!(page.contains("**Rehearsal.** The GPUs of local_batch-5 are simulated"));
    assert!(page.contains("> local_batch-20 counts attempts that local_batch-5 counts already"));
}
