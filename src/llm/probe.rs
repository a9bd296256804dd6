//! The start-up probe: one clear message before any work is spent, if the server, key, model or schema is wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::openai::OpenAiClient;
use crate::model::llm::{Completion, CompletionRequest, LlmClient, Message, Role, Schema, Task};
use crate::model::{DocumentHash, ItemId, LlmError};

/// What the probe asks the model to say; a model that is not held to the schema answers the question instead.
const QUESTION: &str = "In which year did the first people walk on the moon? Answer in one English sentence.";
const SCHEMA: &str = r#"{"type":"object","properties":{"code":{"type":"string","enum":["amber","violet"]},"count":{"type":"integer","enum":[7]}},"required":["code","count"],"additionalProperties":false}"#;

/// How many answers may break the schema before the server is taken to ignore it.
const PROBES: u64 = 5;

/// What a probe learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// The server's limit on prompt with answer, in tokens, where it says so.
    pub max_model_len: Option<u64>,
    /// Time of the short request.
    pub took: Duration,
}

/// Asks for the served models, then for one short answer by a schema.
///
/// A server that cannot be reached is tried again for `patience`, since it may be starting.
///
/// # Errors
/// [`LlmError::Unavailable`] if it cannot be reached in all that time; [`LlmError::Misconfigured`] with what is wrong and
/// the way out.
pub async fn probe(
    client: &OpenAiClient,
    model: &str,
    schema_expected: bool,
    patience: Duration,
) -> Result<ProbeReport, LlmError> {
    let began = Instant::now();
    let mut told = false;
    let served = loop {
        match client.models().await {
            Ok(served) => break served,
            Err(LlmError::Unavailable { message, .. }) if began.elapsed() < patience => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(
                        "waiting up to {} s for the model server (it may be stopped meanwhile): {message}",
                        patience.as_secs()
                    );
                }
                tokio::time::sleep(Duration::from_millis(500).min(patience)).await;
            }
            Err(error) => return Err(error),
        }
    };
    let Some(found) = served.iter().find(|served| served.id == model) else {
        return Err(OpenAiClient::not_served(client.base_url(), model, &served));
    };
    let mut request = CompletionRequest {
        task: Task::Free,
        model: model.into(),
        messages: vec![Message { role: Role::User, content: QUESTION.into() }],
        schema: schema_expected.then(|| Arc::new(Schema { name: "probe".into(), json: SCHEMA.into() })),
        max_tokens: 64,
        temperature: 0.0,
        top_p: 1.0,
        seed: Some(0),
        dialect: "".into(),
        scope: ItemId([0; 32]),
        affinity: ItemId([0; 32]),
        document: DocumentHash([0; 32]),
        priority: u32::MAX,
    };
    let asked = Instant::now();
    let answer = loop {
        match client.complete(&request).await {
            // One bad answer is a bad moment; a server that ignores the schema gives nothing else.
            Ok(answer)
                if schema_expected && !obeys(&answer.content) && request.seed.is_some_and(|seed| seed + 1 < PROBES) =>
            {
                request.seed = request.seed.map(|seed| seed + 1);
            }
            Ok(answer) => break answer,
            // Overload at this moment is no reason to refuse the run; the flow waits it out.
            Err(LlmError::Unavailable { message, .. }) if asked.elapsed() > Duration::from_secs(3).max(patience) => {
                tracing::warn!("the schema could not be probed, going on: {message}");
                return Ok(ProbeReport { max_model_len: found.max_model_len, took: asked.elapsed() });
            }
            Err(LlmError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(300)).await,
            Err(LlmError::Refused { message, .. }) => {
                return Err(LlmError::Misconfigured {
                    message: format!(
                        "{message}. The server does not accept llm.structured_output as it is set; try another of its values"
                    ),
                });
            }
            Err(error) => return Err(error),
        }
    };
    if schema_expected && !obeys(&answer.content) {
        let said: String = answer.content.chars().take(120).collect();
        return Err(LlmError::Misconfigured {
            message: format!(
                "{} ignores the JSON schema of a request (asked for {{\"code\",\"count\"}} it said “{said}”): use a server \
                 with structured output, or another value of llm.structured_output (`none` asks by the prompt alone)",
                client.base_url()
            ),
        });
    }
    Ok(ProbeReport { max_model_len: found.max_model_len, took: asked.elapsed() })
}

fn obeys(content: &str) -> bool {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(content.trim()) else { return false };
    matches!(value["code"].as_str(), Some("amber" | "violet")) && value["count"] == 7
}

impl<C: LlmClient + ?Sized> LlmClient for Box<C> {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        self.as_ref().complete(request)
    }
}

impl<C: LlmClient + ?Sized> LlmClient for Arc<C> {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        self.as_ref().complete(request)
    }
}
