//! Answers a question by rule: the sentence of the source that fits it best. No model is asked.

use std::collections::{BTreeMap, BTreeSet};

use super::sentences::{Sentence, sentences};
use super::words::{content, numbers};

/// The least share of a question's weight that a sentence must hold to count as its answer; chosen so that a question
/// about one chapter of an invented policy finds none in the others.
const ENOUGH: f64 = 0.5;

/// The sentence that fits a question best; `None` if none fits well enough or two different ones fit equally well.
///
/// Words weigh by their rarity among the sentences, as in BM25 (Robertson and Zaragoza, 2009), whose saturation
/// matters little within single sentences and is left out.
pub(super) fn retrieve(source: &str, question: &str) -> Option<String> {
    let all: Vec<(Sentence<'_>, BTreeSet<String>)> =
        sentences(source).into_iter().map(|s| (content(&s.text), s)).map(|(c, s)| (s, c)).collect();
    let mut frequency: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, stems) in &all {
        for stem in stems {
            *frequency.entry(stem).or_default() += 1;
        }
    }
    let count = all.len() as f64;
    let weight = |stem: &str| {
        let n = frequency.get(stem).copied().unwrap_or(0) as f64;
        (1.0 + (count - n + 0.5) / (n + 0.5)).ln()
    };
    let asked = content(question);
    let total: f64 = asked.iter().map(|stem| weight(stem)).sum();
    if total <= 0.0 {
        return None;
    }
    let quantity = ["how many", "how much", "how often", "how long", "how old", "what percentage"]
        .iter()
        .any(|start| question.to_lowercase().contains(start));
    let defined = defined_term(question);
    let mut best: Option<(f64, usize, &Sentence<'_>)> = None;
    let mut tied = false;
    for (sentence, stems) in &all {
        let held: f64 = asked.intersection(stems).map(|stem| weight(stem)).sum::<f64>() / total;
        // A question for a figure is answered by a sentence that has one; of equals, the one with less beside.
        let fit = if quantity && numbers(&sentence.text).is_empty() { held * 0.5 } else { held };
        let fit = if defined.as_deref().is_some_and(|term| defines(&sentence.text, term)) { fit + 0.5 } else { fit };
        let beside = stems.difference(&asked).count();
        let better = best.is_none_or(|(known, size, _)| fit > known || (same(fit, known) && beside < size));
        if better {
            tied = best
                .is_some_and(|(known, size, other)| same(fit, known) && beside == size && other.text != sentence.text);
            best = Some((fit, beside, sentence));
        } else if best
            .is_some_and(|(known, size, other)| same(fit, known) && beside == size && other.text != sentence.text)
        {
            tied = true;
        }
    }
    let (fit, _, sentence) = best?;
    (fit >= ENOUGH && !tied).then(|| sentence.text.clone())
}

/// The term, in lower case and without article, whose meaning a question asks for.
fn defined_term(question: &str) -> Option<String> {
    let lower = question.to_lowercase();
    let asked = lower.strip_suffix('?')?;
    let term = match asked.strip_prefix("what does ") {
        Some(rest) => rest.strip_suffix(" mean")?.trim_start_matches("the term "),
        None => asked.strip_prefix("what is ")?,
    };
    Some(without_article(term).to_owned())
}

/// Whether a sentence says what `term` is.
fn defines(sentence: &str, term: &str) -> bool {
    let lower = sentence.to_lowercase();
    without_article(&lower).strip_prefix(term).is_some_and(|rest| {
        [" is a ", " is an ", " is the ", " means ", " mean ", " are "].iter().any(|verb| rest.starts_with(verb))
    })
}

fn without_article(text: &str) -> &str {
    ["a ", "an ", "the "].iter().find_map(|article| text.strip_prefix(article)).unwrap_or(text)
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "The plan must decide a standard appeal within 28 calendar days. The plan must decide an expedited \
        appeal within 60 hours. A member may file an appeal by telephone. An oral appeal needs no letter.";

    #[test]
    fn the_sentence_that_fits_best_answers() {
        let answer = |q: &str| retrieve(SOURCE, q);
        assert_eq!(
            answer("Within how many hours must the plan decide an expedited appeal?").as_deref(),
            Some("The plan must decide an expedited appeal within 60 hours.")
        );
        assert_eq!(
            answer("How may a member file an appeal?").as_deref(),
            Some("A member may file an appeal by telephone.")
        );
    }

    #[test]
    fn a_definition_is_found_among_sentences_that_use_its_term() {
        let source =
            "A plan is paid each month. A copayment is the share that a member pays. The copayment is never due twice.";
        for question in ["What is a copayment?", "What does copayment mean?"] {
            let answer = retrieve(&format!("{source} The plan keeps the copayment."), question).unwrap();
            assert!(answer.contains("copayment is"), "{question}: {answer}");
        }
    }

    #[test]
    fn what_the_source_does_not_say_is_not_answered() {
        assert_eq!(retrieve(SOURCE, "What is the income limit of a household of three?"), None);
        assert_eq!(retrieve(SOURCE, ""), None);
        assert_eq!(retrieve("", "Who may file an appeal?"), None);
    }

    #[test]
    fn a_tie_is_no_answer() {
        let source = "The county office keeps the red form. The county office keeps the blue form.";
        assert_eq!(retrieve(source, "Which form does the county office keep?"), None);
    }
}
