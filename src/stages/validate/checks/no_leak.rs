//! Check: a question does not contain its answer.

use crate::model::payload::CheckValue;
use crate::stages::validate::tokens::{common, tokens};

use super::Finding;

/// Checks a pair. The value is the token F1 between question and answer, or 1 if every token of the answer stands in
/// the question.
pub(crate) fn check(max: f64, question: &str, answer: &str) -> Finding {
    let leak = leak(question, answer);
    // Everything contained is a leak under any threshold below 1.
    Finding::new(CheckValue::Number(leak), leak <= max, || {
        format!("question must not contain its answer: token F1 at most {max}, and not all words of the answer")
    })
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
