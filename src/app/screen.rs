//! A status as a screen of text that answers in five seconds: how far, how fast, how long still, what slows it down,
//! what goes wrong. And the sum of the statuses of several states.

use std::fmt::Write as _;
use std::time::Duration;

use super::bottleneck::BottleneckKind;
use super::gpu_status::GpuStatus;
use super::liveness::{Ending, Life, Liveness};
use super::progress::{LimitedBy, ModelStatus, Phase, StageStatus, Status, WriterStatus};
use super::{counted, grouped, spoken};

/// Columns of a terminal that nobody widened.
const WIDTH: usize = 80;
/// Kinds of errors shown.
const ERRORS_SHOWN: usize = 5;

/// The screen. `place` is where the state lies, if it is one, and `liveness` how its run stands.
pub fn render(status: &Status, place: &str, liveness: Liveness) -> String {
    let mut sections = vec![head(status, place, liveness), table(status)];
    sections.extend(limits(status));
    sections.push(model(&status.model));
    sections.extend(status.gpu.line(status.states).map(|line| wrapped(&line, "  ")));
    sections.extend(errors(status));
    sections.join("\n\n")
}

fn head(status: &Status, place: &str, liveness: Liveness) -> String {
    let age = spoken(liveness.age.unwrap_or_default());
    let mut head = match liveness.life {
        Life::Silent if status.states > 1 => {
            format!("no sign of life of at least one state for {age}: the same `qaflow run` resumes it")
        }
        Life::Silent if liveness.alive => format!(
            "no sign of life for {age}, though process {} is there: stopped, or waiting for its disk? It goes on when woken; \
             end it, or take its state over with `qaflow run --take-over`",
            status.pid
        ),
        Life::Silent => format!(
            "no sign of life for {age}: process {} on {} was probably killed; the same `qaflow run` resumes",
            status.pid, status.host
        ),
        Life::Ended(Ending::Killed) => format!(
            "killed: process {} on {} is gone, {age} after its last word; the same `qaflow run` resumes",
            status.pid, status.host
        ),
        Life::Running if status.phase == Phase::Running => format!("running, {}", status.eta_text()),
        Life::Running | Life::Ended(_) => status.eta_text(),
    };
    if let Some(reason) = &status.reason {
        head = format!("{head} ({reason})");
    }
    let elapsed = spoken(Duration::from_secs_f64(status.elapsed_seconds));
    let which = if status.states > 1 {
        format!("{} states, on {}; the longest attempt {elapsed}", status.states, status.host)
    } else {
        format!("{place}, attempt {} for {elapsed}, process {} on {}", status.attempt, status.pid, status.host)
    };
    format!("{}\n{}", wrapped(&format!("{}: {head}", status.run_id), ""), wrapped(&which, ""))
}

fn table(status: &Status) -> String {
    let mut text = format!(
        "{:<11} {:>9} {:>8} {:>6} {:>9} {:>9} {:>7} {:>7} {:>5}",
        "stage", "done", "rejected", "dead", "waiting", "in flight", "/min", "overall", "queue"
    );
    for s in &status.stages {
        let _ = write!(
            text,
            "\n{:<11} {:>9} {:>8} {:>6} {:>9} {:>9} {:>7} {:>7} {:>5}",
            cut(&s.name, 11),
            grouped(s.done),
            grouped(s.rejected),
            grouped(s.dead),
            grouped(s.pending.saturating_sub(s.in_flight)),
            grouped(s.in_flight),
            rate(s.per_minute_now),
            rate(s.per_minute),
            if s.capacity > 0 { format!("{:.0}%", 100.0 * s.queued as f64 / s.capacity as f64) } else { "-".into() },
        );
    }
    text
}

/// A rate in at most seven characters.
fn rate(per_minute: f64) -> String {
    if per_minute >= 99.95 { grouped(per_minute.round() as u64) } else { format!("{per_minute:.1}") }
}

/// What slows it down now, and what did so far.
fn limits(status: &Status) -> Option<String> {
    let mut lines = Vec::new();
    if let Some(found) = &status.bottleneck {
        let name = if found.kind == BottleneckKind::None { "nothing" } else { &found.name };
        lines.push(wrapped(&format!("limited by {name}: {}", found.reason), "  "));
    }
    let shares: Vec<String> = status
        .limited_by
        .iter()
        .filter(|limit| limit.share >= 0.01)
        .map(|limit| format!("{} {:.0}%", limit.name, limit.share * 100.0))
        .collect();
    if !shares.is_empty() {
        lines.push(wrapped(&format!("over this attempt's time: {}", shares.join(", ")), "  "));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn model(model: &ModelStatus) -> String {
    let mut text = wrapped(
        &format!(
            "model {}: {} of {} slots in use, {} waiting; {} answers, {} prompt and {} completion tokens",
            model.name,
            model.in_flight,
            model.slots,
            model.waiting,
            grouped(model.calls),
            grouped(model.prompt_tokens),
            grouped(model.completion_tokens),
        ),
        "  ",
    );
    if model.cached_tokens > 0 && model.prompt_tokens > 0 {
        let share = 100.0 * model.cached_tokens as f64 / model.prompt_tokens as f64;
        let _ = write!(text, "\n  {share:.0}% of prompt tokens from the server's cache");
    }
    for endpoint in &model.endpoints {
        let line = match (endpoint.out_seconds, &endpoint.reason) {
            (Some(seconds), Some(reason)) => {
                let out = spoken(Duration::from_secs_f64(seconds));
                format!("OUT for {out}: {} ({reason}); it is probed, and the flow waits", endpoint.url)
            }
            _ if endpoint.limited > 0 => {
                format!("{}: {} requests wait for a rate limit", endpoint.url, endpoint.limited)
            }
            _ if model.endpoints.len() > 1 => format!(
                "{}: {} of {} slots in use, {} waiting",
                endpoint.url, endpoint.in_flight, endpoint.limit, endpoint.waiting
            ),
            _ => continue,
        };
        text.push('\n');
        text.push_str(&wrapped(&line, "  "));
    }
    text
}

fn errors(status: &Status) -> Option<String> {
    if status.errors.is_empty() {
        return None;
    }
    let mut text = "last errors of this attempt".to_owned();
    for error in status.errors.iter().take(ERRORS_SHOWN) {
        let meaning = match error.class.as_str() {
            "transient" => "waited out",
            "poison" => "given up",
            _ => "stops the run",
        };
        // The day is clear from the run.
        let time = error.last.get(11..19).unwrap_or(&error.last);
        let line =
            format!("{time} {}×, {meaning}: {} {}: {}", grouped(error.count), error.stage, error.label, error.text);
        text.push('\n');
        text.push_str(&wrapped(&format!("  {line}"), "    "));
    }
    if status.errors.len() > ERRORS_SHOWN {
        let _ = write!(text, "\n  and {} kinds more (--json)", status.errors.len() - ERRORS_SHOWN);
    }
    Some(text)
}

/// A name in at most so many characters.
fn cut(name: &str, width: usize) -> String {
    if name.chars().count() <= width { name.into() } else { name.chars().take(width - 1).chain(['…']).collect() }
}

/// Breaks a line at spaces so that it fits; what follows the first line is indented.
fn wrapped(text: &str, indent: &str) -> String {
    let lead = text.len() - text.trim_start().len();
    let mut out = text[..lead].to_owned();
    let (mut column, mut fresh) = (lead, true);
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if !fresh && column + 1 + width > WIDTH {
            let _ = write!(out, "\n{indent}");
            (column, fresh) = (indent.len(), true);
        }
        if !fresh {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
        fresh = false;
    }
    out
}

/// The sum of several states, as of the shards of one corpus: counts and rates add up, the longest estimate counts, and
/// its state's bottleneck is named. `None` without any. `names` are what the states are called, in the same order.
pub fn merge(names: &[String], all: &[Status]) -> Option<Status> {
    let (first, rest) = all.split_first()?;
    let mut sum = first.clone();
    if rest.is_empty() {
        return Some(sum);
    }
    sum.reason = reason(names, all);
    sum.budget_stopped = all.iter().any(Status::stopped_by_budget);
    sum.gpu = GpuStatus::of_all(all);
    for status in rest {
        sum.states += status.states;
        if sum.run_id != status.run_id {
            sum.run_id = "several runs".into();
        }
        sum.phase = worse(sum.phase, status.phase);
        if !sum.host.split(", ").any(|host| host == status.host) {
            sum.host = format!("{}, {}", sum.host, status.host);
        }
        sum.attempt = sum.attempt.max(status.attempt);
        sum.started = sum.started.min(status.started.clone());
        sum.elapsed_seconds = sum.elapsed_seconds.max(status.elapsed_seconds);
        sum.documents_found += status.documents_found;
        for stage in &status.stages {
            match sum.stages.iter_mut().find(|s| s.name == stage.name) {
                Some(into) => add_stage(into, stage),
                None => sum.stages.push(stage.clone()),
            }
        }
        add_model(&mut sum.model, &status.model);
        sum.writer = WriterStatus {
            busy: sum.writer.busy.max(status.writer.busy),
            commit_seconds: sum.writer.commit_seconds.max(status.writer.commit_seconds),
            waiting: sum.writer.waiting + status.writer.waiting,
        };
        for error in &status.errors {
            let same = |e: &&mut crate::telemetry::errors::ErrorSeen| {
                (&e.class, &e.stage, &e.label) == (&error.class, &error.stage, &error.label)
            };
            match sum.errors.iter_mut().find(same) {
                Some(into) => {
                    into.count += error.count;
                    if error.last > into.last {
                        (into.last, into.text) = (error.last.clone(), error.text.clone());
                    }
                }
                None => sum.errors.push(error.clone()),
            }
        }
    }
    sum.errors.sort_by(|a, b| b.last.cmp(&a.last));
    let running: Vec<&Status> = all.iter().filter(|s| matches!(s.phase, Phase::Running | Phase::Stopping)).collect();
    // The one that was silent for longest tells whether all are alive.
    let silent_longest = running.iter().map(|s| &s.updated).min();
    sum.updated.clone_from(silent_longest.or(all.iter().map(|s| &s.updated).max())?);
    let unknown = running.iter().any(|s| s.phase == Phase::Running && s.eta_seconds.is_none());
    let slowest = running
        .iter()
        .max_by(|a, b| a.eta_seconds.unwrap_or(f64::INFINITY).total_cmp(&b.eta_seconds.unwrap_or(f64::INFINITY)));
    sum.eta_seconds = if unknown { None } else { slowest.and_then(|s| s.eta_seconds) };
    sum.eta_interval_seconds = if unknown { None } else { interval(&running) };
    sum.bottleneck = slowest.and_then(|s| s.bottleneck.clone());
    sum.limited_by = limited_by(all);
    Some(sum)
}

/// Why a state stopped, a failure first, with its name, and how many more did.
fn reason(names: &[String], all: &[Status]) -> Option<String> {
    let stopped = || names.iter().zip(all).filter_map(|(name, status)| Some((name, status, status.reason.as_deref()?)));
    let failed = stopped().find(|(_, status, _)| status.phase == Phase::Failed);
    let (name, _, why) = failed.or_else(|| stopped().next())?;
    let more = match stopped().count() as u64 - 1 {
        0 => String::new(),
        more => format!("; {} stopped or failed too", counted(more, "state")),
    };
    Some(format!("{name}: {why}{more}"))
}

/// All end when the last does: both bounds are the largest there are.
fn interval(running: &[&Status]) -> Option<(f64, f64)> {
    let known: Option<Vec<(f64, f64)>> = running.iter().map(|s| s.eta_interval_seconds).collect();
    known?.into_iter().reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))
}

/// As long as one runs, they run; a failure of one that has stopped is the failure of all.
fn worse(a: Phase, b: Phase) -> Phase {
    let rank = |phase| match phase {
        Phase::Finished => 0,
        Phase::Interrupted => 1,
        Phase::Failed => 2,
        Phase::Stopping => 3,
        Phase::Running => 4,
    };
    if rank(b) > rank(a) { b } else { a }
}

fn add_stage(into: &mut StageStatus, from: &StageStatus) {
    let ended = |s: &StageStatus| (s.admitted - s.pending.min(s.admitted)) as f64;
    let (a, b) = (ended(into), ended(from));
    if a + b > 0.0 {
        into.mean_seconds = (into.mean_seconds * a + from.mean_seconds * b) / (a + b);
    }
    into.admitted += from.admitted;
    into.done += from.done;
    into.rejected += from.rejected;
    into.dead += from.dead;
    into.pending += from.pending;
    into.emitted += from.emitted;
    into.in_flight += from.in_flight;
    into.queued += from.queued;
    into.capacity += from.capacity;
    into.concurrency += from.concurrency;
    into.held_up += from.held_up;
    into.queue_full = into.queue_full.max(from.queue_full);
    into.per_minute += from.per_minute;
    into.per_minute_now += from.per_minute_now;
}

fn add_model(into: &mut ModelStatus, from: &ModelStatus) {
    if into.name != from.name {
        into.name = "several".into();
    }
    into.calls += from.calls;
    into.prompt_tokens += from.prompt_tokens;
    into.cached_tokens += from.cached_tokens;
    into.completion_tokens += from.completion_tokens;
    into.in_flight += from.in_flight;
    into.slots += from.slots;
    into.waiting += from.waiting;
    for endpoint in &from.endpoints {
        match into.endpoints.iter_mut().find(|e| e.url == endpoint.url) {
            Some(same) => {
                same.in_flight += endpoint.in_flight;
                same.limit += endpoint.limit;
                same.waiting += endpoint.waiting;
                same.limited += endpoint.limited;
                if endpoint.out_seconds > same.out_seconds {
                    same.out_seconds = endpoint.out_seconds;
                    same.reason.clone_from(&endpoint.reason);
                }
            }
            None => into.endpoints.push(endpoint.clone()),
        }
    }
}

/// Shares weighted by each attempt's time.
fn limited_by(all: &[Status]) -> Vec<LimitedBy> {
    let whole: f64 = all.iter().map(|s| s.elapsed_seconds).sum();
    let mut sums: Vec<LimitedBy> = Vec::new();
    for status in all {
        for limit in &status.limited_by {
            let share = limit.share * status.elapsed_seconds / whole.max(1e-9);
            match sums.iter_mut().find(|sum| sum.name == limit.name) {
                Some(sum) => sum.share += share,
                None => sums.push(LimitedBy { name: limit.name.clone(), share }),
            }
        }
    }
    sums.sort_by(|a, b| b.share.total_cmp(&a.share));
    sums
}

#[cfg(test)]
pub(super) mod tests;
