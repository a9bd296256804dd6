//! The journal: every raw answer is kept before anything is made of it, and what was answered is never asked again.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::model::LlmError;
use crate::model::llm::{Completion, CompletionRequest, LlmClient};
use crate::model::record::{Change, JournalEntry};
use crate::model::store::{Commit, Store};
use crate::telemetry::metrics;

/// A client that looks into the journal first, and writes every new answer to it before handing it out.
pub struct Journaled<C> {
    inner: C,
    store: Arc<dyn Store>,
    commit: Arc<dyn Commit>,
}

impl<C> Journaled<C> {
    /// Keeps `inner`'s answers in `store`, through its one writer.
    pub fn new(inner: C, store: Arc<dyn Store>, commit: Arc<dyn Commit>) -> Self {
        Self { inner, store, commit }
    }
}

impl<C: LlmClient> LlmClient for Journaled<C> {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(async move {
            let key = request.key();
            if let Some(entry) = self.store.answer(&key)? {
                metrics::journal_hit();
                return Ok(entry.completion);
            }
            let completion = self.inner.complete(request).await?;
            let entry = JournalEntry { completion: completion.clone() };
            self.commit.commit(vec![Change::Journal { key, entry }]).await?;
            let usage = &completion.usage;
            metrics::model_tokens(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens);
            Ok(completion)
        })
    }
}
