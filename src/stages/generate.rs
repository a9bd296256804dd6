//! The generate stage: one call a chunk, asking for question-answer pairs with a verbatim supporting quote.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::StageContext;
use super::ask::{Answered, Unusable, ask, json};
use super::prompt::{Ask, Asking, Passage, PromptText, object_schema, prompt_hash, request, text_schema};
use super::question_types::QuestionTypes;
use crate::model::llm::{Schema, Task};
use crate::model::params::Reader;
use crate::model::payload::{QaPair, UNANSWERABLE, Usage};
use crate::model::{Item, Outcome, Payload, PayloadKind, Stage, StageError};

/// Changes whenever the code would make other pairs of the same answer.
const CODE_VERSION: u32 = 2;
/// The instruction when a pipeline names no other.
pub const PROMPT: &str = include_str!("../../pipelines/prompts/generate.md");
/// The instruction about unanswerable questions when a pipeline names no other.
pub const UNANSWERABLE_PROMPT: &str = include_str!("../../pipelines/prompts/unanswerable.md");
/// The instruction about the types asked for when a pipeline names no other.
pub const QUOTA_PROMPT: &str = include_str!("../../pipelines/prompts/quota.md");

/// Parameters of the generate stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerateParams {
    /// How many pairs to ask for.
    pub questions_per_chunk: u32,
    /// The question types.
    #[serde(rename = "question_types")]
    pub types: QuestionTypes,
    /// The instruction.
    pub prompt: PromptText,
    /// What is added to it where unanswerable questions are among the types.
    pub unanswerable_prompt: PromptText,
    /// What is added to it where the types have shares.
    pub quota_prompt: PromptText,
    /// How to ask.
    #[serde(flatten)]
    pub asking: Asking,
}

impl GenerateParams {
    /// Reads them from a pipeline file.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let types = QuestionTypes::read(reader);
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
            unanswerable_prompt: PromptText::read(
                reader,
                "unanswerable_prompt",
                UNANSWERABLE_PROMPT,
                &[],
                "file with what is added to the instruction where `unanswerable` is among the types",
            ),
            quota_prompt: PromptText::read(
                reader,
                "quota_prompt",
                QUOTA_PROMPT,
                &[],
                "file with what is added to the instruction where the types have shares",
            ),
            asking: Asking::read(reader, 2048, 0.7),
        }
    }
}

impl GenerateParams {
    /// What is added to the instruction for these types.
    fn additions(&self) -> impl Iterator<Item = &PromptText> {
        let unanswerable = self.types.has_unanswerable().then_some(&self.unanswerable_prompt);
        unanswerable.into_iter().chain(self.types.has_shares().then_some(&self.quota_prompt))
    }

    /// The hash over the prompts that every pair carries.
    fn prompt_hash(&self) -> String {
        let added: String = self.additions().map(|added| added.text.as_str()).collect();
        prompt_hash(&self.asking.system, &format!("{}{added}", self.prompt.text))
    }
}

/// The generate stage.
pub struct GenerateStage {
    params: GenerateParams,
    context: StageContext,
    instruction: String,
    /// The types that have answers.
    answerable: Arc<[String]>,
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
        let mut instruction = params
            .prompt
            .text
            .replace("{pairs}", &params.questions_per_chunk.to_string())
            .replace("{types}", &params.types.names().join(", "));
        for added in params.additions() {
            instruction = format!("{}\n\n{}", instruction.trim_end(), added.text);
        }
        let pair = object_schema(&[
            ("question", text_schema()),
            ("answer", text_schema()),
            ("question_type", serde_json::json!({"type": "string", "enum": params.types.names()}).to_string()),
            ("quote", text_schema()),
        ]);
        let most = params.questions_per_chunk;
        let pairs = format!(r#"{{"type":"array","minItems":0,"maxItems":{most},"items":{pair}}}"#);
        let schema = object_schema(&[("pairs", pairs)]);
        let answerable = params.types.names().iter().filter(|name| *name != UNANSWERABLE).cloned();
        Self {
            answerable: answerable.collect(),
            schema: Arc::new(Schema { name: "qa_pairs".into(), json: schema }),
            prompt_hash: params.prompt_hash(),
            instruction,
            params,
            context: context.clone(),
        }
    }

    /// Reads an answer: every field there and not empty, every type one of those asked for.
    fn read(types: &[String], content: &str) -> Result<Vec<Pair>, Unusable> {
        let mut pairs = json::<Pairs>(content)?.pairs;
        for (i, pair) in pairs.iter_mut().enumerate() {
            let named = types.iter().find(|name| name.eq_ignore_ascii_case(pair.question_type.trim()));
            pair.question_type = named.cloned().ok_or_else(|| Unusable {
                label: "wrong_type",
                fault: format!(
                    "`question_type` of pair {} is `{}`, not one of {}",
                    i + 1,
                    pair.question_type,
                    types.join(", ")
                ),
            })?;
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
        let task = Task::Generate {
            source: text,
            pairs: self.params.questions_per_chunk,
            types: Arc::clone(&self.answerable),
        };
        // The types vary from chunk to chunk and stand where what varies stands: instruction and schema stay the same
        // for all, and a server builds the grammar of the schema once.
        let ordinal = item.key.lineage.ordinals().last().copied().unwrap_or(0);
        let wanted = self.params.types.wanted(&item.key.lineage.root(), ordinal, self.params.questions_per_chunk);
        let input = wanted.map(|wanted| serde_json::json!({ "types": wanted }));
        let ask_for = Ask { task, instruction: &self.instruction, input, schema: Arc::clone(&self.schema) };
        let request = request(&self.params.asking, &self.context, &passage, ask_for, item.key.id, item.priority);
        let Answered { mut value, completion, usage } =
            ask(self.context.llm.as_ref(), request, self.params.asking.ask_again, |content| {
                Self::read(self.params.types.names(), content)
            })
            .await?;

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
            "generate v{CODE_VERSION} pairs={} types={:?} prompt={:?} {:?} {}",
            self.params.questions_per_chunk,
            self.params.types,
            self.params.prompt.text,
            self.params.additions().map(|added| added.text.as_str()).collect::<Vec<_>>(),
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
        let types = ["factual".to_owned()];
        let fault = |text: &str| GenerateStage::read(&types, text).unwrap_err().fault;
        let empty = r#"{"pairs":[{"question":"Q?","answer":" ","question_type":"factual","quote":"q"}]}"#;
        assert_eq!(fault(empty), "`answer` of pair 1 is empty");
        let missing = r#"{"pairs":[{"question":"Q?","question_type":"factual","quote":"q"}]}"#;
        assert!(fault(missing).contains("missing field `answer`"), "{}", fault(missing));
        let odd = r#"{"pairs":[{"question":"Q?","answer":"a","question_type":"riddle","quote":"q"}]}"#;
        assert_eq!(fault(odd), "`question_type` of pair 1 is `riddle`, not one of factual");
        let cased = r#"{"pairs":[{"question":"Q?","answer":"a","question_type":"Factual","quote":"q"}]}"#;
        assert_eq!(GenerateStage::read(&types, cased).unwrap()[0].question_type, "factual");
    }
}
