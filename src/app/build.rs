//! From a configuration to things that run: the model behind its decorators, and the flow of stages.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Context, anyhow};
use futures::future::BoxFuture;

use super::UsageError;
use super::observed::{Asking, rehearsed};
use super::target;
use crate::config::{self, Concurrency, Kinds, LlmConfig, Loaded, Provider};
use crate::engine::{Flow, FlowNode, Stop, StopReason};
use crate::llm::concurrency::{Slots, Slotted};
use crate::llm::embedded::EmbeddedModel;
use crate::llm::endpoints::{Endpoint, EndpointStatus, Endpoints, ProbePlan};
use crate::llm::journal::Journaled;
use crate::llm::limits::Limits;
use crate::llm::openai::{OpenAiClient, OpenAiOptions, StructuredOutput};
use crate::llm::retry::{GiveUp, Retried, RetryPolicy};
use crate::model::llm::{Completion, CompletionRequest, LlmClient};
use crate::model::near_duplicates::NearDuplicateParams;
use crate::model::params::Reader;
use crate::model::plan::{PLAN_FORMAT, Plan, PlanNode};
use crate::model::store::{Commit, Store};
use crate::model::text::TextStore;
use crate::model::{LlmError, PayloadKind};
use crate::stages::{self, StageContext, StageParams};
use crate::telemetry::errors::ErrorLog;

/// The stage registry as configuration sees it.
pub struct Registry;

impl Kinds for Registry {
    type Params = StageParams;

    fn kinds(&self) -> Vec<&'static str> {
        stages::KINDS.iter().map(|(name, ..)| *name).collect()
    }

    fn payloads(&self, kind: &str) -> Option<(PayloadKind, PayloadKind)> {
        stages::KINDS.iter().find(|(name, ..)| *name == kind).map(|(_, accepts, emits)| (*accepts, *emits))
    }

    fn read(&self, kind: &str, reader: &mut Reader<'_>) -> Option<StageParams> {
        StageParams::read(kind, reader)
    }
}

/// A configuration, read and checked.
pub type Configuration = Loaded<StageParams>;

/// Reads a configuration; its faults are faults of usage.
///
/// # Errors
/// Every fault, with file and line.
pub fn load(path: &Path, overrides: &[String]) -> anyhow::Result<Configuration> {
    let loaded = config::load(path, overrides, &Registry).map_err(|error| UsageError(error.to_string()))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded)
}

/// The model, ready to be asked.
pub struct Model {
    /// Behind journal, retries and slots.
    pub client: Arc<dyn LlmClient>,
    /// Where it answers.
    pub backend: Backend,
    /// Calls that failed on the way.
    pub errors: Arc<ErrorLog>,
}

/// What stands in place of a server's address for the embedded model.
const IN_PROCESS: &str = "the embedded model";

/// Where a model answers.
#[derive(Clone)]
pub enum Backend {
    /// In the process, on so many threads.
    Embedded(Slots),
    /// On servers.
    Servers(Arc<Endpoints>),
}

impl Backend {
    /// Requests that may be with the model at once.
    pub fn slots(&self) -> usize {
        match self {
            Self::Embedded(slots) => slots.level().1,
            Self::Servers(endpoints) => endpoints.slots(),
        }
    }

    /// How the places where it answers stand.
    pub fn status(&self) -> Vec<EndpointStatus> {
        match self {
            Self::Embedded(slots) => {
                let (in_flight, limit) = slots.level();
                vec![EndpointStatus {
                    url: IN_PROCESS.into(),
                    in_flight: in_flight as u64,
                    limit: limit as u64,
                    waiting: slots.waiting() as u64,
                    ..EndpointStatus::default()
                }]
            }
            Self::Servers(endpoints) => endpoints.status(),
        }
    }
}

/// With `concurrency: auto`, requests in flight at first, and at most, for each server.
const AUTO_START: usize = 20;
const AUTO_MOST: usize = 512;

/// Stands in for the embedded model until it is asked: loading takes a second and 650 MB, which a run that asks
/// nothing must not pay.
struct LazyEmbedded {
    weights: PathBuf,
    threads: usize,
    model: tokio::sync::OnceCell<EmbeddedModel>,
}

impl LlmClient for LazyEmbedded {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(async move {
            let load = || async {
                let (weights, threads) = (self.weights.clone(), self.threads);
                tokio::task::spawn_blocking(move || EmbeddedModel::open(&weights, threads)).await.unwrap_or_else(
                    |error| Err(LlmError::Misconfigured { message: format!("the model cannot be loaded: {error}") }),
                )
            };
            let model = self.model.get_or_try_init(load).await?;
            let began = std::time::Instant::now();
            let result = model.complete(request).await;
            let outcome = result.as_ref().map_or_else(LlmError::label, |_| "ok");
            crate::telemetry::metrics::model_request(IN_PROCESS, outcome, began.elapsed());
            result
        })
    }
}

/// Builds the model of a configuration.
///
/// # Errors
/// If weights or keys are missing or an address cannot be used.
pub fn model(llm: &LlmConfig, store: &Arc<dyn Store>, commit: &Arc<dyn Commit>, stop: &Stop) -> anyhow::Result<Model> {
    let journaled = |inner: Box<dyn LlmClient>| -> Arc<dyn LlmClient> {
        Arc::new(Journaled::new(inner, Arc::clone(store), Arc::clone(commit)))
    };
    let errors = Arc::new(ErrorLog::default());
    if llm.provider == Provider::Embedded {
        let weights = llm.weights.clone().unwrap_or_else(super::model_pull::default_weights_path);
        if !weights.is_file() {
            return Err(UsageError(format!(
                "the embedded model's weights are not at {}: fetch them with `qaflow model pull`",
                weights.display()
            ))
            .into());
        }
        let threads = match llm.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads as usize,
        };
        // As many requests at a time as the model has threads; the furthest stage goes first.
        let slots = Slots::new(threads);
        let lazy = LazyEmbedded { weights, threads, model: tokio::sync::OnceCell::new() };
        let slotted = Slotted::new(lazy, slots.clone(), stop.token());
        return Ok(Model { client: journaled(Box::new(slotted)), backend: Backend::Embedded(slots), errors });
    }
    let give_up: GiveUp = {
        let stop = stop.clone();
        Arc::new(move |why| {
            stop.request(StopReason::Limit(why));
        })
    };
    let total = match llm.concurrency {
        Concurrency::Fixed(limit) => limit as usize,
        Concurrency::Auto => AUTO_START * llm.endpoints.len(),
    };
    let weights: u32 = llm.endpoints.iter().map(|endpoint| endpoint.weight).sum();
    let endpoints = llm
        .endpoints
        .iter()
        .map(|endpoint| {
            let share = (total as f64 * f64::from(endpoint.weight) / f64::from(weights)).ceil() as usize;
            let limits = Limits::new(llm.requests_per_minute, llm.tokens_per_minute);
            let client = openai(llm, endpoint)?;
            Ok(match llm.concurrency {
                Concurrency::Fixed(_) => Endpoint::new(client, endpoint.weight, share, limits),
                Concurrency::Auto => Endpoint::adaptive(client, endpoint.weight, share, AUTO_MOST, limits),
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    if endpoints.is_empty() {
        return Err(UsageError("llm.endpoints names no server".into()).into());
    }
    let plan = ProbePlan {
        model: llm.model.as_str().into(),
        schema_expected: llm.structured_output != config::StructuredOutput::None,
        patience: llm.wait_for_server,
        time_outs_count: llm.retry_timeouts.is_some(),
    };
    let endpoints = Arc::new(Endpoints::new(endpoints, plan, llm.give_up_after, stop.token(), Arc::clone(&give_up)));
    let policy = RetryPolicy {
        first: llm.retry_initial,
        longest: llm.retry_max,
        give_up_after: llm.give_up_after,
        timeouts: llm.retry_timeouts,
    };
    let recovered = endpoints.recovered();
    let retried = Retried::new(Arc::clone(&endpoints), policy, stop.token(), give_up, recovered, Arc::clone(&errors));
    Ok(Model { client: journaled(Box::new(retried)), backend: Backend::Servers(endpoints), errors })
}

/// What the server is told besides a stage's own request, which determines answers too.
pub fn dialect(llm: &LlmConfig) -> String {
    format!("{:?} {:?}", llm.structured_output, llm.extra_body)
}

/// The client of the first endpoint.
///
/// # Errors
/// If there is none or its address cannot be used.
pub fn first_server(llm: &LlmConfig) -> anyhow::Result<OpenAiClient> {
    let endpoint = llm.endpoints.first().ok_or_else(|| UsageError("llm.endpoints names no server".into()))?;
    openai(llm, endpoint)
}

/// The client of an endpoint.
///
/// # Errors
/// If its address cannot be used.
pub fn openai(llm: &LlmConfig, endpoint: &config::Endpoint) -> anyhow::Result<OpenAiClient> {
    let api_key_env = endpoint.api_key_env.clone().or_else(|| llm.api_key_env.clone());
    let api_key = api_key_env.as_ref().and_then(|name| std::env::var(name).ok()).filter(|key| !key.is_empty());
    let extra = serde_json::Value::Object(llm.extra_body.clone()).to_string();
    // The inside of the object.
    let extra_body = extra[1..extra.len() - 1].to_owned();
    Ok(OpenAiClient::new(OpenAiOptions {
        base_url: endpoint.base_url.clone(),
        api_key,
        api_key_env,
        connect_timeout: llm.connect_timeout,
        request_timeout: llm.request_timeout,
        structured_output: match llm.structured_output {
            config::StructuredOutput::ResponseFormat => StructuredOutput::ResponseFormat,
            config::StructuredOutput::StructuredOutputs => StructuredOutput::StructuredOutputs,
            config::StructuredOutput::None => StructuredOutput::None,
        },
        extra_body,
    })?)
}

/// Builds the flow. Stages with a model take more items at once than there are slots, so that a slot never waits for
/// an item that is being committed.
///
/// # Errors
/// What a stage lacks.
pub fn flow(loaded: &Configuration, texts: Arc<dyn TextStore>, model: &Model) -> anyhow::Result<Flow> {
    let server = dialect(&loaded.run.llm);
    let context = StageContext {
        texts,
        llm: Arc::clone(&model.client),
        model: loaded.run.llm.model.as_str().into(),
        dialect: server.as_str().into(),
        worker_program: std::env::current_exe().context("cannot find this program's own file")?,
    };
    let mut built = Vec::new();
    for declared in &loaded.graph.declared {
        let entry = &loaded.pipeline.stages[*declared];
        let asking = Arc::new(AtomicUsize::new(0));
        let llm: Arc<dyn LlmClient> = Arc::new(Asking::new(Arc::clone(&context.llm), Arc::clone(&asking)));
        let stage = entry
            .params
            .build(&StageContext { llm, ..context.clone() })
            .map_err(|fault| UsageError(format!("{}: stage `{}`: {fault}", entry.place, entry.name)))?;
        built.push((rehearsed(&entry.name, stage)?, entry, asking));
    }
    let stages: Vec<_> = built.iter().map(|(stage, entry, _)| (Arc::clone(stage), *entry)).collect();
    let gate = target::gate(&loaded.graph, &stages)?;
    let own = |at: usize| {
        let (stage, entry, _) = &built[at];
        let server = if entry.params.uses_model() { server.as_str() } else { "" };
        format!("{}|{}|{server}", entry.kind, stage.determinants())
    };
    let identities = loaded.graph.fingerprints(|at| own(at).into_bytes());
    // Which items the stages that are held back are given depends on the target.
    let fingerprints = gate.as_ref().map_or_else(
        || identities.clone(),
        |gate| {
            loaded.graph.fingerprints(|at| {
                let wanted = if gate.held.contains(&at) { built[gate.keeper].0.determinants() } else { String::new() };
                format!("{}{wanted}", own(at)).into_bytes()
            })
        },
    );
    for (at, fingerprint) in fingerprints.iter().enumerate() {
        if let Some(twin) = fingerprints[..at].iter().position(|other| other == fingerprint) {
            let (first, second) = (&built[twin].1, &built[at].1);
            return Err(UsageError(format!(
                "{}: stages `{}` and `{}` do the same with the same: make them differ, or leave one out",
                second.place, first.name, second.name
            ))
            .into());
        }
    }
    let with_pairs: Vec<&str> = loaded
        .graph
        .terminals()
        .filter(|at| matches!(built[*at].0.emits(), PayloadKind::Pair | PayloadKind::Verdict | PayloadKind::Score))
        .map(|at| built[at].1.name.as_str())
        .collect();
    if with_pairs.len() > 1 {
        return Err(UsageError(format!(
            "{}: the pipeline ends in {} stages with pairs ({}), which would give each pair several rows: let one stage \
             follow them, or make a pipeline of each",
            loaded.run.pipeline.display(),
            with_pairs.len(),
            with_pairs.join(", ")
        ))
        .into());
    }
    if with_pairs.is_empty() {
        tracing::warn!("the pipeline ends before there are pairs: the dataset will be empty");
    }
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let slots = match loaded.run.llm.concurrency {
        // There must be work for whatever limit is found.
        Concurrency::Auto if loaded.run.llm.provider == Provider::Openai => AUTO_MOST * loaded.run.llm.endpoints.len(),
        _ => model.backend.slots(),
    };
    let nodes = loaded
        .graph
        .nodes
        .iter()
        .zip(built)
        .zip(fingerprints.into_iter().zip(identities))
        .map(|((node, (stage, entry, asking)), (fingerprint, identity))| FlowNode {
            name: node.name.clone(),
            stage,
            fingerprint,
            identity,
            inputs: node.inputs.clone(),
            from_source: node.from_source,
            consumers: node.consumers.clone(),
            depth: node.depth,
            concurrency: entry
                .concurrency
                .unwrap_or_else(|| if entry.params.uses_model() { slots + slots / 2 + 4 } else { cores }),
            buffer: entry.buffer,
            asking,
        })
        .collect();
    Ok(Flow { nodes, gate })
}

/// The plan of a run, which the state keeps.
pub fn plan(loaded: &Configuration, config_file: &Path, out: &Path, flow: &Flow) -> Plan {
    let nodes: Vec<PlanNode> = flow
        .nodes
        .iter()
        .map(|node| PlanNode {
            name: node.name.clone(),
            accepts: node.stage.accepts(),
            emits: node.stage.emits(),
            fingerprint: node.fingerprint.hex(),
            identity: (node.identity != node.fingerprint).then(|| node.identity.hex()),
            inputs: node.inputs.clone(),
            from_source: node.from_source,
            consumers: node.consumers.clone(),
        })
        .collect();
    let run_id = loaded.run.run_id.clone().unwrap_or_else(|| {
        let mut hasher = blake3::Hasher::new_derive_key("qaflow run v1");
        for at in flow.terminals() {
            hasher.update(&flow.nodes[at].fingerprint.0);
        }
        // As they come they leave the name as it is.
        if loaded.pipeline.near_duplicates != NearDuplicateParams::default() {
            hasher.update(format!("{:?}", loaded.pipeline.near_duplicates).as_bytes());
        }
        format!("{}-{}", loaded.pipeline.name, &hasher.finalize().to_hex()[..12])
    });
    Plan {
        format: PLAN_FORMAT,
        pipeline: loaded.pipeline.name.clone(),
        run_id,
        config_file: config_file.display().to_string(),
        config: shown_config(loaded),
        out: out.display().to_string(),
        provider: match loaded.run.llm.provider {
            Provider::Openai => "openai".into(),
            Provider::Embedded => "embedded".into(),
        },
        model: loaded.run.llm.model.clone(),
        max_failure_ratio: loaded.run.max_failure_ratio,
        near_duplicates: loaded.pipeline.near_duplicates,
        nodes,
    }
}

/// The configuration as it took effect. It names the variables that hold keys, never the keys.
fn shown_config(loaded: &Configuration) -> serde_json::Value {
    let llm = &loaded.run.llm;
    let stages: Vec<serde_json::Value> = loaded
        .pipeline
        .stages
        .iter()
        .map(|entry| {
            serde_json::json!({
                "name": entry.name, "kind": entry.kind, "inputs": entry.inputs,
                "parameters": entry.params,
            })
        })
        .collect();
    serde_json::json!({
        "pipeline_file": loaded.run.pipeline.display().to_string(),
        "environment": loaded.run.environment.as_str(),
        "max_failure_ratio": loaded.run.max_failure_ratio,
        "near_duplicates": loaded.pipeline.near_duplicates,
        "export": loaded.run.export,
        "llm": {
            "model": llm.model,
            "endpoints": llm.endpoints.iter().map(|e| e.base_url.clone()).collect::<Vec<_>>(),
            "concurrency": match llm.concurrency { Concurrency::Fixed(n) => n.to_string(), Concurrency::Auto => "auto".into() },
            "structured_output": match llm.structured_output {
                config::StructuredOutput::ResponseFormat => "response_format",
                config::StructuredOutput::StructuredOutputs => "structured_outputs",
                config::StructuredOutput::None => "none",
            },
            "extra_body": llm.extra_body,
        },
        "stages": stages,
    })
}

/// The error of a run that has neither input nor manifest.
pub fn no_input() -> anyhow::Error {
    anyhow!(UsageError(
        "there is no input: name files or folders behind the configuration, or set `input` or `manifest` in it".into()
    ))
}
