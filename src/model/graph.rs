//! The graph of stages: checked before anything starts, every fault reported at once.

use std::collections::BTreeSet;

use super::ids::Fingerprint;
use super::params::{Fault, Place, nearest};
use super::payload::PayloadKind;

/// The name under which stages refer to the source of documents.
pub const SOURCE: &str = "source";

/// A stage as a pipeline file declares it.
#[derive(Clone, Debug)]
pub struct StageDecl {
    /// Its name, unique in the pipeline.
    pub name: String,
    /// What it takes and gives, `None` if its kind is unknown (which is reported where kinds are known).
    pub kinds: Option<(PayloadKind, PayloadKind)>,
    /// The stages (or [`SOURCE`]) whose outputs it takes.
    pub inputs: Vec<String>,
    /// Where it stands.
    pub place: Place,
}

/// A node of a checked graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphNode {
    /// The stage's name.
    pub name: String,
    /// Indices of the stages that feed it.
    pub inputs: Vec<usize>,
    /// Whether the source feeds it.
    pub from_source: bool,
    /// Indices of the stages that it feeds.
    pub consumers: Vec<usize>,
    /// The longest way from the source, from 1: what is furthest goes first.
    pub depth: u32,
}

/// A checked graph, its nodes in topological order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// The nodes, each after all that feed it.
    pub nodes: Vec<GraphNode>,
    /// For each node, its index among the declarations.
    pub declared: Vec<usize>,
}

impl Graph {
    /// Checks the declarations and orders them.
    ///
    /// # Errors
    /// Every fault: duplicate names, unknown or missing inputs, cycles, unreachable stages, edges whose payload
    /// kinds do not fit.
    pub fn build(decls: &[StageDecl]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |decl: &StageDecl, message: String| faults.push(Fault { place: decl.place.clone(), message });
        let names: Vec<String> = decls.iter().map(|d| d.name.clone()).collect();
        let index_of = |name: &str| names.iter().position(|n| n == name);

        let mut inputs: Vec<Vec<usize>> = Vec::with_capacity(decls.len());
        for (i, decl) in decls.iter().enumerate() {
            if decl.name == SOURCE {
                fault(decl, format!("a stage cannot be called `{SOURCE}`: that is where the documents come from"));
            } else if let Some(first) = index_of(&decl.name).filter(|first| *first < i) {
                fault(decl, format!("stage `{}` is defined twice, first at {}", decl.name, decls[first].place));
            }
            if decl.inputs.is_empty() {
                fault(
                    decl,
                    format!("stage `{}` has no input: give it `input: {SOURCE}` or another stage's name", decl.name),
                );
            }
            let mut seen = BTreeSet::new();
            let mut resolved = Vec::new();
            for input in &decl.inputs {
                if !seen.insert(input.as_str()) {
                    fault(decl, format!("stage `{}` names its input `{input}` twice", decl.name));
                    continue;
                }
                let accepts = decl.kinds.map(|(accepts, _)| accepts);
                let emits = if input == SOURCE {
                    Some(PayloadKind::Document)
                } else if let Some(from) = index_of(input) {
                    resolved.push(from);
                    decls[from].kinds.map(|(_, emits)| emits)
                } else {
                    let hint = nearest(input, &names).map_or_else(
                        || format!("known are: {SOURCE}, {}", names.join(", ")),
                        |near| format!("did you mean `{near}`?"),
                    );
                    fault(
                        decl,
                        format!("stage `{}` takes its input from `{input}`, which does not exist: {hint}", decl.name),
                    );
                    None
                };
                if let (Some(accepts), Some(emits)) = (accepts, emits)
                    && accepts != emits
                {
                    fault(
                        decl,
                        format!(
                            "stage `{}` takes {accepts} items, but its input `{input}` gives {emits} items",
                            decl.name
                        ),
                    );
                }
            }
            inputs.push(resolved);
        }
        if decls.is_empty() {
            return Err(faults);
        }

        let order = topological(&inputs);
        for (i, decl) in decls.iter().enumerate() {
            if !order.contains(&i)
                && let Some(cycle) = cycle_through(i, &inputs)
            {
                let way: Vec<&str> = cycle.iter().map(|n| names[*n].as_str()).collect();
                fault(decl, format!("stage `{}` depends on itself: {} → {}", decl.name, way.join(" → "), decl.name));
            }
        }
        let reachable = reachable_from_source(decls, &inputs);
        for (i, decl) in decls.iter().enumerate() {
            let blamed_already = decl.inputs.is_empty() || cycle_through(i, &inputs).is_some();
            let unknown = decl.inputs.iter().any(|input| input != SOURCE && index_of(input).is_none());
            if !reachable[i] && !blamed_already && !unknown {
                fault(decl, format!("stage `{}` can never get an item: no way leads to it from `{SOURCE}`", decl.name));
            }
        }
        if !faults.is_empty() {
            faults.sort();
            return Err(faults);
        }

        let mut position = vec![0; decls.len()];
        for (at, declared) in order.iter().enumerate() {
            position[*declared] = at;
        }
        let mut nodes: Vec<GraphNode> = order
            .iter()
            .map(|declared| GraphNode {
                name: names[*declared].clone(),
                inputs: inputs[*declared].iter().map(|from| position[*from]).collect(),
                from_source: decls[*declared].inputs.iter().any(|input| input == SOURCE),
                consumers: Vec::new(),
                depth: 1,
            })
            .collect();
        for at in 0..nodes.len() {
            for from in nodes[at].inputs.clone() {
                nodes[from].consumers.push(at);
                nodes[at].depth = nodes[at].depth.max(nodes[from].depth + 1);
            }
        }
        Ok(Self { nodes, declared: order })
    }

    /// The fingerprint of every node, from each node's own determinants and the fingerprints of all that feeds it.
    pub fn fingerprints(&self, own: impl Fn(usize) -> Vec<u8>) -> Vec<Fingerprint> {
        let mut all: Vec<Fingerprint> = Vec::with_capacity(self.nodes.len());
        for (at, node) in self.nodes.iter().enumerate() {
            let mut upstream: Vec<Fingerprint> = node.inputs.iter().map(|from| all[*from]).collect();
            if node.from_source {
                upstream.push(Fingerprint::source());
            }
            upstream.sort_unstable();
            let own = own(at);
            let mut parts: Vec<(&str, &[u8])> = vec![("own", &own)];
            parts.extend(upstream.iter().map(|f| ("upstream", &f.0[..])));
            all.push(Fingerprint::of(&parts));
        }
        all
    }

    /// Nodes that feed nothing: where the results are.
    pub fn terminals(&self) -> impl Iterator<Item = usize> + '_ {
        self.nodes.iter().enumerate().filter(|(_, node)| node.consumers.is_empty()).map(|(at, _)| at)
    }
}

/// Kahn's algorithm, ties by declaration; nodes on or behind a cycle are left out.
fn topological(inputs: &[Vec<usize>]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::with_capacity(inputs.len());
    let mut placed = vec![false; inputs.len()];
    while let Some(next) = (0..inputs.len()).find(|i| !placed[*i] && inputs[*i].iter().all(|from| placed[*from])) {
        placed[next] = true;
        order.push(next);
    }
    order
}

/// A way from `start` over its inputs back to `start`, if there is one.
fn cycle_through(start: usize, inputs: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut stack = vec![vec![start]];
    let mut seen = vec![false; inputs.len()];
    while let Some(way) = stack.pop() {
        let at = *way.last()?;
        for from in &inputs[at] {
            if *from == start {
                return Some(way);
            }
            if !std::mem::replace(&mut seen[*from], true) {
                let mut longer = way.clone();
                longer.push(*from);
                stack.push(longer);
            }
        }
    }
    None
}

fn reachable_from_source(decls: &[StageDecl], inputs: &[Vec<usize>]) -> Vec<bool> {
    let mut reachable: Vec<bool> = decls.iter().map(|d| d.inputs.iter().any(|input| input == SOURCE)).collect();
    loop {
        let before = reachable.clone();
        for (i, from) in inputs.iter().enumerate() {
            reachable[i] = reachable[i] || from.iter().any(|f| before[*f]);
        }
        if before == reachable {
            return reachable;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decl(name: &str, inputs: &[&str], accepts: PayloadKind, emits: PayloadKind, line: u32) -> StageDecl {
        StageDecl {
            name: name.into(),
            kinds: Some((accepts, emits)),
            inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
            place: Place { file: "p.yaml".into(), line },
        }
    }

    fn messages(decls: &[StageDecl]) -> Vec<String> {
        Graph::build(decls).expect_err("faulty").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn fork_and_join_are_ordered_with_depths() {
        use PayloadKind::{Chunk, Document, Pages, Pair, Verdict};
        let graph = Graph::build(&[
            decl("check", &["facts", "rules"], Pair, Verdict, 5),
            decl("facts", &["chunk"], Chunk, Pair, 3),
            decl("rules", &["chunk"], Chunk, Pair, 4),
            decl("chunk", &["extract"], Pages, Chunk, 2),
            decl("extract", &["source"], Document, Pages, 1),
        ])
        .expect("sound");
        let names: Vec<&str> = graph.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["extract", "chunk", "facts", "rules", "check"]);
        assert_eq!(graph.nodes[1].consumers, [2, 3]);
        assert_eq!(graph.nodes[4].inputs, [2, 3]);
        assert_eq!(graph.nodes[4].depth, 4);
        assert_eq!(graph.terminals().collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn all_faults_come_at_once() {
        use PayloadKind::{Chunk, Document, Pages, Pair};
        let shown = messages(&[
            decl("extract", &["source"], Document, Pages, 1),
            decl("chunk", &["extrct"], Pages, Chunk, 2),
            decl("generate", &["extract"], Chunk, Pair, 3),
            decl("a", &["b"], Chunk, Chunk, 4),
            decl("b", &["a"], Chunk, Chunk, 5),
            decl("c", &["b"], Chunk, Chunk, 6),
            decl("extract", &[], Document, Pages, 7),
        ]);
        insta::assert_snapshot!(shown.join("\n"), @r"
        p.yaml:2: stage `chunk` takes its input from `extrct`, which does not exist: did you mean `extract`?
        p.yaml:3: stage `generate` takes chunk items, but its input `extract` gives pages items
        p.yaml:4: stage `a` depends on itself: a → b → a
        p.yaml:5: stage `b` depends on itself: b → a → b
        p.yaml:6: stage `c` can never get an item: no way leads to it from `source`
        p.yaml:7: stage `extract` has no input: give it `input: source` or another stage's name
        p.yaml:7: stage `extract` is defined twice, first at p.yaml:1
        ");
    }

    #[test]
    fn a_change_moves_the_fingerprints_below_it_only() {
        use PayloadKind::{Document, Pages};
        let graph = Graph::build(&[
            decl("x", &["source"], Document, Pages, 1),
            decl("y", &["x"], Pages, Pages, 2),
            decl("z", &["y"], Pages, Pages, 3),
            decl("w", &["x"], Pages, Pages, 4),
        ])
        .expect("sound");
        let before = graph.fingerprints(|at| graph.nodes[at].name.clone().into_bytes());
        let after = graph.fingerprints(|at| {
            if graph.nodes[at].name == "y" { b"y2".to_vec() } else { graph.nodes[at].name.clone().into_bytes() }
        });
        for (at, node) in graph.nodes.iter().enumerate() {
            let moved = before[at] != after[at];
            assert_eq!(moved, ["y", "z"].contains(&node.name.as_str()), "{}", node.name);
        }
    }

    proptest! {
        /// Any set of edges is either refused with a fault, or ordered so that inputs come first and depths grow.
        #[test]
        fn random_graphs_are_ordered_or_refused(edges in proptest::collection::vec((0usize..8, 0usize..9), 0..24)) {
            let names: Vec<String> = (0..8).map(|i| format!("s{i}")).collect();
            let decls: Vec<StageDecl> = (0..8).map(|i| {
                let inputs: BTreeSet<String> = edges.iter().filter(|(to, _)| *to == i)
                    .map(|(_, from)| if *from == 8 { SOURCE.to_owned() } else { names[*from].clone() }).collect();
                StageDecl { name: names[i].clone(), kinds: Some((PayloadKind::Document, PayloadKind::Document)),
                    inputs: inputs.into_iter().collect(), place: Place { file: "p".into(), line: i as u32 + 1 } }
            }).collect();
            // The reference answer: repeatedly remove what is fed by removed stages or the source alone.
            let mut removed = [false; 8];
            for _ in 0..8 {
                for i in 0..8 {
                    let fed = !decls[i].inputs.is_empty()
                        && decls[i].inputs.iter().all(|f| f == SOURCE || names.iter().position(|n| n == f).is_some_and(|f| removed[f]));
                    removed[i] = removed[i] || fed;
                }
            }
            match Graph::build(&decls) {
                Ok(graph) => {
                    prop_assert!(removed.iter().all(|r| *r));
                    for (at, node) in graph.nodes.iter().enumerate() {
                        prop_assert!(node.inputs.iter().all(|from| *from < at && graph.nodes[*from].depth < node.depth));
                        prop_assert!(node.consumers.iter().all(|to| graph.nodes[*to].inputs.contains(&at)));
                    }
                }
                Err(faults) => {
                    prop_assert!(!faults.is_empty());
                    prop_assert!(removed.iter().any(|r| !*r));
                }
            }
        }
    }
}
