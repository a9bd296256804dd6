//! `qaflow export`: writes the files of a state's finished records, and what both it and `run` say of them.

use std::path::{Path, PathBuf};

use super::state::{State, StateOptions};
use super::{Exit, UsageError, grouped, states};
use crate::export::generation::Generation;
use crate::export::manifest::{self, RunFacts};
use crate::export::{Export, ExportError, Exported, dataset, given_up};
use crate::model::StoreError;
use crate::model::dataset::{ExportOptions, Splits, formats_named};
use crate::model::plan::Plan;
use crate::model::store::{Lease, Store};
use crate::model::text::TextStore;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct ExportArgs {
    /// The states' folders, or patterns that fit them.
    pub state: Vec<PathBuf>,
    /// Whether what there is of several states is exported where the whole is not there.
    pub partial: bool,
    /// The folder of the results; `None`: the run's.
    pub out: Option<PathBuf>,
    /// Names of formats; `None`: the run's.
    pub formats: Option<Vec<String>>,
    /// Whether to split, where the run does not.
    pub split: bool,
    /// Whether the summary is JSON.
    pub json: bool,
}

/// Exports.
///
/// # Errors
/// If the state cannot be opened or a file cannot be written.
pub fn export(args: &ExportArgs) -> anyhow::Result<Exit> {
    let selection = states::select(&args.state)?;
    let [dir] = selection.dirs.as_slice() else { return states::export(args, &selection) };
    if selection.many {
        return states::export(args, &selection);
    }
    let state = State::open(dir, StateOptions::default())?;
    let plan = state.plan()?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(&plan.out));
    let pending = pending(&plan, state.store.as_ref())?;
    let options = options(args, &plan)?;
    let exported = write(&state, &plan, &out, pending == 0, &options)?;
    if args.json {
        let json = serde_json::json!({
            "run_id": plan.run_id, "finished": pending == 0, "pending": pending,
            "pairs_accepted": exported.accepted,
            "near_duplicates_refused": exported.near_duplicates, "documents": exported.documents,
            "files": exported.files, "out": out.display().to_string(),
        });
        print(&json.to_string());
    } else {
        print(&format!(
            "{} accepted pairs from {} documents written to {}",
            grouped(exported.accepted),
            grouped(exported.documents),
            out.display()
        ));
        if pending > 0 {
            print(&format!(
                "the run is not finished: {} items are pending, and their pairs are missing",
                grouped(pending)
            ));
        }
    }
    Ok(Exit::Done)
}

/// Items that are pending, over all stages.
pub(super) fn pending(plan: &Plan, store: &dyn Store) -> anyhow::Result<u64> {
    let mut pending = 0;
    for at in 0..plan.nodes.len() {
        pending += store.counts(&plan.key(at))?.pending();
    }
    Ok(pending)
}

/// What the command line asks for, else what the run's configuration did.
pub(super) fn options(args: &ExportArgs, plan: &Plan) -> anyhow::Result<ExportOptions> {
    let mut options = planned(plan);
    if let Some(names) = &args.formats {
        options.formats = formats_named(names.iter().map(String::as_str)).map_err(UsageError)?;
    }
    if args.split && options.splits.is_none() {
        options.splits = Some(Splits::default());
    }
    Ok(options)
}

/// What the run's configuration asks for. Plans of earlier programs do not say.
pub(super) fn planned(plan: &Plan) -> ExportOptions {
    serde_json::from_value(plan.config["export"].clone()).unwrap_or_default()
}

/// Writes all files of a state and puts them in place as a whole.
pub(super) fn write(
    state: &State,
    plan: &Plan,
    out: &Path,
    finished: bool,
    options: &ExportOptions,
) -> anyhow::Result<Exported> {
    let facts = super::run::facts(state, plan, finished)?;
    let stores = (state.store.as_ref() as &dyn Store, state.texts.as_ref() as &dyn TextStore);
    write_all(plan, stores, out, &facts, options, || state.lease.check())
}

/// Writes all files of a dataset and puts them in place as a whole, while `held` says that they are this process's to
/// write.
pub(super) fn write_all(
    plan: &Plan,
    (store, texts): (&dyn Store, &dyn TextStore),
    out: &Path,
    facts: &RunFacts,
    options: &ExportOptions,
    held: impl Fn() -> Result<(), StoreError>,
) -> anyhow::Result<Exported> {
    let generation = Generation::begin(out, &dataset::names(options)).map_err(|error| given_up(out, error))?;
    let write = || -> Result<Exported, ExportError> {
        let mut exported = Export { plan, store, texts, held: &held }.write(generation.folder())?;
        let review = super::review::card_section(out, &generation.folder().join("dataset.jsonl"));
        let about = dataset::Facts {
            plan,
            finished: facts.finished,
            remarks: &facts.remarks,
            review: review.as_deref(),
            own_card: generation.own_card(),
        };
        dataset::write(generation.folder(), options, &about, &mut exported)?;
        manifest::write(generation.folder(), plan, facts, &exported)?;
        Ok(exported)
    };
    let exported = write().map_err(|error| given_up(out, error))?;
    if generation.own_card() {
        tracing::warn!("{} was written or changed by hand: it is left as it is", out.join("README.md").display());
    }
    held()?;
    generation.publish()?;
    Ok(exported)
}

/// What a reader of the results must know.
pub(super) fn remarks(plan: &Plan) -> Vec<String> {
    let mut remarks = Vec::new();
    if plan.provider == "embedded" {
        remarks.push(
            "These pairs come from the embedded demo model (SmolLM2, 135 million parameters): each answer is a sentence \
             of the document, the model wrote only the question, and the marks are its likelihoods and rules, not a \
             judgement. They show how the flow works; they are not a dataset to train on."
                .into(),
        );
    }
    remarks
}

/// Results go to standard output. Who closes it early, as `head` does, has read enough.
pub(crate) fn print(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}
