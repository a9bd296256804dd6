//! The real flow under measurement: `qaflow run` as a process of its own, all five stages, every item on disk.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::process;
use super::simulator::Simulator;
use super::window::{self, Steady};
use crate::app::Exit;
use crate::app::state::{State, StateOptions};
use crate::model::store::Store as _;

/// The five stages as the pipeline that is shipped has them.
const PIPELINE: &str = "name: bench
stages:
  extract: {kind: extract, input: source}
  chunk: {kind: chunk, input: extract, size: 1500, unit: characters}
  generate: {kind: generate, input: chunk, questions_per_chunk: 5}
  validate: {kind: validate, input: generate}
  score: {kind: score, input: validate, keep: {accuracy: 4, relevance: 4, clarity: 3}}
";
/// How long the flow may take to stop: what is in flight is answered, committed and the store closed.
const STOPPING: Duration = Duration::from_secs(60);

/// What one run of the flow came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// The steady part.
    pub(super) steady: Steady,
    /// The most memory it had resident, in bytes.
    pub(super) peak_rss: u64,
    /// Answers that the server gave.
    pub(super) served: u64,
    /// Answers that are in the flow's journal.
    pub(super) journaled: u64,
    /// Whether the corpus was done before the time was over.
    pub(super) ran_out: bool,
}

/// Writes the run file and the pipeline into `folder`, beside the corpus.
pub(super) fn configure(folder: &Path, base_url: &str, slots: u32) -> anyhow::Result<PathBuf> {
    let config = format!(
        "pipeline: pipeline.yaml\ninput: [corpus]\nstate: state\nout: out\nllm:\n  provider: openai\n  endpoints: \
         [{{base_url: \"{base_url}\"}}]\n  model: simulated\n  concurrency: {slots}\nshutdown: {{grace: 30s}}\n\
         max_failure_ratio: 1.0\n"
    );
    let path = folder.join("run.yaml");
    std::fs::write(folder.join("pipeline.yaml"), PIPELINE)
        .and_then(|()| std::fs::write(&path, config))
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    Ok(path)
}

/// Runs the flow for a time, or until its corpus is done, on a state of its own.
///
/// # Errors
/// If it fails, with the end of its log.
pub(super) async fn measure(
    simulator: &Simulator,
    config: &Path,
    state: &Path,
    length: Duration,
) -> anyhow::Result<Measured> {
    simulator.reset().await?;
    let log_path = state.with_extension("log");
    let log = std::fs::File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut child = Command::new(std::env::current_exe().context("cannot find this program's own file")?)
        .arg("run")
        .arg(config)
        .arg("--state")
        .arg(state)
        .arg("--out")
        .arg(state.with_extension("out"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start `qaflow run`")?;
    let pid = child.id().context("`qaflow run` ended at once")?;

    let began = Instant::now();
    let mut samples = Vec::new();
    let mut peak_rss = 0;
    let mut ended = None;
    while began.elapsed() < length && ended.is_none() {
        tokio::time::sleep(window::EVERY).await;
        ended = child.try_wait()?;
        if ended.is_none() {
            samples.extend(window::sample(simulator, pid).await?);
            peak_rss = process::peak_rss(pid).unwrap_or(peak_rss);
        }
    }
    let ran_out = ended.is_some();
    let status = match ended {
        Some(status) => status,
        None => stop(&mut child, pid).await?,
    };
    if !status.code().is_some_and(|code| [Exit::Done, Exit::Interrupted].iter().any(|e| i32::from(e.code()) == code)) {
        let said = std::fs::read_to_string(&log_path).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        bail!("the flow ended with {status}; it said last: {}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    let served = simulator.stats().await?.answered();
    let journaled = State::open(state, StateOptions::default())?.store.model_counts()?.calls;
    Ok(Measured { steady: Steady::of(&samples, ran_out)?, peak_rss, served, journaled, ran_out })
}

/// Asks it to stop as a job scheduler would, and waits.
async fn stop(child: &mut Child, pid: u32) -> anyhow::Result<ExitStatus> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("the flow's process id is out of range")?;
    // It has not been waited for, so the id is still its own, even if it has ended just now.
    kill_process(pid, Signal::TERM).context("cannot stop the flow")?;
    match tokio::time::timeout(STOPPING, child.wait()).await {
        Ok(status) => Ok(status?),
        Err(_) => bail!("the flow has not stopped {} s after SIGTERM", STOPPING.as_secs()),
    }
}
