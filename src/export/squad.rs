//! `SQuAD` 2.0 rows, in the flat form of the Hugging Face hub.
//!
//! `SQuAD` takes an answer to be a span of the passage. Here answers are sentences of the model's own, and what stands
//! in the passage word for word is the verified quote; so the quote is the answer's text, and `answer_start` is where it
//! begins in the passage, counted in Unicode scalar values as Python counts. Without a quote, an answer that stands in
//! the passage word for word is taken; a pair with neither has no true span, is left out, and is counted. A question of
//! type `unanswerable` is impossible and has no answers.

use serde::Serialize;

use super::rows::PairRow;

/// The question type that says that the passage holds no answer.
const UNANSWERABLE: &str = "unanswerable";

/// One question.
#[derive(Debug, Serialize)]
pub(super) struct SquadRow<'a> {
    id: &'a str,
    title: &'a str,
    context: &'a str,
    question: &'a str,
    answers: Answers<'a>,
    is_impossible: bool,
}

#[derive(Debug, Serialize)]
struct Answers<'a> {
    text: Vec<&'a str>,
    answer_start: Vec<u64>,
}

impl<'a> SquadRow<'a> {
    /// The row of a pair; `None` if nothing of its answer stands in its passage.
    pub(super) fn of(row: &'a PairRow) -> Option<Self> {
        let is_impossible = row.question_type == UNANSWERABLE;
        let mut answers = Answers { text: Vec::new(), answer_start: Vec::new() };
        if !is_impossible {
            let quotes = row.citations.iter().map(|citation| citation.quote.as_str());
            let (text, at) = quotes
                .chain([row.answer.as_str()])
                .filter(|text| !text.is_empty())
                .find_map(|text| row.context.find(text).map(|at| (text, at)))?;
            answers.text.push(text);
            answers.answer_start.push(row.context[..at].chars().count() as u64);
        }
        Some(Self {
            id: &row.id,
            title: &row.source_document,
            context: &row.context,
            question: &row.question,
            answers,
            is_impossible,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::pair_row;
    use super::*;

    #[test]
    fn spans_count_characters_and_are_true() {
        let row = pair_row("a", "Über 30 Tage gilt: an appeal is heard.", "an appeal is heard");
        let squad = SquadRow::of(&row).expect("a span");
        assert_eq!(squad.answers.answer_start, [19]);
        assert_eq!(squad.answers.text, ["an appeal is heard"]);
        assert!(!squad.is_impossible);
    }

    #[test]
    fn without_quote_the_answer_or_nothing() {
        let mut row = pair_row("a", "An appeal is heard within 30 days.", "not in it");
        row.answer = "30 days".into();
        assert_eq!(SquadRow::of(&row).expect("a span").answers.text, ["30 days"]);
        row.answer = "a month".into();
        assert!(SquadRow::of(&row).is_none());
        row.question_type = UNANSWERABLE.into();
        let squad = SquadRow::of(&row).expect("impossible");
        assert!(squad.is_impossible && squad.answers.text.is_empty());
    }
}
