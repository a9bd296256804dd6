//! A judge for demonstrations: clarity from the model's likelihood, the rest by rule. It shows how marks flow and
//! sorts out what is plainly wrong; it is no replacement for a large model or a person.

use std::fmt::Write as _;

use serde::Serialize;

use super::words::{content, coverage, fold, numbers, words};

/// Least mean log-likelihoods of a question, given its answer, for the clarity marks 5, 4, 3 and 2. Calibrated by
/// reading some 200 questions about invented policies: well-formed ones lay mostly above -1, broken ones below -2.
const CLARITY: [f64; 4] = [-1.0, -1.6, -2.3, -3.2];
/// Least shares of the question's content words that stand in the answer, for the relevance marks 5, 4, 3 and 2.
const RELEVANCE: [f64; 4] = [0.75, 0.55, 0.35, 0.15];
/// Words of a question that leave open what is meant.
const VAGUE: &[&str] = &["it", "something", "stuff", "they", "thing", "things", "this", "these"];

/// A judge's answer, the reason first.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Judgement {
    reason: String,
    clarity: u8,
    accuracy: u8,
    relevance: u8,
    overall: u8,
}

/// What is judged.
pub(super) struct Pair<'a> {
    /// The source text.
    pub(super) source: &'a str,
    /// The question.
    pub(super) question: &'a str,
    /// The answer.
    pub(super) answer: &'a str,
    /// The verified quote.
    pub(super) quote: &'a str,
}

/// Marks a pair; `likelihood` is the mean log-likelihood of the question for the model that has read the answer.
pub(super) fn judge(pair: &Pair<'_>, likelihood: f64) -> Judgement {
    let (clarity, why_clarity) = clarity(pair.question, likelihood);
    let (accuracy, why_accuracy) = accuracy(pair);
    let (relevance, why_relevance) = relevance(pair);
    let overall = (f64::from(clarity + accuracy + relevance) / 3.0).round() as u8;
    let reason = format!(
        "clarity {clarity}: {why_clarity}; accuracy {accuracy}: {why_accuracy}; relevance {relevance}: {why_relevance}; overall {overall}: their mean"
    );
    Judgement { reason, clarity, accuracy, relevance, overall }
}

/// The answer to the checks of a pair against its source, by rule alone.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Entailment {
    claims: Vec<Claim>,
    reason: String,
    groundedness: u8,
    relevance: u8,
    self_contained: u8,
}

#[derive(Debug, PartialEq, Serialize)]
struct Claim {
    claim: String,
    supported: bool,
}

/// Checks a pair: the answer as a whole is the one claim, supported where its words and numbers stand in the quote.
pub(super) fn entails(pair: &Pair<'_>) -> Entailment {
    let (groundedness, reason) = accuracy(pair);
    let (relevance, _) = relevance(pair);
    let lower = pair.question.to_lowercase();
    let vague = words(&lower).any(|word| VAGUE.contains(&word));
    Entailment {
        claims: vec![Claim { claim: fold(pair.answer), supported: groundedness >= 4 }],
        reason,
        groundedness,
        relevance: [0, 0, 1, 2, 2, 2][usize::from(relevance.min(5))],
        self_contained: u8::from(!vague),
    }
}

fn clarity(question: &str, likelihood: f64) -> (u8, String) {
    let mut mark = step(likelihood, &CLARITY);
    let mut why = format!("the model's mean log-likelihood of the question is {likelihood:.2}");
    let lower = question.to_lowercase();
    let all: Vec<&str> = words(&lower).collect();
    let asks_for_meaning = lower.starts_with("what is ") || lower.starts_with("what does the term ");
    if asks_for_meaning && all.len() <= 8 {
        // A bare term is unlikely by itself, however clear the question is.
        mark = mark.max(4);
        why += ", and it plainly asks for a meaning";
    } else if all.len() < 5 {
        mark = mark.saturating_sub(1);
        let _ = write!(why, ", less 1 for only {} words", all.len());
    }
    if all.len() > 30 {
        mark = mark.saturating_sub(1);
        let _ = write!(why, ", less 1 for {} words", all.len());
    }
    if let Some(word) = all.iter().find(|w| VAGUE.contains(w)) {
        mark = mark.saturating_sub(1);
        let _ = write!(why, ", less 1 for the vague word {word}");
    }
    if !question.trim_end().ends_with('?') {
        mark = mark.saturating_sub(1);
        why += ", less 1 for no question mark";
    }
    (mark.max(1), why)
}

fn accuracy(pair: &Pair<'_>) -> (u8, String) {
    let mut mark: u8 = 5;
    let mut why = Vec::new();
    let quote = fold(pair.quote);
    if quote.is_empty() || !fold(pair.source).contains(&quote) {
        mark -= 2;
        why.push("less 2, the quote does not stand in the source word for word".to_owned());
    }
    let (said, quoted) = (numbers(pair.answer), numbers(pair.quote));
    if let Some(number) = said.difference(&quoted).next() {
        let elsewhere = numbers(pair.source).contains(number);
        mark -= if elsewhere { 1 } else { 2 };
        let place = if elsewhere { "the source but not in the quote" } else { "neither quote nor source" };
        why.push(format!("the number {number} stands in {place}"));
    }
    let covered = coverage(&content(pair.answer), &content(pair.quote));
    if covered < 0.8 {
        mark = mark.saturating_sub(if covered < 0.6 { 2 } else { 1 });
        why.push(format!("only {:.0}% of the answer's words stand in the quote", covered * 100.0));
    }
    if content(pair.answer).is_empty() {
        mark = 1;
        why.push("the answer says nothing".to_owned());
    }
    if why.is_empty() {
        why.push("the quote stands in the source, and holds the answer's words and numbers".to_owned());
    }
    (mark.max(1), why.join(", "))
}

fn relevance(pair: &Pair<'_>) -> (u8, String) {
    let asked = content(pair.question);
    let held = if asked.is_empty() { 0.0 } else { coverage(&asked, &content(pair.answer)) };
    let mut mark = step(held, &RELEVANCE);
    let mut why = format!("{:.0}% of the question's words stand in the answer", held * 100.0);
    let lower = pair.question.to_lowercase();
    if ["how many", "how much", "percentage"].iter().any(|q| lower.contains(q)) && numbers(pair.answer).is_empty() {
        mark = mark.saturating_sub(2);
        why += ", less 2 because it asks for a figure and the answer has none";
    }
    (mark.max(1), why)
}

/// The mark from 1 to 5 of a value, by the least values for 5, 4, 3 and 2.
fn step(value: f64, least: &[f64; 4]) -> u8 {
    5 - least.iter().take_while(|least| value < **least).count() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "The plan must decide an internal appeal\nwithin 28 calendar days. A hearing costs nothing.";

    fn pair<'a>(question: &'a str, answer: &'a str) -> Pair<'a> {
        Pair {
            source: SOURCE,
            question,
            answer,
            quote: "The plan must decide an internal appeal within 28 calendar days.",
        }
    }

    #[test]
    fn a_good_pair_has_good_marks_and_says_why() {
        let answer = "The plan must decide an internal appeal within 28 calendar days.";
        let judgement =
            judge(&pair("Within how many calendar days must the plan decide an internal appeal?", answer), -0.5);
        insta::assert_snapshot!(
            serde_json::to_string(&judgement).unwrap(),
            @r#"{"reason":"clarity 5: the model's mean log-likelihood of the question is -0.50; accuracy 5: the quote stands in the source, and holds the answer's words and numbers; relevance 5: 100% of the question's words stand in the answer; overall 5: their mean","clarity":5,"accuracy":5,"relevance":5,"overall":5}"#
        );
    }

    #[test]
    fn a_pair_is_checked_by_rule() {
        let question = "Within how many calendar days must the plan decide an internal appeal?";
        let good = entails(&pair(question, "The plan must decide an internal appeal within 28 calendar days."));
        assert_eq!((good.groundedness, good.relevance, good.self_contained, good.claims[0].supported), (5, 2, 1, true));
        let wrong = entails(&pair(question, "The plan must decide an internal appeal within 30 calendar days."));
        assert!(!wrong.claims[0].supported && wrong.groundedness < 4);
        assert_eq!(entails(&pair("Who may do this in these cases?", "A hearing costs nothing.")).self_contained, 0);
    }

    #[test]
    fn faults_cost_marks() {
        let question = "Within how many calendar days must the plan decide an internal appeal?";
        let wrong = judge(&pair(question, "The plan must decide an internal appeal within 30 calendar days."), -0.5);
        assert_eq!(wrong.accuracy, 3);
        assert!(wrong.reason.contains("the number 30 stands in neither"), "{}", wrong.reason);
        let invented = Pair { quote: "A hearing is free for everybody.", ..pair(question, "A hearing is free.") };
        assert!(judge(&invented, -0.5).accuracy <= 3);
        assert_eq!(judge(&invented, -0.5).relevance, 1);
        assert_eq!(judge(&pair("What is this thing", ""), -9.0).clarity, 2);
        assert_eq!(judge(&pair("Who said that they are here", ""), -9.0).clarity, 1);
        assert_eq!(judge(&pair("", ""), f64::NEG_INFINITY).overall, 1);
    }

    #[test]
    fn marks_are_stepped() {
        assert_eq!([-0.2, -1.2, -2.0, -3.0, -9.0].map(|v| step(v, &CLARITY)), [5, 4, 3, 2, 1]);
        assert_eq!([1.0, 0.6, 0.4, 0.2, 0.0].map(|v| step(v, &RELEVANCE)), [5, 4, 3, 2, 1]);
    }
}
