//! The pipeline file: the stages and what each is made of, whatever kinds of stages there are.

use super::forms::is_plain_name;
use crate::model::graph::{Graph, SOURCE, StageDecl};
use crate::model::near_duplicates::NearDuplicateParams;
use crate::model::params::{Documented, Fault, Node, Place, Reader, Value, nearest};
use crate::model::payload::PayloadKind;

/// The kinds of stages that there are; the stage registry is one.
pub trait Kinds {
    /// What a stage is made from.
    type Params;

    /// The names of all kinds, in the order of documentation.
    fn kinds(&self) -> Vec<&'static str>;

    /// What a kind takes and gives; `None` if there is no such kind.
    fn payloads(&self, kind: &str) -> Option<(PayloadKind, PayloadKind)>;

    /// Reads the parameters of a stage of that kind. The reader has the keys that all stages share already; faults
    /// are noted in it, and unknown keys are found afterwards. `None` if nothing can be made of them, or if there is
    /// no such kind.
    fn read(&self, kind: &str, reader: &mut Reader<'_>) -> Option<Self::Params>;
}

/// A pipeline file.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineDoc<P> {
    /// The pipeline's name.
    pub name: String,
    /// Its stages in the order of the file; [`Graph::declared`] points here.
    pub stages: Vec<StageEntry<P>>,
    /// When two pairs of the dataset count as one.
    pub near_duplicates: NearDuplicateParams,
}

/// A stage of a pipeline file.
#[derive(Clone, Debug, PartialEq)]
pub struct StageEntry<P> {
    /// Its name, unique in the pipeline.
    pub name: String,
    /// Its kind, one of [`Kinds::kinds`].
    pub kind: String,
    /// The stages, or [`SOURCE`], whose outputs it takes.
    pub inputs: Vec<String>,
    /// How many items it works on at once, 1 to 4096; `None`: as its kind sees fit.
    pub concurrency: Option<usize>,
    /// How many items wait before it at most, 1 to 65,536.
    pub buffer: usize,
    /// The rest, read by its kind.
    pub params: P,
    /// Where it stands.
    pub place: Place,
}

/// How many items wait before a stage where nothing is said.
const BUFFER: i64 = 64;

/// Reads the pipeline file's tree. `stem` is its name where it gives none. Faults and the rows of the reference are
/// added to; `None` if there are faults of any stage or of the graph.
pub(super) fn read<K: Kinds>(
    tree: &Node,
    stem: &str,
    kinds: &K,
    faults: &mut Vec<Fault>,
    documented: &mut Vec<Documented>,
) -> Option<(PipelineDoc<K::Params>, Graph)> {
    let mut reader = Reader::new(tree, "", faults, documented);
    let name = reader.optional_text("name", "the file's name without its ending", "the pipeline's name, for people");
    reader.raw("stages", "a map of stages by name", "required", "the stages; their order is free");
    let entries = match tree.get("stages").map(|node| &node.value) {
        Some(Value::Map(entries)) if !entries.is_empty() => entries.as_slice(),
        Some(Value::Map(_) | Value::Null) | None => {
            let example = "as in `stages: {extract: {kind: extract, input: source}}`";
            reader.fault("stages", format!("stages is missing: a pipeline needs one stage at least, {example}"));
            &[]
        }
        Some(other) => {
            let message = format!("stages must be a map of stages by name, not {}", other.kind());
            reader.fault("stages", message);
            &[]
        }
    };
    let near_duplicates = reader.section("near_duplicates", NearDuplicateParams::read);
    reader.finish();

    let mut decls = Vec::with_capacity(entries.len());
    let mut stages = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        let place = Place { file: node.file.clone(), line: key.line };
        if !is_plain_name(&key.name) || key.name.contains('.') {
            let message = format!(
                "a stage cannot be called `{}`: use letters, digits, `_` and `-`, at most 100, with a letter or digit \
                 first",
                key.name
            );
            faults.push(Fault { place: place.clone(), message });
        }
        let (decl, stage) = read_stage(&key.name, node, place, kinds, faults, documented);
        decls.push(decl);
        stages.extend(stage);
    }
    let graph = match Graph::build(&decls) {
        Ok(graph) => Some(graph),
        Err(wrong) => {
            faults.extend(wrong);
            None
        }
    };
    let complete = stages.len() == decls.len() && !stages.is_empty();
    let name = name.unwrap_or_else(|| stem.to_owned());
    graph.filter(|_| complete).map(|graph| (PipelineDoc { name, stages, near_duplicates }, graph))
}

fn read_stage<K: Kinds>(
    name: &str,
    node: &Node,
    place: Place,
    kinds: &K,
    faults: &mut Vec<Fault>,
    documented: &mut Vec<Documented>,
) -> (StageDecl, Option<StageEntry<K::Params>>) {
    let before = faults.len();
    let mut reader = Reader::new(node, &format!("stages.{name}"), faults, documented);
    let common = read_common(&mut reader, kinds);
    // What is missing is blamed on the stage's own line; what has a wrong form is noted by the reader.
    let is_map = matches!(node.value, Value::Map(_) | Value::Null);
    let payloads = common.kind.as_deref().and_then(|kind| kinds.payloads(kind));
    let mut params = None;
    match (&common.kind, payloads) {
        (Some(kind), Some(_)) => {
            params = kinds.read(kind, &mut reader);
            reader.finish();
        }
        (Some(kind), None) => {
            let known: Vec<String> = kinds.kinds().iter().map(|kind| (*kind).to_owned()).collect();
            let hint = nearest(kind, &known)
                .map_or_else(|| format!("known are: {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
            reader.fault("kind", format!("stages.{name}.kind: there is no kind of stage `{kind}`: {hint}"));
        }
        (None, _) if is_map && !reader.has("kind") => {
            let known = kinds.kinds().join(", ");
            reader.fault("kind", format!("stages.{name}.kind is missing: one of {known}"));
        }
        (None, _) => {}
    }
    // An input that could not be read has been noted; the graph's check would blame its absence too.
    let unread = common.inputs.is_empty() && (!is_map || node.get("input").is_some_and(|n| n.value != Value::Null));
    let (inputs, payloads) = if unread { (vec![SOURCE.to_owned()], None) } else { (common.inputs.clone(), payloads) };
    let decl = StageDecl { name: name.to_owned(), kinds: payloads, inputs, place: place.clone() };
    let entry = match (common.kind, params) {
        (Some(kind), Some(params)) => Some(StageEntry {
            name: name.to_owned(),
            kind,
            inputs: common.inputs,
            concurrency: common.concurrency,
            buffer: common.buffer,
            params,
            place: place.clone(),
        }),
        _ => None,
    };
    if entry.is_none() && faults.len() == before {
        let message = format!("stages.{name} cannot be made from these parameters");
        faults.push(Fault { place, message });
    }
    (decl, entry)
}

/// The keys that all stages share.
struct Common {
    kind: Option<String>,
    inputs: Vec<String>,
    concurrency: Option<usize>,
    buffer: usize,
}

fn read_common<K: Kinds>(reader: &mut Reader<'_>, kinds: &K) -> Common {
    let meaning = format!("the kind of stage: one of {}", kinds.kinds().join(", "));
    let number = |n: i64| usize::try_from(n).unwrap_or(1);
    Common {
        kind: reader.optional_text("kind", "required", &meaning),
        inputs: reader.texts(
            "input",
            &[],
            "required: the stage whose outputs it takes, or `source` for the documents; a list joins several",
        ),
        concurrency: reader
            .optional_int("concurrency", 1..=4096, "as its kind sees fit", "how many items it works on at once")
            .map(number),
        buffer: number(reader.int("buffer", BUFFER, 1..=65_536, "how many items wait before it at most")),
    }
}

/// The rows of the reference for every kind of stage, each as the stage `stages.KIND`.
pub(super) fn document<K: Kinds>(kinds: &K, documented: &mut Vec<Documented>) {
    let nothing = Node::empty_map(&"".into(), 0);
    let mut unheeded = Vec::new();
    let _ = read(&nothing, "", kinds, &mut unheeded, documented);
    let mut shared = Reader::new(&nothing, "stages.NAME", &mut unheeded, documented);
    let _ = read_common(&mut shared, kinds);
    for kind in kinds.kinds() {
        let mut reader = Reader::new(&nothing, &format!("stages.{kind}"), &mut unheeded, documented);
        let _ = kinds.read(kind, &mut reader);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::tests::{parsed, shown};

    /// Four kinds, the way the registry would have them.
    pub(in crate::config) struct Fake;

    impl Kinds for Fake {
        type Params = String;

        fn kinds(&self) -> Vec<&'static str> {
            vec!["extract", "chunk", "generate", "choosy"]
        }

        fn payloads(&self, kind: &str) -> Option<(PayloadKind, PayloadKind)> {
            match kind {
                "extract" => Some((PayloadKind::Document, PayloadKind::Pages)),
                "chunk" => Some((PayloadKind::Pages, PayloadKind::Chunk)),
                "generate" => Some((PayloadKind::Chunk, PayloadKind::Pair)),
                "choosy" => Some((PayloadKind::Document, PayloadKind::Document)),
                _ => None,
            }
        }

        fn read(&self, kind: &str, reader: &mut Reader<'_>) -> Option<String> {
            match kind {
                "chunk" => Some(format!("size {}", reader.int("size", 1500, 100..=100_000, "target size"))),
                "choosy" => None,
                _ => Some(kind.to_owned()),
            }
        }
    }

    fn read_text(text: &str) -> Result<(PipelineDoc<String>, Graph), String> {
        let mut faults = Vec::new();
        let tree = parsed("p.yaml", text);
        let read = read(&tree, "p", &Fake, &mut faults, &mut Vec::new());
        read.filter(|_| faults.is_empty()).ok_or_else(|| shown(faults))
    }

    #[test]
    fn stages_are_read_in_any_order() {
        let (doc, graph) = read_text(
            "stages:\n  generate: {kind: generate, input: [chunk, small], concurrency: 8, buffer: 2}\n  \
             chunk: {kind: chunk, input: extract, size: 200}\n  small: {kind: chunk, input: [extract]}\n  \
             extract:\n    kind: extract\n    input: source\n",
        )
        .expect("sound");
        assert_eq!(doc.name, "p");
        let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["extract", "chunk", "small", "generate"]);
        let declared: Vec<&str> = graph.declared.iter().map(|at| doc.stages[*at].name.as_str()).collect();
        assert_eq!(declared, names);
        insta::assert_snapshot!(format!("{:?}\n{:?}", doc.stages[0], doc.stages[1]), @r#"
        StageEntry { name: "generate", kind: "generate", inputs: ["chunk", "small"], concurrency: Some(8), buffer: 2, params: "generate", place: Place { file: "p.yaml", line: 2 } }
        StageEntry { name: "chunk", kind: "chunk", inputs: ["extract"], concurrency: None, buffer: 64, params: "size 200", place: Place { file: "p.yaml", line: 3 } }
        "#);
    }

    #[test]
    fn every_fault_of_the_stages_and_the_graph() {
        let faults = read_text(
            "name: [x]
stages:
  extract: {kind: extrct, input: source, dpi: 3}
  chunk: {kind: chunk, input: extract, size: 1, sise: 5}
  generate: {kind: generate, input: chnk, concurrency: 0, buffer: big}
  none: {input: source}
  empty:
  noinput: {kind: chunk}
  badinput: {kind: chunk, input: {a: 1}}
  badkind: {kind: [chunk], input: source}
  text: chunk
  mismatch: {kind: generate, input: source}
  a.b: {kind: extract, input: source}
  source: {kind: extract, input: source}
  loop: {kind: choosy, input: loop}
  choosy: {kind: choosy, input: source}
extra: 1
",
        )
        .expect_err("faulty");
        insta::assert_snapshot!(faults, @r#"
        p.yaml:1: name must be text, not a list
        p.yaml:3: stages.extract.kind: there is no kind of stage `extrct`: did you mean `extract`?
        p.yaml:4: stages.chunk.size must be a whole number from 100 to 100000, not 1
        p.yaml:4: unknown key `stages.chunk.sise`: did you mean `size`?
        p.yaml:5: stage `generate` takes its input from `chnk`, which does not exist: did you mean `chunk`?
        p.yaml:5: stages.generate.buffer must be a whole number from 1 to 65536, not "big"
        p.yaml:5: stages.generate.concurrency must be a whole number from 1 to 4096, not 0
        p.yaml:6: stages.none.kind is missing: one of extract, chunk, generate, choosy
        p.yaml:7: stage `empty` has no input: give it `input: source` or another stage's name
        p.yaml:7: stages.empty.kind is missing: one of extract, chunk, generate, choosy
        p.yaml:8: stage `noinput` has no input: give it `input: source` or another stage's name
        p.yaml:9: stages.badinput.input must be a list of texts, not a map
        p.yaml:10: stages.badkind.kind must be text, not a list
        p.yaml:11: stages.text must be a map of keys and values, not text
        p.yaml:12: stage `mismatch` takes chunk items, but its input `source` gives document items
        p.yaml:13: a stage cannot be called `a.b`: use letters, digits, `_` and `-`, at most 100, with a letter or digit first
        p.yaml:14: a stage cannot be called `source`: that is where the documents come from
        p.yaml:15: stage `loop` depends on itself: loop → loop
        p.yaml:15: stages.loop cannot be made from these parameters
        p.yaml:16: stages.choosy cannot be made from these parameters
        p.yaml:17: unknown key `extra`: known are: name, stages, near_duplicates
        "#);
    }

    #[test]
    fn stages_must_be_there() {
        let all = ["name: x", "name: x\nstages:", "stages: {}", "stages: [a]", "name: x\nstages: text"]
            .map(|text| read_text(text).expect_err(text));
        insta::assert_snapshot!(all.join("\n"), @r#"
        p.yaml:1: stages is missing: a pipeline needs one stage at least, as in `stages: {extract: {kind: extract, input: source}}`
        p.yaml:2: stages is missing: a pipeline needs one stage at least, as in `stages: {extract: {kind: extract, input: source}}`
        p.yaml:1: stages is missing: a pipeline needs one stage at least, as in `stages: {extract: {kind: extract, input: source}}`
        p.yaml:1: stages must be a map of stages by name, not a list
        p.yaml:2: stages must be a map of stages by name, not text
        "#);
    }
}
