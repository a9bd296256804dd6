//! Which chunks are worth asking about: contents pages, indexes and near-empty chunks are not. Also how much prose
//! a chunk has, by which the best of several is chosen.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::layout::Layout;

/// Why a chunk is not worth asking about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    /// A table of contents, or a list of tables or figures.
    Contents,
    /// An index of terms with page numbers.
    Index,
    /// Hardly any text besides headings.
    Short,
}

impl Skip {
    /// The name under which it is counted.
    pub(super) fn note(self) -> &'static str {
        match self {
            Self::Contents => "chunks_skipped_contents",
            Self::Index => "chunks_skipped_index",
            Self::Short => "chunks_skipped_short",
        }
    }
}

/// A pattern of this file.
#[expect(clippy::expect_used, reason = "the patterns are constants, and the tests use every one")]
fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid pattern")
}

/// Dot leaders with a page number behind, wherever they stand: an extracted contents page may be one paragraph.
static LEADER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?:(?:\\?[.·…_]\s?){4,}|(?:…\s?){2,})[\s|*]*(?:[A-Z]{1,3}[-–.])?(?:\d{1,4}(?:[-–.]\d{1,3})?|[ivxl]{1,6})\b",
    )
});
/// A line that is a title and a page number, as `Covered services 12`.
static ENTRY: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[-*+\s]*(?:[\d.]+\s+)?\*{0,2}\p{L}[^|]{2,110}?[\s*]+(\d{1,4})\*{0,2}$"));
/// A list item that is only a link within the document.
static LINK: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[-*+\d.\s]*\[[^\]]+\]\(#[^)]*\)[\s.\d]*$"));
/// A contents heading.
static CONTENTS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)^\W*(?:table\s+of\s+contents|contents|list\s+of\s+(?:tables|figures|exhibits|appendices))\W*$")
});
/// An index heading.
static INDEX: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^\W*(?:(?:subject|general|alphabetical)\s+)?index\W*$"));
/// An index line, as `Copayment, 12, 45–47`.
static TERM: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^[-*+\s]*\p{L}[^.;|]{1,70}?(?:,\s*\d{1,4}(?:\s*[-–—]\s*\d{1,4})?)+(?:[;,]\s*see\s.{2,60})?[,;\s]*$")
});
/// Page references of an index within running text.
static REFERENCE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"[^\d,.;|$%\s][^\d,.;|$%]{1,60},(?:\s\d{1,4}(?:\s?[-–—]\s?\d{1,4})?,?)+"));

/// Whether to skip the chunk at `range` of `text`. `pages` is how many pages the document has.
pub(super) fn skip(text: &str, layout: &Layout, range: &Range<usize>, pages: u32, min_chars: usize) -> Option<Skip> {
    let body = Body::of(text, layout, range);
    if body.is_contents(pages) {
        return Some(Skip::Contents);
    }
    if body.is_index(pages) {
        return Some(Skip::Index);
    }
    (body.letters() < min_chars).then_some(Skip::Short)
}

/// How much prose the chunk has: letters of lines that are neither headings nor table rows, and a third of those
/// in rows.
pub(super) fn prose(text: &str, layout: &Layout, range: &Range<usize>) -> usize {
    Body::of(text, layout, range)
        .lines
        .iter()
        .map(|line| {
            let letters = line.chars().filter(|c| c.is_alphabetic()).count();
            if line.starts_with('|') { letters / 3 } else { letters }
        })
        .sum()
}

/// A chunk without its headings.
struct Body<'a> {
    lines: Vec<&'a str>,
    contents_heading: bool,
    index_heading: bool,
}

impl<'a> Body<'a> {
    fn of(text: &'a str, layout: &Layout, range: &Range<usize>) -> Self {
        let mut lines = Vec::new();
        let mut at = range.start;
        let headings = layout.headings_in(range);
        for heading in headings {
            lines.extend(text[at..heading.range.start].lines());
            at = heading.range.end.min(range.end);
        }
        lines.extend(text[at..range.end].lines());
        let mut lines: Vec<&str> = lines.into_iter().map(str::trim).filter(|line| !line.is_empty()).collect();
        let first = lines.first().copied().unwrap_or_default();
        let above = layout.heading_before(range.start + 1).map(|heading| heading.text.as_str());
        let titled = |title: &Regex| {
            title.is_match(first)
                || above.is_some_and(|text| title.is_match(text))
                || headings.iter().any(|heading| title.is_match(&heading.text))
        };
        let (contents_heading, index_heading) = (titled(&CONTENTS), titled(&INDEX));
        if CONTENTS.is_match(first) || INDEX.is_match(first) {
            lines.remove(0);
        }
        Self { lines, contents_heading, index_heading }
    }

    /// Letters and digits.
    fn letters(&self) -> usize {
        self.lines.iter().flat_map(|line| line.chars()).filter(|c| c.is_alphanumeric()).count()
    }

    fn is_contents(&self, pages: u32) -> bool {
        let chars: usize = self.lines.iter().map(|line| line.chars().count()).sum();
        let leaders: usize = self.lines.iter().map(|line| LEADER.find_iter(line).count()).sum();
        // An entry of a contents page takes a line; forms with blanks to fill in have no numbers behind them.
        let enough = if self.contents_heading { 1 } else { 3 };
        if leaders >= enough && leaders * 160 >= chars {
            return true;
        }
        let links = self.lines.iter().filter(|line| LINK.is_match(line)).count();
        if links >= 4 && links * 10 >= self.lines.len() * 7 {
            return true;
        }
        let entries: Vec<u32> = self.lines.iter().filter_map(|line| page_of_entry(line)).collect();
        let fitting = entries.iter().filter(|page| **page <= pages.saturating_add(20)).count();
        let ascending = entries.windows(2).filter(|pair| pair[0] <= pair[1]).count();
        let share = |part: usize, tenths: usize| part * 10 >= self.lines.len() * tenths;
        if self.contents_heading {
            return fitting >= 3 && share(fitting, 5);
        }
        fitting >= 6 && share(fitting, 7) && ascending * 10 >= (entries.len() - 1) * 9
    }

    fn is_index(&self, pages: u32) -> bool {
        let limit = pages.saturating_add(20);
        let in_book =
            |line: &str| numbers(line).all(|number| number <= limit) && !line.chars().any(|c| matches!(c, '$' | '%'));
        let terms = self.lines.iter().filter(|line| TERM.is_match(line) && in_book(line)).count();
        let share = if self.index_heading { 4 } else { 6 };
        if terms >= 5 && terms * 10 >= self.lines.len() * share {
            return true;
        }
        // Extracted as running text: nearly everything is a term with its pages.
        let covered: usize = self
            .lines
            .iter()
            .flat_map(|line| REFERENCE.find_iter(line))
            .filter(|reference| in_book(reference.as_str()))
            .map(|reference| reference.len())
            .sum();
        let all: usize = self.lines.iter().map(|line| line.len()).sum();
        covered > 0 && covered * 10 >= all * if self.index_heading { 6 } else { 8 }
    }
}

/// The page number at the end of a contents entry.
fn page_of_entry(line: &str) -> Option<u32> {
    ENTRY.captures(line)?.get(1)?.as_str().parse().ok()
}

fn numbers(line: &str) -> impl Iterator<Item = u32> + '_ {
    line.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).filter_map(|d| d.parse().ok())
}

/// At most `wanted` of the candidates, spread evenly: they are dealt into as many runs of neighbours, and of each
/// run the one with the most prose is taken, the first of equals. Gives ascending indices into `prose`.
pub(super) fn spread(prose: &[usize], wanted: usize) -> Vec<usize> {
    if prose.len() <= wanted {
        return (0..prose.len()).collect();
    }
    (0..wanted)
        .filter_map(|run| {
            let run = run * prose.len() / wanted..(run + 1) * prose.len() / wanted;
            run.max_by_key(|i| (prose[*i], std::cmp::Reverse(*i)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> Option<Skip> {
        skip(text, &Layout::read(text, 1000, 10_000), &(0..text.trim_end().len()), 60, 40)
    }

    #[test]
    fn contents_pages_are_seen_in_every_shape() {
        for text in [
            "# Contents\n\nIntroduction ........ 3\n\nEligibility . . . . . . 5\n\nAppeals ........ 12\n",
            "1. Introduction ..... 1 2. Who may apply ..... 4 3. How to apply ........ 9 4. Income limits ..... 12",
            "## Table of Contents\n\nIntroduction 3\n\nWho is covered 5\n\nHow to apply 8\n\nAppeals 12\n",
            "Purpose 1\n\nEligible groups 2\n\nIncome limits 4\n\nResources 9\n\nSpend-down 13\n\nAppeals 21\n",
            "- [Introduction](#introduction)\n- [Eligibility](#eligibility)\n- [Income](#income)\n- [Appeals](#appeals)\n",
            "Contents\n\n| Introduction | ........ 3 |\n| Eligibility | ........ 5 |\n| Appeals | ...... 11 |\n",
            "List of Tables\n\nTable 1 Medical procedures 4\n\nTable 2 Dental procedures 9\n\nTable 3 Rates 14\n",
        ] {
            assert_eq!(verdict(text), Some(Skip::Contents), "{text}");
        }
    }

    #[test]
    fn indexes_are_seen() {
        for text in [
            "## Index\n\nAppeals, 12, 45–47\n\nAssets, 9\n\nCopayment, 3, 18\n\nDenial, 31\n\nDental care, 22-24\n",
            "Abuse, 4, 18\nAppeals, 12, 45–47\nAssets, 9\nCopayment, 3, 18\nDenial, 31\nDental care, 22-24\n",
            "Abuse, 4, 18 Appeals, 12, 45–47 Assets, 9 Copayment, 3, 18 Denial, 31 Dental care, 22-24 Drugs, 7, 9, 14",
        ] {
            assert_eq!(verdict(text), Some(Skip::Index), "{text}");
        }
    }

    #[test]
    fn near_empty_chunks_are_seen_and_headings_do_not_count() {
        assert_eq!(verdict("# A long heading about eligibility for coverage\n\nSee below.\n"), Some(Skip::Short));
        assert_eq!(verdict("This page is left blank.\n"), Some(Skip::Short));
        assert_eq!(verdict("**-----** | | | --- *** ... ... ... ... ... ... ... ... ... ... ...\n"), Some(Skip::Short));
    }

    #[test]
    fn policy_text_stays() {
        for text in [
            "A household of four may have an income of up to $3,450 a month. Appeals must be filed within 90 days.\n",
            "| Household size | Monthly limit |\n|---|---|\n| 1 | 1255 |\n| 2 | 1703 |\n| 3 | 2152 |\n| 4 | 2600 |\n",
            "Name of applicant or representative ..................\n\nSignature ................ Date signed ..........\n",
            "- Pregnant women, 200 percent of poverty\n- Children, 142 percent\n- Parents, 47 percent of poverty\n",
            "Effective July 1, 2026\nEffective August 1, 2026\nEffective May 1, 2026\nEffective June 3, 2026\nAnd, 2026\n",
            "Household of 1 1255\n\nHousehold of 2 1703\n\nHousehold of 3 2152\n\nHousehold of 4 2600\n\nOf 5 3048\n\nOf 6 3496\n",
            "# Contents of the application\n\nThe application asks for names, addresses and the income of all members.\n",
            "Call 1... then wait. The list of services is long... and it goes on: physician, dental, vision, hearing.\n",
        ] {
            assert_eq!(verdict(text), None, "{text}");
        }
    }

    #[test]
    fn a_choice_is_spread_over_the_whole() {
        assert_eq!(spread(&[5, 9, 9, 1, 2, 3, 7, 7, 1], 3), [1, 5, 6]);
        assert_eq!(spread(&[5, 9], 3), [0, 1]);
        assert_eq!(spread(&[1; 10], 4), [0, 2, 5, 7]);
        assert_eq!(spread(&[], 4), Vec::<usize>::new());
    }

    #[test]
    fn prose_outweighs_tables() {
        let text = "abcdef ghi\n\n| abc | def |\n";
        assert_eq!(prose(text, &Layout::read(text, 1000, 10_000), &(0..text.len())), 11);
    }
}
