//! The outlook: what the whole corpus will have taken, from what its first documents took.
//!
//! The plan before anything of the rest is done: documents × average a document × (1 + overhead), with an interval
//! by resampling documents (see [`crate::model::projection`]). The outlook of all work: what was used, which is
//! certain, and the plan for the rest.

use super::book::{Book, Entry, totals};
use super::documents;
use super::record::Environment;
use crate::model::projection::{BudgetState, LEAST_DOCUMENTS, Projection, project};

/// Decides the resampling; the same records give the same intervals.
const SEED: u64 = 42;
/// What restarts and waiting add to what documents take, unless the configuration says otherwise.
pub const OVERHEAD: f64 = 0.10;
/// The part of a budget from which its state is `close`, unless the configuration says otherwise.
pub const WARN_AT: f64 = 0.90;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    /// Documents of the whole corpus, if known.
    pub documents: Option<u64>,
    /// GPU-hours that may be used, if that is bounded.
    pub budget: Option<f64>,
    /// The part of the budget from which its state is `close`.
    pub warn_at: f64,
    /// What restarts and waiting add, as a part.
    pub overhead: f64,
}

/// GPU-hours of a number of documents.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Planned {
    /// Documents × average × (1 + overhead).
    pub expected: f64,
    /// With its interval, where single documents are known.
    pub projection: Option<Projection>,
}

/// What is to come.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Outlook {
    /// The environment whose documents it is projected from: that of the last work.
    pub environment: Option<Environment>,
    /// Documents of the whole corpus, if known.
    pub documents: Option<u64>,
    /// Documents of it that ended in that environment.
    pub done: u64,
    /// GPU-hours used so far by all records, experiments too.
    pub used: Option<f64>,
    /// The rest.
    pub rest: Option<Planned>,
    /// All: used and the rest.
    pub whole: Option<Planned>,
    /// The budget in GPU-hours.
    pub budget: Option<f64>,
    /// The part of it from which the state is `close`.
    pub warn_at: f64,
    /// What restarts and waiting add, as a part.
    pub overhead: f64,
    /// How the expected whole stands to the budget.
    pub state: Option<BudgetState>,
    /// Why the rest is not known, if it is not.
    pub reason: Option<String>,
}

/// Why a projection has no interval though its GPU-hours are known.
pub fn no_interval() -> String {
    format!("single documents are not known, or fewer than {LEAST_DOCUMENTS} ended")
}

/// GPU-hours that `documents` more documents take, if they are like those of `entries`.
pub fn plan(entries: &[&Entry], documents: u64, overhead: f64) -> Option<Planned> {
    let average = totals(entries.iter().copied()).gpu_hours_per_pdf()?;
    let expected = documents as f64 * average * (1.0 + overhead);
    let each: Vec<f64> = entries.iter().flat_map(|entry| documents::gpu_hours(&entry.documents)).collect();
    // A record in which no document ended, such as a smoke test of what is done already, has no documents to know.
    let known = entries.iter().all(|e| !e.documents.is_empty() || e.record.dataset.pdfs_processed == Some(0));
    let certain: f64 = each.iter().sum();
    let drawn = known.then(|| project(&each, each.len() as u64 + documents, overhead, SEED)).flatten();
    let projection = drawn.map(|drawn| {
        // The records' averages hold documents that are not finished too; the interval is scaled to them.
        let mean = drawn.expected - certain;
        let scale = if mean > 0.0 { expected / mean } else { 1.0 };
        Projection { expected, low: (drawn.low - certain) * scale, high: (drawn.high - certain) * scale }
    });
    Some(Planned { expected, projection })
}

/// The outlook of a book.
pub fn outlook(book: &Book, question: Question) -> Outlook {
    let work = book.work();
    let environment = work.iter().rev().find_map(|entry| entry.record.environment);
    let alike: Vec<&Entry> = match environment {
        Some(environment) => book.in_environment(environment),
        None => work.clone(),
    };
    let documents = question
        .documents
        .or_else(|| work.iter().filter_map(|entry| entry.record.rung.as_ref()).map(|rung| rung.corpus_documents).max());
    let done = totals(alike.iter().copied()).pdfs.unwrap_or(0);
    let doubles = book.doubles();
    let used = totals(book.entries().iter().filter(|entry| !doubles.contains_key(&entry.record.id))).gpu_hours;
    let rest = documents.and_then(|all| plan(&alike, all.saturating_sub(done), question.overhead));
    let whole = used.zip(rest).map(|(used, rest)| Planned {
        expected: used + rest.expected,
        projection: rest.projection.map(|p| Projection {
            expected: used + p.expected,
            low: used + p.low,
            high: used + p.high,
        }),
    });
    let state =
        whole.zip(question.budget).map(|(whole, budget)| BudgetState::of(whole.expected, budget, question.warn_at));
    let reason = if documents.is_none() {
        Some("how many documents the whole corpus has is not known: give --documents".to_owned())
    } else if used.is_none() {
        Some("GPU-hours are not known of every record".to_owned())
    } else if rest.is_none() {
        Some("no document has ended where the work was last, or a record does not say how many".to_owned())
    } else {
        None
    };
    Outlook {
        environment,
        documents,
        done,
        used,
        rest,
        whole,
        budget: question.budget,
        warn_at: question.warn_at,
        overhead: question.overhead,
        state,
        reason,
    }
}

impl Outlook {
    /// The budget's figures for the gate.
    pub fn budget_figures(&self) -> Option<super::gate::BudgetFigures> {
        let gpu_hours = self.budget?;
        Some(super::gate::BudgetFigures { gpu_hours, warn_at: self.warn_at, whole: self.whole })
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::entry;
    use super::*;

    const QUESTION: Question =
        Question { documents: Some(1100), budget: Some(1000.0), warn_at: WARN_AT, overhead: OVERHEAD };

    #[test]
    fn the_plan_is_documents_times_average_and_overhead() {
        // The project's own figures: 0.29 GPU-hours a document, 1,100 documents, a tenth more: 350.9.
        let trial = entry("trial", 10, 87.0, 2.9);
        let planned = plan(&[&trial], 1100, 0.10).unwrap();
        assert!((planned.expected - 350.9).abs() < 1e-9, "{planned:?}");
        // Every document took the same here, so the interval is narrow.
        let projection = planned.projection.unwrap();
        assert!((projection.low - 350.9).abs() < 1e-6 && (projection.high - 350.9).abs() < 1e-6, "{projection:?}");
        // Without single documents there is no interval.
        let bare = Entry { documents: Vec::new(), ..trial.clone() };
        assert_eq!(plan(&[&bare], 1100, 0.10).unwrap().projection, None);
        // Where none ended there is none to know.
        let mut smoke = entry("smoke", 0, 1.0, 0.1);
        smoke.record.results.qa_pairs_generated = Some(0);
        assert!(plan(&[&trial, &smoke], 1100, 0.10).unwrap().projection.is_some());
    }

    #[test]
    fn skewed_documents_give_an_interval_around_the_plan() {
        let mut trial = entry("trial", 20, 100.0, 4.0);
        for (n, row) in trial.documents.iter_mut().enumerate() {
            row.gpu_hours = Some(if n % 5 == 0 { 0.6 } else { 0.1 });
        }
        let planned = plan(&[&trial], 200, 0.0).unwrap();
        let projection = planned.projection.unwrap();
        assert!((planned.expected - 40.0).abs() < 1e-9);
        assert!(projection.low < 37.0 && projection.high > 43.0 && projection.low > 20.0, "{projection:?}");
    }

    #[test]
    fn what_was_used_is_certain_and_the_rest_is_from_the_last_environment() {
        let mut local = entry("local", 20, 100.0, 10.0);
        local.record.environment = Some(Environment::Local);
        local.record.date = "2025-12-01".into();
        let book = Book::new(vec![local, entry("cluster", 50, 100.0, 5.0)]);
        let found = outlook(&book, QUESTION);
        assert_eq!((found.environment, found.done, found.used), (Some(Environment::Cluster), 50, Some(15.0)));
        // 1,050 × 0.1 × 1.1 = 115.5, and 15 used.
        assert!((found.rest.unwrap().expected - 115.5).abs() < 1e-9);
        assert!((found.whole.unwrap().expected - 130.5).abs() < 1e-9);
        assert_eq!(found.state, Some(BudgetState::Within));
        let tight = Question { budget: Some(140.0), ..QUESTION };
        assert_eq!(outlook(&book, tight).state, Some(BudgetState::Close));
        assert_eq!(outlook(&book, Question { budget: Some(130.0), ..QUESTION }).state, Some(BudgetState::Over));
    }

    #[test]
    fn what_cannot_be_said_has_its_reason() {
        let mut one = entry("a", 5, 10.0, 1.0);
        one.record.rung = None;
        let book = Book::new(vec![one.clone()]);
        let asked = Question { documents: None, ..QUESTION };
        assert!(outlook(&book, asked).reason.unwrap().contains("--documents"));
        one.record.results.gpu_hours = None;
        let found = outlook(&Book::new(vec![one]), QUESTION);
        assert_eq!((found.whole, found.state), (None, None));
        assert!(found.reason.unwrap().contains("GPU-hours"));
        let found = outlook(&Book::new(vec![entry("none", 0, 1.0, 0.1)]), QUESTION);
        assert!(found.reason.unwrap().contains("no document has ended"));
    }
}
