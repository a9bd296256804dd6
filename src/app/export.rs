//! `qaflow export`: writes the files of a state's finished records, and what both it and `run` say of them.

use std::path::{Path, PathBuf};

use super::state::{State, StateOptions};
use super::{Exit, grouped, states};
use crate::export::manifest::{self, RunFacts};
use crate::export::{Export, Exported};
use crate::model::StoreError;
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
    let exported = write(&state, &plan, &out, pending == 0)?;
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

/// Writes all files of a state, the manifest last.
pub(super) fn write(state: &State, plan: &Plan, out: &Path, finished: bool) -> anyhow::Result<Exported> {
    let facts = super::run::facts(state, plan, finished)?;
    write_all(plan, state.store.as_ref(), state.texts.as_ref(), out, &facts, || state.lease.check())
}

/// Writes all files of a dataset, the manifest last, while `held` says that they are this process's to write.
pub(super) fn write_all(
    plan: &Plan,
    store: &dyn Store,
    texts: &dyn TextStore,
    out: &Path,
    facts: &RunFacts,
    held: impl Fn() -> Result<(), StoreError>,
) -> anyhow::Result<Exported> {
    let exported = Export { plan, store, texts, held: &held }.write(out)?;
    held()?;
    manifest::write(out, plan, facts, &exported)?;
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
