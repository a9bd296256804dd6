//! The score stage: clarity, accuracy, relevance and overall, 1 to 5, by a judge that is shown the source.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::StageContext;
use super::ask::{Answered, Unusable, ask, json};
use super::prompt::{
    Ask, Asking, Passage, PromptText, UNANSWERABLE_PAIR, for_pair, mark_schema, object_schema, prompt_hash, request,
    text_schema,
};
use crate::model::llm::{Schema, Task};
use crate::model::params::Reader;
use crate::model::payload::{Scored, Scores};
use crate::model::record::Rejection;
use crate::model::{Item, Outcome, Payload, PayloadKind, Stage, StageError};

/// Changes whenever the code would make another verdict of the same answer.
const CODE_VERSION: u32 = 1;
/// The instruction when a pipeline names no other.
pub const PROMPT: &str = include_str!("../../pipelines/prompts/score.md");

/// The least mark that keeps a pair, by criterion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Keep {
    /// Least clarity.
    pub clarity: u8,
    /// Least accuracy.
    pub accuracy: u8,
    /// Least relevance.
    pub relevance: u8,
    /// Least overall mark.
    pub overall: u8,
}

/// Parameters of the score stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreParams {
    /// The instruction.
    pub prompt: PromptText,
    /// Which marks keep a pair.
    pub keep: Keep,
    /// How to ask.
    #[serde(flatten)]
    pub asking: Asking,
}

impl ScoreParams {
    /// Reads them from a pipeline file.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let prompt = PromptText::read(reader, "prompt", PROMPT, &[], "file with the judge's instruction");
        let keep = reader.section("keep", |keep| {
            let mut mark = |key, default| keep.int(key, default, 1..=5, "least mark that keeps a pair") as u8;
            Keep {
                clarity: mark("clarity", 3),
                accuracy: mark("accuracy", 4),
                relevance: mark("relevance", 4),
                overall: mark("overall", 1),
            }
        });
        Self { prompt, keep, asking: Asking::read(reader, 512, 0.0) }
    }
}

/// The score stage.
pub struct ScoreStage {
    params: ScoreParams,
    context: StageContext,
    schema: Arc<Schema>,
    prompt_hash: String,
}

#[derive(Debug, Deserialize)]
struct Marks {
    reason: String,
    clarity: u8,
    accuracy: u8,
    relevance: u8,
    overall: u8,
}

impl ScoreStage {
    /// Builds the stage.
    pub fn new(params: ScoreParams, context: &StageContext) -> Self {
        let mark = || mark_schema(&[1, 2, 3, 4, 5]);
        let schema = object_schema(&[
            ("reason", text_schema()),
            ("clarity", mark()),
            ("accuracy", mark()),
            ("relevance", mark()),
            ("overall", mark()),
        ]);
        Self {
            schema: Arc::new(Schema { name: "scores".into(), json: schema }),
            prompt_hash: prompt_hash(&params.asking.system, &params.prompt.text),
            params,
            context: context.clone(),
        }
    }

    fn read(content: &str) -> Result<Marks, Unusable> {
        let marks = json::<Marks>(content)?;
        let all = [
            ("clarity", marks.clarity),
            ("accuracy", marks.accuracy),
            ("relevance", marks.relevance),
            ("overall", marks.overall),
        ];
        match all.iter().find(|(_, mark)| !(1..=5).contains(mark)) {
            Some((name, mark)) => {
                Err(Unusable { label: "missing_fields", fault: format!("`{name}` is {mark}, not a mark from 1 to 5") })
            }
            None => Ok(marks),
        }
    }

    async fn score(&self, item: &Item) -> Result<Outcome, StageError> {
        let Payload::Verdict(verdict) = &item.payload else { return Err(super::wrong_payload(item, self)) };
        let pair = &verdict.pair;
        let text = super::chunk_text(self.context.texts.as_ref(), &pair.chunk)?;
        let quote = verdict.citations.first().map_or(pair.quote.as_str(), |citation| citation.quote.as_str());
        let passage = Passage { id: pair.chunk_id, chunk: &pair.chunk, text: Arc::clone(&text) };
        let ask_for = Ask {
            task: Task::Score {
                source: text,
                question: pair.question.clone(),
                answer: pair.answer.clone(),
                quote: quote.into(),
            },
            instruction: &for_pair(&self.params.prompt.text, pair),
            input: Some(serde_json::json!({"question": pair.question, "answer": pair.answer, "quote": quote})),
            schema: Arc::clone(&self.schema),
        };
        // Asked in the name of the pair, not of the verdict: other checks above leave the judge's answers valid.
        let request = request(&self.params.asking, &self.context, &passage, ask_for, verdict.pair_id, item.priority);
        let Answered { value: marks, completion, usage } =
            ask(self.context.llm.as_ref(), request, self.params.asking.ask_again, Self::read).await?;
        let scores = Scores {
            clarity: marks.clarity,
            accuracy: marks.accuracy,
            relevance: marks.relevance,
            overall: marks.overall,
        };
        let scored = Payload::Score(Scored {
            verdict: verdict.clone(),
            scores,
            reason: marks.reason,
            judge_model: completion.model,
            prompt_hash: self.prompt_hash.clone(),
            usage,
        });
        Ok(match self.refused(scores) {
            None => Outcome::emit(vec![scored]),
            Some((check, mark, least)) => Outcome::Reject(Rejection {
                check: format!("score_{check}"),
                value: mark.to_string(),
                rule: format!("{check} at least {least}"),
                evidence: Some(Box::new(scored)),
            }),
        })
    }

    /// The first criterion whose mark is too low, with the mark and the least one.
    fn refused(&self, scores: Scores) -> Option<(&'static str, u8, u8)> {
        let keep = &self.params.keep;
        [
            ("accuracy", scores.accuracy, keep.accuracy),
            ("relevance", scores.relevance, keep.relevance),
            ("clarity", scores.clarity, keep.clarity),
            ("overall", scores.overall, keep.overall),
        ]
        .into_iter()
        .find(|(_, mark, least)| mark < least)
    }
}

impl Stage for ScoreStage {
    fn accepts(&self) -> PayloadKind {
        PayloadKind::Verdict
    }

    fn emits(&self) -> PayloadKind {
        PayloadKind::Score
    }

    fn determinants(&self) -> String {
        format!(
            "score v{CODE_VERSION} keep={:?} prompt={:?} {UNANSWERABLE_PAIR:?} {}",
            self.params.keep,
            self.params.prompt.text,
            self.params.asking.determinants(&self.context.model)
        )
    }

    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>> {
        Box::pin(self.score(item))
    }
}
