//! The target stage: the last one of a pipeline that wants so many accepted pairs of each document. Which passages are
//! asked for that, and which pairs are kept, is decided by the engine's gate, by the rule of `model/target.rs`; the
//! stage itself carries what is wanted.

use futures::future::BoxFuture;
use serde::Serialize;

use crate::model::params::Reader;
use crate::model::target::Target;
use crate::model::{Item, Outcome, PayloadKind, Stage, StageError};

/// Changes whenever the code would keep other pairs.
const CODE_VERSION: u32 = 1;

/// Parameters of the target stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TargetParams {
    /// What is wanted of each document.
    #[serde(flatten)]
    pub target: Target,
}

impl TargetParams {
    /// Reads them from a pipeline file.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let accepted = reader.int(
            "accepted_per_document",
            5,
            1..=10_000,
            "accepted pairs wanted of each document; its passages are asked, spread over the document, until it has them",
        ) as u32;
        let candidates = reader
            .optional_int(
                "at_most_candidates",
                1..=1_000_000,
                "three times `accepted_per_document`",
                "pairs made for a document at most, accepted or not",
            )
            .map_or(accepted * 3, |n| n as u32);
        if candidates < accepted {
            let message = format!(
                "{} is {candidates}, fewer than {} ({accepted})",
                reader.path_of("at_most_candidates"),
                reader.path_of("accepted_per_document"),
            );
            reader.fault("at_most_candidates", message);
        }
        Self { target: Target { accepted, candidates } }
    }
}

/// The target stage.
pub struct TargetStage {
    params: TargetParams,
}

impl TargetStage {
    /// Builds the stage.
    pub fn new(params: TargetParams) -> Self {
        Self { params }
    }
}

impl Stage for TargetStage {
    fn accepts(&self) -> PayloadKind {
        PayloadKind::Score
    }

    fn emits(&self) -> PayloadKind {
        PayloadKind::Score
    }

    fn determinants(&self) -> String {
        let Target { accepted, candidates } = self.params.target;
        format!("target v{CODE_VERSION} accepted={accepted} candidates={candidates}")
    }

    fn target(&self) -> Option<Target> {
        Some(self.params.target)
    }

    /// What the gate keeps, passes.
    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>> {
        Box::pin(async move { Ok(Outcome::emit(vec![item.payload.clone()])) })
    }
}
