//! Several states at once: named one by one or by a pattern, checked to be shares of one run, and read as one dataset.

use std::path::{Path, PathBuf};

use super::export::{ExportArgs, options, pending, print, remarks, write_all};
use super::progress::Phase;
use super::state::{ATTEMPTS, CREATED, LIMITED, State, StateOptions};
use super::{Exit, UsageError, counted, shard};
use crate::export::manifest::RunFacts;
use crate::export::many::{Many, Part};
use crate::model::StoreError;
use crate::model::plan::Plan;
use crate::model::store::{Lease, Store};
use crate::sources::Shard;
use crate::store::holds_state;

/// Memory for the databases' caches together, in MiB.
const CACHES_MB: u32 = 64;

/// The states that a command means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Their folders, each once.
    pub dirs: Vec<PathBuf>,
    /// Whether several may be meant: several were named, or a pattern.
    pub many: bool,
}

/// The states that `--state` names: folders and patterns such as `state/run-*`; by default the only one below `state/`.
///
/// # Errors
/// If a pattern fits no state, one of several folders named is not there, or none is named and there is not exactly one.
pub fn select(named: &[PathBuf]) -> anyhow::Result<Selection> {
    let mut dirs = Vec::new();
    let mut many = named.len() > 1;
    let several = many;
    for name in named {
        if is_pattern(name) && !name.exists() {
            many = true;
            let mut found = expand(name);
            found.retain(|dir| holds_state(dir));
            if found.is_empty() {
                return Err(UsageError(format!("--state {}: no folder that holds a state fits", name.display())).into());
            }
            dirs.extend(found);
        } else if several && !name.exists() {
            return Err(UsageError(format!("--state {}: there is no such folder", name.display())).into());
        } else if several && !holds_state(name) {
            // A shell that expands `state/*` names whatever lies there.
            tracing::warn!("--state {}: it holds no state, and is passed over", name.display());
        } else {
            dirs.push(name.clone());
        }
    }
    if several && dirs.is_empty() {
        return Err(UsageError("--state: none of the folders named holds a state".into()).into());
    }
    if named.is_empty() {
        dirs.push(super::state::resolve(None)?);
    }
    let mut seen = std::collections::HashSet::new();
    dirs.retain(|dir| seen.insert(dir.canonicalize().unwrap_or_else(|_| dir.clone())));
    Ok(Selection { dirs, many })
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

/// The paths that fit a pattern, sorted.
fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        if !is_pattern(Path::new(part.as_os_str())) {
            for path in &mut found {
                path.push(part);
            }
            continue;
        }
        let mut next = Vec::new();
        for folder in &found {
            let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let names = std::fs::read_dir(listed).into_iter().flatten().flatten().map(|entry| entry.file_name());
            let fitting = names.filter(|name| {
                let name = name.to_string_lossy();
                (!name.starts_with('.') || text.starts_with('.')) && fits(text.as_bytes(), name.as_bytes())
            });
            next.extend(fitting.map(|name| folder.join(name)));
        }
        next.sort();
        found = next;
    }
    found.retain(|path| path.exists());
    found
}

/// Whether a name fits a pattern of `*`, `?`, `[abc]`, `[a-z]` and `[!abc]`, as in a shell.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', rest @ ..] => (0..=name.len()).any(|taken| fits(rest, &name[taken..])),
        [b'[', rest @ ..] if rest.iter().skip(1).any(|byte| *byte == b']') => {
            let Some((first, others)) = name.split_first() else { return false };
            let end = 1 + rest.iter().skip(1).position(|byte| *byte == b']').unwrap_or(0);
            let (set, negated) = match &rest[..end] {
                [b'!' | b'^', set @ ..] => (set, true),
                set => (set, false),
            };
            one_of(set, *first) != negated && fits(&rest[end + 1..], others)
        }
        [b'?', rest @ ..] => !name.is_empty() && fits(rest, &name[1..]),
        [byte, rest @ ..] => name.first() == Some(byte) && fits(rest, &name[1..]),
    }
}

fn one_of(set: &[u8], byte: u8) -> bool {
    match set {
        [low, b'-', high, rest @ ..] => (*low..=*high).contains(&byte) || one_of(rest, byte),
        [one, rest @ ..] => *one == byte || one_of(rest, byte),
        [] => false,
    }
}

/// States that together hold a corpus, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Each state with its share, in the order of the shares.
    pub states: Vec<(PathBuf, Option<Shard>)>,
    /// Shares that no state holds.
    pub missing: Vec<Shard>,
    /// States that hold documents of other shares than their own, each with its share, in words.
    pub mixed: Vec<String>,
}

/// Which share each state holds, and which is missing.
///
/// # Errors
/// If they are shares of different divisions, one is there twice, or only some are shares: then no dataset of one run
/// can come of them.
pub fn shares(dirs: &[PathBuf]) -> anyhow::Result<Shares> {
    let mut states: Vec<(PathBuf, Option<Shard>)> = Vec::new();
    let mut mixed = Vec::new();
    for dir in dirs {
        let held = shard::held(dir)?;
        mixed.extend(held.as_ref().and_then(|held| in_words(dir, held)));
        states.push((dir.clone(), held.map(|held| held.share)));
    }
    states.sort_by(|a, b| (a.1.map(Shard::index), &a.0).cmp(&(b.1.map(Shard::index), &b.0)));
    let Some(first) = states.first().cloned() else { return Ok(Shares { states, missing: Vec::new(), mixed }) };
    let name = |(dir, share): &(PathBuf, Option<Shard>)| {
        format!("{} holds {}", dir.display(), share.map_or_else(|| "no share of a corpus".into(), shard::words))
    };
    for pair in states.windows(2) {
        let (a, b) = (&pair[0], &pair[1]);
        let fault = if a.1.map(Shard::count) != b.1.map(Shard::count) {
            "they are not shares of one division"
        } else if a.1.is_some() && a.1 == b.1 {
            "the same share is there twice"
        } else {
            continue;
        };
        return Err(
            UsageError(format!("{fault}: {}, {}. Name the states that belong together", name(a), name(b))).into()
        );
    }
    let count = first.1.map_or(0, Shard::count);
    let held: Vec<u32> = states.iter().filter_map(|(_, share)| share.map(Shard::index)).collect();
    let missing = (0..count).filter(|i| held.binary_search(i).is_err()).filter_map(|i| Shard::new(i, count)).collect();
    Ok(Shares { states, missing, mixed })
}

/// That a state holds documents of other shares as well; `None` if it does not.
fn in_words(dir: &Path, held: &shard::Held) -> Option<String> {
    let before: Vec<String> =
        held.before.iter().map(|share| share.map_or_else(|| "all it was given".into(), shard::words)).collect();
    (!before.is_empty()).then(|| {
        format!(
            "{} holds {}, and was run over {} before (--change-shard): the documents of that which it met are in it too, \
             which may not be all of them",
            dir.display(),
            shard::words(held.share),
            before.join(", then ")
        )
    })
}

/// `qaflow export` over several states: the files that one state over the whole corpus would give.
///
/// # Errors
/// If the states do not belong together, or, unless `--partial` is given, if one is missing, in use or unfinished.
pub fn export(args: &ExportArgs, selection: &Selection) -> anyhow::Result<Exit> {
    let Shares { states, missing, mixed } = shares(&selection.dirs)?;
    for remark in &mixed {
        tracing::warn!("{remark}");
    }
    let mut lacking: Vec<String> =
        missing.iter().map(|share| format!("{} is missing: no state given holds it", shard::words(*share))).collect();
    let mut open = Vec::new();
    let cache_mb = (CACHES_MB / states.len().max(1) as u32).max(2);
    for (dir, share) in states {
        let text_cache = u64::from(cache_mb) << 20;
        let opened = State::open(&dir, StateOptions { cache_mb, text_cache, ..StateOptions::default() });
        match opened.and_then(|state| Ok((state.plan()?, state))) {
            Ok((plan, state)) => {
                let left = unfinished(&state, &plan)?;
                lacking.extend(
                    left.map(|left| format!("{}{} is not finished: {left}", dir.display(), in_brackets(share))),
                );
                open.push((state, plan, share));
            }
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Lease(_))) => {
                lacking.push(format!("{}{} is left out: {error}", dir.display(), in_brackets(share)));
            }
            // One that is damaged must not keep back what the others hold, if what there is is asked for.
            Err(error) if args.partial => {
                lacking.push(format!("{}{} cannot be opened: {error}", dir.display(), in_brackets(share)));
            }
            Err(error) => return Err(error),
        }
    }
    if !lacking.is_empty() && !args.partial {
        anyhow::bail!(
            "the dataset is not whole:\n  {}\nRun what is missing, or give --partial to export what there is",
            lacking.join("\n  ")
        );
    }
    for lack in &lacking {
        tracing::warn!("{lack}");
    }
    let Some((_, plan, _)) = open.first() else { anyhow::bail!("no state is left to export") };
    let mut plan = plan.clone();
    for (state, other, _) in &open {
        if let Some(difference) = difference(&plan, other) {
            return Err(UsageError(format!(
                "{} and {} were run by different plans, and give no dataset together: {difference}. Run both with the same \
                 configuration, or export them apart",
                open[0].0.dir.display(),
                state.dir.display()
            ))
            .into());
        }
    }
    let out = match &args.out {
        Some(out) => out.clone(),
        None => common_out(open.iter().map(|(_, plan, share)| (Path::new(&plan.out), *share)))?,
    };
    plan.out = out.display().to_string();
    let mut facts = facts(&open, &plan, lacking.is_empty())?;
    let parts: Vec<Part> = open
        .iter()
        .map(|(state, _, shard)| Part { store: state.store(), texts: state.texts(), shard: *shard })
        .collect();
    let many = Many::new(parts)?;
    if many.duplicates() > 0 {
        facts.remarks.push(format!(
            "in two states: {}; each is exported once, but the accounts of the stages count both",
            counted(many.duplicates(), "document")
        ));
    }
    facts.remarks.extend(lacking.iter().chain(&mixed).cloned());
    let exported = write_all(&plan, (&many, &many), &out, &facts, &options(args, &plan)?, || {
        open.iter().try_for_each(|(state, ..)| state.lease.check())
    })?;
    if args.json {
        let json = serde_json::json!({
            "run_id": plan.run_id, "finished": lacking.is_empty(), "lacking": lacking, "states": facts.states,
            "pairs_accepted": exported.accepted, "documents": exported.documents, "duplicates": many.duplicates(),
            "files": exported.files, "out": out.display().to_string(),
        });
        print(&json.to_string());
    } else {
        print(&format!(
            "{} from {} in {} written to {}",
            counted(exported.accepted, "accepted pair"),
            counted(exported.documents, "document"),
            counted(open.len() as u64, "state"),
            out.display()
        ));
        if !lacking.is_empty() {
            print("the dataset is not whole: see the warnings above, which manifest.json repeats");
        }
    }
    Ok(Exit::Done)
}

fn in_brackets(share: Option<Shard>) -> String {
    share.map_or_else(String::new, |share| format!(" (share {} of {})", share.index() + 1, share.count()))
}

/// What is left to do in a state; `None` if it is finished. That nothing is pending does not say so: the last attempt
/// may have ended before it had met all documents.
fn unfinished(state: &State, plan: &Plan) -> anyhow::Result<Option<String>> {
    let pending = pending(plan, state.store.as_ref())?;
    if pending > 0 {
        return Ok(Some(format!("{} pending", counted(pending, "item"))));
    }
    if let Some(cut) = state.text(LIMITED)? {
        return Ok(Some(format!("its last run took only {cut} documents (--limit)")));
    }
    Ok(match super::status::read(&state.dir).map(|status| status.phase) {
        Ok(Phase::Finished) => None,
        Ok(_) => Some("its last run did not end, and may not have met all documents".into()),
        Err(error) => Some(format!("whether its last run ended is not known ({error})")),
    })
}

/// How two plans differ in what makes a row.
fn difference(a: &Plan, b: &Plan) -> Option<String> {
    let (ours, theirs) = (a.fingerprints(), b.fingerprints());
    if ours != theirs {
        let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let differing: Vec<String> = names
            .into_iter()
            .filter(|name| ours.get(*name) != theirs.get(*name))
            .map(|name| format!("`{name}`"))
            .collect();
        return Some(format!("the fingerprints of {} differ", differing.join(", ")));
    }
    (a.run_id != b.run_id).then(|| format!("run_id is {} in the one and {} in the other", a.run_id, b.run_id))
}

/// The results folder without the share behind its name, if all agree.
fn common_out<'a>(outs: impl Iterator<Item = (&'a Path, Option<Shard>)>) -> anyhow::Result<PathBuf> {
    let whole = |out: &PathBuf| std::path::absolute(out).unwrap_or_else(|_| out.clone());
    let outs: Option<Vec<PathBuf>> =
        outs.map(|(out, share)| share.and_then(|share| shard::folder_without(out, share))).collect();
    match outs.as_deref() {
        Some([first, rest @ ..]) if rest.iter().all(|out| whole(out) == whole(first)) => Ok(first.clone()),
        _ => Err(UsageError("name the folder of the results with --out: the states have no common one".into()).into()),
    }
}

fn facts(open: &[(State, Plan, Option<Shard>)], plan: &Plan, finished: bool) -> anyhow::Result<RunFacts> {
    let mut facts = RunFacts { finished, written: super::now(), remarks: remarks(plan), ..RunFacts::default() };
    for (state, _, share) in open {
        let model = state.store.model_counts()?;
        facts.model_calls += model.calls;
        facts.prompt_tokens += model.usage.prompt_tokens;
        facts.completion_tokens += model.usage.completion_tokens;
        facts.attempts += state.text(ATTEMPTS)?.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let created = state.text(CREATED)?;
        facts.state_created = match (facts.state_created.take(), created) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let ledger = super::ledger::attempts(state.store.as_ref())?;
        facts.ledger.attempts.extend(ledger);
        facts.states.push(format!("{}{}", state.dir.display(), in_brackets(*share)));
    }
    facts.ledger.totals = crate::model::ledger::LedgerTotals::of(&facts.ledger.attempts);
    Ok(facts)
}

/// The lines that say which states a command over several met, for people.
pub(super) fn heading(dir: &Path, share: Option<Shard>) -> String {
    format!("{}{}", dir.display(), in_brackets(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_folders_one_that_is_missing_is_named() {
        let dir = tempfile::tempdir().expect("folder");
        let [a, b, other, gone] = ["a", "b", "other", "gone"].map(|name| dir.path().join(name));
        for state in [&a, &b] {
            std::fs::create_dir(state).expect("folder");
            std::fs::write(state.join("identity.json"), "{}").expect("file");
        }
        std::fs::create_dir(&other).expect("folder");
        let both = Selection { dirs: vec![a.clone(), b.clone()], many: true };
        assert_eq!(select(&[a.clone(), other.clone(), b]).expect("states"), both, "no state is passed over");
        let said = select(&[a, gone.clone()]).expect_err("missing").to_string();
        assert!(said.contains(&gone.display().to_string()) && said.contains("there is no such folder"), "{said}");
        assert!(select(&[other.clone(), other]).expect_err("none").to_string().contains("none of the folders"));
        // Of a single one the command itself says what is wrong.
        assert_eq!(select(std::slice::from_ref(&gone)).expect("named").dirs, [gone]);
    }
}
