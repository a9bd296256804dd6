//! `qaflow bench project` and `qaflow bench gate`: what the whole corpus will take, and whether to go on.

use std::path::Path;

use super::{Outlook, files};
use crate::app::export::print;
use crate::app::{Exit, UsageError, build};
use crate::bench::book::{Book, Entry};
use crate::bench::gate::{Decision, Rules, decide};
use crate::bench::outlook::{self, OVERHEAD, Question, WARN_AT, outlook};
use crate::bench::report::{self, Report};

/// The rules and the question that a command line and a configuration give.
pub(super) struct Asked {
    pub(super) rules: Rules,
    pub(super) rules_from: String,
    pub(super) question: Question,
}

/// Reads the configuration, if one is named, for rules and budget.
pub(super) fn asked(outlook: &Outlook) -> anyhow::Result<Asked> {
    let mut asked = Asked {
        rules: Rules::default(),
        rules_from: "the default rules, since no configuration was named".into(),
        question: Question { documents: outlook.documents, budget: None, warn_at: WARN_AT, overhead: OVERHEAD },
    };
    if let Some(file) = &outlook.config {
        let run = build::load(file, &outlook.set)?.run;
        asked.rules = run.gate.clone();
        asked.rules_from = if asked.rules == Rules::default() {
            format!("the default rules, since `gate` in {} sets no others", file.display())
        } else {
            format!("the rules of `gate` in {}, and the default ones for what it does not set", file.display())
        };
        if let Some(budget) = run.budget {
            asked.question.budget = Some(budget.gpu_hours);
            asked.question.warn_at = budget.warn_at;
            asked.question.overhead = budget.overhead;
        }
    }
    if let Some(budget) = outlook.budget {
        asked.question.budget = Some(budget);
    }
    if let Some(overhead) = outlook.overhead {
        asked.question.overhead = overhead;
    }
    Ok(asked)
}

/// The decision over one record of a book.
pub(super) fn decision(book: &Book, asked: &Asked, outlook: &outlook::Outlook, entry: &Entry) -> Decision {
    let work = book.work();
    let at = work.iter().position(|other| other.record.id == entry.record.id).unwrap_or(work.len());
    decide(&asked.rules, entry, &work[..at], outlook.budget_figures().as_ref())
}

/// Shows what the whole corpus will take.
pub(super) fn project(dir: &Path, options: &Outlook, json: bool) -> anyhow::Result<Exit> {
    let book = files::load_some(dir)?;
    let asked = asked(options)?;
    let outlook = outlook(&book, asked.question);
    if json {
        print(&serde_json::to_string(&outlook)?);
        return Ok(Exit::Done);
    }
    let prices = super::prices_or_why(&options.prices)?;
    let report = Report {
        book: &book,
        outlook: &outlook,
        prices: prices.as_ref().map_err(String::clone),
        decision: None,
        rules_from: &asked.rules_from,
        ladder: None,
        sweeps: &[],
        notes: Ok(""),
    };
    print(report.projections().trim_end());
    print(&format!("\n{}", report.cost().trim_end()));
    Ok(Exit::Done)
}

/// Decides.
pub(super) fn gate(dir: &Path, options: &Outlook, id: Option<&str>, json: bool) -> anyhow::Result<Exit> {
    let book = files::load_some(dir)?;
    let asked = asked(options)?;
    let outlook = outlook(&book, asked.question);
    let entry = match id {
        Some(id) => super::show::find(&book, id)?,
        None => book.work().last().copied().ok_or_else(|| {
            UsageError(format!("{} holds experiments only: no work is there to judge", dir.display()))
        })?,
    };
    let decision = decision(&book, &asked, &outlook, entry);
    if json {
        print(&serde_json::to_string(&decision)?);
    } else {
        let word = if decision.go { "GO" } else { "NO-GO" };
        print(&format!("{word} after {}, by {}\n", decision.id, asked.rules_from));
        print(report::findings(&decision).markdown().trim_end());
    }
    Ok(if decision.go { Exit::Done } else { Exit::NoGo })
}
