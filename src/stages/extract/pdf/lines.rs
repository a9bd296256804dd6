//! A page's text as lines with places: what running headers and side headings are recognised by.
//!
//! Coordinates are PDF's: points, y upwards.

use unpdf::parser::TextSpan;

/// A stretch of a line without a gap that a reader would see.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segment {
    pub(super) x0: f32,
    pub(super) x1: f32,
    pub(super) text: String,
    /// Whether all of it is bold or all of it italic.
    pub(super) styled: bool,
    pub(super) size: f32,
}

/// What stands on one baseline, left to right.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) y: f32,
    /// The largest type size on it.
    pub(super) size: f32,
    pub(super) segments: Vec<Segment>,
}

impl Line {
    pub(super) fn x0(&self) -> f32 {
        self.segments.first().map_or(0.0, |segment| segment.x0)
    }

    pub(super) fn text(&self) -> String {
        self.segments.iter().map(|segment| segment.text.as_str()).collect::<Vec<_>>().join(" ")
    }
}

/// A gap wider than this many ems parts two segments: columns are set further apart, words closer together.
const SEGMENT_GAP_EM: f32 = 1.0;
/// Baselines nearer than this share of the type size are one line.
const SAME_LINE_EM: f32 = 0.25;

/// The lines of a page, top to bottom. Turned text is left out: it has no place among them.
pub(super) fn lines(spans: &[TextSpan]) -> Vec<Line> {
    let mut level: Vec<&TextSpan> =
        spans.iter().filter(|s| !s.is_rotated() && !s.text.trim().is_empty() && s.y.is_finite()).collect();
    level.sort_by(|a, b| b.y.total_cmp(&a.y).then(a.x.total_cmp(&b.x)));
    let mut lines: Vec<(f32, Vec<&TextSpan>)> = Vec::new();
    for span in level {
        match lines.last_mut() {
            Some((y, group)) if *y - span.y <= SAME_LINE_EM * span.font_size.abs().max(1.0) => group.push(span),
            _ => lines.push((span.y, vec![span])),
        }
    }
    lines.into_iter().map(|(y, group)| line(y, group)).collect()
}

fn line(y: f32, mut spans: Vec<&TextSpan>) -> Line {
    spans.sort_by(|a, b| a.x.total_cmp(&b.x));
    let mut segments: Vec<Segment> = Vec::new();
    let mut size: f32 = 0.0;
    for span in spans {
        let em = span.font_size.abs().max(1.0);
        size = size.max(em);
        let right = span.x + span.ink_width.unwrap_or(span.width).max(0.0);
        let styled = span.is_bold || span.is_italic;
        match segments.last_mut() {
            Some(last) if span.x - last.x1 <= SEGMENT_GAP_EM * em.min(last.size) => {
                let apart = span.x - last.x1 > 0.15 * em;
                if apart && !last.text.ends_with(' ') && !span.text.starts_with(' ') {
                    last.text.push(' ');
                }
                last.text.push_str(&span.text);
                last.x1 = last.x1.max(right);
                last.styled &= styled;
                last.size = last.size.max(em);
            }
            _ => segments.push(Segment { x0: span.x, x1: right, text: span.text.clone(), styled, size: em }),
        }
    }
    for segment in &mut segments {
        segment.text = segment.text.trim().to_owned();
    }
    segments.retain(|segment| !segment.text.is_empty());
    Line { y, size, segments }
}

/// How many letters and digits a text has: a measure that layout, marks and hyphens leave alone.
pub(super) fn weight(text: &str) -> usize {
    text.chars().filter(|c| c.is_alphanumeric()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str, x: f32, y: f32) -> TextSpan {
        let mut span = TextSpan::new(text.into(), x, y, 10.0, "Serif".into());
        span.width = 5.0 * text.chars().count() as f32;
        span
    }

    #[test]
    fn baselines_and_gaps_make_lines_and_segments() {
        let page = lines(&[
            span("Manual", 50.0, 740.0),
            span("Page 3", 500.0, 740.5),
            span("the due date", 50.0, 700.0),
            span("-", 110.0, 700.0),
            span("", 60.0, 690.0),
        ]);
        let shown: Vec<Vec<&str>> = page.iter().map(|l| l.segments.iter().map(|s| s.text.as_str()).collect()).collect();
        assert_eq!(shown, [vec!["Manual", "Page 3"], vec!["the due date-"]]);
    }

    #[test]
    fn weight_counts_letters_and_digits() {
        assert_eq!(weight("| **X1005** | $58.20 |"), 9);
    }
}
