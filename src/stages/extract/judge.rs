//! Whether what was read of a PDF is its text: reasons to give it up, and warnings.

use super::pdf::{PdfPage, PdfText};

/// Why nothing was made of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// A short label for counting.
    pub(super) label: &'static str,
    /// The reason, for people.
    pub(super) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageState {
    Good,
    /// Nothing on it, or next to nothing, and no picture of text either.
    Blank,
    /// A picture, and no text with it.
    Textless,
    /// Text in fonts that do not say what their glyphs mean.
    Undecodable,
    /// Text, some of which has no characters.
    PartlyDecoded,
    /// Text, but much less than a plain second reading finds.
    Thin,
    Failed,
}

/// A picture smaller than this share of the page is no scan of text.
const SCAN_COVERAGE: f32 = 0.05;
/// A page of outlines has at least this many filled shapes.
const OUTLINE_FILLS: u32 = 150;
/// Letters that a second reading must find before its count says anything.
const THIN_MIN: usize = 200;

/// Judges a document; warnings if it can go on.
pub(super) fn judge(text: &PdfText, min_page_chars: usize) -> Result<Vec<String>, Verdict> {
    let states: Vec<PageState> = text.pages.iter().map(|page| state(page, min_page_chars)).collect();
    let on = |wanted: PageState| -> Vec<usize> {
        states.iter().enumerate().filter(|(_, state)| **state == wanted).map(|(i, _)| i + 1).collect()
    };
    let (textless, undecodable, failed) = (on(PageState::Textless), on(PageState::Undecodable), on(PageState::Failed));
    let count = text.pages.len();
    let has_text = states.iter().any(|s| matches!(s, PageState::Good | PageState::PartlyDecoded | PageState::Thin));
    if !has_text {
        let verdict = |label, reason| Err(Verdict { label, reason });
        let of = |pages: &[usize]| format!("{} of {}", pages.len(), pages_word(count));
        if !textless.is_empty() && textless.len() >= undecodable.len() {
            return verdict("no_text_layer", format!("no text layer on {}: scanned?", of(&textless)));
        }
        if !undecodable.is_empty() {
            return verdict(
                "undecodable",
                format!("text cannot be decoded on {}: fonts without a character map", of(&undecodable)),
            );
        }
        if let Some(first) = failed.first() {
            let why = text.pages[first - 1].failed.as_deref().unwrap_or_default();
            return verdict("damaged", format!("damaged PDF: {} cannot be read; page {first}: {why}", of(&failed)));
        }
        if text.pages.iter().all(|page| visible(&page.markdown) == 0) {
            let which = if count == 1 {
                "its one page is blank, or what is on it cannot be read".into()
            } else {
                format!("all {count} pages are blank, or what is on them cannot be read")
            };
            return verdict("no_text", format!("no text: {which}"));
        }
    }
    let mut warnings = Vec::new();
    let mut warn = |what: &str, pages: &[usize], why: &str| {
        if !pages.is_empty() {
            let (n, total, list) = (pages.len(), pages_word(count), list(pages));
            warnings.push(format!("{what} on {n} of {total} ({list}){why}"));
        }
    };
    warn("no text layer", &textless, ": scanned?");
    warn("text cannot be decoded", &undecodable, ": fonts without a character map");
    warn("some text cannot be decoded", &on(PageState::PartlyDecoded), ": fonts without a character map");
    warn("nothing could be read", &failed, ": the page is damaged");
    warn("text may be missing", &on(PageState::Thin), ": a second reading finds more");
    if let Some(declared) = text.declared_pages {
        warnings.push(format!("damaged PDF: only {count} of {declared} pages were found"));
    }
    if text.rebuilt {
        warnings.push("damaged PDF: its table of objects was rebuilt, so text may be missing".into());
    }
    Ok(warnings)
}

fn state(page: &PdfPage, min_chars: usize) -> PageState {
    if page.failed.is_some() {
        return PageState::Failed;
    }
    let shown = visible(&page.markdown);
    let unknown = page.markdown.chars().filter(|c| is_unknown(*c)).count();
    if shown > 0 && 3 * unknown > shown {
        return PageState::Undecodable;
    }
    if shown < min_chars {
        let scan = page.images > 0 && page.image_coverage >= SCAN_COVERAGE;
        let outlines = page.text_operators == 0 && page.fills >= OUTLINE_FILLS;
        return match () {
            () if page.undecoded > 0 => PageState::Undecodable,
            () if scan || outlines => PageState::Textless,
            () => PageState::Blank,
        };
    }
    let read = page.markdown.chars().filter(|c| c.is_alphanumeric()).count();
    if page.second_reading >= THIN_MIN && 10 * read < 7 * page.second_reading {
        return PageState::Thin;
    }
    // A stray glyph or two is a bullet or a logo.
    if page.undecoded > 5 && 50 * page.undecoded as usize > shown { PageState::PartlyDecoded } else { PageState::Good }
}

/// Characters that say nothing: replacements and those for private use.
fn is_unknown(c: char) -> bool {
    matches!(c, '\u{fffd}' | '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10ffff}')
}

/// Characters that a reader sees, Markdown's own marks aside.
fn visible(markdown: &str) -> usize {
    markdown.chars().filter(|c| !c.is_whitespace() && !matches!(c, '#' | '|' | '-' | '*' | '`' | '\\')).count()
}

fn pages_word(count: usize) -> String {
    if count == 1 { "1 page".into() } else { format!("{count} pages") }
}

/// `page 3`, `pages 1, 4-6 and 9`; a long list is cut.
fn list(pages: &[usize]) -> String {
    const MOST: usize = 8;
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for page in pages {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *page => *last = *page,
            _ => ranges.push((*page, *page)),
        }
    }
    let shown: Vec<String> =
        ranges.iter().take(MOST).map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    let rest: usize = ranges.iter().skip(MOST).map(|(a, b)| b - a + 1).sum();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("page{} {}{more}", if pages.len() == 1 { "" } else { "s" }, shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> PdfPage {
        PdfPage { markdown: "Words that a reader sees.".into(), ..PdfPage::default() }
    }

    fn scan() -> PdfPage {
        PdfPage { images: 1, image_coverage: 0.9, ..PdfPage::default() }
    }

    fn document(pages: Vec<PdfPage>) -> PdfText {
        PdfText { pages, ..PdfText::default() }
    }

    #[test]
    fn scans_are_given_up_unless_some_page_has_text() {
        let verdict = judge(&document(vec![scan(), scan(), PdfPage::default()]), 10).unwrap_err();
        assert_eq!(verdict.label, "no_text_layer");
        assert_eq!(verdict.reason, "no text layer on 2 of 3 pages: scanned?");
        let warnings = judge(&document(vec![good(), good(), scan(), good()]), 10).unwrap();
        assert_eq!(warnings, ["no text layer on 1 of 4 pages (page 3): scanned?"]);
    }

    #[test]
    fn blank_pages_and_logos_are_fine() {
        let logo = PdfPage { images: 1, image_coverage: 0.01, ..PdfPage::default() };
        assert_eq!(judge(&document(vec![good(), PdfPage::default(), logo]), 10).unwrap(), Vec::<String>::new());
        let verdict = judge(&document(vec![PdfPage::default()]), 10).unwrap_err();
        assert_eq!(
            (verdict.label, verdict.reason.as_str()),
            ("no_text", "no text: its one page is blank, or what is on it cannot be read")
        );
    }

    #[test]
    fn fonts_without_a_map_are_noticed() {
        let lost = PdfPage { undecoded: 30, ..PdfPage::default() };
        assert_eq!(judge(&document(vec![lost.clone()]), 10).unwrap_err().label, "undecodable");
        let private = PdfPage { markdown: "\u{e001}\u{e002}\u{e003} 1".into(), ..PdfPage::default() };
        assert_eq!(judge(&document(vec![private]), 10).unwrap_err().label, "undecodable");
        let warnings = judge(&document(vec![good(), lost]), 10).unwrap();
        assert_eq!(warnings, ["text cannot be decoded on 1 of 2 pages (page 2): fonts without a character map"]);
    }

    #[test]
    fn damage_is_told() {
        let bad = PdfPage { failed: Some("bad stream".into()), ..PdfPage::default() };
        let verdict = judge(&document(vec![bad]), 10).unwrap_err();
        assert_eq!(verdict.reason, "damaged PDF: 1 of 1 page cannot be read; page 1: bad stream");
        let thin = PdfPage { second_reading: 1000, ..good() };
        let text = PdfText { declared_pages: Some(5), rebuilt: true, ..document(vec![thin]) };
        assert_eq!(judge(&text, 10).unwrap().len(), 3);
    }

    #[test]
    fn page_lists_are_short() {
        assert_eq!(list(&[3]), "page 3");
        assert_eq!(list(&[1, 2, 3, 7, 9, 10]), "pages 1-3, 7, 9-10");
        let odd: Vec<usize> = (0..20).map(|i| 2 * i + 1).collect();
        assert_eq!(list(&odd), "pages 1, 3, 5, 7, 9, 11, 13, 15 and 12 more");
    }
}
