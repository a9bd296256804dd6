//! How many model calls a chunk causes: arithmetic over the pipeline, known before any call is made.

use super::StageParams;
use crate::model::graph::Graph;

/// Calls of each stage that asks the model, by its name, for one chunk whose every pair passes every check: the most,
/// but for what is asked once more (a quote that is nearly verbatim, two answers that differ, an answer that cannot be
/// used). `params` are those of the graph's nodes, in their order.
pub fn of_a_chunk(graph: &Graph, params: &[&StageParams]) -> Vec<(String, u64)> {
    let mut given: Vec<u64> = Vec::with_capacity(params.len());
    let mut calls = Vec::new();
    for (node, params) in graph.nodes.iter().zip(params) {
        let items: u64 = node.inputs.iter().map(|from| given[*from]).sum();
        let (each, children) = match params {
            StageParams::Chunk(_) => (0, 1),
            StageParams::Generate(generate) => (1, items * u64::from(generate.questions_per_chunk)),
            StageParams::Validate(validate) => {
                (u64::from(validate.round_trip.enabled) + u64::from(validate.judge.asks()), items)
            }
            StageParams::Score(_) => (1, items),
            StageParams::Extract(_) | StageParams::Target(_) => (0, items),
        };
        if params.uses_model() {
            calls.push((node.name.clone(), items * each));
        }
        given.push(children);
    }
    calls
}
