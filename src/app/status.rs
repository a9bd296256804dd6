//! `qaflow status`: what a run is doing, from its status file; it never needs the lease.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::export::print;
use super::liveness::{Life, Liveness};
use super::progress::{Phase, STATUS_FILE, STATUS_FORMAT, Status};
use super::screen::render;
use super::state::resolve;
use super::{Exit, UsageError, budget};

/// How often a watched status is shown again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct StatusArgs {
    /// The state's folder.
    pub state: Option<PathBuf>,
    /// Whether it is shown as JSON.
    pub json: bool,
    /// Whether it is shown again and again.
    pub watch: bool,
}

/// Shows the status; watched, until the run has ended, was killed, or its lease has run out.
///
/// # Errors
/// If the state has no status file or a newer one.
pub async fn status(args: &StatusArgs) -> anyhow::Result<Exit> {
    let dir = resolve(args.state.as_deref())?;
    let live = args.watch && !args.json && std::io::stdout().is_terminal();
    let mut shown: Option<(Status, Life)> = None;
    loop {
        let (status, liveness) = look(&dir)?;
        // A log is not filled with the same screen.
        let new = live || shown.as_ref().is_none_or(|(before, life)| (before, *life) != (&status, liveness.life));
        if new && args.json {
            print(&as_json(&status, liveness)?.to_string());
        } else if new {
            let text = render(&status, &dir.display().to_string(), liveness);
            print(&if live { redrawn(&text, shown.is_none()) } else { text });
        }
        if !args.watch || liveness.over {
            return Ok(Exit::Done);
        }
        shown = Some((status, liveness.life));
        tokio::time::sleep(AGAIN).await;
    }
}

/// Reads the status file of a state and finds out how its run stands.
///
/// # Errors
/// As [`read`].
pub(super) fn look(dir: &Path) -> anyhow::Result<(Status, Liveness)> {
    let mut status = read(dir)?;
    let liveness = Liveness::of(dir, &status);
    if liveness.over {
        status.gpu.let_go();
    }
    Ok((status, liveness))
}

/// The status file, and how its run stands.
pub(super) fn as_json(status: &Status, liveness: Liveness) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(status)?;
    liveness.add_to(&mut value);
    Ok(value)
}

/// A text that takes the place of the one before: from the upper left corner on, each line cleared behind its end, and
/// what is left of the screen at the end. The screen is cleared as a whole only once, so that nothing flickers.
fn redrawn(text: &str, first: bool) -> String {
    let lines = text.replace('\n', "\x1b[K\n");
    format!("{}\x1b[H{lines}\x1b[K\n\x1b[J", if first { "\x1b[2J" } else { "" })
}

/// Reads the status file of a state.
///
/// # Errors
/// If there is none, or it is damaged or newer than this program reads.
pub fn read(dir: &Path) -> anyhow::Result<Status> {
    let path = dir.join(STATUS_FILE);
    let text = std::fs::read(&path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            return UsageError(format!(
                "{} holds no state of a run: give --state the folder that `qaflow run` was given",
                dir.display()
            ));
        }
        UsageError(format!("{} cannot be read: {error}", path.display()))
    })?;
    let mut value: serde_json::Value = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; the next `run` writes it anew", path.display()))?;
    let format = value["format"].as_u64().unwrap_or(0) as u32;
    if format > STATUS_FORMAT {
        anyhow::bail!("{} has format {format}, newer than this program reads: use the newer qaflow", path.display());
    }
    let of_before = value.get("budget_stopped").is_none();
    as_written_now(&mut value);
    let mut status: Status = serde_json::from_value(value)
        .with_context(|| format!("{} is damaged; the next `run` writes it anew", path.display()))?;
    if of_before && status.phase == Phase::Finished {
        // Its budget's state was that of the last projection.
        status.gpu.finish();
    }
    Ok(status)
}

/// Says what files of earlier programs say in other words as this one does.
fn as_written_now(status: &mut serde_json::Value) {
    let Some(status) = status.as_object_mut() else { return };
    if !status.contains_key("budget_stopped") {
        let reason = status.get("reason").and_then(serde_json::Value::as_str);
        let stopped = reason.is_some_and(budget::is_why);
        status.insert("budget_stopped".into(), stopped.into());
    }
    let Some(gpu) = status.get_mut("gpu").and_then(serde_json::Value::as_object_mut) else { return };
    if !gpu.contains_key("energy_joules_attempt") {
        // What was called so was the attempt's, and the run's where that was the first.
        let attempt = gpu.remove("energy_joules").unwrap_or_default();
        if gpu.get("attempts").and_then(serde_json::Value::as_u64) == Some(1) {
            gpu.insert("energy_joules".into(), attempt.clone());
        }
        gpu.insert("energy_joules_attempt".into(), attempt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::projection::BudgetState;

    #[test]
    fn a_finished_run_of_before_is_held_against_what_it_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut status = crate::app::screen::tests::shard(20.0, None, BudgetState::Over);
        status.phase = Phase::Finished;
        let mut value = serde_json::to_value(&status).unwrap();
        let state = |value: &serde_json::Value| {
            std::fs::write(dir.path().join(STATUS_FILE), value.to_string()).unwrap();
            read(dir.path()).unwrap().gpu.budget.unwrap().state.as_str()
        };
        assert_eq!(state(&value), "over", "what this program writes stays as it is");
        value.as_object_mut().unwrap().remove("budget_stopped");
        assert_eq!(state(&value), "within");
    }

    #[test]
    fn what_a_file_of_before_says_is_understood() {
        let read = |reason: serde_json::Value, attempts: u64| {
            let mut old = serde_json::json!({"reason": reason, "gpu": {"attempts": attempts, "energy_joules": 5.0}});
            as_written_now(&mut old);
            let gpu = &old["gpu"];
            (old["budget_stopped"].as_bool(), gpu["energy_joules"].as_f64(), gpu["energy_joules_attempt"].as_f64())
        };
        let why = "the budget of GPU time is used up: 100 of 100 GPU-hours over 3 attempts (to go on, …)";
        assert_eq!(read(why.into(), 1), (Some(true), Some(5.0), Some(5.0)));
        assert_eq!(read("stopped by SIGTERM".into(), 2), (Some(false), None, Some(5.0)));
        assert_eq!(read(serde_json::Value::Null, 1).0, Some(false));
        let mut without = serde_json::json!({"reason": null});
        as_written_now(&mut without);
        assert!(without.get("gpu").is_none(), "{without}");
        // What this program writes stays as it is, whatever the reason's words.
        let written = serde_json::json!({
            "reason": why, "budget_stopped": false, "gpu": {"energy_joules": 9.0, "energy_joules_attempt": null},
        });
        let mut same = written.clone();
        as_written_now(&mut same);
        assert_eq!(same, written);
    }
}
