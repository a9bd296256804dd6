//! What a run is doing, as a value: taken once a second, written to the state's `status.json`, shown on the terminal,
//! in the job log and by `qaflow status`.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{grouped, spoken};
use crate::engine::Progress;
use crate::llm::endpoints::EndpointStatus;
use crate::model::StoreError;
use crate::model::plan::Plan;
use crate::model::store::Store;

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
    /// Why it stopped, if it did.
    pub reason: Option<String>,
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
    /// Items ended a minute, in this attempt.
    pub per_minute: f64,
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
pub fn take(
    plan: &Plan,
    store: &dyn Store,
    progress: &Progress,
    attempt: &Attempt,
    model: ModelStatus,
    phase: Phase,
) -> Result<Status, StoreError> {
    let elapsed = attempt.clock.elapsed().as_secs_f64().max(0.001);
    let mut stages = Vec::new();
    for (at, node) in plan.nodes.iter().enumerate() {
        let counts = store.counts(&plan.key(at))?;
        let live = &progress.stages[at];
        let ended = live.ended.load(Ordering::Relaxed);
        stages.push(StageStatus {
            name: node.name.clone(),
            admitted: counts.admitted,
            done: counts.done,
            rejected: counts.rejected,
            dead: counts.dead,
            pending: counts.pending(),
            emitted: counts.emitted,
            in_flight: live.in_flight.load(Ordering::Relaxed) as u64,
            queued: live.queued.load(Ordering::Relaxed) as u64,
            capacity: live.capacity.load(Ordering::Relaxed) as u64,
            per_minute: ended as f64 * 60.0 / elapsed,
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
    Ok(Status {
        format: STATUS_FORMAT,
        run_id: plan.run_id.clone(),
        phase,
        reason: None,
        pid: std::process::id(),
        host: attempt.host.clone(),
        attempt: attempt.number,
        started: attempt.started.clone(),
        updated: super::now(),
        elapsed_seconds: (elapsed * 10.0).round() / 10.0,
        documents_found: attempt.documents_found,
        eta_seconds: (phase == Phase::Running).then(|| eta(plan, &stages, unseen)).flatten(),
        stages,
        model,
    })
}

/// Seconds to the end: each stage's remaining items, what the stages above will still send it included, over its rate
/// in this attempt; the slowest stage counts. What a stage sends is taken from what it sent so far.
fn eta(plan: &Plan, stages: &[StageStatus], unseen_documents: u64) -> Option<f64> {
    let mut remaining = vec![0.0; stages.len()];
    let mut slowest: f64 = 0.0;
    for (at, node) in plan.nodes.iter().enumerate() {
        let mut coming = if node.from_source { unseen_documents as f64 } else { 0.0 };
        for from in &node.inputs {
            let above = &stages[*from];
            let ended = above.admitted - above.pending;
            if remaining[*from] > 0.0 && ended == 0 {
                return None;
            }
            coming += remaining[*from] * above.emitted as f64 / (ended.max(1)) as f64;
        }
        remaining[at] = stages[at].pending as f64 + coming;
        if remaining[at] >= 1.0 {
            if stages[at].per_minute <= 0.0 {
                return None;
            }
            slowest = slowest.max(remaining[at] * 60.0 / stages[at].per_minute);
        }
    }
    Some(slowest.round())
}

impl Status {
    /// Writes it to the state, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, state: &Path) -> std::io::Result<()> {
        let path = state.join(STATUS_FILE);
        let temporary = state.join(".status.json.partial");
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        std::fs::write(&temporary, json)?;
        std::fs::rename(&temporary, &path)
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
        format!(
            "{} · model {} in flight, {} answers · {}",
            stages.join(" · "),
            self.model.in_flight,
            grouped(self.model.calls),
            self.eta_text()
        )
    }

    /// When it will be done, in words.
    pub fn eta_text(&self) -> String {
        match self.phase {
            Phase::Running => self.eta_seconds.map_or_else(
                || "time to the end not known yet".into(),
                |seconds| format!("about {} to go", spoken(Duration::from_secs_f64(seconds.max(0.0)))),
            ),
            Phase::Stopping => "stopping".into(),
            Phase::Finished => "finished".into(),
            Phase::Interrupted => "interrupted: the same command resumes".into(),
            Phase::Failed => "failed".into(),
        }
    }

    /// The table of stages.
    pub fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!(
            "{:<12} {:>9} {:>9} {:>7} {:>9} {:>9} {:>10} {:>8}\n",
            "stage", "done", "rejected", "dead", "waiting", "in flight", "items/min", "mean s"
        );
        for s in &self.stages {
            let _ = writeln!(
                text,
                "{:<12} {:>9} {:>9} {:>7} {:>9} {:>9} {:>10.1} {:>8.2}",
                s.name,
                grouped(s.done),
                grouped(s.rejected),
                grouped(s.dead),
                grouped(s.pending.saturating_sub(s.in_flight)),
                grouped(s.in_flight),
                s.per_minute,
                s.mean_seconds
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PayloadKind;
    use crate::model::plan::{PLAN_FORMAT, PlanNode};

    fn plan() -> Plan {
        let node = |name: &str, inputs: Vec<usize>| PlanNode {
            name: name.into(),
            accepts: PayloadKind::Chunk,
            emits: PayloadKind::Chunk,
            fingerprint: "00".repeat(32),
            from_source: inputs.is_empty(),
            inputs,
            consumers: vec![],
        };
        Plan {
            format: PLAN_FORMAT,
            pipeline: "p".into(),
            run_id: "r".into(),
            config_file: "c".into(),
            config: serde_json::Value::Null,
            out: "o".into(),
            provider: "openai".into(),
            model: "m".into(),
            max_failure_ratio: 0.05,
            near_duplicates: crate::model::near_duplicates::NearDuplicateParams::default(),
            nodes: vec![node("a", vec![]), node("b", vec![0])],
        }
    }

    #[test]
    fn the_eta_counts_what_is_still_to_come_from_above() {
        let a = StageStatus { admitted: 4, done: 2, pending: 2, emitted: 20, per_minute: 60.0, ..Default::default() };
        let b = StageStatus { admitted: 20, done: 10, pending: 10, per_minute: 30.0, ..Default::default() };
        // 2 pending and 6 unseen documents above send 80 more; 90 items at 30 a minute.
        assert_eq!(eta(&plan(), &[a.clone(), b.clone()], 6), Some(180.0));
        assert_eq!(eta(&plan(), &[StageStatus { per_minute: 0.0, ..a }, b], 6), None);
    }
}
