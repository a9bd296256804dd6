//! A client for any OpenAI-compatible server. The only user of reqwest.

use std::borrow::Cow;
use std::time::{Duration, Instant};

pub use super::wire::ServedModel;
use super::wire::{Answer, ModelList, body, describe_body, error_text};
use crate::model::LlmError;
use crate::model::llm::{Completion, CompletionRequest, FinishReason, LlmClient};
use crate::model::payload::Usage;
use crate::telemetry::metrics;
use futures::future::BoxFuture;

/// The longest pause in seconds that a server's `Retry-After` is followed for; then it is asked again.
const LONGEST_PAUSE: f64 = 60.0;

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
            .map_err(|_| self.no_such_server(&format!("GET {url} gives {}", describe_body(&self.redacted(&body)))))
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

    /// Whether the server answers the smallest of requests: then what failed is the other request's own fault.
    pub async fn answers(&self, model: &str) -> bool {
        let body = serde_json::json!({
            "model": model, "messages": [{"role": "user", "content": "Say ok."}],
            "max_completion_tokens": 4, "max_tokens": 4, "temperature": 0.0,
        });
        let asked =
            self.authorised(self.http.post(&self.completions)).timeout(Duration::from_secs(60)).json(&body).send();
        match asked.await {
            Ok(response) if response.status().as_u16() == 200 => {
                response.json::<Answer>().await.is_ok_and(|answer| !answer.choices.is_empty())
            }
            _ => false,
        }
    }

    /// The server's `/metrics` page, if it has one.
    pub async fn metrics_page(&self) -> Option<String> {
        let root = self.options.base_url.trim_end_matches('/').trim_end_matches("/v1");
        let asked = self.authorised(self.http.get(format!("{root}/metrics"))).timeout(Duration::from_secs(4)).send();
        let response = asked.await.ok().filter(|response| response.status().as_u16() == 200)?;
        response.text().await.ok()
    }

    /// What a server said, without the key: some name it in their complaint, and complaints are logged.
    fn redacted<'a>(&self, said: &'a str) -> Cow<'a, str> {
        match &self.options.api_key {
            Some(key) if !key.is_empty() && said.contains(key.as_str()) => said.replace(key.as_str(), "[key]").into(),
            _ => said.into(),
        }
    }

    /// The server's version, if it has a `/version` page, as vLLM has.
    pub async fn version(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Version {
            version: String,
        }
        let root = self.options.base_url.trim_end_matches('/').trim_end_matches("/v1");
        let asked = self.authorised(self.http.get(format!("{root}/version"))).timeout(Duration::from_secs(4)).send();
        Some(asked.await.ok()?.json::<Version>().await.ok()?.version)
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.options.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// How long the answer to a request may take.
    pub fn patience(&self, request: &CompletionRequest) -> Duration {
        self.options.request_timeout.unwrap_or_else(|| answer_timeout(request.max_tokens))
    }

    async fn send(&self, request: &CompletionRequest) -> Result<Completion, LlmError> {
        let sent = self
            .authorised(self.http.post(&self.completions))
            .header("content-type", "application/json")
            .header("x-request-id", request.key().hex())
            .timeout(self.patience(request))
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
                message: format!(
                    "{} refuses the request ({status}): {}",
                    self.base_url(),
                    error_text(&self.redacted(&text))
                ),
            }),
            401 | 403 => Err(self.wrong_key(status, &text)),
            404 => Err(self.wrong_model(&request.model, &text).await),
            _ => Err(self.failed(status, &text, retry_after)),
        }
    }

    fn read(&self, text: &str, request: &CompletionRequest) -> Result<Completion, LlmError> {
        let answer: Answer = serde_json::from_str(text).map_err(|_| LlmError::Unavailable {
            label: "not_an_answer".into(),
            message: format!("{} says 200 but gives {}", self.base_url(), describe_body(&self.redacted(text))),
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
        // Accounts only: a server that gives odd figures, or none, has answered all the same.
        let tokens = |path: &str| answer.usage.pointer(path).and_then(serde_json::Value::as_f64).unwrap_or(0.0) as u64;
        let usage = Usage {
            prompt_tokens: tokens("/prompt_tokens"),
            completion_tokens: tokens("/completion_tokens"),
            cached_tokens: tokens("/prompt_tokens_details/cached_tokens"),
        };
        let model = answer.model.filter(|model| !model.is_empty()).unwrap_or_else(|| request.model.to_string());
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
            message: format!("{} says {status}: {}", self.base_url(), error_text(&self.redacted(body))),
            retry_after,
        }
    }

    fn wrong_key(&self, status: u16, body: &str) -> LlmError {
        let hint = match (&self.options.api_key_env, &self.options.api_key) {
            (Some(name), Some(_)) => format!("the key in ${name} (llm.api_key_env) is not accepted: set the right one"),
            (Some(name), None) => format!("${name} (llm.api_key_env) is not set: export it"),
            (None, _) => "it wants a key: name the variable that holds it in llm.api_key_env, and export it".into(),
        };
        LlmError::Misconfigured {
            message: format!("{} says {status}: {}; {hint}", self.base_url(), error_text(&self.redacted(body))),
        }
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
            Ok(served) if served.iter().any(|served| served.id == model) => LlmError::Unavailable {
                label: "http_404".into(),
                message: format!(
                    "{} says 404 although it lists `{model}`: {}",
                    self.base_url(),
                    error_text(&self.redacted(body))
                ),
                retry_after: None,
            },
            Ok(served) => Self::not_served(self.base_url(), model, &served),
            Err(_) => LlmError::Misconfigured {
                message: format!(
                    "{} says 404 for model `{model}`: {}; check llm.model and llm.endpoints",
                    self.base_url(),
                    error_text(&self.redacted(body))
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

/// `Retry-After` in seconds (the form with a date is not used by model servers); fractions are accepted.
fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST_PAUSE)))
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
    use crate::model::llm::{Message, Role, Task};
    use crate::model::{DocumentHash, ItemId};

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
            document: DocumentHash([3; 32]),
            priority: 1,
        }
    }

    pub(crate) fn options() -> OpenAiOptions {
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
    use super::tests_support::{options, request};
    use super::*;

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
