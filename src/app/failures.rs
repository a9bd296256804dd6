//! `qaflow failures`: what was given up and why, and giving it another chance.

use std::path::{Path, PathBuf};

use super::export::print;
use super::state::{State, StateOptions};
use super::{Exit, UsageError, grouped, states};
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
    /// The states' folders, or patterns that fit them.
    pub state: Vec<PathBuf>,
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
/// If a state cannot be opened, or an id names none or several.
pub fn failures(args: &FailuresArgs) -> anyhow::Result<Exit> {
    let dirs = states::select(&args.state)?.dirs;
    match &args.action {
        FailuresAction::List => list(&dirs, args.json)?,
        FailuresAction::Show(id) => {
            let (_, plan, dead) = find(&dirs, id)?;
            print(&if args.json { json(&plan, &dead).to_string() } else { whole(&plan, &dead) });
        }
        FailuresAction::Retry { label, id } => retry(&dirs, label.as_deref(), id.as_deref())?,
    }
    Ok(Exit::Done)
}

fn open(dir: &Path) -> anyhow::Result<(State, Plan)> {
    let state = State::open(dir, StateOptions::default())?;
    let plan = state.plan()?;
    Ok((state, plan))
}

fn list(dirs: &[PathBuf], as_json: bool) -> anyhow::Result<()> {
    let mut count = 0;
    for dir in dirs {
        let (state, plan) = open(dir)?;
        let mut named = dirs.len() == 1 || as_json;
        each(&plan, state.store.as_ref(), |dead| {
            if !named {
                print(&format!("{}:", dir.display()));
                named = true;
            }
            count += 1;
            print(&if as_json { json(&plan, &dead).to_string() } else { line(&plan, &dead) });
            Ok(())
        })?;
    }
    if !as_json {
        print(&format!("{} given up", grouped(count)));
    }
    Ok(())
}

fn retry(dirs: &[PathBuf], label: Option<&str>, id: Option<&str>) -> anyhow::Result<()> {
    let only = id.map(|id| find(dirs, id)).transpose()?.map(|(dir, _, dead)| (dir, dead.key.id));
    let (mut again, mut unknown, mut unusable) = (0, 0, 0);
    for dir in dirs {
        if only.as_ref().is_some_and(|(holder, _)| holder != dir) {
            continue;
        }
        let (state, plan) = open(dir)?;
        let mut changes = Vec::new();
        each(&plan, state.store.as_ref(), |dead| {
            let wanted = label.is_none_or(|label| *label == dead.letter.label)
                && only.as_ref().is_none_or(|(_, only)| *only == dead.key.id);
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
        again += changes.len() as u64;
    }
    if again == 0 && unknown == 0 {
        let what = label.map_or_else(String::new, |label| format!(" with the label `{label}`"));
        print(&format!("nothing to retry: no dead letter{what} (see `qaflow failures list`)"));
        return Ok(());
    }
    print(&format!("{} pending again: start `qaflow run` with the same configuration", grouped(again)));
    if unusable > 0 {
        print(&format!(
            "{unusable} of them died of answers that could not be used. Those answers are kept and will be met again: \
             change the stage's prompt, seed or temperature to have them asked anew"
        ));
    }
    if unknown > 0 {
        print(&format!("{unknown} left, since what they carried is not in the store: see `qaflow verify`"));
    }
    Ok(())
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

/// The one dead letter whose id begins so, with the state that holds it.
fn find(dirs: &[PathBuf], id: &str) -> anyhow::Result<(PathBuf, Plan, Dead)> {
    let mut found = Vec::new();
    for dir in dirs {
        let (state, plan) = open(dir)?;
        each(&plan, state.store.as_ref(), |dead| {
            if dead.key.id.hex().starts_with(id) {
                found.push((dir.clone(), plan.clone(), dead));
            }
            Ok(())
        })?;
    }
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
