//! Running headers, footers and page numbers: what repeats at the same place from page to page.
//!
//! Only the outermost lines of a page are looked at, and lines are taken from the edge inwards, so that nothing in
//! the body of a page can be lost. The head row of a table that goes on over pages repeats too, and stays: it
//! stands close above rows that share its columns.

use std::collections::HashMap;

use super::lines::Line;

/// A page's outermost lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Edges {
    /// From the top inwards.
    top: Vec<Edge>,
    /// From the bottom inwards.
    bottom: Vec<Edge>,
    has_text: bool,
}

#[derive(Clone, Debug)]
struct Edge {
    y: f32,
    size: f32,
    /// The keys of its segments.
    parts: Vec<Part>,
    /// How far the line is from the page's edge, as a share of its height.
    depth: f32,
    /// The next line inwards: its baseline and size.
    inner: Option<(f32, f32)>,
    /// Whether it is the head of a table whose rows follow.
    heads_table: bool,
    /// Whether it is set larger than the page's text, as a heading is.
    large: bool,
}

#[derive(Clone, Debug)]
struct Part {
    key: String,
    text: String,
    letters: usize,
    /// The numbers in it, in order.
    numbers: Vec<i64>,
}

/// How many lines at each edge may be running.
const EDGE_LINES: usize = 4;
/// How deep into the page they may stand, as a share of its height.
const EDGE_DEPTH: f32 = 0.15;
/// How far their baselines may wander, in points.
const SAME_PLACE: f32 = 6.0;
/// How many pages must repeat a line.
const MIN_PAGES: usize = 3;

/// Picks the outermost lines of a page. `lines` go from top to bottom; `bottom` and `top` are the page's edges.
pub(super) fn edges(lines: &[Line], bottom: f32, top: f32) -> Edges {
    let height = (top - bottom).max(1.0);
    let ordinary = ordinary_size(lines);
    let edge = |i: usize, inner: Option<usize>| -> Edge {
        let line = &lines[i];
        Edge {
            y: line.y,
            size: line.size,
            parts: line.segments.iter().map(|segment| part(&segment.text)).collect(),
            depth: ((top - line.y).min(line.y - bottom) / height).max(0.0),
            inner: inner.map(|i| (lines[i].y, lines[i].size)),
            heads_table: i + 1 < lines.len() && heads_table(line, &lines[i + 1]),
            large: line.size > 1.3 * ordinary,
        }
    };
    let count = lines.len();
    let is_top = |i: &usize| (top - lines[*i].y) / height <= EDGE_DEPTH;
    let is_bottom = |i: &usize| (lines[*i].y - bottom) / height <= EDGE_DEPTH;
    Edges {
        top: (0..count)
            .take(EDGE_LINES)
            .take_while(is_top)
            .map(|i| edge(i, (i + 1 < count).then_some(i + 1)))
            .collect(),
        bottom: (0..count).rev().take(EDGE_LINES).take_while(is_bottom).map(|i| edge(i, i.checked_sub(1))).collect(),
        has_text: count > 0,
    }
}

/// The size of most of the page's text.
fn ordinary_size(lines: &[Line]) -> f32 {
    let mut sizes: Vec<f32> =
        lines.iter().flat_map(|line| line.text().chars().map(|_| line.size).collect::<Vec<_>>()).collect();
    sizes.sort_by(f32::total_cmp);
    sizes.get(sizes.len() / 2).copied().unwrap_or(f32::MAX)
}

/// Whether `line` stands close above `next` and shares columns with it.
fn heads_table(line: &Line, next: &Line) -> bool {
    let near = line.y - next.y <= 2.2 * line.size.max(next.size);
    let shared = line
        .segments
        .iter()
        .filter(|a| next.segments.iter().any(|b| (a.x0 - b.x0).abs() <= 3.0 || (a.x1 - b.x1).abs() <= 3.0))
        .count();
    near && line.segments.len() >= 2 && shared >= 2
}

/// A text with its case and spacing folded and its numbers taken out.
fn part(text: &str) -> Part {
    let (mut key, mut numbers) = (String::new(), Vec::new());
    for word in text.split_whitespace() {
        if !key.is_empty() {
            key.push(' ');
        }
        if let Some(value) = roman(word) {
            key.push('#');
            numbers.push(value);
            continue;
        }
        let mut digits = String::new();
        for c in word.chars().chain([' ']) {
            if c.is_ascii_digit() {
                digits.push(c);
                continue;
            }
            if !digits.is_empty() {
                key.push('#');
                numbers.push(digits.parse().unwrap_or(-1));
                digits.clear();
            }
            if c != ' ' {
                key.extend(c.to_lowercase());
            }
        }
    }
    let letters = key.chars().filter(|c| c.is_alphabetic()).count();
    Part { key, text: text.to_owned(), letters, numbers }
}

/// The value of a small Roman numeral in lower case, as front matter is numbered.
fn roman(word: &str) -> Option<i64> {
    let word = word.trim_matches(['-', '–', '—']);
    if word.is_empty() || word.len() > 7 {
        return None;
    }
    let value = |c: char| match c {
        'i' => Some(1),
        'v' => Some(5),
        'x' => Some(10),
        'l' => Some(50),
        _ => None,
    };
    let digits: Vec<i64> = word.chars().map(value).collect::<Option<_>>()?;
    let mut total = 0;
    for (i, digit) in digits.iter().enumerate() {
        total += if digits.get(i + 1).is_some_and(|next| next > digit) { -digit } else { *digit };
    }
    Some(total)
}

/// What may be taken off a page: everything above `top` and everything below `bottom`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cut {
    pub(super) top: Option<f32>,
    pub(super) bottom: Option<f32>,
}

impl Cut {
    /// Whether a baseline is taken off.
    pub(super) fn takes(&self, y: f32) -> bool {
        self.top.is_some_and(|top| y >= top) || self.bottom.is_some_and(|bottom| y <= bottom)
    }
}

/// Finds, for every page, what repeats at its edges.
pub(super) fn find(pages: &[Edges]) -> Vec<Cut> {
    let with_text = pages.iter().filter(|page| page.has_text).count();
    let tops = Repeats::of(pages, |page| &page.top, with_text);
    let bottoms = Repeats::of(pages, |page| &page.bottom, with_text);
    pages
        .iter()
        .enumerate()
        .map(|(i, page)| {
            // The line next inside must stay visible, and the line taken off must be hidden whole.
            let top = tops.innermost(i, &page.top).map(|edge| {
                let cut = edge.y - 0.4 * edge.size;
                edge.inner.map_or(cut, |(y, size)| cut.max(y + 0.2 * size)).min(edge.y)
            });
            let bottom = bottoms.innermost(i, &page.bottom).map(|edge| {
                let cut = edge.y + 1.1 * edge.size;
                edge.inner.map_or(cut, |(y, size)| cut.min(y + 0.5 * size)).max(edge.y)
            });
            Cut { top, bottom }
        })
        .collect()
}

/// Where each text stands at one edge of the pages.
struct Repeats<'a> {
    places: HashMap<&'a str, Vec<(usize, f32, &'a Part)>>,
    with_text: usize,
    pages: usize,
}

impl<'a> Repeats<'a> {
    fn of(pages: &'a [Edges], side: impl Fn(&'a Edges) -> &'a Vec<Edge>, with_text: usize) -> Self {
        let mut places: HashMap<&str, Vec<(usize, f32, &Part)>> = HashMap::new();
        for (i, page) in pages.iter().enumerate() {
            for edge in side(page) {
                for part in &edge.parts {
                    places.entry(&part.key).or_default().push((i, edge.y, part));
                }
            }
        }
        Self { places, with_text, pages: pages.len() }
    }

    /// The innermost line of a page that is running, all those outside it being taken off too.
    fn innermost<'e>(&self, page: usize, edges: &'e [Edge]) -> Option<&'e Edge> {
        let mut last = None;
        let mut passed = 0;
        for edge in edges {
            if edge.heads_table {
                break;
            }
            if self.is_running(page, edge) {
                last = Some(edge);
            } else if passed == 0 && edge.depth <= 0.1 && text_len(edge) <= 80 {
                // A line outside running ones may change from page to page, as a section's name does.
                passed += 1;
            } else {
                break;
            }
        }
        last
    }

    fn is_running(&self, page: usize, edge: &Edge) -> bool {
        let running = edge.parts.iter().filter(|part| self.repeats(page, edge.y, part)).count();
        // A chapter's number over each chapter counts on, too; a running line in large type is the same everywhere.
        if edge.large && !edge.parts.iter().any(|part| self.is_the_same(edge.y, part)) {
            return false;
        }
        running == edge.parts.len() && running > 0 || running > 0 && edge.depth <= 0.1 && text_len(edge) <= 120
    }

    fn repeats(&self, page: usize, y: f32, part: &Part) -> bool {
        if self.is_page_of_pages(page, part) {
            return true;
        }
        let Some(places) = self.places.get(part.key.as_str()) else { return false };
        let mut near: Vec<&(usize, f32, &Part)> =
            places.iter().filter(|(_, other, _)| (other - y).abs() <= SAME_PLACE).collect();
        near.dedup_by_key(|(page, ..)| *page);
        let follows = !part.numbers.is_empty() && near.len() >= 2 && follows_the_pages(page, part, &near);
        if part.letters < 3 {
            // Only a number, or a mark: it must count the pages.
            return follows && (near.len() >= MIN_PAGES || near.len() == self.with_text);
        }
        if self.with_text == 2 {
            return near.len() == 2 && (follows || near.iter().all(|(.., other)| other.text == part.text));
        }
        if near.len() < MIN_PAGES {
            return false;
        }
        let on: Vec<usize> = near.iter().map(|(page, ..)| *page).collect();
        let same_side = on.iter().filter(|other| *other % 2 == page % 2).count();
        let enough = |count: usize, of: usize| count >= MIN_PAGES && 2 * count >= of;
        enough(on.len(), self.with_text)
            || enough(same_side, self.pages.div_ceil(2))
            || run_through(&on, page, 1) >= MIN_PAGES
            || run_through(&on, page, 2) >= MIN_PAGES
    }

    /// Whether the very same words stand at this place on several pages.
    fn is_the_same(&self, y: f32, part: &Part) -> bool {
        let places = self.places.get(part.key.as_str()).map_or(&[][..], Vec::as_slice);
        let same =
            |(_, other_y, other): &&(usize, f32, &Part)| (other_y - y).abs() <= SAME_PLACE && other.text == part.text;
        part.letters >= 3 && places.iter().filter(same).count() >= MIN_PAGES
    }

    /// `3 of 9`, said on page 3 of 9, needs no repetition.
    fn is_page_of_pages(&self, page: usize, part: &Part) -> bool {
        matches!(part.key.as_str(), "page # of #" | "# of #" | "#/#" | "page #/#" | "- # of # -")
            && matches!(part.numbers[..], [this, of] if i64::try_from(page + 1) == Ok(this) && i64::try_from(self.pages) == Ok(of))
    }
}

fn text_len(edge: &Edge) -> usize {
    edge.parts.iter().map(|part| part.text.chars().count()).sum()
}

/// How many pages in a row, `step` apart, around `page` have the line. `on` ascends.
fn run_through(on: &[usize], page: usize, step: usize) -> usize {
    let has = |page: usize| on.binary_search(&page).is_ok();
    let after = (1..=on.len()).take_while(|i| has(page + i * step)).count();
    let before = (1..=on.len()).take_while(|i| page.checked_sub(i * step).is_some_and(has)).count();
    1 + after + before
}

/// Whether one of the part's numbers goes up by one from page to page.
fn follows_the_pages(page: usize, part: &Part, near: &[&(usize, f32, &Part)]) -> bool {
    let offset = |value: i64, page: usize| i64::try_from(page).ok().map(|page| value - page);
    (0..part.numbers.len()).any(|n| {
        let here = offset(part.numbers[n], page);
        let with = near
            .iter()
            .filter(|(other, _, p)| p.numbers.get(n).is_some_and(|value| offset(*value, *other) == here))
            .count();
        // Front matter and body count apart, so not all pages need to agree.
        with >= 2 && with >= near.len().min(MIN_PAGES)
    })
}

#[cfg(test)]
#[path = "running_tests.rs"]
mod tests;
