//! One plot as SVG: axes with labels and units, lines, bars, dots with intervals, bands, and marks at moments.
//!
//! Colours come from the page's style (`--s1` to `--s6`), so that light and dark need no second picture.

use std::fmt::Write as _;

use super::ticks::{nice, number, rounded_up};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 54.0;
/// A line has no more points than this: more cannot be seen.
const MOST_POINTS: usize = 700;
/// Up to so many points each say their value when pointed at.
const MOST_TIPS: usize = 150;

/// A plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// Its name in the page's links: letters, digits and `-`.
    pub id: String,
    /// What it shows.
    pub title: String,
    /// What a reader should know of it.
    pub note: String,
    /// Left to right.
    pub x: Axis,
    /// Bottom to top.
    pub y: Axis,
    /// What is drawn, in order.
    pub series: Vec<Series>,
    /// Moments marked by a line from bottom to top.
    pub marks: Vec<Mark>,
    /// Levels marked by a line from left to right.
    pub levels: Vec<Mark>,
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it measures.
    pub label: String,
    /// In what, as in `min`; a count says of what.
    pub unit: String,
    /// Names instead of numbers: point `x = 0` is the first.
    pub categories: Option<Vec<String>>,
    /// The least upper end, as for a share that goes to 1.
    pub at_least: Option<f64>,
    /// Begins where the data begins instead of at zero.
    pub from_data: bool,
}

impl Axis {
    /// An axis of numbers from zero.
    pub fn new(label: &str, unit: &str) -> Self {
        Self { label: label.into(), unit: unit.into(), categories: None, at_least: None, from_data: false }
    }

    /// An axis of names.
    pub fn of(label: &str, unit: &str, names: Vec<String>) -> Self {
        Self { categories: Some(names), ..Self::new(label, unit) }
    }

    /// Label and unit.
    fn text(&self) -> String {
        if self.unit.is_empty() { self.label.clone() } else { format!("{} ({})", self.label, self.unit) }
    }
}

/// What is drawn of one kind of thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// How it is drawn.
    pub shape: Shape,
    /// Its points; a value that is not finite breaks a line.
    pub points: Vec<Point>,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A line, with a band where the points have intervals.
    Line,
    /// A broken line, for what is expected rather than seen.
    Dashed,
    /// Bars, side by side where several series have them.
    Bars,
    /// Dots with their intervals.
    Dots,
}

/// A point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Left to right.
    pub x: f64,
    /// Bottom to top.
    pub y: f64,
    /// Its interval.
    pub interval: Option<(f64, f64)>,
}

impl Point {
    /// A point without an interval.
    pub fn at(x: f64, y: f64) -> Self {
        Self { x, y, interval: None }
    }
}

/// A line across the plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Where.
    pub at: f64,
    /// What it is.
    pub label: String,
}

/// Text that HTML and SVG take as text.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn px(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn py(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }
}

impl Plot {
    /// Whether there is anything to draw.
    pub fn is_empty(&self) -> bool {
        !self.series.iter().any(|s| s.points.iter().any(|p| p.y.is_finite() && p.x.is_finite()))
    }

    fn frame(&self) -> Frame {
        let mut x = (f64::INFINITY, f64::NEG_INFINITY);
        let mut y = (f64::INFINITY, f64::NEG_INFINITY);
        let widen = |range: &mut (f64, f64), value: f64| {
            if value.is_finite() {
                *range = (range.0.min(value), range.1.max(value));
            }
        };
        for point in self.series.iter().flat_map(|s| &s.points) {
            widen(&mut x, point.x);
            widen(&mut y, point.y);
            if let Some((low, high)) = point.interval {
                widen(&mut y, low);
                widen(&mut y, high);
            }
        }
        for level in &self.levels {
            widen(&mut y, level.at);
        }
        if let Some(names) = &self.x.categories {
            x = (-0.5, names.len().max(1) as f64 - 0.5);
        } else {
            if !self.x.from_data {
                x.0 = x.0.min(0.0);
            }
            x.1 = x.1.max(self.x.at_least.unwrap_or(x.1));
            if x.1 <= x.0 {
                x.1 = x.0 + 1.0;
            }
        }
        if self.y.from_data {
            let pad = ((y.1 - y.0) * 0.1).max(y.1.abs() * 0.02).max(1e-9);
            y = (y.0 - pad, y.1 + pad);
        } else {
            y.0 = y.0.min(0.0);
            y.1 = rounded_up(y.1.max(self.y.at_least.unwrap_or(0.0)), 5);
        }
        Frame { x, y }
    }

    /// The plot as an SVG element, without its legend.
    pub fn svg(&self) -> String {
        let frame = self.frame();
        let mut svg = String::new();
        let w = &mut svg;
        let _ = write!(
            w,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{0}-t\" id=\"{0}-plot\"><title id=\"{0}-t\">{1}: {2} against {3}</title>",
            self.id,
            escaped(&self.title),
            escaped(&self.y.text()),
            escaped(&self.x.text())
        );
        self.axes(w, &frame);
        for level in &self.levels {
            let y = frame.py(level.at);
            let _ = write!(
                w,
                "<line class=\"level\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"marklabel\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                WIDTH - RIGHT - 4.0,
                y - 5.0,
                escaped(&level.label)
            );
        }
        for mark in &self.marks {
            let x = frame.px(mark.at);
            let _ = write!(
                w,
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"><title>{}</title></line>",
                HEIGHT - BOTTOM,
                escaped(&mark.label)
            );
        }
        let bars = self.series.iter().filter(|s| s.shape == Shape::Bars).count();
        let mut bar = 0;
        for (at, series) in self.series.iter().enumerate() {
            let color = at % 6 + 1;
            match series.shape {
                Shape::Line | Shape::Dashed => line(w, series, &frame, color),
                Shape::Bars => {
                    self.bars(w, series, &frame, color, bar, bars);
                    bar += 1;
                }
                Shape::Dots => self.dots(w, series, &frame, color),
            }
        }
        svg.push_str("</svg>");
        svg
    }

    fn axes(&self, w: &mut String, frame: &Frame) {
        for tick in nice(frame.y.0, frame.y.1, 5) {
            let y = frame.py(tick);
            let _ = write!(
                w,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                number(tick)
            );
        }
        let base = HEIGHT - BOTTOM;
        let _ =
            write!(w, "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{base}\" y2=\"{base}\"/>", WIDTH - RIGHT);
        if let Some(names) = &self.x.categories {
            // As many names as fit side by side.
            let room = (WIDTH - LEFT - RIGHT) / names.len().max(1) as f64;
            let letters = (room / 7.0).max(3.0) as usize;
            for (i, name) in names.iter().enumerate() {
                let shown: String = if name.chars().count() > letters {
                    name.chars().take(letters.saturating_sub(1)).chain(['…']).collect()
                } else {
                    name.clone()
                };
                let _ = write!(
                    w,
                    "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}<title>{}</title></text>",
                    frame.px(i as f64),
                    base + 18.0,
                    escaped(&shown),
                    escaped(name)
                );
            }
        } else {
            for tick in nice(frame.x.0, frame.x.1, 8) {
                let x = frame.px(tick);
                let _ = write!(
                    w,
                    "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{base}\" y2=\"{:.1}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    base + 4.0,
                    base + 18.0,
                    number(tick)
                );
            }
        }
        let _ = write!(
            w,
            "<text class=\"label x-label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text class=\"label y-label\" transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 12.0,
            escaped(&self.x.text()),
            f64::midpoint(TOP, base),
            escaped(&self.y.text())
        );
    }

    fn bars(&self, w: &mut String, series: &Series, frame: &Frame, color: usize, bar: usize, bars: usize) {
        let slot = if self.x.categories.is_some() {
            frame.px(1.0) - frame.px(0.0)
        } else {
            (WIDTH - LEFT - RIGHT) / series.points.len().max(1) as f64
        };
        let width = (slot * 0.72 / bars.max(1) as f64).clamp(1.0, 64.0);
        for point in series.points.iter().filter(|p| p.y.is_finite()) {
            let x = frame.px(point.x) + (bar as f64 - bars as f64 / 2.0) * width;
            let (top, base) = (frame.py(point.y), frame.py(frame.y.0.max(0.0)));
            let _ = write!(
                w,
                "<rect class=\"bar\" style=\"fill:var(--s{color})\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\"><title>{}</title></rect>",
                width - 1.0,
                (base - top).max(0.0),
                self.tip(series, point)
            );
            whisker(w, frame, point, x + (width - 1.0) / 2.0);
        }
    }

    fn dots(&self, w: &mut String, series: &Series, frame: &Frame, color: usize) {
        for point in series.points.iter().filter(|p| p.y.is_finite() && p.x.is_finite()) {
            let (x, y) = (frame.px(point.x), frame.py(point.y));
            whisker(w, frame, point, x);
            let _ = write!(
                w,
                "<circle class=\"dot\" style=\"fill:var(--s{color})\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{}</title></circle>",
                self.tip(series, point)
            );
        }
    }

    /// What a point says when pointed at.
    fn tip(&self, series: &Series, point: &Point) -> String {
        let x = match &self.x.categories {
            Some(names) => names.get(point.x.max(0.0) as usize).cloned().unwrap_or_default(),
            None => format!("{} {}", number(point.x), self.x.unit),
        };
        let interval = point
            .interval
            .map_or_else(String::new, |(low, high)| format!(", between {} and {}", number(low), number(high)));
        escaped(&format!("{}, {x}: {} {}{interval}", series.name, number(point.y), self.y.unit))
    }
}

fn whisker(w: &mut String, frame: &Frame, point: &Point, x: f64) {
    if let Some((low, high)) = point.interval {
        let (top, bottom) = (frame.py(high), frame.py(low));
        let _ = write!(
            w,
            "<path class=\"whisker\" d=\"M{x:.1} {top:.1}V{bottom:.1}M{:.1} {top:.1}H{:.1}M{:.1} {bottom:.1}H{:.1}\"/>",
            x - 5.0,
            x + 5.0,
            x - 5.0,
            x + 5.0
        );
    }
}

fn line(w: &mut String, series: &Series, frame: &Frame, color: usize) {
    let points = thinned(&series.points);
    let band: Vec<(f64, f64, f64)> = points
        .iter()
        .filter_map(|p| p.interval.map(|(low, high)| (frame.px(p.x), frame.py(low), frame.py(high))))
        .collect();
    if band.len() > 1 {
        let mut path = String::new();
        for (i, (x, _, high)) in band.iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {high:.1}", if i == 0 { 'M' } else { 'L' });
        }
        for (x, low, _) in band.iter().rev() {
            let _ = write!(path, "L{x:.1} {low:.1}");
        }
        let _ = write!(w, "<path class=\"band\" style=\"fill:var(--s{color})\" d=\"{path}Z\"/>");
    }
    let mut path = String::new();
    let mut broken = true;
    for point in &points {
        if !(point.x.is_finite() && point.y.is_finite()) {
            broken = true;
            continue;
        }
        let _ = write!(path, "{}{:.1} {:.1}", if broken { 'M' } else { 'L' }, frame.px(point.x), frame.py(point.y));
        broken = false;
    }
    let class = if series.shape == Shape::Dashed { "line dashed" } else { "line" };
    let _ = write!(w, "<path class=\"{class}\" style=\"stroke:var(--s{color})\" d=\"{path}\"/>");
    if points.len() <= MOST_TIPS {
        for point in points.iter().filter(|p| p.y.is_finite()) {
            let _ = write!(
                w,
                "<circle class=\"tip\" style=\"fill:var(--s{color})\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{}: {}</title></circle>",
                frame.px(point.x),
                frame.py(point.y),
                escaped(&series.name),
                number(point.y)
            );
        }
    }
}

/// The points, at most [`MOST_POINTS`]: of each group the highest and the lowest, so that no peak is lost.
fn thinned(points: &[Point]) -> Vec<Point> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let group = points.len().div_ceil(MOST_POINTS / 2);
    let mut kept = Vec::with_capacity(MOST_POINTS + 2);
    for part in points.chunks(group) {
        if let Some(gap) = part.iter().find(|p| !p.y.is_finite()) {
            kept.push(*gap);
            continue;
        }
        let low = (0..part.len()).min_by(|a, b| part[*a].y.total_cmp(&part[*b].y)).unwrap_or(0);
        let high = (0..part.len()).max_by(|a, b| part[*a].y.total_cmp(&part[*b].y)).unwrap_or(0);
        kept.push(part[low.min(high)]);
        if low != high {
            kept.push(part[low.max(high)]);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(shape: Shape, points: Vec<Point>) -> Plot {
        Plot {
            id: "p".into(),
            title: "A <b>title</b>".into(),
            note: String::new(),
            x: Axis::new("Time", "min"),
            y: Axis::new("Pairs", "pairs/min"),
            series: vec![Series { name: "pairs & more".into(), shape, points }],
            marks: vec![Mark { at: 1.0, label: "restart".into() }],
            levels: vec![Mark { at: 3.0, label: "target".into() }],
        }
    }

    #[test]
    fn a_plot_says_what_it_shows_and_in_which_units() {
        for shape in [Shape::Line, Shape::Dashed, Shape::Bars, Shape::Dots] {
            let points = vec![Point::at(0.0, 1.0), Point { x: 2.0, y: 2.0, interval: Some((1.5, 2.5)) }];
            let svg = plot(shape, points).svg();
            for part in
                ["A &lt;b&gt;title&lt;/b&gt;", ">Time (min)<", ">Pairs (pairs/min)<", "restart", "target", "</svg>"]
            {
                assert!(svg.contains(part), "{shape:?} lacks {part}: {svg}");
            }
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn strange_numbers_draw_nothing_wrong() {
        assert!(plot(Shape::Line, vec![Point::at(0.0, f64::NAN)]).is_empty());
        let odd = vec![Point::at(0.0, 0.0), Point::at(0.0, f64::NAN), Point::at(0.0, 0.0)];
        for shape in [Shape::Line, Shape::Bars, Shape::Dots] {
            let svg = plot(shape, odd.clone()).svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn thinning_keeps_peaks_and_gaps() {
        let mut points: Vec<Point> = (0..10_000).map(|n| Point::at(f64::from(n), 1.0)).collect();
        points[5_003].y = 99.0;
        points[7_000].y = f64::NAN;
        let kept = thinned(&points);
        assert!(kept.len() <= MOST_POINTS + 2);
        assert!(kept.iter().any(|p| p.y > 98.0) && kept.iter().any(|p| p.y.is_nan()));
    }
}
