//! Clean text: Unicode form, line ends, invisible characters, words broken at line ends.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

/// Text in NFC with `\n` line ends, without control characters, invisible characters and soft hyphens, every kind of
/// space as a plain one, ligatures as letters.
pub(super) fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.nfc().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {
                chars.next_if_eq(&'\n');
                out.push('\n');
            }
            '\n' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\t' => out.push('\t'),
            // A word goes on behind a soft hyphen, be it at a line's end.
            '\u{ad}' => {
                let mut blank = None;
                while let Some(space) = chars.next_if(|c| c.is_whitespace()) {
                    blank = if blank == Some('\n') || !matches!(space, ' ' | '\t' | '\u{a0}') {
                        Some('\n')
                    } else {
                        Some(' ')
                    };
                }
                if !chars.peek().is_some_and(|next| next.is_lowercase()) {
                    out.extend(blank);
                }
            }
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffd}' => {}
            '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' => out.push(' '),
            '\u{fb00}' => out.push_str("ff"),
            '\u{fb01}' => out.push_str("fi"),
            '\u{fb02}' => out.push_str("fl"),
            '\u{fb03}' => out.push_str("ffi"),
            '\u{fb04}' => out.push_str("ffl"),
            '\u{fb05}' | '\u{fb06}' => out.push_str("st"),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// [`normalise`], and no blanks at line ends, no more than one blank line, none at the ends.
pub(super) fn tidy(text: &str) -> String {
    let clean = normalise(text);
    let mut out = String::with_capacity(clean.len());
    let mut blank = 0;
    for line in clean.lines() {
        let line = line.trim_end();
        if line.is_empty() {
            blank += 1;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if blank > 0 { "\n\n" } else { "\n" });
        }
        blank = 0;
        out.push_str(line);
    }
    out
}

/// A text on one line, its words one space apart, with the leaders of a contents entry as three dots.
pub(super) fn one_line(text: &str) -> String {
    #[expect(clippy::unwrap_used, reason = "the pattern is fixed and a test compiles it")]
    static LEADERS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?:\s?[.…·_]){5,}").unwrap());
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match LEADERS.replace_all(&line, " ...") {
        Cow::Borrowed(_) => line,
        Cow::Owned(shorter) => shorter,
    }
}

/// First parts of compounds that keep their hyphen when a line ends at it. Only words that are rarely a syllable of a
/// longer one.
const COMPOUND_FIRST: [&str; 17] = [
    "cost", "court", "day", "fee", "five", "full", "half", "high", "long", "low", "one", "self", "short", "three",
    "two", "well", "year",
];

/// Joins words broken at a line's end, which read `admis- sion`. The hyphen stays in a compound: one that the
/// document writes with it elsewhere, or one that begins like many compounds.
pub(super) fn join_hyphens(pages: &mut [String]) {
    #[expect(clippy::unwrap_used, reason = "the pattern is fixed and a test compiles it")]
    static BROKEN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"([\p{L}][\p{L}\p{M}-]*)-[ \n](\p{L}[\p{L}\p{M}]*)").unwrap());
    if !pages.iter().any(|page| BROKEN.is_match(page)) {
        return;
    }
    let known: HashSet<String> = pages
        .iter()
        .flat_map(|page| page.split(|c: char| !c.is_alphabetic() && c != '-'))
        .filter(|word| word.len() > 2 && !word.ends_with('-') && !word.starts_with('-'))
        .map(str::to_lowercase)
        .collect();
    for page in pages {
        let joined = BROKEN.replace_all(page, |found: &regex::Captures<'_>| {
            let (left, right) = (&found[1], &found[2]);
            let compound = format!("{left}-{right}");
            let whole = format!("{left}{right}");
            if matches!(right, "and" | "or" | "to" | "nor" | "versus" | "through") {
                // `pre- and postnatal`: the hyphen stands for a part left out.
                found[0].replace('\n', " ")
            } else if known.contains(&compound.to_lowercase()) {
                compound
            } else if known.contains(&whole.to_lowercase()) {
                whole
            } else if !right.starts_with(char::is_lowercase) {
                found[0].to_owned()
            } else if right.len() >= 4 && COMPOUND_FIRST.binary_search(&left.to_lowercase().as_str()).is_ok() {
                compound
            } else {
                whole
            }
        });
        if let Cow::Owned(joined) = joined {
            *page = joined;
        }
    }
}

/// Pages joined by blank lines, and the character at which each begins. An empty page begins where the next one does.
pub(super) fn assemble(pages: &[String]) -> (String, Vec<u64>) {
    let mut text = String::with_capacity(pages.iter().map(|page| page.len() + 2).sum());
    let (mut chars, mut starts) = (0_u64, Vec::with_capacity(pages.len()));
    for page in pages {
        if page.is_empty() {
            starts.push(None);
            continue;
        }
        if !text.is_empty() {
            text.push_str("\n\n");
            chars += 2;
        }
        starts.push(Some(chars));
        text.push_str(page);
        chars += page.chars().count() as u64;
    }
    let mut next = chars;
    let mut resolved: Vec<u64> = starts
        .iter()
        .rev()
        .map(|start| {
            next = start.unwrap_or(next);
            next
        })
        .collect();
    resolved.reverse();
    // The first page begins the text, even if it is empty.
    if let Some(first) = resolved.first_mut() {
        *first = 0;
    }
    (text, resolved)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn odd_characters_become_plain_ones() {
        assert_eq!(normalise("a\r\nb\rc\0\u{7}d\u{a0}e\u{feff}"), "a\nb\ncd e");
        assert_eq!(normalise("e\u{301}\u{fb01}ne"), "éfine");
        assert_eq!(normalise("admis\u{ad}\nsion co\u{ad}operate end\u{ad}\nNew"), "admission cooperate end\nNew");
        assert_eq!(tidy("\n\na  \n\n\n\nb\nc\n"), "a\n\nb\nc");
    }

    #[test]
    fn leaders_shrink() {
        assert_eq!(one_line("1.1 Purpose . . . . . . . .  2"), "1.1 Purpose ... 2");
        assert_eq!(one_line("and so on ... then"), "and so on ... then");
    }

    #[test]
    fn broken_words_are_joined_and_compounds_keep_the_hyphen() {
        let mut pages = vec![
            "the admis- sion of an on- call clinician, pre- and postnatal care".to_owned(),
            "a lump- sum payment; the lump-sum rule; a well- established view; spend- down by Au- thority staff"
                .to_owned(),
            "the Authority pays Care- Bridge, that is CareBridge, and Smith- Jones low- er, ex- amined; an on-call nurse".to_owned(),
        ];
        join_hyphens(&mut pages);
        assert_eq!(pages[0], "the admission of an on-call clinician, pre- and postnatal care");
        assert_eq!(
            pages[1],
            "a lump-sum payment; the lump-sum rule; a well-established view; spenddown by Authority staff"
        );
        assert_eq!(
            pages[2],
            "the Authority pays CareBridge, that is CareBridge, and Smith- Jones lower, examined; an on-call nurse"
        );
        assert!(COMPOUND_FIRST.is_sorted(), "it is searched by halves");
    }

    #[test]
    fn pages_begin_where_their_text_does() {
        let pages = ["é1".to_owned(), String::new(), "b".to_owned(), String::new()];
        let (text, starts) = assemble(&pages);
        assert_eq!(text, "é1\n\nb");
        assert_eq!(starts, [0, 4, 4, 5]);
        assert_eq!(assemble(&[String::new(), "a".into()]).1, [0, 0]);
        assert_eq!(assemble(&[]).1, Vec::<u64>::new());
    }

    proptest! {
        #[test]
        fn normalised_text_stays_as_it_is(text in ".{0,200}") {
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once), once);
        }

        #[test]
        fn page_starts_ascend_and_point_at_their_pages(pages in prop::collection::vec("[a-zé\n]{0,8}", 1..8)) {
            let pages: Vec<String> = pages.iter().map(|page| tidy(page)).collect();
            let (text, starts) = assemble(&pages);
            prop_assert_eq!(starts[0], 0);
            prop_assert!(starts.is_sorted());
            for (page, start) in pages.iter().zip(&starts) {
                let from: String = text.chars().skip(*start as usize).collect();
                prop_assert!(page.is_empty() || from.starts_with(page.as_str()));
            }
        }
    }
}
