//! Gives unpdf's blocks their places back, and with them what the blocks have lost: headings run into the paragraph
//! below, paragraphs run into one another, sizes of headings, side headings.
//!
//! A block's text is the text of some of the page's segments, one after another. Finding them again by their letters
//! tells where each stretch of the block stands, how large it is set and how far it is from the next.

use std::collections::HashSet;

use unpdf::model::{Block, Table};
use unpdf::parser::{BlockType, TextBlock};

use super::lines::{Line, Segment};
use super::side::Anchor;

/// What a piece of a page is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A heading; unpdf's level, for where the size is unknown.
    Heading(u8),
    /// A list item with its marker, such as `-` or `3.`.
    Item(String),
    Paragraph,
    /// A table or a listing: Markdown already.
    Verbatim,
}

/// A paragraph, heading, list item or table of a page.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) kind: Kind,
    pub(super) text: String,
    /// Type size in points; 0 where it is unknown.
    pub(super) size: f32,
    /// Baselines of its first and last lines, where they are known.
    span: Option<(f32, f32)>,
}

impl Piece {
    #[cfg(test)]
    pub(super) fn new(kind: Kind, text: &str, size: f32, span: Option<(f32, f32)>) -> Self {
        Self { kind, text: text.into(), size, span }
    }

    /// Whether it is one of these texts, and stands at no known place among the lines: turned text in the margin.
    pub(super) fn is_margin(&self, texts: &HashSet<String>) -> bool {
        self.span.is_none() && texts.contains(self.text.trim())
    }

    /// Whether `next` stands where the text of this piece would go on: on the next line, or higher up, in the next
    /// column.
    pub(super) fn runs_on_to(&self, next: &Self) -> bool {
        let (Some((_, end)), Some((start, _))) = (self.span, next.span) else { return false };
        let down = end - start;
        (0.5 * self.size..1.6 * self.size).contains(&down) || down < -5.0 * self.size
    }

    /// Takes the text of a piece that goes on from this one.
    pub(super) fn append(&mut self, next: &Self) {
        self.text.truncate(self.text.trim_end().len());
        self.text.push(' ');
        self.text.push_str(&next.text);
        self.span = self.span.zip(next.span).map(|((start, _), (_, end))| (start, end));
    }
}

/// What a page's blocks came to.
pub(super) struct Refined {
    pub(super) pieces: Vec<Piece>,
    /// Whether a table was made of what is columns of text: then none of it can be trusted.
    pub(super) false_table: bool,
}

/// A segment of the page, with its letters and digits in lower case.
struct Placed<'a> {
    segment: &'a Segment,
    y: f32,
    letters: Vec<char>,
    used: bool,
}

/// A stretch of a block's text.
struct Stretch {
    /// Where it begins in the block's text, in bytes.
    at: usize,
    /// Index of its segment.
    segment: usize,
}

/// What is known of a page besides its blocks.
#[derive(Clone, Copy)]
pub(super) struct PageFrame<'a> {
    /// Its lines, without running lines.
    pub(super) lines: &'a [Line],
    /// Its side headings, and the left edge of the text beside them.
    pub(super) side: Option<(&'a [Anchor], f32)>,
    /// Whether all tables are drawn with rules.
    pub(super) ruled: bool,
}

/// A page in the making.
struct Page<'a> {
    placed: Vec<Placed<'a>>,
    side: Option<(&'a [Anchor], f32)>,
    setting: Setting,
    pieces: Vec<Piece>,
}

impl<'a> Page<'a> {
    fn new(frame: PageFrame<'a>) -> Self {
        let placed = frame
            .lines
            .iter()
            .flat_map(|line| line.segments.iter().map(|segment| (line.y, segment)))
            .map(|(y, segment)| Placed { segment, y, letters: letters(&segment.text), used: false })
            .collect();
        Self { placed, side: frame.side, setting: Setting::of(frame.lines), pieces: Vec::new() }
    }

    fn finish(self) -> Vec<Piece> {
        match self.side {
            Some((anchors, _)) => insert(anchors, self.pieces),
            None => self.pieces,
        }
    }
}

/// Turns a page's blocks into pieces.
pub(super) fn pieces(blocks: &[Block], frame: PageFrame<'_>) -> Refined {
    let mut page = Page::new(frame);
    let mut false_table = false;
    for block in blocks {
        match block {
            Block::Paragraph(paragraph) if !paragraph.is_empty() => {
                let mut bare = paragraph.clone();
                let marker = bare.style.list_info.take().map(|info| match info.item_number {
                    Some(n) => format!("{n}."),
                    None => "-".to_owned(),
                });
                let kind = match (bare.style.heading_level, marker) {
                    (Some(level), _) => Kind::Heading(level),
                    (None, Some(marker)) => Kind::Item(marker),
                    (None, None) => Kind::Paragraph,
                };
                split(&kind, &bare.plain_text().replace('\n', " "), &mut page);
            }
            Block::Table(table) if !table.is_empty() => {
                let cells = place_table(table, &mut page.placed);
                false_table |= !frame.ruled && is_prose(table, &cells, &page);
                let ys = || cells.iter().map(|i| page.placed[*i].y);
                let span = (!cells.is_empty()).then(|| (ys().fold(f32::MIN, f32::max), ys().fold(f32::MAX, f32::min)));
                page.pieces.push(Piece { kind: Kind::Verbatim, text: table_markdown(table), size: 0.0, span });
            }
            Block::Code { content } => {
                let span = place(&letters(content), &mut page.placed)
                    .map(|s| (page.placed[s[0].segment].y, page.placed[s[s.len() - 1].segment].y));
                let text = format!("```\n{content}\n```");
                page.pieces.push(Piece { kind: Kind::Verbatim, text, size: 0.0, span });
            }
            Block::Raw { content } if !content.trim().is_empty() => split(&Kind::Paragraph, content, &mut page),
            _ => {}
        }
    }
    Refined { pieces: page.finish(), false_table }
}

/// Turns blocks that were made without regard to tables into pieces.
pub(super) fn text_pieces(blocks: &[TextBlock], frame: PageFrame<'_>) -> Vec<Piece> {
    let mut page = Page::new(frame);
    for block in blocks {
        match block.block_type {
            BlockType::Heading => split(&Kind::Heading(block.heading_level), &block.text(), &mut page),
            BlockType::ListItem => {
                let marker = block.list_item_number.map_or_else(|| "-".into(), |n| format!("{n}."));
                split(&Kind::Item(marker), &block.list_item_text(), &mut page);
            }
            _ => split(&Kind::Paragraph, &block.text(), &mut page),
        }
    }
    page.finish()
}

/// A cell with so many characters, on average, is a paragraph.
const PROSE_CELL: usize = 150;
/// A line of at least so many ems is one of running text.
const TEXT_LINE_EM: f32 = 10.0;

/// Whether a table without rules is really columns of text that happen to stand side by side: its cells are whole
/// paragraphs, or go on, above or below it, as lines of text at the same edge.
fn is_prose(table: &Table, cells: &[usize], page: &Page<'_>) -> bool {
    let long: Vec<usize> = table
        .rows
        .iter()
        .flat_map(|row| &row.cells)
        .map(|cell| cell.plain_text().chars().count())
        .filter(|length| *length > 0)
        .collect();
    if long.len() >= 2 && long.iter().sum::<usize>() >= PROSE_CELL * long.len() {
        return true;
    }
    let wide = |p: &Placed<'_>| p.segment.x1 - p.segment.x0 >= TEXT_LINE_EM * p.segment.size;
    let mut edges: Vec<f32> = Vec::new();
    for i in cells {
        let cell = &page.placed[*i];
        let reach = 1.1 * page.setting.pitch * cell.segment.size;
        let goes_on = page.placed.iter().enumerate().any(|(j, other)| {
            !cells.contains(&j)
                && wide(other)
                && (other.segment.x0 - cell.segment.x0).abs() <= 1.5
                && (other.segment.size - cell.segment.size).abs() < 0.3
                && (0.5 * cell.segment.size..=reach).contains(&(other.y - cell.y).abs())
        });
        if wide(cell) && goes_on && edges.iter().all(|x| (x - cell.segment.x0).abs() > 20.0) {
            edges.push(cell.segment.x0);
        }
    }
    edges.len() >= 2
}

/// How a page is set.
struct Setting {
    body_size: f32,
    /// Distance of baselines within a paragraph, in multiples of the type size.
    pitch: f32,
}

impl Setting {
    fn of(lines: &[Line]) -> Self {
        let mut sizes: Vec<(f32, usize)> =
            lines.iter().flat_map(|l| &l.segments).map(|s| (s.size, s.text.len())).collect();
        sizes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let half = sizes.iter().map(|(_, weight)| weight).sum::<usize>() / 2;
        let mut passed = 0;
        let body_size = sizes
            .iter()
            .find(|(_, weight)| {
                passed += weight;
                passed > half
            })
            .map_or(10.0, |(size, _)| *size);
        // Segments of one column: each with the nearest below it that begins at the same place.
        let mut pitches: Vec<f32> = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            for segment in line.segments.iter().filter(|s| (s.size - body_size).abs() < 0.3) {
                let below = lines[i + 1..].iter().take(6).find(|other| {
                    other.segments.iter().any(|o| (o.x0 - segment.x0).abs() < 2.0 && (o.size - body_size).abs() < 0.3)
                });
                pitches.extend(below.map(|other| (line.y - other.y) / body_size).filter(|pitch| *pitch < 3.0));
            }
        }
        pitches.sort_by(f32::total_cmp);
        // Gaps between paragraphs are larger and rarer: the lower third is safely inside paragraphs.
        let pitch = pitches.get(pitches.len() / 3).copied().unwrap_or(1.3);
        Self { body_size, pitch }
    }
}

fn letters(text: &str) -> Vec<char> {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The segments that a text consists of; `None` if they cannot be told.
fn place(text: &[char], placed: &mut [Placed<'_>]) -> Option<Vec<Stretch>> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let (mut at, mut missed) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let before = stretches.last().map(|s| s.segment);
        let best = (0..placed.len())
            .filter(|i| !placed[*i].used && !placed[*i].letters.is_empty() && rest.starts_with(&placed[*i].letters))
            .min_by(|a, b| {
                let longer = placed[*b].letters.len().cmp(&placed[*a].letters.len());
                let nearer = distance(before, *a, placed).total_cmp(&distance(before, *b, placed));
                longer.then(nearer).then(a.cmp(b))
            });
        if let Some(segment) = best {
            placed[segment].used = true;
            stretches.push(Stretch { at, segment });
            at += placed[segment].letters.len();
        } else {
            missed += 1;
            at += 1;
        }
    }
    if stretches.is_empty() || missed * 5 > text.len() {
        for stretch in &stretches {
            placed[stretch.segment].used = false;
        }
        return None;
    }
    Some(stretches)
}

/// How far a segment is from the one before it, down the column first.
fn distance(before: Option<usize>, segment: usize, placed: &[Placed<'_>]) -> f32 {
    let Some(before) = before.map(|i| &placed[i]) else { return segment as f32 };
    let (down, aside) = (before.y - placed[segment].y, (before.segment.x0 - placed[segment].segment.x0).abs());
    if down < -1.0 { 2000.0 - down + aside } else { down + 3.0 * aside }
}

/// Splits a block where its places say that something else begins.
fn split(kind: &Kind, text: &str, page: &mut Page<'_>) {
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    let Some(stretches) = place(&letters(text), &mut page.placed) else {
        page.pieces.push(Piece { kind: kind.clone(), text: text.to_owned(), size: 0.0, span: None });
        return;
    };
    let starts = byte_starts(text, &stretches);
    let mut first = 0;
    for i in 1..=stretches.len() {
        let ends = i == stretches.len() || {
            let (a, b) = (&page.placed[stretches[i - 1].segment], &page.placed[stretches[i].segment]);
            parts(a, b, &text[starts[first]..starts[i]], page)
        };
        if !ends {
            continue;
        }
        let end = starts.get(i).copied().unwrap_or(text.len());
        let run: Vec<&Placed<'_>> = stretches[first..i].iter().map(|s| &page.placed[s.segment]).collect();
        // Lines across a page with side headings are among those already.
        let across = page.side.is_some_and(|(_, body_x)| run.iter().all(|p| p.segment.x0 < body_x - 4.0));
        let part = text[starts[first]..end].trim();
        if !part.is_empty() && !across {
            let made = piece(kind, part, &run, first == 0, &page.setting);
            page.pieces.push(made);
        }
        first = i;
    }
}

/// The byte at which each stretch begins, with the marks that stand right before its first letter.
fn byte_starts(text: &str, stretches: &[Stretch]) -> Vec<usize> {
    let places: Vec<usize> = text
        .char_indices()
        .filter(|(_, c)| c.is_alphanumeric())
        .flat_map(|(i, c)| c.to_lowercase().map(move |_| i))
        .collect();
    let mut starts: Vec<usize> = Vec::with_capacity(stretches.len());
    for (n, stretch) in stretches.iter().enumerate() {
        let at = places.get(stretch.at).copied().unwrap_or(text.len());
        let word = text[..at].rfind(char::is_whitespace).map_or(0, |space| space + 1);
        starts.push(if n == 0 { 0 } else { word.max(starts[n - 1]) });
    }
    starts
}

/// Whether something else begins with segment `b`, after `a` and the text so far.
fn parts(a: &Placed<'_>, b: &Placed<'_>, so_far: &str, page: &Page<'_>) -> bool {
    let (sa, sb) = (a.segment, b.segment);
    let down = a.y - b.y;
    if down.abs() < 0.5 * sa.size.min(sb.size) {
        return false;
    }
    if let Some((anchors, body_x)) = page.side {
        let between = |anchor: &Anchor| anchor.y < a.y - 0.5 * sa.size && anchor.y >= b.y - 0.6 * sb.size;
        if anchors.iter().any(between) || (sa.x0 < body_x - 4.0) != (sb.x0 < body_x - 4.0) {
            return true;
        }
    }
    let ended = so_far.trim_end().ends_with(['.', ':', ';', '!', '?']);
    if is_contents_entry(so_far.trim()) || ended && begins_item(&sb.text) && sb.x0 <= sa.x1 {
        return true;
    }
    // Raised figures and other scraps say nothing about the setting.
    if a.letters.len() < 3 || b.letters.len() < 3 {
        return false;
    }
    if (sa.size - sb.size).abs() > 0.06 * sa.size.max(sb.size) {
        return true;
    }
    if sa.styled != sb.styled {
        return if sa.styled { !ended && so_far.chars().count() <= 120 } else { ended };
    }
    let (gap, pitch) = (down / sb.size, page.setting.pitch);
    gap > 1.1 * pitch && gap > pitch + 0.1 && (ended || gap > 1.5 * pitch)
}

/// Leaders and a page number: `1.1 Purpose . . . . . . 2`.
fn is_contents_entry(text: &str) -> bool {
    has_leaders(text) && text.ends_with(|c: char| c.is_ascii_digit() || "ivxl".contains(c))
}

/// A row of dots, as between a contents entry and its page number.
pub(super) fn has_leaders(text: &str) -> bool {
    let mut dots = 0;
    text.chars().filter(|c| *c != ' ').any(|c| {
        dots = if matches!(c, '.' | '…' | '·') { dots + 1 } else { 0 };
        dots >= 5
    })
}

/// `A. the name`, `(b) the code`, `12) the date`, or the mark alone.
fn begins_item(text: &str) -> bool {
    let mark = text.split(' ').next().unwrap_or_default();
    let inner = mark.trim_start_matches('(').trim_end_matches(['.', ')']);
    inner.len() < mark.len()
        && mark.ends_with(['.', ')'])
        && (1..=4).contains(&inner.len())
        && inner.chars().all(|c| c.is_ascii_alphanumeric())
        && (inner.len() == 1 || inner.chars().all(|c| c.is_ascii_digit()) || inner.chars().all(|c| "ivx".contains(c)))
}

fn piece(kind: &Kind, text: &str, run: &[&Placed<'_>], first: bool, setting: &Setting) -> Piece {
    let weight: usize = run.iter().map(|p| p.letters.len()).sum();
    let size = run.iter().max_by_key(|p| p.letters.len()).map_or(0.0, |p| p.segment.size);
    let styled = run.iter().filter(|p| p.segment.styled).map(|p| p.letters.len()).sum::<usize>() * 10 >= weight * 9;
    let short = text.chars().count() <= 150 && !text.ends_with(['.', ';', ',']);
    let heads =
        (styled || size > 1.1 * setting.body_size) && short && weight > 1 && !is_caption(text) && !has_leaders(text);
    let kind = match kind {
        Kind::Heading(level) if heads || first && !has_leaders(text) => Kind::Heading(*level),
        Kind::Heading(_) => Kind::Paragraph,
        Kind::Item(marker) if first => Kind::Item(marker.clone()),
        _ if heads && run.len() <= 3 => Kind::Heading(3),
        _ => Kind::Paragraph,
    };
    let span = run.first().zip(run.last()).map(|(first, last)| (first.y, last.y));
    Piece { kind, text: text.to_owned(), size, span }
}

/// The caption of a table or figure is no heading: the text below does not belong to it.
fn is_caption(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let named = matches!(words.next(), Some("Table" | "Figure" | "Exhibit" | "Chart"));
    named && words.next().is_some_and(|word| word.starts_with(|c: char| c.is_ascii_digit()))
}

/// The segments of a table, which are marked as used.
fn place_table(table: &Table, placed: &mut [Placed<'_>]) -> Vec<usize> {
    table
        .rows
        .iter()
        .flat_map(|row| &row.cells)
        .filter_map(|cell| place(&letters(&cell.plain_text()), placed))
        .flatten()
        .map(|stretch| stretch.segment)
        .collect()
}

/// A table as Markdown: the first row is its head, a cell keeps to one line.
fn table_markdown(table: &Table) -> String {
    let width = table.column_count();
    let mut out = String::new();
    for (i, (row, starts)) in table.rows.iter().zip(table.cell_columns()).enumerate() {
        let mut cells = vec![String::new(); width];
        for (cell, column) in row.cells.iter().zip(starts) {
            if let Some(slot) = cells.get_mut(column) {
                *slot = cell.plain_text().split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
            }
        }
        out.push_str("| ");
        out.push_str(&cells.join(" | "));
        out.push_str(" |\n");
        if i == 0 {
            out.push('|');
            out.push_str(&" --- |".repeat(width));
            out.push('\n');
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Puts side headings in front of what stands beside or below them.
fn insert(anchors: &[Anchor], pieces: Vec<Piece>) -> Vec<Piece> {
    let mut out = Vec::with_capacity(pieces.len() + anchors.len());
    let mut waiting = anchors.iter().peekable();
    let made = |anchor: &Anchor| Piece {
        kind: if anchor.heading { Kind::Heading(3) } else { Kind::Paragraph },
        text: anchor.text.clone(),
        size: anchor.size,
        span: Some((anchor.y, anchor.y)),
    };
    for piece in pieces {
        if let Some((y, _)) = piece.span {
            while let Some(anchor) = waiting.next_if(|a| y <= a.y + 0.6 * a.size) {
                out.push(made(anchor));
            }
        }
        out.push(piece);
    }
    out.extend(waiting.map(made));
    out
}

#[cfg(test)]
#[path = "refine_tests.rs"]
mod tests;
