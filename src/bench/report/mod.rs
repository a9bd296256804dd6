//! `BENCHMARKS.md`: everything that the records say, in one page. It depends on the records and what people wrote,
//! never on the clock, so that writing it anew changes only what changed.

use std::fmt::Write as _;

mod figures;
pub mod notes;
mod outlook;
mod rungs;

use super::book::Book;
use super::gate::Decision;
use super::ladder::Ladder;
use super::outlook::Outlook;
use super::prices::Prices;

pub use outlook::findings;
pub use rungs::table as rung_table;

/// What a report is made of.
pub struct Report<'a> {
    /// The records.
    pub book: &'a Book,
    /// What is to come.
    pub outlook: &'a Outlook,
    /// Prices, or why there are none.
    pub prices: Result<&'a Prices, String>,
    /// The gate over the last record, if there is work.
    pub decision: Option<&'a Decision>,
    /// Where the gate's rules stand.
    pub rules_from: &'a str,
    /// The ladder, if its file can be read.
    pub ladder: Option<&'a Ladder>,
    /// Experiments that are no records, as headings and Markdown.
    pub sweeps: &'a [(String, String)],
    /// What people wrote, or where they can.
    pub notes: Result<&'a str, String>,
}

impl Report<'_> {
    /// The page as Markdown.
    pub fn markdown(&self) -> String {
        let mut page = String::from("# Benchmarks\n\n");
        page.push_str(
            "Written by `qaflow bench report` from the records; edit the notes, not this page. A GB is 2³⁰ bytes. \
             Numbers have four significant digits. Time is shared out over documents by their work in the stages that \
             ask the model.\n",
        );
        let simulated: Vec<&str> = self
            .book
            .entries()
            .iter()
            .filter(|entry| entry.is_simulated())
            .map(|entry| entry.record.id.as_str())
            .collect();
        if !simulated.is_empty() {
            let _ = write!(
                page,
                "\n> **Rehearsal.** The GPUs of {} are simulated: GPU figures, GPU-hours and costs show how the book \
                 works and measure nothing. Times are those of this machine with a simulated server.\n",
                if simulated.len() == self.book.entries().len() {
                    "all records".to_owned()
                } else {
                    simulated.join(", ")
                }
            );
        }
        for (id, other) in self.book.doubles() {
            let _ =
                write!(page, "\n> {id} counts attempts that {other} counts already: it is left out of every total.\n");
        }
        for (heading, section) in [
            ("Key metrics", figures::key(self)),
            ("The ladder, rung by rung", rungs::section(self)),
            ("Production and cumulative totals", figures::usage(self)),
            ("Local against cluster", figures::comparison(self)),
            ("Scaling", figures::scaling(self)),
            ("Configurations and experiments", figures::experiments(self)),
            ("Bottlenecks", figures::bottlenecks(self)),
            ("Projections", outlook::projections(self)),
            ("Cost", outlook::cost(self)),
            ("Decision", outlook::decision(self)),
            ("Lessons and questions", self.notes()),
            ("Records", figures::records(self)),
        ] {
            let _ = write!(page, "\n## {heading}\n\n{}\n", section.trim_end());
        }
        page
    }

    /// The section on projections.
    pub fn projections(&self) -> String {
        outlook::projections(self)
    }

    /// The section on cost.
    pub fn cost(&self) -> String {
        outlook::cost(self)
    }

    fn notes(&self) -> String {
        match &self.notes {
            Ok(text) if !text.trim().is_empty() => notes::fitted(text).0,
            Ok(_) => "The notes are empty.".into(),
            Err(why) => why.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
