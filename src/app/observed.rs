//! What is put around stages and the writer from outside: the count of items that wait for the model, and the delays
//! of rehearsals.
//!
//! `QAFLOW_SLOW_STAGE=chunk:50ms` makes a stage take so much longer for each item, `QAFLOW_SLOW_COMMIT=50ms` each
//! commit. They are for rehearsals and tests of what `status` names as the bottleneck; results do not change.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures::future::BoxFuture;

use super::UsageError;
use crate::engine::Counted;
use crate::model::llm::{Completion, CompletionRequest, LlmClient};
use crate::model::store::Lease;
use crate::model::target::Target;
use crate::model::{Item, LlmError, Outcome, PayloadKind, Stage, StageError, StoreError};

/// The variable that slows a stage down.
const SLOW_STAGE: &str = "QAFLOW_SLOW_STAGE";
/// The variable that slows the writer down.
const SLOW_COMMIT: &str = "QAFLOW_SLOW_COMMIT";

/// A client that counts the calls under way.
pub(super) struct Asking {
    inner: Arc<dyn LlmClient>,
    asking: Arc<AtomicUsize>,
}

impl Asking {
    /// Counts the calls of `inner` in `asking`.
    pub(super) fn new(inner: Arc<dyn LlmClient>, asking: Arc<AtomicUsize>) -> Self {
        Self { inner, asking }
    }
}

impl LlmClient for Asking {
    fn complete<'a>(&'a self, request: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(async move {
            let _asking = Counted::in_(&self.asking);
            self.inner.complete(request).await
        })
    }
}

/// A stage that takes longer.
struct SlowStage {
    inner: Arc<dyn Stage>,
    wait: Duration,
}

impl Stage for SlowStage {
    fn accepts(&self) -> PayloadKind {
        self.inner.accepts()
    }
    fn emits(&self) -> PayloadKind {
        self.inner.emits()
    }
    fn determinants(&self) -> String {
        self.inner.determinants()
    }
    fn most_children(&self) -> Option<u32> {
        self.inner.most_children()
    }
    fn target(&self) -> Option<Target> {
        self.inner.target()
    }
    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>> {
        Box::pin(async move {
            tokio::time::sleep(self.wait).await;
            self.inner.process(item).await
        })
    }
}

/// The stage itself, or slowed down if the variable names it.
///
/// # Errors
/// If the variable cannot be read.
pub(super) fn rehearsed(name: &str, stage: Arc<dyn Stage>) -> anyhow::Result<Arc<dyn Stage>> {
    let Ok(text) = std::env::var(SLOW_STAGE) else { return Ok(stage) };
    let Some((slow, wait)) = text.split_once(':').and_then(|(slow, wait)| Some((slow, duration(wait)?))) else {
        return Err(UsageError(format!("{SLOW_STAGE} is `{text}`: it must be as in `chunk:50ms`")).into());
    };
    if slow != name {
        return Ok(stage);
    }
    tracing::warn!("stage `{name}` takes {wait:?} longer for each item ({SLOW_STAGE})");
    Ok(Arc::new(SlowStage { inner: stage, wait }))
}

/// A lease whose check, which comes before each commit, takes longer.
struct SlowLease {
    inner: Arc<dyn Lease>,
    wait: Duration,
}

impl Lease for SlowLease {
    fn check(&self) -> Result<(), StoreError> {
        std::thread::sleep(self.wait);
        self.inner.check()
    }
}

/// The lease itself, or one that delays each commit if the variable says so.
///
/// # Errors
/// If the variable cannot be read.
pub(super) fn rehearsed_lease(lease: Arc<dyn Lease>) -> anyhow::Result<Arc<dyn Lease>> {
    let Ok(text) = std::env::var(SLOW_COMMIT) else { return Ok(lease) };
    let Some(wait) = duration(&text) else {
        return Err(UsageError(format!("{SLOW_COMMIT} is `{text}`: it must be as in `50ms`")).into());
    };
    tracing::warn!("each commit takes {wait:?} longer ({SLOW_COMMIT})");
    Ok(Arc::new(SlowLease { inner: lease, wait }))
}

/// `50ms`, up to a minute.
fn duration(text: &str) -> Option<Duration> {
    let millis = text.strip_suffix("ms")?.parse().ok()?;
    (millis <= 60_000).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_milliseconds_up_to_a_minute() {
        assert_eq!(duration("50ms"), Some(Duration::from_millis(50)));
        for text in ["50", "-1ms", "60001ms", "1s", ""] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
