//! The rows of the files: their fields, in order, are a promise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::near_duplicates::{NearDuplicates, Twin};
use crate::model::Payload;
use crate::model::payload::{CheckValue, Checks, Chunk, QaPair, Scored, Scores, Usage, Verdict};
use crate::model::record::{DeadLetter, ItemKey, Rejection};

/// A row of `dataset.jsonl`; with [`RejectedRow`]'s fields behind it, of `rejected.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    /// The pair's id, in hexadecimal.
    pub id: String,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// For instance `factual`.
    pub question_type: String,
    /// The document's name.
    pub source_document: String,
    /// SHA-256 of the document.
    pub source_sha256: String,
    /// The page of the first quote, from 1.
    pub source_page: u32,
    /// The passage's id.
    pub chunk_id: String,
    /// The verified quotes.
    pub citations: Vec<CitationRow>,
    /// The passage.
    pub context: String,
    /// The judge's marks, if a judge saw it.
    pub scores: Option<ScoresRow>,
    /// What each check found.
    pub checks: BTreeMap<String, CheckRow>,
    /// The model that wrote it.
    pub model: String,
    /// The model that judged it.
    pub judge_model: Option<String>,
    /// Hash of the prompts.
    pub prompt_hash: String,
    /// The run's name.
    pub run_id: String,
    /// Tokens of the calls that made it.
    pub usage: UsageRow,
    /// Whether the passage does not answer the question, as the answer then says; `SQuAD`'s word for it.
    #[serde(default)]
    pub is_impossible: bool,
}

/// A verified quote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CitationRow {
    /// The text as it stands in the document.
    pub quote: String,
    /// Its page, from 1.
    pub page: u32,
    /// Where it begins in `documents/<sha256>.md`, in Unicode scalar values.
    pub char_start: u64,
    /// Where it ends.
    pub char_end: u64,
    /// How well the model's quote matches, 0 to 1.
    pub match_score: f64,
}

/// The judge's marks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoresRow {
    /// 1 to 5.
    pub clarity: u8,
    /// 1 to 5.
    pub accuracy: u8,
    /// 1 to 5.
    pub relevance: u8,
    /// 1 to 5.
    pub overall: u8,
    /// The judge's reason.
    pub reason: String,
}

/// A check's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckRow {
    /// Whether the pair passed.
    pub pass: bool,
    /// What was measured: a number or a text.
    pub value: serde_json::Value,
}

/// Tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Of the prompts.
    pub prompt_tokens: u64,
    /// Of the answers.
    pub completion_tokens: u64,
}

/// A row of `rejected.jsonl`.
#[derive(Debug, Serialize)]
pub struct RejectedRow {
    stage: String,
    rejected_by: String,
    value: String,
    rule: String,
    id: String,
    source_document: String,
    source_sha256: String,
    /// The pair with all that was known of it by then; `null` for an item that is no pair.
    pair: Option<PairRow>,
}

/// A row of `dead_letters.jsonl`.
#[derive(Debug, Serialize)]
pub struct DeadRow {
    id: String,
    stage: String,
    reason: String,
    label: String,
    attempts: u32,
    kind: String,
    source_document: String,
    source_sha256: String,
    pages: Option<[u32; 2]>,
    chunk_id: Option<String>,
    question: Option<String>,
    answer: Option<String>,
    raw_answers: Vec<String>,
}

impl PairRow {
    /// The row of a pair, checked pair or scored pair; `None` for anything else. `id` is the pair's own.
    pub fn new(key: &ItemKey, payload: &Payload, context: String, run_id: &str) -> Option<Self> {
        let id = pair_id(key, payload);
        match payload {
            Payload::Pair(pair) => Some(Self::of_pair(&id, pair, context, run_id)),
            Payload::Verdict(verdict) => Some(Self::of_verdict(&id, verdict, context, run_id)),
            Payload::Score(scored) => Some(Self::of_score(&id, scored, context, run_id)),
            Payload::Document(_) | Payload::Pages(_) | Payload::Chunk(_) => None,
        }
    }

    /// The earlier pair that says the same, if there is one; else this one is taken note of.
    pub(super) fn twin(&self, seen: &mut NearDuplicates) -> Option<Twin> {
        seen.offer(&self.id, &self.question, &self.answer)
    }

    fn of_pair(id: &str, pair: &QaPair, context: String, run_id: &str) -> Self {
        Self {
            id: id.into(),
            question: pair.question.clone(),
            answer: pair.answer.clone(),
            question_type: pair.question_type.clone(),
            source_document: pair.chunk.source.name.clone(),
            source_sha256: pair.chunk.source.sha256.hex(),
            source_page: pair.chunk.first_page,
            chunk_id: pair.chunk_id.short(),
            citations: Vec::new(),
            context,
            scores: None,
            checks: BTreeMap::new(),
            model: pair.model.clone(),
            judge_model: None,
            prompt_hash: pair.prompt_hash.clone(),
            run_id: run_id.into(),
            usage: usage_row(pair.usage),
            is_impossible: pair.is_unanswerable(),
        }
    }

    fn of_verdict(id: &str, verdict: &Verdict, context: String, run_id: &str) -> Self {
        let mut row = Self::of_pair(id, &verdict.pair, context, run_id);
        row.citations = verdict
            .citations
            .iter()
            .map(|c| CitationRow {
                quote: c.quote.clone(),
                page: c.page,
                char_start: c.chars.start,
                char_end: c.chars.end,
                match_score: c.match_score,
            })
            .collect();
        if let Some(first) = row.citations.first() {
            row.source_page = first.page;
        }
        row.checks = checks_row(&verdict.checks);
        let mut usage = verdict.pair.usage;
        usage += verdict.usage;
        row.usage = usage_row(usage);
        row
    }

    fn of_score(id: &str, scored: &Scored, context: String, run_id: &str) -> Self {
        let mut row = Self::of_verdict(id, &scored.verdict, context, run_id);
        let Scores { clarity, accuracy, relevance, overall } = scored.scores;
        row.scores = Some(ScoresRow { clarity, accuracy, relevance, overall, reason: scored.reason.clone() });
        row.judge_model = Some(scored.judge_model.clone());
        let mut usage = scored.verdict.pair.usage;
        usage += scored.verdict.usage;
        usage += scored.usage;
        row.usage = usage_row(usage);
        row
    }
}

impl RejectedRow {
    /// The row of an item that `stage` rejected.
    pub fn new(stage: &str, key: &ItemKey, payload: &Payload, rejection: &Rejection, pair: Option<PairRow>) -> Self {
        Self {
            stage: stage.into(),
            rejected_by: rejection.check.clone(),
            value: rejection.value.clone(),
            rule: rejection.rule.clone(),
            id: pair.as_ref().map_or_else(|| key.id.short(), |pair| pair.id.clone()),
            source_document: payload.document_name().into(),
            source_sha256: key.lineage.root().hex(),
            pair,
        }
    }
}

impl DeadRow {
    /// The row of an item that `stage` gave up.
    pub fn new(stage: &str, key: &ItemKey, payload: &Payload, letter: &DeadLetter) -> Self {
        let chunk = chunk_of(payload);
        let pair = pair_of(payload);
        Self {
            id: key.id.short(),
            stage: stage.into(),
            reason: letter.reason.clone(),
            label: letter.label.clone(),
            attempts: letter.attempts,
            kind: payload.kind().to_string(),
            source_document: payload.document_name().into(),
            source_sha256: key.lineage.root().hex(),
            pages: chunk.map(|chunk| [chunk.first_page, chunk.last_page]),
            chunk_id: match payload {
                Payload::Chunk(_) => Some(key.id.short()),
                _ => pair.map(|pair| pair.chunk_id.short()),
            },
            question: pair.map(|pair| pair.question.clone()),
            answer: pair.map(|pair| pair.answer.clone()),
            raw_answers: letter.raw.clone(),
        }
    }
}

/// The chunk that a payload is or comes from.
pub fn chunk_of(payload: &Payload) -> Option<&Chunk> {
    match payload {
        Payload::Chunk(chunk) => Some(chunk),
        _ => pair_of(payload).map(|pair| &pair.chunk),
    }
}

/// The id of the pair that the item `key` carries.
pub(super) fn pair_id(key: &ItemKey, payload: &Payload) -> String {
    match payload {
        Payload::Verdict(verdict) => verdict.pair_id.short(),
        Payload::Score(scored) => scored.verdict.pair_id.short(),
        _ => key.id.short(),
    }
}

/// The pair that a payload is or holds.
pub fn pair_of(payload: &Payload) -> Option<&QaPair> {
    match payload {
        Payload::Pair(pair) => Some(pair),
        Payload::Verdict(verdict) => Some(&verdict.pair),
        Payload::Score(scored) => Some(&scored.verdict.pair),
        Payload::Document(_) | Payload::Pages(_) | Payload::Chunk(_) => None,
    }
}

fn usage_row(usage: Usage) -> UsageRow {
    UsageRow { prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens }
}

fn checks_row(checks: &Checks) -> BTreeMap<String, CheckRow> {
    let row = |value: &CheckValue| match value {
        CheckValue::Number(number) => serde_json::json!(number),
        CheckValue::Text(text) => serde_json::json!(text),
    };
    checks.iter().map(|(name, check)| (name.clone(), CheckRow { pass: check.pass, value: row(&check.value) })).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row with one quote.
    pub(in super::super) fn pair_row(document: &str, context: &str, quote: &str) -> PairRow {
        PairRow {
            id: "00ff".into(),
            question: "When is an appeal heard?".into(),
            answer: "Within 30 days.".into(),
            question_type: "factual".into(),
            source_document: format!("{document}.pdf"),
            source_sha256: document.into(),
            source_page: 2,
            chunk_id: "0c".into(),
            citations: vec![CitationRow {
                quote: quote.into(),
                page: 2,
                char_start: 100,
                char_end: 100 + quote.chars().count() as u64,
                match_score: 1.0,
            }],
            context: context.into(),
            scores: Some(ScoresRow { clarity: 5, accuracy: 4, relevance: 3, overall: 4, reason: "clear".into() }),
            checks: BTreeMap::from([
                ("no_leak".into(), CheckRow { pass: true, value: serde_json::json!(0.25) }),
                ("numbers_hold".into(), CheckRow { pass: true, value: serde_json::json!("") }),
            ]),
            model: "m".into(),
            judge_model: None,
            prompt_hash: "p".into(),
            run_id: "r".into(),
            usage: UsageRow { prompt_tokens: 10, completion_tokens: 2 },
            is_impossible: false,
        }
    }

    #[test]
    fn rows_are_read_back_as_written() {
        let row = pair_row("a", "An appeal is heard.", "appeal");
        let json = serde_json::to_string(&row).expect("json");
        assert_eq!(serde_json::from_str::<PairRow>(&json).expect("read"), row);
    }
}
