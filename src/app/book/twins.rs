//! Pairs that the export refuses because an earlier one says the same: no accepted pairs of a record.
//!
//! Records follow each other, so the pairs that earlier records of the state count come first, then the record's own,
//! both in the order of the dataset. A pair is so counted once, in the first record that holds one like it, and the
//! records of a state sum up to the rows of its dataset.

use std::collections::{BTreeSet, HashMap};

use super::collect::{Found, each_document, each_output};
use crate::app::state::State;
use crate::bench::documents::OPEN;
use crate::export::ExportError;
use crate::export::encounters::Survey;
use crate::export::near_duplicates::NearDuplicates;
use crate::export::rows::pair_of;
use crate::model::Payload;
use crate::model::payload::{Document, QaPair};
use crate::model::plan::Plan;

/// Sees an accepted pair, its place among them, and the row of its document in the record.
type Visit<'a> = dyn FnMut(u64, &Payload, &QaPair, Option<usize>) -> Result<(), ExportError> + 'a;

/// Takes near-duplicates out of what `found` counts as accepted, and says how many. `before` are the documents of
/// earlier records.
pub(super) fn refuse(
    states: &[&State],
    plan: &Plan,
    before: &BTreeSet<String>,
    found: &mut Found,
) -> Result<u64, ExportError> {
    let own: HashMap<String, usize> = found
        .rows
        .iter()
        .enumerate()
        .filter(|(_, row)| row.state != OPEN)
        .map(|(at, row)| (row.sha256.clone(), at))
        .collect();
    let mut documents: Vec<(Document, usize)> = Vec::new();
    for (at, state) in states.iter().enumerate() {
        each_document(state.store.as_ref(), |document| {
            let hash = document.sha256.hex();
            if before.contains(&hash) || own.contains_key(&hash) {
                documents.push((document, at));
            }
            Ok(())
        })?;
    }
    let place =
        |document: &Document| (!before.contains(&document.sha256.hex()), document.name.clone(), document.sha256);
    documents.sort_by_cached_key(|(document, _)| place(document));
    let each_pair = |visit: &mut Visit<'_>| {
        let mut place = 0;
        for (document, at) in &documents {
            let row = own.get(&document.sha256.hex()).copied();
            for terminal in plan.terminals() {
                each_output(states[*at].store.as_ref(), &plan.key(terminal), &document.sha256, |payload| {
                    let Some(pair) = pair_of(&payload) else { return Ok(()) };
                    place += 1;
                    visit(place, &payload, pair, row)
                })?;
            }
        }
        Ok::<(), ExportError>(())
    };
    let Some(first) = states.first() else { return Ok(0) };
    let mut survey = Survey::new(&plan.near_duplicates, &first.dir)?;
    each_pair(&mut |place, _, pair, _| survey.note(&place.to_string(), &pair.question, &pair.answer))?;
    let mut seen = NearDuplicates::among(plan.near_duplicates, survey.end()?);
    let mut refused = 0;
    each_pair(&mut |place, payload, pair, row| {
        let twin = seen.offer(&place.to_string(), &pair.question, &pair.answer);
        if let (Some(_), Some(row)) = (twin, row) {
            let row = &mut found.rows[row];
            row.pairs_accepted = row.pairs_accepted.saturating_sub(1);
            let judged = u64::from(matches!(payload, Payload::Score(_)));
            found.judged_accepted = found.judged_accepted.saturating_sub(judged);
            refused += 1;
        }
        Ok(())
    })?;
    Ok(refused)
}
