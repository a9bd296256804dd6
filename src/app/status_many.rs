//! `qaflow status` over several states: one line each, then the sum. Needs no lease, and no database.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::budget::{expected, hours};
use super::export::print;
use super::liveness::{Life, Liveness};
use super::progress::Status;
use super::screen::{merge, render};
use super::states::{Shares, shares};
use super::status::{self, look};
use super::{Exit, counted, shard, spoken};
use crate::model::projection::BudgetState;
use crate::sources::Shard;

/// One state and what it says of itself, or why it says nothing.
struct Line {
    dir: PathBuf,
    share: Option<Shard>,
    status: Result<(Status, Liveness), String>,
}

/// Shows the states; with `watch` again whenever they say something new, until no run is under way.
///
/// # Errors
/// If the states do not belong together.
pub async fn status(dirs: &[PathBuf], json: bool, watch: bool) -> anyhow::Result<Exit> {
    let mut shown = None;
    loop {
        let Shares { states, missing, mixed } = shares(dirs)?;
        let lines: Vec<Line> = states.into_iter().map(|(dir, share)| line(dir, share)).collect();
        let known = || lines.iter().filter_map(|line| Some((line, line.status.as_ref().ok()?)));
        let names: Vec<String> = known().map(|(line, _)| line.dir.display().to_string()).collect();
        let (statuses, lives): (Vec<Status>, Vec<Liveness>) = known().map(|(_, known)| known.clone()).unzip();
        let total = merge(&names, &statuses).zip(Liveness::of_all(&lives));
        // The ages always differ: what counts is what the states say.
        let said = (statuses, lives.iter().map(|one| one.life).collect::<Vec<Life>>());
        if shown.as_ref() != Some(&said) {
            let total = total.as_ref();
            print(&if json { as_json(&lines, &missing, total)? } else { text(&lines, &missing, &mixed, total) });
        }
        if !watch || lives.iter().all(|one| one.over) {
            return Ok(Exit::Done);
        }
        shown = Some(said);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn line(dir: PathBuf, share: Option<Shard>) -> Line {
    let status = look(&dir).map_err(|error| error.to_string());
    Line { dir, share, status }
}

fn as_json(lines: &[Line], missing: &[Shard], total: Option<&(Status, Liveness)>) -> anyhow::Result<String> {
    let share = |share: Shard| serde_json::json!({"index": share.index(), "count": share.count()});
    let known = |(status, liveness): &(Status, Liveness)| status::as_json(status, *liveness);
    let states: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| {
            Ok(serde_json::json!({
                "state": line.dir.display().to_string(), "share": line.share.map(share),
                "status": line.status.as_ref().ok().map(known).transpose()?, "error": line.status.as_ref().err(),
            }))
        })
        .collect::<anyhow::Result<_>>()?;
    let missing: Vec<serde_json::Value> = missing.iter().map(|m| share(*m)).collect();
    let total = total.map(known).transpose()?;
    Ok(serde_json::json!({"states": states, "missing": missing, "total": total}).to_string())
}

fn text(lines: &[Line], missing: &[Shard], mixed: &[String], total: Option<&(Status, Liveness)>) -> String {
    let width = lines.iter().map(|line| line.dir.as_os_str().len()).max().unwrap_or(0);
    let mut text = String::new();
    for Line { dir, status, .. } in lines {
        let _ = match status {
            Ok((status, liveness)) => {
                writeln!(text, "{:<width$}  {}", dir.display().to_string(), in_a_line(status, *liveness))
            }
            Err(error) => writeln!(text, "{:<width$}  no status: {error}", dir.display().to_string()),
        };
    }
    for share in missing {
        let _ = writeln!(text, "{} is missing: no state given holds it", shard::words(*share));
    }
    for remark in mixed {
        let _ = writeln!(text, "{remark}");
    }
    if let Some((total, liveness)) = total {
        let one = lines.iter().find(|line| line.status.is_ok()).filter(|_| total.states == 1);
        let place = one.map_or_else(String::new, |line| line.dir.display().to_string());
        let _ = write!(text, "\n{}", render(total, &place, *liveness));
    }
    text
}

fn in_a_line(status: &Status, liveness: Liveness) -> String {
    let running = liveness.life == Life::Running;
    let phase = match liveness.life {
        Life::Silent => format!("no sign of life for {}", spoken(liveness.age.unwrap_or_default())),
        Life::Ended(_) if status.stopped_by_budget() => "stopped by its budget".into(),
        Life::Ended(ending) => ending.name().into(),
        Life::Running => format!("{:?}", status.phase).to_lowercase(),
    };
    let pending: u64 = status.stages.iter().map(|stage| stage.pending).sum();
    let pairs = status.stages.last().map_or(0, |stage| stage.emitted);
    let eta = status.eta_seconds.filter(|_| running);
    let budget = status.gpu.budget.as_ref().filter(|budget| budget.state != BudgetState::Within);
    let budget = budget.map_or_else(String::new, |budget| {
        let expected = expected(budget.used_gpu_hours, status.gpu.projection.as_ref());
        let (state, limit) = (budget.state.as_str(), hours(budget.gpu_hours));
        format!(", budget {limit} GPU-hours: {state}, {} expected", hours(expected))
    });
    let reason = status.reason.as_ref().filter(|_| !running);
    format!(
        "{phase} on {} (process {}): {}, {} pending{}{budget}{}",
        status.host,
        status.pid,
        counted(pairs, "pair"),
        counted(pending, "item"),
        eta.map_or_else(String::new, |eta| format!(", about {} to go", spoken(Duration::from_secs_f64(eta)))),
        reason.map_or_else(String::new, |reason| format!(" ({reason})"))
    )
}
