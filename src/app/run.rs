//! `qaflow run`: from documents to a dataset; the same command resumes whatever interrupted it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio_stream::wrappers::ReceiverStream;

use super::build::{self, Backend, Configuration};
use super::progress::{self, Attempt, ModelStatus, Phase, Status};
use super::state::{ATTEMPTS, CREATED, PLAN, State, StateOptions};
use super::{Exit, UsageError, grouped, signals, spoken};
use crate::engine::{Committer, Engine, EngineError, Progress, RunEnd, Stop};
use crate::export::{Exported, dataset, generation, manifest};
use crate::llm::endpoints::EndpointStatus;
use crate::model::payload::Document;
use crate::model::plan::Plan;
use crate::model::record::Change;
use crate::model::store::{Commit, Store};
use crate::sources::{Found, Listing, Shard, discover};

/// How often the status file is written.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How often a line goes to the job log.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct RunArgs {
    /// The run file.
    pub config: PathBuf,
    /// Files and folders; empty: those of the run file.
    pub input: Vec<PathBuf>,
    /// A list of documents.
    pub manifest: Option<PathBuf>,
    /// The state's folder; `None`: the run file's.
    pub state: Option<PathBuf>,
    /// The folder of the results; `None`: the run file's.
    pub out: Option<PathBuf>,
    /// At most so many documents.
    pub limit: Option<usize>,
    /// The share of the corpus.
    pub shard: Option<Shard>,
    /// `--set`.
    pub set: Vec<String>,
    /// Whether the summary is JSON.
    pub json: bool,
}

/// Runs.
///
/// # Errors
/// Whatever ends the run; everything committed is kept.
pub async fn run(args: RunArgs) -> anyhow::Result<Exit> {
    let stop = Stop::default();
    signals::listen(&stop).context("cannot listen for signals")?;
    let loaded = build::load(&args.config, &args.set)?;
    let listing = listing(&args, &loaded)?;
    let state_dir = args.state.clone().unwrap_or_else(|| loaded.run.state.clone());
    let out = args.out.clone().unwrap_or_else(|| loaded.run.out.clone());
    if state_dir == out {
        return Err(UsageError("state and out must be different folders".into()).into());
    }
    apart_from_input(&args, &loaded, &[("state", &state_dir), ("results", &out)])?;
    writable(&out)?;
    generation::check(&out, &dataset::names(&loaded.run.export))?;
    let options = StateOptions {
        cache_mb: loaded.run.store.cache_mb,
        lease: loaded.run.store.lease,
        create: true,
        ..StateOptions::default()
    };
    let state = State::open(&state_dir, options)?;
    if let Some(address) = loaded.run.prometheus {
        crate::telemetry::exporter::start(address).map_err(UsageError)?;
        tracing::info!("metrics at http://{address}/metrics");
    }
    let (committer, writer) = Committer::start(state.store(), state.lease()).context("cannot start the writer")?;
    let commit: Arc<dyn Commit> = Arc::new(committer.clone());
    let model = build::model(&loaded.run.llm, &state.store(), &commit, &stop)?;
    let flow = Arc::new(build::flow(&loaded, state.texts(), &model)?);
    let plan = build::plan(&loaded, &args.config, &out, &flow);
    let found = listing.files().len().min(args.limit.unwrap_or(usize::MAX)) as u64;
    let attempt = begin(&state, commit.as_ref(), &plan, found).await?;
    let progress = Arc::new(Progress::new(flow.nodes.len()));
    tracing::info!(
        run = plan.run_id,
        attempt = attempt.number,
        "{found} documents, state {}, results {}",
        state_dir.display(),
        out.display()
    );

    let watch = Watch {
        dir: state.dir.clone(),
        plan: plan.clone(),
        store: state.store(),
        progress: Arc::clone(&progress),
        attempt: attempt.clone(),
        backend: model.backend.clone(),
        stop: stop.clone(),
    };
    // From here on `qaflow status` shows this attempt, even while it waits for its server.
    watch.status(Phase::Running)?.write(&state.dir).context("cannot write the status file")?;
    // One clear message before any work is spent, if the server, key or model is wrong. A run that has nothing left
    // to ask asks nothing: it finds that out as it goes.
    if let Backend::Servers(endpoints) = &model.backend
        && !everything_ended(&plan, state.store.as_ref())?
    {
        tokio::select! {
            probed = endpoints.ensure_probed() => if let Err(error) = probed {
                let mut status = watch.status(Phase::Failed)?;
                status.reason = Some(error.to_string());
                let _ = status.write(&state.dir);
                return Err(error.into());
            },
            () = stop.wait() => {}
        }
    }

    // From here on the state is this plan's: not before, lest a run that cannot begin changes what `export` writes.
    commit.commit(vec![meta(PLAN, serde_json::to_vec(&plan).context("cannot write the plan")?)]).await?;
    let watcher = tokio::spawn(watch.clone().keep());
    let engine = Engine {
        flow: Arc::clone(&flow),
        store: state.store(),
        commit: Arc::clone(&commit),
        stop: stop.clone(),
        grace: loaded.run.shutdown_grace,
        progress: Arc::clone(&progress),
    };
    let ended = engine.run(documents(listing)).await;
    watcher.abort();
    let _ = watcher.await;
    drop((engine, commit, committer, model, flow));
    // The writer ends when its last handle is gone (the stages hold some): what it was given is on disk then.
    tokio::task::spawn_blocking(move || writer.join()).await.ok();
    finish(&args, &state, &plan, &watch, ended, &out)
}

/// The documents that the run is given: the command line's, else the configuration's.
fn listing(args: &RunArgs, loaded: &Configuration) -> anyhow::Result<Listing> {
    let given = !args.input.is_empty() || args.manifest.is_some();
    let (inputs, manifest): (&[PathBuf], Option<&Path>) = if given {
        (&args.input, args.manifest.as_deref())
    } else {
        (&loaded.run.input, loaded.run.manifest.as_deref())
    };
    if inputs.is_empty() && manifest.is_none() {
        return Err(build::no_input());
    }
    let listing = discover(inputs, manifest).map_err(|error| UsageError(error.to_string()))?;
    Ok(listing.with_shard(args.shard).with_limit(args.limit))
}

/// Neither state nor results may lie in a folder of the input: the next run would take them for documents.
fn apart_from_input(args: &RunArgs, loaded: &Configuration, folders: &[(&str, &Path)]) -> anyhow::Result<()> {
    let given = !args.input.is_empty() || args.manifest.is_some();
    let inputs = if given { &args.input } else { &loaded.run.input };
    for (name, folder) in folders {
        // Of a folder that is not there yet, the part that is.
        let there = folder.ancestors().find_map(|part| {
            let part = if part.as_os_str().is_empty() { Path::new(".") } else { part };
            let whole = part.canonicalize().ok()?;
            Some(whole.join(folder.strip_prefix(part).unwrap_or(Path::new(""))))
        });
        for input in inputs.iter().filter(|input| input.is_dir()) {
            if let (Some(there), Ok(input)) = (&there, input.canonicalize())
                && there.starts_with(&input)
            {
                return Err(UsageError(format!(
                    "the {name} folder {} lies in the input folder {}, and would be taken for documents: put it elsewhere",
                    folder.display(),
                    input.display()
                ))
                .into());
            }
        }
    }
    Ok(())
}

/// Whether the results can be written, before any work is spent.
fn writable(out: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the results folder {}", out.display()))?;
    let probe = out.join(".qaflow-write-test");
    std::fs::write(&probe, b"")
        .and_then(|()| std::fs::remove_file(&probe))
        .with_context(|| format!("cannot write to the results folder {}", out.display()))
}

/// Notes the attempt in the state, and in a new one the plan.
async fn begin(state: &State, commit: &dyn Commit, plan: &Plan, documents_found: u64) -> anyhow::Result<Attempt> {
    let number = state.attempts()? + 1;
    let started = super::now();
    let mut changes = vec![meta(ATTEMPTS, number.to_string().into_bytes())];
    if state.text(CREATED)?.is_none() {
        changes.push(meta(PLAN, serde_json::to_vec(plan).context("cannot write the plan")?));
        changes.push(meta(CREATED, started.clone().into_bytes()));
    }
    commit.commit(changes).await?;
    Ok(Attempt { host: super::state::host(), number, started, clock: Instant::now(), documents_found })
}

fn meta(name: &str, value: Vec<u8>) -> Change {
    Change::Meta { name: name.into(), value: Some(value) }
}

/// Whether there were documents before and nothing of them is pending. New ones may still come; then the server is
/// probed by the first call.
fn everything_ended(plan: &Plan, store: &dyn Store) -> anyhow::Result<bool> {
    let mut known = 0;
    for at in 0..plan.nodes.len() {
        let counts = store.counts(&plan.key(at))?;
        if counts.pending() > 0 {
            return Ok(false);
        }
        if plan.nodes[at].from_source {
            known = counts.admitted.max(known);
        }
    }
    Ok(known > 0)
}

/// The documents as a stream: files are read and hashed by a thread of their own, while the first are under way.
fn documents(listing: Listing) -> ReceiverStream<Result<Document, String>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    tokio::task::spawn_blocking(move || {
        for found in listing.documents() {
            let document = match found {
                Ok(Found::New(document)) => Ok(document),
                Ok(Found::Duplicate { name, of }) => {
                    tracing::info!("{name} has the same content as {of}: processed once");
                    continue;
                }
                Err(error) => Err(error.to_string()),
            };
            if sender.blocking_send(document).is_err() {
                // The run stops.
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// Keeps the status file, the metrics' levels and the progress display up to date.
#[derive(Clone)]
struct Watch {
    dir: PathBuf,
    plan: Plan,
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    attempt: Attempt,
    backend: Backend,
    stop: Stop,
}

impl Watch {
    fn status(&self, phase: Phase) -> anyhow::Result<Status> {
        let endpoints = self.backend.status();
        let sum = |of: fn(&EndpointStatus) -> u64| endpoints.iter().map(of).sum::<u64>();
        let (in_flight, slots, waiting) = (sum(|e| e.in_flight), sum(|e| e.limit), sum(|e| e.waiting));
        crate::telemetry::metrics::model_level(in_flight as usize, slots as usize);
        self.progress.publish(self.plan.nodes.iter().map(|node| node.name.as_str()));
        let model = ModelStatus {
            name: self.plan.model.clone(),
            in_flight,
            slots,
            waiting,
            endpoints,
            ..ModelStatus::default()
        };
        Ok(progress::take(&self.plan, self.store.as_ref(), &self.progress, &self.attempt, model, phase)?)
    }

    async fn keep(self) {
        let display = super::status::Display::for_run();
        let mut last_line = Instant::now();
        let mut ticks = tokio::time::interval(STATUS_EVERY);
        loop {
            ticks.tick().await;
            let phase = if self.stop.requested() { Phase::Stopping } else { Phase::Running };
            let status = match self.status(phase) {
                Ok(status) => status,
                Err(error) => {
                    tracing::debug!("no status: {error}");
                    continue;
                }
            };
            if let Err(error) = status.write(&self.dir) {
                tracing::debug!("the status file cannot be written: {error}");
            }
            if let Some(display) = &display {
                display.show(&status);
            } else if last_line.elapsed() >= LINE_EVERY {
                tracing::info!("{}", status.line());
                last_line = Instant::now();
            }
        }
    }
}

/// Writes what came out and says how it ended.
fn finish(
    args: &RunArgs,
    state: &State,
    plan: &Plan,
    watch: &Watch,
    ended: Result<RunEnd, EngineError>,
    out: &Path,
) -> anyhow::Result<Exit> {
    let (phase, reason) = match &ended {
        Ok(RunEnd::Finished) => (Phase::Finished, None),
        Ok(RunEnd::Interrupted(why)) => (Phase::Interrupted, Some(why.clone())),
        Err(error) => (Phase::Failed, Some(error.to_string())),
    };
    let mut status = watch.status(phase)?;
    status.reason.clone_from(&reason);
    if let Err(error) = status.write(&state.dir) {
        tracing::warn!("the status file cannot be written: {error}");
    }
    match ended? {
        RunEnd::Interrupted(why) => {
            tracing::info!("{why}: everything received is kept; the same command goes on");
            if args.json {
                super::export::print(&serde_json::to_string(&status)?);
            }
            Ok(Exit::Interrupted)
        }
        RunEnd::Finished => {
            let exported = super::export::write(state, plan, out, true, &super::export::planned(plan))?;
            let failures = Failures::count(&exported);
            if args.json {
                super::export::print(&summary_json(plan, &exported, out)?);
            } else {
                super::export::print(&summary(args, plan, state, &exported, watch.attempt.clock.elapsed(), out));
            }
            if failures.ratio > plan.max_failure_ratio {
                tracing::error!(
                    "{} of {} items failed ({:.1}%), more than max_failure_ratio allows ({:.1}%): see {}",
                    failures.dead,
                    failures.of,
                    failures.ratio * 100.0,
                    plan.max_failure_ratio * 100.0,
                    out.join("dead_letters.jsonl").display()
                );
                return Ok(Exit::TooManyFailures);
            }
            Ok(Exit::Done)
        }
    }
}

/// The share of items that were given up: the worst over the stages, so that a thousand good pairs do not hide that
/// half of the documents could not be read.
struct Failures {
    dead: u64,
    of: u64,
    ratio: f64,
}

impl Failures {
    fn count(exported: &Exported) -> Self {
        let mut worst = Self { dead: 0, of: 0, ratio: 0.0 };
        for (_, counts) in &exported.counts {
            let ratio = counts.dead as f64 / counts.admitted.max(1) as f64;
            if ratio > worst.ratio {
                worst = Self { dead: counts.dead, of: counts.admitted, ratio };
            }
        }
        worst
    }
}

fn summary_json(plan: &Plan, exported: &Exported, out: &Path) -> anyhow::Result<String> {
    let dead: u64 = exported.counts.iter().map(|(_, counts)| counts.dead).sum();
    let rejected: u64 = exported.counts.iter().map(|(_, counts)| counts.rejected).sum();
    Ok(serde_json::to_string(&serde_json::json!({
        "run_id": plan.run_id,
        "finished": true,
        "documents": exported.documents,
        "documents_failed": exported.documents_failed,
        "pairs_accepted": exported.accepted,
        "rejected": rejected,
        "dead": dead,
        "average_scores": exported.average_scores_by_name(),
        "out": out.display().to_string(),
    }))?)
}

/// What a person reads at the end.
fn summary(args: &RunArgs, plan: &Plan, state: &State, exported: &Exported, took: Duration, out: &Path) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let w = &mut text;
    let _ = writeln!(
        w,
        "\n{} accepted pairs from {} of {} documents, in {}.",
        grouped(exported.accepted),
        grouped(exported.documents - exported.documents_failed),
        grouped(exported.documents),
        spoken(took)
    );
    if let Some([clarity, accuracy, relevance, overall]) = exported.average_scores() {
        let _ = writeln!(
            w,
            "Average marks: clarity {clarity:.2}, accuracy {accuracy:.2}, relevance {relevance:.2}, overall {overall:.2}."
        );
    }
    let rejected: u64 = exported.rejected.values().sum();
    if rejected > 0 {
        let by: Vec<String> = exported.rejected.iter().map(|(check, n)| format!("{check} {n}")).collect();
        let _ = writeln!(w, "{} refused by checks: {}.", grouped(rejected), by.join(", "));
    }
    let dead: u64 = exported.dead.values().sum();
    if dead > 0 {
        let _ = writeln!(w, "{} given up:", grouped(dead));
        for entry in exported.entries.iter().filter(|entry| entry.state == "dead").take(10) {
            let _ = writeln!(w, "  {}: {}", entry.name, entry.reason.as_deref().unwrap_or("unknown"));
        }
        let _ = writeln!(w, "  (all of them: qaflow failures list --state {})", state.dir.display());
    }
    for entry in exported.entries.iter().filter(|entry| !entry.warnings.is_empty()).take(10) {
        for warning in &entry.warnings {
            let _ = writeln!(w, "Note: {}: {warning}", entry.name);
        }
    }
    let _ = writeln!(
        w,
        "\n  {}\n  {}\n  {}\n  {}\n  {}",
        out.join("dataset.jsonl").display(),
        out.join("rejected.jsonl").display(),
        out.join("dead_letters.jsonl").display(),
        out.join("manifest.json").display(),
        out.join("documents").display()
    );
    for remark in super::export::remarks(plan) {
        let _ = writeln!(w, "\n{remark}");
    }
    if plan.provider == "embedded" {
        let _ = writeln!(
            w,
            "\nTo use a real model, start vLLM (or any OpenAI-compatible server) and run:\n  \
             qaflow run {} --set llm.provider=openai --set 'llm.endpoints=[{{base_url: \"http://localhost:8000/v1\"}}]' \
             --set llm.model=NAME --state {}-vllm --out {}-vllm",
            args.config.display(),
            state.dir.display(),
            out.display()
        );
    }
    text
}

/// The facts of the manifest.
pub(super) fn facts(state: &State, plan: &Plan, finished: bool) -> anyhow::Result<manifest::RunFacts> {
    let model = state.store.model_counts()?;
    Ok(manifest::RunFacts {
        finished,
        state_created: state.text(CREATED)?,
        written: super::now(),
        attempts: state.attempts()?,
        model_calls: model.calls,
        prompt_tokens: model.usage.prompt_tokens,
        completion_tokens: model.usage.completion_tokens,
        remarks: super::export::remarks(plan),
    })
}
