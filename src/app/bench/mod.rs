//! `qaflow bench flow`: how close the flow comes to a bare client loop against the same server, and what it costs.
//!
//! Both are measured in one command, alternating, against `simulate-llm` in a process of its own, so that a busy or
//! slow machine tells on both alike.

mod bare;
mod corpus;
mod flow;
mod process;
mod report;
mod simulator;
mod window;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use self::report::{Report, SettingReport};
use self::simulator::Simulator;
use super::Exit;
use super::export::print;

/// The standard settings: slots and latency in milliseconds.
const STANDARD: [(u32, f64); 3] = [(64, 300.0), (256, 300.0), (64, 0.0)];
/// Calls that a chunk of this corpus causes: one to generate, then up to three (round trip, judge, marks) for each of
/// five pairs that no check refuses before.
const CALLS_A_CHUNK: f64 = 13.0;
/// More calls in a second than the flow can make; sizes the corpus at zero latency.
const FASTEST: f64 = 10_000.0;
/// The corpus is so much longer than the measurement, at least.
const MARGIN: f64 = 1.3;

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct FlowArgs {
    /// Slots of the simulated server, and requests that each client keeps with it
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4_096), conflicts_with = "all")]
    pub slots: u32,

    /// Service time of the simulated server in milliseconds; 0 shows the most that flow and store can do
    #[arg(long, value_name = "MS", default_value_t = 300.0, value_parser = milliseconds, conflicts_with = "all")]
    pub latency_ms: f64,

    /// Run the three standard settings: 64 slots and 256 slots with 300 ms, and zero latency
    #[arg(long)]
    pub all: bool,

    /// Length of each measurement in seconds; a quarter of it is ramp-up and does not count
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,

    /// How often bare loop and flow take turns
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,

    /// Documents of the corpus, each of about 39 chunks [default: enough for the measurement]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub documents: Option<u32>,

    /// Put corpus and states into a folder below this one; choose a disk like that of your real states
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Keep that folder
    #[arg(long)]
    pub keep: bool,

    /// Show JSON
    #[arg(long)]
    pub json: bool,
}

fn milliseconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && (0.0..=60_000.0).contains(&value) => Ok(value),
        _ => Err("give milliseconds from 0 to 60000".into()),
    }
}

/// Measures and shows. A missed target is shown, and no error: it says as much about the machine.
///
/// # Errors
/// If something cannot be started, fails, or is over too soon to be measured.
pub async fn flow(args: &FlowArgs) -> anyhow::Result<Exit> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    // Dropping the measurement kills its processes and removes its folder.
    tokio::select! {
        measured = measure(args) => {
            let report = measured?;
            print(&if args.json { serde_json::to_string(&report)? } else { report.table() });
            Ok(Exit::Done)
        }
        _ = terminate.recv() => bail!("stopped by SIGTERM before it was done"),
        _ = interrupt.recv() => bail!("stopped by SIGINT before it was done"),
    }
}

async fn measure(args: &FlowArgs) -> anyhow::Result<Report> {
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut folder = tempfile::Builder::new()
        .prefix("qaflow-bench-")
        .tempdir_in(&parent)
        .with_context(|| format!("cannot make a folder in {}", parent.display()))?;
    if args.keep {
        folder.disable_cleanup(true);
        tracing::info!("kept: {}", folder.path().display());
    }
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        began: super::now(),
        processor: process::processor(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        load_before: process::load(),
        remarks: Vec::new(),
        settings: Vec::new(),
    };
    if process::in_memory(folder.path()) {
        report.remarks.push(format!(
            "{} is in memory, where nothing waits for a disk: name a folder on a disk with --dir",
            parent.display()
        ));
    }
    if report.load_before.is_some_and(|load| load > report.cores as f64 / 2.0) {
        report.remarks.push("the machine was busy with something else: the figures are too low".into());
    }
    let settings = if args.all { STANDARD.to_vec() } else { vec![(args.slots, args.latency_ms)] };
    for (n, (slots, latency_ms)) in settings.into_iter().enumerate() {
        let place = folder.path().join(n.to_string());
        let setting = measure_setting(args, &place, slots, latency_ms).await?;
        if setting.accounts.iter().any(|account| account.served != account.journaled) {
            report
                .remarks
                .push(format!("{slots} slots × {latency_ms} ms: the server gave other answers than the journal holds"));
        }
        if args.documents.is_none() && setting.accounts.iter().any(|account| account.ran_out) {
            report.remarks.push(format!(
                "{slots} slots × {latency_ms} ms: the corpus ran out, so that the last quarter does not count; give it \
                 more --documents"
            ));
        }
        report.settings.push(setting);
        if !args.keep {
            // The next setting does not need its disk.
            std::fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
        }
    }
    Ok(report)
}

async fn measure_setting(args: &FlowArgs, place: &Path, slots: u32, latency_ms: f64) -> anyhow::Result<SettingReport> {
    let corpus_dir = place.join("corpus");
    std::fs::create_dir_all(&corpus_dir).with_context(|| format!("cannot make {}", corpus_dir.display()))?;
    let documents = args.documents.map_or_else(|| enough(slots, latency_ms, args.seconds), |n| n as usize);
    corpus::write(&corpus_dir, documents).context("cannot write the corpus")?;
    let simulator = Simulator::start(place, slots, latency_ms).await?;
    let config = flow::configure(place, &simulator.base_url(), slots)?;
    let scratch = place.join("prepared");
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let requests = Arc::new(bare::prepare(&config, &scratch).await?);

    let length = Duration::from_secs(args.seconds);
    let (mut bare, mut flows) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        tracing::info!("{slots} slots × {latency_ms} ms, round {round} of {}: bare loop", args.rounds);
        bare.push(bare::measure(&simulator, &config, Arc::clone(&requests), slots, length).await?);
        tracing::info!("{slots} slots × {latency_ms} ms, round {round} of {}: flow", args.rounds);
        flows.push(flow::measure(&simulator, &config, &place.join(format!("state-{round}")), length).await?);
    }
    Ok(SettingReport::new(slots, latency_ms, args.seconds as f64, documents, &bare, &flows))
}

/// Documents that the flow does not finish in the time.
fn enough(slots: u32, latency_ms: f64, seconds: u64) -> usize {
    let most = if latency_ms > 0.0 { f64::from(slots) * 1e3 / latency_ms } else { FASTEST };
    let calls = most.min(FASTEST) * seconds as f64 * MARGIN;
    (calls / CALLS_A_CHUNK / corpus::CHUNKS_A_DOCUMENT as f64).ceil() as usize + 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_outlasts_the_measurement() {
        // 64 slots × 300 ms for 20 s are 4,267 calls, 328 chunks.
        assert_eq!(enough(64, 300.0, 20), 16);
        assert!(enough(256, 300.0, 20) > 45 && enough(64, 0.0, 20) > 500);
    }
}
