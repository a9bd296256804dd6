//! The bare client loop: as many tasks as the server has slots, each sending prepared requests back to back through
//! the same HTTP client that the flow uses, and nothing else. It is the most that any client on this machine can do.
//!
//! The requests are the flow's own: before the measurement a few documents are taken through the configured stages,
//! and what these ask is written down.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::simulator::Simulator;
use super::window::{self, Steady};
use crate::app::build::{self, Configuration};
use crate::llm::openai::OpenAiClient;
use crate::model::llm::{Completion, CompletionRequest, LlmClient};
use crate::model::record::ItemKey;
use crate::model::{Fingerprint, Item, ItemId, Lineage, LlmError, Outcome, Payload};
use crate::sources::{Found, discover};
use crate::stages::StageContext;
use crate::store::FileTexts;

/// Requests that are enough to be a fair sample of what the flow asks.
const ENOUGH: usize = 2_000;
/// Items that are prepared at the same time.
const AT_ONCE: usize = 256;

/// Passes requests on and writes them down.
struct Recorder {
    inner: OpenAiClient,
    requests: Mutex<Vec<CompletionRequest>>,
}

impl LlmClient for Recorder {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        self.inner.complete(request)
    }
}

/// The requests of the first documents of a configuration's input, in a mix like that of a flow under way.
///
/// # Errors
/// If a stage fails.
pub(super) async fn prepare(config: &Path, scratch: &Path) -> anyhow::Result<Vec<CompletionRequest>> {
    let loaded = build::load(config, &[])?;
    let recorder = Arc::new(Recorder {
        inner: build::first_server(&loaded.run.llm)?,
        requests: Mutex::new(Vec::with_capacity(ENOUGH)),
    });
    let context = StageContext {
        dialect: build::dialect(&loaded.run.llm).into(),
        texts: Arc::new(FileTexts::open(scratch, 16 << 20)?),
        llm: Arc::clone(&recorder) as Arc<dyn LlmClient>,
        model: loaded.run.llm.model.as_str().into(),
        worker_program: std::env::current_exe().context("cannot find this program's own file")?,
    };
    let listing = discover(&loaded.run.input, None)?;
    for found in listing.documents() {
        let Found::New(document) = found? else { continue };
        let key = ItemKey { lineage: Lineage::document(&document.sha256), id: ItemId::document(&document.sha256) };
        take_through(&loaded, &context, Item { key, payload: Payload::Document(document), priority: 0 }).await?;
        if recorder.requests.lock().unwrap_or_else(PoisonError::into_inner).len() >= ENOUGH {
            break;
        }
    }
    let mut requests = std::mem::take(&mut *recorder.requests.lock().unwrap_or_else(PoisonError::into_inner));
    if requests.is_empty() {
        bail!("the pipeline asked the model nothing");
    }
    fastrand::Rng::with_seed(7).shuffle(&mut requests);
    Ok(requests)
}

/// Takes one item through all stages, which stand in a row.
async fn take_through(loaded: &Configuration, context: &StageContext, item: Item) -> anyhow::Result<()> {
    let mut items = vec![item];
    for declared in &loaded.graph.declared {
        let entry = &loaded.pipeline.stages[*declared];
        let stage = entry.params.build(context).map_err(|fault| anyhow!("stage `{}`: {fault}", entry.name))?;
        let fingerprint = Fingerprint::of(&[("stage", entry.name.as_bytes())]);
        let outcomes: Vec<_> =
            futures::stream::iter(&items).map(|item| stage.process(item)).buffered(AT_ONCE).collect().await;
        let mut below = Vec::new();
        for (item, outcome) in items.iter().zip(outcomes) {
            let outcome = outcome.map_err(|error| anyhow!("stage `{}`: {}", entry.name, error.reason))?;
            let Outcome::Emit { children, .. } = outcome else { continue };
            for (ordinal, payload) in (0..).zip(children) {
                let id = ItemId::derive(&item.key.id, &fingerprint, ordinal);
                let key = ItemKey { lineage: item.key.lineage.child(ordinal), id };
                below.push(Item { key, payload, priority: item.priority + 1 });
            }
        }
        items = below;
    }
    Ok(())
}

/// Loops for a time, and returns the steady part.
///
/// # Errors
/// If a request fails, since then it is not the server's full speed that is measured.
pub(super) async fn measure(
    simulator: &Simulator,
    config: &Path,
    requests: Arc<Vec<CompletionRequest>>,
    slots: u32,
    length: Duration,
) -> anyhow::Result<Steady> {
    let client = Arc::new(build::first_server(&build::load(config, &[])?.run.llm)?);
    simulator.reset().await?;
    let (next, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let mut tasks = JoinSet::new();
    for _ in 0..slots {
        let (client, requests) = (Arc::clone(&client), Arc::clone(&requests));
        let (next, stop) = (Arc::clone(&next), stop.clone());
        tasks.spawn(async move {
            while !stop.is_cancelled() {
                client.complete(&requests[next.fetch_add(1, Ordering::Relaxed) % requests.len()]).await?;
            }
            Ok::<(), LlmError>(())
        });
    }
    let began = Instant::now();
    let mut samples = Vec::new();
    while began.elapsed() < length {
        tokio::time::sleep(window::EVERY).await;
        samples.extend(window::sample(simulator, std::process::id()).await?);
        if let Some(ended) = tasks.try_join_next() {
            ended.context("a task of the bare loop failed")?.context("a request of the bare loop failed")?;
        }
    }
    // What is in flight is answered still, so that nothing of it is with the server when the next measurement begins.
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of the bare loop failed")?.context("a request of the bare loop failed")?;
    }
    Steady::of(&samples, false)
}
