//! `--set path.to.key=value` on top of the configuration files.
//!
//! Keys are joined by dots, items of a list are named by their index: `llm.endpoints.0.base_url`. A path that begins
//! with `stages.`, `near_duplicates.` or `prompts.` belongs to the pipeline file, as does one behind `pipeline.`; everything else belongs
//! to the run file. The value is a plain scalar as YAML reads it, or a list, a map or a quoted text in flow style;
//! nothing behind the `=` takes a value away, so that its default holds.

use std::sync::Arc;

use super::env::Lookup;
use super::yaml::{SET, parse_value};
use crate::model::params::{Fault, Key, Node, Place, Value};

/// What `--help` says of `--set`.
pub const HELP: &str = "\
Override one configuration value: path.to.key=value, list items by index (llm.endpoints.0.base_url=...). \
Paths that begin with `stages.` or `near_duplicates.` reach the pipeline file (stages.chunk.size=1000), all others \
the run file. \
The value is read as YAML: a number, true, text, [a, list] or {a: map}; an empty one restores the default. \
Paths in it are relative to the working directory";

/// How deep a path may go.
const MAX_DEPTH: usize = 32;

/// Which file an override belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The run file.
    Run,
    /// The pipeline file.
    Pipeline,
}

/// One override, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Override {
    /// The file it belongs to.
    pub(super) target: Target,
    keys: Vec<String>,
    value: Node,
    /// As it was given, for messages.
    text: String,
}

impl Override {
    /// Takes `path.to.key=value` apart.
    ///
    /// # Errors
    /// What is wrong with it, each time with the override itself.
    pub(super) fn parse(text: &str, lookup: Lookup<'_>) -> Result<Self, Vec<Fault>> {
        let Some((path, value)) = text.split_once('=') else {
            return Err(vec![fault(text, "it must be path.to.key=value")]);
        };
        let mut keys: Vec<String> = path.trim().split('.').map(|key| key.trim().to_owned()).collect();
        if keys.iter().any(String::is_empty) {
            return Err(vec![fault(text, "before the `=` must stand keys joined by dots, as in llm.concurrency")]);
        }
        if keys.len() > MAX_DEPTH {
            return Err(vec![fault(text, &format!("the path goes deeper than {MAX_DEPTH} keys"))]);
        }
        let target = match (keys[0].as_str(), keys.len()) {
            ("stages" | "prompts" | "near_duplicates", _) => Target::Pipeline,
            ("pipeline", 2..) => {
                keys.remove(0);
                Target::Pipeline
            }
            _ => Target::Run,
        };
        let value = parse_value(value, lookup)
            .map_err(|messages| messages.iter().map(|message| fault(text, message)).collect::<Vec<_>>())?;
        Ok(Self { target, keys, value, text: text.to_owned() })
    }

    /// Puts the value into the tree. Maps on the way are created, and the index one past a list's end appends.
    ///
    /// # Errors
    /// If the path leads through a value that is neither a map nor a list, or to an item that a list does not have.
    /// The tree is then as it was, save for maps created on the way.
    pub(super) fn apply(&self, tree: &mut Node) -> Result<(), Fault> {
        let mut node = tree;
        for (depth, key) in self.keys.iter().enumerate() {
            let so_far = || self.keys[..depth].join(".");
            let set: Arc<str> = SET.into();
            if node.value == Value::Null {
                // No map of the configuration has a number for a key.
                let value = if key.parse::<usize>().is_ok() { Value::List(Vec::new()) } else { Value::Map(Vec::new()) };
                *node = Node { file: Arc::clone(&set), line: 0, value };
            }
            let empty = Node { file: Arc::clone(&set), line: 0, value: Value::Null };
            node = match &mut node.value {
                Value::Map(entries) => {
                    let at = entries.iter().position(|(known, _)| known.name == *key).unwrap_or_else(|| {
                        entries.push((Key { name: key.clone(), line: 0 }, empty));
                        entries.len() - 1
                    });
                    &mut entries[at].1
                }
                Value::List(items) => {
                    let has = match items.len() {
                        1 => "the list has 1 item".to_owned(),
                        n => format!("the list has {n} items"),
                    };
                    let Ok(index) = key.parse::<usize>() else {
                        return Err(self.fault(&format!("`{}` is a list: name an item by its index; {has}", so_far())));
                    };
                    if index > items.len() {
                        let append = format!("index {} appends one", items.len());
                        return Err(self.fault(&format!("{has}; {append}")));
                    }
                    if index == items.len() {
                        items.push(empty);
                    }
                    &mut items[index]
                }
                other => {
                    let kind = other.kind();
                    return Err(self.fault(&format!("`{}` is {kind}, so there is no `{key}` in it", so_far())));
                }
            };
        }
        *node = self.value.clone();
        Ok(())
    }

    fn fault(&self, message: &str) -> Fault {
        fault(&self.text, message)
    }
}

/// A fault of one override.
fn fault(text: &str, message: &str) -> Fault {
    Fault { place: Place { file: format!("{SET} {text}").into(), line: 0 }, message: message.into() }
}

#[cfg(test)]
mod tests {
    use std::env::VarError;

    use proptest::prelude::*;

    use super::*;
    use crate::config::yaml::parse;

    fn none(_: &str) -> Result<String, VarError> {
        Err(VarError::NotPresent)
    }

    fn tree() -> Node {
        let text = b"llm:\n  model: m\n  endpoints: [{base_url: a}]\n  retry:\nstate: s\n";
        parse(&"run.yaml".into(), text, &none, &mut Vec::new()).expect("well-formed")
    }

    fn at<'a>(mut node: &'a Node, path: &str) -> &'a Node {
        for key in path.split('.') {
            node = match &node.value {
                Value::List(items) => &items[key.parse::<usize>().expect("index")],
                _ => node.get(key).expect("key"),
            };
        }
        node
    }

    fn set(text: &str) -> Result<Node, String> {
        let shown = |faults: Vec<Fault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let mut tree = tree();
        Override::parse(text, &none).map_err(shown)?.apply(&mut tree).map_err(|fault| fault.to_string())?;
        Ok(tree)
    }

    #[test]
    fn values_are_replaced_created_and_appended() {
        for (text, path, want) in [
            ("llm.model=other: 1 #x", "llm.model", Value::Text("other: 1 #x".into())),
            ("llm.concurrency=20", "llm.concurrency", Value::Int(20)),
            ("llm.retry.initial_ms=5", "llm.retry.initial_ms", Value::Int(5)),
            ("store.lease.deep=true", "store.lease.deep", Value::Bool(true)),
            ("llm.endpoints.0.base_url=b", "llm.endpoints.0.base_url", Value::Text("b".into())),
            ("llm.endpoints.1.base_url=c=d", "llm.endpoints.1.base_url", Value::Text("c=d".into())),
            ("input.0=x", "input.0", Value::Text("x".into())),
            ("state=", "state", Value::Null),
            ("state=\"20\"", "state", Value::Text("20".into())),
            ("state=- *x", "state", Value::Text("- *x".into())),
        ] {
            let tree = set(text).expect(text);
            assert_eq!(at(&tree, path).value, want, "{text}");
            assert_eq!(at(&tree, path).place().to_string(), "--set", "{text}");
        }
        let tree = set("llm.endpoints=[{base_url: b, weight: 2}, {base_url: c}]").expect("flow list");
        assert_eq!(at(&tree, "llm.endpoints.0.weight").value, Value::Int(2));
        assert_eq!(at(&tree, "llm.endpoints.1").place().to_string(), "--set");
        assert_eq!(at(&tree, "llm.model").place().to_string(), "run.yaml:2");
    }

    #[test]
    fn faults_name_the_override() {
        let texts = [
            "llm.endpoints.5.base_url=x",
            "llm.endpoints.first=x",
            "llm.model.name=x",
            "stages",
            "=x",
            "llm..model=x",
            "input.3=x",
            "a=[1",
            "a={b: 1}}",
            "a=${NONE}",
            "a=[\"${NONE}\"]",
        ];
        let all: Vec<String> = texts
            .iter()
            .map(|text| match set(text) {
                Ok(tree) => format!("accepted: {tree:?}"),
                Err(message) => message,
            })
            .collect();
        insta::assert_snapshot!(all.join("\n"), @r#"
        --set llm.endpoints.5.base_url=x: the list has 1 item; index 1 appends one
        --set llm.endpoints.first=x: `llm.endpoints` is a list: name an item by its index; the list has 1 item
        --set llm.model.name=x: `llm.model` is text, so there is no `name` in it
        --set stages: it must be path.to.key=value
        --set =x: before the `=` must stand keys joined by dots, as in llm.concurrency
        --set llm..model=x: before the `=` must stand keys joined by dots, as in llm.concurrency
        --set input.3=x: the list has 0 items; index 0 appends one
        --set a=[1: the value is not well-formed YAML: close every bracket and quote, or quote the whole as text
        --set a={b: 1}}: the value is not well-formed YAML: close every bracket and quote, or quote the whole as text
        --set a=${NONE}: the environment variable `NONE` is not set: set it, or give a default as in `${NONE:-default}`
        --set a=["${NONE}"]: the environment variable `NONE` is not set: set it, or give a default as in `${NONE:-default}`
        "#);
    }

    #[test]
    fn stages_belong_to_the_pipeline() {
        for (text, target, keys) in [
            ("stages.chunk.size=1", Target::Pipeline, "stages.chunk.size"),
            ("pipeline.stages.chunk.size=1", Target::Pipeline, "stages.chunk.size"),
            ("pipeline.name=x", Target::Pipeline, "name"),
            ("prompts.system=x", Target::Pipeline, "prompts.system"),
            ("pipeline=x.yaml", Target::Run, "pipeline"),
            ("llm.model=x", Target::Run, "llm.model"),
        ] {
            let parsed = Override::parse(text, &none).expect(text);
            assert_eq!((parsed.target, parsed.keys.join(".").as_str()), (target, keys), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-c0-2.=\\[\\]{}:,\"'$ \\-#&*!ü\n]{0,30}") {
            let _ = set(&text);
        }

        /// What was set is found where it was set, and everything else is as before.
        #[test]
        fn what_is_set_is_found(keys in proptest::collection::vec("[a-z]{1,5}", 1..5), value in any::<i64>()) {
            let path = format!("new_{}", keys.join("."));
            let changed = set(&format!("{path}={value}")).expect("a new path");
            prop_assert_eq!(&at(&changed, &path).value, &Value::Int(value));
            let before = tree();
            for old in ["llm", "state"] {
                prop_assert_eq!(at(&changed, old), at(&before, old));
            }
        }
    }
}
