//! `qaflow review`: people rate a sample of the pairs on a page of this machine, with the source beside each.

pub mod agreement;
mod passage;
pub mod ratings;
pub mod report;
pub mod sample;
mod server;
mod sheet;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio::net::TcpListener;

use self::ratings::{Ratings, is_reviewer};
use self::server::Session;
use super::export::print;
use super::{Exit, UsageError};
use crate::engine::Stop;
use crate::model::ids::to_hex;

/// `qaflow review`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ReviewArgs {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    action: Option<ReviewAction>,
}

#[derive(Args, Debug)]
struct ServeArgs {
    #[command(flatten)]
    out: OutOption,
    #[command(flatten)]
    sample: SampleOptions,
    /// Port of 127.0.0.1 to serve the page at; 0: one that is free
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[derive(Args, Debug)]
struct OutOption {
    /// Folder of the results; by default the only one below out/
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct SampleOptions {
    /// Who reviews: letters, digits and `._-`; by default the user's name
    #[arg(long, value_name = "NAME")]
    reviewer: Option<String>,
    /// How many pairs, spread over question types, marks and documents
    #[arg(long, default_value_t = 20, value_name = "N")]
    sample: usize,
    /// Which pairs; reviewers with the same seed see the same ones, and a larger sample holds the smaller
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
}

#[derive(Debug, Subcommand)]
enum ReviewAction {
    /// Show what people found, and how far they agree with each other and with the judge
    Report {
        #[command(flatten)]
        out: OutOption,
        /// Show JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the sample as CSV, with the ratings given so far, to rate in a spreadsheet
    Export {
        #[command(flatten)]
        out: OutOption,
        #[command(flatten)]
        sample: SampleOptions,
        /// Write here instead of to standard output
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Read ratings from CSV; if any row is wrong, none is taken
    Import {
        /// The CSV file, with the columns that `export` writes
        file: PathBuf,
        #[command(flatten)]
        out: OutOption,
        /// Whose ratings these are, in place of the column `reviewer`
        #[arg(long, value_name = "NAME")]
        reviewer: Option<String>,
    },
}

/// Reviews, reports, exports or imports.
///
/// # Errors
/// If there is no dataset, a name is wrong, or a file cannot be read or written.
pub async fn review(args: ReviewArgs) -> anyhow::Result<Exit> {
    match args.action {
        None => serve(args.serve).await,
        Some(ReviewAction::Report { out, json }) => {
            let out = results(out.out.as_deref())?;
            let report = report::report(&out, &out.join("dataset.jsonl"))?;
            print(&if json { serde_json::to_string_pretty(&report)? } else { report.text() });
            Ok(Exit::Done)
        }
        Some(ReviewAction::Export { out, sample, to }) => {
            let out = results(out.out.as_deref())?;
            let reviewer = reviewer(sample.reviewer)?;
            let (pairs, _) = sample::draw(&out.join("dataset.jsonl"), sample.sample, sample.seed)?;
            let held = ratings::read_all(&out)?.remove(&reviewer).unwrap_or_default();
            let rows: Vec<_> =
                pairs.iter().map(|row| (reviewer.as_str(), row, ratings::of(&held, row).cloned())).collect();
            let mut csv = Vec::new();
            sheet::write(&mut csv, &rows)?;
            match to {
                Some(path) => std::fs::write(&path, csv).with_context(|| format!("cannot write {}", path.display()))?,
                None => print(String::from_utf8_lossy(&csv).trim_end()),
            }
            Ok(Exit::Done)
        }
        Some(ReviewAction::Import { file, out, reviewer }) => {
            let out = results(out.out.as_deref())?;
            if let Some(name) = &reviewer {
                checked_reviewer(name)?;
            }
            let (total, new) = sheet::import(&out, &out.join("dataset.jsonl"), &file, reviewer.as_deref())?;
            print(&format!("{total} ratings read, {new} of them new"));
            Ok(Exit::Done)
        }
    }
}

/// What the dataset card says of the ratings beside `out` about the pairs of `dataset`; `None` if there are none, or if
/// they cannot be read, which is said.
pub(super) fn card_section(out: &Path, dataset: &Path) -> Option<String> {
    if !ratings::folder(out).is_dir() {
        return None;
    }
    match report::report(out, dataset) {
        Ok(report) => report.markdown(),
        Err(error) => {
            tracing::warn!("the card says nothing of the review: {error:#}");
            None
        }
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<Exit> {
    let out = results(args.out.out.as_deref())?;
    let reviewer = reviewer(args.sample.reviewer)?;
    let stop = Stop::default();
    super::signals::listen(&stop).context("cannot listen for signals")?;
    let (rows, total) = sample::draw(&out.join("dataset.jsonl"), args.sample.sample, args.sample.seed)?;
    if rows.is_empty() {
        return Err(UsageError(format!("{} holds no pairs to review", out.join("dataset.jsonl").display())).into());
    }
    let ratings = Ratings::open(&out, &reviewer)?;
    let documents = out.join("documents");
    let known = pages(&documents);
    let pages = rows.iter().map(|row| known.get(&row.source_sha256).copied().unwrap_or(0)).collect();
    let pairs = rows.into_iter().map(|row| (passage::source(&documents, &row), row)).map(|(s, row)| (row, s)).collect();
    let listener = TcpListener::bind(("127.0.0.1", args.port))
        .await
        .with_context(|| format!("cannot listen at 127.0.0.1:{}: give another --port", args.port))?;
    let port = listener.local_addr().context("cannot tell the port")?.port();
    let token = token()?;
    print(&format!("Review at http://127.0.0.1:{port}/{token}/"));
    tracing::info!("whoever has this link can rate as {reviewer}; every change is saved at once; Ctrl-C ends");
    let session = Session { token, port, reviewer, pairs, pages, total, ratings: Mutex::new(ratings) };
    server::serve(listener, Arc::new(session), stop.wait()).await;
    Ok(Exit::Done)
}

/// The results folder that a command means: the one named, else the only one below `out/`.
fn results(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let dataset = |dir: &Path| dir.join("dataset.jsonl").is_file();
    if let Some(dir) = named {
        if !dataset(dir) {
            let message =
                format!("{} holds no dataset.jsonl: give --out the folder that `qaflow export` wrote", dir.display());
            return Err(UsageError(message).into());
        }
        return Ok(dir.into());
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("out")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| dataset(path))
        .collect();
    found.sort();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(UsageError("no results were found below out/: name their folder with --out".into()).into()),
        _ => {
            let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
            Err(UsageError(format!("there are several results, name one with --out: {}", names.join(", "))).into())
        }
    }
}

fn reviewer(named: Option<String>) -> anyhow::Result<String> {
    let name =
        named.or_else(|| std::env::var("USER").ok().filter(|name| is_reviewer(name))).unwrap_or("reviewer".into());
    checked_reviewer(&name)?;
    Ok(name)
}

fn checked_reviewer(name: &str) -> anyhow::Result<()> {
    if is_reviewer(name) {
        return Ok(());
    }
    Err(UsageError(format!("--reviewer must be letters, digits and `._-`, at most 64, not `{name}`")).into())
}

/// Pages of each document, by its hash, from the index; empty without one.
fn pages(documents: &Path) -> std::collections::BTreeMap<String, u32> {
    #[derive(serde::Deserialize)]
    struct Entry {
        sha256: String,
        pages: u32,
    }
    let index = std::fs::read_to_string(documents.join("index.jsonl")).unwrap_or_default();
    let entries = index.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
    entries.map(|entry| (entry.sha256, entry.pages)).collect()
}

/// 192 bits from the system's generator, which nobody guesses.
fn token() -> anyhow::Result<String> {
    let mut bytes = [0; 24];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(to_hex(&bytes))
}
