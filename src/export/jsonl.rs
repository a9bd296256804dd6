//! `dataset.jsonl`, `rejected.jsonl` and `dead_letters.jsonl`, in the order of document names, then lineage.

use std::path::Path;

use super::encounters::Survey;
use super::file::RowFile;
use super::near_duplicates::NearDuplicates;
use super::rows::{DeadRow, PairRow, RejectedRow, chunk_of, pair_id, pair_of};
use super::{Export, ExportError, Exported};
use crate::model::payload::Document;
use crate::model::record::Ending;
use crate::model::{Payload, PayloadKind, StoreError};

/// Writes the three files.
pub(super) fn write(
    export: &Export<'_>,
    out: &Path,
    documents: &[Document],
    exported: &mut Exported,
) -> Result<(), ExportError> {
    let names = ["dataset.jsonl", "rejected.jsonl", "dead_letters.jsonl"];
    let mut dataset = RowFile::create(&out.join(names[0]))?;
    let mut rejected = RowFile::create(&out.join(names[1]))?;
    let mut dead = RowFile::create(&out.join(names[2]))?;
    let mut seen = near_duplicates(export, out)?;
    for document in documents {
        for at in export.plan.terminals() {
            export.each_output(&export.plan.key(at), document, |key, payload| {
                if let Some(row) = PairRow::new(&key, &payload, context(export, &payload)?, &export.plan.run_id) {
                    if let Some(twin) = row.twin(&mut seen) {
                        let refused = twin.rejection(seen.params());
                        rejected.row(&RejectedRow::new("export", &key, &payload, &refused, Some(row)))?;
                        *exported.rejected.entry(refused.check).or_default() += 1;
                        exported.near_duplicates += 1;
                        return Ok(());
                    }
                    exported.accepted += 1;
                    if let Payload::Score(scored) = &payload {
                        let marks = scored.scores;
                        let all = [marks.clarity, marks.accuracy, marks.relevance, marks.overall];
                        exported.score_sums.iter_mut().zip(all).for_each(|(sum, mark)| *sum += u64::from(mark));
                        exported.scored += 1;
                    }
                    dataset.row(&row)?;
                }
                Ok::<(), ExportError>(())
            })?;
        }
        for (at, node) in export.plan.nodes.iter().enumerate() {
            export.each_ending(&export.plan.key(at), document, |key, ending| {
                match &ending {
                    Ending::Done(done) => {
                        for (note, count) in &done.notes {
                            *exported.notes.entry(format!("{}.{note}", node.name)).or_default() += count;
                        }
                    }
                    Ending::Rejected(rejection) => {
                        let payload = payload(export, at, &key)?;
                        let known = rejection.evidence.as_deref().unwrap_or(&payload);
                        let pair = PairRow::new(&key, known, context(export, known)?, &export.plan.run_id);
                        rejected.row(&RejectedRow::new(&node.name, &key, &payload, rejection, pair))?;
                        *exported.rejected.entry(rejection.check.clone()).or_default() += 1;
                    }
                    Ending::Dead(letter) => {
                        let payload = payload(export, at, &key)?;
                        dead.row(&DeadRow::new(&node.name, &key, &payload, letter))?;
                        *exported.dead.entry(format!("{}: {}", node.name, letter.label)).or_default() += 1;
                    }
                }
                Ok::<(), ExportError>(())
            })?;
        }
    }
    for (name, file) in names.into_iter().zip([dataset, rejected, dead]) {
        (export.held)()?;
        exported.files.insert(name.into(), file.finish()?);
    }
    Ok(())
}

/// The search for near-duplicates, told by a first pass over all pairs which of them need a look.
fn near_duplicates(export: &Export<'_>, out: &Path) -> Result<NearDuplicates, ExportError> {
    let params = export.plan.near_duplicates;
    if !params.enabled {
        return Ok(NearDuplicates::new(params));
    }
    let mut survey = Survey::new(&params, out)?;
    for at in export.plan.terminals() {
        export.each_made(&export.plan.key(at), |key, payload| match pair_of(&payload) {
            Some(pair) => survey.note(&pair_id(&key, &payload), &pair.question, &pair.answer),
            None => Ok(()),
        })?;
    }
    Ok(NearDuplicates::among(params, survey.end()?))
}

/// The passage that a pair was made from; empty for what is no pair.
fn context(export: &Export<'_>, payload: &Payload) -> Result<String, StoreError> {
    if !matches!(payload.kind(), PayloadKind::Pair | PayloadKind::Verdict | PayloadKind::Score) {
        return Ok(String::new());
    }
    let Some(chunk) = chunk_of(payload) else { return Ok(String::new()) };
    let text = export.texts.get(&chunk.source.text)?;
    let range = chunk.bytes.start as usize..chunk.bytes.end as usize;
    text.markdown.get(range).map(Into::into).ok_or_else(|| StoreError::Damaged {
        what: format!("the text of {}", chunk.source.name),
        detail: "it does not hold the span of one of its chunks".into(),
        remedy: "Run `qaflow verify`".into(),
    })
}

fn payload(export: &Export<'_>, at: usize, key: &crate::model::record::ItemKey) -> Result<Payload, StoreError> {
    export.payload_of(at, key)?.ok_or_else(|| StoreError::Damaged {
        what: format!("item {} of stage `{}`", key.id.short(), export.plan.nodes[at].name),
        detail: "it has ended, but what it carried is not in the store".into(),
        remedy: "Run `qaflow verify --repair`".into(),
    })
}
