//! The benchmark book's commands: `qaflow bench record | show | ladder | project | compare | gate | report` and
//! `qaflow manifest ladder`.

mod assemble;
mod collect;
mod decide;
mod files;
pub mod ladder;
mod machine;
mod page;
pub mod record;
mod report;
mod show;
pub mod sweep;
mod sweep_report;
mod twins;

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Exit, UsageError};
use crate::bench::book::Book;
use crate::bench::ladder::Ladder;
use crate::bench::prices::Prices;

/// The file of prices unless another is named.
const DEFAULT_PRICES: &str = "configs/prices.yaml";

/// Where the records are.
#[derive(clap::Args, Clone, Debug)]
pub struct BookPlace {
    /// Folder of the records
    #[arg(long, value_name = "DIR", default_value = files::DEFAULT_DIR)]
    pub dir: PathBuf,
}

/// What figures about the whole corpus need besides the records.
#[derive(clap::Args, Clone, Debug)]
pub struct Outlook {
    /// A run's configuration, for its gate rules and its budget; without, the project's own rules hold
    pub config: Option<PathBuf>,
    /// Override a configuration value, as in `gate.min_accuracy=4.0`
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Documents of the whole corpus [default: those of the ladder that the records are rungs of]
    #[arg(long, value_name = "N")]
    pub documents: Option<u64>,
    /// The budget in GPU-hours [default: the configuration's]
    #[arg(long, value_name = "HOURS", value_parser = positive)]
    pub budget: Option<f64>,
    /// What restarts and waiting add, as a part [default: the configuration's, else 0.1]
    #[arg(long, value_name = "PART", value_parser = part)]
    pub overhead: Option<f64>,
    /// File of prices
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PRICES)]
    pub prices: PathBuf,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0).ok_or_else(|| "give a number above 0".into())
}

fn part(text: &str) -> Result<f64, String> {
    let good = |n: &f64| (0.0..=10.0).contains(n);
    text.parse().ok().filter(good).ok_or_else(|| "give a number from 0 to 10, as in 0.1".into())
}

/// The commands.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum BookCommand {
    /// Make the benchmark record of what a state's attempts did since its last record
    Record(record::RecordArgs),
    /// Show a record, or list all of them
    Show {
        /// Its id, or the beginning of it; by default all are listed
        id: Option<String>,
        /// Where the records are
        #[command(flatten)]
        place: BookPlace,
        /// Show the quick form
        #[arg(long)]
        quick: bool,
        /// Show JSON
        #[arg(long, conflicts_with = "quick")]
        json: bool,
    },
    /// Show which rungs of the ladder are done, and what each said
    Ladder {
        /// Folder of the ladder's manifests [default: that of the records' rungs]
        #[arg(long, value_name = "DIR")]
        manifests: Option<PathBuf>,
        /// Where the records are
        #[command(flatten)]
        place: BookPlace,
        /// Show JSON
        #[arg(long)]
        json: bool,
    },
    /// What the whole corpus will take: GPU-hours against the budget, and cost
    Project {
        /// What is asked
        #[command(flatten)]
        outlook: Outlook,
        /// Where the records are
        #[command(flatten)]
        place: BookPlace,
        /// Show JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare records; without ids, local against cluster
    Compare {
        /// Two or more ids, or beginnings of ids
        ids: Vec<String>,
        /// Where the records are
        #[command(flatten)]
        place: BookPlace,
        /// Show JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a grid of settings several times over, and say which is best and whether that is real
    Sweep(sweep::SweepArgs),
    /// Decide whether to go on to the next batch; exit code 0 is go, 4 is no-go
    Gate {
        /// What is asked
        #[command(flatten)]
        outlook: Outlook,
        /// Where the records are
        #[command(flatten)]
        place: BookPlace,
        /// The record that is judged, by the beginning of its id; by default the last
        #[arg(long, value_name = "ID")]
        record: Option<String>,
        /// Show JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the report of all records
    Report {
        /// What is asked
        #[command(flatten)]
        outlook: Outlook,
        /// Where the records are
        #[command(flatten)]
        place: BookPlace,
        /// The report
        #[arg(long, value_name = "FILE", default_value = "BENCHMARKS.md")]
        out: PathBuf,
        /// The page of plots [default: report.html beside BENCHMARKS.md, else the report's name with .html]
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// What people write: lessons and questions, put into the report as they are [default: NOTES.md in the folder
        /// of the records]
        #[arg(long, value_name = "FILE")]
        notes: Option<PathBuf>,
    },
}

/// Runs a command.
///
/// # Errors
/// Whatever keeps it from its answer.
pub async fn run(command: BookCommand) -> anyhow::Result<Exit> {
    match command {
        BookCommand::Record(args) => record::record(&args).await,
        BookCommand::Show { id, place, quick, json } => show::show(&place.dir, id.as_deref(), quick, json),
        BookCommand::Ladder { manifests, place, json } => ladder::show(&place.dir, manifests.as_deref(), json),
        BookCommand::Project { outlook, place, json } => decide::project(&place.dir, &outlook, json),
        BookCommand::Compare { ids, place, json } => show::compare(&place.dir, &ids, json),
        BookCommand::Sweep(args) => sweep::sweep(&args).await,
        BookCommand::Gate { outlook, place, record, json } => {
            decide::gate(&place.dir, &outlook, record.as_deref(), json)
        }
        BookCommand::Report { outlook, place, out, html, notes } => {
            // A report under another name has plots under another name.
            let usual = out.file_name().is_some_and(|name| name == "BENCHMARKS.md");
            let html = html
                .unwrap_or_else(|| if usual { out.with_file_name("report.html") } else { out.with_extension("html") });
            report::report(&place.dir, &outlook, &out, &html, notes.as_deref())
        }
    }
}

/// The ladder that records of the book are rungs of, if its file can be read.
fn ladder_of(book: &Book) -> Option<Ladder> {
    let file = book.rungs().last()?.record.rung.as_ref()?.ladder.clone();
    read_ladder(Path::new(&file)).ok()
}

fn read_ladder(file: &Path) -> anyhow::Result<Ladder> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {}: make a ladder with `qaflow manifest ladder`", file.display()))?;
    Ladder::read(&file.display().to_string(), &text).map_err(|error| UsageError(error).into())
}

/// The prices of a file; why there are none, if the default file is not there.
///
/// # Errors
/// If the file is there and wrong, or another than the default is named and not there.
fn prices_or_why(file: &Path) -> anyhow::Result<Result<Prices, String>> {
    if file == Path::new(DEFAULT_PRICES) && !file.exists() {
        return Ok(Err(format!("{DEFAULT_PRICES} is not there: give a file of prices with --prices")));
    }
    read_prices(file).map(Ok)
}

fn read_prices(file: &Path) -> anyhow::Result<Prices> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {}: give a file of prices with --prices", file.display()))?;
    Prices::read(&file.display().to_string(), &text).map_err(|error| UsageError(error.to_string()).into())
}
