//! `qaflow status` over several states: one line each, then the sum. Needs no lease, and no database.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::export::print;
use super::progress::{Phase, Status};
use super::screen::{SILENT_AFTER, merge, render};
use super::states::{Shares, shares};
use super::status::{age, read};
use super::{Exit, grouped, shard, spoken};
use crate::sources::Shard;

/// One state and what it says of itself, or why it says nothing.
struct Line {
    dir: PathBuf,
    share: Option<Shard>,
    status: Result<Status, String>,
}

/// Shows the states, again and again while any runs if `watch` says so.
///
/// # Errors
/// If the states do not belong together.
pub async fn status(dirs: &[PathBuf], json: bool, watch: bool) -> anyhow::Result<Exit> {
    loop {
        let Shares { states, missing, mixed } = shares(dirs)?;
        let lines: Vec<Line> = states
            .into_iter()
            .map(|(dir, share)| Line { status: read(&dir).map_err(|error| error.to_string()), dir, share })
            .collect();
        let known: Vec<Status> = lines.iter().filter_map(|line| line.status.as_ref().ok().cloned()).collect();
        let total = merge(&known);
        print(&if json {
            as_json(&lines, &missing, total.as_ref())
        } else {
            text(&lines, &missing, &mixed, total.as_ref())
        });
        let busy = known.iter().any(|status| matches!(status.phase, Phase::Running | Phase::Stopping));
        if !watch || !busy {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn as_json(lines: &[Line], missing: &[Shard], total: Option<&Status>) -> String {
    let share = |share: Shard| serde_json::json!({"index": share.index(), "count": share.count()});
    let states: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| {
            serde_json::json!({
                "state": line.dir.display().to_string(), "share": line.share.map(share),
                "status": line.status.as_ref().ok(), "error": line.status.as_ref().err(),
            })
        })
        .collect();
    let missing: Vec<serde_json::Value> = missing.iter().map(|m| share(*m)).collect();
    serde_json::json!({"states": states, "missing": missing, "total": total}).to_string()
}

fn text(lines: &[Line], missing: &[Shard], mixed: &[String], total: Option<&Status>) -> String {
    let width = lines.iter().map(|line| line.dir.as_os_str().len()).max().unwrap_or(0);
    let mut text = String::new();
    for Line { dir, status, .. } in lines {
        let _ = match status {
            Ok(status) => writeln!(text, "{:<width$}  {}", dir.display().to_string(), in_a_line(status)),
            Err(error) => writeln!(text, "{:<width$}  no status: {error}", dir.display().to_string()),
        };
    }
    for share in missing {
        let _ = writeln!(text, "{} is missing: no state given holds it", shard::words(*share));
    }
    for remark in mixed {
        let _ = writeln!(text, "{remark}");
    }
    if let Some(total) = total {
        let _ = write!(text, "\n{}", render(total, "the states given", age(total)));
    }
    text
}

fn in_a_line(status: &Status) -> String {
    let running = matches!(status.phase, Phase::Running | Phase::Stopping);
    let phase = match age(status).filter(|age| running && *age > SILENT_AFTER) {
        Some(age) => format!("no sign of life for {}", spoken(age)),
        None => format!("{:?}", status.phase).to_lowercase(),
    };
    let pending: u64 = status.stages.iter().map(|stage| stage.pending).sum();
    let pairs = status.stages.last().map_or(0, |stage| stage.emitted);
    let eta = status.eta_seconds.filter(|_| running);
    format!(
        "{phase} on {} (process {}): {} pairs, {} items pending{}",
        status.host,
        status.pid,
        grouped(pairs),
        grouped(pending),
        eta.map_or_else(String::new, |eta| format!(", about {} to go", spoken(Duration::from_secs_f64(eta))))
    )
}
