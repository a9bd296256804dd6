//! The validate stage: the checks in code, cheap ones first, then those that ask the model: the round trip, then the
//! judge.

pub mod checks;
pub mod judge;
pub mod matching;
pub mod normalize;
pub mod round_trip;
pub mod tokens;

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use self::checks::{CheckInput, CheckParams, CheckReport, run_with_context};
use self::judge::{Judge, Refused};
use self::round_trip::RoundTrip;
use super::StageContext;
use super::ask::{Answered, Unusable, ask, json};
use super::prompt::{Ask, Asking, Passage, PromptText, object_schema, request, text_schema, truth_schema};
use crate::model::llm::{Schema, Task};
use crate::model::params::Reader;
use crate::model::payload::{Citation, QaPair, Usage, Verdict};
use crate::model::record::Rejection;
use crate::model::text::{ExtractedText, Span};
use crate::model::{Item, Outcome, Payload, PayloadKind, Stage, StageError};

/// Changes whenever the code would decide otherwise on the same pair and answers.
const CODE_VERSION: u32 = 2;
/// The instruction that asks for a verbatim quote when a pipeline names no other.
pub const REQUOTE_PROMPT: &str = include_str!("../../../pipelines/prompts/requote.md");

/// Parameters of the validate stage.
#[derive(Clone, Debug, Serialize)]
pub struct ValidateParams {
    /// The checks in code.
    #[serde(flatten)]
    pub checks: CheckParams,
    /// The round trip.
    pub round_trip: RoundTrip,
    /// The judge.
    pub judge: Judge,
    /// The instruction that asks for a verbatim quote where the one given is nearly so.
    pub requote_prompt: PromptText,
    /// How to ask.
    #[serde(flatten)]
    pub asking: Asking,
}

impl ValidateParams {
    /// Reads them from a pipeline file.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let checks = CheckParams::read(reader);
        let round_trip = reader.section("round_trip", RoundTrip::read);
        let judge = reader.section("judge", Judge::read);
        Self {
            checks,
            round_trip,
            judge,
            requote_prompt: PromptText::read(
                reader,
                "requote_prompt",
                REQUOTE_PROMPT,
                &[],
                "file with the instruction to give a quote verbatim, where the first one nearly was",
            ),
            asking: Asking::read(reader, 1024, 0.0),
        }
    }
}

/// The validate stage.
pub struct ValidateStage {
    params: ValidateParams,
    context: StageContext,
    answer_schema: Arc<Schema>,
    equivalent_schema: Arc<Schema>,
    requote_schema: Arc<Schema>,
    judge_schema: Arc<Schema>,
}

#[derive(Debug, Deserialize)]
struct Requote {
    quote: String,
}

/// A pair on its way through the checks.
struct Checking<'a> {
    pair: &'a QaPair,
    item: &'a Item,
    passage: Passage<'a>,
    verdict: Verdict,
}

impl ValidateStage {
    /// Builds the stage.
    pub fn new(params: ValidateParams, context: &StageContext) -> Self {
        let schema = |name: &str, json: String| Arc::new(Schema { name: name.into(), json });
        let answer = object_schema(&[("answerable", truth_schema()), ("answer", text_schema())]);
        let equivalent = object_schema(&[("reason", text_schema()), ("equivalent", truth_schema())]);
        Self {
            params,
            context: context.clone(),
            answer_schema: schema("answer", answer),
            equivalent_schema: schema("equivalent", equivalent),
            requote_schema: schema("quote", object_schema(&[("quote", text_schema())])),
            judge_schema: schema("judge", judge::schema()),
        }
    }

    async fn validate(&self, item: &Item) -> Result<Outcome, StageError> {
        let Payload::Pair(pair) = &item.payload else { return Err(super::wrong_payload(item, self)) };
        let document = self.context.texts.get(&pair.chunk.source.text)?;
        let source = super::slice(&document, &pair.chunk)?;
        let mut checking = Checking {
            pair,
            item,
            passage: Passage { id: pair.chunk_id, chunk: &pair.chunk, text: source.into() },
            verdict: Verdict {
                pair: pair.clone(),
                pair_id: item.key.id,
                citations: Vec::new(),
                checks: std::collections::BTreeMap::new(),
                usage: Usage::default(),
            },
        };
        let mut report = self.check(pair, &pair.quote, source);
        if report.ask_again {
            let quote = self.requote(&mut checking).await?;
            report = self.check(pair, &quote, source);
        }
        checking.verdict.checks = report.checks;
        if let Some(found) = report.citation {
            checking.verdict.citations.push(citation(&document, pair, found.start, found.end, found.score, found.text));
        }
        if let Some(failure) = report.failed {
            return Ok(reject(checking.verdict, &failure.check, failure.value, failure.rule));
        }
        if self.params.round_trip.enabled
            && let Some((value, rule)) = self.round_trip(&mut checking).await?
        {
            return Ok(reject(checking.verdict, "round_trip", value, rule));
        }
        if self.params.judge.asks()
            && let Some(Refused { check, value, rule }) = self.judge(&mut checking).await?
        {
            return Ok(reject(checking.verdict, check, value, rule));
        }
        Ok(Outcome::emit(vec![Payload::Verdict(checking.verdict)]))
    }

    fn check(&self, pair: &QaPair, quote: &str, source: &str) -> CheckReport {
        let unanswerable = pair.is_unanswerable();
        let input = CheckInput { question: &pair.question, answer: &pair.answer, quote, source, unanswerable };
        // The model saw the title and the headings too: their numbers may stand in an answer.
        let chunk = &pair.chunk;
        let context: Vec<&str> =
            chunk.source.title.as_deref().into_iter().chain(chunk.headings.iter().map(String::as_str)).collect();
        run_with_context(&self.params.checks, &input, &context)
    }

    async fn ask<T>(
        &self,
        checking: &mut Checking<'_>,
        ask_for: Ask<'_>,
        read: impl Fn(&str) -> Result<T, Unusable>,
    ) -> Result<T, StageError> {
        let asking = &self.params.asking;
        let item = checking.item;
        let request = request(asking, &self.context, &checking.passage, ask_for, item.key.id, item.priority);
        let Answered { value, usage, .. } = ask(self.context.llm.as_ref(), request, asking.ask_again, read).await?;
        checking.verdict.usage += usage;
        Ok(value)
    }

    /// Asks once for the quote word for word.
    async fn requote(&self, checking: &mut Checking<'_>) -> Result<String, StageError> {
        let pair = checking.pair;
        let ask_for = Ask {
            task: Task::Free,
            instruction: &self.params.requote_prompt.text,
            input: Some(serde_json::json!({"question": pair.question, "answer": pair.answer, "quote": pair.quote})),
            schema: Arc::clone(&self.requote_schema),
        };
        Ok(self.ask(checking, ask_for, json::<Requote>).await?.quote)
    }
}

/// Three decimals: what is stored does not pretend to more.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A quote found in the passage, placed in the document.
fn citation(document: &ExtractedText, pair: &QaPair, start: u64, end: u64, score: f64, text: String) -> Citation {
    let base = pair.chunk.chars.start;
    let chars = Span { start: base + start, end: base + end };
    Citation { quote: text, page: document.page_at(chars.start), chars, match_score: round(score) }
}

fn reject(verdict: Verdict, check: &str, value: String, rule: String) -> Outcome {
    let evidence = Some(Box::new(Payload::Verdict(verdict)));
    Outcome::Reject(Rejection { check: check.into(), value, rule, evidence })
}

impl Stage for ValidateStage {
    fn accepts(&self) -> PayloadKind {
        PayloadKind::Pair
    }

    fn emits(&self) -> PayloadKind {
        PayloadKind::Verdict
    }

    fn determinants(&self) -> String {
        format!(
            "validate v{CODE_VERSION} checks={} {} {} requote={:?} {}",
            self.params.checks.determinants(),
            self.params.round_trip.determinants(),
            self.params.judge.determinants(),
            self.params.requote_prompt.text,
            self.params.asking.determinants(&self.context.model)
        )
    }

    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>> {
        Box::pin(self.validate(item))
    }
}
