//! What a run is doing, as a value: taken once a second, written to the state's `status.json`, shown on the terminal,
//! in the job log and by `qaflow status`.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bottleneck::{Bottleneck, BottleneckKind};
use super::eta::{self, StageWork};
use super::sampling::Sampled;
use super::{grouped, spoken};
use crate::engine::Progress;
use crate::llm::endpoints::EndpointStatus;
use crate::model::StoreError;
use crate::model::plan::{Plan, PlanNode};
use crate::model::store::Store;
use crate::telemetry::errors::ErrorSeen;

/// The newest format of a status file that this program reads.
pub const STATUS_FORMAT: u32 = 1;
/// The status file's name within a state.
pub const STATUS_FILE: &str = "status.json";

/// How an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// At work.
    Running,
    /// Asked to stop; finishing what is in flight.
    Stopping,
    /// Every item has ended.
    Finished,
    /// Stopped; the same command resumes.
    Interrupted,
    /// Ended by an error.
    Failed,
}

/// What a run is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The format of this file.
    pub format: u32,
    /// The run's name.
    pub run_id: String,
    /// How the attempt stands.
    pub phase: Phase,
    /// Why it stopped, if it did; of several states the first that did, named, and how many more did.
    pub reason: Option<String>,
    /// Whether the used-up budget stopped it; of several states, whether that of one did.
    #[serde(default)]
    pub budget_stopped: bool,
    /// The process.
    pub pid: u32,
    /// The machine.
    pub host: String,
    /// The attempt's number, from 1.
    pub attempt: u64,
    /// When the attempt began (RFC 3339).
    pub started: String,
    /// When this was written (RFC 3339).
    pub updated: String,
    /// Seconds since the attempt began.
    pub elapsed_seconds: f64,
    /// Documents found in the input; 0 until they are counted.
    pub documents_found: u64,
    /// The stages in the order of the graph.
    pub stages: Vec<StageStatus>,
    /// The model.
    pub model: ModelStatus,
    /// Estimated seconds to the end, if anything can be said.
    pub eta_seconds: Option<f64>,
    /// GPU time and its budget.
    #[serde(default)]
    pub gpu: super::gpu_status::GpuStatus,
    /// The interval in which they lie with a probability of 90%, once enough was seen; see [`super::eta`].
    #[serde(default)]
    pub eta_interval_seconds: Option<(f64, f64)>,
    /// What slows the run down now, by name and with the reason.
    #[serde(default)]
    pub bottleneck: Option<Bottleneck>,
    /// What slowed this attempt down, with the share of its time, the largest first.
    #[serde(default)]
    pub limited_by: Vec<LimitedBy>,
    /// The one writer.
    #[serde(default)]
    pub writer: WriterStatus,
    /// The last errors of this attempt by kind, the latest first.
    #[serde(default)]
    pub errors: Vec<ErrorSeen>,
    /// How many states this sums up; 1 for one.
    #[serde(default = "one")]
    pub states: u32,
}

fn one() -> u32 {
    1
}

/// What slowed an attempt down for some of its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitedBy {
    /// The stage, the server's address, `disk` or `source`.
    pub name: String,
    /// The share of the attempt's time, 0 to 1.
    pub share: f64,
}

/// What the one writer of the store is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WriterStatus {
    /// Share of the last minute that it spent on commits, 0 to 1.
    pub busy: f64,
    /// Mean seconds of a commit in the last minute.
    pub commit_seconds: f64,
    /// Requests that wait for their commit.
    pub waiting: u64,
}

/// What a stage is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageStatus {
    /// Its name.
    pub name: String,
    /// Items that ever entered.
    pub admitted: u64,
    /// Items done.
    pub done: u64,
    /// Items that a check refused.
    pub rejected: u64,
    /// Items given up.
    pub dead: u64,
    /// Items still to do, those in flight included.
    pub pending: u64,
    /// Children made.
    pub emitted: u64,
    /// Items in its hands.
    pub in_flight: u64,
    /// Items in its channel.
    pub queued: u64,
    /// Size of its channel.
    pub capacity: u64,
    /// Items that it may have in its hands at once.
    #[serde(default)]
    pub concurrency: u64,
    /// Of those in its hands: items that are done and wait for room in the channels below.
    #[serde(default)]
    pub held_up: u64,
    /// Share of the last minute in which its channel was full, 0 to 1.
    #[serde(default)]
    pub queue_full: f64,
    /// Items ended a minute, in this attempt.
    pub per_minute: f64,
    /// Items ended a minute, in the last minute.
    #[serde(default)]
    pub per_minute_now: f64,
    /// Mean seconds an item takes, in this attempt.
    pub mean_seconds: f64,
}

/// What the model is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// Answers received over all attempts.
    pub calls: u64,
    /// Prompt tokens of those.
    pub prompt_tokens: u64,
    /// Those of the prompt tokens that came from the server's prefix cache.
    pub cached_tokens: u64,
    /// Completion tokens.
    pub completion_tokens: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests that may be under way at once.
    pub slots: u64,
    /// Requests that wait for a slot.
    pub waiting: u64,
    /// The places where it answers.
    #[serde(default)]
    pub endpoints: Vec<EndpointStatus>,
}

/// What is known about the attempt besides the store.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The machine.
    pub host: String,
    /// The attempt's number.
    pub number: u64,
    /// When it began (RFC 3339).
    pub started: String,
    /// Since then.
    pub clock: std::time::Instant,
    /// Documents found in the input.
    pub documents_found: u64,
}

/// Takes the status of a run.
///
/// # Errors
/// If the store cannot be read.
pub(super) fn take(
    plan: &Plan,
    store: &dyn Store,
    progress: &Progress,
    attempt: &Attempt,
    model: ModelStatus,
    phase: Phase,
    sampled: &Sampled,
) -> Result<Status, StoreError> {
    let elapsed = attempt.clock.elapsed().as_secs_f64().max(0.001);
    let load = sampled.last_minute();
    let mut stages = Vec::new();
    for (at, node) in plan.nodes.iter().enumerate() {
        let counts = store.counts(&plan.key(at))?;
        let live = &progress.stages[at];
        let ended = live.ended.load(Ordering::Relaxed);
        let (queued, capacity) = live.queue();
        stages.push(StageStatus {
            name: node.name.clone(),
            admitted: counts.admitted,
            done: counts.done,
            rejected: counts.rejected,
            dead: counts.dead,
            pending: counts.pending(),
            emitted: counts.emitted,
            in_flight: live.in_flight.load(Ordering::Relaxed) as u64,
            queued: queued as u64,
            capacity: capacity as u64,
            concurrency: live.concurrency.load(Ordering::Relaxed) as u64,
            held_up: live.sending.load(Ordering::Relaxed) as u64,
            queue_full: load.stages.get(at).map_or(0.0, |stage| rounded(stage.queue_full)),
            per_minute: rounded(ended as f64 * 60.0 / elapsed),
            per_minute_now: rounded(sampled.per_minute(at)),
            mean_seconds: if ended == 0 {
                0.0
            } else {
                live.busy_micros.load(Ordering::Relaxed) as f64 / 1e6 / ended as f64
            },
        });
    }
    let totals = store.model_counts()?;
    let model = ModelStatus {
        calls: totals.calls,
        prompt_tokens: totals.usage.prompt_tokens,
        cached_tokens: totals.usage.cached_tokens,
        completion_tokens: totals.usage.completion_tokens,
        ..model
    };
    let unseen = attempt.documents_found.saturating_sub(progress.documents_seen.load(Ordering::Relaxed));
    let unseen = if progress.source_ended.load(Ordering::Relaxed) { 0 } else { unseen };
    let running = phase == Phase::Running;
    let estimate = running.then(|| eta::estimate(&work(plan, &stages, progress, unseen), &sampled.history)).flatten();
    let limited_by = sampled.limited_by().into_iter().map(|(name, share)| LimitedBy { name, share: rounded(share) });
    Ok(Status {
        format: STATUS_FORMAT,
        run_id: plan.run_id.clone(),
        phase,
        reason: None,
        budget_stopped: false,
        pid: std::process::id(),
        host: attempt.host.clone(),
        attempt: attempt.number,
        started: attempt.started.clone(),
        updated: super::now(),
        elapsed_seconds: (elapsed * 10.0).round() / 10.0,
        documents_found: attempt.documents_found,
        eta_seconds: estimate.map(|estimate| estimate.seconds.round()),
        eta_interval_seconds: estimate.and_then(|e| e.interval).map(|(low, high)| (low.round(), high.round())),
        bottleneck: running.then(|| sampled.bottleneck()),
        limited_by: limited_by.collect(),
        writer: WriterStatus {
            busy: rounded(load.writer_busy),
            commit_seconds: (load.commit_seconds * 1e4).round() / 1e4,
            waiting: progress.commits.waiting.load(Ordering::Relaxed) as u64,
        },
        errors: progress.errors.recent(),
        states: 1,
        stages,
        model,
        gpu: super::gpu_status::GpuStatus::default(),
    })
}

/// To two digits behind the point.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// What is known of the stages for the estimate of the time to the end.
fn work(plan: &Plan, stages: &[StageStatus], progress: &Progress, unseen_documents: u64) -> Vec<StageWork> {
    let of = |(at, node): (usize, &PlanNode)| {
        let (stage, live) = (&stages[at], &progress.stages[at]);
        let n = live.ended.load(Ordering::Relaxed) as f64;
        let mean = live.children.load(Ordering::Relaxed) as f64 / n.max(1.0);
        let squares = live.children_squared.load(Ordering::Relaxed) as f64;
        StageWork {
            inputs: node.inputs.clone(),
            pending: stage.pending,
            unseen: if node.from_source { unseen_documents } else { 0 },
            ended: stage.admitted - stage.pending,
            emitted: stage.emitted,
            fan_variance: (n >= 2.0).then(|| (squares / n - mean * mean).max(0.0) * n / (n - 1.0)),
            mean_rate: stage.per_minute / 60.0,
        }
    };
    plan.nodes.iter().enumerate().map(of).collect()
}

impl Status {
    /// Writes it to the state, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, state: &Path) -> std::io::Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        super::write_whole(&state.join(STATUS_FILE), &json)
    }

    /// One line for a job log.
    pub fn line(&self) -> String {
        let stages: Vec<String> = self
            .stages
            .iter()
            .map(|s| {
                let failed = if s.dead > 0 { format!(" ({} dead)", s.dead) } else { String::new() };
                format!("{} {}/{}{failed}", s.name, s.admitted - s.pending, s.admitted)
            })
            .collect();
        let limited = self.bottleneck.as_ref().filter(|b| b.kind != BottleneckKind::None);
        let limited = limited.map_or_else(String::new, |found| format!(" · limited by {}", found.name));
        format!(
            "{} · model {} in flight, {} answers{limited} · {}",
            stages.join(" · "),
            self.model.in_flight,
            grouped(self.model.calls),
            self.eta_text()
        )
    }

    /// Whether it has ended, and its used-up budget is why.
    pub fn stopped_by_budget(&self) -> bool {
        self.phase == Phase::Interrupted && self.budget_stopped
    }

    /// When it will be done, in words.
    pub fn eta_text(&self) -> String {
        let said = |seconds: f64| spoken(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
        match self.phase {
            Phase::Running => match (self.eta_seconds, self.eta_interval_seconds) {
                (None, _) => "time to the end not known yet".into(),
                (Some(seconds), Some((low, high))) if said(low) != said(high) => {
                    format!("about {} to go (90%: {} to {})", said(seconds), said(low), said(high))
                }
                (Some(seconds), _) => format!("about {} to go", said(seconds)),
            },
            Phase::Stopping => "stopping".into(),
            Phase::Finished => "finished".into(),
            Phase::Interrupted if self.stopped_by_budget() && self.states > 1 => {
                "interrupted, at least one state by its budget".into()
            }
            Phase::Interrupted if self.stopped_by_budget() => "stopped by its budget".into(),
            Phase::Interrupted => "interrupted: the same command resumes".into(),
            Phase::Failed => "failed".into(),
        }
    }
}
