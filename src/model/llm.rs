//! The trait of the model, and what is asked of it.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::error::LlmError;
use super::ids::{DocumentHash, ItemId, RequestKey};
use super::payload::Usage;

/// A model, however it is reached. Decorators (journal, retries, limits) are clients around a client.
pub trait LlmClient: Send + Sync {
    /// Asks once. Cancel-safe: dropping the future gives the answer up and nothing else.
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>>;
}

/// One request, complete: all that determines its answer, and what helps to schedule it.
#[derive(Clone, Debug)]
pub struct CompletionRequest {
    /// What is asked, in structured form. The embedded model answers from this; a server gets `messages`.
    pub task: Task,
    /// The model's name as the server knows it.
    pub model: Arc<str>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// The schema that the answer must follow.
    pub schema: Option<Arc<Schema>>,
    /// The most tokens that the answer may have.
    pub max_tokens: u32,
    /// Sampling temperature.
    pub temperature: f64,
    /// Nucleus sampling.
    pub top_p: f64,
    /// The seed given to the server.
    pub seed: Option<u64>,
    /// What else the server is told that may change its answer, such as further fields of the request.
    pub dialect: Arc<str>,
    /// The item that asks: the same question for two items is asked twice, for one item never.
    pub scope: ItemId,
    /// Requests with the same affinity share a prompt prefix and should go to the same server.
    pub affinity: ItemId,
    /// The document that it is about: the journal keeps the answers about one document together.
    pub document: DocumentHash,
    /// The further along the flow, the higher; slots are granted by it.
    pub priority: u32,
}

impl CompletionRequest {
    /// The journal's key: the first 8 bytes of the document's hash, then 24 bytes of a hash over all that determines
    /// the answer.
    pub fn key(&self) -> RequestKey {
        let mut hasher = blake3::Hasher::new_derive_key("qaflow request v2");
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
        };
        part(self.scope.as_bytes());
        part(self.model.as_bytes());
        part(self.dialect.as_bytes());
        for message in &self.messages {
            part(message.role.as_str().as_bytes());
            part(message.content.as_bytes());
        }
        part(self.schema.as_ref().map_or(&[][..], |s| s.json.as_bytes()));
        part(&self.max_tokens.to_be_bytes());
        part(&self.temperature.to_bits().to_be_bytes());
        part(&self.top_p.to_bits().to_be_bytes());
        part(&self.seed.map_or([0; 9], |seed| {
            let mut bytes = [1; 9];
            bytes[1..].copy_from_slice(&seed.to_be_bytes());
            bytes
        }));
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.document.0[..8]);
        key[8..].copy_from_slice(&hasher.finalize().as_bytes()[..24]);
        RequestKey(key)
    }
}

/// What is asked, in structured form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Write question-answer pairs from a source text. The answer is JSON: `{"pairs":[{"question","answer","question_type","quote"}]}`.
    Generate {
        /// The source text.
        source: Arc<str>,
        /// How many pairs.
        pairs: u32,
        /// The question types to choose from.
        types: Arc<[String]>,
    },
    /// Answer a question from the source text alone. JSON: `{"answerable":bool,"answer":string}`.
    Answer {
        /// The source text.
        source: Arc<str>,
        /// The question.
        question: String,
    },
    /// Judge a pair against the source. JSON: `{"reason","clarity","accuracy","relevance","overall"}`, marks 1 to 5.
    Score {
        /// The source text.
        source: Arc<str>,
        /// The question.
        question: String,
        /// The answer.
        answer: String,
        /// The verified quote.
        quote: String,
    },
    /// Check a pair against the source. JSON: `{"claims":[{"claim","supported"}],"reason","groundedness","relevance","self_contained"}`.
    Judge {
        /// The source text.
        source: Arc<str>,
        /// The question.
        question: String,
        /// The answer.
        answer: String,
        /// The verified quote.
        quote: String,
    },
    /// Any other request, such as a probe.
    Free,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The standing instruction.
    System,
    /// The asker.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// A JSON schema with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// A short name: `qa_pairs`, `answer`, `judge`, `scores` or `probe`.
    pub name: String,
    /// The schema as JSON text.
    pub json: String,
}

/// Why the model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FinishReason {
    /// It had said all.
    Stop,
    /// It ran into `max_tokens`; JSON is then broken.
    Length,
    /// Anything else the server may say.
    Other,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// The text.
    pub content: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Its tokens.
    pub usage: Usage,
    /// The model's name as the server gave it.
    pub model: String,
}
