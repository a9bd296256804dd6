//! What `verify --repair` does: record by record where that is enough, else by a new database with the model's answers.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::{Depth, Findings, PAGE, examine, with_missing_children};
use crate::app::grouped;
use crate::app::progress::Phase;
use crate::app::state::{State, StateOptions};
use crate::engine::ACTIVE_EDGES;
use crate::model::plan::Plan;
use crate::model::record::{Change, ItemKey};
use crate::model::store::{Lease, Store, parent_key};
use crate::model::text::TextStore;
use crate::model::{ItemId, Payload, StoreError};
use crate::store::{OpenOptions, Salvaged};

/// Repairs record by record; what is wrong after that is in the findings.
pub(super) fn in_place(dir: &Path) -> anyhow::Result<Findings> {
    let state = State::open(dir, StateOptions { accept_loss: true, ..StateOptions::default() })?;
    let Some(plan) = state.known_plan()? else { return Ok(Findings::without_plan(dir)) };
    let findings = examine(&state, &plan, Depth::Whole)?;
    if findings.faults.is_empty() && !state.store.opened_with_losses() {
        return Ok(findings);
    }
    let (state, repaired) = repair(state, &plan)?;
    // What the next run does anew has no whole lineage yet.
    Ok(Findings { repaired, ..examine(&state, &plan, Depth::Records)? })
}

/// Begins the database anew with what was paid for: the model's answers and the accounts of attempts. Nothing else is
/// taken, so nothing superseded can come back; and no plan, so that nothing is exported before the next run has worked
/// everything out again.
pub(super) fn begin_anew(dir: &Path) -> anyhow::Result<Findings> {
    let state = State::open(dir, StateOptions { salvage: true, ..StateOptions::default() })?;
    let records = state.store.audit()?.records;
    let Some(Salvaged { answers, known, kept }) = &state.salvaged else { return Ok(Findings::default()) };
    let of = known.filter(|known| known > answers).map_or_else(String::new, |known| format!(" of {}", grouped(known)));
    tracing::warn!(
        "{}: {}{of} model answers are saved in a new database; the damaged one is kept in {}, which may be deleted once \
         all is well",
        dir.display(),
        grouped(*answers),
        kept.display()
    );
    note_in_status(dir);
    let begun_anew = vec![dir.display().to_string()];
    Ok(Findings { records, answers_saved: Some(*answers), begun_anew, ..Findings::default() })
}

/// What the last run said of itself holds no more.
fn note_in_status(dir: &Path) {
    let Ok(mut status) = crate::app::status::read(dir) else { return };
    status.phase = Phase::Failed;
    status.reason =
        Some("its database was begun anew by a repair: start `qaflow run` with the same configuration".into());
    if let Err(error) = status.write(dir) {
        tracing::warn!("the status of {} cannot be written: {error}", dir.display());
    }
}

/// Makes pending again whatever cannot be read: damaged endings and pending entries themselves, the makers of damaged
/// outputs and of damaged texts. Damaged answers and accounts are set aside; answers are then asked for again. What
/// the database itself cannot read is left behind in a new one, the old one kept. Returns the state and how much was
/// done.
fn repair(mut state: State, plan: &Plan) -> anyhow::Result<(State, u64)> {
    state.lease.check()?;
    let mut repaired = state.store.set_aside_damaged()?.len() as u64;
    // What is made pending again below must not count as what a killed attempt did.
    crate::app::ledger::settle(plan, state.store.as_ref())?;
    let audit = state.store.audit()?;
    let mut changes = Vec::new();
    let mut beyond = 0;
    for record in &audit.damaged {
        let (Some(at), Some(key)) = (record.stage.and_then(|stage| plan.node_of(&stage)), &record.item) else {
            beyond += 1;
            continue;
        };
        match record.kind {
            "ending" | "pending" => reopen(&state, plan, at, key, &mut changes)?,
            "output" => {
                if let Some(parent) = maker(&state, plan, at, key)? {
                    reopen(&state, plan, at, &parent, &mut changes)?;
                }
            }
            _ => beyond += 1,
        }
    }
    damaged_texts(&state, plan, &mut changes)?;
    repaired += apply(&state, changes)?;
    if beyond > 0 || state.store.opened_with_losses() {
        let store = Arc::into_inner(state.store).context("the store is still in use")?;
        let (lost, store, notices) = store.rebuild(OpenOptions::default())?;
        for notice in notices {
            tracing::warn!("{notice}");
        }
        repaired += lost.damaged.len() as u64;
        state.store = Arc::new(store);
    }
    // What was lost with a place that cannot be read shows in whoever made it.
    let mut changes = Vec::new();
    for at in 0..plan.nodes.len() {
        let mut makers = Vec::new();
        with_missing_children(&state, plan, at, |key, _| makers.push(key))?;
        for maker in makers {
            reopen(&state, plan, at, &maker, &mut changes)?;
        }
    }
    repaired += apply(&state, changes)?;
    // The next run offers every output to every stage again, so that an item whose records were lost is found.
    state.store.commit(&[Change::Meta { name: ACTIVE_EDGES.into(), value: None }])?;
    Ok((state, repaired))
}

/// Applies changes one by one; gives how many took effect.
fn apply(state: &State, changes: Vec<Change>) -> Result<u64, StoreError> {
    let mut applied = 0;
    for change in changes {
        match state.store.commit(&[change]) {
            Ok(_) => applied += 1,
            // Already pending: it will be done anew all the same.
            Err(StoreError::IllegalTransition { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(applied)
}

/// Reopens the documents whose texts cannot be read back.
fn damaged_texts(state: &State, plan: &Plan, changes: &mut Vec<Change>) -> Result<(), StoreError> {
    for at in 0..plan.nodes.len() {
        let mut after: Option<ItemKey> = None;
        while let Ok(page) = state.store.outputs(&plan.key(at), after.as_ref(), PAGE) {
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, output) in page {
                if let Payload::Pages(pages) = &output.payload
                    && state.texts.get(&pages.source.text).is_err()
                    && let Some(parent) = output.parent.and_then(|parent| parent_key(&key, &parent))
                {
                    reopen(state, plan, at, &parent, changes)?;
                }
            }
        }
    }
    Ok(())
}

/// Reopens an item: what it carries is the output of one of the stages above, or will be once that is repaired.
fn reopen(state: &State, plan: &Plan, at: usize, key: &ItemKey, changes: &mut Vec<Change>) -> Result<(), StoreError> {
    let producers = plan.producers(at);
    let mut holder = producers.first().copied();
    for producer in producers {
        match state.store.output(&producer, key) {
            Ok(None) => {}
            Ok(Some(_)) | Err(StoreError::Damaged { .. }) => {
                holder = Some(producer);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(producer) = holder {
        changes.push(Change::Reopen { stage: plan.key(at), key: key.clone(), producer });
    }
    Ok(())
}

/// The item of which stage `at` made the output at `key`: the one whose id the output's id follows from.
fn maker(state: &State, plan: &Plan, at: usize, key: &ItemKey) -> Result<Option<ItemKey>, StoreError> {
    let (Some(lineage), Some(ordinal)) = (key.lineage.parent(), key.lineage.ordinals().last().copied()) else {
        return Ok(None);
    };
    let mut after = Some(ItemKey { lineage: lineage.clone(), id: ItemId([0; 32]) });
    loop {
        let page = state.store.endings(&plan.key(at), after.as_ref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(None) };
        after = Some(last.clone());
        for (candidate, _) in page {
            if candidate.lineage != lineage {
                return Ok(None);
            }
            if ItemId::derive(&candidate.id, &plan.identity(at), ordinal) == key.id {
                return Ok(Some(candidate));
            }
        }
    }
}
