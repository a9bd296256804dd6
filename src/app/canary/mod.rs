//! `qaflow canary`: plants known faults into good pairs, sends them through the checks, and says which share is caught
//! and how many good pairs are refused. Sample, faults and order follow from the seed.

mod faults;
mod pairs;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use fastrand::Rng;
use futures::StreamExt as _;
use futures::future::BoxFuture;

use self::faults::{KINDS, plant};
use self::pairs::{Good, Sample};
use super::build::{self, Backend, Configuration};
use super::check_table::{GOOD, Table};
use super::export::print;
use super::{Exit, UsageError, grouped, signals};
use crate::engine::Stop;
use crate::export::near_duplicates::{CHECK, NearDuplicates};
use crate::model::near_duplicates::NearDuplicateParams;
use crate::model::payload::QaPair;
use crate::model::record::{Change, Epoch, ItemKey};
use crate::model::store::{Commit, Store};
use crate::model::{ErrorClass, Item, ItemId, Lineage, Outcome, Payload, Stage, StageError, StoreError};
use crate::stages::validate::checks::{CheckInput, CheckParams, run_with_context};
use crate::stages::{StageContext, StageParams};
use crate::store::MemoryStore;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct CanaryArgs {
    /// A run file, whose validate and score stages and model are tested; needed unless `code_only`.
    pub config: Option<PathBuf>,
    /// Good pairs: a dataset.
    pub dataset: Option<PathBuf>,
    /// Good pairs: the accepted ones of a state.
    pub state: Option<PathBuf>,
    /// Whether only the checks in code are run.
    pub code_only: bool,
    /// How many good pairs are sampled.
    pub limit: usize,
    /// What sample and faults follow from.
    pub seed: u64,
    /// `--set`.
    pub set: Vec<String>,
    /// Whether the table is JSON.
    pub json: bool,
}

/// A pair to be sent through the checks.
struct Case {
    label: &'static str,
    pair: QaPair,
}

/// Plants, checks and reports.
///
/// # Errors
/// If configuration, pairs or model cannot be used.
pub async fn canary(args: CanaryArgs) -> anyhow::Result<Exit> {
    let loaded = args.config.as_ref().map(|config| build::load(config, &args.set)).transpose()?;
    if loaded.is_none() && !args.code_only {
        return Err(UsageError(
            "name the run's configuration, whose stages and model are to be tested, or say --code-only".into(),
        )
        .into());
    }
    if loaded.is_none() && !args.set.is_empty() {
        return Err(UsageError("--set changes a configuration: name one".into()).into());
    }
    let sample = match &args.dataset {
        Some(path) => pairs::of_dataset(path, args.limit, args.seed)?,
        None => pairs::of_state(args.state.as_deref(), args.limit, args.seed)?,
    };
    if sample.pairs.is_empty() {
        return Err(UsageError(
            "there are no pairs to plant faults into: give a dataset or a state that has some".into(),
        )
        .into());
    }
    let cases = cases(&sample, args.seed)?;
    let near = loaded.as_ref().map_or_else(NearDuplicateParams::default, |loaded| loaded.pipeline.near_duplicates);
    let mut seen = NearDuplicates::new(near);
    for Good { id, pair } in &sample.pairs {
        seen.offer(id, &pair.question, &pair.answer);
    }
    let refused = if let (Some(loaded), false) = (&loaded, args.code_only) {
        let Some(refused) = by_stages(loaded, &sample, &cases).await? else { return Ok(Exit::Interrupted) };
        refused
    } else {
        let params = loaded.as_ref().and_then(check_params).unwrap_or_default();
        cases.iter().map(|case| by_code(&params, &sample, &case.pair)).collect::<Result<_, _>>()?
    };
    let mut table = Table::default();
    for (case, refused) in cases.iter().zip(refused) {
        // Every planted pair is a pair of the sample but for its fault: only copies are to be found as such.
        let copy = case.label.starts_with("duplicate") && near.enabled;
        let found = || seen.find(&case.pair.question, &case.pair.answer).map(|_| CHECK.to_owned());
        let by = refused.or_else(|| if copy { found() } else { None });
        table.count(case.label, by.as_deref());
    }
    if args.json {
        let mut json = table.json();
        json["seed"] = args.seed.into();
        json["pairs_sampled"] = sample.pairs.len().into();
        json["code_only"] = args.code_only.into();
        json["model"] = loaded.as_ref().filter(|_| !args.code_only).map(|loaded| loaded.run.llm.model.clone()).into();
        print(&json.to_string());
    } else {
        print(&table.text());
        let by = match &loaded {
            Some(loaded) if !args.code_only => format!("checks in code and by {}", loaded.run.llm.model),
            _ => "checks in code".into(),
        };
        let sampled = grouped(sample.pairs.len() as u64);
        print(&format!("\n{by}; faults planted into {sampled} good pairs, seed {}", args.seed));
    }
    Ok(Exit::Done)
}

/// The good pairs, then the planted ones by kind.
fn cases(sample: &Sample, seed: u64) -> anyhow::Result<Vec<Case>> {
    let good: Vec<&Good> = sample.pairs.iter().filter(|good| !good.pair.is_unanswerable()).collect();
    let mut cases: Vec<Case> = good.iter().map(|good| Case { label: GOOD, pair: good.pair.clone() }).collect();
    let passages: Vec<String> = good.iter().map(|good| passage(sample, &good.pair)).collect::<Result<_, _>>()?;
    for kind in KINDS {
        for (at, Good { id, pair }) in good.iter().enumerate() {
            let digest = blake3::hash(format!("{seed} {kind} {id}").as_bytes());
            let mut first = [0; 8];
            first.copy_from_slice(&digest.as_bytes()[..8]);
            let mut random = Rng::with_seed(u64::from_le_bytes(first));
            let elsewhere: Vec<&str> =
                good.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, other)| other.pair.quote.as_str()).collect();
            let plain = faults::Pair {
                question: pair.question.clone(),
                answer: pair.answer.clone(),
                quote: pair.quote.clone(),
            };
            if let Some(planted) = plant(kind, &plain, &passages[at], &elsewhere, &mut random) {
                let faults::Pair { question, answer, quote } = planted;
                cases.push(Case { label: kind, pair: QaPair { question, answer, quote, ..pair.clone() } });
            }
        }
    }
    Ok(cases)
}

fn passage(sample: &Sample, pair: &QaPair) -> Result<String, StageError> {
    Ok(crate::stages::chunk_text(sample.texts.as_ref(), &pair.chunk)?.to_string())
}

fn check_params(loaded: &Configuration) -> Option<CheckParams> {
    loaded.pipeline.stages.iter().find_map(|entry| match &entry.params {
        StageParams::Validate(params) => Some(params.checks.clone()),
        _ => None,
    })
}

/// The check in code that refuses a pair.
fn by_code(params: &CheckParams, sample: &Sample, pair: &QaPair) -> Result<Option<String>, StageError> {
    let source = passage(sample, pair)?;
    let input = CheckInput {
        question: &pair.question,
        answer: &pair.answer,
        quote: &pair.quote,
        source: &source,
        unanswerable: pair.is_unanswerable(),
    };
    let title = pair.chunk.source.title.as_deref();
    let context: Vec<&str> = title.into_iter().chain(pair.chunk.headings.iter().map(String::as_str)).collect();
    Ok(run_with_context(params, &input, &context).failed.map(|failure| failure.check))
}

/// Sends all cases through the validate and score stages. `None` if it was interrupted.
async fn by_stages(
    loaded: &Configuration,
    sample: &Sample,
    cases: &[Case],
) -> anyhow::Result<Option<Vec<Option<String>>>> {
    let stop = Stop::default();
    signals::listen(&stop).context("cannot listen for signals")?;
    // Nothing is kept: each answer is asked for once.
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let commit: Arc<dyn Commit> = Arc::new(Unkept);
    let model = build::model(&loaded.run.llm, &store, &commit, &stop)?;
    if let Backend::Servers(endpoints) = &model.backend {
        tokio::select! {
            probed = endpoints.ensure_probed() => probed?,
            () = stop.wait() => return Ok(None),
        }
    }
    let context = StageContext {
        texts: Arc::clone(&sample.texts),
        llm: Arc::clone(&model.client),
        model: loaded.run.llm.model.as_str().into(),
        dialect: build::dialect(&loaded.run.llm).into(),
        worker_program: PathBuf::new(),
    };
    let stage = |wanted: fn(&StageParams) -> bool| -> anyhow::Result<Option<Arc<dyn Stage>>> {
        let entry = loaded.pipeline.stages.iter().find(|entry| wanted(&entry.params));
        entry.map(|entry| entry.params.build(&context).map_err(|fault| anyhow!(UsageError(fault)))).transpose()
    };
    let validate = stage(|params| matches!(params, StageParams::Validate(_)))?.ok_or_else(|| {
        UsageError(format!("{} has no stage of kind validate to test", loaded.run.pipeline.display()))
    })?;
    let score = stage(|params| matches!(params, StageParams::Score(_)))?;
    let slots = model.backend.slots().clamp(1, 512);
    let mut results = futures::stream::iter(cases.iter().enumerate().map(|(i, case)| {
        let (validate, score) = (Arc::clone(&validate), score.clone());
        let item = item(i as u32, &case.pair);
        async move { judged(&item, validate.as_ref(), score.as_deref()).await }
    }))
    .buffered(slots);
    let mut refused = Vec::with_capacity(cases.len());
    while let Some(result) = results.next().await {
        match result {
            Ok(by) => refused.push(by),
            Err(error) if error.class == ErrorClass::Poison => refused.push(Some(format!("dead: {}", error.label))),
            Err(error) if error.class == ErrorClass::Interrupted => return Ok(None),
            Err(error) => return Err(anyhow!("the canary cannot go on: {}", error.reason)),
        }
        if refused.len().is_multiple_of(500) {
            tracing::info!("{} of {} pairs checked", grouped(refused.len() as u64), grouped(cases.len() as u64));
        }
    }
    Ok(Some(refused))
}

/// The check that refuses an item.
async fn judged(item: &Item, validate: &dyn Stage, score: Option<&dyn Stage>) -> Result<Option<String>, StageError> {
    let children = match validate.process(item).await? {
        Outcome::Reject(rejection) => return Ok(Some(rejection.check)),
        Outcome::Emit { children, .. } => children,
    };
    for payload in children {
        let item = Item { payload, ..item.clone() };
        if let Some(score) = score
            && let Outcome::Reject(rejection) = score.process(&item).await?
        {
            return Ok(Some(rejection.check));
        }
    }
    Ok(None)
}

/// Case `n` as an item of its own.
fn item(n: u32, pair: &QaPair) -> Item {
    let document = &pair.chunk.source.sha256;
    let mut id = *blake3::hash(format!("qaflow canary {n}").as_bytes()).as_bytes();
    id.iter_mut().zip(document.0).for_each(|(byte, other)| *byte ^= other);
    let key = ItemKey { lineage: Lineage::document(document).child(0).child(n), id: ItemId(id) };
    Item { key, payload: Payload::Pair(pair.clone()), priority: 0 }
}

/// Answers go nowhere.
struct Unkept;

impl Commit for Unkept {
    fn commit(&self, _: Vec<Change>) -> BoxFuture<'_, Result<Epoch, StoreError>> {
        Box::pin(async { Ok(Epoch::default()) })
    }
}
