//! Asks the model for JSON and reads it strictly: what cannot be used is asked again with the fault named, and after
//! the last try the item is dead, with the raw answers. Nothing is repaired: a repaired answer is a guess.

use crate::model::llm::{Completion, CompletionRequest, FinishReason, LlmClient, Message, Role};
use crate::model::payload::Usage;
use crate::model::{ErrorClass, StageError};

/// An answer that could be read.
#[derive(Debug)]
pub struct Answered<T> {
    /// What it says.
    pub value: T,
    /// The answer itself.
    pub completion: Completion,
    /// Tokens of the prompt as it was first put, and of the answer that was used: the same whether or not it had to be
    /// asked again, so that a dataset does not depend on a server's bad moments. The run's account counts every try.
    pub usage: Usage,
}

/// Why an answer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// A short label for counting.
    pub label: &'static str,
    /// What is wrong, told to the model and to people.
    pub fault: String,
}

/// Asks, reads with `read`, and asks again at most `ask_again` times.
///
/// # Errors
/// Poison with all raw answers when the last answer cannot be used either; whatever the model's client gives else.
pub async fn ask<T>(
    llm: &dyn LlmClient,
    mut request: CompletionRequest,
    ask_again: u32,
    read: impl Fn(&str) -> Result<T, Unusable>,
) -> Result<Answered<T>, StageError> {
    let first_messages = request.messages.len();
    let mut first: Option<Usage> = None;
    let mut raw = Vec::new();
    loop {
        let completion = llm.complete(&request).await.map_err(|error| {
            let error = StageError::from(error);
            if error.class == ErrorClass::Poison { error.with_raw(raw.len() as u32 + 1, raw.clone()) } else { error }
        })?;
        let asked = *first.get_or_insert(completion.usage);
        let unusable = match completion.finish_reason {
            FinishReason::Length => Unusable {
                label: "truncated",
                fault: format!("it was cut off at {} tokens (finish_reason `length`)", request.max_tokens),
            },
            _ => match read(unfenced(&completion.content)) {
                Ok(value) => {
                    let usage = Usage { completion_tokens: completion.usage.completion_tokens, ..asked };
                    return Ok(Answered { value, completion, usage });
                }
                Err(unusable) => unusable,
            },
        };
        let cut = completion.finish_reason == FinishReason::Length;
        crate::telemetry::metrics::answer_unusable(unusable.label);
        raw.push(completion.content.clone());
        let attempts = raw.len() as u32;
        if attempts > ask_again {
            let reason =
                format!("the model's answer could not be used {attempts} times; the last time {}", unusable.fault);
            return Err(StageError::poison(unusable.label, reason).with_raw(attempts, raw));
        }
        tracing::debug!(attempts, "asking again: {}", unusable.fault);
        // Each try follows the original request with the last answer alone: what went wrong before that does not help.
        request.messages.truncate(first_messages);
        let advice = if cut { "Be shorter." } else { "Give exactly the form asked for." };
        // A cut answer teaches nothing and is long.
        let shown = if cut { "…".into() } else { completion.content };
        request.messages.push(Message { role: Role::Assistant, content: shown });
        request.messages.push(Message {
            role: Role::User,
            content: format!(
                "That answer cannot be used (try {attempts}): {}. {advice} Answer again with the JSON object alone.",
                unusable.fault
            ),
        });
    }
}

/// The inside of a Markdown code fence, if the whole answer is one: servers without structured output like to add it.
fn unfenced(content: &str) -> &str {
    let trimmed = content.trim();
    let inside = trimmed.strip_prefix("```json").or_else(|| trimmed.strip_prefix("```"));
    inside.and_then(|rest| rest.strip_suffix("```")).map_or(trimmed, str::trim)
}

/// Reads JSON, naming the fault with its place.
///
/// # Errors
/// [`Unusable`] for what is no JSON, or lacks a field, or has one of the wrong type.
pub fn json<T: serde::de::DeserializeOwned>(content: &str) -> Result<T, Unusable> {
    serde_json::from_str(content).map_err(|error| {
        let label = if error.is_data() { "missing_fields" } else { "bad_json" };
        let what = if error.is_data() { "the JSON does not fit the form" } else { "it is not valid JSON" };
        Unusable { label, fault: format!("{what} ({error})") }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::BoxFuture;
    use serde::Deserialize;

    use super::*;
    use crate::llm::openai::tests_support::{answer, request};
    use crate::model::LlmError;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Form {
        n: u32,
    }

    struct Scripted {
        answers: Mutex<Vec<Completion>>,
        asked: Mutex<Vec<CompletionRequest>>,
    }

    impl LlmClient for Scripted {
        fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
            self.asked.lock().unwrap().push(request.clone());
            let next = self.answers.lock().unwrap().remove(0);
            Box::pin(async move { Ok(next) })
        }
    }

    fn scripted(answers: Vec<Completion>) -> Scripted {
        Scripted { answers: Mutex::new(answers), asked: Mutex::new(Vec::new()) }
    }

    #[tokio::test]
    async fn asks_again_with_the_fault_named_and_counts_the_first_prompt_and_the_last_answer() {
        let mut costly = answer("{\"n\":");
        costly.usage.completion_tokens = 5;
        costly.usage.prompt_tokens = 100;
        let mut good = answer("```json\n{\"n\": 3}\n```");
        good.usage.completion_tokens = 7;
        good.usage.prompt_tokens = 150;
        let llm = scripted(vec![costly, good]);
        let answered = ask(&llm, request(), 2, json::<Form>).await.unwrap();
        assert_eq!(answered.value, Form { n: 3 });
        assert_eq!((answered.usage.prompt_tokens, answered.usage.completion_tokens), (100, 7));
        let asked = llm.asked.lock().unwrap();
        assert_eq!(asked[1].messages.len(), asked[0].messages.len() + 2);
        let told = &asked[1].messages.last().unwrap().content;
        assert!(told.contains("not valid JSON (EOF while parsing"), "{told}");
        assert_ne!(asked[0].key(), asked[1].key());
    }

    #[tokio::test]
    async fn the_third_unusable_answer_kills_the_item_with_all_raw_answers() {
        let mut cut = answer("{\"n\": 1");
        cut.finish_reason = FinishReason::Length;
        let llm = scripted(vec![answer("no"), answer("{\"m\":1}"), cut]);
        let error = ask(&llm, request(), 2, json::<Form>).await.unwrap_err();
        assert_eq!((error.class, error.attempts, error.label.as_str()), (ErrorClass::Poison, 3, "truncated"));
        assert_eq!(error.raw, ["no", "{\"m\":1}", "{\"n\": 1"]);
        assert!(error.reason.contains("cut off at 10 tokens"), "{}", error.reason);
        let keys: std::collections::HashSet<_> = llm.asked.lock().unwrap().iter().map(CompletionRequest::key).collect();
        assert_eq!(keys.len(), 3, "every try is a request of its own in the journal");
    }
}
