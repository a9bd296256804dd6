//! The generate stage: one call a chunk, asking for question-answer pairs with a verbatim supporting quote.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Deserialize;

use super::StageContext;
use super::ask::{Answered, Unusable, ask, json};
use super::prompt::{Ask, Asking, Passage, PromptText, prompt_hash, request};
use crate::model::llm::{Schema, Task};
use crate::model::params::Reader;
use crate::model::payload::{QaPair, Usage};
use crate::model::{Item, Outcome, Payload, PayloadKind, Stage, StageError};

/// Changes whenever the code would make other pairs of the same answer.
const CODE_VERSION: u32 = 1;
/// The instruction when a pipeline names no other.
pub const PROMPT: &str = include_str!("../../pipelines/prompts/generate.md");
/// The question types when a pipeline names no others.
const TYPES: [&str; 7] = ["factual", "definition", "procedural", "conditional", "numeric", "comparison", "exception"];

/// Parameters of the generate stage.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateParams {
    /// How many pairs to ask for.
    pub questions_per_chunk: u32,
    /// The question types to choose from.
    pub types: Vec<String>,
    /// The instruction.
    pub prompt: PromptText,
    /// How to ask.
    pub asking: Asking,
}

impl GenerateParams {
    /// Reads them from a pipeline file.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let types = reader.texts("question_types", &TYPES, "the question types that the model chooses from");
        if types.is_empty() {
            reader.fault("question_types", "question_types must name at least one type");
        }
        Self {
            questions_per_chunk: reader.int("questions_per_chunk", 5, 1..=50, "pairs asked for in one call") as u32,
            types,
            prompt: PromptText::read(
                reader,
                "prompt",
                PROMPT,
                &["pairs", "types"],
                "file with the instruction; {pairs} and {types} are filled in",
            ),
            asking: Asking::read(reader, 2048, 0.7),
        }
    }
}

/// The generate stage.
pub struct GenerateStage {
    params: GenerateParams,
    context: StageContext,
    instruction: String,
    types: Arc<[String]>,
    schema: Arc<Schema>,
    prompt_hash: String,
}

/// The answer's form.
#[derive(Debug, Deserialize)]
struct Pairs {
    pairs: Vec<Pair>,
}

#[derive(Debug, Deserialize)]
struct Pair {
    question: String,
    answer: String,
    question_type: String,
    quote: String,
}

impl GenerateStage {
    /// Builds the stage.
    pub fn new(params: GenerateParams, context: &StageContext) -> Self {
        let instruction = params
            .prompt
            .text
            .replace("{pairs}", &params.questions_per_chunk.to_string())
            .replace("{types}", &params.types.join(", "));
        let text = || serde_json::json!({"type": "string"});
        let schema = serde_json::json!({
            "type": "object",
            "properties": {"pairs": {
                "type": "array", "minItems": 0, "maxItems": params.questions_per_chunk,
                "items": {
                    "type": "object",
                    "properties": {
                        "question": text(), "answer": text(),
                        "question_type": {"type": "string", "enum": params.types},
                        "quote": text(),
                    },
                    "required": ["question", "answer", "question_type", "quote"],
                    "additionalProperties": false,
                },
            }},
            "required": ["pairs"],
            "additionalProperties": false,
        });
        Self {
            types: params.types.clone().into(),
            schema: Arc::new(Schema { name: "qa_pairs".into(), json: schema.to_string() }),
            prompt_hash: prompt_hash(&params.asking.system, &params.prompt.text),
            instruction,
            params,
            context: context.clone(),
        }
    }

    /// Reads an answer: every field there and not empty.
    fn read(content: &str) -> Result<Vec<Pair>, Unusable> {
        let pairs = json::<Pairs>(content)?.pairs;
        for (i, pair) in pairs.iter().enumerate() {
            let fields = [("question", &pair.question), ("answer", &pair.answer), ("quote", &pair.quote)];
            if let Some((name, _)) = fields.iter().find(|(_, text)| text.trim().is_empty()) {
                return Err(Unusable {
                    label: "missing_fields",
                    fault: format!("`{name}` of pair {} is empty", i + 1),
                });
            }
        }
        Ok(pairs)
    }

    async fn generate(&self, item: &Item) -> Result<Outcome, StageError> {
        let Payload::Chunk(chunk) = &item.payload else { return Err(super::wrong_payload(item, self)) };
        let text = super::chunk_text(self.context.texts.as_ref(), chunk)?;
        let passage = Passage { id: item.key.id, chunk, text: Arc::clone(&text) };
        let task =
            Task::Generate { source: text, pairs: self.params.questions_per_chunk, types: Arc::clone(&self.types) };
        let ask_for = Ask { task, instruction: &self.instruction, input: None, schema: Arc::clone(&self.schema) };
        let request = request(&self.params.asking, &self.context, &passage, ask_for, item.key.id, item.priority);
        let Answered { mut value, completion, usage } =
            ask(self.context.llm.as_ref(), request, self.params.asking.ask_again, Self::read).await?;

        let mut notes = BTreeMap::new();
        let surplus = value.len().saturating_sub(self.params.questions_per_chunk as usize);
        if surplus > 0 {
            notes.insert("pairs_beyond_what_was_asked".into(), surplus as u64);
            value.truncate(self.params.questions_per_chunk as usize);
        }
        if value.is_empty() {
            notes.insert("chunks_without_pairs".into(), 1);
        }
        let count = value.len() as u64;
        let children = value.into_iter().enumerate().map(|(i, pair)| {
            Payload::Pair(QaPair {
                chunk: chunk.clone(),
                chunk_id: item.key.id,
                question: pair.question.trim().into(),
                answer: pair.answer.trim().into(),
                question_type: pair.question_type,
                quote: pair.quote.trim().into(),
                model: completion.model.clone(),
                prompt_hash: self.prompt_hash.clone(),
                usage: share(usage, i as u64, count),
            })
        });
        Ok(Outcome::Emit { children: children.collect(), warnings: Vec::new(), notes })
    }
}

/// Part `i` of `n` of an answer's tokens, so that the parts add up to the whole.
fn share(usage: Usage, i: u64, n: u64) -> Usage {
    let part = |tokens: u64| tokens / n + u64::from(i < tokens % n);
    Usage {
        prompt_tokens: part(usage.prompt_tokens),
        completion_tokens: part(usage.completion_tokens),
        cached_tokens: part(usage.cached_tokens),
    }
}

impl Stage for GenerateStage {
    fn accepts(&self) -> PayloadKind {
        PayloadKind::Chunk
    }

    fn emits(&self) -> PayloadKind {
        PayloadKind::Pair
    }

    fn determinants(&self) -> String {
        format!(
            "generate v{CODE_VERSION} pairs={} types={:?} prompt={:?} {}",
            self.params.questions_per_chunk,
            self.params.types,
            self.params.prompt.text,
            self.params.asking.determinants(&self.context.model)
        )
    }

    fn most_children(&self) -> Option<u32> {
        Some(self.params.questions_per_chunk)
    }

    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>> {
        Box::pin(self.generate(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let usage = Usage { prompt_tokens: 1003, completion_tokens: 7, cached_tokens: 0 };
        let mut sum = Usage::default();
        for i in 0..5 {
            sum += share(usage, i, 5);
        }
        assert_eq!(sum, usage);
    }

    #[test]
    fn empty_and_missing_fields_are_named() {
        let fault = |text: &str| GenerateStage::read(text).unwrap_err().fault;
        let empty = r#"{"pairs":[{"question":"Q?","answer":" ","question_type":"factual","quote":"q"}]}"#;
        assert_eq!(fault(empty), "`answer` of pair 1 is empty");
        let missing = r#"{"pairs":[{"question":"Q?","question_type":"factual","quote":"q"}]}"#;
        assert!(fault(missing).contains("missing field `answer`"), "{}", fault(missing));
    }
}
