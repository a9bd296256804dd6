//! Watches a run from its own process: the status file, the history, the metrics' levels, the display or the log.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::build::Backend;
use super::display::Display;
use super::gpu_time::GpuTime;
use super::observe;
use super::progress::{self, Attempt, ModelStatus, Phase, Status};
use super::sampling::{self, Sampled};
use crate::engine::{Progress, Stop, StopReason};
use crate::llm::endpoints::EndpointStatus;
use crate::model::StoreError;
use crate::model::plan::Plan;
use crate::model::store::{Lease, Store};

/// The status file is written after so many samples: once a second.
const STATUS_EVERY: u32 = 10;
/// How often a line goes to the job log.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Keeps the status file, the metrics' levels and the progress display up to date.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) dir: PathBuf,
    pub(super) plan: Plan,
    pub(super) store: Arc<dyn Store>,
    pub(super) lease: Arc<dyn Lease>,
    pub(super) progress: Arc<Progress>,
    pub(super) attempt: Attempt,
    pub(super) backend: Backend,
    pub(super) stop: Stop,
    pub(super) gpu: GpuTime,
    pub(super) sampled: Arc<Mutex<Sampled>>,
}

impl Watch {
    /// What the run is doing.
    pub(super) fn status(&self, phase: Phase) -> anyhow::Result<Status> {
        let endpoints = self.backend.status();
        let sum = |of: fn(&EndpointStatus) -> u64| endpoints.iter().map(of).sum::<u64>();
        let (in_flight, slots, waiting) = (sum(|e| e.in_flight), sum(|e| e.limit), sum(|e| e.waiting));
        let model = ModelStatus {
            name: self.plan.model.clone(),
            in_flight,
            slots,
            waiting,
            endpoints,
            ..ModelStatus::default()
        };
        let (store, sampled) = (self.store.as_ref(), self.sampled.lock().unwrap_or_else(PoisonError::into_inner));
        let mut status = progress::take(&self.plan, store, &self.progress, &self.attempt, model, phase, &sampled)?;
        status.gpu = self.gpu.status();
        status.budget_stopped = self.gpu.budget_stopped();
        if phase == Phase::Finished {
            // Nothing is left to expect.
            status.gpu.finish();
        }
        observe::publish(&self.plan, &status);
        Ok(status)
    }

    /// The run's history, for plots; a run goes on without one.
    pub(super) fn history(&self) -> Option<super::history::Recorder> {
        super::history::Recorder::open(&self.dir)
            .map_err(|error| tracing::warn!("no history is kept in {}: {error}", self.dir.display()))
            .ok()
    }

    /// Writes and shows it for as long as the run goes on.
    pub(super) async fn keep(self) {
        let display = Display::for_run(&self.plan);
        let mut history = self.history();
        let mut last_line = Instant::now();
        let mut ticks = tokio::time::interval(sampling::EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for tick in 0_u32.. {
            ticks.tick().await;
            // Whoever took the state over writes the status file from now on, and nothing here can be committed.
            if tick % STATUS_EVERY == 0
                && let Err(error @ StoreError::Lease(_)) = self.lease.check()
            {
                self.stop.request(StopReason::Fatal(error.to_string()));
                return;
            }
            let elapsed = self.attempt.clock.elapsed();
            let mut sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
            sampled.take(&self.progress, &self.backend.status(), elapsed);
            drop(sampled);
            if tick % STATUS_EVERY != 0 {
                continue;
            }
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
            if let Some(Err(error)) = history.as_mut().map(|history| history.note(&status, false)) {
                tracing::debug!("the history cannot be written: {error}");
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
