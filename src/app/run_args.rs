//! The command line of `qaflow run`.

use std::path::PathBuf;

use super::shard::ShardChoice;

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct RunArgs {
    /// The run's configuration, as in configs/quickstart.yaml
    pub config: PathBuf,
    /// Files and folders of .pdf, .md and .txt; by default those of the configuration
    pub input: Vec<PathBuf>,
    /// A file that lists documents, one path a line
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    pub manifest: Option<PathBuf>,
    /// Folder of the state; by default the configuration's
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Folder of the results; by default the configuration's
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Take at most so many documents, in the order of their names
    #[arg(long, value_name = "N", value_parser = super::at_least_one)]
    pub limit: Option<usize>,
    /// Take share I (from 0) of N of the corpus, by content, or with `auto` that of this task of a Slurm array; state and
    /// out then end in -1-of-N and so on unless they are named here
    #[arg(long, value_name = "I/N|auto", value_parser = ShardChoice::parse)]
    pub shard: Option<ShardChoice>,
    /// Run a state over another share than before; it then holds both
    #[arg(long)]
    pub change_shard: bool,
    /// Go on without the process that holds the state, which hangs or cannot be reached: the work goes on in a copy of
    /// the database, so that nothing it still writes is read
    #[arg(long)]
    pub take_over: bool,
    /// Raise the budget of GPU time by so many GPU-hours, for good, and go on
    #[arg(long, value_name = "HOURS", value_parser = gpu_hours)]
    pub extend_budget: Option<f64>,
    /// Override a configuration value; see below
    #[arg(long = "set", value_name = "KEY=VALUE", long_help = crate::config::OVERRIDES_HELP)]
    pub set: Vec<String>,
    /// Leave a benchmark record of this name in benchmarks/ once everything is done
    #[arg(long, value_name = "ID")]
    pub bench: Option<String>,
    /// Show the summary as JSON
    #[arg(long)]
    pub json: bool,
}

fn gpu_hours(text: &str) -> Result<f64, String> {
    let hours: Option<f64> = text.parse().ok();
    hours
        .filter(|hours| *hours > 0.0 && *hours <= 1e8)
        .ok_or_else(|| "give it as a number of GPU-hours above 0, as in 50 or 0.5".into())
}
