//! Text normalised for matching, with a map back to the original characters.
//!
//! A model quotes plainly what stands in the source as Markdown, broken over lines, with ligatures and typographic
//! quotes. Both sides are brought to one form; whatever is dropped is dropped on both sides:
//!
//! - NFKC (which parts ligatures), soft hyphens and zero-width characters dropped;
//! - hyphens between letters dropped, also at a line's end, so that `eligi-⏎bility` is `eligibility` and
//!   `long-⏎term` still equals `long-term`;
//! - quotes and dashes unified, white space folded to one blank, case folded to lower;
//! - Markdown and the little HTML that tables use: emphasis, code marks, escapes, heading, quote and list marks, link
//!   targets and tags dropped, table borders taken as white space, entities resolved.

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::canonical_combining_class;

use crate::model::text::Span;

/// A normalised text. White space at both ends is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Normalized {
    /// The text.
    pub text: String,
    /// For each character of `text`, the first character of the original that it stands for, and the one behind.
    spans: Vec<(u32, u32)>,
}

impl Normalized {
    /// Normalises a text of fewer than 2³² characters.
    pub fn of(original: &str) -> Self {
        let chars: Vec<char> = original.chars().collect();
        let mut builder = Builder { chars: &chars, at: 0, out: Self::default() };
        while builder.at < chars.len() {
            builder.step();
        }
        let mut out = builder.out;
        if out.text.ends_with(' ') {
            out.text.pop();
            out.spans.pop();
        }
        out
    }

    /// Length in characters.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The span in characters of the original for `start..end` in characters of the normalised text; `None` if that
    /// is empty or out of range.
    pub fn original(&self, start: usize, end: usize) -> Option<Span> {
        if start >= end {
            return None;
        }
        let (first, last) = (self.spans.get(start)?, self.spans.get(end - 1)?);
        Some(Span { start: u64::from(first.0), end: u64::from(last.1) })
    }
}

struct Builder<'a> {
    chars: &'a [char],
    at: usize,
    out: Normalized,
}

impl Builder<'_> {
    /// Takes what stands at the current position.
    fn step(&mut self) {
        let at = self.at;
        if (at == 0 || self.chars[at - 1] == '\n') && self.line_marks() {
            return;
        }
        let taken = match self.chars[at] {
            '\\' if self.peek(1).is_some_and(|next| next.is_ascii_punctuation()) => 1,
            '*' | '`' | '_' | '[' | '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FEFF}' => 1,
            '~' if self.peek(1) == Some('~') => 2,
            ']' => 1 + self.link_target(at + 1),
            '|' => self.blank(1),
            '<' => self.tag(),
            '&' => self.entity(),
            '\u{AD}' => 1 + self.line_break(at + 1).unwrap_or(0),
            '-' | '\u{2010}' | '\u{2011}' => self.hyphen(),
            white if white.is_whitespace() => self.blank(1),
            _ => self.cluster(),
        };
        self.at = at + taken;
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn push(&mut self, character: char, taken: usize) {
        let (start, end) = (self.at as u32, (self.at + taken) as u32);
        if character.is_whitespace() {
            if self.out.text.ends_with(' ') {
                if let Some(last) = self.out.spans.last_mut() {
                    last.1 = end;
                }
            } else if !self.out.text.is_empty() {
                self.out.text.push(' ');
                self.out.spans.push((start, end));
            }
            return;
        }
        for lower in character.to_lowercase() {
            self.out.text.push(lower);
            self.out.spans.push((start, end));
        }
    }

    fn blank(&mut self, taken: usize) -> usize {
        self.push(' ', taken);
        taken
    }

    /// At the start of a line: passes over list, quote and heading marks, and over lines that only draw a rule or a
    /// table's border. Gives whether it moved.
    fn line_marks(&mut self) -> bool {
        let rest = &self.chars[self.at..];
        let line = &rest[..rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())];
        if line.iter().filter(|c| **c == '-').count() >= 3
            && line.iter().all(|c| matches!(c, '|' | '-' | ':' | ' ' | '\t' | '\r'))
        {
            self.at += self.blank(line.len());
            return true;
        }
        let mut taken = 0;
        loop {
            let blanks = line[taken..].iter().take_while(|c| matches!(c, ' ' | '\t')).count();
            let mark = &line[taken + blanks..];
            let width = match mark.first() {
                Some('#') => mark.iter().take_while(|c| **c == '#').count(),
                Some('-' | '*' | '+' | '•' | '◦' | '▪' | '●' | '○' | '\u{F0B7}' | '>') => 1,
                _ => break,
            };
            let spaced = mark.get(width).is_none_or(|c| c.is_whitespace()) || mark[0] == '>';
            if width > 6 || !spaced {
                break;
            }
            taken += blanks + width;
        }
        self.at += taken;
        taken > 0
    }

    /// How many characters the target `(…)` of a link at `from` has; 0 if there is none.
    fn link_target(&self, from: usize) -> usize {
        if self.chars.get(from) != Some(&'(') {
            return 0;
        }
        let target = self.chars[from..].iter().take(500).take_while(|c| **c != '\n');
        target
            .clone()
            .position(|c| *c == ')')
            .filter(|end| {
                // `[1](see below)` is text; a target has no blanks, or blanks only before a title in quotes.
                target
                    .clone()
                    .take(*end)
                    .position(|c| *c == ' ')
                    .is_none_or(|blank| matches!(self.chars.get(from + blank + 1), Some('"' | '\'')))
            })
            .map_or(0, |end| end + 1)
    }

    /// An HTML tag is dropped, a line break is white space; any other `<` stays.
    fn tag(&mut self) -> usize {
        let inner: String =
            self.chars[self.at + 1..].iter().take(80).take_while(|c| !matches!(c, '<' | '>' | '\n')).collect();
        let width = inner.chars().count();
        let closed = self.peek(width + 1) == Some('>');
        let named = inner.trim_start_matches('/').starts_with(|c: char| c.is_ascii_alphabetic());
        if !closed || !named {
            return self.cluster();
        }
        if matches!(
            inner.trim_end_matches(['/', ' ']).to_ascii_lowercase().as_str(),
            "br" | "/p" | "/td" | "/th" | "/tr" | "/li" | "/div"
        ) {
            return self.blank(width + 2);
        }
        width + 2
    }

    /// A named entity becomes its character.
    fn entity(&mut self) -> usize {
        const ENTITIES: [(&str, char); 13] = [
            ("amp;", '&'),
            ("lt;", '<'),
            ("gt;", '>'),
            ("quot;", '"'),
            ("apos;", '\''),
            ("#39;", '\''),
            ("nbsp;", ' '),
            ("ndash;", '-'),
            ("mdash;", '-'),
            ("rsquo;", '\''),
            ("sect;", '§'),
            ("ldquo;", '"'),
            ("rdquo;", '"'),
        ];
        let rest = &self.chars[self.at + 1..];
        let named = ENTITIES.iter().find(|(name, _)| name.chars().eq(rest.iter().take(name.len()).copied()));
        match named {
            Some((name, character)) => {
                self.push(*character, name.len() + 1);
                name.len() + 1
            }
            None => self.cluster(),
        }
    }

    /// A hyphen between letters is dropped, with the line's end if one follows.
    fn hyphen(&mut self) -> usize {
        if self.out.text.ends_with(char::is_alphabetic) {
            if self.peek(1).is_some_and(char::is_alphabetic) {
                return 1;
            }
            if let Some(width) = self.line_break(self.at + 1) {
                return 1 + width;
            }
        }
        self.push('-', 1);
        1
    }

    /// How many characters a line break at `from` has behind which a word goes on in lower case. A page break may
    /// have left an empty line.
    fn line_break(&self, from: usize) -> Option<usize> {
        let white = self.chars[from..].iter().take_while(|c| c.is_whitespace());
        let (width, breaks) = (white.clone().count(), white.filter(|c| **c == '\n').count());
        let goes_on = self.chars.get(from + width).is_some_and(|c| c.is_lowercase());
        ((1..=2).contains(&breaks) && goes_on).then_some(width)
    }

    /// A character with the marks that combine with it, in NFKC.
    fn cluster(&mut self) -> usize {
        let rest = &self.chars[self.at..];
        let taken = 1 + rest[1..].iter().take_while(|c| canonical_combining_class(**c) != 0).count();
        if taken == 1 && rest[0].is_ascii() {
            self.push(rest[0], 1);
            return 1;
        }
        for character in rest[..taken].iter().copied().nfkc() {
            self.push(unified(character), taken);
        }
        taken
    }
}

/// One form for all quotes, and one for all dashes.
fn unified(character: char) -> char {
    match character {
        '‘' | '’' | '‚' | '‛' | '′' | '´' => '\'',
        '“' | '”' | '„' | '‟' | '″' | '«' | '»' => '"',
        '‐' | '‑' | '‒' | '–' | '—' | '―' | '−' | '⁃' => '-',
        '⁄' => '/',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_of_the_same_text_become_one() {
        for (original, expected) in [
            ("eligi-\nbility", "eligibility"),
            ("long-\n  term and long-term", "longterm and longterm"),
            ("bene\u{AD}fits, co\u{AD}\npay", "benefits, copay"),
            ("page break hyphen-\n\nation", "page break hyphenation"),
            ("pages 45-\n47, ages 19-64", "pages 45- 47, ages 19-64"),
            ("oﬃce of ﬁnance", "office of finance"),
            ("cafe\u{301} İ", "café i\u{307}"),
            ("“Don’t” – he said — ‘no’", "\"don't\" - he said - 'no'"),
            ("**Note:** the *income* limit is `$1,255`", "note: the income limit is $1,255"),
            ("a \\- b \\$5 \\*", "a - b $5 "),
            ("| 1 | $1,255 |\n|---|---|\n| 2 | $1,703 |", "1 $1,255 2 $1,703"),
            ("# Title\n\n> - item one\n> - item two", "title item one item two"),
            ("see [Form 10](forms/10.pdf) and [a](see below)", "see form 10 and a(see below)"),
            ("line<br>break, x<sup>2</sup>, 5 < 6 &amp; 7", "line break, x2, 5 < 6 & 7"),
            ("  many \t\n\u{a0} blanks \u{200B}here ", "many blanks here"),
            ("1½ or １２", "11/2 or 12"),
            ("***\n---\n", ""),
        ] {
            assert_eq!(Normalized::of(original).text, expected.trim_end(), "{original:?}");
        }
    }

    #[test]
    fn spans_lead_back_to_the_original() {
        let original = "The **eligi-\nbility** of oﬃcers\n\n| is | `set` |";
        let normalized = Normalized::of(original);
        let chars: Vec<char> = original.chars().collect();
        let found = |needle: &str| -> String {
            let start = normalized.text[..normalized.text.find(needle).unwrap()].chars().count();
            let span = normalized.original(start, start + needle.chars().count()).unwrap();
            chars[span.start as usize..span.end as usize].iter().collect()
        };
        assert_eq!(found("eligibility"), "eligi-\nbility");
        assert_eq!(found("of officers"), "of oﬃcers");
        assert_eq!(found("is set"), "is | `set");
        assert_eq!(normalized.original(3, 3), None);
        assert_eq!(normalized.original(0, 1000), None);
    }

    proptest! {
        #[test]
        fn spans_ascend_within_the_original(
            original in "([a-zéﬁA-Z0-9 \n|*_\\\\#>\\-–“”\u{AD}\u{301}<>&;()\\[\\]]|&amp;|<br>|\\PC){0,80}"
        ) {
            let normalized = Normalized::of(&original);
            let length = original.chars().count() as u32;
            prop_assert_eq!(normalized.text.chars().count(), normalized.spans.len());
            let mut before = (0, 0);
            for span in &normalized.spans {
                prop_assert!(span.0 < span.1 && span.1 <= length, "{:?}", span);
                // Several characters may stand for one, as with ligatures, so neighbours may share their spans.
                prop_assert!(span.0 >= before.0 && span.1 >= before.1, "{:?} after {:?}", span, before);
                before = *span;
            }
            prop_assert!(!normalized.text.contains("  "));
            prop_assert_eq!(normalized.text.trim(), normalized.text.as_str());
        }

        #[test]
        fn plain_text_stays_as_it_is(words in prop::collection::vec("[a-z0-9]{1,9}[,.]?", 0..30)) {
            let plain = words.join(" ");
            let normalized = Normalized::of(&plain);
            prop_assert_eq!(&normalized.text, &plain);
            prop_assert!(normalized.spans.iter().enumerate().all(|(i, span)| *span == (i as u32, i as u32 + 1)));
        }
    }
}
