//! Finding a quote in its source: exactly after normalisation, else by the best partial ratio.
//!
//! The partial ratio is that of rapidfuzz and thefuzz: the best normalised indel similarity, 2·LCS / (lengths added),
//! between the quote and any window of the source that has the quote's length, or is shorter at either end of the
//! source. Unlike there, a quote longer than the source is not searched the other way round: it is compared with
//! the whole source, for text that stands nowhere must not count as found.
//!
//! Lengths of longest common subsequences come from the bit-parallel method of Hyyrö ("Bit-Parallel LCS-length
//! Computation Revisited", AWOCA 2004). Moving a window by one character changes its LCS by at most one, so between
//! two known windows nothing can be better than the mean of theirs plus half their distance: most windows need not
//! be looked at.

use std::collections::HashMap;

use super::normalize::Normalized;

/// A quote found in a source.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundQuote {
    /// Its first character in the source.
    pub start: u64,
    /// The character behind its last.
    pub end: u64,
    /// How well it matches, 0 to 1; 1 is equality after normalisation.
    pub score: f64,
    /// The text as it stands in the source.
    pub text: String,
}

/// Finds `quote` in `source`; `None` if nothing reaches the score `cutoff` (0 to 1). A found text begins and ends with
/// what matches, where the match is not exact at whole words.
pub fn find_quote(quote: &str, source: &str, cutoff: f64) -> Option<FoundQuote> {
    let (needle, hay) = (Normalized::of(quote), Normalized::of(source));
    if needle.is_empty() || hay.is_empty() {
        return None;
    }
    let (start, end, score) = if let Some(at) = hay.text.find(&needle.text) {
        let start = hay.text[..at].chars().count();
        (start, start + needle.len(), 1.0)
    } else {
        let needle: Vec<char> = needle.text.chars().collect();
        let hay: Vec<char> = hay.text.chars().collect();
        let found = partial_ratio(&needle, &hay, cutoff)?;
        let (start, end) = tighten(&needle, &hay, found.start, found.end);
        (start, end, found.score)
    };
    let span = hay.original(start, end)?;
    let text = source.chars().skip(span.start as usize).take(span.len() as usize).collect();
    Some(FoundQuote { start: span.start, end: span.end, score, text })
}

/// A window of the longer text, in characters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alignment {
    /// Its start.
    pub start: usize,
    /// Its end.
    pub end: usize,
    /// Its similarity to the needle, 0 to 1.
    pub score: f64,
}

/// The window of `hay` most like `needle`, if its similarity is at least `cutoff`.
pub fn partial_ratio(needle: &[char], hay: &[char], cutoff: f64) -> Option<Alignment> {
    let (m, n) = (needle.len(), hay.len());
    if m == 0 || n == 0 {
        return None;
    }
    let pattern = Pattern::of(needle.iter().copied());
    let ids = pattern.ids(hay.iter().copied());
    let ratio = |lcs: usize, window: usize| 2.0 * lcs as f64 / (m + window) as f64;
    let mut best: Option<Alignment> = None;
    let mut offer = |start: usize, end: usize, lcs: usize| -> f64 {
        let score = ratio(lcs, end - start);
        if score >= cutoff && best.is_none_or(|best| score > best.score) {
            best = Some(Alignment { start, end, score });
        }
        best.map_or(cutoff, |best| best.score)
    };
    if m > n {
        offer(0, n, pattern.lcs(&ids));
        return best;
    }

    // Windows of full length.
    let last = n - m;
    let lcs_at = |start: usize| pattern.lcs(&ids[start..start + m]);
    let (left, right) = (lcs_at(0), lcs_at(last));
    offer(0, m, left);
    let mut bar = offer(last, n, right);
    let mut open = vec![(0, left, last, right)];
    while let Some((a, lcs_a, b, lcs_b)) = open.pop() {
        let bound = usize::midpoint(lcs_a + lcs_b, b - a).min(m);
        if b - a < 2 || ratio(bound, m) < bar {
            continue;
        }
        let middle = usize::midpoint(a, b);
        let lcs = lcs_at(middle);
        bar = offer(middle, middle + m, lcs);
        let (before, behind) = ((a, lcs_a, middle, lcs), (middle, lcs, b, lcs_b));
        // The more promising half is looked at first: what it finds may rule out the other.
        open.extend(if lcs_a > lcs_b { [behind, before] } else { [before, behind] });
    }

    // Shorter windows at both ends of the source.
    pattern.prefixes(&ids[..m], |length, lcs| {
        offer(0, length, lcs);
    });
    let reversed = Pattern::of(needle.iter().rev().copied());
    let tail: Vec<usize> = reversed.ids(hay[last..].iter().rev().copied());
    reversed.prefixes(&tail, |length, lcs| {
        offer(n - length, n, lcs);
    });
    best
}

/// Moves the ends of a window to where the needle's match begins and ends, and out to whole words: the window has the
/// needle's length, but words may be missing from the needle, or be in it besides.
fn tighten(needle: &[char], hay: &[char], start: usize, end: usize) -> (usize, usize) {
    let (mut start, mut end) = (start, end);
    let slack = needle.len() / 3 + 8;
    let pattern = Pattern::of(needle.iter().copied());
    let reversed = Pattern::of(needle.iter().rev().copied());
    for _ in 0..2 {
        let limit = hay.len().min(end + slack);
        let ids = pattern.ids(hay[start..limit].iter().copied());
        end = start + pattern.best_prefix(&ids);
        let floor = start.saturating_sub(slack);
        let ids = reversed.ids(hay[floor..end].iter().rev().copied());
        start = end - reversed.best_prefix(&ids);
    }
    while start > 0 && hay[start].is_alphanumeric() && hay[start - 1].is_alphanumeric() {
        start -= 1;
    }
    while end < hay.len() && hay[end].is_alphanumeric() && hay[end - 1].is_alphanumeric() {
        end += 1;
    }
    while end - start > 1 && hay[start] == ' ' {
        start += 1;
    }
    while end - start > 1 && hay[end - 1] == ' ' {
        end -= 1;
    }
    (start, end)
}

/// A text prepared for the bit-parallel LCS: for each character, the bits of the positions where it stands.
struct Pattern {
    length: usize,
    blocks: usize,
    known: HashMap<char, usize>,
    masks: Vec<u64>,
}

/// What part of the text added to a match must match: less than words left out of a quote take, more than text
/// that only looks like it.
const WORTHWHILE: f64 = 0.4;

/// Stands for characters that the pattern does not have.
const UNKNOWN: usize = usize::MAX;

impl Pattern {
    fn of(text: impl ExactSizeIterator<Item = char>) -> Self {
        let length = text.len();
        let blocks = length.div_ceil(64);
        let mut known = HashMap::new();
        let mut masks = Vec::new();
        for (i, character) in text.enumerate() {
            let id = *known.entry(character).or_insert_with(|| {
                masks.resize(masks.len() + blocks, 0);
                masks.len() / blocks - 1
            });
            masks[id * blocks + i / 64] |= 1 << (i % 64);
        }
        Self { length, blocks, known, masks }
    }

    fn ids(&self, text: impl Iterator<Item = char>) -> Vec<usize> {
        text.map(|character| self.known.get(&character).copied().unwrap_or(UNKNOWN)).collect()
    }

    /// One step of Hyyrö's recurrence: V ← (V + (V & M)) | (V & ¬M).
    fn advance(&self, rows: &mut [u64], id: usize) {
        if id == UNKNOWN {
            return;
        }
        let masks = &self.masks[id * self.blocks..(id + 1) * self.blocks];
        let mut carry = false;
        for (row, mask) in rows.iter_mut().zip(masks) {
            let matches = *row & mask;
            let (sum, over) = row.overflowing_add(matches);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            carry = over || over_again;
            *row = sum | (*row & !mask);
        }
    }

    /// Zeros among the pattern's bits: the length of the LCS so far.
    fn count(&self, rows: &[u64]) -> usize {
        let zeros: u32 = rows.iter().map(|row| row.count_zeros()).sum();
        let Some(last) = rows.last() else { return 0 };
        let used = self.length - (self.blocks - 1) * 64;
        // Bits above the pattern are no positions; a carry may have cleared some.
        let unused = if used == 64 { 0 } else { (!last >> used).count_ones() };
        (zeros - unused) as usize
    }

    fn lcs(&self, text: &[usize]) -> usize {
        let mut rows = vec![u64::MAX; self.blocks];
        for id in text {
            self.advance(&mut rows, *id);
        }
        self.count(&rows)
    }

    /// Calls `with` for every proper prefix of `text` with its length and LCS.
    fn prefixes(&self, text: &[usize], mut with: impl FnMut(usize, usize)) {
        let mut rows = vec![u64::MAX; self.blocks];
        for (i, id) in text.iter().enumerate().take(text.len().saturating_sub(1)) {
            self.advance(&mut rows, *id);
            // A prefix that ends with a character unknown to the pattern is no better than the one before.
            if *id != UNKNOWN {
                with(i + 1, self.count(&rows));
            }
        }
    }

    /// The length of the prefix of `text` that matches best, at least 1: it is worth going on as long as
    /// [`WORTHWHILE`] of what is added matches.
    fn best_prefix(&self, text: &[usize]) -> usize {
        let mut rows = vec![u64::MAX; self.blocks];
        let (mut best, mut length) = (f64::MIN, 1);
        for (i, id) in text.iter().enumerate() {
            self.advance(&mut rows, *id);
            if *id == UNKNOWN {
                continue;
            }
            let score = self.count(&rows) as f64 - WORTHWHILE * (i + 1) as f64;
            if score > best {
                (best, length) = (score, i + 1);
            }
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word for word.
    fn naive(needle: &[char], hay: &[char]) -> f64 {
        let (m, n) = (needle.len(), hay.len());
        let ratio = |window: &[char]| 2.0 * naive_lcs(needle, window) as f64 / (m + window.len()) as f64;
        if m > n {
            return ratio(hay);
        }
        let full = (0..=n - m).map(|start| ratio(&hay[start..start + m]));
        let ends = (1..m).flat_map(|length| [ratio(&hay[..length]), ratio(&hay[n - length..])]);
        full.chain(ends).fold(0.0, f64::max)
    }

    fn naive_lcs(a: &[char], b: &[char]) -> usize {
        let mut row = vec![0; b.len() + 1];
        for x in a {
            let mut diagonal = 0;
            for (j, y) in b.iter().enumerate() {
                let above = row[j + 1];
                row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
                diagonal = above;
            }
        }
        row[b.len()]
    }

    fn chars(text: &str) -> Vec<char> {
        text.chars().collect()
    }

    proptest! {
        #[test]
        fn partial_ratio_agrees_with_its_definition(
            needle in "[abc ]{1,80}", hay in "[abcd ]{1,200}", cutoff in 0.0_f64..1.0
        ) {
            let (needle, hay) = (chars(&needle), chars(&hay));
            let expected = naive(&needle, &hay);
            let found = partial_ratio(&needle, &hay, 0.0).unwrap();
            prop_assert!((found.score - expected).abs() < 1e-12, "{} instead of {expected}", found.score);
            let window = &hay[found.start..found.end];
            let own = 2.0 * naive_lcs(&needle, window) as f64 / (needle.len() + window.len()) as f64;
            prop_assert!((own - found.score).abs() < 1e-12, "the window has its score");
            let cut = partial_ratio(&needle, &hay, cutoff).map(|found| found.score);
            prop_assert_eq!(cut, (expected >= cutoff).then_some(found.score));
        }

        #[test]
        fn a_plain_copy_of_marked_up_text_is_found_where_it_stands(
            words in prop::collection::vec("[a-z]{2,9}", 12..60), from in 0_usize..8, length in 3_usize..40, style in 0_usize..5
        ) {
            let to = (from + length).min(words.len());
            let plain = words[from..to].join(" ");
            prop_assume!(words.join(" ").matches(&plain).count() == 1);
            let marked = words.iter().enumerate().map(|(i, word)| match (i + style) % 5 {
                0 => format!("**{word}**\n"),
                1 => format!("{} ", &word[..1]).trim().to_owned() + "-\n" + &word[1..],
                2 => format!("| {word}"),
                3 => format!("\n- {word}"),
                _ => word.clone(),
            });
            let source = marked.collect::<Vec<_>>().join(" ");
            let found = find_quote(&plain, &source, 0.5).unwrap();
            prop_assert!(found.score >= 1.0);
            let at: String = source.chars().skip(found.start as usize).take((found.end - found.start) as usize).collect();
            prop_assert_eq!(&at, &found.text);
            prop_assert_eq!(Normalized::of(&at).text.split_whitespace().collect::<String>(), plain.replace(' ', ""));
        }
    }

    const SOURCE: &str = "## Reporting\n\nA member must report a change of **income** within ten (10) days. The agency \
        shall redetermine eligi-\nbility every 12 months, unless the member’s circumstances change earlier.\n\n\
        | Household | Limit |\n|---|---|\n| 1 | $1,255 |\n| 2 | $1,703 |\n";

    #[test]
    fn quotes_are_found_as_they_stand() {
        for (quote, score, text) in [
            (
                "report a change of income within ten (10) days",
                1.0,
                "report a change of **income** within ten (10) days",
            ),
            (
                "The agency shall redetermine eligibility every 12 months",
                1.0,
                "The agency shall redetermine eligi-\nbility every 12 months",
            ),
            ("unless the member's circumstances", 1.0, "unless the member’s circumstances"),
            ("| 1 | $1,255 |", 1.0, "1 | $1,255"),
            ("1 $1,255 2 $1,703", 1.0, "1 | $1,255 |\n| 2 | $1,703"),
            ("REPORTING A MEMBER MUST", 1.0, "Reporting\n\nA member must"),
            // Two words left out, one changed.
            (
                "The agency redetermines eligibility every 12 months",
                0.88,
                "The agency shall redetermine eligi-\nbility every 12 months",
            ),
            (
                "Members must report a change of income within ten days",
                0.85,
                "member must report a change of **income** within ten (10) days",
            ),
        ] {
            let found = find_quote(quote, SOURCE, 0.7).unwrap();
            assert_eq!(found.text, text, "{quote}: {}", found.score);
            assert!(found.score >= score && (score < 1.0) == (found.score < 1.0), "{quote}: {}", found.score);
        }
    }

    #[test]
    fn what_stands_nowhere_is_not_found() {
        assert_eq!(find_quote("Copayments are waived for all emergency room visits by children", SOURCE, 0.7), None);
        assert_eq!(find_quote("", SOURCE, 0.0), None);
        assert_eq!(find_quote("**  **", SOURCE, 0.0), None);
        assert_eq!(find_quote("anything", "", 0.0), None);
        // The source stands within the quote, but not the quote in the source.
        let longer =
            format!("{} And so on, as the agency sees fit and may decide from time to time.", "A short source.");
        assert_eq!(find_quote(&longer, "A short source.", 0.7), None);
    }

    #[test]
    fn a_long_quote_in_a_long_source_takes_milliseconds() {
        let words =
            ["income", "the", "household", "limit", "agency", "of", "member", "must", "within", "days", "report"];
        let mut state = 7_u32;
        let mut word = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            words[(state >> 16) as usize % words.len()]
        };
        let source: Vec<&str> = (0..1700).map(|_| word()).collect();
        let source = source.join(" ");
        let mut quote: Vec<String> = source[5000..5990].split(' ').map(str::to_owned).collect();
        for i in (0..quote.len()).step_by(25) {
            quote[i] = "altered".into();
        }
        let other: Vec<&str> = (0..165).map(|_| word()).collect();
        for (quote, found) in [(quote.join(" "), true), (other.join(" "), false)] {
            // The quickest of some: a machine with much else to do may hold up any of them.
            let took = (0..10).map(|_| {
                let start = std::time::Instant::now();
                assert_eq!(find_quote(&quote, &source, 0.8).is_some(), found);
                start.elapsed()
            });
            let took = took.min().expect("ten");
            assert!(took.as_millis() < 100, "{took:?}");
        }
    }
}
