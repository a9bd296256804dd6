//! The judge's checks, all of them in one call: every claim of the answer follows from the passage, the answer answers
//! the question, and the question stands by itself.
//!
//! Groundedness of at least 4 of 5 and relevance of 2 of 2 are the bars of `sdg_hub`, the recipes of `InstructLab`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Checking, ValidateStage};
use crate::model::StageError;
use crate::model::llm::Task;
use crate::model::params::Reader;
use crate::model::payload::{CheckResult, CheckValue};
use crate::stages::ask::{Unusable, json};
use crate::stages::prompt::{
    Ask, PromptText, UNANSWERABLE_PAIR, for_pair, mark_schema, object_schema, text_schema, truth_schema,
};

/// The instruction when a pipeline names no other.
pub const PROMPT: &str = include_str!("../../../pipelines/prompts/judge.md");
/// The most claims that an answer of the longest length is taken apart into.
const MOST_CLAIMS: u32 = 30;

/// The judge's checks and their bars.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judge {
    /// Whether the judge is asked at all.
    pub enabled: bool,
    /// Whether the question must stand by itself.
    pub self_contained: bool,
    /// Whether the answer must follow from the passage.
    pub faithful: bool,
    /// The most claims that the passage does not support.
    pub max_unsupported_claims: u32,
    /// Least groundedness, 1 to 5.
    pub min_groundedness: u8,
    /// Whether the answer must answer the question.
    pub relevant: bool,
    /// Least relevance, 0 to 2.
    pub min_relevance: u8,
    /// The instruction.
    pub prompt: PromptText,
}

impl Judge {
    /// Reads the section `judge` of a stage.
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            enabled: r.bool("enabled", true, "whether the model judges each pair against the passage, in one call"),
            self_contained: r.bool(
                "self_contained",
                true,
                "whether it must find the question clear to a reader who has not seen the passage",
            ),
            faithful: r.bool("faithful", true, "whether it must find every claim of the answer in the passage"),
            max_unsupported_claims: r.int(
                "max_unsupported_claims",
                0,
                0..=i64::from(MOST_CLAIMS),
                "claims of an answer that the passage need not support",
            ) as u32,
            min_groundedness: r.int("min_groundedness", 4, 1..=5, "least groundedness of the answer, 1 to 5") as u8,
            relevant: r.bool("relevant", true, "whether it must find that the answer answers the question"),
            min_relevance: r.int("min_relevance", 2, 0..=2, "least relevance of the answer to the question, 0 to 2")
                as u8,
            prompt: PromptText::read(r, "prompt", PROMPT, &[], "file with the judge's instruction"),
        }
    }

    /// Whether a call is made.
    pub fn asks(&self) -> bool {
        self.enabled && (self.self_contained || self.faithful || self.relevant)
    }

    /// What determines results.
    pub(super) fn determinants(&self) -> String {
        format!(
            "judge={} self_contained={} faithful={} {} {} relevant={} {} {:?} {UNANSWERABLE_PAIR:?}",
            self.enabled,
            self.self_contained,
            self.faithful,
            self.max_unsupported_claims,
            self.min_groundedness,
            self.relevant,
            self.min_relevance,
            self.prompt.text
        )
    }
}

/// The judge's answer.
#[derive(Debug, Deserialize)]
pub(super) struct Judgement {
    claims: Vec<Claim>,
    #[serde(rename = "reason")]
    _reason: String,
    groundedness: u8,
    relevance: u8,
    self_contained: u8,
}

#[derive(Debug, Deserialize)]
struct Claim {
    claim: String,
    supported: bool,
}

/// The text of the schema of the judge's answer.
pub(super) fn schema() -> String {
    let claim = object_schema(&[("claim", text_schema()), ("supported", truth_schema())]);
    object_schema(&[
        ("claims", format!(r#"{{"type":"array","minItems":1,"maxItems":{MOST_CLAIMS},"items":{claim}}}"#)),
        ("reason", text_schema()),
        ("groundedness", mark_schema(&[1, 2, 3, 4, 5])),
        ("relevance", mark_schema(&[0, 1, 2])),
        ("self_contained", mark_schema(&[0, 1])),
    ])
}

fn read(content: &str) -> Result<Judgement, Unusable> {
    let judgement = json::<Judgement>(content)?;
    let marks = [
        ("groundedness", judgement.groundedness, 1..=5),
        ("relevance", judgement.relevance, 0..=2),
        ("self_contained", judgement.self_contained, 0..=1),
    ];
    match marks.into_iter().find(|(_, mark, range)| !range.contains(mark)) {
        Some((name, mark, range)) => Err(Unusable {
            label: "missing_fields",
            fault: format!("`{name}` is {mark}, not from {} to {}", range.start(), range.end()),
        }),
        None => Ok(judgement),
    }
}

/// A check that the pair did not pass.
pub(super) struct Refused {
    pub(super) check: &'static str,
    pub(super) value: String,
    pub(super) rule: String,
}

impl ValidateStage {
    /// Asks the judge. All its findings are noted; the first that refuses the pair is given.
    pub(super) async fn judge(&self, checking: &mut Checking<'_>) -> Result<Option<Refused>, StageError> {
        let (pair, rules) = (checking.pair, &self.params.judge);
        let quote = checking.verdict.citations.first().map_or(pair.quote.as_str(), |citation| citation.quote.as_str());
        let input = serde_json::json!({"question": pair.question, "answer": pair.answer, "quote": quote});
        let instruction = for_pair(&rules.prompt.text, pair);
        let ask_for = Ask {
            task: Task::Judge {
                source: Arc::clone(&checking.passage.text),
                question: pair.question.clone(),
                answer: pair.answer.clone(),
                quote: quote.into(),
            },
            instruction: &instruction,
            input: Some(input),
            schema: Arc::clone(&self.judge_schema),
        };
        let judgement = self.ask(checking, ask_for, read).await?;
        let mut refused = None;
        let mut note = |check: &'static str, pass: bool, value: CheckValue, rule: String| {
            if !pass && refused.is_none() {
                let value = match &value {
                    CheckValue::Number(number) => number.to_string(),
                    CheckValue::Text(text) => text.clone(),
                };
                refused = Some(Refused { check, value, rule });
            }
            checking.verdict.checks.insert(check.into(), CheckResult { pass, value });
        };
        if rules.self_contained {
            let mark = judgement.self_contained;
            let rule = "the question is clear to a reader who has not seen the passage: judged 1 of 0 and 1".into();
            note("self_contained_judged", mark == 1, CheckValue::Number(f64::from(mark)), rule);
        }
        if rules.faithful {
            let unsupported: Vec<&str> =
                judgement.claims.iter().filter(|claim| !claim.supported).map(|claim| claim.claim.as_str()).collect();
            let most = rules.max_unsupported_claims;
            let rule = format!("the passage supports every claim of the answer but {most}");
            let pass = unsupported.len() <= most as usize;
            note("claims_supported", pass, CheckValue::Text(unsupported.join("; ")), rule);
            let rule = format!("groundedness of the answer at least {} of 5", rules.min_groundedness);
            let mark = judgement.groundedness;
            note("faithful", mark >= rules.min_groundedness, CheckValue::Number(f64::from(mark)), rule);
        }
        if rules.relevant {
            let mark = judgement.relevance;
            let rule = format!("relevance of the answer to the question at least {} of 2", rules.min_relevance);
            note("relevant", mark >= rules.min_relevance, CheckValue::Number(f64::from(mark)), rule);
        }
        Ok(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_beyond_their_range_cannot_be_used() {
        let answer = |groundedness: u8, relevance: u8, alone: u8| {
            format!(
                r#"{{"claims":[{{"claim":"c","supported":true}}],"reason":"r","groundedness":{groundedness},"relevance":{relevance},"self_contained":{alone}}}"#
            )
        };
        assert!(read(&answer(5, 2, 1)).is_ok());
        for (text, fault) in [
            (answer(6, 2, 1), "`groundedness` is 6, not from 1 to 5"),
            (answer(5, 3, 1), "`relevance` is 3, not from 0 to 2"),
            (answer(5, 2, 2), "`self_contained` is 2, not from 0 to 1"),
        ] {
            assert_eq!(read(&text).unwrap_err().fault, fault);
        }
        let missing = read(r#"{"claims":[],"groundedness":5,"relevance":2,"self_contained":1}"#).unwrap_err().fault;
        assert!(missing.contains("missing field `reason`"), "{missing}");
    }
}
