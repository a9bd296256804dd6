//! Check: question, answer and quote have sensible lengths, and the question is one.

use serde::{Serialize, Serializer};

use crate::model::params::Reader;
use crate::model::payload::CheckValue;

use super::{CheckInput, Finding};

/// Least and greatest lengths in characters, white space at the ends excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Of questions.
    pub question: (usize, usize),
    /// Of answers.
    pub answer: (usize, usize),
    /// Of quotes.
    pub quote: (usize, usize),
}

impl Default for Lengths {
    fn default() -> Self {
        Self { question: (10, 300), answer: (50, 1000), quote: (20, 1500) }
    }
}

impl Lengths {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let default = Self::default();
        let mut range = |what: &str, default: (usize, usize)| {
            let mut bound = |side: &str, key: &str, default: usize| {
                let meaning = format!("{side} length of {what}, in characters");
                reader.int(key, i64::try_from(default).unwrap_or(i64::MAX), 1..=20_000, &meaning) as usize
            };
            let (least, most) = (format!("min_{what}_chars"), format!("max_{what}_chars"));
            let bounds = (bound("least", &least, default.0), bound("greatest", &most, default.1));
            if bounds.0 > bounds.1 {
                let message = format!(
                    "{} is {}, more than {} ({}): no {what} could pass",
                    reader.path_of(&least),
                    bounds.0,
                    reader.path_of(&most),
                    bounds.1
                );
                reader.fault(&least, message);
            }
            bounds
        };
        Self {
            question: range("question", default.question),
            answer: range("answer", default.answer),
            quote: range("quote", default.quote),
        }
    }
}

impl Serialize for Lengths {
    /// As in the pipeline file.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ranges = [("question", self.question), ("answer", self.answer), ("quote", self.quote)];
        serializer.collect_map(ranges.into_iter().flat_map(|(what, (least, most))| {
            [(format!("min_{what}_chars"), least), (format!("max_{what}_chars"), most)]
        }))
    }
}

/// Checks the shape of a pair. The value is what is wrong, or empty.
pub(crate) fn check(lengths: &Lengths, input: &CheckInput<'_>) -> Finding {
    let parts = [
        ("question", input.question, lengths.question),
        ("answer", input.answer, lengths.answer),
        ("quote", input.quote, lengths.quote),
    ];
    for (what, text, (least, most)) in parts {
        let length = text.trim().chars().count();
        if !(least..=most).contains(&length) {
            let found = CheckValue::Text(format!("{what} of {length} characters"));
            return Finding::new(found, false, || format!("{what} must have {least} to {most} characters"));
        }
    }
    if let Some(end) = breaks_off(input.answer) {
        let found = CheckValue::Text(format!("answer breaks off at {end:?}"));
        return Finding::new(found, false, || "answer must end as a sentence does, not in its middle".into());
    }
    let last = input.question.trim().chars().next_back();
    let found = (last != Some('?')).then(|| format!("question ends with {:?}", last.unwrap_or_default()));
    Finding::none_of(found, || "question must end with a question mark".into())
}

/// The end of an answer that stops where no sentence can: at a comma, a colon, a dash or an open bracket, or, without
/// any mark, at a word that needs another behind it. An answer cut within a word or before a noun is not found so.
fn breaks_off(answer: &str) -> Option<&str> {
    const NEEDS_MORE: [&str; 34] = [
        "the", "a", "an", "of", "to", "for", "and", "or", "with", "within", "by", "from", "at", "that", "which", "who",
        "whose", "if", "unless", "but", "because", "than", "as", "must", "may", "shall", "its", "their", "every",
        "per", "into", "via", "between", "is",
    ];
    let answer = answer.trim();
    let last = answer.split_whitespace().next_back()?;
    let lower = last.to_lowercase();
    (last.ends_with([',', ':', '-', '–', '—', '(', '[']) || NEEDS_MORE.contains(&lower.as_str())).then_some(last)
}
