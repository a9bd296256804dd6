//! Sentences and words of a source text: just enough linguistics for plausible answers.

/// The fewest characters of a sentence that can be an answer.
pub(super) const SHORTEST: usize = 50;
/// The most characters of a sentence.
const LONGEST: usize = 500;

/// The source in a prompt: what stands between `<source id="…">` and its closing tag, or all of it without one.
pub(super) fn source(prompt: &str) -> &str {
    const OPEN: &str = "<source id=\"";
    let whole = || {
        let Some(start) = prompt.find(OPEN) else { return prompt };
        let after = &prompt[start + OPEN.len()..];
        let Some((id, rest)) = after.split_once("\">\n") else { return prompt };
        // The id keeps a source that contains a closing tag from ending early.
        let end = rest.rfind(&format!("\n</source id=\"{id}\">"));
        end.map_or(rest, |end| &rest[..end])
    };
    whole()
}

/// What stands behind the source in a prompt: the instruction and the input. All of it without a source.
pub(super) fn after_source(prompt: &str) -> &str {
    let text = source(prompt);
    let at = text.as_ptr() as usize - prompt.as_ptr() as usize + text.len();
    if text.len() == prompt.len() { prompt } else { &prompt[at..] }
}

/// Whether a text says no.
pub(super) fn negated(text: &str) -> bool {
    const NO: [&str; 9] = ["not", "no", "never", "none", "cannot", "neither", "nor", "without", "nothing"];
    text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’')
        .any(|word| NO.iter().any(|no| word.eq_ignore_ascii_case(no)) || word.ends_with("n't") || word.ends_with("n’t"))
}

/// A sentence as it stands in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sentence<'a> {
    pub(super) text: &'a str,
    /// Running text, as opposed to a table row, a heading or a fragment.
    pub(super) prose: bool,
}

/// The sentences of a text in order, without those of less than 20 characters.
pub(super) fn sentences(text: &str) -> Vec<Sentence<'_>> {
    let mut found = Vec::with_capacity(16);
    let mut paragraph: Option<(usize, usize)> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let (start, end) = (at, at + line.trim_end().len());
        at += line.len();
        let content = line.trim();
        let apart = content.starts_with(['|', '#', '<']) || content.starts_with("```");
        let item = is_list_item(content);
        if (content.is_empty() || apart || item)
            && let Some((from, to)) = paragraph.take()
        {
            split(&text[from..to], &mut found);
        }
        if apart {
            push(content.trim_start_matches(['#', '|', ' ']), false, &mut found);
        } else if !content.is_empty() {
            let from = paragraph.map_or_else(|| start + indent(&text[start..end]), |(from, _)| from);
            paragraph = Some((from, end));
        }
    }
    if let Some((from, to)) = paragraph {
        split(&text[from..to], &mut found);
    }
    found
}

/// Whether the line begins with a bullet or a number.
fn is_list_item(line: &str) -> bool {
    line.starts_with("- ") || line.starts_with("* ") || line.starts_with("+ ") || line.starts_with('•') || {
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        (1..=3).contains(&digits) && matches!(line.as_bytes().get(digits..digits + 2), Some(b". " | b") "))
    }
}

/// Bytes of white space and list marker before the words of a paragraph.
fn indent(paragraph: &str) -> usize {
    let words = paragraph.trim_start();
    let words = if is_list_item(words) {
        words.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '-' | '*' | '+' | '•' | '.' | ')'))
    } else {
        words
    };
    paragraph.len() - words.trim_start().len()
}

/// Splits a paragraph at full stops, question and exclamation marks that end a sentence.
fn split<'a>(paragraph: &'a str, found: &mut Vec<Sentence<'a>>) {
    let bytes = paragraph.as_bytes();
    let mut start = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if !matches!(byte, b'.' | b'!' | b'?') {
            continue;
        }
        let mut end = i + 1;
        while matches!(bytes.get(end), Some(b'"' | b')' | b'\'' | b'*' | b'_')) {
            end += 1;
        }
        let next = paragraph[end..].chars().find(|c| !c.is_whitespace());
        let apart = bytes.get(end).is_some_and(u8::is_ascii_whitespace);
        let begins = next.is_some_and(|c| c.is_uppercase() || c.is_ascii_digit() || matches!(c, '"' | '“' | '(' | '*'));
        if end >= start && apart && begins && !(*byte == b'.' && abbreviated(&paragraph[start..i])) {
            push(paragraph[start..end].trim(), true, found);
            start = end;
        }
    }
    push(paragraph[start..].trim(), true, found);
}

/// Whether a full stop behind this text more likely ends an abbreviation than a sentence.
fn abbreviated(before: &str) -> bool {
    let word = before.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or(before);
    let known = ["e.g", "i.e", "no", "nos", "sec", "dr", "mr", "mrs", "ms", "st", "vs", "cf", "inc", "art", "fig"];
    word.chars().count() == 1 || known.iter().any(|k| word.eq_ignore_ascii_case(k))
}

fn push<'a>(text: &'a str, prose: bool, found: &mut Vec<Sentence<'a>>) {
    // Rules and the lines under a table's head have no words.
    if text.len() < 20 || content_words(text).next().is_none() {
        return;
    }
    let length = text.chars().count();
    let ended = text.trim_end_matches(['"', ')', '\'', '*', '_']).ends_with(['.', '!', ';', ':']);
    let prose = prose && ended && (SHORTEST..=LONGEST).contains(&length) && !text.contains(['|', '<', '[']);
    if length >= 20 {
        found.push(Sentence { text: shortened(text, length), prose });
    }
}

/// The words within the first [`LONGEST`] characters.
fn shortened(text: &str, length: usize) -> &str {
    if length <= LONGEST {
        return text;
    }
    let end = text.char_indices().nth(LONGEST).map_or(text.len(), |(at, _)| at);
    let head = &text[..end];
    head.rfind(char::is_whitespace).map_or(head, |at| head[..at].trim_end())
}

/// The text with each run of white space made one space.
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

/// Words that say little, and words that would point at the text from within.
const COMMON: &[&str] = &[
    "about",
    "above",
    "after",
    "all",
    "also",
    "and",
    "any",
    "are",
    "been",
    "before",
    "below",
    "between",
    "but",
    "can",
    "chapter",
    "document",
    "does",
    "during",
    "each",
    "either",
    "excerpt",
    "following",
    "for",
    "from",
    "had",
    "has",
    "have",
    "herein",
    "how",
    "however",
    "into",
    "its",
    "may",
    "more",
    "must",
    "not",
    "only",
    "other",
    "page",
    "paragraph",
    "passage",
    "per",
    "policy",
    "provide",
    "provided",
    "section",
    "shall",
    "should",
    "such",
    "table",
    "text",
    "than",
    "that",
    "the",
    "their",
    "them",
    "then",
    "there",
    "these",
    "they",
    "this",
    "those",
    "through",
    "under",
    "until",
    "upon",
    "was",
    "were",
    "what",
    "when",
    "where",
    "which",
    "who",
    "will",
    "with",
    "within",
    "without",
    "would",
    "you",
    "your",
];

/// The content words of a text in order: at least three letters or digits, not a common word.
pub(super) fn content_words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '-')
        .map(|word| word.trim_matches('-'))
        .filter(|word| word.len() >= 3 && !is_common(word))
}

fn is_common(word: &str) -> bool {
    let mut lower = [0_u8; 12];
    if word.len() > lower.len() {
        return false;
    }
    let lower = &mut lower[..word.len()];
    lower.copy_from_slice(word.as_bytes());
    lower.make_ascii_lowercase();
    COMMON.binary_search_by(|common| common.as_bytes().cmp(lower)).is_ok()
}

/// A hash of a word regardless of ASCII case (FNV-1a).
pub(super) fn word_key(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_source_is_found_by_its_id() {
        let prompt = "# Document\nT\n\n# Source\n<source id=\"ab\">\nOne </source>\n</source id=\"x\"> two.\n</source id=\"ab\">\n\nAsk.";
        assert_eq!(source(prompt), "One </source>\n</source id=\"x\"> two.");
        assert_eq!(after_source(prompt), "\n</source id=\"ab\">\n\nAsk.");
        assert_eq!(after_source("no tags"), "no tags");
        assert_eq!(source("no tags"), "no tags");
        assert_eq!(source("<source id=\"ab"), "<source id=\"ab");
    }

    #[test]
    fn sentences_stand_apart_and_verbatim() {
        let text = "## A heading of more than twenty characters\n\nThe plan covers home\nhealth visits (see No. 4) for members under 21 years. \
            Prior authorization is required for each visit after the tenth one.\n\n- Members must live in the state, e.g. in a county with a clinic.\n\
            | Code | Amount in dollars |\n|----------|------------------|\nShort.";
        let found: Vec<(bool, &str)> = sentences(text).into_iter().map(|s| (s.prose, s.text)).collect();
        assert_eq!(
            found,
            [
                (false, "A heading of more than twenty characters"),
                (true, "The plan covers home\nhealth visits (see No. 4) for members under 21 years."),
                (true, "Prior authorization is required for each visit after the tenth one."),
                (true, "Members must live in the state, e.g. in a county with a clinic."),
                (false, "Code | Amount in dollars |"),
            ]
        );
    }

    #[test]
    fn endless_text_is_cut_between_words() {
        let text = "word ".repeat(200);
        let found = sentences(&text);
        assert_eq!((found.len(), found[0].text.len(), found[0].prose), (1, 499, false));
        assert_eq!(sentences(&"é".repeat(600))[0].text, "é".repeat(500));
    }

    #[test]
    fn common_words_are_sorted_and_left_out() {
        assert!(COMMON.is_sorted());
        assert!(COMMON.iter().all(|word| word.len() <= 12));
        let words: Vec<&str> =
            content_words("The policy's co-payment, WITHIN 30 days of 2024-01-05: 'per visit'").collect();
        assert_eq!(words, ["co-payment", "days", "2024-01-05", "visit"]);
    }

    proptest! {
        #[test]
        fn sentences_are_pieces_of_any_text(text in "[a-zA-Z .!?|#\\-*\"\n0-9é“”•)(]{0,300}") {
            let mut at = 0;
            for sentence in sentences(&text) {
                let found = text[at..].find(sentence.text);
                prop_assert!(found.is_some(), "{:?} not in order in {:?}", sentence, text);
                at += found.unwrap_or(0) + sentence.text.len();
            }
        }
    }
}
