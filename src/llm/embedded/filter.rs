//! Refuses questions that are not worth keeping, and picks the best question of each sentence.

use super::angles::Angle;
use super::questions::{Candidate, EXAMPLES};
use super::words::{content, coverage, is_stop_word, numbers, words};

/// Mean log-likelihoods below these are refused. Calibrated by reading some 200 questions about invented policies:
/// what lay below was mostly ungrammatical.
const LIKELY: f64 = -1.0;
/// The same for questions after a thing, which go wrong more often.
const LIKELY_THING: f64 = -0.45;

/// Phrases that only make sense beside the source.
const VAGUE: &[&str] = &[
    "this section",
    "this chapter",
    "the passage",
    "this text",
    "the document",
    "the sentence",
    "the following",
    "listed above",
];

/// Why a question is refused; `None` if nothing speaks against it.
pub(super) fn fault(candidate: &Candidate, sentence: &str) -> Option<&'static str> {
    let Candidate { question, angle, likelihood, .. } = candidate;
    let definition = angle.kind == "definition";
    let lower = question.to_lowercase();
    let all: Vec<&str> = words(&lower).collect();
    let (asked, told) = (content(question), content(sentence));
    let known = asked.intersection(&told).count();
    let thing = angle.start.starts_with("What ") && angle.kind == "factual";
    let least = match angle.kind {
        "definition" => 1,
        "factual" => 3,
        _ => 2,
    };
    let faults = [
        (!question.ends_with('?') || question.matches('?').count() != 1, "it is not one question"),
        (all.len() < if definition { 3 } else { 5 }, "it is too short"),
        (all.len() > 40, "it is too long"),
        (known < least, "it could be asked about anything"),
        (!numbers(question).is_subset(&numbers(sentence)), "it holds a number that its sentence lacks"),
        (asked.len() - known > 1, "it says what its sentence does not"),
        (gives_away(question, angle, sentence), "it gives its answer away"),
        (all.last().is_some_and(|w| is_stop_word(w)) && !definition, "it breaks off"),
        (cuts_a_name(question, sentence), "it cuts a name"),
        (all.windows(2).any(|w| w[0] == w[1]), "it stutters"),
        (
            asked.iter().any(|stem| occurrences(question, stem) > occurrences(sentence, stem).max(2)),
            "it repeats itself",
        ),
        (VAGUE.iter().any(|phrase| lower.contains(phrase)), "it points at the text"),
        (EXAMPLES.iter().any(|(_, example)| coverage(&content(example), &asked) > 0.8), "it copies an example"),
        (*likelihood < if thing { LIKELY_THING } else { LIKELY }, "the model itself finds it unlikely"),
    ];
    faults.into_iter().find_map(|(faulty, why)| faulty.then_some(why))
}

/// Whether the question tells what it asks for.
fn gives_away(question: &str, angle: &Angle, sentence: &str) -> bool {
    let figures = numbers(&angle.focus);
    if angle.kind == "numeric" && !figures.is_empty() {
        // The unit belongs into the question, the figure does not, unless it stands in the sentence once more.
        let elsewhere = numbers(&sentence.replacen(&angle.focus, " ", 1));
        return numbers(question).intersection(&figures).any(|figure| !elsewhere.contains(figure));
    }
    let focus = content(&angle.focus);
    !focus.is_empty() && coverage(&focus, &content(question)) > 0.6
}

/// Whether the question ends within a name that goes on in the sentence, as in "the Health" of "the Health Authority".
fn cuts_a_name(question: &str, sentence: &str) -> bool {
    let Some(last) = words(question).last().filter(|w| w.starts_with(char::is_uppercase)) else { return false };
    let last = format!("{last} ");
    let mut rest = sentence.split(&last).skip(1).peekable();
    rest.peek().is_some() && rest.all(|behind| behind.starts_with(char::is_uppercase))
}

fn occurrences(text: &str, stem: &str) -> usize {
    words(text).filter(|word| super::words::stem(word) == stem).count()
}

/// The rank of a question among those about the same and other sentences: its likelihood, and what its kind is worth.
pub(super) fn rank(candidate: &Candidate) -> f64 {
    let kind = match candidate.angle.kind {
        "numeric" | "conditional" => 0.3,
        "procedural" => 0.2,
        "definition" => -0.1,
        // "Who": little is asked if the answer is just "the member".
        _ if words(&candidate.angle.focus).count() <= 2 => -0.2,
        _ if candidate.angle.start.starts_with("What") => -0.2,
        _ => 0.0,
    };
    candidate.likelihood + kind
}

/// The best faultless question of each sentence, at most `wanted` in all, in the order of the sentences.
pub(super) fn best(candidates: Vec<Candidate>, sentences: &[&str], wanted: usize) -> Vec<Candidate> {
    let mut chosen: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let Some(sentence) = sentences.get(candidate.sentence) else { continue };
        if fault(&candidate, sentence).is_some() || chosen.iter().any(|c| c.question == candidate.question) {
            continue;
        }
        match chosen.iter_mut().find(|c| c.sentence == candidate.sentence) {
            Some(known) if rank(&candidate) > rank(known) => *known = candidate,
            Some(_) => {}
            None => chosen.push(candidate),
        }
    }
    chosen.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
    chosen.truncate(wanted);
    chosen.sort_by_key(|c| c.sentence);
    chosen
}

/// The name of a question's kind among the `types` asked for: its own or one that holds it, as "numeric threshold"
/// holds "numeric"; else factual, else the first. Its own if no types are given.
pub(super) fn type_name(kind: &str, types: &[String]) -> String {
    let named = |name: &str| types.iter().find(|t| t.to_lowercase().contains(name));
    named(kind).or_else(|| named("factual")).or_else(|| types.first()).cloned().unwrap_or_else(|| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENTENCE: &str =
        "The plan must decide an internal appeal within 28 calendar days after the request of May 1.";

    fn candidate(question: &str) -> Candidate {
        let angle = Angle { focus: "within 28 calendar days".into(), start: "Within".into(), kind: "numeric" };
        Candidate { sentence: 0, angle, question: question.into(), likelihood: -0.4, tokens: 9 }
    }

    #[test]
    fn faults_are_named() {
        for (question, why) in [
            ("Within how many calendar days must the plan decide an internal appeal?", None),
            ("Within how many days must the plan decide an appeal of May 1?", None),
            ("How many days? How many appeals must the plan decide?", Some("it is not one question")),
            ("The plan decides?", Some("it is too short")),
            ("What is it that they are to do within the days?", Some("it could be asked about anything")),
            (
                "Must the plan decide an internal appeal within 30 days?",
                Some("it holds a number that its sentence lacks"),
            ),
            ("Must the plan decide an internal appeal within 28 days?", Some("it gives its answer away")),
            (
                "Which hospital pharmacies must decide an internal appeal of the plan?",
                Some("it says what its sentence does not"),
            ),
            ("Within how many days must the plan decide an internal appeal of the?", Some("it breaks off")),
            ("Within how many days must the plan decide decide an internal appeal?", Some("it stutters")),
            ("When must the plan appeal an appeal of an internal appeal?", Some("it repeats itself")),
            ("When must the plan in this section decide an appeal?", Some("it points at the text")),
        ] {
            assert_eq!(fault(&candidate(question), SENTENCE), why, "{question}");
        }
        assert!(cuts_a_name("Who runs the Calloway Health?", "The board runs the Calloway Health Authority."));
        assert!(!cuts_a_name("Who runs Calloway?", "The Calloway Board runs Calloway by itself."));
        let unlikely =
            Candidate { likelihood: -1.5, ..candidate("Within how many days must the plan decide an appeal?") };
        assert_eq!(fault(&unlikely, SENTENCE), Some("the model itself finds it unlikely"));
    }

    #[test]
    fn the_best_question_of_each_sentence_stays() {
        let good = candidate("Within how many calendar days must the plan decide an internal appeal?");
        let worse = Candidate { likelihood: -0.9, ..candidate("Within how many days must the plan decide an appeal?") };
        let other = Candidate {
            sentence: 1,
            likelihood: -0.1,
            ..candidate("Within how many days must the plan decide a request?")
        };
        let chosen = best(vec![worse, good.clone(), other.clone()], &[SENTENCE, SENTENCE], 5);
        assert_eq!(chosen, [good.clone(), other.clone()]);
        assert_eq!(best(vec![good, other.clone()], &[SENTENCE, SENTENCE], 1), [other]);
        assert!(best(Vec::new(), &[], 3).is_empty());
    }

    #[test]
    fn types_are_taken_from_those_asked_for() {
        let types = ["factual".to_owned(), "numeric threshold".to_owned()];
        assert_eq!(type_name("numeric", &types), "numeric threshold");
        assert_eq!(type_name("procedural", &types), "factual");
        assert_eq!(type_name("procedural", &types[1..]), "numeric threshold");
        assert_eq!(type_name("procedural", &[]), "procedural");
    }
}
