//! Check: a question does not contain its answer.

use crate::model::payload::CheckValue;
use crate::stages::validate::tokens::{common, tokens};

use super::Finding;

/// Checks a pair. The value is the token F1 between question and answer, or 1 if every token of the answer stands in
/// the question.
pub(crate) fn check(max: f64, question: &str, answer: &str) -> Finding {
    let leak = leak(question, answer);
    // Everything contained is a leak under any threshold below 1. An answer may restate its question as long as it adds
    // the figure that was asked for: "Within how many days must …?"
    Finding::new(CheckValue::Number(leak), leak <= max || adds_figure(question, answer), || {
        format!(
            "question must not contain its answer: token F1 at most {max}, and not all words of the answer, \
             unless the answer adds a figure"
        )
    })
}

/// Whether a word of the answer that has a digit does not stand in the question.
fn adds_figure(question: &str, answer: &str) -> bool {
    let question = tokens(question);
    tokens(answer).iter().any(|word| word.contains(|c: char| c.is_ascii_digit()) && !question.contains(word))
}

/// How much of the answer the question gives away, 0 to 1.
pub fn leak(question: &str, answer: &str) -> f64 {
    let (question, answer) = (tokens(question), tokens(answer));
    if answer.is_empty() || question.is_empty() {
        return 0.0;
    }
    let common = common(&answer, &question);
    if common == answer.len() {
        return 1.0;
    }
    2.0 * common as f64 / (question.len() + answer.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_restate_the_question_if_it_adds_the_figure_asked_for() {
        let question = "Within how many calendar days must an urgent grievance be resolved?";
        let answer = "An urgent grievance must be resolved within 3 calendar days.";
        assert!(leak(question, answer) > 0.7);
        assert!(check(0.7, question, answer).broken.is_none());
        let told = "Must an urgent grievance be resolved within 3 calendar days?";
        assert!(check(0.7, told, answer).broken.is_some());
        let bare = "What is limited to members who depend on a ventilator?";
        assert!(check(0.7, bare, "Nursing is limited to members who depend on a ventilator.").broken.is_some());
    }
}
