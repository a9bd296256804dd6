//! Finds the part of a pipeline that is asked in rounds, if its last stage wants so many pairs of each document, and
//! says what stands against it.

use std::sync::Arc;

use super::UsageError;
use crate::config::StageEntry;
use crate::engine::Gate;
use crate::model::graph::Graph;
use crate::model::{PayloadKind, Stage};
use crate::stages::StageParams;

/// The gate of a pipeline; `stages` in the order of the graph.
///
/// # Errors
/// Why the pipeline cannot be asked in rounds, with the place and the way out.
pub(super) fn gate(
    graph: &Graph,
    stages: &[(Arc<dyn Stage>, &StageEntry<StageParams>)],
) -> Result<Option<Gate>, UsageError> {
    let mut keepers = (0..stages.len()).filter_map(|at| Some((at, stages[at].0.target()?)));
    let Some((keeper, target)) = keepers.next() else { return Ok(None) };
    let fault = |at: usize, message: String| {
        let entry = stages[at].1;
        Err(UsageError(format!("{}: stage `{}`: {message}", entry.place, entry.name)))
    };
    let name = |at: usize| stages[at].1.name.as_str();
    if let Some((second, _)) = keepers.next() {
        return fault(second, format!("there is a target already, stage `{}`: leave one out", name(keeper)));
    }
    if let Some(after) = graph.nodes[keeper].consumers.first() {
        return fault(keeper, format!("a target must be the last stage, but `{}` takes its items", name(*after)));
    }
    // From the bottom up: all that feeds the target.
    let mut feeds = vec![false; stages.len()];
    feeds[keeper] = true;
    for at in (0..stages.len()).rev() {
        if feeds[at] {
            graph.nodes[at].inputs.iter().for_each(|from| feeds[*from] = true);
        }
    }
    let makes_pairs =
        |at: &usize| stages[*at].0.accepts() == PayloadKind::Chunk && stages[*at].0.emits() == PayloadKind::Pair;
    let held: Vec<usize> = (0..stages.len()).filter(|at| feeds[*at]).filter(makes_pairs).collect();
    let mut from = None;
    for at in &held {
        match (graph.nodes[*at].inputs.as_slice(), from) {
            ([one], None) => from = Some(*one),
            ([one], Some(other)) if *one == other => {}
            _ => {
                let message =
                    "with a target, all stages that make pairs must take their passages from one and the same stage";
                return fault(*at, message.into());
            }
        }
    }
    let Some(from) = from else {
        return fault(keeper, "no stage above it makes pairs of passages".into());
    };
    let mut below = vec![false; stages.len()];
    for at in 0..stages.len() {
        let node = &graph.nodes[at];
        below[at] = held.contains(&at) || node.inputs.iter().any(|from| below[*from]);
        if below[at] && !held.contains(&at) && node.inputs.iter().any(|from| !below[*from]) {
            let message = format!(
                "with a target (stage `{}`), it cannot take items that do not come from the passages asked for it",
                name(keeper)
            );
            return fault(at, message);
        }
    }
    let mut above = vec![false; stages.len()];
    above[from] = true;
    for at in (0..stages.len()).rev() {
        if above[at] {
            graph.nodes[at].inputs.iter().for_each(|feeds| above[*feeds] = true);
        }
    }
    let mut most_each = 0;
    for at in &held {
        match stages[*at].0.most_children() {
            Some(most) => most_each += most,
            None => return fault(*at, "it does not say how many pairs it makes of a passage at most".into()),
        }
    }
    if target.candidates < most_each {
        let message = format!(
            "at_most_candidates is {}, but asking a single passage can give {most_each} pairs: raise it, or lower \
             questions_per_chunk",
            target.candidates
        );
        return fault(keeper, message);
    }
    Ok(Some(Gate { from, held, keeper, target, most_each, above, below }))
}
