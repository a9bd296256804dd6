//! The words a question may be made of: those of its sentence and the small words of the language. Holding the
//! model to them keeps it from inventing, without a grammar.

use std::collections::BTreeMap;

use super::tokenizer::Tokenizer;
use super::words::{is_stop_word, words};

/// Words that any question may use: none that could turn its meaning, as "before" or "not" would.
const COMMON: &[&str] = &[
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "for", "from", "has", "have", "if", "in", "into", "is",
    "may", "must", "of", "on", "or", "that", "the", "to", "was", "were", "when", "who", "with",
];

/// One place within the words.
#[derive(Default)]
struct Node {
    children: BTreeMap<u32, usize>,
    ends_word: bool,
    /// Whether the word that ends here may also end a question; small words would leave it hanging.
    ends_question: bool,
}

/// Allowed words as a tree of tokens.
pub(super) struct Vocabulary {
    nodes: Vec<Node>,
}

/// Where a row stands within [`Vocabulary`].
pub(super) type Place = usize;

impl Vocabulary {
    /// Between two words.
    pub(super) const BETWEEN: Place = 0;

    /// The words for questions about `sentence`.
    pub(super) fn new(tokenizer: &Tokenizer, sentence: &str) -> Result<Self, String> {
        let mut vocabulary = Self { nodes: vec![Node::default()] };
        for word in COMMON {
            vocabulary.insert(&tokenizer.encode(&format!(" {word}"))?, false);
        }
        for (i, word) in words(sentence).enumerate() {
            let closes = !is_stop_word(&word.to_lowercase());
            // The first word has its capital from its place, unless it has others.
            if i > 0 || word.chars().skip(1).any(char::is_uppercase) {
                vocabulary.insert(&tokenizer.encode(&format!(" {word}"))?, closes);
            }
            if i == 0 {
                vocabulary.insert(&tokenizer.encode(&format!(" {}", word.to_lowercase()))?, closes);
            }
            for form in base_forms(word) {
                let tokens = tokenizer.encode(&format!(" {form}"))?;
                // A form that is one token is a word that the model knows.
                if tokens.len() == 1 {
                    vocabulary.insert(&tokens, closes);
                }
            }
        }
        Ok(vocabulary)
    }

    fn insert(&mut self, tokens: &[u32], closes: bool) {
        let mut at = 0;
        for token in tokens {
            at = if let Some(next) = self.nodes[at].children.get(token) {
                *next
            } else {
                self.nodes.push(Node::default());
                let next = self.nodes.len() - 1;
                self.nodes[at].children.insert(*token, next);
                next
            };
        }
        self.nodes[at].ends_word = at != 0;
        self.nodes[at].ends_question |= at != 0 && closes;
    }

    /// The tokens that may follow at `place`. A word that is complete may be followed by another.
    pub(super) fn next(&self, place: Place) -> impl Iterator<Item = u32> + '_ {
        let fresh = self.nodes[place].ends_word.then(|| self.nodes[0].children.keys());
        self.nodes[place].children.keys().chain(fresh.into_iter().flatten()).copied()
    }

    /// Whether a question may end at `place`.
    pub(super) fn may_end(&self, place: Place) -> bool {
        self.nodes[place].ends_question
    }

    /// Where `token` leads from `place`; outside the words it leads between two.
    pub(super) fn follow(&self, place: Place, token: u32) -> Place {
        let fresh = || self.nodes[0].children.get(&token).copied();
        self.nodes[place].children.get(&token).copied().or_else(fresh).unwrap_or(Self::BETWEEN)
    }
}

/// What a verb or noun with an ending may come from; some of it is no word.
fn base_forms(word: &str) -> Vec<String> {
    let lower = word.to_lowercase();
    if !lower.bytes().all(|b| b.is_ascii_lowercase()) || lower.len() < 4 {
        return Vec::new();
    }
    let mut forms = Vec::new();
    if let Some(base) = lower.strip_suffix("ies") {
        forms.push(format!("{base}y"));
    } else if let Some(base) = ["ches", "shes", "sses", "xes", "zes"]
        .iter()
        .any(|e| lower.ends_with(e))
        .then(|| lower.strip_suffix("es"))
        .flatten()
    {
        forms.push(base.to_owned());
    } else if let Some(base) = lower.strip_suffix('s').filter(|b| !b.ends_with('s')) {
        forms.push(base.to_owned());
    } else if let Some(base) = lower.strip_suffix("ied") {
        forms.push(format!("{base}y"));
    } else if let Some(base) = lower.strip_suffix("ed") {
        forms.push(format!("{base}e"));
        forms.push(base.to_owned());
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_brought_to_forms_that_may_be_words() {
        assert_eq!(base_forms("Denies"), ["deny"]);
        assert_eq!(base_forms("reaches"), ["reach"]);
        assert_eq!(base_forms("closed"), ["close", "clos"]);
        assert_eq!(base_forms("members"), ["member"]);
        assert!(base_forms("OCR-1").is_empty() && base_forms("has").is_empty());
    }
}
