//! `qaflow slurm`: the batch job written from the configuration, and sent; and what a run knows of the job it is in.

pub mod job;
mod script;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;

use self::script::{Job, render};
use super::run::RunArgs;
use super::{Exit, UsageError, build};

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
    let job = job(args)?;
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

/// Sends the script to Slurm and prints the job's id; with `dry_run` it only shows what it would send.
///
/// # Errors
/// Faults of the configuration; no `sbatch`; what `sbatch` says.
pub fn submit(args: &SlurmArgs, dry_run: bool) -> anyhow::Result<Exit> {
    let job = job(args)?;
    let text = render(&job);
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

fn job(args: &SlurmArgs) -> anyhow::Result<Job> {
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
    Ok(Job {
        slurm: loaded.run.slurm.clone(),
        grace: loaded.run.shutdown_grace,
        name,
        config,
        directory,
        program,
        set: args.set.clone(),
        run: args.run.clone(),
    })
}

fn is_loopback(url: &str) -> bool {
    ["://localhost", "://127.", "://[::1]"].iter().any(|host| url.contains(host))
}
