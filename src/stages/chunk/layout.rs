//! The layout of a Markdown document as chunking needs it: headings with their nesting, ranges that must stay
//! whole, and the character offset of any byte.

use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// Longest heading kept, in characters: a record must stay small whatever the document holds.
const HEADING_CHARS: usize = 200;
/// A "heading" longer than this many bytes is a paragraph that happens to stand above a rule.
const HEADING_BYTES: usize = 400;

/// A heading of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heading {
    /// Its bytes, markup included, white space at the end excluded.
    pub(super) range: Range<usize>,
    /// Its plain text, at most [`HEADING_CHARS`] characters.
    pub(super) text: String,
    /// From 1 (outermost) to 6.
    level: u8,
    /// The heading it stands under.
    parent: Option<usize>,
}

/// What chunking knows of a document. Positions are byte offsets.
#[derive(Debug)]
pub(super) struct Layout {
    /// All headings, ascending.
    pub(super) headings: Vec<Heading>,
    /// Ranges that no boundary may fall into (table rows, or single cells of monstrous rows); ascending, disjoint.
    rows: Vec<Range<usize>>,
    /// Rows so long that they may be cut between their cells.
    pub(super) monstrous_rows: u64,
    chars: CharIndex,
}

impl Layout {
    /// Reads the layout of `text` in time proportional to its length. Rows of more than `monstrous` bytes may be
    /// cut between cells; a table's head and its first row stay together if they have at most `join` bytes.
    pub(super) fn read(text: &str, join: usize, monstrous: usize) -> Self {
        let (headings, mut rows) = read_blocks(text, join);
        add_pipe_lines(text, &mut rows);
        rows.sort_unstable_by_key(|row| (row.start, row.end));
        let mut whole: Vec<Range<usize>> = Vec::with_capacity(rows.len());
        for row in rows {
            match whole.last_mut() {
                Some(last) if row.start < last.end => last.end = last.end.max(row.end),
                _ => whole.push(row),
            }
        }
        let mut rows = Vec::with_capacity(whole.len());
        let mut monstrous_rows = 0;
        for row in whole {
            if row.len() <= monstrous {
                rows.push(row);
            } else {
                monstrous_rows += 1;
                rows.extend(cells(text, row).filter(|cell| cell.len() <= monstrous));
            }
        }
        Self { headings, rows, monstrous_rows, chars: CharIndex::of(text) }
    }

    /// The row with `at` strictly inside it.
    pub(super) fn row_across(&self, at: usize) -> Option<&Range<usize>> {
        self.row_at(at).filter(|row| row.start < at)
    }

    /// The row that holds the byte at `at`.
    pub(super) fn row_at(&self, at: usize) -> Option<&Range<usize>> {
        let next = self.rows.partition_point(|row| row.start <= at);
        next.checked_sub(1).map(|i| &self.rows[i]).filter(|row| at < row.end)
    }

    /// The last heading that begins before `at`.
    pub(super) fn heading_before(&self, at: usize) -> Option<&Heading> {
        self.index_before(at).map(|i| &self.headings[i])
    }

    /// The heading that begins at `at`.
    pub(super) fn heading_at(&self, at: usize) -> Option<&Heading> {
        self.headings.binary_search_by_key(&at, |heading| heading.range.start).ok().map(|i| &self.headings[i])
    }

    /// The headings within `range`.
    pub(super) fn headings_in(&self, range: &Range<usize>) -> &[Heading] {
        let first = self.headings.partition_point(|heading| heading.range.start < range.start);
        let last = self.headings.partition_point(|heading| heading.range.start < range.end);
        &self.headings[first..last]
    }

    /// The texts of the headings that `at` stands under, outermost first.
    pub(super) fn path(&self, at: usize) -> Vec<String> {
        let mut path = Vec::new();
        let mut next = self.index_before(at);
        while let Some(i) = next {
            let heading = &self.headings[i];
            if !heading.text.is_empty() {
                path.push(heading.text.clone());
            }
            next = heading.parent;
        }
        path.reverse();
        path
    }

    /// The character offset of the byte offset `at`, a character boundary of the same text.
    pub(super) fn char_offset(&self, text: &str, at: usize) -> u64 {
        self.chars.offset(text, at)
    }

    fn index_before(&self, at: usize) -> Option<usize> {
        self.headings.partition_point(|heading| heading.range.start < at).checked_sub(1)
    }
}

/// Headings and table rows as the Markdown parser sees them.
fn read_blocks(text: &str, join: usize) -> (Vec<Heading>, Vec<Range<usize>>) {
    let mut headings: Vec<Heading> = Vec::new();
    let mut rows = Vec::new();
    let mut open: Option<Heading> = None;
    let mut head: Option<Range<usize>> = None;
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                let range = trimmed(text, range);
                open = (range.len() <= HEADING_BYTES).then(|| Heading {
                    range,
                    text: String::new(),
                    level: level as u8,
                    parent: None,
                });
            }
            Event::End(TagEnd::Heading(_)) => {
                if let Some(mut heading) = open.take() {
                    heading.text = folded(&heading.text);
                    let mut above = headings.len().checked_sub(1);
                    while let Some(i) = above.filter(|i| headings[*i].level >= heading.level) {
                        above = headings[i].parent;
                    }
                    heading.parent = above;
                    headings.push(heading);
                }
            }
            Event::Text(part) | Event::Code(part) => {
                if let Some(heading) = &mut open {
                    heading.text.push_str(&part);
                }
            }
            Event::SoftBreak | Event::HardBreak => {
                if let Some(heading) = &mut open {
                    heading.text.push(' ');
                }
            }
            Event::Start(Tag::Table(_)) => head = Some(range),
            Event::Start(Tag::TableRow) => {
                let row = trimmed(text, line_start(text, range.start)..range.end);
                match head.take() {
                    Some(table) => {
                        let start = trimmed(text, line_start(text, table.start)..row.start).start;
                        if row.end - start <= join {
                            rows.push(start..row.end);
                        } else {
                            rows.push(trimmed(text, start..row.start));
                            rows.push(row);
                        }
                    }
                    None => rows.push(row),
                }
            }
            Event::End(TagEnd::Table) => {
                if let Some(table) = head.take() {
                    rows.push(trimmed(text, line_start(text, table.start)..table.end));
                }
            }
            _ => {}
        }
    }
    rows.retain(|row| !row.is_empty());
    (headings, rows)
}

/// Adds lines between pipes that no table holds, as where a table goes on after a page break without its head.
fn add_pipe_lines(text: &str, rows: &mut Vec<Range<usize>>) {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim();
        if content.len() >= 3 && content.starts_with('|') && content.ends_with('|') {
            rows.push(trimmed(text, at..at + line.len()));
        }
        at += line.len();
    }
}

/// A row's cells, each with the pipe before it.
fn cells(text: &str, row: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
    let bytes = text.as_bytes();
    let mut start = row.start;
    let borders = (row.start + 1..row.end)
        .filter(|at| matches!(bytes[*at], b'|' | b'\n') && bytes[at - 1] != b'\\')
        .chain(std::iter::once(row.end));
    borders.map(move |border| std::mem::replace(&mut start, border)..border).map(|cell| trimmed(text, cell))
}

/// `range` without white space at both ends.
pub(super) fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let end = range.start + text[range.clone()].trim_end().len();
    let start = end - text[range.start..end].trim_start().len();
    start..end
}

/// White space folded, and cut to [`HEADING_CHARS`].
fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
    }
    if let Some((cut, _)) = folded.char_indices().nth(HEADING_CHARS) {
        folded.truncate(cut);
    }
    folded
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Character counts at every [`CharIndex::STEP`] bytes, so that any offset is found by counting within one step.
#[derive(Debug)]
struct CharIndex {
    before: Vec<u64>,
}

impl CharIndex {
    const STEP: usize = 4096;

    fn of(text: &str) -> Self {
        let mut total = 0;
        let before = text
            .as_bytes()
            .chunks(Self::STEP)
            .map(|block| {
                let before = total;
                total += count_chars(block);
                before
            })
            .collect();
        Self { before }
    }

    fn offset(&self, text: &str, at: usize) -> u64 {
        let step = (at / Self::STEP).min(self.before.len().saturating_sub(1));
        let before = self.before.get(step).copied().unwrap_or(0);
        before + count_chars(&text.as_bytes()[step * Self::STEP..at])
    }
}

/// Characters that begin in `bytes`: every byte but the continuation bytes of UTF-8.
fn count_chars(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| (**byte & 0xC0) != 0x80).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Intro.\n\n| Size | Limit |\n|---|---|\n| 1 | $1,255 |\n| 2 | $1,703 |\n\nText.\n";

    #[test]
    fn headings_nest_by_level() {
        let text = "# Manual\n\n## Income\n\ntext\n\n#### Deep *one*\n\ntext\n\n## Assets\n\ntext\n";
        let layout = Layout::read(text, 1000, 10_000);
        let at = |needle: &str| text.find(needle).unwrap();
        assert_eq!(layout.path(0), Vec::<String>::new());
        assert_eq!(layout.path(at("text")), ["Manual", "Income"]);
        assert_eq!(layout.path(at("#### ") + 1), ["Manual", "Income", "Deep one"]);
        assert_eq!(layout.path(text.len()), ["Manual", "Assets"]);
        assert_eq!(layout.headings[1].range, at("## Income")..at("## Income") + 9);
    }

    #[test]
    fn long_headings_are_cut_and_very_long_ones_are_text() {
        let text = format!("# {}\n\nbody\n\n# {}\n\nbody", "é".repeat(199), "x ".repeat(300));
        let layout = Layout::read(&text, 1000, 10_000);
        assert_eq!(layout.headings.len(), 1);
        assert_eq!(layout.headings[0].text.chars().count(), 199);
    }

    #[test]
    fn a_table_head_keeps_its_first_row() {
        let layout = Layout::read(TABLE, 1000, 10_000);
        let shown: Vec<&str> = layout.rows.iter().map(|row| &TABLE[row.clone()]).collect();
        assert_eq!(shown, ["| Size | Limit |\n|---|---|\n| 1 | $1,255 |", "| 2 | $1,703 |"]);
        let apart = Layout::read(TABLE, 10, 10_000);
        assert_eq!(apart.rows.len(), 3);
        assert!(layout.row_across(layout.rows[0].start).is_none());
        assert!(layout.row_across(layout.rows[0].start + 1).is_some());
        assert!(layout.row_across(layout.rows[0].end).is_none());
    }

    #[test]
    fn rows_without_a_head_count_as_rows() {
        let text = "| 3 | $2,152 |\n| 4 | $2,600 |\n\ntext | with a pipe\n";
        assert_eq!(Layout::read(text, 1000, 10_000).rows, [0..14, 15..29]);
    }

    #[test]
    fn monstrous_rows_fall_apart_at_cells() {
        let text = format!("| {} | {} |\n", "word ".repeat(10), "next\\|cell ".repeat(3));
        let layout = Layout::read(&text, 1000, 60);
        assert_eq!(layout.monstrous_rows, 1);
        let shown: Vec<&str> = layout.rows.iter().map(|row| &text[row.clone()]).collect();
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(shown[1].starts_with("| next\\|cell"));
    }

    #[test]
    fn char_offsets_follow_bytes() {
        let text = "añb→".repeat(3000);
        let layout = Layout::read(&text, 1000, 10_000);
        for (chars, (bytes, _)) in text.char_indices().enumerate().step_by(777) {
            assert_eq!(layout.char_offset(&text, bytes), chars as u64);
        }
        assert_eq!(layout.char_offset(&text, text.len()), 12_000);
        assert_eq!(Layout::read("", 1, 1).char_offset("", 0), 0);
    }
}
