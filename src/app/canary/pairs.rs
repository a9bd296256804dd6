//! The good pairs that faults are planted into: a sample of a dataset's rows or of a state's accepted pairs, the same
//! for the same seed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;

use super::super::UsageError;
use super::super::pairs_file::{PairRow, Rows};
use super::super::state::{State, StateOptions, resolve};
use crate::export::rows::pair_of;
use crate::model::ids::DocumentHash;
use crate::model::payload::{Chunk, QaPair, SourceRef, Usage};
use crate::model::record::ItemKey;
use crate::model::store::Store as _;
use crate::model::text::{ExtractedText, Span, TextStore};
use crate::model::{BlobId, ItemId, Payload, PayloadKind, StoreError};

/// Records read at once.
const PAGE: usize = 256;

/// A good pair.
pub(super) struct Good {
    /// What the dataset calls it.
    pub(super) id: String,
    /// The pair, whose quote is the verified one.
    pub(super) pair: QaPair,
}

/// Good pairs with the texts that they were made from.
pub(super) struct Sample {
    pub(super) pairs: Vec<Good>,
    pub(super) texts: Arc<dyn TextStore>,
}

/// Keeps `most` of however many are offered, each with the same chance (Vitter's algorithm R, 1985), in the order in
/// which they were offered.
struct Reservoir<T> {
    most: usize,
    offered: usize,
    random: Rng,
    kept: Vec<(usize, T)>,
}

impl<T> Reservoir<T> {
    fn new(most: usize, seed: u64) -> Self {
        Self { most, offered: 0, random: Rng::with_seed(seed), kept: Vec::new() }
    }

    fn offer(&mut self, one: T) {
        let at = self.offered;
        self.offered += 1;
        if self.kept.len() < self.most {
            self.kept.push((at, one));
        } else {
            let place = self.random.usize(..self.offered);
            if let Some(slot) = self.kept.get_mut(place) {
                *slot = (at, one);
            }
        }
    }

    fn kept(mut self) -> Vec<T> {
        self.kept.sort_by_key(|(at, _)| *at);
        self.kept.into_iter().map(|(_, one)| one).collect()
    }
}

/// Samples the rows of a dataset.
///
/// # Errors
/// If the file cannot be read or a row cannot be used.
pub(super) fn of_dataset(path: &Path, most: usize, seed: u64) -> anyhow::Result<Sample> {
    let mut reservoir = Reservoir::new(most, seed);
    for next in Rows::open(path)? {
        let (line, row) = next?;
        let row = row.map_err(|bad| UsageError(bad.to_string()))?;
        // Of labelled pairs only the good ones serve.
        if row.label.as_deref().is_none_or(|label| label == super::GOOD) {
            reservoir.offer((line, row));
        }
    }
    let mut texts = ContextTexts::default();
    let pairs = reservoir.kept().into_iter().map(|(line, row)| texts.pair(line, row)).collect();
    Ok(Sample { pairs, texts: Arc::new(texts) })
}

/// Samples the accepted pairs of a state.
///
/// # Errors
/// If the state cannot be opened or read.
pub(super) fn of_state(dir: Option<&Path>, most: usize, seed: u64) -> anyhow::Result<Sample> {
    let state = State::open(&resolve(dir)?, StateOptions::default())?;
    let plan = state.plan()?;
    let mut reservoir = Reservoir::new(most, seed);
    for at in plan.terminals() {
        let mut after: Option<ItemKey> = None;
        loop {
            let page = state.store.outputs(&plan.key(at), after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, output) in page {
                let payload = output.payload;
                if !matches!(payload.kind(), PayloadKind::Pair | PayloadKind::Verdict | PayloadKind::Score) {
                    continue;
                }
                let Some(pair) = pair_of(&payload) else { continue };
                let citation = match &payload {
                    Payload::Verdict(verdict) => verdict.citations.first(),
                    Payload::Score(scored) => scored.verdict.citations.first(),
                    _ => None,
                };
                let quote = citation.map_or_else(|| pair.quote.clone(), |citation| citation.quote.clone());
                let id = match &payload {
                    Payload::Verdict(verdict) => verdict.pair_id.short(),
                    Payload::Score(scored) => scored.verdict.pair_id.short(),
                    _ => key.id.short(),
                };
                reservoir.offer(Good { id, pair: QaPair { quote, ..pair.clone() } });
            }
        }
    }
    let texts: Arc<dyn TextStore> = state.texts();
    Ok(Sample { pairs: reservoir.kept(), texts })
}

/// Passages from rows, each a document of its own.
#[derive(Default)]
struct ContextTexts(HashMap<BlobId, Arc<ExtractedText>>);

impl ContextTexts {
    /// The pair of a row, with its passage kept.
    fn pair(&mut self, line: u64, row: PairRow) -> Good {
        let sha256 = DocumentHash::of(row.context.as_bytes());
        let text = BlobId(sha256.0);
        let name = row.source_document.clone().unwrap_or_else(|| format!("line {line}"));
        let chunk = Chunk {
            source: SourceRef { name, sha256, text, title: None },
            chars: Span { start: 0, end: row.context.chars().count() as u64 },
            bytes: Span { start: 0, end: row.context.len() as u64 },
            first_page: 1,
            last_page: 1,
            headings: Vec::new(),
        };
        let quote = row.quote().to_owned();
        self.0.entry(text).or_insert_with(|| Arc::new(ExtractedText { markdown: row.context, page_starts: vec![0] }));
        let pair = QaPair {
            chunk,
            chunk_id: ItemId::document(&sha256),
            question: row.question,
            answer: row.answer,
            question_type: row.question_type.unwrap_or_default(),
            quote,
            model: String::new(),
            prompt_hash: String::new(),
            usage: Usage::default(),
        };
        Good { id: row.id.unwrap_or_else(|| format!("line {line}")), pair }
    }
}

impl TextStore for ContextTexts {
    fn put(&self, _: &ExtractedText) -> Result<BlobId, StoreError> {
        Err(missing())
    }

    fn get(&self, id: &BlobId) -> Result<Arc<ExtractedText>, StoreError> {
        self.0.get(id).cloned().ok_or_else(missing)
    }
}

fn missing() -> StoreError {
    StoreError::Damaged {
        what: "a passage".into(),
        detail: "it is not among the rows".into(),
        remedy: "Please report it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservoir_keeps_its_share_in_order() {
        let draw = |seed| {
            let mut reservoir = Reservoir::new(10, seed);
            (0..1000).for_each(|n| reservoir.offer(n));
            reservoir.kept()
        };
        let kept = draw(1);
        assert_eq!((kept.len(), kept.is_sorted(), kept.clone()), (10, true, draw(1)));
        assert_ne!(draw(2), kept);
        let mut mean = 0.0;
        for seed in 0..200 {
            mean += f64::from(draw(seed).iter().sum::<i32>()) / 10.0 / 200.0;
        }
        assert!((450.0..550.0).contains(&mean), "every one has the same chance: {mean}");
    }
}
