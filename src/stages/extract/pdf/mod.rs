//! PDF to Markdown, page by page, with unpdf, in this process: the work of the extraction worker.
//!
//! Two passes. The first takes each page's lines with their places, finds running lines and side headings; the
//! second reads the text with those out of the way, and puts the side headings back where they belong.

mod lines;
mod markdown;
mod refine;
mod rewrite;
mod running;
mod side;

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use unpdf::parser::LayoutAnalyzer;
use unpdf::parser::backend::{PageBox, PdfBackend, RawBackend};
use unpdf::{PageStreamOptions, ParseEvent, ParseOptions, PdfParser};

use super::sniff;
use lines::{Line, weight};
use refine::{PageFrame, Piece};

/// The version of unpdf that does the reading; it determines results.
pub const UNPDF_VERSION: &str = "0.52.1";

/// What the worker is asked besides the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PdfOptions {
    /// The most text that is taken, in bytes.
    pub max_text: usize,
    /// The most pages that are read.
    pub max_pages: u32,
    /// Whether running headers, footers and page numbers are taken out.
    pub strip_running: bool,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PdfText {
    /// The pages in order; as many as the document has.
    pub pages: Vec<PdfPage>,
    /// The title in the document's own data.
    pub title: Option<String>,
    /// Whether it is encrypted (and could be read without a password).
    pub encrypted: bool,
    /// How many pages the document says it has, if fewer were found.
    pub declared_pages: Option<u32>,
    /// Whether its table of objects had to be rebuilt.
    pub rebuilt: bool,
}

/// One page and what is known of how well it was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PdfPage {
    /// Its text as Markdown.
    pub markdown: String,
    /// Why it could not be read at all.
    pub failed: Option<String>,
    /// Images painted on it.
    pub images: u32,
    /// The share of it that images cover, 0 to 1.
    pub image_coverage: f32,
    /// Operators that show text.
    pub text_operators: u32,
    /// Operators that fill shapes.
    pub fills: u32,
    /// Runs of text, and codes in others, that no character is known for.
    pub undecoded: u64,
    /// Letters and digits that a plain second reading found, running lines aside.
    pub second_reading: usize,
}

/// Why a PDF cannot be read. Each is a fault of the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PdfFault {
    /// Not a PDF; what it is instead.
    NotPdf(String),
    /// It opens only with a password.
    Encrypted,
    /// It is encrypted in a way that cannot be read.
    UnknownEncryption(String),
    /// It has no pages.
    NoPages,
    /// More pages than are read: how many.
    TooManyPages(u32),
    /// More text than is taken.
    TooLarge,
    /// Its structure cannot be read.
    Damaged(String),
}

impl PdfFault {
    fn of(error: &unpdf::Error) -> Self {
        match error {
            unpdf::Error::Encrypted | unpdf::Error::InvalidPassword => Self::Encrypted,
            unpdf::Error::UnsupportedVersion(what) if what.contains("encryption") => {
                Self::UnknownEncryption(what.clone())
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// What the first pass knows of a page.
struct Seen {
    lines: Vec<Line>,
    page_box: PageBox,
    turned: bool,
    /// Turned texts on it, such as a printer's mark up the margin.
    sideways: Vec<String>,
}

/// Reads a PDF. `opened` is told the number of pages before the long part begins.
pub fn read_pdf(bytes: &[u8], options: &PdfOptions, opened: &mut dyn FnMut(u32)) -> Result<PdfText, PdfFault> {
    let data = sniff::pdf_body(bytes).ok_or_else(|| PdfFault::NotPdf(sniff::describe(bytes)))?;
    let (seen, mut text) = first_pass(data, options, opened)?;
    let cuts = if options.strip_running { cuts(&seen) } else { vec![running::Cut::default(); seen.len()] };
    let mut seen = seen;
    for (page, cut) in seen.iter_mut().zip(&cuts) {
        page.lines.retain(|line| !cut.takes(line.y));
    }
    let mut sides: Vec<Option<side::SidePage>> = seen
        .iter()
        .map(|page| (!page.turned).then(|| side::recognise(&page.lines, page.page_box.width())).flatten())
        .collect();
    side::confirm(&mut sides);
    let shown: Vec<Option<rewrite::Area>> = seen
        .iter()
        .zip(&cuts)
        .zip(&sides)
        .map(|((page, cut), side)| shown(page.page_box, *cut, side.as_ref()))
        .collect();
    let clipped = shown.iter().any(Option::is_some).then(|| rewrite::clipped(data, &shown)).flatten();
    // Where no copy could be made, running lines stay.
    let copy = clipped.as_deref().and_then(|copy| Some((copy, open(copy, seen.len())?)));
    let (source, parser) = if let Some(copy) = copy {
        copy
    } else {
        sides.fill(None);
        (data, PdfParser::from_bytes_with_options(data, sequential()).map_err(|error| PdfFault::of(&error))?)
    };
    let (mut pieces, again) = second_pass(&parser, &seen, &sides, options, &mut text)?;
    drop(parser);
    if !again.is_empty() {
        read_again(source, &again, &seen, &sides, &mut pieces)?;
    }
    if options.strip_running {
        let margin = repeated_sideways(&seen);
        for page in &mut pieces {
            page.retain(|piece| !piece.is_margin(&margin));
        }
    }
    for (page, markdown) in text.pages.iter_mut().zip(markdown::render(pieces)) {
        page.markdown = markdown;
    }
    Ok(text)
}

fn sequential() -> ParseOptions {
    ParseOptions::new().lenient().sequential()
}

fn open(copy: &[u8], pages: usize) -> Option<PdfParser> {
    PdfParser::from_bytes_with_options(copy, sequential()).ok().filter(|parser| parser.page_count() as usize == pages)
}

/// Takes every page's lines.
fn first_pass(
    data: &[u8],
    options: &PdfOptions,
    opened: &mut dyn FnMut(u32),
) -> Result<(Vec<Seen>, PdfText), PdfFault> {
    let backend = RawBackend::load_bytes(data).map_err(|error| PdfFault::of(&error))?;
    let pages = backend.pages();
    let count = pages.len() as u32;
    let integrity = backend.integrity();
    if count == 0 {
        return Err(if integrity.unresolved_page_nodes > 0 || integrity.skipped_object_count > 0 {
            PdfFault::Damaged("its list of pages cannot be read".into())
        } else {
            PdfFault::NoPages
        });
    }
    if count > options.max_pages {
        return Err(PdfFault::TooManyPages(count));
    }
    opened(count);
    let mut seen = Vec::with_capacity(pages.len());
    let mut bytes = 0;
    for (number, id) in &pages {
        let spans = LayoutAnalyzer::new(&backend).extract_page_spans(*number).unwrap_or_default();
        bytes += spans.iter().map(|span| span.text.len()).sum::<usize>();
        if bytes > options.max_text {
            return Err(PdfFault::TooLarge);
        }
        let rotated = spans.iter().filter(|span| span.is_rotated()).count();
        seen.push(Seen {
            lines: lines::lines(&spans),
            sideways: spans.iter().filter(|s| s.is_rotated()).map(|s| s.text.trim().to_owned()).collect(),
            page_box: backend.crop_box(*id),
            turned: backend.page_rotation(*id) != 0 || rotated * 2 > spans.len(),
        });
    }
    let declared = integrity.declared_page_count.filter(|declared| *declared > count);
    let text = PdfText {
        title: backend.metadata().title,
        encrypted: backend.is_encrypted(),
        declared_pages: declared,
        rebuilt: integrity.xref_reconstructed,
        ..PdfText::default()
    };
    Ok((seen, text))
}

fn cuts(seen: &[Seen]) -> Vec<running::Cut> {
    let edges: Vec<running::Edges> = seen
        .iter()
        .map(|page| {
            let lines = if page.turned { &[][..] } else { &page.lines };
            running::edges(lines, page.page_box.lly, page.page_box.ury)
        })
        .collect();
    running::find(&edges)
}

/// Turned texts that most pages have.
fn repeated_sideways(seen: &[Seen]) -> HashSet<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for page in seen {
        for text in page.sideways.iter().collect::<HashSet<_>>() {
            *counts.entry(text).or_default() += 1;
        }
    }
    let enough = |count: usize| count >= 3 && 2 * count >= seen.len();
    counts
        .into_iter()
        .filter(|(text, count)| !text.is_empty() && enough(*count))
        .map(|(text, _)| text.to_owned())
        .collect()
}

/// What stays visible of a page; `None` if all does.
fn shown(page: PageBox, cut: running::Cut, side: Option<&side::SidePage>) -> Option<rewrite::Area> {
    if cut == running::Cut::default() && side.is_none() {
        return None;
    }
    // Wider than the page, so that rounding hides nothing.
    let area =
        [page.llx - 10.0, cut.bottom.unwrap_or(page.lly - 10.0), page.urx + 10.0, cut.top.unwrap_or(page.ury + 10.0)];
    Some(side.map_or(area, |side| side.body(area)))
}

/// What is known of page `i` besides its blocks.
fn frame<'a>(i: usize, seen: &'a [Seen], sides: &'a [Option<side::SidePage>], ruled: bool) -> PageFrame<'a> {
    let side = sides[i].as_ref().map(|side| (side.anchors(), side.body_x));
    PageFrame { lines: &seen[i].lines, side, ruled }
}

/// Reads every page's text. Returns, besides, the pages that have to be read again.
fn second_pass(
    parser: &PdfParser,
    seen: &[Seen],
    sides: &[Option<side::SidePage>],
    options: &PdfOptions,
    text: &mut PdfText,
) -> Result<(Vec<Vec<Piece>>, Vec<usize>), PdfFault> {
    let mut pieces: Vec<Vec<Piece>> = vec![Vec::new(); seen.len()];
    text.pages = seen
        .iter()
        .map(|page| PdfPage {
            second_reading: page.lines.iter().map(|line| weight(&line.text())).sum(),
            ..PdfPage::default()
        })
        .collect();
    let (mut bytes, mut again) = (0, Vec::new());
    let stream = PageStreamOptions { parallel: false, ..PageStreamOptions::default() };
    let result = parser.for_each_page(stream, |event| {
        match event {
            ParseEvent::PageParsed(page) => {
                let i = page.number.saturating_sub(1) as usize;
                let Some(slot) = text.pages.get_mut(i) else { return ControlFlow::Continue(()) };
                let ruled = page.ruled_tables > 0;
                let refined = refine::pieces(&page.elements, frame(i, seen, sides, ruled));
                pieces[i] = refined.pieces;
                slot.images = page.image_op_count;
                slot.image_coverage = page.image_coverage;
                slot.text_operators = page.text_op_count;
                slot.fills = page.fill_op_count;
                slot.undecoded = page.suppressed_text_runs as u64 + u64::from(page.undecoded_text_codes);
                if page.undecodable_content_streams > 0 && pieces[i].is_empty() {
                    slot.failed = Some("its content cannot be decoded".into());
                }
                if refined.false_table || is_thin(&pieces[i], slot.second_reading) {
                    again.push(i);
                }
                bytes += pieces[i].iter().map(|piece| piece.text.len()).sum::<usize>();
            }
            ParseEvent::PageFailed { page, error } => {
                if let Some(slot) = text.pages.get_mut(page.saturating_sub(1) as usize) {
                    slot.failed = Some(error.to_string());
                }
            }
            _ => {}
        }
        if bytes > options.max_text { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    result.map_err(|error| PdfFault::of(&error))?;
    if bytes > options.max_text { Err(PdfFault::TooLarge) } else { Ok((pieces, again)) }
}

/// Whether much of what the first pass saw is missing.
fn is_thin(pieces: &[Piece], seen: usize) -> bool {
    let read: usize = pieces.iter().map(|piece| weight(&piece.text)).sum();
    seen >= 100 && 10 * read < 9 * seen
}

/// Reads pages as text alone, without tables, and keeps that unless it is less.
fn read_again(
    data: &[u8],
    again: &[usize],
    seen: &[Seen],
    sides: &[Option<side::SidePage>],
    pieces: &mut [Vec<Piece>],
) -> Result<(), PdfFault> {
    let backend = RawBackend::load_bytes(data).map_err(|error| PdfFault::of(&error))?;
    for i in again {
        let Ok(blocks) = LayoutAnalyzer::new(&backend).extract_page_blocks(*i as u32 + 1) else { continue };
        let plain = refine::text_pieces(&blocks, frame(*i, seen, sides, false));
        let weigh = |pieces: &[Piece]| pieces.iter().map(|piece| weight(&piece.text)).sum::<usize>();
        if 100 * weigh(&plain) >= 95 * weigh(&pieces[*i]) {
            pieces[*i] = plain;
        }
    }
    Ok(())
}
