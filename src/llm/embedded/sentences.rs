//! Cuts a Markdown source into sentences and picks those that are worth a question.

use std::ops::Range;

use super::words::{fold, numbers, words};

/// Shortest and longest sentence worth a question, in characters.
const LENGTH: std::ops::RangeInclusive<usize> = 50..=350;

/// Abbreviations whose full stop ends no sentence, in lower case.
const ABBREVIATIONS: &[&str] = &[
    "art", "cf", "ch", "co", "corp", "dept", "dr", "e.g", "eg", "etc", "fig", "i.e", "ie", "inc", "jr", "ltd", "mr",
    "mrs", "ms", "no", "nos", "p", "para", "pp", "prof", "sec", "sr", "st", "u.s", "u.s.c", "vs",
];

/// First words that point back to another sentence.
const UNRESOLVED: &[&str] = &[
    "accordingly",
    "additionally",
    "also",
    "and",
    "but",
    "consequently",
    "furthermore",
    "he",
    "here",
    "hence",
    "however",
    "it",
    "its",
    "moreover",
    "nor",
    "or",
    "otherwise",
    "she",
    "so",
    "such",
    "that",
    "their",
    "then",
    "there",
    "therefore",
    "these",
    "they",
    "this",
    "those",
    "thus",
    "we",
    "which",
    "you",
];

/// Phrases of a sentence that cannot stand by itself.
const DEPENDENT: &[&str] = &[
    "as follows",
    "the following",
    "this chapter",
    "this section",
    "this manual",
    "this table",
    "the table",
    "see section",
    "above,",
    "above.",
    "described below",
    "listed below",
    "shown below",
    "table of contents",
    "all rights reserved",
];

/// Words that make a clause of a line; a line without any is a fragment.
const VERBS: &[&str] = &[
    "accepts",
    "adds",
    "allows",
    "applies",
    "approves",
    "are",
    "begins",
    "can",
    "cannot",
    "contains",
    "continues",
    "costs",
    "counts",
    "covers",
    "decides",
    "does",
    "ends",
    "expires",
    "follows",
    "gives",
    "had",
    "has",
    "have",
    "holds",
    "includes",
    "is",
    "keeps",
    "lasts",
    "limits",
    "loses",
    "mails",
    "makes",
    "may",
    "means",
    "meets",
    "must",
    "needs",
    "pays",
    "provides",
    "receives",
    "remains",
    "replaces",
    "requires",
    "reviews",
    "runs",
    "sends",
    "serves",
    "sets",
    "shall",
    "should",
    "states",
    "submits",
    "takes",
    "was",
    "were",
    "will",
];

/// A sentence of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sentence<'a> {
    /// As it stands in the source, line breaks and markup included.
    pub(super) quote: &'a str,
    /// White space folded and emphasis taken off.
    pub(super) text: String,
    /// Where it begins in the source, in bytes.
    pub(super) start: usize,
}

/// All sentences of a Markdown text, in order. Headings, tables, code and comments hold none.
pub(super) fn sentences(source: &str) -> Vec<Sentence<'_>> {
    let mut found = Vec::new();
    for block in blocks(source) {
        cut(source, block, &mut found);
    }
    found
}

/// The byte ranges of paragraphs and list items, without their markers.
fn blocks(source: &str) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    let (mut open, mut fenced, mut at) = (false, false, 0);
    for line in source.split_inclusive('\n') {
        let (start, end) = (at, at + line.len());
        at = end;
        let text = line.trim();
        if text.starts_with("```") || text.starts_with("~~~") {
            fenced = !fenced;
            open = false;
            continue;
        }
        let skipped = fenced
            || text.is_empty()
            || text.starts_with('#')
            || text.starts_with('|')
            || text.starts_with("<!--")
            || text.starts_with("![")
            || text.chars().all(|c| matches!(c, '-' | '=' | '*' | '_' | ' '))
            || text.contains(". . .")
            || text.contains("....");
        if skipped {
            open = false;
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let marker = marker(text);
        if marker > 0 || !open {
            blocks.push(start + indent + marker..end);
            open = true;
        } else if let Some(last) = blocks.last_mut() {
            last.end = end;
        }
    }
    blocks
}

/// The length in bytes of a list or quotation marker at the beginning of a line, the space behind it included.
fn marker(line: &str) -> usize {
    let Some((first, rest)) = line.split_once(' ') else { return 0 };
    let ordinal = first
        .strip_suffix(['.', ')'])
        .map(|o| o.trim_start_matches('('))
        .is_some_and(|o| (1..=3).contains(&o.len()) && (o.len() == 1 || o.bytes().all(|b| b.is_ascii_digit())));
    if matches!(first, "-" | "*" | "+" | "•" | "▪" | "‣" | ">") || ordinal {
        return line.len() - rest.trim_start().len();
    }
    0
}

/// Cuts one block at full stops, question and exclamation marks that end a sentence.
fn cut<'a>(source: &'a str, block: Range<usize>, found: &mut Vec<Sentence<'a>>) {
    let text = &source[block.clone()];
    let mut start = 0;
    let mut push = |from: usize, to: usize| {
        let raw = &text[from..to];
        let quote = raw.trim();
        if !quote.is_empty() {
            let start = block.start + from + (raw.len() - raw.trim_start().len());
            found.push(Sentence { quote, text: fold(&quote.replace('*', "")), start });
        }
    };
    for (at, mark) in text.char_indices().filter(|(_, c)| matches!(c, '.' | '?' | '!')) {
        if at < start {
            continue;
        }
        let rest = &text[at + 1..];
        let closed = rest.trim_start_matches(['"', '”', '’', ')', ']', '*']);
        let mut end = text.len() - closed.len();
        // A footnote's number may hang on the full stop: it belongs to neither sentence.
        let before = &text[start..at];
        let digits = closed.len() - closed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let note = (1..=2).contains(&digits) && before.ends_with(|c: char| c.is_alphabetic());
        let after = if note { &closed[digits..] } else { closed };
        if note {
            end = at + 1;
        }
        let next = after.trim_start();
        let breaks = after.is_empty() || (after.len() > next.len() && !next.starts_with(|c: char| c.is_lowercase()));
        let last_word =
            before.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default().to_lowercase();
        // A single letter is an initial, unless a common word names it, as in "criterion B."
        let named = before.split_whitespace().rev().nth(1).is_some_and(|w| w.starts_with(char::is_lowercase));
        let initial = last_word.chars().count() == 1 && last_word.chars().all(char::is_alphabetic) && !named;
        let shortened = mark == '.' && !next.is_empty() && (initial || ABBREVIATIONS.contains(&last_word.as_str()));
        if breaks && !shortened {
            push(start, end);
            start = text.len() - after.len();
        }
    }
    push(start, text.len());
}

/// How much a sentence deserves a question; `None` if it deserves none.
pub(super) fn worth(sentence: &str) -> Option<f64> {
    let length = sentence.chars().count();
    let mut all = words(sentence);
    let first = all.next()?.to_lowercase();
    let lower = sentence.to_lowercase();
    // A figure at the beginning is mostly a footnote's or a heading's number.
    let starts_well = sentence.starts_with(|c: char| c.is_uppercase() || c == '$');
    if !LENGTH.contains(&length)
        || !starts_well
        || !sentence.ends_with(['.', '”', ')'])
        || sentence.contains(['|', '`', '<', '>', '{', '}', '[', ']', '?', '\\', '\u{fffd}'])
        || UNRESOLVED.contains(&first.as_str())
        || DEPENDENT.iter().any(|phrase| lower.contains(phrase))
    {
        return None;
    }
    let letters = sentence.chars().filter(|c| c.is_alphabetic() || *c == ' ').count();
    let capitals = words(sentence).filter(|w| w.chars().all(char::is_uppercase)).count();
    let count = words(sentence).count();
    if letters * 10 < length * 8 || count < 7 || capitals * 2 > count {
        return None;
    }
    let verb = words(&lower).skip(1).any(|w| VERBS.contains(&w));
    if !verb && !words(&lower).any(|w| w.ends_with("ed")) {
        return None;
    }
    let has = |list: &[&str]| words(&lower).any(|w| list.contains(&w));
    let mut worth = 1.0;
    let figures = numbers(sentence).len();
    worth += match figures {
        0 => 0.0,
        1 => 2.0,
        2 => 1.0,
        _ => -0.5,
    };
    if has(&["within", "before", "after", "days", "hours", "months", "years", "until", "weeks"]) {
        worth += 0.7;
    }
    if lower.contains(" means ") || lower.contains(" is a ") || lower.contains(" is an ") || lower.contains(" is the ")
    {
        worth += 1.2;
    }
    if has(&["must", "may", "only", "cannot", "shall", "required", "never"]) {
        worth += 0.8;
    }
    if (70..=200).contains(&length) {
        worth += 0.8;
    }
    if has(&["it", "they", "them", "their", "its", "this", "these", "such", "that"]) {
        worth -= 0.4;
    }
    if has(&["exception", "except"]) {
        worth -= 0.3;
    }
    Some(worth)
}

/// Picks up to `wanted` sentences that are `usable`: the best of each equal part of the source, then the best of
/// what is left. In order of the source.
pub(super) fn pick<'a>(source: &'a str, wanted: usize, usable: impl Fn(&str) -> bool) -> Vec<Sentence<'a>> {
    let mut worthy: Vec<(f64, Sentence<'a>)> = Vec::new();
    for sentence in sentences(source) {
        if let Some(worth) = worth(&sentence.text)
            && !worthy.iter().any(|(_, known)| known.text == sentence.text)
            && usable(&sentence.text)
        {
            worthy.push((worth, sentence));
        }
    }
    let part = |s: &Sentence<'_>| s.start * wanted / source.len().max(1);
    // Best first; the sort is stable, so that of equals the earlier comes first.
    worthy.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut taken = vec![false; wanted];
    let (mut picked, mut spare) = (Vec::new(), Vec::new());
    for (_, sentence) in worthy {
        let part = part(&sentence);
        if taken.get(part) == Some(&false) {
            taken[part] = true;
            picked.push(sentence);
        } else {
            spare.push(sentence);
        }
    }
    let room = wanted.saturating_sub(picked.len());
    picked.extend(spare.into_iter().take(room));
    picked.sort_by_key(|s| s.start);
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        sentences(source).into_iter().map(|s| s.text).collect()
    }

    #[test]
    fn sentences_are_cut_and_stand_verbatim_in_the_source() {
        let source = "# Heading one.\n\nThe plan pays\n$1.5 million a year (see No. 4). Dr. Ames of the U.S. office agrees.1 A\nsecond one ends here.\n\n| a table. | row. |\n\n- An item. Of two.\n 2. The next.\n";
        assert_eq!(
            texts(source),
            [
                "The plan pays $1.5 million a year (see No. 4).",
                "Dr. Ames of the U.S. office agrees.",
                "A second one ends here.",
                "An item.",
                "Of two.",
                "The next.",
            ]
        );
        for sentence in sentences(source) {
            assert!(source[sentence.start..].starts_with(sentence.quote));
        }
    }

    #[test]
    fn odd_input_gives_no_panic() {
        for source in ["", ".", "...", "?!", "#", "```\nA b.\n", "- ", "é.\u{a0}Ü!", "1.\n2.\n", "*", "A.1", "a. b. c."]
        {
            let _ = pick(source, 3, |_| true);
            let _ = pick(source, 0, |_| true);
        }
    }

    #[test]
    fn fragments_pointers_and_questions_are_worth_nothing() {
        for poor in [
            "Too short to ask.",
            "This period may be extended by the plan for up to 14 calendar days in a year.",
            "They must be sent to the county office within 10 calendar days after the change.",
            "the member’s name, date of birth and CareBridge number, with the dates of service.",
            "Is a member who changes from one plan to another allowed to keep an existing approval?",
            "Each request must contain the following items and must be signed by the clinician.",
            "Notices, telephone numbers and addresses of the regional offices by county.",
        ] {
            assert_eq!(worth(poor), None, "{poor}");
        }
        let good = worth("A nurse reviewer decides a standard request within 7 calendar days after receipt.");
        let plain = worth("The convenience of the member or of the provider is not a reason for medical necessity.");
        assert!(good > plain && plain.is_some());
    }

    #[test]
    fn picks_are_spread_over_the_source() {
        use std::fmt::Write as _;
        let mut source = String::new();
        for i in 0..12 {
            let _ = write!(
                source,
                "The agency number {i} must answer every letter of a member within {i}0 calendar days. "
            );
        }
        let picked = pick(&source, 4, |_| true);
        let quarters: Vec<_> = picked.iter().map(|s| s.start * 4 / source.len()).collect();
        assert_eq!(quarters, [0, 1, 2, 3]);
        assert_eq!(pick(&source, 50, |_| true).len(), 12);
        assert!(pick(&source, 50, |text| text.contains("number 3")).len() == 1);
        assert!(pick("", 5, |_| true).is_empty());
    }
}
