//! What an item carries at each step: *Document → Pages → Chunk → Pair → Verdict → Score*.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::{BlobId, DocumentHash, ItemId};
use super::text::Span;

/// The kinds of payload, which edges of the graph must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadKind {
    /// A source file.
    Document,
    /// A document's extracted text.
    Pages,
    /// A passage of a document.
    Chunk,
    /// A question with its answer and quote, unchecked.
    Pair,
    /// A pair that passed the checks.
    Verdict,
    /// A checked pair with scores.
    Score,
}

impl fmt::Display for PayloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Document => "document",
            Self::Pages => "pages",
            Self::Chunk => "chunk",
            Self::Pair => "pair",
            Self::Verdict => "verdict",
            Self::Score => "score",
        })
    }
}

/// What an item carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Payload {
    /// A source file.
    Document(Document),
    /// A document's extracted text.
    Pages(Pages),
    /// A passage of a document.
    Chunk(Chunk),
    /// A question with its answer and quote, unchecked.
    Pair(QaPair),
    /// A pair that passed the checks.
    Verdict(Verdict),
    /// A checked pair with scores.
    Score(Scored),
}

impl Payload {
    /// Which kind this is.
    pub fn kind(&self) -> PayloadKind {
        match self {
            Self::Document(_) => PayloadKind::Document,
            Self::Pages(_) => PayloadKind::Pages,
            Self::Chunk(_) => PayloadKind::Chunk,
            Self::Pair(_) => PayloadKind::Pair,
            Self::Verdict(_) => PayloadKind::Verdict,
            Self::Score(_) => PayloadKind::Score,
        }
    }

    /// The name of the document it comes from.
    pub fn document_name(&self) -> &str {
        match self {
            Self::Document(d) => &d.name,
            Self::Pages(p) => &p.source.name,
            Self::Chunk(c) => &c.source.name,
            Self::Pair(p) => &p.chunk.source.name,
            Self::Verdict(v) => &v.pair.chunk.source.name,
            Self::Score(s) => &s.verdict.pair.chunk.source.name,
        }
    }
}

/// How a source file is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DocumentFormat {
    /// `.pdf`
    Pdf,
    /// `.md`
    Markdown,
    /// `.txt`
    Text,
}

/// A source file, identified by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The path relative to the input it was found under, with `/`: what the dataset calls it.
    pub name: String,
    /// SHA-256 of the content.
    pub sha256: DocumentHash,
    /// Where it lies on this machine; never exported.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// How to read it.
    pub format: DocumentFormat,
}

/// What every later payload says about the document it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRef {
    /// The document's name.
    pub name: String,
    /// The document's content hash.
    pub sha256: DocumentHash,
    /// The extracted text, in the text store.
    pub text: BlobId,
    /// The document's title, if it has one.
    pub title: Option<String>,
}

/// A document's extracted text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// Where it comes from.
    pub source: SourceRef,
    /// How many pages the document has (1 for Markdown and text).
    pub pages: u32,
    /// Length of the extracted text in characters.
    pub chars: u64,
}

/// A passage of a document. Its text is the span in the extracted text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Where it comes from.
    pub source: SourceRef,
    /// The span in characters.
    pub chars: Span,
    /// The same span in bytes.
    pub bytes: Span,
    /// First page, from 1.
    pub first_page: u32,
    /// Last page, from 1.
    pub last_page: u32,
    /// The headings above it, outermost first.
    pub headings: Vec<String>,
}

/// Tokens of one or more model answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// Those of the prompt tokens that the server took from its prefix cache, where it says so.
    pub cached_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.cached_tokens += other.cached_tokens;
    }
}

/// A question with its answer and supporting quote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QaPair {
    /// The passage it was made from.
    pub chunk: Chunk,
    /// That passage's item.
    pub chunk_id: ItemId,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// For instance `factual`, `procedural`, `numeric`.
    pub question_type: String,
    /// The supporting quote as the model gave it.
    pub quote: String,
    /// The model that wrote it, as the server names it.
    pub model: String,
    /// Hash of the prompts that asked for it.
    pub prompt_hash: String,
    /// Its share of the answer's tokens.
    pub usage: Usage,
}

/// The type of a question that its passage does not answer, and whose answer says so.
pub const UNANSWERABLE: &str = "unanswerable";

impl QaPair {
    /// Whether the question is meant to have no answer in the passage.
    pub fn is_unanswerable(&self) -> bool {
        self.question_type == UNANSWERABLE
    }
}

/// A quote found in the document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Citation {
    /// The text as it stands in the document.
    pub quote: String,
    /// The page on which it begins, from 1.
    pub page: u32,
    /// Its span in the extracted Markdown, in characters.
    pub chars: Span,
    /// How well the model's quote matches it, 0 to 1; 1 is equality after normalisation.
    pub match_score: f64,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Whether the pair passed.
    pub pass: bool,
    /// What was measured.
    pub value: CheckValue,
}

/// The value of a check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CheckValue {
    /// A measure.
    Number(f64),
    /// What was found, or empty.
    Text(String),
}

/// Results of checks by name.
pub type Checks = BTreeMap<String, CheckResult>;

/// A pair that passed the checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The pair.
    pub pair: QaPair,
    /// The pair's item.
    pub pair_id: ItemId,
    /// The verified quotes.
    pub citations: Vec<Citation>,
    /// What each check found.
    pub checks: Checks,
    /// Tokens of the calls that checked it.
    pub usage: Usage,
}

/// Marks from 1 (worst) to 5 (best).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scores {
    /// Whether the question is clear by itself.
    pub clarity: u8,
    /// Whether the answer agrees with the source.
    pub accuracy: u8,
    /// Whether the answer answers the question, and the question matters.
    pub relevance: u8,
    /// The judge's overall mark.
    pub overall: u8,
}

/// A checked pair with scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The checked pair.
    pub verdict: Verdict,
    /// The judge's marks.
    pub scores: Scores,
    /// The judge's reason, given before the marks.
    pub reason: String,
    /// Who judged, and by what.
    pub judge_model: String,
    /// Hash of the prompts that asked the judge.
    pub prompt_hash: String,
    /// Tokens of the judge's answer.
    pub usage: Usage,
}
