//! The round trip: the question is answered again from the passage, without its answer being seen, and both answers
//! must agree (Alberti et al., "Synthetic QA corpora generation with roundtrip consistency", ACL 2019). A question
//! that is meant to have no answer must find none.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Checking, ValidateStage, round, tokens};
use crate::model::StageError;
use crate::model::llm::Task;
use crate::model::params::Reader;
use crate::model::payload::{CheckResult, CheckValue};
use crate::stages::ask::json;
use crate::stages::prompt::{Ask, PromptText};

/// The instruction of the round trip when a pipeline names no other.
pub const ANSWER_PROMPT: &str = include_str!("../../../pipelines/prompts/answer.md");
/// The instruction that compares two answers when a pipeline names no other.
pub const EQUIVALENT_PROMPT: &str = include_str!("../../../pipelines/prompts/equivalent.md");

/// The round trip: the question is answered again from the passage, without its answer being seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoundTrip {
    /// Whether it is made.
    pub enabled: bool,
    /// Least token F1 of both answers.
    pub min_f1: f64,
    /// Whether the model is asked if two answers below that say the same.
    pub judge_equivalence: bool,
    /// The instruction to answer.
    pub prompt: PromptText,
    /// The instruction to compare.
    pub equivalent_prompt: PromptText,
}

impl RoundTrip {
    /// Reads the section `round_trip` of a stage.
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            enabled: r.bool("enabled", true, "whether each question is answered again from the passage alone"),
            min_f1: r.float("min_f1", 0.6, 0.0..=1.0, "least token F1 between both answers (Alberti et al. 2019)"),
            judge_equivalence: r.bool(
                "judge_equivalence",
                true,
                "whether the model is asked if two answers with a lower F1 say the same",
            ),
            prompt: PromptText::read(r, "prompt", ANSWER_PROMPT, &[], "file with the instruction to answer"),
            equivalent_prompt: PromptText::read(
                r,
                "equivalent_prompt",
                EQUIVALENT_PROMPT,
                &[],
                "file with the instruction to compare two answers",
            ),
        }
    }

    /// What determines results.
    pub(super) fn determinants(&self) -> String {
        format!(
            "round_trip={} {} {} {:?} {:?}",
            self.enabled, self.min_f1, self.judge_equivalence, self.prompt.text, self.equivalent_prompt.text
        )
    }
}

#[derive(Debug, Deserialize)]
struct RoundTripAnswer {
    answerable: bool,
    answer: String,
}

#[derive(Debug, Deserialize)]
struct Equivalence {
    #[serde(rename = "reason")]
    _reason: String,
    equivalent: bool,
}

impl ValidateStage {
    /// Answers the question again. Returns value and rule if the pair does not pass.
    pub(super) async fn round_trip(&self, checking: &mut Checking<'_>) -> Result<Option<(String, String)>, StageError> {
        let pair = checking.pair;
        let rules = &self.params.round_trip;
        let ask_for = Ask {
            task: Task::Answer { source: Arc::clone(&checking.passage.text), question: pair.question.clone() },
            instruction: &rules.prompt.text,
            input: Some(serde_json::json!({"question": pair.question})),
            schema: Arc::clone(&self.answer_schema),
        };
        let again = self.ask(checking, ask_for, json::<RoundTripAnswer>).await?;
        let unanswerable = pair.is_unanswerable();
        if !again.answerable || unanswerable {
            let pass = again.answerable != unanswerable;
            let value = if again.answerable { again.answer } else { "cannot be answered".into() };
            let noted = CheckResult { pass, value: CheckValue::Text(value.clone()) };
            checking.verdict.checks.insert("round_trip".into(), noted);
            let wanted = if unanswerable { "cannot" } else { "can" };
            return Ok((!pass).then(|| (value, format!("the question {wanted} be answered from the passage alone"))));
        }
        let f1 = round(tokens::token_f1(&pair.answer, &again.answer));
        let mut same = f1 >= rules.min_f1;
        if !same && rules.judge_equivalence {
            let ask_for = Ask {
                task: Task::Free,
                instruction: &rules.equivalent_prompt.text,
                input: Some(serde_json::json!({
                    "question": pair.question, "first_answer": pair.answer, "second_answer": again.answer,
                })),
                schema: Arc::clone(&self.equivalent_schema),
            };
            same = self.ask(checking, ask_for, json::<Equivalence>).await?.equivalent;
            let value = CheckValue::Text(if same { "judged the same" } else { "judged different" }.into());
            checking.verdict.checks.insert("round_trip_equivalent".into(), CheckResult { pass: same, value });
        }
        checking.verdict.checks.insert("round_trip".into(), CheckResult { pass: same, value: CheckValue::Number(f1) });
        let judged = if rules.judge_equivalence { ", or both answers judged the same" } else { "" };
        Ok((!same).then(|| (f1.to_string(), format!("token F1 of both answers at least {}{judged}", rules.min_f1))))
    }
}
