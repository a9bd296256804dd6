//! The wire: requests as they are read, errors and answers as vLLM writes them.

use std::borrow::Cow;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::chat::SimBody;
use super::schema::Schema;

/// A chat request. What does not matter here is ignored, as vLLM does.
#[derive(Deserialize)]
pub(super) struct ChatRequest<'a> {
    #[serde(borrow)]
    pub(super) model: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) messages: Vec<ChatMessage<'a>>,
    pub(super) max_completion_tokens: Option<u64>,
    pub(super) max_tokens: Option<u64>,
    #[serde(borrow)]
    pub(super) response_format: Option<ResponseFormat<'a>>,
    #[serde(borrow)]
    pub(super) cache_salt: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    pub(super) n: Option<u32>,
}

/// One turn.
#[derive(Deserialize)]
pub(super) struct ChatMessage<'a> {
    #[serde(borrow)]
    pub(super) role: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) content: Content<'a>,
}

/// The text of a turn: a string, or a list of parts.
#[derive(Default)]
pub(super) struct Content<'a>(pub(super) Cow<'a, str>);

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Cow<'a, str>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Content<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of text parts")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Content<'de>, E> {
                Ok(Content(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content<'de>, E> {
                Ok(Content(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Content<'de>, E> {
                Ok(Content(Cow::Owned(text)))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Content<'de>, E> {
                Ok(Content::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content<'de>, A::Error> {
                let mut text = String::new();
                while let Some(part) = parts.next_element::<Part<'de>>()? {
                    text.push_str(&part.text);
                }
                Ok(Content(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// What form the answer must have.
#[derive(Deserialize)]
pub(super) struct ResponseFormat<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) json_schema: Option<NamedSchema<'a>>,
}

/// A schema with its name.
#[derive(Deserialize)]
pub(super) struct NamedSchema<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(default)]
    pub(super) schema: Schema,
}

/// An answer.
pub(super) struct Answer<'a> {
    pub(super) n: u64,
    pub(super) model: &'a str,
    pub(super) content: &'a str,
    pub(super) finish_reason: &'a str,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) cached_tokens: u64,
}

impl Answer<'_> {
    /// The body of the response.
    pub(super) fn json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Completion<'a> {
            id: String,
            object: &'a str,
            created: u64,
            model: &'a str,
            choices: [Choice<'a>; 1],
            usage: Usage,
        }
        #[derive(Serialize)]
        struct Choice<'a> {
            index: u32,
            message: Message<'a>,
            logprobs: Option<()>,
            finish_reason: &'a str,
            stop_reason: Option<()>,
        }
        #[derive(Serialize)]
        struct Message<'a> {
            role: &'a str,
            content: &'a str,
            reasoning: Option<()>,
            tool_calls: [(); 0],
        }
        #[derive(Serialize)]
        struct Usage {
            prompt_tokens: u64,
            total_tokens: u64,
            completion_tokens: u64,
            prompt_tokens_details: Details,
        }
        #[derive(Serialize)]
        struct Details {
            cached_tokens: u64,
        }
        let completion = Completion {
            id: format!("chatcmpl-{:016x}", self.n),
            object: "chat.completion",
            created: unix_seconds(),
            model: self.model,
            choices: [Choice {
                index: 0,
                message: Message { role: "assistant", content: self.content, reasoning: None, tool_calls: [] },
                logprobs: None,
                finish_reason: self.finish_reason,
                stop_reason: None,
            }],
            usage: Usage {
                prompt_tokens: self.prompt_tokens,
                total_tokens: self.prompt_tokens + self.completion_tokens,
                completion_tokens: self.completion_tokens,
                prompt_tokens_details: Details { cached_tokens: self.cached_tokens },
            },
        };
        let mut body = Vec::with_capacity(self.content.len() * 9 / 8 + 512);
        // Writing these types to memory cannot fail.
        let _ = serde_json::to_writer(&mut body, &completion);
        body
    }
}

/// Unix time in whole seconds.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A response with a body of this media type.
pub(super) fn response(status: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<SimBody> {
    let mut response = Response::new(SimBody::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A response of JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<SimBody> {
    response(status, "application/json", serde_json::to_vec(value).unwrap_or_default())
}

/// An error in vLLM's form.
pub(super) fn error(status: StatusCode, kind: &str, param: Option<&str>, message: &str) -> Response<SimBody> {
    #[derive(Serialize)]
    struct Body<'a> {
        error: Detail<'a>,
    }
    #[derive(Serialize)]
    struct Detail<'a> {
        message: &'a str,
        #[serde(rename = "type")]
        kind: &'a str,
        param: Option<&'a str>,
        code: u16,
    }
    let error = Body { error: Detail { message, kind, param, code: status.as_u16() } };
    json(status, &error)
}

/// The error page of a proxy in front of a server that does not answer.
pub(super) fn html_error() -> Response<SimBody> {
    let page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n\
                <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";
    response(StatusCode::BAD_GATEWAY, "text/html", page)
}
