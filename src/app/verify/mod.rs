//! `qaflow verify`: proves from the store alone that every item is accounted for, that nothing is damaged, and that
//! every result can be traced to its document. With `--repair`, what cannot be read is made pending again, or the
//! database is begun anew with the model's answers.

mod repair;

use std::path::{Path, PathBuf};

use super::export::print;
use super::state::{NOT_BEGUN, State, StateOptions};
use super::states::{self, Shares};
use super::{Exit, UsageError, counted, grouped, shard};
use crate::model::plan::Plan;
use crate::model::record::{Ending, ItemKey, StageCounts};
use crate::model::store::{Audit, DamagedRecord, Store, parent_key};
use crate::model::text::TextStore;
use crate::model::{Fingerprint, ItemId, Payload, StageKey, StoreError};

/// Records read at once.
const PAGE: usize = 256;
/// What to do after a database was begun anew.
const RUN_AGAIN: &str = "start `qaflow run` with the same configuration, which works everything out again from them and \
                         asks only for answers that are missing";
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
    /// States without a plan: no run has begun them, or none since a repair began their databases anew. Each is a fault
    /// too: nothing of them is proven.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_begun: Vec<String>,
    /// States whose databases this repair has begun anew: the next run works out what they held.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    begun_anew: Vec<String>,
    /// Model answers in a database that was begun anew with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    answers_saved: Option<u64>,
}

impl Findings {
    /// Those of a state that has no plan.
    fn without_plan(dir: &Path) -> Self {
        Self {
            faults: vec![format!("not begun: {NOT_BEGUN}")],
            not_begun: vec![dir.display().to_string()],
            ..Self::default()
        }
    }
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
        [dir] if !selection.many => match verify_one(dir, args.repair)? {
            // Of a single one that is a fault of usage.
            found if !found.not_begun.is_empty() => {
                return Err(UsageError(format!("{} holds no plan: {NOT_BEGUN}", dir.display())).into());
            }
            found => found,
        },
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
    if !repaired_too {
        let state = State::open(dir, StateOptions::default())?;
        return match state.known_plan()? {
            Some(plan) => examine(&state, &plan, Depth::Whole),
            None => Ok(Findings::without_plan(dir)),
        };
    }
    let why = match repair::in_place(dir) {
        Ok(findings) => match findings.faults.first() {
            None => return Ok(findings),
            Some(_) if !findings.not_begun.is_empty() => return Ok(findings),
            Some(fault) => format!("after a repair in place, {fault}"),
        },
        Err(error) => match error.downcast_ref() {
            Some(StoreError::Damaged { what, detail, .. }) => format!("{what} is damaged: {detail}"),
            _ => return Err(error),
        },
    };
    tracing::warn!("{}: {why}. So its database is begun anew with the model's answers", dir.display());
    repair::begin_anew(dir)
}

/// One state after the other, and the sum. A state that cannot be opened is a fault like any other.
fn verify_all(dirs: &[PathBuf], args: &VerifyArgs) -> anyhow::Result<Findings> {
    let Shares { states, missing, mixed } = states::shares(dirs)?;
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
                _ if !found.not_begun.is_empty() => "not begun".into(),
                _ if !found.begun_anew.is_empty() => "its database is begun anew".into(),
                0 => format!("{}, all accounted for", counted(found.records, "record")),
                faults => format!("{}, {}", counted(found.records, "record"), counted(faults, "fault")),
            };
            print(&format!("{name}: {said}"));
        }
        all.unopened += found.unopened;
        // What is in a database begun anew is no item yet.
        all.records += if found.begun_anew.is_empty() { found.records } else { 0 };
        all.not_begun.extend(found.not_begun);
        all.begun_anew.extend(found.begun_anew);
        all.repaired += found.repaired;
        if let Some(answers) = found.answers_saved {
            if !args.json {
                print(&format!("{name}: {} model answers saved: {RUN_AGAIN}", grouped(answers)));
            }
            *all.answers_saved.get_or_insert_default() += answers;
        }
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
        for remark in mixed {
            print(&remark);
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
    if let (Some(answers), [], []) = (findings.answers_saved, findings.states.as_slice(), findings.faults.as_slice()) {
        print(&format!("{} model answers saved: {RUN_AGAIN}", grouped(answers)));
        return;
    }
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
    print(&verdict(findings));
}

/// The last lines. For a state that cannot be opened there is no repair, or it says so itself; one that was not begun, or
/// was begun anew, has to be run before there is anything to prove.
fn verdict(findings: &Findings) -> String {
    let states = |count: usize| counted(count as u64, "state");
    let (unopened, not_begun, anew) = (findings.unopened, findings.not_begun.len(), findings.begun_anew.len());
    let mut parts = Vec::new();
    let faults = findings.faults.len().saturating_sub(unopened + not_begun);
    if faults > 0 {
        let found = counted(faults as u64, "fault");
        parts.push(format!("{found}: `qaflow verify --repair` makes pending again what cannot be read"));
    }
    if unopened > 0 {
        parts.push(format!("{} could not be opened: see above what to do", states(unopened)));
    }
    if not_begun > 0 {
        parts.push(format!("{} not begun: start `qaflow run` with the same configuration", states(not_begun)));
    }
    if anew > 0 {
        parts.push(format!("{} begun anew: start `qaflow run` with the same configuration", states(anew)));
    }
    if findings.faults.is_empty() && (anew == 0 || anew < findings.states.len()) {
        let rest = if anew > 0 { " in the others" } else { "" };
        parts.push(format!("verified: {}, all accounted for{rest}", counted(findings.records, "record")));
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

#[cfg(test)]
mod tests {
    use super::{Findings, verdict};

    #[test]
    fn repair_is_offered_for_what_it_can_repair() {
        const OFFER: &str = "`qaflow verify --repair` makes pending again what cannot be read";
        const LEFT: &str = "could not be opened: see above what to do";
        const RUN: &str = "start `qaflow run` with the same configuration";
        let verdict = |faults: usize, unopened: usize, not_begun: usize, anew: usize| {
            verdict(&Findings {
                states: vec![String::new(); 2],
                records: 7,
                faults: vec![String::new(); faults],
                unopened,
                not_begun: vec![String::new(); not_begun],
                begun_anew: vec![String::new(); anew],
                ..Findings::default()
            })
        };
        assert_eq!(verdict(0, 0, 0, 0), "verified: 7 records, all accounted for");
        assert_eq!(verdict(1, 0, 0, 0), format!("1 fault: {OFFER}"));
        assert_eq!(verdict(2, 2, 0, 0), format!("2 states {LEFT}"));
        assert_eq!(verdict(3, 1, 0, 0), format!("2 faults: {OFFER}\n1 state {LEFT}"));
        assert_eq!(verdict(2, 1, 1, 0), format!("1 state {LEFT}\n1 state not begun: {RUN}"));
        let begun_anew = format!("1 state begun anew: {RUN}\nverified: 7 records, all accounted for in the others");
        assert_eq!(verdict(0, 0, 0, 1), begun_anew);
        assert_eq!(verdict(0, 0, 0, 2), format!("2 states begun anew: {RUN}"));
    }
}
