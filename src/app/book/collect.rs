//! What a state says of each document: its work, its pairs, its marks, and what went wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::state::State;
use crate::bench::documents::{DONE, FAILED, OPEN};
use crate::bench::record::DocumentRow;
use crate::model::payload::{Document, PayloadKind, Scores};
use crate::model::plan::Plan;
use crate::model::record::{Ending, Epoch, ItemKey};
use crate::model::store::Store;
use crate::model::text::TextStore;
use crate::model::{DocumentHash, Fingerprint, Payload, StageKey, StoreError};

/// Records read at once.
const PAGE: usize = 256;

/// What was found of the documents that a record counts.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// A row each; time is shared out later.
    pub(super) rows: Vec<DocumentRow>,
    /// Documents of the rung that an earlier record of the state counts.
    pub(super) reused: u64,
    /// Pairs that all stages accepted and the export refuses; they are no accepted pairs. `None` if they are not looked
    /// for.
    pub(super) near_duplicates: Option<u64>,
    /// Bytes of their texts.
    pub(super) text_bytes: u64,
    /// Items by stage: done, rejected, dead.
    pub(super) stages: BTreeMap<String, [u64; 3]>,
    /// Sums of the marks of all judged pairs: clarity, accuracy, relevance, overall.
    pub(super) marks: [u64; 4],
    /// How often each mark from 1 to 5 was given, in the same order.
    pub(super) spread: [[u64; 5]; 4],
    /// Judged pairs.
    pub(super) judged: u64,
    /// Those of them that were accepted.
    pub(super) judged_accepted: u64,
    /// What went wrong, by kind, with how often and examples.
    pub(super) issues: BTreeMap<String, (u64, Vec<String>)>,
}

impl Found {
    pub(super) fn issue(&mut self, kind: String, example: String) {
        let entry = self.issues.entry(kind).or_default();
        entry.0 += 1;
        if entry.1.len() < 3 && !entry.1.contains(&example) {
            entry.1.push(example);
        }
    }

    fn judged(&mut self, scores: Scores, accepted: bool) {
        let all = [scores.clarity, scores.accuracy, scores.relevance, scores.overall];
        self.marks.iter_mut().zip(all).for_each(|(sum, mark)| *sum += u64::from(mark));
        for (spread, mark) in self.spread.iter_mut().zip(all) {
            spread[usize::from(mark).clamp(1, 5) - 1] += 1;
        }
        self.judged += 1;
        self.judged_accepted += u64::from(accepted);
    }

    /// Documents that ended, and those of them that failed.
    pub(super) fn ended(&self) -> (u64, u64) {
        let count = |state: &str| self.rows.iter().filter(|row| row.state == state).count() as u64;
        (count(DONE) + count(FAILED), count(FAILED))
    }
}

/// Which documents a record does not count.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Those that earlier records of the state count, by content hash.
    pub(super) before: BTreeSet<String>,
    /// Those that later records count.
    pub(super) after: BTreeSet<String>,
}

/// Adds what `state` holds of documents that no other record counts to `found`. Of those that an earlier one counts,
/// those that are `in_rung` are reused.
pub(super) fn collect(
    state: &State,
    plan: &Plan,
    counted: &Counted,
    in_rung: impl Fn(&Document) -> bool,
    found: &mut Found,
) -> Result<(), StoreError> {
    let open = open_documents(state.store.as_ref(), plan)?;
    each_document(state.store.as_ref(), |document| {
        let hash = document.sha256.hex();
        if counted.before.contains(&hash) {
            found.reused += u64::from(in_rung(&document));
        } else if !counted.after.contains(&hash) {
            one(state, plan, &document, open.contains(&document.sha256), found)?;
        }
        Ok(())
    })
}

/// Calls `each` with every document of a state.
pub(super) fn each_document(
    store: &dyn Store,
    mut each: impl FnMut(Document) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let source = Fingerprint::source().key();
    let mut after: Option<ItemKey> = None;
    loop {
        let page = store.outputs(&source, after.as_ref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (_, output) in page {
            if let Payload::Document(document) = output.payload {
                each(document)?;
            }
        }
    }
}

/// Documents with items left to do.
fn open_documents(store: &dyn Store, plan: &Plan) -> Result<BTreeSet<DocumentHash>, StoreError> {
    let mut open = BTreeSet::new();
    for at in 0..plan.nodes.len() {
        let mut after: Option<ItemKey> = None;
        loop {
            let page = store.pending(&plan.key(at), after.as_ref(), Epoch(u64::MAX), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            open.extend(page.iter().map(|item| item.key.lineage.root()));
        }
    }
    Ok(open)
}

fn one(state: &State, plan: &Plan, document: &Document, open: bool, found: &mut Found) -> Result<(), StoreError> {
    let store = state.store.as_ref();
    if open {
        // It counts as a whole in the record in which it ends: otherwise its items would count in both.
        found.rows.push(DocumentRow {
            sha256: document.sha256.hex(),
            name: document.name.clone(),
            bytes: document.bytes,
            state: OPEN.into(),
            ..DocumentRow::default()
        });
        return Ok(());
    }
    let mut row = DocumentRow {
        sha256: document.sha256.hex(),
        name: document.name.clone(),
        bytes: document.bytes,
        state: DONE.into(),
        ..DocumentRow::default()
    };
    let terminals: BTreeSet<usize> = plan.terminals().collect();
    for (at, node) in plan.nodes.iter().enumerate() {
        let asks = matches!(node.accepts, PayloadKind::Chunk | PayloadKind::Pair | PayloadKind::Verdict);
        let mut counts = [0_u64; 3];
        each_ending(store, &plan.key(at), &document.sha256, |ending| {
            row.work += f64::from(u8::from(asks));
            match ending {
                Ending::Done(done) => {
                    counts[0] += 1;
                    for warning in done.warnings {
                        found.issue(
                            format!("{}: {}", node.name, without_digits(&warning)),
                            format!("{}: {warning}", document.name),
                        );
                    }
                }
                Ending::Rejected(rejection) => {
                    counts[1] += 1;
                    if let Some(Payload::Score(scored)) = rejection.evidence.as_deref() {
                        found.judged(scored.scores, false);
                    }
                    if node.from_source {
                        row.state = FAILED.into();
                        found.issue(format!("{}: refused by {}", node.name, rejection.check), document.name.clone());
                    }
                }
                Ending::Dead(letter) => {
                    counts[2] += 1;
                    row.dead += 1;
                    if node.from_source {
                        row.state = FAILED.into();
                    }
                    found.issue(
                        format!("{}: given up: {}", node.name, letter.label),
                        format!("{}: {}", document.name, letter.reason),
                    );
                }
            }
        })?;
        let sums = found.stages.entry(node.name.clone()).or_default();
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        each_output(store, &plan.key(at), &document.sha256, |payload| {
            match &payload {
                Payload::Pages(pages) => {
                    row.pages = pages.pages;
                    row.chars = pages.chars;
                    found.text_bytes += state.texts.get(&pages.source.text)?.markdown.len() as u64;
                }
                Payload::Chunk(_) => row.chunks += 1,
                Payload::Pair(_) => row.pairs_written += 1,
                Payload::Score(scored) if terminals.contains(&at) => found.judged(scored.scores, true),
                _ => {}
            }
            let is_pair = matches!(payload.kind(), PayloadKind::Pair | PayloadKind::Verdict | PayloadKind::Score);
            row.pairs_accepted += u64::from(is_pair && terminals.contains(&at));
            Ok(())
        })?;
    }
    found.rows.push(row);
    Ok(())
}

/// A warning without its numbers, so that the same one on other pages is the same kind.
fn without_digits(text: &str) -> String {
    let mut kind = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_digit() {
            kind.push(c);
        } else if !kind.ends_with('…') {
            kind.push('…');
        }
    }
    kind
}

fn each_ending(
    store: &dyn Store,
    stage: &StageKey,
    document: &DocumentHash,
    mut each: impl FnMut(Ending),
) -> Result<(), StoreError> {
    let mut after: Option<ItemKey> = None;
    loop {
        let page = store.endings_of(stage, document, after.as_ref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (_, ending) in page {
            each(ending);
        }
    }
}

pub(super) fn each_output<E: From<StoreError>>(
    store: &dyn Store,
    producer: &StageKey,
    document: &DocumentHash,
    mut each: impl FnMut(Payload) -> Result<(), E>,
) -> Result<(), E> {
    let mut after: Option<ItemKey> = None;
    loop {
        let page = store.outputs_of(producer, document, after.as_ref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (_, output) in page {
            each(output.payload)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_that_differ_in_numbers_are_one_kind() {
        assert_eq!(without_digits("page 12 has no text"), "page … has no text");
        assert_eq!(without_digits("pages 3, 14 and 5"), "pages …, … and …");
    }

    #[test]
    fn examples_of_an_issue_are_few() {
        let mut found = Found::default();
        for n in 0..9 {
            found.issue("kind".into(), format!("document {n}"));
        }
        assert_eq!(found.issues["kind"].0, 9);
        assert_eq!(found.issues["kind"].1.len(), 3);
    }
}
