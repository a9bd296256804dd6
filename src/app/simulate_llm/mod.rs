//! `qaflow simulate-llm`: an OpenAI-compatible server with slots, latency and faults, for rehearsals and tests.
//!
//! It answers like vLLM where a client can tell the difference (endpoints, error bodies, metric names, a prefix cache
//! in blocks of 16 tokens, requests aborted when the connection drops), and its answers are plausible question-answer
//! pairs cut from the source text of the prompt. All that it decides follows from `--seed` and the requests, so the
//! same run meets the same answers and the same faults again.
//!
//! ```text
//! qaflow simulate-llm --port 8000 --slots 64 --latency-ms 300 --fault-429 0.05 --log requests.jsonl
//! curl -s localhost:8000/v1/models
//! curl -s localhost:8000/v1/chat/completions -H 'content-type: application/json' -H 'x-request-id: a1' \
//!   -d '{"model":"simulated","messages":[{"role":"user","content":"hello"}]}'
//! curl -s localhost:8000/sim/stats
//! curl -s localhost:8000/sim/faults -d '{"outage_for":5,"outage_kind":"refuse"}'   # dead for five seconds, from now
//! curl -s localhost:8000/sim/faults -d '{"fault_429":0.2,"retry_after_ms":250}'    # replaces all fault options
//! curl -s -X POST localhost:8000/sim/reset
//! ```

mod answers;
mod answers_judge;
mod cache;
mod chat;
mod faults;
mod log;
mod schema;
mod sentences;
mod server;
mod stats;
#[cfg(test)]
mod tests;
mod wire;

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub use faults::{FaultOptions, OutageKind};
pub use server::{SimHandle, serve};
pub use stats::{Outcome, StatsReport};

/// Serve an OpenAI-compatible API with slots, latency and faults, for rehearsals and tests
#[derive(clap::Args, Clone, Debug)]
pub struct SimulateArgs {
    /// Port on 127.0.0.1; 0 picks a free one
    #[arg(long, default_value_t = 8000)]
    pub port: u16,

    /// Write the port to this file once the server listens (whole or not at all)
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,

    /// How the server behaves.
    #[command(flatten)]
    pub options: SimOptions,
}

/// How the server behaves.
#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct SimOptions {
    /// Name of the model served; requests for any other get 404
    #[arg(long, default_value = "simulated")]
    pub model: String,

    /// Requests served at the same time; the others queue, first come first served
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub slots: u32,

    /// Requests that may queue before the server answers 503 [default: no limit, as in vLLM]
    #[arg(long, value_name = "N")]
    pub max_queue: Option<u32>,

    /// Service time of a request in milliseconds; 0 answers at once
    #[arg(long, value_name = "MS", default_value_t = 300.0, value_parser = non_negative)]
    pub latency_ms: f64,

    /// Share by which the service time varies, uniformly both ways, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = share)]
    pub jitter: f64,

    /// Milliseconds added for each token of the answer
    #[arg(long, value_name = "MS", default_value_t = 0.0, value_parser = non_negative)]
    pub ms_per_token: f64,

    /// Adds the time to read the prompt tokens that are not in the prefix cache; 0 adds none
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = non_negative)]
    pub prefill_tokens_per_second: f64,

    /// Requests in service above which the service time grows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub knee: Option<u32>,

    /// How it grows: times 1 + F × (in service − N) / N; at 1 the throughput stays flat above the knee, beyond 1 it falls
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = non_negative)]
    pub knee_factor: f64,

    /// Longest prompt and answer together, in tokens of about 4 characters; longer requests get 400
    #[arg(long, value_name = "TOKENS", default_value_t = 32_768, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_model_len: u64,

    /// Blocks of 16 tokens that the prefix cache holds; 0 switches it off
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub cache_blocks: u32,

    /// Key that requests must carry as `Authorization: Bearer KEY` [default: none]
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,

    /// Ignore `response_format` and answer in prose, like a server without structured output
    #[arg(long)]
    pub no_schema: bool,

    /// Share of generated pairs with a planted flaw (a wrong number, an invented quote, …), 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.08, value_parser = share)]
    pub bad_pairs: f64,

    /// How much of its usual share of doubts the model shows without a reason in the text (questions that it cannot
    /// answer, pairs that it finds weak), 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    pub doubts: f64,

    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 42)]
    pub seed: u64,

    /// Append a line of JSON for each request that arrives and each that ends
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,

    /// Which faults to play.
    #[command(flatten, next_help_heading = "Faults")]
    pub faults: FaultOptions,
}

impl Default for SimOptions {
    /// The defaults of the command line.
    fn default() -> Self {
        Self {
            model: "simulated".into(),
            slots: 64,
            max_queue: None,
            latency_ms: 300.0,
            jitter: 0.2,
            ms_per_token: 0.0,
            prefill_tokens_per_second: 0.0,
            knee: None,
            knee_factor: 1.0,
            max_model_len: 32_768,
            cache_blocks: 65_536,
            api_key: None,
            no_schema: false,
            bad_pairs: 0.08,
            doubts: 1.0,
            seed: 42,
            log: None,
            faults: FaultOptions::default(),
        }
    }
}

/// Serves on the loopback interface until SIGTERM or SIGINT, after printing
/// `listening on http://127.0.0.1:PORT/v1` to stdout.
///
/// # Errors
/// The port is taken, or the log or the port file cannot be written.
pub async fn run(args: SimulateArgs) -> anyhow::Result<()> {
    args.options.faults.check().map_err(anyhow::Error::msg)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await.with_context(|| {
        format!("cannot listen on 127.0.0.1:{}: choose another --port, or 0 for any free one", args.port)
    })?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let handle = serve(listener, args.options, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await?;
    let address = handle.address();
    if let Some(file) = &args.port_file {
        write_whole(file, &format!("{}\n", address.port()))
            .with_context(|| format!("cannot write the port to {}", file.display()))?;
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on http://{address}/v1")
        .and_then(|()| stdout.flush())
        .context("cannot write stdout")?;
    drop(stdout);
    handle.join().await;
    Ok(())
}

/// Writes a file so that a reader sees all of it or nothing.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(text.as_bytes())?;
    temporary.persist(file)?;
    Ok(())
}

/// Reads a number from 0 up.
fn non_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("give a number of 0 or more".into()),
    }
}

/// Reads a number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("give a number from 0 to 1".into()),
    }
}

/// A number of 64 bits that follows from a seed, a purpose and a content, by `splitmix64` (Steele, Lea and Flood 2014).
fn mix(seed: u64, purpose: u64, content: u64) -> u64 {
    let step = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    step(step(step(seed) ^ purpose) ^ content)
}

/// The same as a number from 0 up to, but not including, 1.
fn draw(seed: u64, purpose: u64, content: u64) -> f64 {
    (mix(seed, purpose, content) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The last character boundary at or before byte `at`.
fn char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
