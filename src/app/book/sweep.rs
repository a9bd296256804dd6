//! `qaflow bench sweep`: runs every cell of a grid of settings several times, each as a run of its own, and says
//! which is best and whether that is real.
//!
//! What is the same in all cells (documents read and cut into chunks) is done once; a cell begins with a copy of that
//! state. Answers of the model are shared by no two runs: they are what is measured.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::record::{self, RecordArgs};
use super::{BookPlace, files, sweep_report};
use crate::app::build::{self, Configuration};
use crate::app::export::print;
use crate::app::state::{State, StateOptions};
use crate::app::{Exit, UsageError, signals, spoken};
use crate::bench::record::Experiment;
use crate::bench::sweep::{Parameter, SWEEP_FORMAT, Settings, Sweep, Turn};
use crate::engine::Stop;

/// The file that describes a sweep, in its folder.
const SWEEP_FILE: &str = "sweep.json";
/// Below the records: the sweeps.
const SWEEPS: &str = "sweeps";
/// How long a run that an earlier, killed sweep left behind may take to stop.
const LEFT_BEHIND: Duration = Duration::from_secs(90);
/// What makes a child stop when this process does.
pub const END_WITH_PARENT: &str = "QAFLOW_END_WITH_PARENT";

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct SweepArgs {
    /// The run's configuration
    pub config: PathBuf,
    /// What is varied, as in `concurrency=10,20,50`; several times for a grid. A configuration path, or `concurrency`,
    /// `chunk_size` or `questions_per_chunk`
    #[arg(long = "param", value_name = "NAME=VALUE,…", required = true)]
    pub params: Vec<String>,
    /// How often each cell is run
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeats: u32,
    /// The sweep's name; the same name goes on where it was [default: the parameters' names]
    #[arg(long, value_parser = record::plain)]
    pub name: Option<String>,
    /// Override a configuration value in every cell
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// What the order of the cells follows from
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Where the records are
    #[command(flatten)]
    pub place: BookPlace,
    /// Show JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs what is left of the sweep, and says what came out.
///
/// # Errors
/// Faults of the configuration in any cell; a cell whose run fails.
pub async fn sweep(args: &SweepArgs) -> anyhow::Result<Exit> {
    let base = build::load(&args.config, &args.set)?;
    let sweep = described(args, &base)?;
    for cell in sweep.cells() {
        build::load(&args.config, &settings(&sweep, &cell))
            .map_err(|error| error.context(format!("the cell {}", sweep.label(&cell))))?;
    }
    let folder = args.place.dir.join(SWEEPS).join(&sweep.name);
    begin(&folder, &sweep)?;
    let stop = Stop::default();
    signals::listen(&stop).context("cannot listen for signals")?;

    let (cells, turns) = (sweep.cells(), sweep.turns());
    let work = Work { args, base: &base, sweep: &sweep, folder: &folder, stop: &stop };
    for (at, turn) in turns.iter().enumerate() {
        let id = record_id(&sweep, turn);
        if args.place.dir.join(format!("{id}.yaml")).is_file() {
            continue;
        }
        let cell = &cells[turn.cell];
        eprint_line(&format!("{}/{}: {} (repeat {})", at + 1, turns.len(), sweep.label(cell), turn.repeat));
        let began = Instant::now();
        if !work.run_cell(turn, cell, &id).await? {
            eprint_line("interrupted: the same command goes on with what is left");
            return Ok(Exit::Interrupted);
        }
        eprint_line(&format!("    done after {}", spoken(began.elapsed())));
    }
    let book = files::load(&args.place.dir)?;
    let found = sweep_report::Outcome::of(&sweep, &book);
    print(&if args.json { found.json()? } else { found.text() });
    Ok(Exit::Done)
}

/// The sweeps below a folder of records, in the order of their names.
///
/// # Errors
/// If one cannot be read, or is newer than this program.
pub(super) fn all(dir: &Path) -> anyhow::Result<Vec<Sweep>> {
    let Ok(entries) = std::fs::read_dir(dir.join(SWEEPS)) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path().join(SWEEP_FILE)).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> anyhow::Result<Sweep> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: serde_json::Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged: remove its folder to begin anew", path.display()))?;
    let format = value["format"].as_u64().unwrap_or(0);
    anyhow::ensure!(
        format <= u64::from(SWEEP_FORMAT),
        "{} has format {format}, newer than this program reads: use the newer qaflow",
        path.display()
    );
    serde_json::from_value(value).with_context(|| format!("{} is damaged", path.display()))
}

/// The name of the record of one run.
pub(super) fn record_id(sweep: &Sweep, turn: &Turn) -> String {
    format!("sweep_{}_r{}_c{:02}", sweep.name, turn.repeat, turn.cell + 1)
}

fn described(args: &SweepArgs, base: &Configuration) -> anyhow::Result<Sweep> {
    let mut parameters: Vec<Parameter> = Vec::new();
    for text in &args.params {
        let bad = |why: &str| UsageError(format!("--param {text}: {why}"));
        let (name, values) = text.split_once('=').ok_or_else(|| bad("give it as concurrency=10,20,50"))?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        if values.iter().any(String::is_empty) {
            return Err(bad("a value is empty").into());
        }
        if (1..values.len()).any(|at| values[..at].contains(&values[at])) {
            return Err(bad("a value is there twice").into());
        }
        let stage = |kind: &str| {
            let mut stages = base.pipeline.stages.iter().filter(|stage| stage.kind == kind);
            match (stages.next(), stages.next()) {
                (Some(one), None) => Ok(one.name.clone()),
                (None, _) => Err(bad(&format!("the pipeline has no stage of kind {kind}"))),
                _ => Err(bad(&format!("several stages are of kind {kind}: name one, as in stages.NAME.size"))),
            }
        };
        let path = match name {
            "concurrency" => "llm.concurrency".to_owned(),
            "chunk_size" => format!("stages.{}.size", stage("chunk")?),
            "questions_per_chunk" => format!("stages.{}.questions_per_chunk", stage("generate")?),
            path if path.contains('.') => {
                let of = path.strip_prefix("pipeline.").unwrap_or(path).strip_prefix("stages.");
                let wanted = of.and_then(|rest| rest.split('.').next());
                let names: Vec<&str> = base.pipeline.stages.iter().map(|stage| stage.name.as_str()).collect();
                if let Some(wanted) = wanted.filter(|wanted| !names.contains(wanted)) {
                    return Err(bad(&format!("no stage is called `{wanted}`; there are {}", names.join(", "))).into());
                }
                path.to_owned()
            }
            _ => {
                return Err(bad(
                    "give concurrency, chunk_size, questions_per_chunk, or a path such as llm.temperature",
                )
                .into());
            }
        };
        if parameters.iter().any(|other| other.path == path) {
            return Err(bad("it is varied twice").into());
        }
        parameters.push(Parameter { path, name: name.rsplit('.').next().unwrap_or(name).to_owned(), values });
    }
    let name = args
        .name
        .clone()
        .unwrap_or_else(|| parameters.iter().map(|p| p.name.replace('_', "-")).collect::<Vec<_>>().join("_"));
    Ok(Sweep {
        format: SWEEP_FORMAT,
        name,
        config: args.config.display().to_string(),
        set: args.set.clone(),
        parameters,
        repeats: args.repeats,
        seed: args.seed,
    })
}

/// Makes the sweep's folder, or goes on in one of the same sweep.
fn begin(folder: &Path, sweep: &Sweep) -> anyhow::Result<()> {
    let file = folder.join(SWEEP_FILE);
    if file.is_file() {
        let there = read(&file)?;
        // More repeats of the same are welcome.
        let same = Sweep { repeats: sweep.repeats, ..there.clone() } == *sweep && there.repeats <= sweep.repeats;
        if !same {
            let fewer = Sweep { repeats: there.repeats, ..sweep.clone() } == there;
            let how = if fewer {
                format!("this sweep with {} repeats: give at least as many --repeats, or another --name", there.repeats)
            } else {
                "another sweep: give this one another --name, or the parameters that it had".to_owned()
            };
            return Err(UsageError(format!("{} holds {how}", folder.display())).into());
        }
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    files::whole(&file, &format!("{}\n", serde_json::to_string_pretty(sweep)?))
}

/// The `--set` values of a cell.
fn settings(sweep: &Sweep, cell: &Settings) -> Vec<String> {
    let own = cell.iter().map(|(path, value)| format!("{path}={value}"));
    sweep.set.iter().cloned().chain(own).collect()
}

struct Work<'a> {
    args: &'a SweepArgs,
    base: &'a Configuration,
    sweep: &'a Sweep,
    folder: &'a Path,
    stop: &'a Stop,
}

impl Work<'_> {
    /// Runs one cell and makes its record; `false` if it was interrupted.
    async fn run_cell(&self, turn: &Turn, cell: &Settings, id: &str) -> anyhow::Result<bool> {
        let place = self.folder.join(format!("r{}-c{:02}", turn.repeat, turn.cell + 1));
        let state = place.join("state");
        let Some(prepared) = self.prepared(cell)? else { return Ok(false) };
        if !state.is_dir() {
            // A copy that was cut short has another name, and is made anew.
            let half = place.join("state.partial");
            let _ = std::fs::remove_dir_all(&half);
            copy(&prepared, &half)
                .and_then(|()| std::fs::rename(&half, &state))
                .with_context(|| format!("cannot copy the prepared state to {}", state.display()))?;
        }
        let before = State::open(&prepared, StateOptions::default())?.attempts()?;
        if !self.child(&place, &state, &settings(self.sweep, cell))? {
            return Ok(false);
        }
        let made = RecordArgs {
            dir: self.args.place.dir.clone(),
            from_attempt: Some(before + 1),
            experiment: Some(Experiment { name: self.sweep.name.clone(), settings: cell.clone(), repeat: turn.repeat }),
            ..RecordArgs::after_run(id.to_owned())
        };
        let opened = State::open(&state, StateOptions::default())?;
        record::of_states(&made, &[&opened]).await?;
        drop(opened);
        // Its record says what there is to say of it.
        let _ = std::fs::remove_dir_all(&place);
        Ok(true)
    }

    /// A state in which everything that costs no model call is done, for cells with these settings; `None` if it was
    /// interrupted.
    fn prepared(&self, cell: &Settings) -> anyhow::Result<Option<PathBuf>> {
        let free: Vec<&str> = self
            .base
            .pipeline
            .stages
            .iter()
            .filter(|stage| matches!(stage.kind.as_str(), "extract" | "chunk"))
            .map(|stage| stage.name.as_str())
            .collect();
        let applies = |setting: &&String| {
            let path = setting.strip_prefix("pipeline.").unwrap_or(setting);
            path.strip_prefix("stages.")
                .is_none_or(|rest| free.iter().any(|name| rest.starts_with(&format!("{name}."))))
        };
        let all = settings(self.sweep, cell);
        let mut own: Vec<String> = all.iter().filter(applies).cloned().collect();
        let of_stages: Vec<&String> = own.iter().filter(|s| s.contains("stages.")).collect();
        let name = blake3::hash(format!("{of_stages:?}").as_bytes()).to_hex();
        let place = self.folder.join(format!("prepared-{}", &name[..12]));
        let (state, done) = (place.join("state"), place.join("done"));
        if done.is_file() {
            return Ok(Some(state));
        }
        std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let pipeline = place.join("pipeline.yaml");
        files::whole(&pipeline, &cut_pipeline(&self.base.run.pipeline, &free)?)?;
        own.retain(|setting| !setting.starts_with("pipeline="));
        own.push(format!("pipeline={}", absolute(&pipeline)?.display()));
        eprint_line("reading documents and cutting them into chunks, once for all cells that share it");
        if !self.child(&place, &state, &own)? {
            return Ok(None);
        }
        files::whole(&done, "")?;
        Ok(Some(state))
    }

    /// Runs `qaflow run` to its end; `false` if it was interrupted.
    fn child(&self, place: &Path, state: &Path, set: &[String]) -> anyhow::Result<bool> {
        std::fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        let log_file = place.join("run.log");
        let began = Instant::now();
        loop {
            if self.stop.requested() {
                return Ok(false);
            }
            let log =
                std::fs::File::create(&log_file).with_context(|| format!("cannot write {}", log_file.display()))?;
            let mut command = Command::new(std::env::current_exe().context("cannot find the program's own file")?);
            command.arg("run").arg(&self.args.config).arg("--state").arg(state).arg("--out").arg(place.join("out"));
            for setting in set {
                command.arg("--set").arg(setting);
            }
            let mut child = command
                .env(END_WITH_PARENT, "1")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .context("cannot start the run of a cell")?;
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if self.stop.requested()
                    && let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw)
                {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                    break child.wait()?;
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            match status.code() {
                // With exit code 3 it is finished, and its failures are in its record.
                Some(0 | 3) => return Ok(true),
                Some(75) if self.stop.requested() => return Ok(false),
                code => {
                    let text = std::fs::read_to_string(&log_file).unwrap_or_default();
                    // What a killed sweep left behind stops by itself, but it takes its time.
                    if text.contains("is in use by") && began.elapsed() < LEFT_BEHIND {
                        std::thread::sleep(Duration::from_secs(2));
                        continue;
                    }
                    let last = text.lines().last().unwrap_or("it said nothing").to_owned();
                    let how = code.map_or_else(|| "was killed".into(), |code| format!("ended with exit code {code}"));
                    anyhow::bail!(
                        "a run of the sweep {how}: {last} (all of it: {}); the same command goes on with what is left",
                        log_file.display()
                    );
                }
            }
        }
    }
}

/// The pipeline without the stages that ask a model or need one that does.
fn cut_pipeline(file: &Path, keep: &[&str]) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut tree: serde_json::Value =
        serde_saphyr::from_str(&text).with_context(|| format!("cannot read {}", file.display()))?;
    if let Some(stages) = tree.get_mut("stages").and_then(serde_json::Value::as_object_mut) {
        stages.retain(|name, _| keep.contains(&name.as_str()));
    }
    Ok(serde_saphyr::to_string(&tree)?)
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot find {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.map_err(std::io::Error::other)?;
        let target = to.join(entry.path().strip_prefix(from).map_err(std::io::Error::other)?);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(&target)?;
        } else if entry.file_type().is_file() {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Progress goes to standard error, the result to standard output.
fn eprint_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
