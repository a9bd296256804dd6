//! A client for any OpenAI-compatible server. The only user of reqwest.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use serde::Deserialize;

use crate::model::LlmError;
use crate::model::llm::{Completion, CompletionRequest, FinishReason, LlmClient, Message};
use crate::model::payload::Usage;
use crate::telemetry::metrics;

/// The longest part of a server's error page that goes into a message.
const SHOWN: usize = 300;

/// How the schema of an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StructuredOutput {
    /// `response_format: {"type": "json_schema", …}`, which most servers know.
    ResponseFormat,
    /// `structured_outputs: {"json": …}`: vLLM's own field.
    StructuredOutputs,
    /// Not at all: the prompt alone asks for JSON.
    None,
}

/// How to reach one server.
#[derive(Clone)]
pub struct OpenAiOptions {
    /// The address up to and including `/v1`.
    pub base_url: String,
    /// The key, if the server wants one. Never logged.
    pub api_key: Option<String>,
    /// The name of the variable that holds the key, for messages.
    pub api_key_env: Option<String>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take; `None` derives it from the most tokens the answer may have.
    pub request_timeout: Option<Duration>,
    /// How the schema is sent.
    pub structured_output: StructuredOutput,
    /// Further fields of the request, as the inside of a JSON object; empty for none.
    pub extra_body: String,
}

/// One server.
pub struct OpenAiClient {
    http: reqwest::Client,
    options: OpenAiOptions,
    completions: String,
}

/// A model that a server offers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServedModel {
    /// Its name.
    pub id: String,
    /// The longest prompt with answer, in tokens, where the server says so.
    pub max_model_len: Option<u64>,
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ServedModel>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    model: String,
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<AnswerUsage>,
}

#[derive(Deserialize)]
struct Choice {
    message: AnswerMessage,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct AnswerMessage {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct AnswerUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

/// Some answers, such as vLLM's to a missing key, give words alone.
#[derive(Deserialize)]
struct PlainError {
    error: String,
}

#[derive(Deserialize)]
struct ErrorDetail {
    message: String,
}

impl OpenAiClient {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// If the address cannot be used or no TLS roots can be set up.
    pub fn new(options: OpenAiOptions) -> Result<Self, LlmError> {
        // Whoever installed a provider first is right too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(usize::MAX)
            .user_agent(concat!("qaflow/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| LlmError::Misconfigured { message: format!("cannot set up HTTP: {}", chain(&error)) })?;
        let completions = format!("{}/chat/completions", options.base_url.trim_end_matches('/'));
        reqwest::Url::parse(&completions).map_err(|error| LlmError::Misconfigured {
            message: format!("llm.endpoints: `{}` is not a usable address: {error}", options.base_url),
        })?;
        Ok(Self { http, options, completions })
    }

    /// The address, for messages.
    pub fn base_url(&self) -> &str {
        &self.options.base_url
    }

    /// The models that the server offers.
    ///
    /// # Errors
    /// [`LlmError::Misconfigured`] for a wrong key or an address that is no such server, [`LlmError::Unavailable`] if
    /// it cannot be reached.
    pub async fn models(&self) -> Result<Vec<ServedModel>, LlmError> {
        let url = format!("{}/models", self.options.base_url.trim_end_matches('/'));
        let response = self.authorised(self.http.get(&url)).timeout(Duration::from_secs(4)).send().await;
        let response = response.map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        let body = response.text().await.map_err(|error| self.unreachable(&error))?;
        match status {
            200 => {}
            401 | 403 => return Err(self.wrong_key(status, &body)),
            404 => return Err(self.no_such_server(&format!("GET {url} says 404"))),
            _ => return Err(self.failed(status, &body, None)),
        }
        serde_json::from_str::<ModelList>(&body)
            .map(|list| list.data)
            .map_err(|_| self.no_such_server(&format!("GET {url} gives {}", describe_body(&body))))
    }

    /// Whether the server says that it is well: by `/health` (vLLM), or by its list of models where there is no such
    /// page.
    pub async fn healthy(&self) -> bool {
        let root = self.options.base_url.trim_end_matches('/').trim_end_matches("/v1");
        let asked = self.authorised(self.http.get(format!("{root}/health"))).timeout(Duration::from_secs(4)).send();
        match asked.await.map(|response| response.status().as_u16()) {
            Ok(200..300) => true,
            Ok(404 | 405) => self.models().await.is_ok(),
            _ => false,
        }
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.options.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn send(&self, request: &CompletionRequest) -> Result<Completion, LlmError> {
        let timeout = self.options.request_timeout.unwrap_or_else(|| answer_timeout(request.max_tokens));
        let sent = self
            .authorised(self.http.post(&self.completions))
            .header("content-type", "application/json")
            .header("x-request-id", request.key().hex())
            .timeout(timeout)
            .body(body(request, &self.options))
            .send()
            .await;
        let response = sent.map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        match status {
            200 => self.read(&text, request),
            400 | 413 | 422 => Err(LlmError::Refused {
                label: format!("http_{status}"),
                message: format!("{} refuses the request ({status}): {}", self.base_url(), error_text(&text)),
            }),
            401 | 403 => Err(self.wrong_key(status, &text)),
            404 => Err(self.wrong_model(&request.model, &text).await),
            _ => Err(self.failed(status, &text, retry_after)),
        }
    }

    fn read(&self, text: &str, request: &CompletionRequest) -> Result<Completion, LlmError> {
        let answer: Answer = serde_json::from_str(text).map_err(|_| LlmError::Unavailable {
            label: "not_an_answer".into(),
            message: format!("{} says 200 but gives {}", self.base_url(), describe_body(text)),
            retry_after: None,
        })?;
        let Some(choice) = answer.choices.into_iter().next() else {
            return Err(LlmError::Unavailable {
                label: "not_an_answer".into(),
                message: format!("{} says 200 but gives no choice", self.base_url()),
                retry_after: None,
            });
        };
        let finish_reason = match choice.finish_reason.as_deref() {
            Some("stop") | None => FinishReason::Stop,
            Some("length") => FinishReason::Length,
            // The engine died under the request, or it was aborted by someone else: no answer of the model.
            Some(reason @ ("error" | "abort")) => {
                return Err(LlmError::Unavailable {
                    label: format!("finish_{reason}"),
                    message: format!("{} broke the answer off (finish_reason `{reason}`)", self.base_url()),
                    retry_after: None,
                });
            }
            Some(_) => FinishReason::Other,
        };
        let usage = answer.usage.map_or_else(Usage::default, |usage| Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cached_tokens: usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0),
        });
        let model = if answer.model.is_empty() { request.model.to_string() } else { answer.model };
        Ok(Completion { content: choice.message.content.unwrap_or_default(), finish_reason, usage, model })
    }

    fn unreachable(&self, error: &reqwest::Error) -> LlmError {
        let (label, what) = if error.is_connect() {
            ("connect", "cannot be reached")
        } else if error.is_timeout() {
            ("timeout", "did not answer in time")
        } else {
            ("reset", "broke the connection off")
        };
        let message = format!("{} {what}: {}", self.base_url(), chain(error));
        LlmError::Unavailable { label: label.into(), message, retry_after: None }
    }

    fn failed(&self, status: u16, body: &str, retry_after: Option<Duration>) -> LlmError {
        LlmError::Unavailable {
            label: format!("http_{status}"),
            message: format!("{} says {status}: {}", self.base_url(), error_text(body)),
            retry_after,
        }
    }

    fn wrong_key(&self, status: u16, body: &str) -> LlmError {
        let hint = match (&self.options.api_key_env, &self.options.api_key) {
            (Some(name), Some(_)) => format!("the key in ${name} (llm.api_key_env) is not accepted: set the right one"),
            (Some(name), None) => format!("${name} (llm.api_key_env) is not set: export it"),
            (None, _) => "it wants a key: name the variable that holds it in llm.api_key_env, and export it".into(),
        };
        LlmError::Misconfigured { message: format!("{} says {status}: {}; {hint}", self.base_url(), error_text(body)) }
    }

    fn no_such_server(&self, what: &str) -> LlmError {
        let hint = if self.options.base_url.trim_end_matches('/').ends_with("/v1") {
            "check llm.endpoints"
        } else {
            "the address in llm.endpoints mostly ends in /v1"
        };
        LlmError::Misconfigured {
            message: format!("{} is no OpenAI-compatible server ({what}): {hint}", self.base_url()),
        }
    }

    async fn wrong_model(&self, model: &str, body: &str) -> LlmError {
        match self.models().await {
            Ok(served) => Self::not_served(self.base_url(), model, &served),
            Err(_) => LlmError::Misconfigured {
                message: format!(
                    "{} says 404 for model `{model}`: {}; check llm.model and llm.endpoints",
                    self.base_url(),
                    error_text(body)
                ),
            },
        }
    }

    /// The message for a model that is not among those served.
    pub fn not_served(base_url: &str, model: &str, served: &[ServedModel]) -> LlmError {
        let names: Vec<&str> = served.iter().map(|m| m.id.as_str()).collect();
        LlmError::Misconfigured {
            message: format!(
                "{base_url} does not serve `{model}` (llm.model); it serves: {}",
                if names.is_empty() { "nothing".into() } else { names.join(", ") }
            ),
        }
    }
}

impl LlmClient for OpenAiClient {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(async move {
            let began = Instant::now();
            let result = self.send(request).await;
            let outcome = result.as_ref().map_or_else(|error| error.label().to_owned(), |_| "ok".to_owned());
            metrics::model_request(self.base_url(), &outcome, began.elapsed());
            result
        })
    }
}

/// How long an answer may take when nothing is configured: an unbounded queue in front of the model may hold a
/// request for minutes, and a request given up too early is paid for twice. So: five minutes, and a quarter of a
/// second for each token that it may have.
fn answer_timeout(max_tokens: u32) -> Duration {
    Duration::from_secs(300) + Duration::from_millis(250) * max_tokens
}

/// The request's body. It is put together as text, since this is done for every call.
fn body(request: &CompletionRequest, options: &OpenAiOptions) -> String {
    use std::fmt::Write as _;
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let length: usize = request.messages.iter().map(|m| m.content.len()).sum();
    let mut body = String::with_capacity(length + length / 8 + 1024);
    let _ = write!(body, "{{\"model\":{},\"messages\":[", quoted(&request.model));
    for (i, Message { role, content }) in request.messages.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(body, "{comma}{{\"role\":\"{}\",\"content\":{}}}", role.as_str(), quoted(content));
    }
    let _ = write!(
        body,
        "],\"max_completion_tokens\":{max},\"max_tokens\":{max},\"temperature\":{},\"top_p\":{}",
        request.temperature,
        request.top_p,
        max = request.max_tokens,
    );
    if let Some(seed) = request.seed {
        let _ = write!(body, ",\"seed\":{seed}");
    }
    if let Some(schema) = &request.schema {
        let _ = match options.structured_output {
            StructuredOutput::ResponseFormat => write!(
                body,
                ",\"response_format\":{{\"type\":\"json_schema\",\"json_schema\":{{\"name\":{},\"schema\":{},\"strict\":true}}}}",
                quoted(&schema.name),
                schema.json
            ),
            StructuredOutput::StructuredOutputs => {
                write!(body, ",\"structured_outputs\":{{\"json\":{}}}", schema.json)
            }
            StructuredOutput::None => Ok(()),
        };
    }
    if !options.extra_body.is_empty() {
        let _ = write!(body, ",{}", options.extra_body);
    }
    body.push('}');
    body
}

/// `Retry-After` in seconds (the form with a date is not used by model servers); fractions are accepted.
fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    (0.0..=3600.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// The server's own words, from its error format or from whatever it sent.
fn error_text(body: &str) -> String {
    match serde_json::from_str::<ErrorBody>(body) {
        Ok(error) => shorten(&error.error.message),
        Err(_) => match serde_json::from_str::<PlainError>(body) {
            Ok(error) => shorten(&error.error),
            Err(_) => describe_body(body),
        },
    }
}

fn describe_body(body: &str) -> String {
    let body = body.trim();
    if body.is_empty() {
        "an empty page".into()
    } else if body.starts_with('<') {
        let title = body.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
        title.map_or_else(
            || "an HTML page (a proxy's?)".into(),
            |(title, _)| format!("an HTML page (a proxy's?) titled “{}”", shorten(title)),
        )
    } else {
        format!("“{}”", shorten(body))
    }
}

fn shorten(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= SHOWN { text } else { text.chars().take(SHOWN).chain(['…']).collect() }
}

/// What happened, without reqwest's own words around it: the address is named anyway.
fn chain(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    // The outer causes only name the layer (`client error (Connect)`).
    causes.pop().unwrap_or_else(|| error.to_string())
}

/// Small values for tests of the clients.
#[cfg(test)]
pub(crate) mod tests_support {
    use std::time::Duration;

    use super::*;
    use crate::model::ItemId;
    use crate::model::llm::{Role, Task};

    pub(crate) fn request() -> CompletionRequest {
        CompletionRequest {
            task: Task::Free,
            model: "m".into(),
            messages: vec![Message { role: Role::User, content: "say \"yes\"".into() }],
            schema: None,
            max_tokens: 10,
            temperature: 0.5,
            top_p: 1.0,
            seed: Some(7),
            dialect: "".into(),
            scope: ItemId([1; 32]),
            affinity: ItemId([2; 32]),
            priority: 1,
        }
    }

    pub(crate) fn answer(content: &str) -> Completion {
        Completion {
            content: content.into(),
            finish_reason: FinishReason::Stop,
            usage: Usage::default(),
            model: "m".into(),
        }
    }

    pub(crate) fn unavailable(label: &str, retry_after: Option<Duration>) -> LlmError {
        LlmError::Unavailable { label: label.into(), message: label.into(), retry_after }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::tests_support::request;
    use super::*;
    use crate::model::llm::Schema;

    fn options() -> OpenAiOptions {
        OpenAiOptions {
            base_url: "http://127.0.0.1:1/v1".into(),
            api_key: Some("secret".into()),
            api_key_env: Some("KEY".into()),
            connect_timeout: Duration::from_secs(1),
            request_timeout: None,
            structured_output: StructuredOutput::ResponseFormat,
            extra_body: "\"chat_template_kwargs\":{\"enable_thinking\":false}".into(),
        }
    }

    #[test]
    fn the_body_is_json_with_all_fields() {
        let mut request = request();
        request.schema = Some(Arc::new(Schema { name: "probe".into(), json: "{\"type\":\"object\"}".into() }));
        let value: serde_json::Value = serde_json::from_str(&body(&request, &options())).unwrap();
        assert_eq!(value["messages"][0]["content"], "say \"yes\"");
        assert_eq!(value["response_format"]["json_schema"]["schema"]["type"], "object");
        assert_eq!(value["seed"], 7);
        assert_eq!(value["chat_template_kwargs"]["enable_thinking"], false);
        let other = OpenAiOptions { structured_output: StructuredOutput::StructuredOutputs, ..options() };
        let value: serde_json::Value = serde_json::from_str(&body(&request, &other)).unwrap();
        assert_eq!(value["structured_outputs"]["json"]["type"], "object");
    }

    #[test]
    fn server_texts_are_shown_short_and_plain() {
        assert_eq!(error_text("{\"error\":{\"message\":\"too  long\",\"type\":\"x\"}}"), "too long");
        assert_eq!(
            error_text("<html><title>502 Bad Gateway</title></html>"),
            "an HTML page (a proxy's?) titled “502 Bad Gateway”"
        );
        assert_eq!(error_text(""), "an empty page");
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_address_and_never_the_key() {
        let client = OpenAiClient::new(options()).unwrap();
        let error = client.complete(&request()).await.unwrap_err();
        assert_eq!(error.label(), "connect");
        let text = error.to_string();
        assert!(text.starts_with("http://127.0.0.1:1/v1 cannot be reached"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
