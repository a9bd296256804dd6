//! Plausible judgements of a pair against its passage: by the words and numbers that both share.

use serde::{Deserialize, Serialize};

use super::answers::{Input, Prompt};
use super::draw;
use super::sentences::{after_source, content_words, fold, negated, sentences, source, word_key};

/// Purpose of the draw.
const DOUBT: u64 = 15;
/// Share of pairs that the judge doubts without a reason in the text.
const DOUBTS_SHARE: f64 = 0.02;
/// The least share of a claim's words that stand in the passage for it to be supported.
const SUPPORTED: f64 = 0.7;
/// The least share of a question's words that stand in the answer for it to answer the question.
const ANSWERED: f64 = 0.3;
/// The most claims given.
const MOST_CLAIMS: usize = 20;
/// What a question says only beside its passage.
const VAGUE: [&str; 12] = [
    "the text",
    "the passage",
    "this passage",
    "this section",
    "this chapter",
    "the document",
    "this document",
    "the excerpt",
    "this policy",
    "described above",
    "the author",
    "mentioned here",
];
/// Words of a question that are about asking.
const ASKING: [&str; 12] = [
    "figure",
    "set",
    "handle",
    "conditions",
    "apply",
    "define",
    "exception",
    "make",
    "compare",
    "many",
    "much",
    "long",
];

/// A judgement, the claims and the reason first.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(Deserialize))]
pub(super) struct Judgement {
    pub(super) claims: Vec<Claim>,
    pub(super) reason: String,
    pub(super) groundedness: u8,
    pub(super) relevance: u8,
    pub(super) self_contained: u8,
}

/// One statement of an answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) claim: String,
    pub(super) supported: bool,
}

/// Judges the pair in the prompt's input line.
pub(super) fn judge(prompt: &Prompt<'_>) -> Judgement {
    let Input { question, answer, .. } = Input::of(prompt.user);
    let passage = source(prompt.user);
    let meant_unanswerable = after_source(prompt.user).contains("meant to have no answer");
    let claims: Vec<Claim> = statements(&answer)
        .take(MOST_CLAIMS)
        .map(|statement| Claim {
            supported: meant_unanswerable || supported(statement, passage),
            claim: fold(statement),
        })
        .collect();
    let unsupported = claims.iter().filter(|claim| !claim.supported).count();
    let doubted = draw(prompt.seed, DOUBT, prompt.content) < DOUBTS_SHARE * prompt.doubts;
    let groundedness = match (unsupported, doubted) {
        (0, false) => 5,
        (0, true) => 3,
        (all, _) if all == claims.len() => 1,
        _ => 2,
    };
    let relevance = match share_held(&question, &answer) {
        _ if meant_unanswerable => 2,
        share if share >= ANSWERED => 2,
        share if share > 0.0 => 1,
        _ => 0,
    };
    let lower = question.to_lowercase();
    let vague = VAGUE.iter().find(|phrase| lower.contains(*phrase));
    let reason = match (unsupported, vague) {
        (0, None) if doubted => "The passage puts it a little otherwise.".into(),
        (0, None) => "Nothing is wrong.".into(),
        (0, Some(phrase)) => format!("The question speaks of {phrase}."),
        (n, _) => format!("The passage does not support {n} of {} statements.", claims.len()),
    };
    Judgement { claims, reason, groundedness, relevance, self_contained: u8::from(vague.is_none()) }
}

/// The sentences and parts of sentences of an answer.
fn statements(answer: &str) -> impl Iterator<Item = &str> {
    answer
        .split_inclusive(['.', ';', '!', '?'])
        .scan(0, |start, part| {
            let from = *start;
            *start += part.len();
            Some((from, *start))
        })
        // `435.916` and `$1.50` are no two sentences.
        .fold(Vec::<(usize, usize)>::new(), |mut all, (from, to)| {
            let joins = !answer[from..].starts_with(char::is_whitespace) && from > 0;
            match all.last_mut() {
                Some(last) if joins => last.1 = to,
                _ => all.push((from, to)),
            }
            all
        })
        .into_iter()
        .map(|(from, to)| answer[from..to].trim())
        .filter(|part| content_words(part).next().is_some())
}

/// Whether the passage has the statement's words and all of its numbers, and denies as often as it.
fn supported(statement: &str, passage: &str) -> bool {
    let words: Vec<u64> = content_words(statement).map(word_key).collect();
    let held: std::collections::HashSet<u64> = content_words(passage).map(word_key).collect();
    let share = words.iter().filter(|word| held.contains(word)).count() as f64 / words.len().max(1) as f64;
    let numbers = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | ','))
            .map(|word| word.trim_matches(['.', ',']).replace(',', ""))
            .filter(|word| word.contains(|c: char| c.is_ascii_digit()))
            .collect()
    };
    let known = numbers(passage);
    if share < SUPPORTED || numbers(statement).iter().any(|number| !known.contains(number)) {
        return false;
    }
    let all = sentences(passage);
    let closest = all.iter().max_by_key(|sentence| {
        let there: std::collections::HashSet<u64> = content_words(sentence.text).map(word_key).collect();
        words.iter().filter(|word| there.contains(word)).count()
    });
    closest.is_none_or(|sentence| negated(sentence.text) == negated(statement))
}

/// The share of a question's words that stand in the answer.
fn share_held(question: &str, answer: &str) -> f64 {
    let held: std::collections::HashSet<u64> = content_words(answer).map(word_key).collect();
    let asked: Vec<u64> =
        content_words(question).filter(|word| !ASKING.contains(&word.to_lowercase().as_str())).map(word_key).collect();
    if asked.is_empty() {
        return 1.0;
    }
    asked.iter().filter(|word| held.contains(word)).count() as f64 / asked.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "The plan pays $1.50 for each meal. A member may not bring more than 2 guests. Claims must arrive within 365 days.";

    fn judged(question: &str, answer: &str, note: &str) -> Judgement {
        let input = serde_json::json!({"question": question, "answer": answer, "quote": answer});
        let user = format!("<source id=\"ab\">\n{SOURCE}\n</source id=\"ab\">\n\nJudge.{note}\n\nInput: {input}");
        judge(&Prompt { user: &user, content: 1, seed: 1, bad_pairs: 0.0, doubts: 1.0 })
    }

    #[test]
    fn what_the_passage_says_is_supported() {
        let good = judged("What does the plan pay for each meal?", "The plan pays $1.50 for each meal.", "");
        assert_eq!((good.groundedness, good.relevance, good.self_contained, good.claims.len()), (5, 2, 1, 1));
        assert_eq!(good.reason, "Nothing is wrong.");
    }

    #[test]
    fn what_is_wrong_is_found() {
        for answer in [
            "The plan pays $1.75 for each meal.",
            "A member may bring more than 2 guests.",
            "The plan pays $1.50 for each meal. A nurse supervises every kitchen in the county.",
        ] {
            let wrong = judged("What does the plan pay for each meal?", answer, "");
            assert!(
                wrong.groundedness <= 2 && wrong.claims.iter().any(|claim| !claim.supported),
                "{answer}: {wrong:?}"
            );
        }
        assert_eq!(judged("By when must claims arrive?", "The plan pays $1.50 for each meal.", "").relevance, 0);
        assert_eq!(
            judged("What does this section say of meals?", "The plan pays $1.50 for each meal.", "").self_contained,
            0
        );
        let unanswerable = judged("What about parking?", "The plan does not state it.", " meant to have no answer");
        assert_eq!((unanswerable.groundedness, unanswerable.relevance), (5, 2));
    }
}
