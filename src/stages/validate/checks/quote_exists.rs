//! Check: the quote stands in the passage.

use crate::model::payload::CheckValue;
use crate::stages::validate::matching::{FoundQuote, find_quote};

use super::Finding;
use super::facts::canonical;

/// Below this similarity passages of one language all look alike: such quotes count as missing altogether, and are
/// found to be so at a fraction of the cost.
const NOTHING_ALIKE: f64 = 0.7;

/// What became of a quote.
#[derive(Clone, Debug, PartialEq)]
pub enum QuoteMatch {
    /// It stands there.
    Found(FoundQuote),
    /// Something like it stands there; it may be worth asking for the quote once more.
    AskAgain(FoundQuote),
    /// It does not stand there. The best similarity, if it is worth a number.
    Missing(Option<f64>),
}

/// Looks for `quote` in `source`: from the similarity `accept` on it is found, if it states the same numbers, dates and
/// codes; from `again` on nearly so.
pub fn find(quote: &str, source: &str, accept: f64, again: f64) -> QuoteMatch {
    match find_quote(quote, source, again.min(accept).min(NOTHING_ALIKE)) {
        Some(found) if found.score >= accept && states_the_same(quote, &found) => QuoteMatch::Found(found),
        Some(found) if found.score >= again => QuoteMatch::AskAgain(found),
        other => QuoteMatch::Missing(other.map(|found| found.score)),
    }
}

/// Whether the numbers, dates and codes of a quote stand in what was found for it. Rules of one manual differ in little
/// else: `within 10 calendar days` is nearly `within 30 calendar days`.
fn states_the_same(quote: &str, found: &FoundQuote) -> bool {
    let there = canonical(&found.text);
    found.score >= 1.0 || canonical(quote).iter().all(|fact| there.contains(fact))
}

/// The finding for a match. The value is the similarity, 0 if nothing is alike.
pub(crate) fn finding(found: &QuoteMatch, accept: f64) -> Finding {
    let (score, pass) = match found {
        QuoteMatch::Found(quote) => (quote.score, true),
        QuoteMatch::AskAgain(quote) => (quote.score, false),
        QuoteMatch::Missing(score) => (score.unwrap_or(0.0), false),
    };
    Finding::new(CheckValue::Number(score), pass, || {
        format!("quote must stand in the passage, with its numbers: best partial ratio at least {accept:.2}")
    })
}
