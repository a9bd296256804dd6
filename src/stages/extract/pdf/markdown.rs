//! Pieces of pages to Markdown, with headings of one size at one level through the whole document.

use super::refine::{Kind, Piece};
use crate::stages::extract::text;

/// Each page's Markdown.
pub(super) fn render(pages: Vec<Vec<Piece>>) -> Vec<String> {
    let levels = Levels::of(&pages);
    pages.into_iter().map(|pieces| page(join_broken(pieces), &levels)).collect()
}

/// Heading sizes of a document, largest first.
struct Levels(Vec<f32>);

/// Sizes nearer than this are the same, in points.
const SAME_SIZE: f32 = 0.4;

impl Levels {
    fn of(pages: &[Vec<Piece>]) -> Self {
        let mut sizes: Vec<f32> = pages
            .iter()
            .flatten()
            .filter(|piece| matches!(piece.kind, Kind::Heading(_)) && piece.size > 0.0)
            .map(|piece| piece.size)
            .collect();
        sizes.sort_by(|a, b| b.total_cmp(a));
        sizes.dedup_by(|next, kept| (*kept - *next).abs() <= SAME_SIZE);
        Self(sizes)
    }

    fn level(&self, size: f32, hint: u8) -> usize {
        if size <= 0.0 {
            return usize::from(hint.clamp(1, 6));
        }
        let rank = self.0.iter().position(|other| size >= other - SAME_SIZE).unwrap_or(self.0.len());
        (rank + 1).min(6)
    }
}

/// A line shorter than this may be a label, which nothing continues.
const LABEL: usize = 60;

/// Joins paragraphs that a column's end or the layout broke in the middle of a sentence.
fn join_broken(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match out.last_mut() {
            Some(last) if goes_on(last, &piece) => last.append(&piece),
            _ => out.push(piece),
        }
    }
    out
}

fn goes_on(last: &Piece, next: &Piece) -> bool {
    if next.kind != Kind::Paragraph || !matches!(last.kind, Kind::Paragraph | Kind::Item(_)) {
        return false;
    }
    let end = last.text.trim_end();
    let open = !end.ends_with(['.', ':', ';', '!', '?', '”', '"']);
    let long = end.chars().count() >= LABEL && end.ends_with(|c: char| c.is_alphanumeric() || matches!(c, ',' | '-'));
    open && same_size(last.size, next.size)
        && (next.text.starts_with(char::is_lowercase) || long && last.runs_on_to(next))
}

fn same_size(a: f32, b: f32) -> bool {
    a <= 0.0 || b <= 0.0 || (a - b).abs() <= SAME_SIZE
}

fn page(pieces: Vec<Piece>, levels: &Levels) -> String {
    let mut out = String::new();
    let mut in_list = false;
    for piece in pieces {
        let is_item = matches!(piece.kind, Kind::Item(_));
        if !out.is_empty() {
            out.push_str(if in_list && is_item { "\n" } else { "\n\n" });
        }
        in_list = is_item;
        match piece.kind {
            Kind::Heading(hint) => {
                out.push_str(&"#".repeat(levels.level(piece.size, hint)));
                out.push(' ');
                out.push_str(&text::one_line(&piece.text));
            }
            Kind::Item(marker) => {
                out.push_str(&marker);
                out.push(' ');
                out.push_str(&text::one_line(&piece.text));
            }
            Kind::Paragraph => {
                let line = text::one_line(&piece.text);
                // Otherwise it would read as a heading, a quotation or a table.
                if line.starts_with(['#', '>', '|']) {
                    out.push('\\');
                }
                out.push_str(&line);
            }
            Kind::Verbatim => out.push_str(&piece.text),
        }
    }
    out
}
