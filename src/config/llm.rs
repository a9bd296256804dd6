//! The section `llm` of the run file: the model, its endpoints, and how it is asked.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::env::is_name;
use super::forms::{DURATION, base_url_fault, duration, optional_duration, optional_path, parse_duration, wrong};
use super::run::small;
use crate::model::params::{Documented, Fault, Node, Reader, Value};

/// The name of the embedded model where none is given.
pub const EMBEDDED_MODEL: &str = "SmolLM2-135M-Instruct";

/// The language model, and how it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct LlmConfig {
    /// Who answers.
    pub provider: Provider,
    /// The servers; at least one for [`Provider::Openai`].
    pub endpoints: Vec<Endpoint>,
    /// The model's name as the servers know it.
    pub model: String,
    /// The environment variable that holds the key for all endpoints that name none of their own.
    pub api_key_env: Option<String>,
    /// The weights of the embedded model; `None`: where `qaflow model pull` puts them.
    pub weights: Option<PathBuf>,
    /// Threads of the embedded model; 0: as many as there are cores.
    pub threads: u32,
    /// How many requests are open at once, over all endpoints.
    pub concurrency: Concurrency,
    /// The most requests a minute; `None`: no limit.
    pub requests_per_minute: Option<NonZeroU32>,
    /// The most tokens a minute, of prompts and answers; `None`: no limit.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// How long an answer may take; `None`: as long as its tokens need.
    pub request_timeout: Option<Duration>,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a server that cannot be reached at the start is waited for.
    pub wait_for_server: Duration,
    /// The first wait after a failed request.
    pub retry_initial: Duration,
    /// The longest wait between two tries.
    pub retry_max: Duration,
    /// How many time-outs of one request, while its server answers others, make it a dead letter; `None` for never.
    pub retry_timeouts: Option<u32>,
    /// After how long without any answer the run stops, to be resumed later; `None`: it waits for ever.
    pub give_up_after: Option<Duration>,
    /// Further fields of each request's body, passed on as they are.
    pub extra_body: serde_json::Map<String, serde_json::Value>,
    /// How the server is told the schema of an answer.
    pub structured_output: StructuredOutput,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Servers that speak the HTTP interface of `OpenAI`, vLLM among them.
    Openai,
    /// A small model within this process, for trials.
    Embedded,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The URL before `/chat/completions`, without a slash at the end.
    pub base_url: String,
    /// Its share of the requests, in proportion to the other weights; 1 to 1000.
    pub weight: u32,
    /// The environment variable that holds its key; `None`: the common one.
    pub api_key_env: Option<String>,
}

/// How many requests are open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// So many, 1 to 4096.
    Fixed(u32),
    /// As many as the servers take without getting slower.
    Auto,
}

/// How the server is told the schema of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StructuredOutput {
    /// By `response_format`, which most servers know.
    ResponseFormat,
    /// By vLLM's `structured_outputs`.
    StructuredOutputs,
    /// Not at all: the prompt alone asks for it.
    None,
}

/// Fields of the request's body that the client sets itself.
const OWN_FIELDS: [&str; 6] = ["model", "messages", "stream", "n", "response_format", "structured_outputs"];

/// What an API key's variable must be; the value is never shown, since it may be the key.
const KEY_NAME: &str =
    "must be the name of an environment variable (letters, digits and `_`) that holds the key, never the key itself";

impl LlmConfig {
    /// Reads `llm.endpoints` as well, which lists maps and so is behind the reader of the section. A model within
    /// the process has none, whatever stands there.
    pub(super) fn with_endpoints(
        mut self,
        llm: Option<&Node>,
        faults: &mut Vec<Fault>,
        warnings: &mut Vec<Fault>,
        documented: &mut Vec<Documented>,
    ) -> Self {
        let list = llm.and_then(|llm| llm.get("endpoints"));
        let items = match list.map(|list| &list.value) {
            Some(Value::List(items)) if self.provider == Provider::Openai => items.as_slice(),
            _ => &[],
        };
        for (i, item) in items.iter().enumerate() {
            // Each kind of row is documented once.
            let mut rows = Vec::new();
            if let Some(endpoint) = read_endpoint(item, &format!("llm.endpoints.{i}"), faults, warnings, &mut rows) {
                if self.endpoints.iter().any(|other| other.base_url == endpoint.base_url) {
                    let message =
                        format!("llm.endpoints.{i} names the same server as another: give it a `weight` instead");
                    faults.push(Fault { place: item.place(), message });
                }
                self.endpoints.push(endpoint);
            }
        }
        if self.provider == Provider::Embedded {
            warnings.extend(llm.and_then(|llm| ignored(llm, &self.model)));
        }
        let nothing = Node::empty_map(&"".into(), 0);
        read_endpoint(&nothing, "llm.endpoints.N", &mut Vec::new(), &mut Vec::new(), documented);
        self
    }
}

/// What a section `llm` says of servers though the embedded model answers.
fn ignored(llm: &Node, model: &str) -> Option<Fault> {
    let endpoints = llm.get("endpoints").filter(|node| node.value != Value::Null);
    let other = llm.get("model").filter(|_| model != EMBEDDED_MODEL);
    let (place, what) = match (endpoints, other) {
        (Some(endpoints), None) => (endpoints.place(), "llm.endpoints is ignored".to_owned()),
        (None, Some(named)) => (named.place(), format!("llm.model `{model}` is a name only")),
        (Some(endpoints), Some(_)) => {
            (endpoints.place(), format!("llm.endpoints is ignored, and llm.model `{model}` is a name only"))
        }
        (None, None) => return None,
    };
    let message = format!(
        "{what}: with `provider: embedded` the demo model {EMBEDDED_MODEL} answers; to ask the servers write `provider: \
         openai`"
    );
    Some(Fault { place, message })
}

fn read_endpoint(
    item: &Node,
    path: &str,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<Fault>,
    documented: &mut Vec<Documented>,
) -> Option<Endpoint> {
    let mut reader = Reader::new(item, path, faults, documented);
    let is_map = matches!(item.value, Value::Map(_));
    let meaning = "the server's URL up to and with /v1";
    let url = reader.optional_text("base_url", "required", meaning);
    if is_map && !reader.has("base_url") {
        reader.fault("base_url", format!("{path}.base_url is missing: {meaning}"));
    }
    let url = url.map(|url| url.trim_end_matches('/').to_owned());
    if let Some(url) = &url {
        let place = item.get("base_url").unwrap_or(item).place();
        if let Some(fault) = base_url_fault(url) {
            reader.fault("base_url", format!("{path}.base_url {fault}"));
        } else if !url.ends_with("/v1") {
            let message = format!("{path}.base_url does not end in /v1, as it does with most servers: check it");
            warnings.push(Fault { place, message });
        }
    }
    let weight =
        small(reader.int("weight", 1, 1..=1000, "its share of the requests, in proportion to the other weights"));
    let api_key_env = key_name(&mut reader, "llm.api_key_env", "the environment variable that holds this server's key");
    reader.finish();
    Some(Endpoint { base_url: url?, weight, api_key_env })
}

fn key_name(reader: &mut Reader<'_>, default: &str, meaning: &str) -> Option<String> {
    let form = "the name of an environment variable";
    let node = reader.raw("api_key_env", form, default, meaning)?;
    match &node.value {
        Value::Text(name) if is_name(name) => Some(name.clone()),
        _ => {
            let message = format!("{} {KEY_NAME}", reader.path_of("api_key_env"));
            reader.fault("api_key_env", message);
            None
        }
    }
}

/// Reads all of the section but the endpoints.
pub(super) fn read_llm(reader: &mut Reader<'_>, section: Option<&Node>) -> LlmConfig {
    let provider = reader
        .choice(
            "provider",
            "openai",
            &[("openai", Provider::Openai), ("embedded", Provider::Embedded)],
            "who answers: servers that speak OpenAI's HTTP interface (vLLM among them), or a small model within this \
             process, for trials only",
        )
        // After a fault here, none is to follow from a guess.
        .unwrap_or(Provider::Embedded);
    // Nor is anything missing from a section of the wrong form.
    let is_map = section.is_none_or(|section| matches!(section.value, Value::Map(_) | Value::Null));
    let openai = provider == Provider::Openai && is_map;

    let meaning = "the servers; requests are spread over them by weight";
    let endpoints = reader.raw("endpoints", "a list of maps", "required by openai, ignored by embedded", meaning);
    if openai {
        let example = "as in `endpoints: [{base_url: \"http://localhost:8000/v1\"}]`";
        match endpoints.map(|node| (node, &node.value)) {
            None => reader.fault("endpoints", format!("llm.endpoints is missing: {meaning}, {example}")),
            Some((_, Value::List(items))) if items.is_empty() => {
                reader.fault("endpoints", format!("llm.endpoints is empty: name one server at least, {example}"));
            }
            Some((_, Value::List(_))) => {}
            Some((node, _)) => wrong(reader, "endpoints", node, &format!("a list of maps, {example}")),
        }
    }
    let meaning = "the model's name as the servers know it";
    let default = format!("required by openai; {EMBEDDED_MODEL} for embedded");
    let model = reader.optional_text("model", &default, meaning).filter(|model| !model.trim().is_empty());
    if openai && model.is_none() && section.and_then(|s| s.get("model")).is_none_or(is_blank) {
        reader.fault("model", format!("llm.model is missing: {meaning}"));
    }
    let api_key_env = key_name(reader, "none", "the environment variable that holds the API key, never the key itself");
    let weights = optional_path(
        reader,
        "weights",
        "where `qaflow model pull` puts them",
        "the weights of the embedded model, a GGUF file",
    );
    let threads = small(reader.int("threads", 1, 0..=1024, "threads of the embedded model; 0: one for each core"));
    let concurrency = read_concurrency(reader);
    let per_minute = |reader: &mut Reader<'_>, key: &str, meaning: &str| {
        let number = reader.optional_int(key, 1..=i64::from(u32::MAX), "no limit", meaning);
        number.and_then(|number| NonZeroU32::new(small(number)))
    };
    let requests_per_minute = per_minute(reader, "requests_per_minute", "the most requests a minute, to each endpoint");
    let tokens_per_minute = per_minute(
        reader,
        "tokens_per_minute",
        "the most tokens a minute, of prompts and answers together, to each endpoint",
    );
    let request_timeout = optional_duration(
        reader,
        "request_timeout_seconds",
        "5m for the server's queue, and 250ms for each token that the answer may have",
        Duration::from_secs(1),
        "how long an answer may take; a short one wastes what a loaded server has computed",
    );
    let connect_timeout = duration(
        reader,
        "connect_timeout_seconds",
        Duration::from_secs(10),
        Duration::from_millis(100),
        "how long a connection may take",
    );
    let wait_for_server = duration(
        reader,
        "wait_for_server",
        Duration::from_secs(3),
        Duration::ZERO,
        "how long a server that cannot be reached when the run starts is waited for, since it may be starting; then the \
         run ends with exit code 1",
    );
    let (retry_initial, retry_max, retry_timeouts) = reader.section("retry", |r| {
        let initial = r.int("initial_ms", 500, 1..=3_600_000, "the first wait after a failed request, in milliseconds");
        let max = r.int("max_ms", 10_000, 1..=86_400_000, "the longest wait between two tries, in milliseconds");
        if initial > max {
            r.fault("max_ms", format!("{} must not be less than initial_ms ({initial})", r.path_of("max_ms")));
        }
        let timeouts = timeouts(r);
        let millis = |n: i64| Duration::from_millis(n.unsigned_abs());
        (millis(initial), millis(max), timeouts)
    });
    let give_up_after = reader.section("outage", |r| {
        let form = format!("never, or {DURATION}");
        let meaning = "after how long without any answer the run stops, so that it holds no idle GPU; the same command \
                       goes on later";
        let default = Duration::from_secs(1800);
        let Some(node) = r.raw("give_up_after", &form, "30m", meaning) else { return Some(default) };
        match (&node.value, parse_duration(&node.value)) {
            (Value::Text(text), _) if text == "never" => None,
            (_, Some(duration)) if !duration.is_zero() => Some(duration),
            _ => {
                wrong(r, "give_up_after", node, &form);
                Some(default)
            }
        }
    });
    let structured_output = reader
        .choice(
            "structured_output",
            "response_format",
            &[
                ("response_format", StructuredOutput::ResponseFormat),
                ("structured_outputs", StructuredOutput::StructuredOutputs),
                ("none", StructuredOutput::None),
            ],
            "how the server is told the schema of an answer: `response_format`, which most servers know, vLLM's own \
             `structured_outputs`, or not at all",
        )
        .unwrap_or(StructuredOutput::ResponseFormat);
    let extra_body = read_extra_body(reader);
    LlmConfig {
        provider,
        endpoints: Vec::new(),
        model: model.unwrap_or_else(|| EMBEDDED_MODEL.into()),
        api_key_env,
        weights,
        threads,
        concurrency,
        requests_per_minute,
        tokens_per_minute,
        request_timeout,
        connect_timeout,
        wait_for_server,
        retry_initial,
        retry_max,
        retry_timeouts,
        give_up_after,
        extra_body,
        structured_output,
    }
}

fn is_blank(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Text(text) => text.trim().is_empty(),
        _ => false,
    }
}

fn read_concurrency(reader: &mut Reader<'_>) -> Concurrency {
    let form = "a whole number from 1 to 4096, or auto";
    let default = Concurrency::Fixed(16);
    let meaning = "how many requests are open at once, over all endpoints; auto: as many as the servers take without \
                   getting slower";
    let Some(node) = reader.raw("concurrency", form, "16", meaning) else { return default };
    match &node.value {
        Value::Int(n @ 1..=4096) => Concurrency::Fixed(small(*n)),
        Value::Text(text) if text == "auto" => Concurrency::Auto,
        _ => {
            wrong(reader, "concurrency", node, form);
            default
        }
    }
}

fn timeouts(reader: &mut Reader<'_>) -> Option<u32> {
    let form = "a whole number from 1 to 1000, or never";
    let meaning = "how many time-outs of one request, while its server answers others, make it a dead letter; only for \
                   servers that are well, since one that slows down may then cost items";
    let node = reader.raw("timeouts", form, "never", meaning)?;
    match &node.value {
        Value::Int(n @ 1..=1000) => Some(small(*n)),
        Value::Text(text) if text == "never" => None,
        _ => {
            wrong(reader, "timeouts", node, form);
            None
        }
    }
}

fn read_extra_body(reader: &mut Reader<'_>) -> serde_json::Map<String, serde_json::Value> {
    let meaning = "further fields of each request's body, passed on as they are, such as `chat_template_kwargs: \
                   {enable_thinking: false}`";
    let Some(node) = reader.raw("extra_body", "a map", "empty", meaning) else { return serde_json::Map::new() };
    let Value::Map(entries) = &node.value else {
        wrong(reader, "extra_body", node, "a map");
        return serde_json::Map::new();
    };
    let mut body = serde_json::Map::new();
    for (key, value) in entries {
        if OWN_FIELDS.contains(&key.name.as_str()) {
            let message = format!("llm.extra_body cannot set `{}`: that is set by qaflow itself", key.name);
            reader.fault("extra_body", message);
        } else if let Some(value) = to_json(value) {
            body.insert(key.name.clone(), value);
        } else {
            let message = format!("llm.extra_body.{} holds a number that JSON does not have", key.name);
            reader.fault("extra_body", message);
        }
    }
    body
}

/// `None` if there is an infinity or a NaN in it.
fn to_json(node: &Node) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    Some(match &node.value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(n) => Json::from(*n),
        Value::Float(n) => Json::Number(serde_json::Number::from_f64(*n)?),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect::<Option<_>>()?),
        Value::Map(entries) => Json::Object(
            entries.iter().map(|(key, node)| Some((key.name.clone(), to_json(node)?))).collect::<Option<_>>()?,
        ),
    })
}
