//! Splitting a document into pieces: text-splitter finds the best boundary by Markdown structure, this module keeps
//! boundaries out of table rows and words, and headings with the text that they head.
//!
//! text-splitter looks through all that remains of a text for every chunk, which is quadratic in the length of a
//! document, and it knows no unbreakable ranges. So it is given only a look-ahead of a few chunk sizes at a time,
//! and asked for its first chunk; the boundary is moved to an allowed place, and the next search starts there.

use std::ops::Range;

use text_splitter::{ChunkConfig, MarkdownSplitter, TryChunkSizer};
use tokenizers::Tokenizer;

use super::layout::{Layout, trimmed};

/// How a chunk's size is counted.
pub(super) enum Sizer {
    /// Unicode scalar values.
    Characters,
    /// Tokens, special ones not counted.
    Tokens(Box<Tokenizer>),
}

impl Sizer {
    fn size(&self, text: &str) -> Result<usize, String> {
        match self {
            Self::Characters => Ok(text.chars().count()),
            Self::Tokens(tokenizer) => tokenizer
                .encode_fast(text, false)
                .map(|encoding| encoding.len())
                .map_err(|error| format!("the tokenizer cannot encode the text: {error}")),
        }
    }

    /// Bytes that a unit of ordinary text has: for sizing look-aheads, never for deciding what fits.
    pub(super) fn typical_bytes(&self) -> usize {
        match self {
            Self::Characters => 1,
            Self::Tokens(_) => 4,
        }
    }
}

impl TryChunkSizer for &Sizer {
    type Error = String;

    fn try_size(&self, chunk: &str) -> Result<usize, String> {
        self.size(chunk)
    }
}

/// What splitting goes by. Sizes are in the sizer's unit.
pub(super) struct Splitting<'a> {
    /// The document's Markdown.
    pub(super) text: &'a str,
    /// Its layout.
    pub(super) layout: &'a Layout,
    /// The unit.
    pub(super) sizer: &'a Sizer,
    /// Largest size of a chunk.
    pub(super) size: usize,
    /// How much of a chunk's end the next one repeats at most.
    pub(super) overlap: usize,
    /// Characters below which a piece is joined with what follows.
    pub(super) join_below: usize,
    /// Bytes above which a word is cut.
    pub(super) monstrous: usize,
}

/// The pieces of a document, in order.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Byte ranges, white space at both ends excluded.
    pub(super) ranges: Vec<Range<usize>>,
    /// How often a monstrous word was cut.
    pub(super) cut_words: u64,
}

impl Splitting<'_> {
    /// Splits the text.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text.
    pub(super) fn split(&self) -> Result<Pieces, String> {
        let mut pieces = Pieces::default();
        let mut cursor = self.skip_white(0);
        while cursor < self.text.len() {
            let start = match pieces.ranges.last() {
                Some(previous) if self.overlap > 0 => self.overlap_start(previous)?.unwrap_or(cursor),
                _ => cursor,
            };
            let piece = self.next_piece(start, cursor, &mut pieces.cut_words)?;
            cursor = self.skip_white(piece.end);
            pieces.ranges.push(piece);
        }
        Ok(pieces)
    }

    /// The piece that repeats `start..cursor` and goes on from `cursor`. What must not stand alone (headings, a few
    /// words) is taken as given, and the splitter is asked for as much as fits behind it.
    fn next_piece(&self, start: usize, cursor: usize, cut_words: &mut u64) -> Result<Range<usize>, String> {
        let mut start = start;
        let mut from = self.skip_headings(cursor);
        loop {
            if from >= self.text.len() {
                return Ok(trimmed(self.text, start..self.text.len()));
            }
            let mut used = self.sizer.size(&self.text[start..from])?;
            if used > self.size / 4 * 3 && start < cursor {
                start = cursor;
                used = self.sizer.size(&self.text[start..from])?;
            }
            if used > self.size / 4 * 3 {
                let end = trimmed(self.text, start..from).end;
                return Ok(start..self.before_headings(self.skip_headings(cursor), end));
            }
            let wanted = self.first_chunk_end(from, self.size - used)?;
            let end = self.allowed_end(from, wanted, cut_words);
            let end = self.before_headings(from, end);
            let body = self.skip_headings(cursor);
            if end >= self.text.len() || self.text[body..end].chars().count() >= self.join_below {
                return Ok(start..end);
            }
            from = self.skip_headings(self.skip_white(end));
        }
    }

    /// Where text-splitter would end a chunk of at most `room` that begins at `from`.
    fn first_chunk_end(&self, from: usize, room: usize) -> Result<usize, String> {
        let config = || ChunkConfig::new(room.max(1)).with_sizer(self.sizer);
        let mut reach = (room * self.sizer.typical_bytes() * 4).max(256);
        loop {
            let to = self.look_ahead(from, reach);
            let ahead = &self.text[from..to];
            let first = MarkdownSplitter::new(config()).try_chunk_indices(ahead).next().transpose()?;
            let end = first.map_or(ahead.len(), |(offset, chunk)| offset + chunk.len());
            if to < self.text.len() && ahead[end..].trim_start().is_empty() {
                reach *= 2;
                continue;
            }
            return Ok(from + end);
        }
    }

    /// About `reach` bytes behind `from`, up to a line's end if there is one near.
    fn look_ahead(&self, from: usize, reach: usize) -> usize {
        let mut to = from.saturating_add(reach);
        if to >= self.text.len() {
            return self.text.len();
        }
        while !self.text.is_char_boundary(to) {
            to += 1;
        }
        let near = to.saturating_add(reach).min(self.text.len());
        self.text.as_bytes()[to..near].iter().position(|byte| *byte == b'\n').map_or(to, |newline| to + newline + 1)
    }

    /// The last allowed boundary in `from..=wanted`; if there is none, the first one behind.
    fn allowed_end(&self, from: usize, wanted: usize, cut_words: &mut u64) -> usize {
        let mut at = wanted;
        while at > from {
            if let Some(row) = self.layout.row_across(at) {
                at = row.start;
            } else if self.inside_word(at) {
                at = self.word_start(at, from);
            } else {
                break;
            }
        }
        if at > from {
            let end = trimmed(self.text, from..at).end;
            if end > from {
                return end;
            }
        }
        if let Some(row) = self.layout.row_at(from) {
            return row.end;
        }
        let end = self.word_end(from, from.saturating_add(self.monstrous));
        let begun = self.word_start(from, from.saturating_sub(self.monstrous));
        if end - begun <= self.monstrous || wanted <= from || wanted >= end {
            return end;
        }
        *cut_words += 1;
        wanted
    }

    /// `end`, or where the headings begin that stand at the end of `from..end`.
    fn before_headings(&self, from: usize, end: usize) -> usize {
        let mut at = end;
        while at < self.text.len()
            && let Some(heading) = self.layout.heading_before(at).filter(|h| h.range.end >= at && h.range.start > from)
        {
            at = trimmed(self.text, from..heading.range.start).end;
        }
        at
    }

    /// Where the previous piece's last words begin that the next one repeats; at a sentence or line, if possible.
    fn overlap_start(&self, previous: &Range<usize>) -> Result<Option<usize>, String> {
        let reach = self.overlap * self.sizer.typical_bytes() * 4;
        let mut low = previous.end.saturating_sub(reach).max(previous.start);
        while !self.text.is_char_boundary(low) {
            low += 1;
        }
        let mut starts: Vec<usize> = Vec::new();
        for (offset, character) in self.text[low..previous.end].char_indices() {
            let at = low + offset;
            let free = at > previous.start && !character.is_whitespace() && !self.inside_word(at);
            if free && self.layout.row_across(at).is_none() {
                starts.push(at);
            }
        }
        // The later the start, the smaller the overlap: look for the first that fits.
        let (mut first, mut behind) = (0, starts.len());
        while first < behind {
            let middle = usize::midpoint(first, behind);
            if self.sizer.size(&self.text[starts[middle]..previous.end])? <= self.overlap {
                behind = middle;
            } else {
                first = middle + 1;
            }
        }
        let fitting = &starts[first..];
        let sentence = fitting.iter().find(|at| {
            let before = &self.text[..**at];
            let words = before.trim_end();
            words.ends_with(['.', '!', '?', ':', ';']) || before[words.len()..].contains('\n')
        });
        Ok(sentence.or(fitting.first()).copied())
    }

    fn skip_white(&self, at: usize) -> usize {
        let rest = &self.text[at..];
        at + rest.len() - rest.trim_start().len()
    }

    /// Behind the headings that stand at `at`; those that would fill a chunk count as text.
    fn skip_headings(&self, at: usize) -> usize {
        let limit = at + self.size * self.sizer.typical_bytes() / 4 * 3;
        let mut behind = at;
        while let Some(heading) = self.layout.heading_at(behind).filter(|heading| heading.range.end <= limit) {
            behind = self.skip_white(heading.range.end);
        }
        behind
    }

    /// Whether a cut at `at` would part a word. Scripts without spaces may be cut anywhere.
    fn inside_word(&self, at: usize) -> bool {
        let before = self.text[..at].chars().next_back();
        let behind = self.text[at..].chars().next();
        match (before, behind) {
            (Some(before), Some(behind)) => {
                !before.is_whitespace() && !behind.is_whitespace() && !unspaced(before) && !unspaced(behind)
            }
            _ => false,
        }
    }

    /// The start of the word around `at`, or `floor`.
    fn word_start(&self, at: usize, floor: usize) -> usize {
        let mut at = at;
        while at > floor && self.inside_word(at) {
            at -= self.text[..at].chars().next_back().map_or(1, char::len_utf8);
        }
        at.max(floor)
    }

    /// The end of the word that begins at or before `at`, or the first character boundary behind `limit`.
    fn word_end(&self, at: usize, limit: usize) -> usize {
        let mut end = at;
        for character in self.text[at..].chars() {
            end += character.len_utf8();
            if end > limit || !self.inside_word(end) {
                break;
            }
        }
        end
    }
}

/// Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without spaces between words.
fn unspaced(character: char) -> bool {
    matches!(character, '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}'
        | '\u{2E80}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{FF00}'..='\u{FFEF}' | '\u{20000}'..='\u{3FFFF}')
}
