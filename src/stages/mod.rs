//! The stages, and the only registry of them. A new stage has its own file, and a line in each of the lists here.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::model::llm::LlmClient;
use crate::model::params::Reader;
use crate::model::payload::Chunk;
use crate::model::text::{ExtractedText, TextStore};
use crate::model::{Item, PayloadKind, Stage, StageError};

pub mod ask;
pub mod calls;
pub mod chunk;
pub mod extract;
pub mod generate;
pub mod prompt;
pub mod question_types;
pub mod score;
pub mod target;
#[cfg(test)]
mod thresholds_tests;
pub mod validate;

/// What the stages of one run share.
#[derive(Clone)]
pub struct StageContext {
    /// Documents' texts.
    pub texts: Arc<dyn TextStore>,
    /// The model, behind journal, retries and limits.
    pub llm: Arc<dyn LlmClient>,
    /// The model's name as the server knows it; a stage may name another.
    pub model: Arc<str>,
    /// What else the server is told that may change its answers.
    pub dialect: Arc<str>,
    /// The program that worker processes are started from: this binary.
    pub worker_program: PathBuf,
}

/// The kinds of stages that a pipeline may name, with what each takes and gives.
pub const KINDS: [(&str, PayloadKind, PayloadKind); 6] = [
    ("extract", PayloadKind::Document, PayloadKind::Pages),
    ("chunk", PayloadKind::Pages, PayloadKind::Chunk),
    ("generate", PayloadKind::Chunk, PayloadKind::Pair),
    ("validate", PayloadKind::Pair, PayloadKind::Verdict),
    ("score", PayloadKind::Verdict, PayloadKind::Score),
    ("target", PayloadKind::Score, PayloadKind::Score),
];

/// A stage's parameters, read and checked. Serialized they have the keys of the pipeline file, and the values that took
/// effect: for the manifest.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum StageParams {
    /// Of an extract stage.
    Extract(extract::ExtractParams),
    /// Of a chunk stage.
    Chunk(chunk::ChunkParams),
    /// Of a generate stage.
    Generate(Box<generate::GenerateParams>),
    /// Of a validate stage.
    Validate(Box<validate::ValidateParams>),
    /// Of a score stage.
    Score(Box<score::ScoreParams>),
    /// Of a target stage.
    Target(target::TargetParams),
}

impl StageParams {
    /// Reads the parameters of a stage of this kind; `None` if there is no such kind.
    pub fn read(kind: &str, reader: &mut Reader<'_>) -> Option<Self> {
        Some(match kind {
            "extract" => Self::Extract(extract::ExtractParams::read(reader)),
            "chunk" => Self::Chunk(chunk::ChunkParams::read(reader)),
            "generate" => Self::Generate(Box::new(generate::GenerateParams::read(reader))),
            "validate" => Self::Validate(Box::new(validate::ValidateParams::read(reader))),
            "score" => Self::Score(Box::new(score::ScoreParams::read(reader))),
            "target" => Self::Target(target::TargetParams::read(reader)),
            _ => return None,
        })
    }

    /// Builds the stage.
    ///
    /// # Errors
    /// What the stage lacks, for people.
    pub fn build(&self, context: &StageContext) -> Result<Arc<dyn Stage>, String> {
        Ok(match self {
            Self::Extract(params) => Arc::new(extract::ExtractStage::new(params.clone(), context)),
            Self::Chunk(params) => Arc::new(chunk::ChunkStage::new(params.clone(), context)?),
            Self::Generate(params) => Arc::new(generate::GenerateStage::new((**params).clone(), context)),
            Self::Validate(params) => Arc::new(validate::ValidateStage::new((**params).clone(), context)),
            Self::Score(params) => Arc::new(score::ScoreStage::new((**params).clone(), context)),
            Self::Target(params) => Arc::new(target::TargetStage::new(*params)),
        })
    }

    /// Whether the stage asks the model: then its concurrency follows the model's.
    pub fn uses_model(&self) -> bool {
        matches!(self, Self::Generate(_) | Self::Validate(_) | Self::Score(_))
    }
}

/// The part of a document that a chunk covers.
///
/// # Errors
/// Fatal if the span does not lie in the text: the store's parts do not belong together.
pub fn slice<'a>(document: &'a ExtractedText, chunk: &Chunk) -> Result<&'a str, StageError> {
    let range = chunk.bytes.start as usize..chunk.bytes.end as usize;
    document.markdown.get(range).ok_or_else(|| {
        StageError::fatal(
            "store",
            format!(
                "the stored text of {} does not hold the span of one of its chunks: run `qaflow verify`",
                chunk.source.name
            ),
        )
    })
}

/// The text of a chunk.
///
/// # Errors
/// Fatal if the text cannot be read back.
pub fn chunk_text(texts: &dyn TextStore, chunk: &Chunk) -> Result<Arc<str>, StageError> {
    let document = texts.get(&chunk.source.text)?;
    Ok(slice(&document, chunk)?.into())
}

/// For a stage that is handed a payload of a kind it does not take, which the graph's check rules out.
pub(crate) fn wrong_payload(item: &Item, stage: &dyn Stage) -> StageError {
    let (is, wants) = (item.payload.kind(), stage.accepts());
    StageError::fatal("internal", format!("a stage that takes {wants} items was given a {is} item, please report it"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::params::Node;

    /// The keys that hold values, with those of their sections before them.
    fn keys(value: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) if !map.contains_key("blake3") => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    keys(value, &path, found);
                }
            }
            _ => _ = found.insert(path.to_owned()),
        }
    }

    #[test]
    fn parameters_are_shown_under_the_keys_of_the_pipeline_file() {
        for (kind, ..) in KINDS {
            let node = Node::empty_map(&"pipeline.yaml".into(), 1);
            let (mut faults, mut documented) = (Vec::new(), Vec::new());
            let mut reader = Reader::new(&node, "", &mut faults, &mut documented);
            let params = StageParams::read(kind, &mut reader).unwrap();
            reader.finish();
            let json = serde_json::to_value(&params).unwrap();
            let mut shown = BTreeSet::new();
            keys(&json, "", &mut shown);
            let asked: BTreeSet<String> = documented.into_iter().map(|value| value.path).collect();
            assert_eq!(shown, asked, "{kind}: {json}");
        }
    }
}
