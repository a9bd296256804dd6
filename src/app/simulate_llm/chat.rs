//! `POST /v1/chat/completions`: a request's way through the checks, the queue, a slot, its faults and its answer.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::answers::{self, Prompt};
use super::cache::{TOKEN_BYTES, chain, tokens};
use super::faults::{ContentFault, TransportFault};
use super::server::{Severed, Shared, lock};
use super::stats::Outcome;
use super::wire::{self, Answer, ChatRequest};
use super::{char_boundary, draw};

/// Purpose of the draw of the service time.
const JITTER: u64 = 20;
/// A service time is at most a day.
const LONGEST: f64 = 86_400.0;

/// The body of a response. A request ends as intended only once its body was handed to the connection.
pub(super) struct SimBody {
    data: Option<Bytes>,
    ticket: Option<(Ticket, Outcome)>,
}

impl SimBody {
    pub(super) fn new(data: Bytes) -> Self {
        Self { data: Some(data).filter(|data| !data.is_empty()), ticket: None }
    }
}

impl Body for SimBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let data = self.data.take();
        if data.is_some()
            && let Some((mut ticket, outcome)) = self.ticket.take()
        {
            ticket.outcome = outcome;
        }
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

/// Where a request is.
enum Phase {
    Outside,
    Waiting,
    /// Holds a slot and this many prompt tokens.
    Running(u64, OwnedSemaphorePermit),
}

/// A request from its arrival to its end. However it ends, dropping the ticket frees its slot, counts it and logs it.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    n: u64,
    nth: u32,
    id: String,
    task: String,
    identity: u64,
    arrived: Instant,
    phase: Phase,
    outcome: Outcome,
}

/// The tag of the source text, as it stands in the JSON of a request.
fn source_tag(body: &[u8]) -> Option<&str> {
    const OPENING: &[u8] = br#"<source id=\""#;
    let at = body.windows(OPENING.len()).position(|window| window == OPENING)? + OPENING.len();
    let tag = body.get(at..at + 8)?;
    std::str::from_utf8(tag).ok()
}

impl Ticket {
    fn arrive(shared: &Arc<Shared>, id: &str, task: &str, body: &blake3::Hash, source: Option<&str>) -> Self {
        let identity = if id.is_empty() { first_word(body) } else { first_word(&blake3::hash(id.as_bytes())) };
        let (n, nth) = lock(&shared.stats).arrive(identity);
        if let Some(log) = &shared.log {
            log.arrive(n, id, task, &body.to_hex()[..16], source);
        }
        Self {
            shared: Arc::clone(shared),
            n,
            nth,
            id: id.to_owned(),
            task: task.to_owned(),
            identity,
            arrived: Instant::now(),
            phase: Phase::Outside,
            outcome: Outcome::Aborted,
        }
    }

    /// Queues for a slot; `None` if the queue is full. Returns how many are in service then.
    async fn start(&mut self, prompt_tokens: u64) -> Option<u64> {
        {
            let mut stats = lock(&self.shared.stats);
            if !stats.has_room(self.shared.options.max_queue) {
                return None;
            }
            stats.wait();
        }
        self.phase = Phase::Waiting;
        let permit = Arc::clone(&self.shared.slots).acquire_owned().await.ok()?;
        let running = lock(&self.shared.stats).start(Instant::now(), prompt_tokens);
        self.phase = Phase::Running(prompt_tokens, permit);
        Some(running)
    }

    /// Frees the slot.
    fn stop(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Outside) {
            Phase::Outside => {}
            Phase::Waiting => lock(&self.shared.stats).give_up(),
            // The count goes down before the slot is free, so that it never shows more than there are.
            Phase::Running(prompt_tokens, permit) => {
                lock(&self.shared.stats).stop(Instant::now(), prompt_tokens);
                drop(permit);
            }
        }
    }

    /// The response, whose delivery ends the request with this outcome.
    fn deliver(mut self, outcome: Outcome, mut response: Response<SimBody>) -> Response<SimBody> {
        self.stop();
        response.body_mut().ticket = Some((self, outcome));
        response
    }

    /// A 503, or what a proxy makes of it.
    fn unavailable(self, html: bool, message: &str) -> Response<SimBody> {
        if html {
            return self.deliver(Outcome::BadGateway, wire::html_error());
        }
        let error = wire::error(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableError", None, message);
        self.deliver(Outcome::Unavailable, error)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.stop();
        lock(&self.shared.stats).end(self.identity, &self.task, self.outcome);
        if let Some(log) = &self.shared.log {
            log.end(self.n, &self.id, self.outcome.name(), self.arrived.elapsed());
        }
    }
}

fn first_word(hash: &blake3::Hash) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(word)
}

/// Whether the headers carry the key, if one is needed.
pub(super) fn authorized(shared: &Shared, headers: &HeaderMap) -> bool {
    shared.options.api_key.as_ref().is_none_or(|key| {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        given.and_then(|value| value.strip_prefix("Bearer ")) == Some(key)
    })
}

/// vLLM's answer to a missing or wrong key, which is not in the form of its other errors.
pub(super) fn unauthorized() -> Response<SimBody> {
    wire::json(StatusCode::UNAUTHORIZED, &serde_json::json!({ "error": "Unauthorized" }))
}

/// Serves one chat request whose body is here in full.
///
/// # Errors
/// [`Severed`]: the connection must be broken off without an answer.
pub(super) async fn complete(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response<SimBody>, Severed> {
    let hash = blake3::hash(body);
    let body_key = first_word(&hash);
    let id = headers.get("x-request-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parsed: Result<ChatRequest<'_>, _> = serde_json::from_slice(body);
    let task = match &parsed {
        Ok(request) => request.task(),
        Err(_) => "invalid",
    };
    let mut ticket = Ticket::arrive(shared, id, task, &hash, source_tag(body));
    let options = &shared.options;
    let faults = shared.faults();
    let html = faults.options.html_errors;

    if faults.out(ticket.arrived) {
        return Ok(ticket.unavailable(html, "The server is restarting."));
    }
    if !authorized(shared, headers) {
        return Ok(ticket.deliver(Outcome::Unauthorized, unauthorized()));
    }
    let bad = |ticket: Ticket, param: Option<&str>, message: &str| {
        let error = wire::error(StatusCode::BAD_REQUEST, "BadRequestError", param, message);
        Ok(ticket.deliver(Outcome::BadRequest, error))
    };
    let request = match parsed {
        Ok(request) => request,
        Err(error) => return bad(ticket, None, &format!("The request body is not a chat request: {error}")),
    };
    if request.model != options.model {
        let message = format!("The model `{}` does not exist.", request.model);
        let error = wire::error(StatusCode::NOT_FOUND, "NotFoundError", Some("model"), &message);
        return Ok(ticket.deliver(Outcome::NotFound, error));
    }
    if request.messages.is_empty() {
        return bad(ticket, Some("messages"), "The conversation is empty: give at least one message.");
    }
    if request.stream == Some(true) || request.n.is_some_and(|n| n != 1) {
        return bad(ticket, None, "The simulated server gives one answer, not streamed: leave out `stream` and `n`.");
    }
    let prompt_tokens = tokens(request.messages.iter().map(|message| message.content.0.len()).sum());
    let max_tokens = request.max_completion_tokens.or(request.max_tokens);
    if max_tokens == Some(0) {
        return bad(ticket, Some("max_completion_tokens"), "max_completion_tokens must be at least 1, got 0.");
    }
    let wanted = prompt_tokens.saturating_add(max_tokens.unwrap_or(1));
    if wanted > options.max_model_len {
        let message = format!(
            "This model's maximum context length is {} tokens. However, you requested {wanted} tokens ({prompt_tokens} in the messages, {} in the completion). Please reduce the length of the messages or completion.",
            options.max_model_len,
            max_tokens.unwrap_or(1),
        );
        return bad(ticket, Some("messages"), &message);
    }
    let room = max_tokens.unwrap_or(options.max_model_len - prompt_tokens);

    let fault = faults.transport(options.seed, ticket.identity, ticket.nth);
    match fault {
        Some(TransportFault::TooManyRequests) => {
            return Ok(ticket.deliver(Outcome::TooManyRequests, too_many_requests(faults.options.retry_after_ms)));
        }
        Some(TransportFault::Unavailable) => return Ok(ticket.unavailable(html, "The server is overloaded.")),
        _ => {}
    }
    let Some(running) = ticket.start(prompt_tokens).await else {
        return Ok(ticket.unavailable(html, "The queue is full, please try again later."));
    };
    if fault == Some(TransportFault::Hang) {
        ticket.outcome = Outcome::Hang;
        sleep(seconds(faults.options.hang_seconds)).await;
        return Err(Severed);
    }

    let texts = || request.messages.iter().map(|message| &*message.content.0);
    let (blocks, content) = chain(request.cache_salt.as_deref().unwrap_or_default(), texts());
    let cached_tokens = lock(&shared.cache).start(&blocks, prompt_tokens);
    lock(&shared.stats).cached(cached_tokens);
    let (answer, finish, outcome) = answer(shared, &request, content, faults.content(options.seed, body_key), room);
    let completion_tokens = tokens(answer.len());

    let jitter = 1.0 + options.jitter * (2.0 * draw(options.seed, JITTER, body_key) - 1.0);
    let mut service = (options.latency_ms * jitter + options.ms_per_token * completion_tokens as f64) / 1e3;
    if options.prefill_tokens_per_second > 0.0 {
        service += (prompt_tokens - cached_tokens) as f64 / options.prefill_tokens_per_second;
    }
    if let Some(knee) = options.knee.map(u64::from) {
        service *= 1.0 + options.knee_factor * running.saturating_sub(knee) as f64 / knee as f64;
    }
    if fault == Some(TransportFault::Reset) {
        sleep(seconds(service / 2.0)).await;
        ticket.outcome = Outcome::Reset;
        return Err(Severed);
    }
    if service > 0.0 {
        sleep(seconds(service)).await;
    }
    lock(&shared.stats).answered(completion_tokens);
    let json = Answer {
        n: ticket.n,
        model: &options.model,
        content: &answer,
        finish_reason: finish,
        prompt_tokens,
        completion_tokens,
        cached_tokens,
    }
    .json();
    Ok(ticket.deliver(outcome, wire::response(StatusCode::OK, "application/json", json)))
}

/// The content of the answer, why it ends, and how that counts.
fn answer(
    shared: &Shared,
    request: &ChatRequest<'_>,
    content: u64,
    fault: Option<ContentFault>,
    room: u64,
) -> (String, &'static str, Outcome) {
    let options = &shared.options;
    let user = request.messages.iter().find(|m| m.role == "user").or(request.messages.first());
    // Asked again because an answer could not be used, it says the same, as the same model on the same text would.
    let asked = if request.messages.len() > 2 {
        let first_two = request.messages.iter().take(2).map(|message| &*message.content.0);
        chain(request.cache_salt.as_deref().unwrap_or_default(), first_two).1
    } else {
        content
    };
    let prompt = Prompt {
        user: user.map_or("", |message| &message.content.0),
        content: asked,
        seed: options.seed,
        bad_pairs: options.bad_pairs,
        doubts: options.doubts,
    };
    let schema = request.response_format.as_ref().filter(|_| !options.no_schema);
    let mut text = match schema {
        Some(format) => match &format.json_schema {
            Some(named) => answers::structured(&prompt, &named.name, &named.schema),
            None if format.kind == "json_object" => "{}".to_owned(),
            None => answers::prose(&prompt),
        },
        None => answers::prose(&prompt),
    };
    let mut outcome = Outcome::Ok;
    if fault == Some(ContentFault::Malformed) {
        text = answers::malformed(&text, content);
        outcome = Outcome::Malformed;
    }
    let limit = usize::try_from(room.saturating_mul(TOKEN_BYTES)).unwrap_or(usize::MAX);
    let cut = if fault == Some(ContentFault::Truncated) { limit.min(text.len() / 2) } else { limit };
    if cut < text.len() {
        text.truncate(char_boundary(&text, cut));
        return (text, "length", Outcome::Truncated);
    }
    (text, "stop", outcome)
}

impl ChatRequest<'_> {
    /// What is asked for: the name of the schema, or `free` without one.
    fn task(&self) -> &str {
        self.response_format.as_ref().and_then(|f| f.json_schema.as_ref()).map_or("free", |named| &named.name)
    }
}

/// A 429 as gateways send it. Some clients also know `retry-after-ms`, for what is not whole seconds.
fn too_many_requests(retry_after_ms: u64) -> Response<SimBody> {
    let message = "Rate limit reached, please slow down.";
    let mut response = wire::error(StatusCode::TOO_MANY_REQUESTS, "RateLimitError", None, message);
    if retry_after_ms > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1000)));
    }
    if !retry_after_ms.is_multiple_of(1000) {
        let name = HeaderName::from_static("retry-after-ms");
        response.headers_mut().insert(name, HeaderValue::from(retry_after_ms));
    }
    response
}

fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value.clamp(0.0, LONGEST))
}

/// The number of tokens of a `/tokenize` request.
///
/// # Errors
/// What is wrong with the body.
pub(super) fn tokenize(body: &[u8]) -> Result<u64, String> {
    #[derive(serde::Deserialize)]
    struct Tokenize<'a> {
        #[serde(borrow)]
        prompt: Option<Cow<'a, str>>,
        #[serde(borrow)]
        messages: Option<Vec<wire::ChatMessage<'a>>>,
    }
    let request: Tokenize<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    match (request.prompt, request.messages) {
        (Some(prompt), _) => Ok(tokens(prompt.len())),
        (None, Some(messages)) => Ok(tokens(messages.iter().map(|message| message.content.0.len()).sum())),
        (None, None) => Err("give `prompt` or `messages`".into()),
    }
}
