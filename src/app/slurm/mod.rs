//! `qaflow slurm`: the batch job written from the configuration, and sent; and what a run knows of the job it is in.

pub mod job;
mod script;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;

use self::script::{Job, render};
use super::places::Places;
use super::run::RunArgs;
use super::shard::ShardChoice;
use super::{Exit, UsageError, build};
use crate::config::SlurmConfig;
use crate::sources::Shard;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct SlurmArgs {
    /// The run file.
    pub config: PathBuf,
    /// `--set`: for the script and for the run in it.
    pub set: Vec<String>,
    /// Further arguments of `qaflow run`, passed on as they are.
    pub run: Vec<String>,
    /// The whole command line of the run in the job, `set` included.
    pub parsed: RunArgs,
}

/// Writes the script to `out`, or to standard output.
///
/// # Errors
/// Faults of the configuration, or a file that cannot be written.
pub fn script(args: &SlurmArgs, out: Option<&std::path::Path>) -> anyhow::Result<Exit> {
    let (job, doubt) = job(args)?;
    warn_of(doubt);
    let text = render(&job);
    match out {
        None => {
            let _ = std::io::stdout().write_all(text.as_bytes());
        }
        Some(path) => {
            make_log_folder(&job)?;
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            super::export::print(&format!("written: {}; send it with: sbatch {0}", path.display()));
        }
    }
    Ok(Exit::Done)
}

/// Sends the script to Slurm and prints the job's id; with `dry_run` it only shows what it would send. What the run in
/// the job would refuse is not sent, unless `unchecked`.
///
/// # Errors
/// Faults of the configuration, of inputs and folders; no `sbatch`; what `sbatch` says.
pub fn submit(args: &SlurmArgs, dry_run: bool, unchecked: bool) -> anyhow::Result<Exit> {
    let (job, doubt) = job(args)?;
    let text = render(&job);
    if let Some(doubt) = doubt.as_ref().filter(|_| !dry_run && !unchecked) {
        return Err(UsageError(format!(
            "{doubt}\nnothing was sent: the run in the job would not begin. If only the nodes see those places, give \
             --unchecked"
        ))
        .into());
    }
    warn_of(doubt);
    if dry_run {
        super::export::print(&format!("# would be sent to: sbatch --parsable\n{text}"));
        return Ok(Exit::Done);
    }
    make_log_folder(&job)?;
    let mut child = std::process::Command::new("sbatch")
        .arg("--parsable")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            UsageError(format!(
                "sbatch cannot be started ({error}): run this where Slurm is, or write the script with `qaflow slurm \
                 script` and send it from there"
            ))
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says why itself.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().context("sbatch cannot be waited for")?;
    anyhow::ensure!(
        output.status.success(),
        "sbatch refused the job: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let id = String::from_utf8_lossy(&output.stdout);
    // With several clusters it says `id;cluster`.
    super::export::print(id.trim().split(';').next().unwrap_or_default());
    Ok(Exit::Done)
}

/// Slurm drops what a job writes into a folder that is not there, and says so nowhere.
fn make_log_folder(job: &Job) -> anyhow::Result<()> {
    let Some(folder) = job.log_folder() else { return Ok(()) };
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder of slurm.log, {}", folder.display()))
}

/// What the run in the job would refuse, as far as this machine sees it.
fn warn_of(doubt: Option<anyhow::Error>) {
    if let Some(doubt) = doubt {
        tracing::warn!("seen from here, the run in the job would not begin: {doubt}");
    }
}

/// The share that the run in a job has, for its folders' names: of an array, that of the first task.
fn share_of(choice: Option<ShardChoice>, slurm: &SlurmConfig) -> anyhow::Result<Option<Shard>> {
    let is_array = slurm.options.iter().any(|option| option.starts_with("--array") || option.starts_with("-a"));
    match choice {
        None if slurm.shards > 1 => {}
        None => return Ok(None),
        Some(ShardChoice::Given(share)) => return Ok(Some(share)),
        Some(ShardChoice::Auto) if is_array => {}
        Some(ShardChoice::Auto) => {
            return Err(UsageError(
                "--shard auto takes its share from the Slurm array that it runs in, and this job is none: set \
                 slurm.shards to the number of shares instead, or name the share, as in --shard 0/8"
                    .into(),
            )
            .into());
        }
    }
    Ok(Shard::new(0, slurm.shards))
}

/// The job, and why the run in it would not begin, if it would not.
fn job(args: &SlurmArgs) -> anyhow::Result<(Job, Option<anyhow::Error>)> {
    // With the values that are given to the run alone too: what is wrong with them is better found now than in the job.
    let loaded = build::load(&args.config, &args.parsed.set)?;
    if let Some(id) = &args.parsed.bench {
        super::book::record::check_name(id)?;
    }
    // A job of an array has a share, a state and results of its own.
    let RunArgs { shard, state, out, .. } = &args.parsed;
    let given = [("--shard", shard.is_some()), ("--state", state.is_some()), ("--out", out.is_some())];
    if loaded.run.slurm.shards > 1
        && let Some((name, _)) = given.iter().find(|(_, given)| *given)
    {
        return Err(UsageError(format!(
            "{name} cannot be given to the jobs of an array (slurm.shards: {}): each has a share, state and results of \
             its own",
            loaded.run.slurm.shards
        ))
        .into());
    }
    let share = share_of(args.parsed.shard, &loaded.run.slurm)?;
    let doubt = Places::find(&args.parsed, &loaded, share).err();
    let config = args.config.canonicalize().with_context(|| format!("cannot find {}", args.config.display()))?;
    let directory = std::env::current_dir().context("there is no working directory")?;
    let program = match &loaded.run.slurm.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("cannot find the program's own file")?.display().to_string(),
    };
    let name = config.file_stem().map_or_else(|| "run".into(), |stem| stem.to_string_lossy().into_owned());
    if let Some(server) = &loaded.run.slurm.server
        && !loaded.run.llm.endpoints.iter().any(|endpoint| is_loopback(&endpoint.base_url))
    {
        tracing::warn!(
            "the job starts `{}`, but no llm.endpoints.*.base_url is on this machine: use \"${{{}:-http://localhost:8000/v1}}\" there",
            server.command,
            server.url_variable
        );
    }
    let job = Job {
        slurm: loaded.run.slurm.clone(),
        grace: loaded.run.shutdown_grace,
        name,
        config,
        directory,
        program,
        set: args.set.clone(),
        run: args.run.clone(),
    };
    Ok((job, doubt))
}

fn is_loopback(url: &str) -> bool {
    ["://localhost", "://127.", "://[::1]"].iter().any(|host| url.contains(host))
}
