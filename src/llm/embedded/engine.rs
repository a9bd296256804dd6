//! Answers tasks with the model and the rules around it, one at a time and always the same way.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use serde::Serialize;
use serde_json::{Value, json};

use super::angles::angles;
use super::judge::{self, Pair};
use super::model::Llama;
use super::questions::{Asker, Tokens};
use super::tokenizer::Tokenizer;
use super::{answers, filter, sentences};
use crate::model::LlmError;
use crate::model::llm::{Schema, Task};
use crate::model::payload::Usage;

/// Sentences asked about beyond the number of pairs wanted, since some questions are refused.
const SPARE: usize = 1;
/// The most pairs of one request; more would make the batch large and the questions poor.
const MOST_PAIRS: usize = 16;
/// The longest answer, in characters, that the judge's model reads.
const JUDGED: usize = 2000;

/// The loaded model with its tokenizer and examples.
pub(super) struct Engine {
    pub(super) llama: Llama,
    pub(super) tokenizer: Tokenizer,
    pub(super) asker: Asker,
}

#[derive(Serialize)]
struct Pairs {
    pairs: Vec<GeneratedPair>,
}

#[derive(Serialize)]
struct GeneratedPair {
    question: String,
    answer: String,
    question_type: String,
    quote: String,
}

impl Engine {
    /// Loads a GGUF file.
    pub(super) fn open(gguf: &Path) -> Result<Self, LlmError> {
        let unusable = |detail: String| LlmError::Misconfigured {
            message: format!(
                "the embedded model's weights {} cannot be used: {detail}. Fetch them anew with `qaflow model pull`",
                gguf.display()
            ),
        };
        let file = File::open(gguf).map_err(|e| unusable(e.to_string()))?;
        let mut reader = BufReader::new(file);
        let content = Content::read(&mut reader).map_err(|e| unusable(first_line(&e)))?;
        let tokenizer = Tokenizer::from_gguf(&content).map_err(&unusable)?;
        let llama = Llama::load(&content, &mut reader).map_err(|e| unusable(first_line(&e)))?;
        if tokenizer.vocabulary() != llama.vocabulary() {
            let (words, rows) = (tokenizer.vocabulary(), llama.vocabulary());
            return Err(unusable(format!("its tokenizer has {words} tokens and its embedding {rows}")));
        }
        let asker = Asker::new(&llama, &tokenizer).map_err(&unusable)?;
        Ok(Self { llama, tokenizer, asker })
    }

    /// Answers a task: the text and the tokens it took.
    pub(super) fn perform(&self, task: &Task, schema: Option<&Schema>) -> Result<(String, Usage), LlmError> {
        let (text, tokens) = match task {
            Task::Generate { source, pairs, types } => self.generate(source, *pairs as usize, types),
            Task::Answer { source, question } => Ok((answer(source, question).to_string(), Tokens::default())),
            Task::Score { source, question, answer, quote } => self.score(&Pair { source, question, answer, quote }),
            Task::Judge { source, question, answer, quote } => {
                let pair = Pair { source, question, answer, quote };
                Ok((json!(judge::entails(&pair)).to_string(), Tokens::default()))
            }
            Task::Free => Ok((free(schema), Tokens::default())),
        }
        .map_err(|detail| LlmError::Refused {
            label: "embedded".into(),
            message: format!("the embedded model could not answer: {detail}"),
        })?;
        let usage =
            Usage { prompt_tokens: tokens.prompt, completion_tokens: tokens.written, cached_tokens: tokens.cached };
        Ok((text, usage))
    }

    fn generate(&self, source: &str, pairs: usize, types: &[String]) -> Result<(String, Tokens), String> {
        let wanted = pairs.min(MOST_PAIRS);
        let room = if wanted == 0 { 0 } else { wanted + SPARE };
        let picked = sentences::pick(source, room, |text| !angles(text).is_empty());
        let asks: Vec<_> = picked.iter().map(|s| (s.text.as_str(), angles(&s.text))).collect();
        let (candidates, tokens) = self.asker.ask(&self.llama, &self.tokenizer, &asks)?;
        let texts: Vec<&str> = picked.iter().map(|s| s.text.as_str()).collect();
        let pairs = filter::best(candidates, &texts, wanted)
            .into_iter()
            .map(|chosen| GeneratedPair {
                question_type: filter::type_name(chosen.angle.kind, types),
                question: uncapitalised(&chosen.question, &picked[chosen.sentence].text, source),
                answer: picked[chosen.sentence].text.clone(),
                quote: picked[chosen.sentence].quote.to_owned(),
            })
            .collect();
        Ok((serde_json::to_string(&Pairs { pairs }).map_err(|e| e.to_string())?, tokens))
    }

    fn score(&self, pair: &Pair<'_>) -> Result<(String, Tokens), String> {
        let told: String = super::words::fold(pair.answer).chars().take(JUDGED).collect();
        let asked: String = super::words::fold(pair.question).chars().take(JUDGED).collect();
        let (likelihood, tokens) = self.asker.likelihood(&self.llama, &self.tokenizer, &told, &asked)?;
        let judgement = judge::judge(pair, likelihood);
        Ok((serde_json::to_string(&judgement).map_err(|e| e.to_string())?, tokens))
    }
}

/// The question with the sentence's first word in lower case, if the source writes it so elsewhere: "What is Prior
/// authorization?" has its capital only from its place.
fn uncapitalised(question: &str, sentence: &str, source: &str) -> String {
    let Some(first) = super::words::words(sentence).next() else { return question.to_owned() };
    let lower = first.to_lowercase();
    let elsewhere = || super::words::words(source).any(|word| word == lower);
    match question.split_once(&format!(" {first}")) {
        Some((before, behind)) if !behind.starts_with(char::is_alphanumeric) && lower != first && elsewhere() => {
            format!("{before} {lower}{behind}")
        }
        _ => question.to_owned(),
    }
}

/// candle's errors carry a backtrace behind their first line.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

fn answer(source: &str, question: &str) -> Value {
    match answers::retrieve(source, question) {
        Some(sentence) => json!({"answerable": true, "answer": sentence}),
        None => json!({"answerable": false, "answer": ""}),
    }
}

/// Text that fits the schema, or a plain sentence without one.
fn free(schema: Option<&Schema>) -> String {
    let Some(schema) = schema else {
        return "This is a small model inside qaflow, for demonstrations; it writes, answers and judges questions."
            .into();
    };
    serde_json::from_str(&schema.json).map_or_else(|_| "{}".into(), |schema| fitting(&schema, 0).to_string())
}

/// The simplest value that a flat JSON schema allows.
fn fitting(schema: &Value, depth: u32) -> Value {
    if let Some(value) = schema.get("const").or_else(|| schema.get("enum").and_then(|e| e.get(0))) {
        return value.clone();
    }
    let number = |key: &str| schema.get(key).and_then(Value::as_u64).unwrap_or(0);
    match schema.get("type").and_then(Value::as_str) {
        Some("object") if depth < 16 => {
            let known = schema.get("properties").and_then(Value::as_object);
            known.into_iter().flatten().map(|(name, part)| (name.clone(), fitting(part, depth + 1))).collect()
        }
        Some("array") if depth < 16 => {
            let item = schema.get("items").map_or(Value::Null, |items| fitting(items, depth + 1));
            Value::Array(vec![item; number("minItems").min(64) as usize])
        }
        Some("boolean") => Value::Bool(true),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(0)),
        Some("string") => Value::String("x".repeat(number("minLength").min(4096) as usize)),
        Some("object") => json!({}),
        Some("array") => json!([]),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(json: &str) -> Schema {
        Schema { name: "probe".into(), json: json.into() }
    }

    #[test]
    fn a_probe_is_answered_in_its_schema() {
        let probe = r#"{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}"#;
        assert_eq!(free(Some(&schema(probe))), r#"{"ok":true}"#);
        let rich = r#"{"type":"object","properties":{"n":{"type":"integer","minimum":3},"s":{"enum":["a","b"]},
            "l":{"type":"array","minItems":2,"items":{"type":"string","minLength":1}}}}"#;
        let value: Value = serde_json::from_str(&free(Some(&schema(rich)))).unwrap();
        assert_eq!(value, json!({"n": 3, "s": "a", "l": ["x", "x"]}));
        assert_eq!(free(Some(&schema("no json"))), "{}");
        assert!(free(None).ends_with('.'));
    }

    #[test]
    fn a_capital_from_the_place_goes() {
        let source = "Prior authorization is an approval. A request for prior authorization is free.";
        let sentence = "Prior authorization is an approval.";
        assert_eq!(uncapitalised("What is Prior authorization?", sentence, source), "What is prior authorization?");
        assert_eq!(uncapitalised("What is Medicaid?", "Medicaid is a program.", source), "What is Medicaid?");
        assert_eq!(uncapitalised("What is A1c?", "A test is a test.", "A test is a test."), "What is A1c?");
        assert_eq!(uncapitalised("What is it?", "", ""), "What is it?");
    }

    #[test]
    fn answers_have_the_documented_shape() {
        let source = "The plan must decide an appeal within 28 calendar days.";
        assert_eq!(
            answer(source, "Within how many days must the plan decide an appeal?").to_string(),
            r#"{"answer":"The plan must decide an appeal within 28 calendar days.","answerable":true}"#
        );
        assert_eq!(answer(source, "Who flies?").to_string(), r#"{"answer":"","answerable":false}"#);
    }

    #[test]
    fn what_is_no_model_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.gguf");
        let message = |path: &Path| Engine::open(path).err().unwrap().to_string();
        assert!(message(&path).contains("weights.gguf cannot be used: No such file"), "{}", message(&path));
        for bytes in [&b""[..], b"GGUF", b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0", b"not a model at all"] {
            std::fs::write(&path, bytes).unwrap();
            let message = message(&path);
            assert!(message.contains("qaflow model pull") && !message.contains('\n'), "{message}");
        }
    }
}
