//! Pieces of pages to Markdown, with headings of one size at one level through the whole document.

use super::refine::{Kind, Piece, has_leaders};
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
        let mut groups: Vec<(f32, usize)> = Vec::new();
        for size in sizes {
            match groups.last_mut() {
                Some((largest, count)) if *largest - size <= SAME_SIZE => *count += 1,
                _ => groups.push((size, 1)),
            }
        }
        // A size used once, such as a cover's subtitle, is no level of its own; the title's is.
        let kept = groups.iter().enumerate().filter(|(i, (_, count))| *i == 0 || *count > 1);
        Self(kept.map(|(_, (size, _))| *size).collect())
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
    let open = !has_leaders(end) && !end.ends_with(['.', ':', ';', '!', '?', '”', '"']);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(kind: Kind, text: &str, size: f32, span: (f32, f32)) -> Piece {
        Piece::new(kind, text, size, Some(span))
    }

    #[test]
    fn sizes_make_levels_through_the_document() {
        let heading = |text: &str, size| piece(Kind::Heading(1), text, size, (700.0, 700.0));
        let pages = vec![
            vec![heading("Title", 24.0), heading("Subtitle", 16.0), heading("One", 12.0), heading("First", 9.5)],
            vec![heading("Two", 12.0), heading("Second", 9.6), heading("Unplaced", 0.0)],
        ];
        let made = render(pages);
        assert_eq!(made[0], "# Title\n\n## Subtitle\n\n## One\n\n### First");
        assert_eq!(made[1], "## Two\n\n### Second\n\n# Unplaced");
    }

    #[test]
    fn sentences_go_on_over_columns_and_lists_keep_together() {
        let long = "Beginning with admissions on the first business day of the month of July or after";
        let page = vec![
            piece(Kind::Paragraph, long, 10.0, (200.0, 100.0)),
            piece(Kind::Paragraph, "July 1, 2025.", 10.0, (700.0, 700.0)),
            piece(Kind::Paragraph, "Form HW-2", 10.0, (650.0, 650.0)),
            piece(Kind::Paragraph, "The next thing", 10.0, (640.0, 640.0)),
            piece(Kind::Item("-".into()), "one", 10.0, (600.0, 600.0)),
            piece(Kind::Item("-".into()), "two", 10.0, (590.0, 590.0)),
            piece(Kind::Paragraph, "# 5 units", 10.0, (500.0, 500.0)),
            piece(Kind::Paragraph, &format!("1 Scope {} 2", ".".repeat(60)), 10.0, (480.0, 480.0)),
            piece(Kind::Paragraph, "2 Rules ..... 3", 10.0, (468.0, 468.0)),
        ];
        assert_eq!(
            render(vec![page])[0],
            format!(
                "{long} July 1, 2025.\n\nForm HW-2\n\nThe next thing\n\n- one\n- two\n\n\\# 5 units\n\n1 Scope ... 2\n\n2 Rules ... 3"
            )
        );
    }
}
