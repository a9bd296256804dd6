//! No parameter is dead: each one that the chunk, generate, validate and score stages document changes an outcome here,
//! or, for those that are handed on to the server, the request. A new parameter without a case fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;

use super::{StageContext, StageParams};
use crate::model::ids::{BlobId, DocumentHash, ItemId, Lineage};
use crate::model::llm::{Completion, CompletionRequest, FinishReason, LlmClient};
use crate::model::params::{Key, Node, Reader, Value};
use crate::model::payload::{Chunk, Pages, QaPair, SourceRef, Usage, Verdict};
use crate::model::record::ItemKey;
use crate::model::text::{ExtractedText, Span, TextStore};
use crate::model::{Item, LlmError, Payload, StoreError};

const KINDS: [&str; 4] = ["chunk", "generate", "validate", "score"];
const SOURCE: &str = "The agency shall redetermine eligibility every 12 months. A member must report a change of income within \
    ten (10) calendar days. Effective July 1, 2026, the monthly income limit for a household of four is $3,450.";
const QUOTE: &str = "A member must report a change of income within ten (10) calendar days.";
const NEAR_QUOTE: &str = "A member must report any changes of their income within 10 calendar days.";
const PAIRS: &str = r#"{"pairs":[{"question":"How soon?","answer":"Ten days.","question_type":"factual","quote":"ten (10)"},
    {"question":"How much?","answer":"$3,450.","question_type":"numeric","quote":"$3,450"},
    {"question":"How often?","answer":"Every 12 months.","question_type":"factual","quote":"12 months"}]}"#;
const SAME: &str = r#"{"answerable":true,"answer":"A member must report a change of income within 10 calendar days."}"#;
const CLOSE: &str = r#"{"answerable":true,"answer":"A member must report a change within 10 calendar days."}"#;
const JUDGED: &str =
    r#"{"claims":[{"claim":"c","supported":true}],"reason":"r","groundedness":5,"relevance":2,"self_contained":1}"#;
const MARKS: &str = r#"{"reason":"r","clarity":3,"accuracy":4,"relevance":4,"overall":3}"#;

/// What a change must show in.
#[derive(Clone, Copy, PartialEq)]
enum Shows {
    Outcome,
    Request,
}

/// One parameter: what else holds, its value before and after, and what the model answers.
struct Case {
    path: &'static str,
    with: Vec<(&'static str, Value)>,
    values: (Value, Value),
    answers: Vec<(&'static str, String)>,
    shows: Shows,
}

fn case(path: &'static str, before: impl Into<V>, after: impl Into<V>) -> Case {
    Case { path, with: vec![], values: (before.into().0, after.into().0), answers: vec![], shows: Shows::Outcome }
}

impl Case {
    fn with(mut self, path: &'static str, value: impl Into<V>) -> Self {
        self.with.push((path, value.into().0));
        self
    }

    fn answer(mut self, schema: &'static str, answer: impl Into<String>) -> Self {
        self.answers.push((schema, answer.into()));
        self
    }

    fn in_request(mut self) -> Self {
        self.shows = Shows::Request;
        self
    }
}

/// A value, made from what a test writes.
struct V(Value);

impl From<i32> for V {
    fn from(n: i32) -> Self {
        Self(Value::Int(n.into()))
    }
}
impl From<f64> for V {
    fn from(n: f64) -> Self {
        Self(Value::Float(n))
    }
}
impl From<bool> for V {
    fn from(b: bool) -> Self {
        Self(Value::Bool(b))
    }
}
impl From<&str> for V {
    fn from(text: &str) -> Self {
        Self(Value::Text(text.into()))
    }
}

fn judged(from: &str, to: &str) -> String {
    assert!(JUDGED.contains(from));
    JUDGED.replace(from, to)
}

fn cases(tokenizer: &str) -> Vec<Case> {
    let mut cases = vec![
        case("chunk.size", 1500, 200),
        case("chunk.unit", "characters", "tokens").with("tokenizer", tokenizer).with("size", 200),
        case("chunk.overlap", 0, 60).with("size", 200),
        case("chunk.select", 100, 1).with("size", 200),
        case("chunk.min_chars", 100, 20).with("size", 200),
        case("chunk.skip_contents", true, false),
        case("generate.questions_per_chunk", 5, 2),
        case("generate.question_types", "factual", "numeric").with("ask_again", 0),
        case("validate.min_question_chars", 10, 100),
        case("validate.max_question_chars", 300, 20),
        case("validate.min_answer_chars", 50, 100),
        case("validate.max_answer_chars", 1000, 60),
        case("validate.min_quote_chars", 20, 100),
        case("validate.max_quote_chars", 1500, 60),
        case("validate.vague_phrases", "the manual", "the agency"),
        case("validate.refusal_phrases", "no idea", "calendar days"),
        case("validate.max_leak", 0.8, 0.3).with("numbers_hold", false).with("pair.answer", "leaking"),
        case("validate.numbers_hold", true, false).with("pair.answer", "wrong"),
        case("validate.quote_match", 0.9, 0.85)
            .with("pair.quote", "near")
            .answer("quote", r#"{"quote":"elsewhere entirely"}"#),
        case("validate.quote_ask_again", 0.9, 0.85)
            .with("pair.quote", "near")
            .answer("quote", serde_json::json!({ "quote": QUOTE }).to_string()),
        case("validate.round_trip.enabled", true, false).answer("answer", r#"{"answerable":false,"answer":""}"#),
        case("validate.round_trip.min_f1", 0.6, 0.95)
            .with("round_trip.judge_equivalence", false)
            .answer("answer", CLOSE),
        case("validate.round_trip.judge_equivalence", false, true)
            .with("round_trip.min_f1", 0.95)
            .answer("answer", CLOSE)
            .answer("equivalent", r#"{"reason":"r","equivalent":true}"#),
        case("validate.judge.enabled", true, false).answer("judge", judged(r#""relevance":2"#, r#""relevance":0"#)),
        case("validate.judge.self_contained", true, false)
            .answer("judge", judged(r#""self_contained":1"#, r#""self_contained":0"#)),
        case("validate.judge.faithful", true, false)
            .answer("judge", judged(r#""groundedness":5"#, r#""groundedness":1"#)),
        case("validate.judge.max_unsupported_claims", 0, 1).answer("judge", judged("true", "false")),
        case("validate.judge.min_groundedness", 4, 3)
            .answer("judge", judged(r#""groundedness":5"#, r#""groundedness":3"#)),
        case("validate.judge.relevant", true, false).answer("judge", judged(r#""relevance":2"#, r#""relevance":1"#)),
        case("validate.judge.min_relevance", 2, 1).answer("judge", judged(r#""relevance":2"#, r#""relevance":1"#)),
        case("score.keep.clarity", 3, 4),
        case("score.keep.accuracy", 4, 5),
        case("score.keep.relevance", 4, 5),
        case("score.keep.overall", 1, 4),
    ];
    for (kind, schema, good) in
        [("generate", "qa_pairs", PAIRS), ("validate", "answer", SAME), ("score", "scores", MARKS)]
    {
        let path = |key: &str| -> &'static str { Box::leak(format!("{kind}.{key}").into_boxed_str()) };
        cases.extend([
            case(path("max_tokens"), 1000, 16),
            case(path("temperature"), 0.0, 1.0).in_request(),
            case(path("top_p"), 1.0, 0.5).in_request(),
            case(path("seed"), 1, 2).in_request(),
            // The first answer cannot be used, the second can.
            case(path("ask_again"), 0, 1).answer(schema, "no JSON").answer(schema, good),
        ]);
    }
    cases
}

/// Answers by the schema's name, each answer once and the last again and again; cut where it is longer than allowed,
/// at four characters a token.
struct Script {
    answers: Mutex<BTreeMap<String, Vec<String>>>,
    asked: Mutex<Vec<String>>,
}

impl LlmClient for Script {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        let CompletionRequest { temperature, top_p, seed, .. } = request;
        self.asked.lock().unwrap().push(format!("{temperature} {top_p} {seed:?}"));
        let mut answers = self.answers.lock().unwrap();
        let list = answers.get_mut(&request.schema.as_ref().unwrap().name).unwrap();
        let mut content = if list.len() > 1 { list.remove(0) } else { list[0].clone() };
        let most = request.max_tokens as usize * 4;
        let finish_reason = if content.len() > most { FinishReason::Length } else { FinishReason::Stop };
        content.truncate(most);
        Box::pin(async move { Ok(Completion { content, finish_reason, usage: Usage::default(), model: "m".into() }) })
    }
}

struct OneText(String);

impl TextStore for OneText {
    fn put(&self, _: &ExtractedText) -> Result<BlobId, StoreError> {
        Ok(BlobId([2; 32]))
    }

    fn get(&self, _: &BlobId) -> Result<Arc<ExtractedText>, StoreError> {
        Ok(Arc::new(ExtractedText { markdown: self.0.clone(), page_starts: vec![0] }))
    }
}

/// A document of several sections, one of them short, and a contents page.
fn document() -> String {
    let contents: Vec<String> = (1..30).map(|n| format!("Section number {n} of the manual .......... {n}\n")).collect();
    let sections: Vec<String> = (1..6).map(|n| format!("## Section {n}\n\n{SOURCE} {SOURCE}\n\n")).collect();
    let (contents, sections) = (contents.concat(), sections.concat());
    format!("# Contents\n\n{contents}\n# Manual\n\n{sections}## Last\n\nOnly these few words are here for all.\n")
}

/// The payload for a stage of this kind.
fn payload(kind: &str, answer: &str, question_type: &str, quote: &str) -> Payload {
    let source = SourceRef { name: "m.md".into(), sha256: DocumentHash([1; 32]), text: BlobId([2; 32]), title: None };
    let (chars, bytes) = (SOURCE.chars().count() as u64, SOURCE.len() as u64);
    let chunk = Chunk {
        source: source.clone(),
        chars: Span { start: 0, end: chars },
        bytes: Span { start: 0, end: bytes },
        first_page: 1,
        last_page: 1,
        headings: vec![],
    };
    let pair = QaPair {
        chunk: chunk.clone(),
        chunk_id: ItemId([4; 32]),
        question: "How soon must a member report a change of income to the agency?".into(),
        answer: answer.into(),
        question_type: question_type.into(),
        quote: quote.into(),
        model: "m".into(),
        prompt_hash: String::new(),
        usage: Usage::default(),
    };
    let verdict = Verdict {
        pair: pair.clone(),
        pair_id: ItemId([5; 32]),
        citations: vec![],
        checks: BTreeMap::new(),
        usage: Usage::default(),
    };
    match kind {
        "chunk" => Payload::Pages(Pages { source, pages: 1, chars }),
        "generate" => Payload::Chunk(chunk),
        "validate" => Payload::Pair(pair),
        "score" => Payload::Verdict(verdict),
        other => panic!("there is no kind {other}"),
    }
}

/// A tree in which these values stand at these paths.
fn tree(values: &[(&str, &Value)]) -> Node {
    fn put(node: &mut Node, path: &str, value: &Value) {
        let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
        let Value::Map(entries) = &mut node.value else { panic!("{path}") };
        let empty = Node { file: "p.yaml".into(), line: 1, value: Value::Map(vec![]) };
        let at = entries.iter().position(|(known, _)| known.name == key).unwrap_or_else(|| {
            entries.push((Key { name: key.into(), line: 1 }, empty));
            entries.len() - 1
        });
        match rest {
            Some(rest) => put(&mut entries[at].1, rest, value),
            None => entries[at].1.value = value.clone(),
        }
    }
    let mut root = Node { file: "p.yaml".into(), line: 1, value: Value::Map(vec![]) };
    for (path, value) in values {
        put(&mut root, path, value);
    }
    root
}

/// The stage's outcome, and what the model was asked.
async fn outcome(case: &Case, value: &Value) -> (String, Vec<String>) {
    let (kind, key) = case.path.split_once('.').unwrap();
    let (mut answer, mut quote) = ("A member must report a change of income within 10 calendar days.", QUOTE);
    let mut question_type = "factual";
    let mut values: Vec<(&str, &Value)> = vec![(key, value)];
    for (path, value) in &case.with {
        match (*path, value) {
            ("pair.answer", Value::Text(what)) if what == "wrong" => {
                answer = "A member must report a change of income within 30 calendar days.";
            }
            ("pair.answer", Value::Text(what)) if what == "unstated" => {
                answer = "The manual does not state how soon a member must report a change of income.";
                question_type = crate::model::payload::UNANSWERABLE;
            }
            ("pair.answer", _) => answer = "To the agency a member must report a change of family income at once.",
            ("pair.quote", _) => quote = NEAR_QUOTE,
            (path, value) => values.push((path, value)),
        }
    }
    let node = tree(&values);
    let (mut faults, mut documented) = (Vec::new(), Vec::new());
    let mut reader = Reader::new(&node, kind, &mut faults, &mut documented);
    let params = StageParams::read(kind, &mut reader).unwrap();
    reader.finish();
    assert!(faults.is_empty(), "{}: {faults:?}", case.path);

    let mut answers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (schema, answer) in &case.answers {
        answers.entry((*schema).into()).or_default().push(answer.clone());
    }
    // The round trip repeats the pair's answer, whatever that is.
    let repeated = serde_json::json!({ "answerable": true, "answer": answer }).to_string();
    let usual = [("qa_pairs", PAIRS), ("answer", repeated.as_str()), ("judge", JUDGED), ("scores", MARKS)];
    for (schema, answer) in usual {
        answers.entry(schema.into()).or_insert_with(|| vec![answer.into()]);
    }
    let script = Arc::new(Script { answers: Mutex::new(answers), asked: Mutex::new(Vec::new()) });
    let context = StageContext {
        texts: Arc::new(OneText(if kind == "chunk" { document() } else { SOURCE.into() })),
        llm: Arc::clone(&script) as Arc<dyn LlmClient>,
        model: "m".into(),
        dialect: "".into(),
        worker_program: PathBuf::new(),
    };
    let stage = params.build(&context).unwrap();
    let document = DocumentHash([1; 32]);
    let key = ItemKey { lineage: Lineage::document(&document).child(0).child(0), id: ItemId([5; 32]) };
    let result = stage.process(&Item { key, payload: payload(kind, answer, question_type, quote), priority: 0 }).await;
    let asked = script.asked.lock().unwrap().clone();
    (format!("{result:?}"), asked)
}

#[tokio::test]
async fn every_parameter_decides_something() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = folder.path().join("tokenizer.json");
    let words = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[UNK]":0},"unk_token":"[UNK]"}}"#;
    std::fs::write(&tokenizer, words).unwrap();
    let cases = cases(tokenizer.to_str().unwrap());

    let covered: BTreeSet<String> = cases.iter().map(|case| case.path.to_owned()).collect();
    let nothing = tree(&[]);
    for kind in KINDS {
        let (mut faults, mut documented) = (Vec::new(), Vec::new());
        let mut reader = Reader::new(&nothing, kind, &mut faults, &mut documented);
        StageParams::read(kind, &mut reader).unwrap();
        // Prompts, the model and the tokenizer are names of what is used.
        let missing: Vec<&str> = documented
            .iter()
            .filter(|row| row.form != "text" && !covered.contains(&row.path))
            .map(|row| row.path.as_str())
            .collect();
        assert!(missing.is_empty(), "no case shows that these change anything: {missing:?}");
    }

    let mut dead = Vec::new();
    for case in &cases {
        let (before, asked_before) = outcome(case, &case.values.0).await;
        let (after, asked_after) = outcome(case, &case.values.1).await;
        let differs = match case.shows {
            Shows::Outcome => before != after,
            Shows::Request => asked_before != asked_after,
        };
        if !differs {
            dead.push(format!("{}: {before}", case.path));
        }
    }
    assert!(dead.is_empty(), "these change nothing:\n{}", dead.join("\n"));
}

#[tokio::test]
async fn a_question_without_answer_must_find_none() {
    let asked = |answer: &'static str| {
        case("validate.max_leak", 0.8, 0.8).with("pair.answer", "unstated").answer("answer", answer)
    };
    let (found, _) = outcome(&asked(SAME), &Value::Float(0.8)).await;
    assert!(
        found.contains("Reject") && found.contains("the question cannot be answered from the passage alone"),
        "{found}"
    );
    let (none, _) = outcome(&asked(r#"{"answerable":false,"answer":""}"#), &Value::Float(0.8)).await;
    assert!(none.contains("Emit") && none.contains("says_unstated") && !none.contains("no_refusal"), "{none}");
}
