//! What goes over the wire to an OpenAI-compatible server and comes back, and how its words are shown.

use serde::Deserialize;

use super::openai::{OpenAiOptions, StructuredOutput};
use crate::model::llm::{CompletionRequest, Message};

/// The longest part of a server's error page that goes into a message.
const SHOWN: usize = 300;

/// A model that a server offers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServedModel {
    /// Its name.
    pub id: String,
    /// The longest prompt with answer, in tokens, where the server says so.
    pub max_model_len: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct ModelList {
    pub(super) data: Vec<ServedModel>,
}

#[derive(Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    pub(super) model: Option<String>,
    pub(super) choices: Vec<Choice>,
    #[serde(default)]
    pub(super) usage: serde_json::Value,
}

#[derive(Deserialize)]
pub(super) struct Choice {
    pub(super) message: AnswerMessage,
    #[serde(default)]
    pub(super) finish_reason: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct AnswerMessage {
    #[serde(default)]
    pub(super) content: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ErrorBody {
    pub(super) error: ErrorDetail,
}

/// Some answers, such as vLLM's to a missing key, give words alone.
#[derive(Deserialize)]
pub(super) struct PlainError {
    pub(super) error: String,
}

#[derive(Deserialize)]
pub(super) struct ErrorDetail {
    pub(super) message: String,
}

/// The request's body. It is put together as text, since this is done for every call.
pub(super) fn body(request: &CompletionRequest, options: &OpenAiOptions) -> String {
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

/// The server's own words, from its error format or from whatever it sent.
pub(super) fn error_text(body: &str) -> String {
    match serde_json::from_str::<ErrorBody>(body) {
        Ok(error) => shorten(&error.error.message),
        Err(_) => match serde_json::from_str::<PlainError>(body) {
            Ok(error) => shorten(&error.error),
            Err(_) => describe_body(body),
        },
    }
}

pub(super) fn describe_body(body: &str) -> String {
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

pub(super) fn shorten(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= SHOWN { text } else { text.chars().take(SHOWN).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::openai::tests_support::{options, request};
    use super::*;
    use crate::model::llm::Schema;

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
}
