//! Side headings: headings in a column of their own beside the text that they head.
//!
//! Read as columns, such a page gives all its headings first and then all its text. So they are found by their
//! place, left out of what is read as the page's text, and put back in front of the line that they stand beside.

use super::lines::{Line, weight};
use super::rewrite::Area;

/// A heading, or a line across the page, and the height at which it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Anchor {
    /// The baseline of its first line.
    pub(super) y: f32,
    pub(super) text: String,
    pub(super) size: f32,
    /// Whether it is a heading; otherwise text across the page.
    pub(super) heading: bool,
}

/// A page with side headings.
#[derive(Clone, Debug)]
pub(super) struct SidePage {
    /// The left edge of the text.
    pub(super) body_x: f32,
    anchors: Vec<Anchor>,
}

/// How far right of the headings the text begins, at least, in points.
const MIN_STRIP: f32 = 50.0;

/// Recognises side headings on a page whose running lines are gone. `width` is the page's.
pub(super) fn recognise(lines: &[Line], width: f32) -> Option<SidePage> {
    let body_x = body_edge(lines, width)?;
    let left = lines.iter().map(Line::x0).fold(f32::MAX, f32::min);
    if body_x - left < MIN_STRIP || body_x - left > 0.4 * width {
        return None;
    }
    let body_size =
        median(lines.iter().flat_map(|l| &l.segments).filter(|s| s.x0 >= body_x - 4.0).map(|s| s.size).collect())?;
    let mut page = SidePage { body_x, anchors: Vec::new() };
    let (mut beside, mut headed_rows, mut body_rows) = (0, 0, 0);
    let (mut across_weight, mut all_weight) = (0, 0);
    let mut last_y = f32::MAX;
    for line in lines {
        let (strip, body): (Vec<_>, Vec<_>) = line.segments.iter().partition(|s| s.x0 < body_x - 4.0);
        all_weight += weight(&line.text());
        body_rows += usize::from(!body.is_empty());
        let Some(first) = strip.first() else { continue };
        let in_strip = strip.iter().all(|s| s.x1 <= body_x - 3.0);
        let distinct = strip.iter().all(|s| s.styled) || first.size >= 1.12 * body_size;
        if in_strip {
            if !distinct {
                return None;
            }
            beside += usize::from(!body.is_empty());
            headed_rows += usize::from(body.len() >= 2);
        } else {
            // Text that runs from the left edge into the body's column.
            if !body.is_empty() {
                return None;
            }
            across_weight += if distinct { 0 } else { weight(&line.text()) };
        }
        let text = strip.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" ");
        match page.anchors.last_mut() {
            Some(last)
                if last_y - line.y <= 1.45 * first.size
                    && (last.size - first.size).abs() < 0.3
                    && last.heading == distinct =>
            {
                last.text = format!("{} {text}", last.text);
            }
            _ => page.anchors.push(Anchor { y: line.y, text, size: first.size, heading: distinct }),
        }
        last_y = line.y;
    }
    // A table with a bold first column looks alike, but every row has its label, and more cells.
    let sparse = beside * 2 <= body_rows && headed_rows * 3 <= beside.max(1);
    (beside > 0 && sparse && across_weight * 4 <= all_weight).then_some(page)
}

/// The left edge that most long lines share.
fn body_edge(lines: &[Line], width: f32) -> Option<f32> {
    let long: Vec<f32> = lines
        .iter()
        .flat_map(|line| &line.segments)
        .filter(|segment| segment.x1 - segment.x0 >= 0.25 * width)
        .map(|segment| segment.x0)
        .collect();
    let count = |x: f32| long.iter().filter(|other| (**other - x).abs() <= 2.0).count();
    let edge = long.iter().copied().max_by(|a, b| count(*a).cmp(&count(*b)).then(b.total_cmp(a)))?;
    // Lists are indented from the edge, so not all lines begin there.
    (count(edge) >= 5 && 2 * count(edge) >= long.len()).then_some(edge)
}

fn median(mut values: Vec<f32>) -> Option<f32> {
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Keeps those pages whose text begins where that of another page does: a layout is no accident.
pub(super) fn confirm(pages: &mut [Option<SidePage>]) {
    let edges: Vec<Option<f32>> = pages.iter().map(|page| page.as_ref().map(|p| p.body_x)).collect();
    if edges.len() < 2 {
        return;
    }
    for (i, page) in pages.iter_mut().enumerate() {
        let alike =
            |x: f32| edges.iter().enumerate().any(|(j, other)| j != i && other.is_some_and(|o| (o - x).abs() <= 3.0));
        if page.as_ref().is_some_and(|p| !alike(p.body_x)) {
            *page = None;
        }
    }
}

impl SidePage {
    /// What stands beside or across the text, top to bottom.
    pub(super) fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// The text's own area within `page`. Lines across reach into it, and are known by where they begin.
    pub(super) fn body(&self, page: Area) -> Area {
        let [_, bottom, right, top] = page;
        [self.body_x - 6.0, bottom, right, top]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::extract::pdf::lines::Segment;

    fn line(y: f32, segments: &[(f32, &str, bool)]) -> Line {
        let segments = segments
            .iter()
            .map(|(x0, text, styled)| Segment {
                x0: *x0,
                x1: x0 + 5.0 * text.chars().count() as f32,
                text: (*text).into(),
                styled: *styled,
                size: 10.0,
            })
            .collect();
        Line { y, size: 10.0, segments }
    }

    fn manual() -> Vec<Line> {
        const BODY: &str = "words of the manual that fill a whole line of the column";
        let mut lines = vec![line(700.0, &[(60.0, "2.3 Households and how they are counted here", true)])];
        for i in 0..12 {
            let y = 680.0 - 12.0 * i as f32;
            match i {
                0 => lines.push(line(y, &[(60.0, "Who is", true), (184.0, BODY, false)])),
                1 => lines.push(line(y, &[(60.0, "counted", true), (184.0, BODY, false)])),
                7 => lines.push(line(y, &[(60.0, "Absence", true), (184.0, BODY, false)])),
                _ => lines.push(line(y, &[(184.0, BODY, false)])),
            }
        }
        lines
    }

    #[test]
    fn headings_beside_the_text_are_found_with_their_heights() {
        let page = recognise(&manual(), 612.0).unwrap();
        let found: Vec<(&str, f32)> = page.anchors().iter().map(|a| (a.text.as_str(), a.y)).collect();
        assert_eq!(
            found,
            [("2.3 Households and how they are counted here", 700.0), ("Who is counted", 680.0), ("Absence", 596.0)]
        );
        let [left, bottom, right, top] = page.body([0.0, 50.0, 612.0, 750.0]).map(|x| x as i32);
        assert_eq!((left, bottom, right, top), (178, 50, 612, 750));
    }

    #[test]
    fn a_plain_page_a_table_and_a_numbered_list_have_none() {
        const LONG: &str = "words of the manual that fill a whole line of the page";
        let plain: Vec<Line> = (0..12).map(|i| line(700.0 - 12.0 * i as f32, &[(60.0, LONG, false)])).collect();
        assert!(recognise(&plain, 612.0).is_none());
        let table: Vec<Line> =
            (0..12).map(|i| line(700.0 - 12.0 * i as f32, &[(60.0, "Label", true), (184.0, LONG, false)])).collect();
        assert!(recognise(&table, 612.0).is_none());
        let list: Vec<Line> =
            (0..12).map(|i| line(700.0 - 12.0 * i as f32, &[(60.0, "1.", false), (184.0, LONG, false)])).collect();
        assert!(recognise(&list, 612.0).is_none());
    }

    #[test]
    fn one_page_among_many_is_an_accident() {
        let one = recognise(&manual(), 612.0);
        let mut pages = vec![one.clone(), None, None];
        confirm(&mut pages);
        assert!(pages.iter().all(Option::is_none));
        let mut pages = vec![one.clone(), None, one];
        confirm(&mut pages);
        assert_eq!(pages.iter().flatten().count(), 2);
    }
}
