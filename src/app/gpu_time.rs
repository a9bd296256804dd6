//! Keeps the accounts of a running attempt: the ledger's record, the projection, and the budget, a few seconds apart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::UsageError;
use super::budget::Budget;
use super::build::Backend;
use super::gpu_status::{BudgetStatus, GpuStatus, added};
use super::ledger::{self, Ledger, Moment, Origin};
use super::state::{State, slurm_job};
use super::tally::{Tally, Unseen};
use crate::config::BudgetConfig;
use crate::engine::{EngineError, Progress, RunEnd, Stop, StopReason};
use crate::model::StoreError;
use crate::model::ledger::{AttemptEnd, LedgerTotals};
use crate::model::plan::Plan;
use crate::model::projection::{BudgetState, Projection, project_sized};
use crate::model::record::Change;
use crate::model::store::{Commit, Lease as _, Store};
use crate::sources::{Listing, Shard};
use crate::telemetry::gpu::{GpuMode, GpuMonitor};
use crate::telemetry::{metrics, process};

/// How often what a run will have used is projected anew.
const PROJECT_EVERY: Duration = Duration::from_secs(30);
/// The seed of the projection's random draws: the same accounts give the same interval.
const SEED: u64 = 1;

/// The environment variable that names a file to be made when the run stops for a reason that only a person can lift:
/// the job scripts of `qaflow slurm` then do not requeue.
pub const HOLD_VARIABLE: &str = "QAFLOW_HOLD_FILE";

/// Tells whoever started the run that starting it again is of no use.
fn hold(why: &str) {
    let Some(path) = std::env::var_os(HOLD_VARIABLE).filter(|path| !path.is_empty()) else { return };
    if let Err(error) = std::fs::write(&path, format!("{why}\n")) {
        tracing::warn!("{HOLD_VARIABLE}: cannot write {}: {error}", std::path::Path::new(&path).display());
    }
}

/// The accounts of the attempt that runs; clones share them.
#[derive(Clone)]
pub struct GpuTime {
    shared: Arc<Shared>,
}

struct Shared {
    plan: Plan,
    store: Arc<dyn Store>,
    monitor: GpuMonitor,
    tally: Arc<Mutex<Tally>>,
    unseen: Vec<Unseen>,
    limit: Option<usize>,
    shares: usize,
    /// When the process began.
    began: Instant,
    earlier: LedgerTotals,
    overhead: f64,
    now: Mutex<Now>,
}

/// What changes while the attempt runs.
struct Now {
    ledger: Ledger,
    budget: Option<Budget>,
    state: BudgetState,
    projection: Option<Projection>,
    projected: Option<Instant>,
    documents_total: u64,
    stopped: bool,
}

/// What an attempt's accounts begin from.
pub struct Beginning<'a> {
    /// The run.
    pub plan: &'a Plan,
    /// The state.
    pub state: &'a State,
    /// The documents.
    pub listing: &'a Listing,
    /// At most so many of them.
    pub limit: Option<usize>,
    /// The share of them.
    pub shard: Option<Shard>,
    /// The budget.
    pub budget: Option<BudgetConfig>,
    /// `--extend-budget`, in GPU-hours.
    pub extend: Option<f64>,
    /// When the process began.
    pub began: Instant,
}

/// Whether an attempt may begin.
pub enum Begun {
    /// It may; the changes go into the commit that gives it its number.
    Yes(GpuTime, Vec<Change>),
    /// The budget is used up.
    UsedUp(String),
}

impl GpuTime {
    /// Closes the attempt before, if it was killed, and begins the record of this one. With the budget used up, and
    /// something left to do, nothing is begun.
    ///
    /// # Errors
    /// If the store cannot be read, or an extension is asked for without a budget.
    pub fn begin(from: &Beginning<'_>, monitor: GpuMonitor, anything_left: bool) -> anyhow::Result<Begun> {
        let store = from.state.store();
        let mut attempts = ledger::attempts(store.as_ref())?;
        let mut tally = Tally::scan(from.plan, store.as_ref())?;
        let mut changes = Vec::new();
        let killed_done = || {
            // What the killed attempt had done is told by the stages that it had.
            let plan = from.state.plan().ok().filter(|old| old.nodes != from.plan.nodes);
            Ok(match plan {
                Some(old) => Tally::scan(&old, store.as_ref())?.documents_done(),
                None => tally.documents_done(),
            })
        };
        changes.extend(ledger::close_killed(store.as_ref(), &mut attempts, killed_done)?);
        let earlier = LedgerTotals::of(&attempts);
        let mut budget = from.budget.map(|config| Budget::new(config, earlier.budget_extended_gpu_hours));
        let job = slurm_job();
        let extension = match (&mut budget, from.extend) {
            (Some(budget), Some(asked)) => {
                Some((asked, budget.extend(asked, earlier.gpu_hours(), job.as_deref(), &attempts)))
            }
            (None, Some(_)) => {
                return Err(
                    UsageError("--extend-budget: the configuration has no budget.gpu_hours to extend".into()).into()
                );
            }
            (_, None) => None,
        };
        if let Some(budget) = &budget
            && let Some(why) = budget.used_up(earlier.gpu_hours(), earlier.attempts)
            && anything_left
        {
            // Nothing is begun, so nothing is extended either: the record that would hold it is not written.
            let why = extension
                .map_or(why, |(asked, extension)| budget.still_used_up(asked, &extension, earlier.gpu_hours()));
            hold(&why);
            return Ok(Begun::UsedUp(why));
        }
        let now = ledger::accounts(store.as_ref(), ledger::stages(from.plan), tally.documents_done())?;
        let at_start = ledger::beginning(now, &attempts);
        tally.note_paid(&at_start);
        let origin = Origin {
            job,
            node: super::state::host(),
            restart_count: std::env::var("SLURM_RESTART_COUNT").ok().and_then(|count| count.parse().ok()),
        };
        let number = from.state.attempts()? + 1;
        let moment = Moment { wall: super::now(), elapsed: from.began.elapsed() };
        let mut ledger = Ledger::begin(number, origin, monitor.held(), monitor.source(), at_start, &moment);
        if let Some((asked, extension)) = extension {
            ledger.extended(asked, extension.granted);
            match extension.why_not {
                None => tracing::info!("the budget is extended by {asked} GPU-hours"),
                Some(why) => tracing::info!("the budget is not extended again: {why}"),
            }
        }
        changes.push(ledger::written(ledger.record()));
        let unseen = from.listing.files().iter().map(|file| Unseen { name: file.name.clone(), bytes: file.bytes });
        let shared = Shared {
            plan: from.plan.clone(),
            store,
            monitor,
            tally: Arc::new(Mutex::new(tally)),
            unseen: unseen.collect(),
            limit: from.limit,
            shares: from.shard.map_or(1, |shard| shard.count() as usize),
            began: from.began,
            overhead: budget.as_ref().map_or(DEFAULT_OVERHEAD, Budget::overhead),
            earlier,
            now: Mutex::new(Now {
                ledger,
                budget,
                state: BudgetState::Within,
                projection: None,
                projected: None,
                documents_total: 0,
                stopped: false,
            }),
        };
        Ok(Begun::Yes(Self { shared: Arc::new(shared) }, changes))
    }

    /// The tally, to be kept as items end.
    pub fn tally(&self) -> Arc<Mutex<Tally>> {
        Arc::clone(&self.shared.tally)
    }

    /// Keeps the accounts until it is dropped.
    pub async fn keep(self, commit: Arc<dyn Commit>, progress: Arc<Progress>, stop: Stop) {
        loop {
            tokio::time::sleep(ledger::next_tick(self.shared.began.elapsed())).await;
            let this = self.clone();
            let (progress, stop) = (Arc::clone(&progress), stop.clone());
            // Reading the accounts and drawing the interval take longer than a runtime's thread should be held.
            let ticked = tokio::task::spawn_blocking(move || this.tick(&progress, &stop)).await;
            let change = match ticked {
                Ok(Ok(change)) => change,
                Ok(Err(error)) => {
                    tracing::warn!("the ledger cannot be kept: {error}");
                    continue;
                }
                // The runtime ends.
                Err(_) => return,
            };
            if commit.commit(vec![change]).await.is_err() {
                // The engine meets the same error, and ends the run by it.
                return;
            }
        }
    }

    fn tick(&self, progress: &Progress, stop: &Stop) -> Result<Change, StoreError> {
        self.project(progress);
        let change = self.update()?;
        let mut now = self.now();
        let used = self.used(&now);
        let projection = now.projection;
        if let Some(budget) = &mut now.budget {
            let (state, warning) = budget.judge(used, projection.as_ref());
            let (limit, why) = (budget.limit(), budget.used_up(used, self.shared.earlier.attempts + 1));
            metrics::budget(limit, used, state.level());
            now.state = state;
            if let Some(warning) = warning {
                tracing::warn!("{warning}");
            }
            if let Some(why) = why
                && stop.request(StopReason::Limit(why.clone()))
            {
                now.stopped = true;
                hold(&why);
            }
        }
        Ok(change)
    }

    /// Brings the record up to date.
    fn update(&self) -> Result<Change, StoreError> {
        let shared = &self.shared;
        let done = shared.tally.lock().unwrap_or_else(PoisonError::into_inner).documents_done();
        let accounts = ledger::accounts(shared.store.as_ref(), ledger::stages(&shared.plan), done)?;
        let process = process::now();
        metrics::process(&process);
        let mut now = self.now();
        now.ledger.tick(&self.moment(), &accounts, &shared.monitor.figures(), &process);
        metrics::gpu_seconds(shared.earlier.gpu_seconds + now.ledger.record().gpu_seconds);
        Ok(ledger::written(now.ledger.record()))
    }

    fn project(&self, progress: &Progress) {
        let shared = &self.shared;
        let used = {
            let now = self.now();
            if now.projected.is_some_and(|at| at.elapsed() < PROJECT_EVERY) && now.projection.is_some() {
                return;
            }
            self.used(&now)
        };
        let seen = progress.documents_seen.load(std::sync::atomic::Ordering::Relaxed);
        let most = if progress.source_ended.load(std::sync::atomic::Ordering::Relaxed) {
            0
        } else {
            shared.limit.map_or(usize::MAX, |limit| limit.saturating_sub(seen as usize))
        };
        let (done, ahead) = {
            let tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
            // Of a shard's documents not seen yet only the number is known, about.
            tally.split(used, shared.unseen.iter().step_by(shared.shares).take(most))
        };
        let total = (done.len() + ahead.len()) as u64;
        let projection = if used > 0.0 { project_sized(&done, &ahead, shared.overhead, SEED) } else { None };
        if let Some(projection) = &projection {
            metrics::budget_projection(projection.low, projection.expected, projection.high);
        }
        let mut now = self.now();
        now.projection = projection;
        now.projected = Some(Instant::now());
        now.documents_total = total;
    }

    /// GPU-hours over all attempts.
    fn used(&self, now: &Now) -> f64 {
        (self.shared.earlier.gpu_seconds + now.ledger.gpu_seconds(self.shared.began.elapsed())) / 3600.0
    }

    /// What `status` says.
    pub fn status(&self) -> GpuStatus {
        let shared = &self.shared;
        let now = self.now();
        let record = now.ledger.record();
        let figures = shared.monitor.figures();
        let used = self.used(&now);
        GpuStatus {
            held: record.gpus.len() as u64,
            source: record.gpu_source.name().into(),
            seconds_attempt: now.ledger.gpu_seconds(shared.began.elapsed()),
            seconds_total: used * 3600.0,
            attempts: shared.earlier.attempts + 1,
            killed: shared.earlier.killed,
            utilization_mean: figures.utilization_mean,
            energy_joules: added(shared.earlier.energy_joules, figures.energy_joules),
            energy_joules_attempt: figures.energy_joules,
            gpus: figures.now,
            documents_done: shared.tally.lock().unwrap_or_else(PoisonError::into_inner).documents_done(),
            documents_total: now.documents_total,
            projection: now.projection,
            budget: now.budget.as_ref().map(|budget| BudgetStatus {
                gpu_hours: budget.limit(),
                extended_gpu_hours: budget.extended(),
                used_gpu_hours: used,
                warn_at: budget.warn_at(),
                state: now.state,
                states: 1,
                states_over: 0,
            }),
        }
    }

    /// Whether the used-up budget stopped the run.
    pub fn budget_stopped(&self) -> bool {
        self.now().stopped
    }

    /// The last entry of the record, written by the writer before it ends.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn end(&self, commit: &dyn Commit, end: AttemptEnd) -> Result<(), StoreError> {
        self.update()?;
        let change = self.ended(end);
        commit.commit(vec![change]).await.map(|_| ())
    }

    /// What came after the end of the work, such as the export, held the GPUs too.
    pub fn close(&self, state: &State) {
        let end = self.now().ledger.record().end.clone();
        let change = self.ended(end);
        let written = state.lease.check().and_then(|()| state.store.commit(&[change]));
        if let Err(error) = written {
            tracing::warn!("the ledger's last entry cannot be written: {error}");
        }
    }

    fn ended(&self, end: AttemptEnd) -> Change {
        let mut now = self.now();
        let stopped = now.stopped;
        now.ledger.end(&self.moment(), end, stopped);
        ledger::written(now.ledger.record())
    }

    fn moment(&self) -> Moment {
        Moment { wall: super::now(), elapsed: self.shared.began.elapsed() }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.shared.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the GPUs, which can take as long as the driver takes to wake them.
///
/// # Errors
/// If the runtime ends.
pub async fn monitor(mode: GpuMode, backend: Backend) -> anyhow::Result<GpuMonitor> {
    let load =
        move || backend.status().iter().fold((0, 0), |(busy, slots), one| (busy + one.in_flight, slots + one.limit));
    let start = move || GpuMonitor::start(mode, Arc::new(load), &|name| std::env::var(name).ok());
    tokio::task::spawn_blocking(start).await.context("cannot look for GPUs")
}

/// Without a budget, what is left is expected to take so much more than what is done (as `budget.overhead` by default).
const DEFAULT_OVERHEAD: f64 = 0.1;

/// How the engine's end is entered in the ledger.
pub fn end_of(ended: &Result<RunEnd, EngineError>) -> AttemptEnd {
    match ended {
        Ok(RunEnd::Finished) => AttemptEnd::Finished,
        Ok(RunEnd::Interrupted(reason)) => AttemptEnd::Interrupted { reason: reason.clone() },
        Err(error) => AttemptEnd::Failed { reason: error.to_string() },
    }
}
