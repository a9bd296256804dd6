//! Words as the embedded model's rules see them: content words, stems, numbers.

use std::collections::BTreeSet;

/// Words that carry no content of their own.
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "been", "before", "being",
    "between", "both", "but", "by", "can", "could", "did", "do", "does", "during", "each", "every", "for", "from",
    "had", "has", "have", "he", "her", "his", "how", "if", "in", "into", "is", "it", "its", "least", "long", "many",
    "may", "might", "more", "most", "much", "must", "no", "nor", "not", "of", "off", "often", "on", "once", "only",
    "or", "other", "out", "over", "own", "per", "same", "shall", "she", "should", "so", "some", "such", "term", "than",
    "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "through", "to", "too", "under",
    "unless", "until", "up", "upon", "very", "was", "were", "what", "when", "where", "whether", "which", "while",
    "who", "whom", "whose", "why", "will", "with", "within", "without", "would", "you", "your",
];

/// Whether a lower-case word carries no content of its own.
pub(super) fn is_stop_word(word: &str) -> bool {
    STOP_WORDS.binary_search(&word).is_ok()
}

/// White space folded to single spaces, none at the ends.
pub(super) fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
    }
    folded
}

/// The words of a text as they stand, without the punctuation around them.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || matches!(c, '/' | '—' | '–'))
        .map(|word| word.trim_matches(|c: char| !(c.is_alphanumeric() || matches!(c, '$' | '%'))))
        .filter(|word| !word.is_empty())
}

/// A word's stem: lower case, without possessive and without the commonest endings. In the manner of Harman,
/// "How effective is suffixing?" (1991), with `-ed` and `-ing` added; good for matching only.
pub(super) fn stem(word: &str) -> String {
    let lower = word.to_lowercase().replace('’', "'");
    let mut stem = lower.strip_suffix("'s").unwrap_or(&lower).trim_end_matches('\'').to_owned();
    if stem.chars().any(|c| c.is_ascii_digit()) || !stem.is_ascii() {
        return stem;
    }
    let long_enough = |rest: &str| rest.len() >= 3 && rest.bytes().any(|b| b"aeiouy".contains(&b));
    if let Some(rest) = stem.strip_suffix("ies").filter(|r| r.len() >= 2) {
        stem = format!("{rest}y");
    } else if stem.ends_with('s') && !stem.ends_with("ss") && !stem.ends_with("us") && stem.len() > 3 {
        stem.pop();
    }
    for ending in ["ing", "ed"] {
        if let Some(rest) = stem.strip_suffix(ending).filter(|r| long_enough(r)) {
            stem = rest.to_owned();
            let bytes = stem.as_bytes();
            // "stopped" → "stop", but "billed" → "bill".
            if bytes.len() > 3
                && bytes[bytes.len() - 1] == bytes[bytes.len() - 2]
                && !b"lsz".contains(&bytes[bytes.len() - 1])
            {
                stem.pop();
            }
            break;
        }
    }
    if stem.len() > 3 && stem.ends_with('e') {
        stem.pop();
    }
    if stem.len() > 3 && stem.ends_with('i') {
        stem.pop();
        stem.push('y');
    }
    stem
}

/// Stems of the content words of a text, numbers among them.
pub(super) fn content(text: &str) -> BTreeSet<String> {
    words(text).filter(|w| !is_stop_word(&w.to_lowercase())).map(stem).collect()
}

/// The numbers of a text, digits and what joins them: `1,320` and `3.5` are one number each, `OCR-1` holds 1.
pub(super) fn numbers(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut number = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_digit() {
            number.push(c);
        } else if matches!(c, ',' | '.') && !number.is_empty() && chars.peek().is_some_and(char::is_ascii_digit) {
            if c == '.' {
                number.push(c);
            }
        } else if !number.is_empty() {
            found.insert(std::mem::take(&mut number));
        }
    }
    if !number.is_empty() {
        found.insert(number);
    }
    found
}

/// What share of `of` stands in `within`, 0 to 1; 1 if `of` is empty.
pub(super) fn coverage(of: &BTreeSet<String>, within: &BTreeSet<String>) -> f64 {
    if of.is_empty() { 1.0 } else { of.intersection(within).count() as f64 / of.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.is_sorted());
    }

    #[test]
    fn stems_bring_forms_of_a_word_together() {
        for (a, b) in [
            ("decides", "decide"),
            ("decided", "deciding"),
            ("agencies", "agency"),
            ("stopped", "stops"),
            ("member’s", "members"),
            ("notices", "notice"),
            ("applied", "apply"),
            ("billed", "bill"),
        ] {
            assert_eq!(stem(a), stem(b), "{a} and {b}");
        }
        assert_ne!(stem("plan"), stem("planet"));
        assert_eq!(stem("status"), "status");
        assert_eq!(stem("99213"), "99213");
    }

    #[test]
    fn numbers_are_read_whole() {
        let found = numbers("Up to $1,320.50 within 30 days, rule 41-9, form OCR-1.");
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["1", "1320.50", "30", "41", "9"]);
    }

    #[test]
    fn content_drops_what_carries_none() {
        let found = content("How many days does the member have?");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["day", "member"]);
    }
}
