//! The model inside the program: SmolLM2-135M-Instruct with rules around it. For demonstrations and tests.
//!
//! Left alone, so small a model repeats itself and invents. Here the program picks a sentence as the answer and says
//! what may be asked about it; the model writes the question, held to the sentence's own words; rules refuse what is
//! not worth keeping. Answers are looked up by rule. Marks come from the model's likelihood and from rules.
//!
//! Everything is deterministic on one machine: a request's answer depends on the request alone, since only the
//! sentences of one request share a batch. Processors with other vector units may round differently.

mod angles;
mod answers;
mod clause;
mod engine;
mod filter;
mod judge;
mod model;
mod questions;
mod sentences;
#[cfg(test)]
mod tests;
mod tokenizer;
mod vocabulary;
pub mod weights;
mod words;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use self::engine::Engine;
use crate::model::LlmError;
use crate::model::llm::{Completion, CompletionRequest, FinishReason, LlmClient, Schema, Task};
use crate::model::payload::Usage;

/// The model's name in answers and datasets.
pub const MODEL_NAME: &str = "SmolLM2-135M-Instruct-Q4_1 (embedded)";

/// Requests that may wait for each thread; more wait with their callers.
const QUEUE: usize = 4;

/// The loaded model and its threads, which end when it is dropped.
pub struct EmbeddedModel {
    jobs: mpsc::Sender<Job>,
}

/// The variable by which candle and rayon size their pools.
const POOL_SIZE: &str = "RAYON_NUM_THREADS";
/// The variable that sets up the program's allocator, and how: one arena, since each keeps what it was given back, and
/// memory that is not used goes back to the system after a second.
const ALLOCATOR: (&str, &str) =
    ("_RJEM_MALLOC_CONF", "narenas:1,dirty_decay_ms:1000,muzzy_decay_ms:0,lg_tcache_max:13");

struct Job {
    task: Task,
    schema: Option<Arc<Schema>>,
    reply: oneshot::Sender<Result<Completion, LlmError>>,
}

impl EmbeddedModel {
    /// Loads a GGUF file, which takes about a second and 650 MB of memory, and starts `threads` threads (at least
    /// one), each of which answers one request at a time from the same weights.
    ///
    /// Call [`compute_in_one_thread`] first thing in `main`, or each of them shares every small matrix product out over
    /// all cores. Neither changes an answer.
    ///
    /// # Errors
    /// [`LlmError::Misconfigured`] if the file is missing, damaged or of another model.
    pub fn open(gguf: &Path, threads: usize) -> Result<Self, LlmError> {
        let engine = Arc::new(Engine::open(gguf)?);
        let threads = threads.max(1);
        let (jobs, queue) = mpsc::channel(threads * QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for i in 0..threads {
            let (engine, queue) = (Arc::clone(&engine), Arc::clone(&queue));
            std::thread::Builder::new()
                .name(format!("embedded-model-{i}"))
                .spawn(move || work(|task, schema| engine.perform(task, schema), &queue))
                .map_err(|error| LlmError::Misconfigured {
                    message: format!("cannot start thread {} of the embedded model: {error}; set fewer threads", i + 1),
                })?;
        }
        Ok(Self { jobs })
    }
}

/// Makes each matrix product stay in the thread that asks for it, by restarting the program in its place (same process
/// id, same arguments) with `RAYON_NUM_THREADS=1`; does nothing where that variable is set, to whatever.
///
/// candle reads the variable at every product and has no other switch, and a process cannot safely set its own
/// variables. Shared out over a pool, this model's small products cost more than twice the processor time.
///
/// Call it before any thread is started or anything is read from standard input.
///
/// # Errors
/// If the program cannot be started again; all goes on then, only slower. Where processes cannot be replaced it does
/// nothing.
pub fn compute_in_one_thread() -> std::io::Result<()> {
    if std::env::var_os(POOL_SIZE).is_some() {
        return Ok(());
    }
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let mut arguments = std::env::args_os();
        let mut program = std::process::Command::new(std::env::current_exe()?);
        if let Some(name) = arguments.next() {
            program.arg0(name);
        }
        let (name, value) = ALLOCATOR;
        if std::env::var_os(name).is_none() {
            program.env(name, value);
        }
        Err(program.args(arguments).env(POOL_SIZE, "1").exec())
    }
    #[cfg(not(unix))]
    Ok(())
}

/// What a job's task gives: the answer's text and its tokens.
type Performed = Result<(String, Usage), LlmError>;

/// Answers jobs by `perform` until nobody can ask any more.
fn work(perform: impl Fn(&Task, Option<&Schema>) -> Performed, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(job) = job else { return };
        if job.reply.is_closed() {
            continue; // Nobody waits for this any more.
        }
        let answer = catch_unwind(AssertUnwindSafe(|| perform(&job.task, job.schema.as_deref())));
        let answer = answer.unwrap_or_else(|_| {
            Err(LlmError::Refused {
                label: "embedded".into(),
                message: "the embedded model panicked on this request; please report it".into(),
            })
        });
        let completion = answer.map(|(content, usage)| Completion {
            content,
            finish_reason: FinishReason::Stop,
            usage,
            model: MODEL_NAME.into(),
        });
        let _ = job.reply.send(completion);
    }
}

impl LlmClient for EmbeddedModel {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let job = Job { task: request.task.clone(), schema: request.schema.clone(), reply };
            let ended = || LlmError::Misconfigured { message: "the embedded model's threads have ended".into() };
            self.jobs.send(job).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        })
    }
}
