//! What flows and what is kept: items, identities, records and their legal transitions, the graph,
//! and the traits that the layers above implement. No input or output happens here, and no runtime is used.

pub mod dataset;
pub mod error;
pub mod graph;
pub mod ids;
pub mod ledger;
pub mod llm;
pub mod near_duplicates;
pub mod params;
pub mod payload;
pub mod plan;
pub mod projection;
pub mod record;
pub mod stage;
pub mod store;
pub mod target;
pub mod text;

pub use error::{ErrorClass, LlmError, StageError, StoreError};
pub use ids::{BlobId, DocumentHash, Fingerprint, ItemId, Lineage, RequestKey, StageKey};
pub use payload::{Payload, PayloadKind};
pub use stage::{Item, Outcome, Stage};
