//! `qaflow failures`: what was given up and why, and giving it another chance.

use std::path::PathBuf;

use super::export::print;
use super::state::{State, StateOptions, resolve};
use super::{Exit, UsageError, grouped};
use crate::model::plan::Plan;
use crate::model::record::{Change, DeadLetter, Ending, ItemKey};
use crate::model::store::{Lease, Store};
use crate::model::{Payload, StageKey, StoreError};

/// Records read at once.
const PAGE: usize = 256;

/// What is to be done with the dead letters.
#[derive(Clone, Debug)]
pub enum FailuresAction {
    /// One line each.
    List,
    /// One whole, by the beginning of its id.
    Show(String),
    /// Make them pending again: all, or those of a label.
    Retry {
        /// Only those of this label.
        label: Option<String>,
        /// Only this one, by the beginning of its id.
        id: Option<String>,
    },
}

/// What the command line says.
#[derive(Clone, Debug)]
pub struct FailuresArgs {
    /// The state's folder.
    pub state: Option<PathBuf>,
    /// What to do.
    pub action: FailuresAction,
    /// Whether it is shown as JSON.
    pub json: bool,
}

/// A dead letter with its place.
struct Dead {
    stage: usize,
    key: ItemKey,
    letter: DeadLetter,
    /// What the item carried, with the name space that holds it.
    carried: Option<(StageKey, Payload)>,
}

/// Lists, shows or retries.
///
/// # Errors
/// If the state cannot be opened, or an id names none or several.
pub fn failures(args: &FailuresArgs) -> anyhow::Result<Exit> {
    let state = State::open(&resolve(args.state.as_deref())?, StateOptions::default())?;
    let plan = state.plan()?;
    match &args.action {
        FailuresAction::List => {
            let mut count = 0;
            each(&plan, state.store.as_ref(), |dead| {
                count += 1;
                print(&if args.json { json(&plan, &dead).to_string() } else { line(&plan, &dead) });
                Ok(())
            })?;
            if !args.json {
                print(&format!("{} given up", grouped(count)));
            }
        }
        FailuresAction::Show(id) => {
            let dead = find(&plan, state.store.as_ref(), id)?;
            print(&if args.json { json(&plan, &dead).to_string() } else { whole(&plan, &dead) });
        }
        FailuresAction::Retry { label, id } => {
            let only = id.as_ref().map(|id| find(&plan, state.store.as_ref(), id)).transpose()?.map(|dead| dead.key.id);
            let mut changes = Vec::new();
            let (mut unknown, mut unusable) = (0, 0);
            each(&plan, state.store.as_ref(), |dead| {
                let wanted = label.as_ref().is_none_or(|label| *label == dead.letter.label)
                    && only.is_none_or(|only| only == dead.key.id);
                match dead.carried {
                    Some((producer, _)) if wanted => {
                        unusable += usize::from(!dead.letter.raw.is_empty());
                        changes.push(Change::Reopen { stage: plan.key(dead.stage), key: dead.key, producer });
                    }
                    None if wanted => unknown += 1,
                    _ => {}
                }
                Ok(())
            })?;
            state.lease.check()?;
            // What is made pending again must not count as what a killed attempt did.
            super::ledger::settle(&plan, state.store.as_ref())?;
            for batch in changes.chunks(1000) {
                state.store.commit(batch)?;
            }
            if changes.is_empty() && unknown == 0 {
                let what = label.as_ref().map_or_else(String::new, |label| format!(" with the label `{label}`"));
                print(&format!("nothing to retry: no dead letter{what} (see `qaflow failures list`)"));
                return Ok(Exit::Done);
            }
            print(&format!(
                "{} pending again: start `qaflow run` with the same configuration",
                grouped(changes.len() as u64)
            ));
            if unusable > 0 {
                print(&format!(
                    "{unusable} of them died of answers that could not be used. Those answers are kept and will be met \
                     again: change the stage's prompt, seed or temperature to have them asked anew"
                ));
            }
            if unknown > 0 {
                print(&format!("{unknown} left, since what they carried is not in the store: see `qaflow verify`"));
            }
        }
    }
    Ok(Exit::Done)
}

fn each(
    plan: &Plan,
    store: &dyn Store,
    mut call: impl FnMut(Dead) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for stage in 0..plan.nodes.len() {
        let mut after: Option<ItemKey> = None;
        loop {
            let page = store.endings(&plan.key(stage), after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, ending) in page {
                if let Ending::Dead(letter) = ending {
                    let mut carried = None;
                    for producer in plan.producers(stage) {
                        if let Some(output) = store.output(&producer, &key)? {
                            carried = Some((producer, output.payload));
                        }
                    }
                    call(Dead { stage, key, letter, carried })?;
                }
            }
        }
    }
    Ok(())
}

fn find(plan: &Plan, store: &dyn Store, id: &str) -> anyhow::Result<Dead> {
    let mut found = Vec::new();
    each(plan, store, |dead| {
        if dead.key.id.hex().starts_with(id) {
            found.push(dead);
        }
        Ok(())
    })?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            Err(UsageError(format!("no dead letter has an id that begins with `{id}`: see `qaflow failures list`"))
                .into())
        }
        n => Err(UsageError(format!("{n} dead letters have an id that begins with `{id}`: give more of it")).into()),
    }
}

fn document(dead: &Dead) -> &str {
    dead.carried.as_ref().map_or("unknown document", |(_, payload)| payload.document_name())
}

fn line(plan: &Plan, dead: &Dead) -> String {
    let stage = &plan.nodes[dead.stage].name;
    format!(
        "{}  {stage:<10} {:<16} {}: {}",
        &dead.key.id.hex()[..12],
        dead.letter.label,
        document(dead),
        dead.letter.reason
    )
}

fn whole(plan: &Plan, dead: &Dead) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "id        {}\nstage     {}\ndocument  {} ({})\nlabel     {}\nreason    {}\nattempts  {}",
        dead.key.id.short(),
        plan.nodes[dead.stage].name,
        document(dead),
        dead.key.lineage.root().hex(),
        dead.letter.label,
        dead.letter.reason,
        dead.letter.attempts
    );
    if let Some(chunk) = dead.carried.as_ref().and_then(|(_, payload)| crate::export::rows::chunk_of(payload)) {
        let _ = write!(text, "\npages     {} to {}", chunk.first_page, chunk.last_page);
    }
    for (i, raw) in dead.letter.raw.iter().enumerate() {
        let _ = write!(text, "\n\nraw answer {}:\n{raw}", i + 1);
    }
    text
}

fn json(plan: &Plan, dead: &Dead) -> serde_json::Value {
    serde_json::json!({
        "id": dead.key.id.short(), "stage": plan.nodes[dead.stage].name, "document": document(dead),
        "source_sha256": dead.key.lineage.root().hex(), "label": dead.letter.label, "reason": dead.letter.reason,
        "attempts": dead.letter.attempts, "raw_answers": dead.letter.raw,
    })
}
