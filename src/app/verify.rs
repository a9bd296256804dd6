//! `qaflow verify`: proves from the store alone that every item is accounted for, that nothing is damaged, and that
//! every result can be traced to its document. With `--repair`, what cannot be read is made pending again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::export::print;
use super::state::{State, StateOptions};
use super::states::{self, Shares};
use super::{Exit, counted, grouped, shard};
use crate::engine::ACTIVE_EDGES;
use crate::model::plan::Plan;
use crate::model::record::{Change, Ending, ItemKey, StageCounts};
use crate::model::store::{Audit, DamagedRecord, Lease, Store, parent_key};
use crate::model::text::TextStore;
use crate::model::{Fingerprint, ItemId, Payload, StageKey, StoreError};
use crate::store::OpenOptions;

/// Records read at once.
const PAGE: usize = 256;
/// The most findings of one kind that are shown.
const SHOWN: usize = 20;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct VerifyArgs {
    /// The states' folders, or patterns that fit them.
    pub state: Vec<PathBuf>,
    /// Whether damaged records are made pending again.
    pub repair: bool,
    /// Whether the findings are shown as JSON.
    pub json: bool,
}

/// What verification found.
#[derive(Debug, Default, serde::Serialize)]
struct Findings {
    /// The states that were verified together, if several were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    states: Vec<String>,
    records: u64,
    stages: Vec<StageFinding>,
    faults: Vec<String>,
    repaired: u64,
    /// Of several states: those that could not be opened. Each is a fault too.
    #[serde(skip)]
    unopened: usize,
}

/// One stage's account.
#[derive(Debug, serde::Serialize)]
struct StageFinding {
    stage: String,
    admitted: u64,
    done: u64,
    rejected: u64,
    dead: u64,
    pending: u64,
    balanced: bool,
}

/// Verifies; exit code 1 if anything is wrong and was not repaired.
///
/// # Errors
/// If the state cannot be opened or read at all.
pub fn verify(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let selection = states::select(&args.state)?;
    let findings = match selection.dirs.as_slice() {
        [dir] if !selection.many => verify_one(dir, args.repair)?,
        dirs => verify_all(dirs, args)?,
    };
    if args.json {
        print(&serde_json::to_string(&findings)?);
    } else {
        show(&findings);
    }
    Ok(if findings.faults.is_empty() { Exit::Done } else { Exit::Error })
}

fn verify_one(dir: &Path, repaired_too: bool) -> anyhow::Result<Findings> {
    let options = StateOptions { accept_loss: repaired_too, ..StateOptions::default() };
    let mut state = State::open(dir, options)?;
    let plan = state.plan()?;
    let mut findings = examine(&state, &plan, Depth::Whole)?;
    if repaired_too && !findings.faults.is_empty() {
        let repaired;
        (state, repaired) = repair(state, &plan)?;
        // What the next run does anew has no whole lineage yet.
        findings = Findings { repaired, ..examine(&state, &plan, Depth::Records)? };
    }
    Ok(findings)
}

/// One state after the other, and the sum. A state that cannot be opened is a fault like any other.
fn verify_all(dirs: &[PathBuf], args: &VerifyArgs) -> anyhow::Result<Findings> {
    let Shares { states, missing } = states::shares(dirs)?;
    let mut all = Findings::default();
    for (dir, share) in states {
        let name = states::heading(&dir, share);
        let found = verify_one(&dir, args.repair).unwrap_or_else(|error| Findings {
            faults: vec![format!("{error:#}")],
            unopened: 1,
            ..Findings::default()
        });
        if !args.json {
            let said = match found.faults.len() as u64 {
                _ if found.unopened > 0 => "cannot be opened".into(),
                0 => format!("{}, all accounted for", counted(found.records, "record")),
                faults => format!("{}, {}", counted(found.records, "record"), counted(faults, "fault")),
            };
            print(&format!("{name}: {said}"));
        }
        all.unopened += found.unopened;
        all.records += found.records;
        all.repaired += found.repaired;
        all.faults.extend(found.faults.into_iter().map(|fault| format!("{}: {fault}", dir.display())));
        for stage in found.stages {
            match all.stages.iter_mut().find(|sum| sum.stage == stage.stage) {
                Some(sum) => {
                    sum.admitted += stage.admitted;
                    sum.done += stage.done;
                    sum.rejected += stage.rejected;
                    sum.dead += stage.dead;
                    sum.pending += stage.pending;
                    sum.balanced &= stage.balanced;
                }
                None => all.stages.push(stage),
            }
        }
        all.states.push(name);
    }
    if !args.json {
        for share in missing {
            print(&format!("{} is missing: no state given holds it", shard::words(share)));
        }
        print("");
    }
    Ok(all)
}

/// How much is examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Records and accounts.
    Records,
    /// Lineage and texts as well.
    Whole,
}

fn show(findings: &Findings) {
    print(&format!(
        "{:<12} {:>10} = {:>10} + {:>9} + {:>7} + {:>9}",
        "stage", "in", "done", "rejected", "dead", "pending"
    ));
    for s in &findings.stages {
        print(&format!(
            "{:<12} {:>10} {} {:>10} + {:>9} + {:>7} + {:>9}",
            s.stage,
            grouped(s.admitted),
            if s.balanced { "=" } else { "≠" },
            grouped(s.done),
            grouped(s.rejected),
            grouped(s.dead),
            grouped(s.pending)
        ));
    }
    for fault in findings.faults.iter().take(SHOWN) {
        print(&format!("FAULT  {fault}"));
    }
    if findings.faults.len() > SHOWN {
        print(&format!("… and {} more (all of them with --json)", findings.faults.len() - SHOWN));
    }
    if findings.repaired > 0 {
        print(&format!(
            "{} made pending again: start `qaflow run` with the same configuration",
            grouped(findings.repaired)
        ));
    }
    print(&if findings.faults.is_empty() {
        format!("verified: {}, all accounted for", counted(findings.records, "record"))
    } else {
        verdict(findings.faults.len(), findings.unopened)
    });
}

/// The last line of a verification that found faults, some of which are that a state cannot be opened: for those there
/// is no repair, or they say so themselves.
fn verdict(faults: usize, unopened: usize) -> String {
    let mut parts = Vec::new();
    if faults > unopened {
        let found = counted((faults - unopened) as u64, "fault");
        parts.push(format!("{found}: `qaflow verify --repair` makes pending again what cannot be read"));
    }
    if unopened > 0 {
        parts.push(format!("{} could not be opened: see above what to do", counted(unopened as u64, "state")));
    }
    parts.join("\n")
}

fn examine(state: &State, plan: &Plan, depth: Depth) -> anyhow::Result<Findings> {
    let audit = state.store.audit()?;
    let mut findings = Findings { records: audit.records, ..Findings::default() };
    for record in &audit.damaged {
        findings.faults.push(describe(plan, record));
    }
    accounts(state, plan, &audit, depth, &mut findings)?;
    if depth == Depth::Whole {
        lineage(state, plan, &mut findings)?;
    }
    Ok(findings)
}

fn describe(plan: &Plan, record: &DamagedRecord) -> String {
    let stage = record.stage.and_then(|key| plan.node_of(&key)).map_or_else(
        || record.stage.map_or_else(String::new, |key| format!(" of an earlier configuration ({})", key.hex())),
        |at| format!(" of stage `{}`", plan.nodes[at].name),
    );
    let item = record.item.as_ref().map_or_else(String::new, |key| format!(", item {}", key.id.short()));
    format!("damaged {}{stage}{item}: {} (key {})", record.kind, record.detail, record.raw_key)
}

/// In = done + rejected + dead + pending, as the accounts say and as the records say.
fn accounts(
    state: &State,
    plan: &Plan,
    audit: &Audit,
    depth: Depth,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    for (at, node) in plan.nodes.iter().enumerate() {
        let key = plan.key(at);
        let kept = state.store.counts(&key)?;
        let recounted = audit.recounted.get(&key).copied().unwrap_or_default();
        let balanced = kept == recounted;
        if !balanced {
            findings.faults.push(format!(
                "the account of stage `{}` says {}, its records say {}",
                node.name,
                in_words(&kept),
                in_words(&recounted)
            ));
        }
        findings.stages.push(StageFinding {
            stage: node.name.clone(),
            admitted: kept.admitted,
            done: kept.done,
            rejected: kept.rejected,
            dead: kept.dead,
            pending: kept.pending(),
            balanced,
        });
        // What the stages above made is what this one was given.
        let given: u64 = plan
            .producers(at)
            .iter()
            .map(|producer| audit.recounted.get(producer).map_or(0, |counts| counts.emitted))
            .sum();
        if depth == Depth::Whole && given != recounted.admitted {
            findings.faults.push(format!(
                "stage `{}` was given {} items, but those above it made {}: start `qaflow run`, which hands them on",
                node.name,
                grouped(recounted.admitted),
                grouped(given)
            ));
        }
    }
    let kept = state.store.model_counts()?;
    if kept != audit.recounted_model {
        findings.faults.push(format!(
            "the account of model answers says {}, the journal holds {}",
            grouped(kept.calls),
            grouped(audit.recounted_model.calls)
        ));
    }
    Ok(())
}

fn in_words(counts: &StageCounts) -> String {
    format!(
        "{} in, {} done, {} rejected, {} dead, {} made",
        counts.admitted, counts.done, counts.rejected, counts.dead, counts.emitted
    )
}

/// Every output has a parent that is done and that it follows from, and every text is as it was stored.
fn lineage(state: &State, plan: &Plan, findings: &mut Findings) -> Result<(), StoreError> {
    for (at, node) in plan.nodes.iter().enumerate() {
        let (stage, fingerprint) = (plan.key(at), plan.identity(at));
        let mut after: Option<ItemKey> = None;
        loop {
            let page = match state.store.outputs(&stage, after.as_ref(), PAGE) {
                Ok(page) => page,
                // The audit has named what cannot be read already.
                Err(StoreError::Damaged { .. }) => break,
                Err(error) => return Err(error),
            };
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, output) in page {
                if let Some(fault) = broken_lineage(state, &stage, &fingerprint, &key, output.parent)? {
                    findings.faults.push(format!("item {} made by stage `{}`: {fault}", key.id.short(), node.name));
                }
                if let Payload::Pages(pages) = &output.payload
                    && let Err(error) = state.texts.get(&pages.source.text)
                {
                    findings.faults.push(format!("the text of {}: {error}", pages.source.name));
                }
            }
        }
        with_missing_children(state, plan, at, |key, missing| {
            findings.faults.push(format!(
                "item {} of stage `{}` is done, but {missing} of its children are missing",
                key.id.short(),
                node.name
            ));
        })?;
    }
    Ok(())
}

/// Calls `each` with every item of stage `at` that is done and lacks children that it is said to have.
fn with_missing_children(
    state: &State,
    plan: &Plan,
    at: usize,
    mut each: impl FnMut(ItemKey, u32),
) -> Result<(), StoreError> {
    let (stage, fingerprint) = (plan.key(at), plan.identity(at));
    let mut after: Option<ItemKey> = None;
    loop {
        let page = match state.store.endings(&stage, after.as_ref(), PAGE) {
            Ok(page) => page,
            // The audit has named what cannot be read already.
            Err(StoreError::Damaged { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (key, ending) in page {
            let Ending::Done(done) = ending else { continue };
            let mut missing = 0;
            for ordinal in 0..done.children {
                let id = ItemId::derive(&key.id, &fingerprint, ordinal);
                let child = ItemKey { lineage: key.lineage.child(ordinal), id };
                missing += u32::from(matches!(state.store.output(&stage, &child), Ok(None)));
            }
            if missing > 0 {
                each(key, missing);
            }
        }
    }
}

fn broken_lineage(
    state: &State,
    stage: &StageKey,
    fingerprint: &Fingerprint,
    key: &ItemKey,
    parent: Option<ItemId>,
) -> Result<Option<&'static str>, StoreError> {
    let (Some(parent), Some(ordinal)) = (parent, key.lineage.ordinals().last().copied()) else {
        return Ok(Some("it has no parent"));
    };
    if ItemId::derive(&parent, fingerprint, ordinal) != key.id {
        return Ok(Some("its id does not follow from its parent"));
    }
    let Some(parent) = parent_key(key, &parent) else { return Ok(Some("it has no parent")) };
    match state.store.ending(stage, &parent) {
        Ok(Some(Ending::Done(done))) if ordinal < done.children => Ok(None),
        Ok(Some(Ending::Done(_))) => Ok(Some("its parent has fewer children")),
        Ok(_) => Ok(Some("its parent is not done")),
        Err(StoreError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
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
    super::ledger::settle(plan, state.store.as_ref())?;
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
    if beyond > 0 {
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

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn repair_is_offered_for_what_it_can_repair() {
        const OFFER: &str = "`qaflow verify --repair` makes pending again what cannot be read";
        const LEFT: &str = "could not be opened: see above what to do";
        assert_eq!(verdict(1, 0), format!("1 fault: {OFFER}"));
        assert_eq!(verdict(2, 2), format!("2 states {LEFT}"));
        assert_eq!(verdict(3, 1), format!("2 faults: {OFFER}\n1 state {LEFT}"));
    }
}
