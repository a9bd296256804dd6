//! `qaflow status`: what a run is doing, from its status file; it never needs the lease.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::export::print;
use super::liveness::{Life, Liveness};
use super::progress::{STATUS_FILE, STATUS_FORMAT, Status};
use super::screen::render;
use super::state::resolve;
use super::{Exit, UsageError};

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
        let status = read(&dir)?;
        let liveness = Liveness::of(&dir, &status);
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
    let value: serde_json::Value = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; the next `run` writes it anew", path.display()))?;
    let format = value["format"].as_u64().unwrap_or(0) as u32;
    if format > STATUS_FORMAT {
        anyhow::bail!("{} has format {format}, newer than this program reads: use the newer qaflow", path.display());
    }
    serde_json::from_value(value)
        .with_context(|| format!("{} is damaged; the next `run` writes it anew", path.display()))
}
