//! `qaflow status`: what a run is doing, from its status file; it never needs the lease. And the display during `run`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::export::print;
use super::progress::{Phase, STATUS_FILE, STATUS_FORMAT, Status};
use super::state::resolve;
use super::{Exit, UsageError, grouped, spoken};

/// A run whose status is older than this shows no sign of life.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(30);

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

/// Shows the status.
///
/// # Errors
/// If the state has no status file or a newer one.
pub async fn status(args: &StatusArgs) -> anyhow::Result<Exit> {
    let dir = resolve(args.state.as_deref())?;
    loop {
        let status = read(&dir)?;
        if args.json {
            print(&serde_json::to_string(&status)?);
        } else {
            if args.watch && std::io::stdout().is_terminal() {
                print("\x1b[2J\x1b[H");
            }
            print(&render(&status, &dir, age(&status)));
        }
        if !args.watch || !matches!(status.phase, Phase::Running | Phase::Stopping) {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

pub(super) fn read(dir: &Path) -> anyhow::Result<Status> {
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

/// How long ago the status was written.
pub(super) fn age(status: &Status) -> Option<Duration> {
    let written: jiff::Timestamp = status.updated.parse().ok()?;
    Duration::try_from(jiff::Timestamp::now().duration_since(written)).ok()
}

fn render(status: &Status, dir: &Path, age: Option<Duration>) -> String {
    let mut head = match status.phase {
        Phase::Running | Phase::Stopping if age.is_some_and(|age| age > SILENT_AFTER) => format!(
            "no sign of life for {}: process {} on {} was probably killed; the same `qaflow run` resumes",
            spoken(age.unwrap_or_default()),
            status.pid,
            status.host
        ),
        Phase::Running => format!("running on {} (process {}), {}", status.host, status.pid, status.eta_text()),
        _ => status.eta_text(),
    };
    if let Some(reason) = &status.reason {
        head = format!("{head} ({reason})");
    }
    let model = &status.model;
    let cache = if model.cached_tokens > 0 && model.prompt_tokens > 0 {
        format!(
            ", {:.0}% of prompt tokens from the server's cache",
            100.0 * model.cached_tokens as f64 / model.prompt_tokens as f64
        )
    } else {
        String::new()
    };
    let mut outages = String::new();
    for endpoint in &model.endpoints {
        if let (Some(seconds), Some(reason)) = (endpoint.out_seconds, &endpoint.reason) {
            let out = spoken(Duration::from_secs_f64(seconds));
            let _ = write!(outages, "\nOUT for {out}: {} ({reason}); it is probed, and the flow waits", endpoint.url);
        }
    }
    format!(
        "{}: {head}\nstate {}, attempt {}, {} in this attempt\n\n{}\nmodel {}: {} of {} slots in use, {} waiting; {} answers, {} prompt and {} completion tokens{cache}{outages}",
        status.run_id,
        dir.display(),
        status.attempt,
        spoken(Duration::from_secs_f64(status.elapsed_seconds)),
        status.table(),
        model.name,
        model.in_flight,
        model.slots,
        model.waiting,
        grouped(model.calls),
        grouped(model.prompt_tokens),
        grouped(model.completion_tokens),
    )
}

/// The progress bar of a run on a terminal.
pub(super) struct Display {
    bar: ProgressBar,
}

impl Display {
    /// A display if standard error is a terminal; a job log gets lines instead.
    pub(super) fn for_run() -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::new(0);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        let style = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} items  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        Some(Self { bar })
    }

    /// Shows a status.
    pub(super) fn show(&self, status: &Status) {
        let admitted: u64 = status.stages.iter().map(|s| s.admitted).sum();
        let pending: u64 = status.stages.iter().map(|s| s.pending).sum();
        self.bar.set_length(admitted);
        self.bar.set_position(admitted - pending);
        self.bar.set_message(status.line());
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
