//! What a run shows to Prometheus: the listener, the announcement, the levels, and the final values.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::UsageError;
use super::build::Backend;
use super::progress::{Attempt, Status};
use super::state::host;
use crate::config::TelemetryTargets;
use crate::engine::Progress;
use crate::llm::endpoints::{EndpointStatus, Endpoints};
use crate::llm::server_figures::ServerFigures;
use crate::model::plan::Plan;
use crate::model::record::ItemKey;
use crate::model::store::Store;
use crate::model::{ItemId, PayloadKind, StoreError};
use crate::sources::Shard;
use crate::telemetry::exporter::Exporter;
use crate::telemetry::metrics::{self, EndpointLevel};
use crate::telemetry::target::{TargetFile, TargetLabels, reachable};

/// How often the disk is looked at and the documents that are done are counted.
const SLOW_EVERY: Duration = Duration::from_secs(10);
/// How often the state's size is added up: its texts are as many files as there are documents.
const SIZE_EVERY: Duration = Duration::from_secs(60);
/// How often the model servers' own figures are read.
const SERVERS_EVERY: Duration = Duration::from_secs(5);

/// What serves, announces and hands over a run's metrics.
pub(super) struct Observer {
    exporter: Exporter,
    targets: TelemetryTargets,
    /// Where it is listened at, if it is.
    address: Option<String>,
    labels: Option<TargetLabels>,
    announced: Option<TargetFile>,
    state: PathBuf,
    figures: Option<Figures>,
    tasks: JoinSet<()>,
}

/// What is looked at now and then.
#[derive(Clone)]
struct Figures {
    plan: Plan,
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    /// Documents listed, those of other shares included.
    listed: u64,
    /// Among how many the corpus is divided.
    shares: u64,
}

impl Observer {
    /// Begins to keep metrics, and to serve them; `None` if nobody wants any.
    ///
    /// # Errors
    /// If the address cannot be listened at.
    pub(super) async fn listen(targets: &TelemetryTargets) -> anyhow::Result<Option<Self>> {
        if !targets.any() {
            return Ok(None);
        }
        let exporter = Exporter::install().map_err(anyhow::Error::msg).context("cannot keep metrics")?;
        let mut address = None;
        if let Some(wanted) = targets.prometheus {
            let listened = exporter.listen(wanted).await;
            let bound = listened.map_err(|error| UsageError(format!("telemetry.prometheus: {error}")))?;
            let shown = reachable(bound, &host());
            tracing::info!("metrics at http://{shown}/metrics");
            address = Some(shown);
        }
        Ok(Some(Self {
            exporter,
            targets: targets.clone(),
            address,
            labels: None,
            announced: None,
            state: PathBuf::new(),
            figures: None,
            tasks: JoinSet::new(),
        }))
    }

    /// Says what runs, and lets Prometheus find it.
    ///
    /// # Errors
    /// If the target file cannot be written.
    pub(super) fn announce(
        &mut self,
        plan: &Plan,
        state: &Path,
        shard: Option<Shard>,
        attempt: &Attempt,
    ) -> anyhow::Result<()> {
        let began = SystemTime::now() - attempt.clock.elapsed();
        let began = began.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        metrics::run(&plan.run_id, &plan.pipeline, &plan.model, attempt.number, began);
        metrics::begin(plan.nodes.iter().map(|node| node.name.as_str()));
        let whole = state.canonicalize().unwrap_or_else(|_| state.to_owned());
        let labels = TargetLabels {
            run_id: plan.run_id.clone(),
            state: whole.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            shard: shard.map_or_else(|| "0/1".to_owned(), |shard| shard.to_string()),
        };
        if let (Some(place), Some(address)) = (&self.targets.file_sd, &self.address) {
            let written = TargetFile::write(place, state, address, &labels)
                .with_context(|| format!("telemetry.file_sd: cannot write to {}", place.display()))?;
            tracing::info!("announced to Prometheus by {}", written.path().display());
            self.announced = Some(written);
        }
        self.labels = Some(labels);
        state.clone_into(&mut self.state);
        Ok(())
    }

    /// Keeps the figures up to date that are not worth a look every second.
    pub(super) fn watch(
        &mut self,
        plan: &Plan,
        store: Arc<dyn Store>,
        progress: Arc<Progress>,
        attempt: &Attempt,
        backend: &Backend,
    ) {
        let shares = self.labels.as_ref().map_or(1, |labels| shares(&labels.shard));
        let figures = Figures { plan: plan.clone(), store, progress, listed: attempt.documents_found, shares };
        self.figures = Some(figures.clone());
        let state = self.state.clone();
        self.tasks.spawn(async move {
            let mut ticks = interval(SLOW_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut sized: Option<Instant> = None;
            loop {
                ticks.tick().await;
                let size = sized.is_none_or(|at| at.elapsed() >= SIZE_EVERY);
                if size {
                    sized = Some(Instant::now());
                }
                let (figures, state) = (figures.clone(), state.clone());
                // Reads of the disk; a slow one must hold nothing else up.
                let looked = tokio::task::spawn_blocking(move || {
                    figures.show(&state);
                    if size {
                        metrics::state_bytes(size_of(&state));
                    }
                });
                if looked.await.is_err() {
                    return;
                }
            }
        });
        if self.targets.vllm_metrics
            && let Backend::Servers(endpoints) = backend
        {
            self.tasks.spawn(watch_servers(Arc::clone(endpoints)));
        }
    }

    /// Brings the figures up to date for the last time and hands them to the Pushgateway; the announcement is taken
    /// back.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
        let (Some(gateway), Some(labels)) = (&self.targets.pushgateway, &self.labels) else { return };
        if let Some(figures) = &self.figures {
            figures.show(&self.state);
        }
        if let Err(error) = gateway.put(&labels.pairs(), &self.exporter.page()).await {
            tracing::warn!("telemetry.pushgateway: the final metrics were not taken: {error}");
        }
    }
}

/// Shows the levels of a run.
pub(super) fn publish(plan: &Plan, status: &Status) {
    for stage in &status.stages {
        metrics::stage_level(&stage.name, stage.in_flight, stage.queued, stage.capacity);
        metrics::stage_totals(&stage.name, [stage.done, stage.rejected, stage.dead, stage.pending, stage.emitted]);
    }
    for endpoint in &status.model.endpoints {
        metrics::endpoint_level(&endpoint.url, level(endpoint));
    }
    metrics::eta(match status.phase {
        super::progress::Phase::Finished => Some(0.0),
        _ => status.eta_seconds,
    });
    let [accepted, rejected, dead, open] = pairs(plan, status);
    metrics::pairs(accepted, rejected, dead, open);
}

fn level(endpoint: &EndpointStatus) -> EndpointLevel {
    EndpointLevel {
        in_flight: endpoint.in_flight,
        slots: endpoint.limit,
        waiting: endpoint.waiting,
        out: endpoint.out_seconds.is_some(),
        silent: endpoint.silent_seconds.is_some(),
    }
}

/// Pairs accepted, rejected, dead and open, from the accounts of the stages that take pairs.
fn pairs(plan: &Plan, status: &Status) -> [u64; 4] {
    let of_pairs = |kind: PayloadKind| matches!(kind, PayloadKind::Pair | PayloadKind::Verdict | PayloadKind::Score);
    let mut totals = [0; 4];
    for (node, stage) in plan.nodes.iter().zip(&status.stages) {
        if of_pairs(node.accepts) {
            for (total, part) in totals[1..].iter_mut().zip([stage.rejected, stage.dead, stage.pending]) {
                *total += part;
            }
        }
        if node.consumers.is_empty() && of_pairs(node.emits) {
            totals[0] += stage.emitted;
        }
    }
    totals
}

/// Among how many a share, as in `0/8`, divides the corpus.
fn shares(shard: &str) -> u64 {
    shard.rsplit_once('/').and_then(|(_, count)| count.parse().ok()).unwrap_or(1)
}

impl Figures {
    fn show(&self, state: &Path) {
        show_disk(state);
        match documents(&self.plan, self.store.as_ref()) {
            Ok((known, done)) => {
                // Which of the documents belong to a share is known when all were read.
                let ended = self.progress.source_ended.load(Ordering::Relaxed);
                let about = if ended { 0 } else { self.listed.div_ceil(self.shares) };
                metrics::documents_found(about.max(known));
                metrics::documents_done(done);
            }
            Err(error) => tracing::debug!("the documents cannot be counted: {error}"),
        }
    }
}

fn show_disk(state: &Path) {
    match rustix::fs::statvfs(state) {
        Ok(fs) => metrics::disk(fs.f_bavail * fs.f_frsize, fs.f_blocks * fs.f_frsize),
        Err(error) => tracing::debug!("the disk of {} cannot be looked at: {error}", state.display()),
    }
}

/// Documents that came in, and those of them of which no stage has anything to do any more.
fn documents(plan: &Plan, store: &dyn Store) -> Result<(u64, u64), StoreError> {
    let mut known = 0;
    let mut open = std::collections::HashSet::new();
    for (at, node) in plan.nodes.iter().enumerate() {
        let key = plan.key(at);
        if node.from_source {
            known = store.counts(&key)?.admitted.max(known);
        }
        let until = store.epoch();
        let mut after: Option<ItemKey> = None;
        // One look a document, not one an item: on to behind the last place that the document can have.
        while let Some(item) = store.pending(&key, after.as_ref(), until, 1)?.pop() {
            let root = item.key.lineage.root();
            open.insert(root);
            let last = crate::model::Lineage::document(&root).child(u32::MAX).child(u32::MAX).child(u32::MAX);
            after = Some(ItemKey { lineage: last, id: ItemId([0xff; 32]) });
        }
    }
    Ok((known, known.saturating_sub(open.len() as u64)))
}

/// The bytes of all files in a folder and below; what cannot be read does not count.
fn size_of(folder: &Path) -> u64 {
    let files = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    files.filter_map(|entry| entry.metadata().ok()).filter(std::fs::Metadata::is_file).map(|file| file.len()).sum()
}

/// Reads the servers' own figures for as long as it is let.
async fn watch_servers(endpoints: Arc<Endpoints>) {
    let mut before: Vec<Option<ServerFigures>> = Vec::new();
    let mut ticks = interval(SERVERS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let read = endpoints.figures().await;
        before.resize(read.len(), None);
        for ((url, now), before) in read.iter().zip(&mut before) {
            let Some(now) = now else {
                metrics::server_silent(url);
                continue;
            };
            let [queries, hits] = grown(before.as_ref(), now);
            metrics::server(url, now.running, now.waiting, now.kv_usage, queries, hits);
            *before = Some(*now);
        }
    }
}

/// What was added to a server's prefix-cache counters, queries and hits. A server that was started again counts from
/// zero; what it had counted before this run does not belong to it.
fn grown(before: Option<&ServerFigures>, now: &ServerFigures) -> [u64; 2] {
    let Some(before) = before else { return [0, 0] };
    if now.prefix_queries < before.prefix_queries || now.prefix_hits < before.prefix_hits {
        return [now.prefix_queries, now.prefix_hits];
    }
    [now.prefix_queries - before.prefix_queries, now.prefix_hits - before.prefix_hits]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counted() {
        assert_eq!(["0/1", "3/8", "odd"].map(shares), [1, 8, 1]);
    }

    #[test]
    fn a_server_that_starts_again_counts_from_zero() {
        let at = |prefix_queries, prefix_hits| ServerFigures { prefix_queries, prefix_hits, ..Default::default() };
        assert_eq!(grown(None, &at(100, 50)), [0, 0]);
        assert_eq!(grown(Some(&at(100, 50)), &at(130, 55)), [30, 5]);
        assert_eq!(grown(Some(&at(100, 50)), &at(30, 20)), [30, 20]);
        assert_eq!(grown(Some(&at(100, 50)), &at(120, 20)), [120, 20]);
    }
}
