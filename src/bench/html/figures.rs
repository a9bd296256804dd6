//! The plots of the book, each made of what was recorded.

use std::collections::BTreeMap;

use super::Figure;
use super::plot::{Axis, Mark, Plot, Point, Series, Shape};
use crate::bench::history::{History, Sample};

/// Without a sample for so many times the usual distance, a line is broken: the run was not running.
const GAP: i64 = 5;
/// Rates are taken over about so many windows of a history.
const WINDOWS: usize = 160;
const NO_HISTORY: &str = "The state keeps no history: it is written while a run runs, as history.jsonl in its folder.";
/// A history of fewer samples shows nothing.
const LEAST_SAMPLES: usize = 3;
const GIB: f64 = (1_u64 << 30) as f64;

fn plot(id: String, title: &str, note: &str, x: Axis, y: Axis) -> Plot {
    Plot { id, title: title.into(), note: note.into(), x, y, series: vec![], marks: vec![], levels: vec![] }
}

/// Seconds since the first sample as minutes or hours, whichever reads better.
struct Clock {
    begin: i64,
    per: f64,
    unit: &'static str,
}

impl Clock {
    fn of(history: &History) -> Option<Self> {
        let (first, last) = (history.samples.first()?, history.samples.last()?);
        let seconds = last.t - first.t;
        let (per, unit) = match seconds {
            0..300 => (1.0, "s"),
            300..14_400 => (60.0, "min"),
            _ => (3600.0, "h"),
        };
        Some(Self { begin: first.t, per, unit })
    }

    fn at(&self, sample: &Sample) -> f64 {
        (sample.t - self.begin) as f64 / self.per
    }

    fn axis(&self) -> Axis {
        Axis::new("Time since the beginning", self.unit)
    }
}

/// The moments at which an attempt began, but the first.
fn restarts(history: &History, clock: &Clock) -> Vec<Mark> {
    let pairs = history.samples.windows(2);
    pairs
        .filter(|pair| pair[0].attempt != pair[1].attempt)
        .map(|pair| Mark { at: clock.at(&pair[1]), label: format!("attempt {} begins", pair[1].attempt) })
        .collect()
}

/// Whether the run was not running between two samples.
fn gap(history: &History, a: &Sample, b: &Sample) -> bool {
    a.attempt != b.attempt || b.t - a.t > GAP * i64::try_from(history.every_seconds).unwrap_or(1).max(2)
}

/// A value of every sample, broken where the run was not running.
fn levels(history: &History, clock: &Clock, value: impl Fn(&Sample) -> Option<f64>) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    let mut before: Option<&Sample> = None;
    for sample in &history.samples {
        if let Some(previous) = before
            && gap(history, previous, sample)
        {
            points.push(Point::at(clock.at(sample), f64::NAN));
        }
        points.push(Point::at(clock.at(sample), value(sample).unwrap_or(f64::NAN)));
        before = Some(sample);
    }
    points
}

/// The growth of a count a minute, over windows of several samples, nothing being counted over a gap.
fn rates(history: &History, clock: &Clock, count: impl Fn(&Sample) -> f64) -> Vec<Point> {
    let step = (history.samples.len() / WINDOWS).max(1);
    let mut points = Vec::new();
    let mut from = 0;
    while from < history.samples.len() {
        let attempt = history.samples[from].attempt;
        let mut to = from;
        while to + 1 < history.samples.len()
            && to - from < step
            && !gap(history, &history.samples[to], &history.samples[to + 1])
        {
            to += 1;
        }
        let (a, b) = (&history.samples[from], &history.samples[to]);
        if b.t > a.t {
            let rate = (count(b) - count(a)).max(0.0) * 60.0 / (b.t - a.t) as f64;
            points.push(Point::at(f64::midpoint(clock.at(a), clock.at(b)), rate));
        }
        let ended = to + 1 >= history.samples.len();
        let broken =
            !ended && (gap(history, b, &history.samples[to + 1]) || history.samples[to + 1].attempt != attempt);
        if broken {
            points.push(Point::at(clock.at(b), f64::NAN));
        }
        from = if broken || to == from { to + 1 } else { to };
        if ended {
            break;
        }
    }
    points
}

/// The stages in the order of the graph.
fn stage_names(history: &History) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (name, _) in history.samples.iter().rev().flat_map(|sample| &sample.stages) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn per_stage(history: &History, points: impl Fn(&str) -> Vec<Point>) -> Vec<Series> {
    stage_names(history).into_iter().map(|name| Series { points: points(&name), shape: Shape::Line, name }).collect()
}

/// Everything that the history of one run shows. `id` makes the plots' ids.
pub fn of_history(id: &str, history: &History) -> Vec<Figure> {
    let missing = |reason: &str| {
        vec![Figure::Missing { title: "Throughput, queues and GPUs over time".into(), reason: reason.into() }]
    };
    let Some(clock) = Clock::of(history) else { return missing(NO_HISTORY) };
    if history.samples.len() < LEAST_SAMPLES {
        return missing("The run was too short for plots over time.");
    }
    let marks = restarts(history, &clock);
    let note = match marks.len() {
        0 => "One attempt, never interrupted.".to_owned(),
        n => format!("{} attempts; dotted lines are restarts, gaps are times in which nothing ran.", n + 1),
    };
    let over_time = |name: &str, title: &str, note: &str, y: Axis, series: Vec<Series>| {
        let mut made = plot(format!("{id}-{name}"), title, note, clock.axis(), y);
        made.series = series;
        made.marks.clone_from(&marks);
        made
    };
    let stage = |sample: &Sample, name: &str| sample.stage(name).copied();
    let throughput = over_time(
        "throughput",
        "Throughput over time",
        &note,
        Axis::new("Items ended", "items/min"),
        per_stage(history, |name| rates(history, &clock, |s| stage(s, name).map_or(0.0, |x| x.ended as f64))),
    );
    let model = over_time(
        "model",
        "Use of the model's slots",
        "Below 100%, something else than the model was waited for.",
        Axis { at_least: Some(100.0), ..Axis::new("Slots in use", "% of slots") },
        vec![Series {
            name: "slots".into(),
            shape: Shape::Line,
            points: levels(history, &clock, |s| (s.slots > 0).then(|| 100.0 * s.in_flight as f64 / s.slots as f64)),
        }],
    );
    let stages = over_time(
        "stages",
        "Use of the stages",
        "Items that each stage has in its hands.",
        Axis::new("In work", "items"),
        per_stage(history, |name| levels(history, &clock, |s| stage(s, name).map(|x| x.in_flight as f64))),
    );
    let queues = over_time(
        "queues",
        "Queues between the stages",
        "A full queue before a stage and an empty one behind it: that stage is what holds the flow back.",
        Axis { at_least: Some(100.0), ..Axis::new("Filled", "% of the queue") },
        per_stage(history, |name| {
            levels(history, &clock, |s| {
                let stage = stage(s, name)?;
                (stage.capacity > 0).then(|| 100.0 * stage.queued as f64 / stage.capacity as f64)
            })
        }),
    );
    let gpu = over_time(
        "gpu",
        "GPU utilisation",
        "Mean over the GPUs held.",
        Axis { at_least: Some(100.0), ..Axis::new("Utilisation", "%") },
        vec![Series {
            name: "utilisation".into(),
            shape: Shape::Line,
            points: levels(history, &clock, |s| s.gpu_utilization.map(|share| share * 100.0)),
        }],
    );
    let memory = over_time(
        "gpu-memory",
        "GPU memory",
        "The GPU with the most in use.",
        Axis::new("In use", "GB"),
        vec![Series {
            name: "memory".into(),
            shape: Shape::Line,
            points: levels(history, &clock, |s| s.gpu_memory.map(|bytes| bytes as f64 / GIB)),
        }],
    );
    let no_gpu = "No GPU was measured in this run.";
    vec![
        Figure::or(throughput, NO_HISTORY),
        Figure::or(model, "No model was asked in this run."),
        Figure::or(stages, NO_HISTORY),
        Figure::or(queues, NO_HISTORY),
        Figure::or(gpu, no_gpu),
        Figure::or(memory, no_gpu),
    ]
}

/// How marks are spread: share of the pairs with each mark, by criterion. `counts[n]` are the pairs with mark `n + 1`.
pub fn score_distribution(id: &str, counts: &BTreeMap<String, [u64; 5]>) -> Figure {
    let mut made = plot(
        format!("{id}-scores"),
        "How marks are spread",
        "Marks from 1 (worst) to 5 (best) of the pairs that were scored, those refused for their marks included.",
        Axis::of("Mark", "1 to 5", (1..=5).map(|mark| mark.to_string()).collect()),
        Axis::new("Pairs", "% of the scored"),
    );
    for (name, counts) in counts {
        let all: u64 = counts.iter().sum();
        if all == 0 {
            continue;
        }
        let points = counts.iter().enumerate().map(|(at, n)| Point::at(at as f64, 100.0 * *n as f64 / all as f64));
        made.series.push(Series { name: name.clone(), shape: Shape::Bars, points: points.collect() });
    }
    Figure::or(made, "No record says how often each mark was given.")
}

/// A value of each batch with its interval.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchValue {
    /// The batch's name.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its interval.
    pub interval: Option<(f64, f64)>,
}

/// Minutes a document over the rungs of the ladder, in their order, each with where it ran: a colour for each place.
pub fn ladder_scaling(id: &str, rungs: &[(&str, BatchValue)]) -> Figure {
    let mut made = plot(
        format!("{id}-scaling"),
        "Does it scale? Minutes a document, by batch",
        "Whiskers hold the mean with 90% probability, documents being drawn again and again. Where the dots of one place \
         stay level, it scales.",
        Axis::of("Batch", "documents new in it", rungs.iter().map(|(_, rung)| rung.name.clone()).collect()),
        Axis::new("Time a document", "min"),
    );
    for (at, (place, rung)) in rungs.iter().enumerate() {
        let point = Point { x: at as f64, y: rung.value, interval: rung.interval };
        match made.series.iter_mut().find(|series| series.name == *place) {
            Some(series) => series.points.push(point),
            None => {
                made.series.push(Series { name: (*place).to_owned(), shape: Shape::Dots, points: vec![point] });
            }
        }
    }
    Figure::or(made, "No batch has been recorded yet: `qaflow bench record` after a run makes a record of it.")
}

/// The budget over the documents: what was used, and what is expected of the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BurnDown {
    /// After each record: documents done, GPU-hours used.
    pub used: Vec<(f64, f64)>,
    /// Where the documents count as done, as in `on the cluster`.
    pub place: String,
    /// Documents in all.
    pub documents: f64,
    /// GPU-hours expected in all, and between which bounds.
    pub expected: Option<(f64, f64, f64)>,
    /// The budget in GPU-hours.
    pub budget: Option<f64>,
}

/// GPU-hours used and expected against the budget.
pub fn burn_down(id: &str, burn: &BurnDown) -> Figure {
    let mut made = plot(
        format!("{id}-budget"),
        "The GPU budget",
        &format!(
            "GPU-hours of all records, experiments too; documents done {}. Broken: expected for the rest, with overhead; \
             the band holds it with 90% probability. The same figures as under Projections in BENCHMARKS.md.",
            burn.place
        ),
        Axis::new(&format!("Documents done {}", burn.place), "documents"),
        Axis::new("GPU time used", "GPU-hours"),
    );
    let mut used = vec![Point::at(0.0, 0.0)];
    used.extend(burn.used.iter().map(|(x, y)| Point::at(*x, *y)));
    let last = used[used.len() - 1];
    made.series.push(Series { name: "used".into(), shape: Shape::Line, points: used });
    if let Some((expected, low, high)) = burn.expected {
        made.series.push(Series {
            name: "expected".into(),
            shape: Shape::Dashed,
            points: vec![
                Point { interval: Some((last.y, last.y)), ..last },
                Point { x: burn.documents, y: expected, interval: Some((low, high)) },
            ],
        });
    }
    if let Some(budget) = burn.budget {
        made.levels.push(Mark { at: budget, label: "budget".into() });
    }
    if burn.used.is_empty() {
        made.series.clear();
    }
    Figure::or(made, "No GPU time is on record yet, or a record does not say how much it took.")
}

/// One measure over the settings of a sweep.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SweepCurve {
    /// The measure, as in `Time a document`.
    pub measure: String,
    /// Its unit.
    pub unit: String,
    /// What was varied, as in `concurrency`.
    pub parameter: String,
    /// The settings in order.
    pub settings: Vec<String>,
    /// One line for each value of what else was varied; a single one without a name otherwise.
    pub lines: Vec<(String, Vec<BatchValue>)>,
}

/// A sweep's curve with intervals over its repeats.
pub fn sweep_curve(id: &str, curve: &SweepCurve) -> Figure {
    let mut made = plot(
        id.to_owned(),
        &format!("{} by {}", curve.measure, curve.parameter),
        "Dots are means over the repeats, whiskers their 95% interval.",
        Axis::of(&curve.parameter, "setting", curve.settings.clone()),
        Axis::new(&curve.measure, &curve.unit),
    );
    let lines = curve.lines.len();
    for (at, (name, values)) in curve.lines.iter().enumerate() {
        // Beside each other where several lines share a setting.
        let shift = if lines > 1 { (at as f64 - (lines - 1) as f64 / 2.0) * 0.12 } else { 0.0 };
        let points = values.iter().filter_map(|value| {
            let x = curve.settings.iter().position(|setting| *setting == value.name)?;
            Some(Point { x: x as f64 + shift, y: value.value, interval: value.interval })
        });
        let name = if name.is_empty() { curve.measure.clone() } else { name.clone() };
        made.series.push(Series { name, shape: Shape::Dots, points: points.collect() });
    }
    Figure::or(made, "No cell of the sweep is finished.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::history::StageSample;

    fn history(gap_at: Option<i64>) -> History {
        let mut history = History { every_seconds: 1, ..History::default() };
        for n in 0..600_i64 {
            let late = gap_at.is_some_and(|at| n >= at);
            let ended = n as u64 * 2;
            history.samples.push(Sample {
                t: 1_000_000 + n + if late { 900 } else { 0 },
                attempt: 1 + u64::from(late),
                stages: [("chunk".to_owned(), StageSample { ended, in_flight: 3, queued: 4, capacity: 8, made: 0 })]
                    .into(),
                in_flight: 8,
                slots: 16,
                ..Sample::default()
            });
        }
        history
    }

    fn plot_of(figures: &[Figure], at: usize) -> &Plot {
        match &figures[at] {
            Figure::Plot(plot) => plot,
            Figure::Missing { reason, .. } => panic!("missing: {reason}"),
        }
    }

    #[test]
    fn rates_are_per_minute_and_a_pause_is_no_rate() {
        for gap_at in [None, Some(300)] {
            let figures = of_history("r", &history(gap_at));
            let throughput = plot_of(&figures, 0);
            let finite: Vec<f64> = throughput.series[0].points.iter().map(|p| p.y).filter(|y| y.is_finite()).collect();
            assert!(finite.len() > 50);
            assert!(finite.iter().all(|rate| (rate - 120.0).abs() < 1e-6), "{finite:?}");
            assert_eq!(throughput.marks.len(), usize::from(gap_at.is_some()));
            assert_eq!(throughput.series[0].points.iter().any(|p| p.y.is_nan()), gap_at.is_some());
            assert!((plot_of(&figures, 1).series[0].points[0].y - 50.0).abs() < 1e-9);
            assert!((plot_of(&figures, 3).series[0].points[0].y - 50.0).abs() < 1e-9);
            assert!(matches!(&figures[4], Figure::Missing { .. }), "no GPU was measured");
        }
    }

    #[test]
    fn nothing_recorded_is_said_so() {
        assert!(matches!(&of_history("r", &History::default())[..], [Figure::Missing { .. }]));
        assert!(matches!(burn_down("b", &BurnDown::default()), Figure::Missing { .. }));
        assert!(matches!(ladder_scaling("l", &[]), Figure::Missing { .. }));
        assert!(matches!(score_distribution("s", &BTreeMap::new()), Figure::Missing { .. }));
        assert!(matches!(sweep_curve("w", &SweepCurve::default()), Figure::Missing { .. }));
    }

    #[test]
    fn batches_of_each_place_have_a_colour_of_their_own() {
        let batch = |name: &str, value: f64| BatchValue { name: name.into(), value, interval: None };
        let rungs = [("local", batch("a", 9.0)), ("cluster", batch("b", 2.0)), ("local", batch("c", 8.0))];
        let Figure::Plot(plot) = ladder_scaling("l", &rungs) else { panic!("no plot") };
        let shown: Vec<(&str, Vec<f64>)> =
            plot.series.iter().map(|s| (s.name.as_str(), s.points.iter().map(|p| p.x).collect())).collect();
        assert_eq!(shown, [("local", vec![0.0, 2.0]), ("cluster", vec![1.0])]);
    }

    #[test]
    fn the_burn_down_ends_at_what_is_expected() {
        let burn = BurnDown {
            used: vec![(5.0, 1.0), (25.0, 6.0)],
            place: "on the cluster".into(),
            documents: 1100.0,
            expected: Some((300.0, 250.0, 380.0)),
            budget: Some(1000.0),
        };
        let figure = burn_down("b", &burn);
        let Figure::Plot(plot) = figure else { panic!("no plot") };
        assert_eq!(plot.series[1].points[1].interval, Some((250.0, 380.0)));
        assert!(plot.svg().contains("budget"));
    }
}
