//! The faults that are planted into good pairs, each a small change that a careless model might make. What is planted
//! follows from the pair and the generator alone.

use std::sync::LazyLock;

use fastrand::Rng;
use regex::Regex;

/// The kinds of faults, in the order in which they are planted.
pub(super) const KINDS: [&str; 12] = [
    "changed_number",
    "changed_date",
    "swapped_number",
    "swapped_negation",
    "foreign_quote",
    "unsupported_claim",
    "vague_reference",
    "refusal",
    "duplicate",
    "duplicate_in_other_words",
    "leak",
    "truncated_answer",
];

/// A pair as far as faults change it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) question: String,
    pub(super) answer: String,
    pub(super) quote: String,
}

/// A pattern of this file.
#[expect(clippy::expect_used, reason = "the patterns are constants, and the tests use every one")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a valid pattern")
}

static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b\d[\d,]*(?:\.\d+)?\b"));
static MONEY: LazyLock<Regex> = LazyLock::new(|| pattern(r"\$\d[\d,]*(?:\.\d+)?\b"));
static DATE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b((?:January|February|March|April|May|June|July|August|September|October|November|December) )(\d{1,2})((?:, \d{4})?)\b",
    )
});
static DENIAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(not|never|cannot)\b"));
static VERB: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(must|may|shall|can|will|should|is|are)\b"));

const CLAIMS: [&str; 8] = [
    "A supervisor must countersign the decision before it takes effect.",
    "The same rule applies to every neighboring state.",
    "An appeal against it is never possible.",
    "The agency publishes a yearly report about it.",
    "Exceptions are granted by the governor alone.",
    "A copy has to be kept by the family physician.",
    "It does not apply to veterans and their widows.",
    "The form is available in large print on request.",
];
const REFUSALS: [&str; 8] = [
    "I'm sorry, but I cannot answer this question from the passage.",
    "The passage does not provide enough information to answer the question.",
    "As an AI language model, I do not have access to this policy.",
    "This is not mentioned in the provided text, so I cannot say.",
    "Unfortunately, the document does not specify the answer to this.",
    "There is no information about this in the given context.",
    "I do not know the answer; please consult the full document.",
    "It cannot be determined from the excerpt what the answer is.",
];

/// Plants a fault of a kind, or `None` where the pair offers no place for it. `passage` is the pair's own,
/// `elsewhere` are quotes from other passages.
pub(super) fn plant(kind: &str, pair: &Pair, passage: &str, elsewhere: &[&str], random: &mut Rng) -> Option<Pair> {
    let mut changed = pair.clone();
    match kind {
        "changed_number" => changed.answer = changed_number(&pair.answer, passage, random)?,
        "changed_date" => changed.answer = changed_date(&pair.answer, passage, random)?,
        "swapped_number" => changed.answer = swapped_number(&pair.answer, passage, random)?,
        "swapped_negation" => changed.answer = swapped_negation(&pair.answer)?,
        "foreign_quote" => {
            let foreign: Vec<&&str> = elsewhere.iter().filter(|quote| !passage.contains(**quote)).collect();
            (*random.choice(foreign)?).clone_into(&mut changed.quote);
        }
        "unsupported_claim" => {
            changed.answer = format!("{} {}", pair.answer.trim_end(), CLAIMS[random.usize(..CLAIMS.len())]);
        }
        "vague_reference" => changed.question = vague(&pair.question, random),
        "refusal" => REFUSALS[random.usize(..REFUSALS.len())].clone_into(&mut changed.answer),
        "duplicate" => match random.u32(..3) {
            0 => {}
            1 => changed.question = pair.question.to_uppercase(),
            _ => changed.answer = pair.answer.replacen(' ', "\n", 2),
        },
        "duplicate_in_other_words" => {
            let opening = ["Please tell: ", "What is the rule here: ", "A reader wants to know: "];
            let opening = opening[random.usize(..opening.len())];
            changed.question = format!("{opening}{}", reworded(&lowered(&pair.question)));
            changed.answer = reworded(&pair.answer);
        }
        "leak" => {
            if pair.answer.chars().count() > 250 {
                return None;
            }
            let told = lowered(pair.answer.trim_end_matches(['.', ' ']));
            changed.question = match random.u32(..3) {
                0 => format!("Is it true that {told}?"),
                1 => format!("Is it correct that {told}?"),
                _ => format!("{}, right?", pair.answer.trim_end_matches(['.', ' '])),
            };
        }
        "truncated_answer" => {
            let words: Vec<&str> = pair.answer.split_whitespace().collect();
            let left = words.len() * random.usize(50..=85) / 100;
            changed.answer = words[..left].join(" ");
        }
        _ => return None,
    }
    (changed != *pair || kind == "duplicate").then_some(changed)
}

/// The answer with one number changed to one that stands nowhere in the passage.
fn changed_number(answer: &str, passage: &str, random: &mut Rng) -> Option<String> {
    let found = random.choice(NUMBER.find_iter(answer).collect::<Vec<_>>())?;
    let known: Vec<&str> = NUMBER.find_iter(passage).map(|number| number.as_str()).collect();
    let other = (0..100).find_map(|_| {
        let digits: String = found
            .as_str()
            .chars()
            .enumerate()
            .map(|(i, c)| match c {
                '0'..='9' if i == 0 => char::from(b'1' + random.u8(..9)),
                '0'..='9' => char::from(b'0' + random.u8(..10)),
                other => other,
            })
            .collect();
        (!known.contains(&digits.as_str())).then_some(digits)
    })?;
    Some(format!("{}{other}{}", &answer[..found.start()], &answer[found.end()..]))
}

/// The answer with the day of a date changed.
fn changed_date(answer: &str, passage: &str, random: &mut Rng) -> Option<String> {
    let found = DATE.captures(answer)?;
    let (whole, month, rest) = (found.get(0)?, found.get(1)?.as_str(), found.get(3)?.as_str());
    let date = (0..100).map(|_| format!("{month}{}{rest}", random.u32(1..=28))).find(|date| !passage.contains(date))?;
    Some(format!("{}{date}{}", &answer[..whole.start()], &answer[whole.end()..]))
}

/// The answer with one number changed to another of the passage, amounts to amounts.
fn swapped_number(answer: &str, passage: &str, random: &mut Rng) -> Option<String> {
    let kind: &Regex = if MONEY.is_match(answer) { &MONEY } else { &NUMBER };
    let found = random.choice(kind.find_iter(answer).collect::<Vec<_>>())?;
    let others: Vec<&str> =
        kind.find_iter(passage).map(|number| number.as_str()).filter(|number| !answer.contains(number)).collect();
    let other = random.choice(others)?;
    Some(format!("{}{other}{}", &answer[..found.start()], &answer[found.end()..]))
}

/// The answer with its first denial taken out, or one put in.
fn swapped_negation(answer: &str) -> Option<String> {
    if let Some(found) = DENIAL.find(answer) {
        let instead = match found.as_str() {
            "never" => "always",
            "cannot" => "can",
            _ => "",
        };
        let changed = format!("{}{instead}{}", &answer[..found.start()], &answer[found.end()..]);
        return Some(changed.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "));
    }
    let found = VERB.find(answer)?;
    Some(format!("{} not{}", &answer[..found.end()], &answer[found.end()..]))
}

/// The question with a reference to its passage.
fn vague(question: &str, random: &mut Rng) -> String {
    let asked = lowered(question);
    let bare = question.trim_end_matches(['?', ' ']);
    match random.u32(..8) {
        0 => format!("According to the text, {asked}"),
        1 => format!("Based on the passage, {asked}"),
        2 => format!("In this section, {asked}"),
        3 => format!("As stated in the document, {asked}"),
        4 => format!("{bare}, as described above?"),
        5 => format!("{bare} according to this policy?"),
        6 => format!("From the information provided, {asked}"),
        _ => format!("What does the excerpt say: {asked}"),
    }
}

/// The text with a small letter first where its first word is an everyday one.
fn lowered(text: &str) -> String {
    const EVERYDAY: [&str; 34] = [
        "What", "How", "Which", "When", "Who", "Whom", "Whose", "Where", "Why", "May", "Must", "Is", "Are", "Does",
        "Do", "Can", "Under", "Within", "By", "After", "If", "For", "The", "A", "An", "It", "No", "Only", "Each",
        "Every", "In", "On", "To", "At",
    ];
    let first = text.split_whitespace().next().unwrap_or_default();
    if !EVERYDAY.contains(&first) {
        return text.to_owned();
    }
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

/// The text with everyday words exchanged for others.
fn reworded(text: &str) -> String {
    const OTHERS: [(&str, &str); 9] = [
        ("must", "has to"),
        ("may", "can"),
        ("within", "in no more than"),
        ("receives", "gets"),
        ("each", "every single"),
        ("before", "prior to"),
        ("when", "in case"),
        ("provide", "lay down"),
        ("only", "solely"),
    ];
    let word = |word: &str| OTHERS.iter().find(|(known, _)| *known == word).map_or(word, |(_, other)| other).to_owned();
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSAGE: &str = "From July 1, 2025 a member may not pay more than $25 for each of 6 visits. The limit for a \
        child is $10. A provider must report within 10 days.";

    fn pair() -> Pair {
        Pair {
            question: "What may a member pay for each visit?".into(),
            answer: "From July 1, 2025 a member may not pay more than $25 for each of 6 visits.".into(),
            quote: "a member may not pay more than $25 for each of 6 visits".into(),
        }
    }

    #[test]
    fn every_kind_is_planted_and_again_the_same() {
        let elsewhere = ["A claim must arrive within 95 days of the notice.", "a member may not pay more than $25"];
        for kind in KINDS {
            for seed in 0..40 {
                let planted = plant(kind, &pair(), PASSAGE, &elsewhere, &mut Rng::with_seed(seed)).unwrap();
                let again = plant(kind, &pair(), PASSAGE, &elsewhere, &mut Rng::with_seed(seed)).unwrap();
                assert_eq!(planted, again, "{kind}");
                let new_numbers = |text: &str| NUMBER.find_iter(text).filter(|n| !PASSAGE.contains(n.as_str())).count();
                match kind {
                    "changed_number" => assert!(planted.answer != pair().answer && planted.quote == pair().quote),
                    "swapped_number" => assert_eq!(new_numbers(&planted.answer), 0, "{}", planted.answer),
                    "swapped_negation" => assert!(planted.answer.contains("may pay more"), "{}", planted.answer),
                    "foreign_quote" => assert_eq!(planted.quote, elsewhere[0]),
                    "truncated_answer" => assert!(pair().answer.starts_with(&planted.answer)),
                    "changed_date" => {
                        assert!(planted.answer.starts_with("From July ") && planted.answer != pair().answer);
                    }
                    _ => {}
                }
            }
        }
        insta::assert_snapshot!(plant("leak", &pair(), PASSAGE, &[], &mut Rng::with_seed(3)).unwrap().question, @"From July 1, 2025 a member may not pay more than $25 for each of 6 visits, right?");
    }

    #[test]
    fn what_has_no_place_is_not_planted() {
        let bare = Pair { answer: "Nobody knows anything about it whatsoever.".into(), ..pair() };
        for kind in ["changed_number", "changed_date", "swapped_number", "swapped_negation", "foreign_quote", "no_kind"]
        {
            assert_eq!(plant(kind, &bare, PASSAGE, &[], &mut Rng::with_seed(1)), None, "{kind}");
        }
    }
}
