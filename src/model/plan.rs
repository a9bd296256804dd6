//! The description of a run that a state carries, so that it can be read, checked and exported without its
//! configuration at hand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{Fingerprint, StageKey};
use super::payload::PayloadKind;

/// The newest format of a plan that this program reads.
pub const PLAN_FORMAT: u32 = 1;

/// A run's graph and names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The format of this description.
    pub format: u32,
    /// The pipeline's name.
    pub pipeline: String,
    /// The run's name in every row.
    pub run_id: String,
    /// The configuration file, as it was named.
    pub config_file: String,
    /// The effective configuration, without secrets.
    pub config: serde_json::Value,
    /// Where the run exports to.
    pub out: String,
    /// `openai` or `embedded`.
    pub provider: String,
    /// The model's name.
    pub model: String,
    /// The share of items that may be dead before the run counts as failed.
    pub max_failure_ratio: f64,
    /// The stages in topological order.
    pub nodes: Vec<PlanNode>,
}

/// A stage of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanNode {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub accepts: PayloadKind,
    /// What it gives.
    pub emits: PayloadKind,
    /// What determines its results, in hexadecimal.
    pub fingerprint: String,
    /// What the ids of its children follow from, in hexadecimal; `None`: its fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Indices of the stages that feed it.
    pub inputs: Vec<usize>,
    /// Whether the source feeds it.
    pub from_source: bool,
    /// Indices of the stages that it feeds.
    pub consumers: Vec<usize>,
}

impl Plan {
    /// A node's name space in the store.
    pub fn key(&self, node: usize) -> StageKey {
        self.fingerprint(node).key()
    }

    /// A node's fingerprint.
    pub fn fingerprint(&self, node: usize) -> Fingerprint {
        // A plan is written by this program alone and is checksummed with its record.
        Fingerprint::from_hex(&self.nodes[node].fingerprint).unwrap_or(Fingerprint([0; 32]))
    }

    /// What the ids of a node's outputs follow from.
    pub fn identity(&self, node: usize) -> Fingerprint {
        let own = self.nodes[node].identity.as_deref().and_then(Fingerprint::from_hex);
        own.unwrap_or_else(|| self.fingerprint(node))
    }

    /// Nodes that feed nothing: where the results are.
    pub fn terminals(&self) -> impl Iterator<Item = usize> + '_ {
        self.nodes.iter().enumerate().filter(|(_, node)| node.consumers.is_empty()).map(|(at, _)| at)
    }

    /// The stage whose name space this is.
    pub fn node_of(&self, key: &StageKey) -> Option<usize> {
        (0..self.nodes.len()).find(|at| self.key(*at) == *key)
    }

    /// Name spaces of all that feeds a node, the source's included.
    pub fn producers(&self, node: usize) -> Vec<StageKey> {
        let source = self.nodes[node].from_source.then(|| Fingerprint::source().key());
        self.nodes[node].inputs.iter().map(|from| self.key(*from)).chain(source).collect()
    }

    /// The fingerprints by stage.
    pub fn fingerprints(&self) -> BTreeMap<String, String> {
        self.nodes.iter().map(|node| (node.name.clone(), node.fingerprint.clone())).collect()
    }
}
