//! The checks that need no model: pure functions of a pair and its source, cheapest first.

use serde::Serialize;

use crate::model::params::Reader;
use crate::model::payload::{CheckResult, CheckValue, Checks};

use super::matching::FoundQuote;
pub use phrases::Phrases;
use quote_exists::QuoteMatch;
use well_formed::Lengths;

mod facts;
pub mod no_leak;
pub mod no_refusal;
pub mod numbers_hold;
mod phrases;
pub mod quote_exists;
pub mod says_unstated;
pub mod self_contained;
mod spelled;
pub mod well_formed;

/// Raised whenever the same parameters would give other results.
const CODE_VERSION: u32 = 2;

/// Thresholds and lists of the checks.
#[derive(Clone, Debug, Serialize)]
pub struct CheckParams {
    /// Lengths of question, answer and quote.
    #[serde(flatten)]
    pub lengths: Lengths,
    /// Phrases that a question must not have besides the built-in ones.
    #[serde(rename = "vague_phrases")]
    pub vague: Phrases,
    /// Phrases that an answer must not have besides the built-in ones.
    #[serde(rename = "refusal_phrases")]
    pub refusals: Phrases,
    /// The largest token F1 between question and answer, 0 to 1.
    pub max_leak: f64,
    /// Whether every number of the answer must stand in the source.
    pub numbers_hold: bool,
    /// From which partial ratio on a quote exists, 0 to 1.
    pub quote_match: f64,
    /// From which partial ratio on a missed quote is worth asking for again; at most `quote_match`.
    pub quote_ask_again: f64,
}

impl CheckParams {
    /// Reads the parameters; faults are noted in the reader.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let lengths = Lengths::read(reader);
        let vague = Phrases::read(
            reader,
            "vague_phrases",
            "phrases that make a question depend on its passage, besides the built-in ones such as `according to the text`",
        );
        let refusals = Phrases::read(
            reader,
            "refusal_phrases",
            "phrases by which an answer refuses or talks about the passage, besides the built-in ones such as `as an AI`",
        );
        let max_leak = reader.float(
            "max_leak",
            0.8,
            0.0..=1.0,
            "a question whose token F1 with its answer is higher gives the answer away",
        );
        let numbers_hold = reader.bool(
            "numbers_hold",
            true,
            "whether every number, date, amount, percentage and code of an answer must stand in the passage",
        );
        let quote_match = reader.float(
            "quote_match",
            0.90,
            0.5..=1.0,
            "from which similarity (partial ratio) on a quote counts as found in the passage",
        );
        let quote_ask_again = reader.float(
            "quote_ask_again",
            0.85,
            0.0..=1.0,
            "from which similarity on a quote that is not found is asked for once more; at most `quote_match`",
        );
        if quote_ask_again > quote_match {
            let message = format!(
                "{} is {quote_ask_again}, but can be at most {} ({quote_match}): make them equal to never ask again",
                reader.path_of("quote_ask_again"),
                reader.path_of("quote_match"),
            );
            reader.fault("quote_ask_again", message);
        }
        Self { lengths, vague, refusals, max_leak, numbers_hold, quote_match, quote_ask_again }
    }

    /// All that determines the results, for the stage's fingerprint.
    pub fn determinants(&self) -> String {
        let Self { lengths, vague, refusals, max_leak, numbers_hold, quote_match, quote_ask_again } = self;
        format!(
            "checks code {CODE_VERSION}; {lengths:?}; vague {:?}; refusals {:?}; leak {max_leak}; numbers {numbers_hold}; quote {quote_match}, again {quote_ask_again}",
            vague.texts(),
            refusals.texts(),
        )
    }
}

impl Default for CheckParams {
    fn default() -> Self {
        Self {
            lengths: Lengths::default(),
            vague: Phrases::default(),
            refusals: Phrases::default(),
            max_leak: 0.8,
            numbers_hold: true,
            quote_match: 0.90,
            quote_ask_again: 0.85,
        }
    }
}

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub struct CheckInput<'a> {
    /// The question.
    pub question: &'a str,
    /// The answer.
    pub answer: &'a str,
    /// The supporting quote as the model gave it.
    pub quote: &'a str,
    /// The passage, as Markdown.
    pub source: &'a str,
    /// Whether the question is meant to have no answer in the passage, so that the answer says what is not stated.
    pub unanswerable: bool,
}

/// The numbers, dates, amounts, percentages and codes of a text, each in one form however it is written, sorted, each
/// once.
pub fn hard_facts(text: &str) -> Vec<String> {
    facts::canonical(text)
}

/// Why a pair failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The check's name.
    pub check: String,
    /// What was measured or found.
    pub value: String,
    /// The rule it broke, with its threshold.
    pub rule: String,
}

/// What the checks found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckReport {
    /// The results of those evaluated: all up to the first that failed.
    pub checks: Checks,
    /// The first that failed.
    pub failed: Option<Failure>,
    /// The quote in the source, in characters of the source; also one just too different, if `ask_again`.
    pub citation: Option<FoundQuote>,
    /// Whether the only fault is a quote so nearly right that it is worth asking for it once more. Then `failed` says
    /// why the pair is rejected if it is not.
    pub ask_again: bool,
}

/// What one check says.
pub(crate) struct Finding {
    value: CheckValue,
    /// The rule, if it is broken.
    broken: Option<String>,
}

impl Finding {
    fn new(value: CheckValue, pass: bool, rule: impl FnOnce() -> String) -> Self {
        Self { value, broken: (!pass).then(rule) }
    }

    /// Passes if nothing was found.
    fn none_of(found: Option<String>, rule: impl FnOnce() -> String) -> Self {
        let pass = found.is_none();
        Self::new(CheckValue::Text(found.unwrap_or_default()), pass, rule)
    }
}

/// Runs the checks in order and stops at the first that fails: `well_formed`, `self_contained`, `no_refusal`, `no_leak`,
/// `numbers_hold`, `quote_exists`; for a question that is meant to have no answer, `says_unstated` takes the place of
/// `no_refusal` and `no_leak`. The quote comes last since it alone can ask for another model call, which is wasted on a
/// pair that fails anyway.
pub fn run(params: &CheckParams, input: &CheckInput<'_>) -> CheckReport {
    run_with_context(params, input, &[])
}

/// As [`run`]; numbers may also stand in `context`: texts that the model saw with the passage, such as the document's
/// title and the headings above the passage.
pub fn run_with_context(params: &CheckParams, input: &CheckInput<'_>, context: &[&str]) -> CheckReport {
    let mut report = CheckReport::default();
    let answered: [(&str, &dyn Fn() -> Finding); 2] = [
        ("no_refusal", &|| no_refusal::check(&params.refusals, input.answer)),
        ("no_leak", &|| no_leak::check(params.max_leak, input.question, input.answer)),
    ];
    // An answer that says what is not stated speaks of the source, and repeats its question.
    let unstated: [(&str, &dyn Fn() -> Finding); 1] =
        [("says_unstated", &|| says_unstated::check(&params.refusals, input.answer))];
    let first: [(&str, &dyn Fn() -> Finding); 2] = [
        ("well_formed", &|| well_formed::check(&params.lengths, input)),
        ("self_contained", &|| self_contained::check(&params.vague, input.question)),
    ];
    let then: &[_] = if input.unanswerable { &unstated } else { &answered };
    if !first.iter().chain(then).all(|(name, check)| report.add(name, check())) {
        return report;
    }
    if params.numbers_hold {
        // What is not stated is named by the question, with its numbers.
        let question = input.unanswerable.then_some(input.question);
        let context: Vec<&str> = context.iter().copied().chain(question).collect();
        if !report.add("numbers_hold", numbers_hold::check(input.answer, input.source, &context)) {
            return report;
        }
    }
    let found = quote_exists::find(input.quote, input.source, params.quote_match, params.quote_ask_again);
    report.add("quote_exists", quote_exists::finding(&found, params.quote_match));
    report.ask_again = matches!(found, QuoteMatch::AskAgain(_));
    report.citation = match found {
        QuoteMatch::Found(quote) | QuoteMatch::AskAgain(quote) => Some(quote),
        QuoteMatch::Missing(_) => None,
    };
    report
}

impl CheckReport {
    /// Notes what a check found; gives whether it passed.
    fn add(&mut self, name: &str, finding: Finding) -> bool {
        let pass = finding.broken.is_none();
        if let Some(rule) = finding.broken {
            let value = match &finding.value {
                CheckValue::Number(number) => format!("{number:.3}"),
                CheckValue::Text(text) => text.clone(),
            };
            self.failed = Some(Failure { check: name.into(), value, rule });
        }
        self.checks.insert(name.into(), CheckResult { pass, value: finding.value });
        pass
    }
}

#[cfg(test)]
mod tests;
