//! `qaflow run`: from documents to a dataset; the same command resumes whatever interrupted it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio_stream::wrappers::ReceiverStream;

use super::build::{self, Backend};
use super::gpu_time::{self, Beginning, Begun, GpuTime, end_of};
use super::observe::Observer;
use super::observed::rehearsed_lease;
use super::places::{self, Places};
use super::progress::{Attempt, Phase};
pub use super::run_args::RunArgs;
use super::sampling::Sampled;
use super::shard::{self, ShardChoice};
use super::state::{ATTEMPTS, CREATED, LIMITED, PLAN, State, StateOptions};
use super::tally::Tallied;
use super::watch::Watch;
use super::{Exit, grouped, signals, spoken};
use crate::engine::{Committer, Engine, EngineError, Progress, RunEnd, Stop};
use crate::export::{Exported, manifest};
use crate::model::ledger::AttemptEnd;
use crate::model::payload::Document;
use crate::model::plan::Plan;
use crate::model::record::Change;
use crate::model::store::{Commit, Lease, Store};
use crate::sources::{Found, Listing};
use crate::store::locks::Locks;

/// Runs.
///
/// # Errors
/// Whatever ends the run; everything committed is kept.
pub async fn run(args: RunArgs) -> anyhow::Result<Exit> {
    let (began, stop) = (Instant::now(), Stop::default());
    signals::listen(&stop).context("cannot listen for signals")?;
    if let Some(id) = &args.bench {
        super::book::record::check_name(id)?;
    }
    let loaded = build::load(&args.config, &args.set)?;
    let share = args.shard.map(ShardChoice::resolve).transpose()?;
    let Places { listing, state: state_dir, out } = Places::find(&args, &loaded, share)?;
    let listed = listing.files().len();
    let listing = listing.with_limit(args.limit);
    places::writable(&out)?;
    let options = StateOptions {
        cache_mb: loaded.run.store.cache_mb,
        lease: loaded.run.store.lease,
        create: true,
        take_over: args.take_over,
        ..StateOptions::default()
    };
    // Before the state is made: a run that cannot begin leaves none behind.
    let mut observer = Observer::listen(&loaded.run.targets).await?;
    let state = State::open(&state_dir, options)?;
    match super::state::locks(&state_dir) {
        locks @ Locks::Hold => tracing::debug!("{locks} in {}", state_dir.display()),
        locks => tracing::warn!("state {}: {locks}", state_dir.display()),
    }
    shard::settle(&state_dir, share, state.text(CREATED)?.is_none(), args.change_shard)?;
    let (committer, writer) =
        Committer::start(state.store(), rehearsed_lease(state.lease())?).context("cannot start the writer")?;
    let commit: Arc<dyn Commit> = Arc::new(committer.clone());
    let model = build::model(&loaded.run.llm, &state.store(), &commit, &stop)?;
    let flow = Arc::new(build::flow(&loaded, state.texts(), &model)?);
    let mut plan = build::plan(&loaded, &args.config, &out, &flow);
    let (inputs, manifest) = places::input_of(&args, &loaded);
    super::book::record::note_input(&mut plan, inputs, manifest);
    let found = listing.files().len().min(args.limit.unwrap_or(usize::MAX)) as u64;
    Engine::seed(&flow, state.store.as_ref(), commit.as_ref()).await?;
    let from = Beginning {
        plan: &plan,
        state: &state,
        listing: &listing,
        limit: args.limit,
        shard: share,
        budget: loaded.run.budget,
        extend: args.extend_budget,
        began,
    };
    let monitor = gpu_time::monitor(loaded.run.telemetry.gpu, model.backend.clone()).await?;
    let (gpu, entries) = match GpuTime::begin(&from, monitor, !everything_ended(&plan, state.store.as_ref())?)? {
        Begun::Yes(gpu, entries) => (gpu, entries),
        Begun::UsedUp(why) => {
            tracing::error!("{why}");
            if args.json {
                let refused = serde_json::json!({"run_id": plan.run_id, "finished": false, "reason": why});
                super::export::print(&refused.to_string());
            }
            return Ok(Exit::Interrupted);
        }
    };
    let attempt = begin(&state, commit.as_ref(), &plan, found, entries).await?;
    let commit: Arc<dyn Commit> = Arc::new(Tallied::new(commit, state.store(), gpu.tally()));
    let progress = Arc::new(Progress::new(&flow, committer.load(), Arc::clone(&model.errors)));
    tracing::info!(
        run = plan.run_id,
        attempt = attempt.number,
        "{found} documents, state {}, results {}",
        state_dir.display(),
        out.display()
    );

    let in_job = super::slurm::job::SlurmJob::here();
    if let Some(job) = &in_job {
        tracing::info!("{}", job.describe());
    }
    let time_limit =
        in_job.map(|job| tokio::spawn(super::slurm::job::watch_time(job, loaded.run.shutdown_grace, stop.clone())));

    let watch = Watch {
        dir: state.dir.clone(),
        plan: plan.clone(),
        store: state.store(),
        lease: state.lease(),
        progress: Arc::clone(&progress),
        attempt: attempt.clone(),
        backend: model.backend.clone(),
        stop: stop.clone(),
        gpu: gpu.clone(),
        sampled: Arc::new(Mutex::new(Sampled::new(flow.nodes.iter().map(|node| node.name.clone()).collect()))),
    };
    if let Some(observer) = &mut observer {
        observer.announce(&plan, &state.dir, share, &attempt)?;
        observer.watch(&plan, state.store(), Arc::clone(&progress), &attempt, &model.backend);
    }
    // From here on `qaflow status` shows this attempt, even while it waits for its server.
    watch.status(Phase::Running)?.write(&state.dir).context("cannot write the status file")?;
    // One clear message before any work is spent, if the server, key or model is wrong. A run that has nothing left
    // to ask asks nothing: it finds that out as it goes.
    if let Backend::Servers(endpoints) = &model.backend
        && !everything_ended(&plan, state.store.as_ref())?
    {
        tokio::select! {
            probed = endpoints.ensure_probed() => if let Err(error) = probed {
                state.lease.check()?;
                let mut status = watch.status(Phase::Failed)?;
                status.reason = Some(error.to_string());
                let _ = status.write(&state.dir);
                let _ = gpu.end(commit.as_ref(), AttemptEnd::Failed { reason: error.to_string() }).await;
                return Err(error.into());
            },
            () = stop.wait() => {}
        }
    }

    // From here on the state is this plan's: not before, lest a run that cannot begin changes what `export` writes.
    let cut = args.limit.filter(|limit| *limit < listed).map(|limit| format!("{limit} of {listed}").into_bytes());
    let limited = Change::Meta { name: LIMITED.into(), value: cut };
    commit.commit(vec![meta(PLAN, serde_json::to_vec(&plan).context("cannot write the plan")?), limited]).await?;
    let watcher = tokio::spawn(watch.clone().keep());
    let keeper = tokio::spawn(gpu.clone().keep(Arc::clone(&commit), Arc::clone(&progress), stop.clone()));
    let engine = Engine {
        flow: Arc::clone(&flow),
        store: state.store(),
        commit: Arc::clone(&commit),
        stop: stop.clone(),
        grace: loaded.run.shutdown_grace,
        progress: Arc::clone(&progress),
    };
    let ended = engine.run(documents(listing)).await;
    if let Some(watched) = time_limit {
        watched.abort();
    }
    for task in [watcher, keeper] {
        task.abort();
        let _ = task.await;
    }
    if let Err(error) = gpu.end(commit.as_ref(), end_of(&ended)).await {
        tracing::warn!("the ledger's last entry cannot be written: {error}");
    }
    drop((engine, commit, committer, model, flow));
    // The writer ends when its last handle is gone (the stages hold some): what it was given is on disk then.
    tokio::task::spawn_blocking(move || writer.join()).await.ok();
    let finished = finish(&args, &state, &plan, &watch, ended, &out);
    gpu.close(&state);
    if let Some(observer) = observer {
        observer.end().await;
    }
    let exit = finished?;
    if let Some(id) = args.bench.clone().filter(|_| exit != Exit::Interrupted) {
        let record = super::book::record::RecordArgs::after_run(id);
        super::book::record::of_states(&record, &[&state]).await?;
    }
    Ok(exit)
}

/// Notes the attempt in the state, with its entry in the ledger, and in a new one the plan.
async fn begin(
    state: &State,
    commit: &dyn Commit,
    plan: &Plan,
    documents_found: u64,
    ledger: Vec<Change>,
) -> anyhow::Result<Attempt> {
    let number = state.attempts()? + 1;
    let started = super::now();
    let mut changes = ledger;
    changes.push(meta(ATTEMPTS, number.to_string().into_bytes()));
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

/// Writes what came out and says how it ended.
fn finish(
    args: &RunArgs,
    state: &State,
    plan: &Plan,
    watch: &Watch,
    ended: Result<RunEnd, EngineError>,
    out: &Path,
) -> anyhow::Result<Exit> {
    // Files of a state that was taken over are no longer this process's to write.
    state.lease.check()?;
    let (phase, reason) = match &ended {
        Ok(RunEnd::Finished) => (Phase::Finished, None),
        Ok(RunEnd::Interrupted(why)) => (Phase::Interrupted, Some(why.clone())),
        Err(error) => (Phase::Failed, Some(error.to_string())),
    };
    let mut status = watch.status(phase)?;
    status.reason.clone_from(&reason);
    if let Some(mut history) = watch.history() {
        let _ = history.note(&status, true);
    }
    if let Err(error) = status.write(&state.dir) {
        tracing::warn!("the status file cannot be written: {error}");
    }
    match ended? {
        RunEnd::Interrupted(why) => {
            let how = if watch.gpu.budget_stopped() { "" } else { "; the same command goes on" };
            tracing::info!("{why}: everything received is kept{how}");
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
        "near_duplicates_refused": exported.near_duplicates,
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
    let by: Vec<String> =
        exported.rejected.iter().filter(|(check, _)| *check != "target").map(|(c, n)| format!("{c} {n}")).collect();
    let aside = exported.rejected.get("target").copied().unwrap_or(0);
    let rejected: u64 = exported.rejected.values().sum::<u64>() - aside;
    if rejected > 0 {
        let _ = writeln!(w, "{} refused by checks: {}.", grouped(rejected), by.join(", "));
    }
    if aside > 0 {
        let _ = writeln!(
            w,
            "{} set aside by the target: passages not asked, and pairs beyond what is wanted.",
            grouped(aside)
        );
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
        ledger: super::ledger::manifest(state.store.as_ref())?,
        remarks: super::export::remarks(plan),
        ..manifest::RunFacts::default()
    })
}
