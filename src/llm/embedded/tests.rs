//! Tests of the whole embedded model. They need its weights, and are skipped where those are missing unless
//! `QAFLOW_REQUIRE_MODEL` is set.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::engine::Engine;
use super::{EmbeddedModel, Job, MODEL_NAME, angles, sentences, words, work};
use crate::model::llm::{CompletionRequest, FinishReason, LlmClient, Schema, Task};
use crate::model::payload::Usage;
use crate::model::{DocumentHash, ItemId};

/// An invented policy.
const SOURCE: &str = "## Appeals\n\nThe managed care plan must decide a standard appeal within 28 calendar days after the \
    request. A registered nurse reviews every denial before the plan mails the notice. The plan pays a fee of $410 for each\n\
    external review. Hardship means a loss of income that lasts longer than two months.\n\n| Form | Days |\n|---|---|\n\
    | HW-2 | 12 |\n\nA member keeps the same coverage during the appeal when the member asks for a hearing before the \
    effective date of the change. The hearing officer must issue the decision within 9 business days after the hearing.\n";

fn weights() -> Option<PathBuf> {
    let path = super::weights::default_weights_path();
    if path.is_file() {
        return Some(path);
    }
    assert!(
        std::env::var_os("QAFLOW_REQUIRE_MODEL").is_none(),
        "{} is missing, and QAFLOW_REQUIRE_MODEL is set",
        path.display()
    );
    // The test harness shows this with --nocapture; an absent model is no failure.
    #[expect(clippy::print_stderr, reason = "a skipped test must say so")]
    {
        eprintln!("skipped: {} is missing; `qaflow model pull` fetches it", path.display());
    }
    None
}

fn request(task: Task) -> CompletionRequest {
    CompletionRequest {
        task,
        model: "embedded".into(),
        messages: Vec::new(),
        schema: None,
        max_tokens: 512,
        temperature: 0.0,
        top_p: 1.0,
        seed: None,
        dialect: "".into(),
        scope: ItemId([1; 32]),
        affinity: ItemId([1; 32]),
        document: DocumentHash([2; 32]),
        priority: 0,
    }
}

fn generate(source: &str, pairs: u32) -> Task {
    Task::Generate { source: source.into(), pairs, types: Arc::new([]) }
}

#[test]
fn pairs_are_verbatim_and_the_same_over_threads_and_neighbours() {
    let Some(path) = weights() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |threads: usize, requests: &[CompletionRequest]| {
        let model = EmbeddedModel::open(&path, threads).unwrap();
        runtime.block_on(futures::future::join_all(requests.iter().map(|r| model.complete(r))))
    };
    let first = request(generate(SOURCE, 5));
    let other = request(generate("The county office must answer every letter of a member within 12 business days.", 3));
    let alone = ask(1, std::slice::from_ref(&first)).remove(0).unwrap();
    let together = ask(2, &[other, first.clone(), first]);
    assert_eq!(together[1].as_ref().unwrap(), &alone);
    assert_eq!(together[2].as_ref().unwrap(), &alone);

    assert_eq!((alone.finish_reason, alone.model.as_str()), (FinishReason::Stop, MODEL_NAME));
    assert!(alone.usage.completion_tokens > 0 && alone.usage.prompt_tokens > alone.usage.cached_tokens);
    let answer: Value = serde_json::from_str(&alone.content).unwrap();
    let pairs = answer["pairs"].as_array().unwrap();
    assert!(pairs.len() >= 3, "{answer:#}");
    for pair in pairs {
        let text = |name: &str| pair[name].as_str().unwrap();
        assert!(SOURCE.contains(text("quote")), "{pair}");
        assert_eq!(words::fold(text("quote")), text("answer"));
        assert!(text("question").ends_with('?') && !text("question").contains(['"', '\n', '{']), "{pair}");
        assert!(["numeric", "conditional", "procedural", "definition", "factual"].contains(&text("question_type")));
    }
}

#[test]
fn a_row_is_the_same_alone_and_in_a_batch() {
    let Some(path) = weights() else { return };
    let engine = Engine::open(&path).unwrap();
    let picked = sentences::pick(SOURCE, 8, |text| !angles::angles(text).is_empty());
    let asks: Vec<_> = picked.iter().map(|s| (s.text.as_str(), angles::angles(&s.text))).collect();
    let (batch, _) = engine.asker.ask(&engine.llama, &engine.tokenizer, &asks).unwrap();
    for (i, ask) in asks.iter().enumerate() {
        let (alone, _) = engine.asker.ask(&engine.llama, &engine.tokenizer, std::slice::from_ref(ask)).unwrap();
        let alone: BTreeSet<String> = alone.into_iter().map(|c| c.question).collect();
        let within: BTreeSet<String> = batch.iter().filter(|c| c.sentence == i).map(|c| c.question.clone()).collect();
        assert_eq!(alone, within);
    }
}

#[test]
fn the_model_speaks_as_it_was_trained_to() {
    // A wrong rotation, mask or tokenizer shows at once in what a model finds likely.
    let Some(path) = weights() else { return };
    let engine = Engine::open(&path).unwrap();
    let likelihood = |question: &str| {
        let sentence = "A nurse reviewer decides a standard request within 7 calendar days after receipt.";
        engine.asker.likelihood(&engine.llama, &engine.tokenizer, sentence, question).unwrap().0
    };
    let good = likelihood("Who decides a standard request within 7 calendar days?");
    assert!(good > -1.0, "{good}");
    assert!(likelihood("Days standard who 7 a within decides calendar request?") < good - 1.0);
    assert!(likelihood("") == f64::NEG_INFINITY);
}

#[test]
fn scores_and_answers_come_in_their_shapes() {
    let Some(path) = weights() else { return };
    let model = EmbeddedModel::open(&path, 1).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sentence = "The hearing officer must issue the decision within 9 business days after the hearing.";
    let question = "Within how many business days must the hearing officer issue the decision?";
    let score = Task::Score {
        source: SOURCE.into(),
        question: question.into(),
        answer: sentence.into(),
        quote: sentence.into(),
    };
    let ask = |task: Task| {
        let completion = runtime.block_on(model.complete(&request(task))).unwrap();
        serde_json::from_str::<Value>(&completion.content).unwrap()
    };
    let marks = ask(score);
    assert_eq!((&marks["accuracy"], &marks["relevance"]), (&Value::from(5), &Value::from(5)), "{marks}");
    assert!(marks["clarity"].as_u64().unwrap() >= 4 && marks["overall"].as_u64().unwrap() >= 4, "{marks}");
    let answer = ask(Task::Answer { source: SOURCE.into(), question: question.into() });
    assert_eq!(answer, serde_json::json!({"answerable": true, "answer": sentence}));
    assert_eq!(ask(generate("", 5)), serde_json::json!({"pairs": []}));
    assert_eq!(ask(generate(SOURCE, 0)), serde_json::json!({"pairs": []}));
}

#[test]
fn given_up_requests_are_skipped() {
    let (jobs, queue) = mpsc::channel(4);
    let mut waiting = Vec::new();
    for given_up in [false, true, true, false] {
        let (reply, answer) = oneshot::channel();
        jobs.try_send(Job { task: Task::Free, schema: None, reply }).unwrap();
        if !given_up {
            waiting.push(answer);
        }
    }
    drop(jobs);
    let performed = Cell::new(0_u32);
    let perform = |_: &Task, _: Option<&Schema>| {
        performed.set(performed.get() + 1);
        if performed.get() == 2 { panic!("on purpose") } else { Ok(("yes".to_owned(), Usage::default())) }
    };
    work(perform, &Mutex::new(queue));
    assert_eq!(performed.get(), 2, "nobody waits for the others");
    let mut answers = waiting.into_iter().map(|answer| answer.blocking_recv().unwrap());
    assert_eq!(answers.next().unwrap().unwrap().content, "yes");
    assert!(answers.next().unwrap().unwrap_err().to_string().contains("panicked on this request"));
}

/// Runs an ignored test in a process of its own, since pools are sized by its environment, and returns what stands
/// behind `label` in its output.
fn helper(test: &str, pool: Option<&str>, label: &str) -> String {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("llm::embedded::tests::{test}"), "--nocapture", "--ignored"]);
    command.env_remove(super::POOL_SIZE).envs(pool.map(|size| (super::POOL_SIZE, size)));
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    text.lines().find_map(|line| line.split_once(label)).map(|(_, found)| found.to_owned()).unwrap()
}

#[test]
fn the_program_restarts_itself_to_compute_in_one_thread() {
    assert_eq!(helper("print_pool_size", None, "pool: "), "1");
    assert_eq!(helper("print_pool_size", Some("5"), "pool: "), "5", "what the user set stays");
}

#[test]
#[ignore = "a part of the_program_restarts_itself_to_compute_in_one_thread"]
#[expect(clippy::print_stdout, reason = "the parent process reads it")]
fn print_pool_size() {
    super::compute_in_one_thread().unwrap();
    println!("pool: {}", std::env::var(super::POOL_SIZE).unwrap());
}

#[test]
fn the_size_of_the_thread_pool_changes_nothing() {
    if weights().is_none() {
        return;
    }
    let answer = |threads: &str| helper("print_one_answer", Some(threads), "answer: ");
    let one = answer("1");
    assert!(one.contains("pairs"), "{one}");
    assert_eq!(one, answer("2"));
    assert_eq!(one, answer("3"));
}

#[test]
#[ignore = "a part of the_size_of_the_thread_pool_changes_nothing"]
#[expect(clippy::print_stdout, reason = "the parent process reads it")]
fn print_one_answer() {
    let engine = Engine::open(&weights().unwrap()).unwrap();
    let (pairs, usage) = engine.perform(&generate(SOURCE, 5), None).unwrap();
    let sentence = "The hearing officer must issue the decision within 9 business days after the hearing.";
    let (likelihood, _) = engine.asker.likelihood(&engine.llama, &engine.tokenizer, sentence, "Who decides?").unwrap();
    println!("answer: {pairs} {usage:?} {likelihood:?}");
}

/// Prints what the model makes of text files, for people to judge, and how long it took: `QAFLOW_READ="a.md b.md"
/// QAFLOW_THREADS=2 cargo test --release --lib embedded::tests::reading -- --nocapture --ignored`.
#[test]
#[ignore = "for people"]
#[expect(clippy::print_stdout, reason = "for people")]
fn reading() {
    let Some(path) = weights() else { return };
    let threads = std::env::var("QAFLOW_THREADS").map_or(1, |n| n.parse().unwrap());
    let model = EmbeddedModel::open(&path, threads).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let all = |tasks: Vec<Task>| -> Vec<(Value, u64)> {
        let requests: Vec<_> = tasks.into_iter().map(request).collect();
        let answers = runtime.block_on(futures::future::join_all(requests.iter().map(|r| model.complete(r))));
        let read = |c: crate::model::llm::Completion| {
            let new = c.usage.prompt_tokens - c.usage.cached_tokens + c.usage.completion_tokens;
            (serde_json::from_str(&c.content).unwrap(), new)
        };
        answers.into_iter().map(|a| read(a.unwrap())).collect()
    };
    let mut chunks: Vec<Arc<str>> = Vec::new();
    for file in std::env::var("QAFLOW_READ").unwrap().split_whitespace() {
        let text: Vec<char> = std::fs::read_to_string(file).unwrap().chars().collect();
        chunks.extend(text.chunks(1500).map(|c| c.iter().collect::<String>().into()));
    }
    let begun = Instant::now();
    let made = all(chunks.iter().map(|c| generate(c, 5)).collect());
    let making = begun.elapsed();
    let pairs: Vec<(&Arc<str>, &Value)> = chunks
        .iter()
        .zip(&made)
        .flat_map(|(c, (m, _))| m["pairs"].as_array().unwrap().iter().map(move |p| (c, p)))
        .collect();
    let text = |pair: &Value, name: &str| pair[name].as_str().unwrap().to_owned();
    let begun = Instant::now();
    let score = |(source, pair): &(&Arc<str>, &Value)| Task::Score {
        source: Arc::clone(source),
        question: text(pair, "question"),
        answer: text(pair, "answer"),
        quote: text(pair, "quote"),
    };
    let marks = all(pairs.iter().map(score).collect());
    let scoring = begun.elapsed();
    let mut lost = 0;
    for ((source, pair), (marks, _)) in pairs.iter().zip(&marks) {
        let round = super::answers::retrieve(source, &text(pair, "question")) == Some(text(pair, "answer"));
        lost += u32::from(!round);
        let marks: Vec<String> = ["clarity", "accuracy", "relevance"].iter().map(|m| marks[m].to_string()).collect();
        let (flag, marks) = (if round { ' ' } else { 'X' }, marks.concat());
        println!("{flag} {marks} [{}] {}", text(pair, "question_type"), text(pair, "question"));
        println!("        {}", text(pair, "answer"));
    }
    let tokens: u64 = made.iter().map(|m| m.1).sum();
    println!(
        "{} chunks, {tokens} tokens in {making:?}; {} pairs scored in {scoring:?}; {lost} fail the round trip",
        chunks.len(),
        pairs.len()
    );
}
