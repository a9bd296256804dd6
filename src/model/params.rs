//! Configuration as a tree that remembers lines, and a reader that turns it into typed values while it collects
//! every fault, so that all of them are reported at once, each with its file and line.
//!
//! Whoever reads a value also says what it means; the configuration reference is made from that.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A value with the place it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The file, or `--set` for one from the command line.
    pub file: Arc<str>,
    /// The line, from 1; 0 where there is none.
    pub line: u32,
    /// The value.
    pub value: Value,
}

/// A value of the tree.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with values, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The key.
    pub name: String,
    /// The line it stands on.
    pub line: u32,
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl Node {
    /// An empty map, for a section that is left out.
    pub fn empty_map(file: &Arc<str>, line: u32) -> Self {
        Self { file: Arc::clone(file), line, value: Value::Map(Vec::new()) }
    }

    /// The value under `name` of a map.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The place, as `file:line`.
    pub fn place(&self) -> Place {
        Place { file: Arc::clone(&self.file), line: self.line }
    }
}

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, or `--set`.
    pub file: Arc<str>,
    /// The line, from 1; 0 where there is none.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.file) } else { write!(f, "{}:{}", self.file, self.line) }
    }
}

/// One fault of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// One value that a reader asked for: a row of the configuration reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documented {
    /// The full path, as in `llm.concurrency`.
    pub path: String,
    /// What may stand there, as in `whole number, 1 to 4096`.
    pub form: String,
    /// What holds if nothing stands there.
    pub default: String,
    /// What it means.
    pub meaning: String,
}

/// Reads one map. Every accessor takes the key, what holds if it is missing, and what it means. A fault is noted
/// and the default returned, so that reading goes on to the next fault. At the end [`Reader::finish`] reports the
/// keys that nobody asked for.
pub struct Reader<'a> {
    node: &'a Node,
    path: String,
    asked: Vec<String>,
    faults: &'a mut Vec<Fault>,
    documented: &'a mut Vec<Documented>,
}

impl<'a> Reader<'a> {
    /// Reads `node`, which stands at `path` (empty for the top), and must be a map.
    pub fn new(node: &'a Node, path: &str, faults: &'a mut Vec<Fault>, documented: &'a mut Vec<Documented>) -> Self {
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            let name = if path.is_empty() { "the file" } else { path };
            let message = format!("{name} must be a map of keys and values, not {}", node.value.kind());
            faults.push(Fault { place: node.place(), message });
        }
        Self { node, path: path.into(), asked: Vec::new(), faults, documented }
    }

    /// The full path of a key.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// Where the map stands.
    pub fn place(&self) -> Place {
        self.node.place()
    }

    /// Notes a fault at `key`'s value, or at the map if the key is missing.
    pub fn fault(&mut self, key: &str, message: impl Into<String>) {
        let place = self.node.get(key).unwrap_or(self.node).place();
        self.faults.push(Fault { place, message: message.into() });
    }

    /// The raw value of a key, marked as known. `null` counts as missing.
    pub fn raw(&mut self, key: &str, form: &str, default: &str, meaning: &str) -> Option<&'a Node> {
        self.asked.push(key.into());
        self.documented.push(Documented {
            path: self.path_of(key),
            form: form.into(),
            default: default.into(),
            meaning: meaning.into(),
        });
        self.node.get(key).filter(|node| node.value != Value::Null)
    }

    fn wrong(&mut self, key: &str, node: &Node, expected: &str) {
        let shown = match &node.value {
            Value::Text(text) => format!("\"{text}\""),
            Value::Int(n) => n.to_string(),
            Value::Float(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            other => other.kind().into(),
        };
        let message = format!("{} must be {expected}, not {shown}", self.path_of(key));
        self.faults.push(Fault { place: node.place(), message });
    }

    /// A whole number within a range, or `None`.
    pub fn optional_int(
        &mut self,
        key: &str,
        range: std::ops::RangeInclusive<i64>,
        default: &str,
        meaning: &str,
    ) -> Option<i64> {
        let form = if *range.end() == i64::MAX {
            format!("a whole number of at least {}", range.start())
        } else {
            format!("a whole number from {} to {}", range.start(), range.end())
        };
        let node = self.raw(key, &form, default, meaning)?;
        match node.value {
            Value::Int(n) if range.contains(&n) => Some(n),
            _ => {
                self.wrong(key, node, &form);
                None
            }
        }
    }

    /// A whole number within a range.
    pub fn int(&mut self, key: &str, default: i64, range: std::ops::RangeInclusive<i64>, meaning: &str) -> i64 {
        self.optional_int(key, range, &default.to_string(), meaning).unwrap_or(default)
    }

    /// A number within a range.
    pub fn float(&mut self, key: &str, default: f64, range: std::ops::RangeInclusive<f64>, meaning: &str) -> f64 {
        let form = format!("a number from {} to {}", range.start(), range.end());
        let Some(node) = self.raw(key, &form, &default.to_string(), meaning) else { return default };
        let number = match node.value {
            Value::Int(n) => n as f64,
            Value::Float(n) => n,
            _ => f64::NAN,
        };
        if range.contains(&number) {
            return number;
        }
        self.wrong(key, node, &form);
        default
    }

    /// True or false.
    pub fn bool(&mut self, key: &str, default: bool, meaning: &str) -> bool {
        let Some(node) = self.raw(key, "true or false", &default.to_string(), meaning) else { return default };
        if let Value::Bool(value) = node.value {
            return value;
        }
        self.wrong(key, node, "true or false");
        default
    }

    /// Text, or `None`.
    pub fn optional_text(&mut self, key: &str, default: &str, meaning: &str) -> Option<String> {
        let node = self.raw(key, "text", default, meaning)?;
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            Value::Int(n) => Some(n.to_string()),
            Value::Float(n) => Some(n.to_string()),
            _ => {
                self.wrong(key, node, "text");
                None
            }
        }
    }

    /// Text.
    pub fn text(&mut self, key: &str, default: &str, meaning: &str) -> String {
        self.optional_text(key, default, meaning).unwrap_or_else(|| default.into())
    }

    /// Text that must be there.
    pub fn required_text(&mut self, key: &str, meaning: &str) -> String {
        let present = self.node.get(key).is_some_and(|node| node.value != Value::Null);
        let text = self.optional_text(key, "required", meaning);
        if !present {
            let message = format!("{} is missing: {meaning}", self.path_of(key));
            self.faults.push(Fault { place: self.node.place(), message });
        }
        text.unwrap_or_default()
    }

    /// One of the given words.
    pub fn choice<T: Copy>(&mut self, key: &str, default: &str, choices: &[(&str, T)], meaning: &str) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let form = format!("one of {}", words.join(", "));
        let node = self.raw(key, &form, default, meaning);
        let Some(node) = node else {
            return choices.iter().find(|(word, _)| *word == default).map(|(_, value)| *value);
        };
        if let Value::Text(text) = &node.value
            && let Some((_, value)) = choices.iter().find(|(word, _)| word == text)
        {
            return Some(*value);
        }
        self.wrong(key, node, &form);
        None
    }

    /// A list of texts; one text alone counts as a list of one.
    pub fn texts(&mut self, key: &str, default: &[&str], meaning: &str) -> Vec<String> {
        let shown = if default.is_empty() { "empty".into() } else { default.join(", ") };
        let fallback = || default.iter().map(|text| (*text).to_owned()).collect();
        let Some(node) = self.raw(key, "a list of texts", &shown, meaning) else { return fallback() };
        let list = match &node.value {
            Value::Text(text) => return vec![text.clone()],
            Value::List(list) => list,
            _ => {
                self.wrong(key, node, "a list of texts");
                return fallback();
            }
        };
        let mut texts = Vec::with_capacity(list.len());
        for (i, item) in list.iter().enumerate() {
            match &item.value {
                Value::Text(text) => texts.push(text.clone()),
                Value::Int(n) => texts.push(n.to_string()),
                _ => self.wrong(&format!("{key}.{i}"), item, "text"),
            }
        }
        texts
    }

    /// A path, relative to the file it stands in (to the working directory for one from `--set`); `None` if missing.
    pub fn optional_path(&mut self, key: &str, default: &str, meaning: &str) -> Option<PathBuf> {
        let text = self.optional_text(key, default, meaning)?;
        let file = self.node.get(key).map_or_else(|| Arc::clone(&self.node.file), |node| Arc::clone(&node.file));
        Some(resolve(&file, &text))
    }

    /// A section: a map under a key, read by `read`. A missing section is read as empty, so that defaults hold.
    pub fn section<T>(&mut self, key: &str, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        self.asked.push(key.into());
        let missing;
        let node = if let Some(node) = self.node.get(key).filter(|node| node.value != Value::Null) {
            node
        } else {
            missing = Node::empty_map(&self.node.file, self.node.line);
            &missing
        };
        let path = self.path_of(key);
        let mut reader = Reader::new(node, &path, self.faults, self.documented);
        let value = read(&mut reader);
        reader.finish();
        value
    }

    /// Whether a key is there and not `null`; does not mark it as known.
    pub fn has(&self, key: &str) -> bool {
        self.node.get(key).is_some_and(|node| node.value != Value::Null)
    }

    /// Reports every key that nobody asked for, with the nearest known one.
    pub fn finish(self) {
        let Value::Map(entries) = &self.node.value else { return };
        for (key, node) in entries {
            if self.asked.contains(&key.name) {
                continue;
            }
            let near = nearest(&key.name, &self.asked);
            let hint = near.map_or_else(
                || format!("known are: {}", self.asked.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            let message = format!("unknown key `{}`: {hint}", self.path_of(&key.name));
            self.faults.push(Fault { place: Place { file: Arc::clone(&node.file), line: key.line }, message });
        }
    }
}

/// A path from a configuration file, relative to that file's folder.
pub fn resolve(file: &str, path: &str) -> PathBuf {
    let base = if file == "--set" { Path::new("") } else { Path::new(file).parent().unwrap_or(Path::new("")) };
    base.join(path)
}

/// The known word nearest to `word`, if it is near enough to be meant.
pub fn nearest<'a>(word: &str, known: &'a [String]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (edit_distance(word, candidate), candidate.as_str()))
        .min()
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() + 1) / 3)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance over characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = if ca == *cb { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(line: u32, value: Value) -> Node {
        Node { file: "run.yaml".into(), line, value }
    }

    fn map(entries: Vec<(&str, u32, Value)>) -> Node {
        let entries = entries
            .into_iter()
            .map(|(name, line, value)| (Key { name: name.into(), line }, node(line, value)))
            .collect();
        node(1, Value::Map(entries))
    }

    #[test]
    fn every_fault_is_noted_with_its_line_and_reading_goes_on() {
        let tree = map(vec![
            ("size", 2, Value::Text("big".into())),
            ("overlap", 3, Value::Int(-1)),
            ("unit", 4, Value::Text("words".into())),
            ("sizee", 5, Value::Int(1)),
            ("ok", 6, Value::Bool(true)),
        ]);
        let (mut faults, mut documented) = (Vec::new(), Vec::new());
        let mut reader = Reader::new(&tree, "stages.chunk", &mut faults, &mut documented);
        assert_eq!(reader.int("size", 1500, 100..=100_000, "target"), 1500);
        assert_eq!(reader.int("overlap", 0, 0..=i64::MAX, "shared"), 0);
        assert_eq!(reader.choice("unit", "characters", &[("characters", 1), ("tokens", 2)], "unit"), None);
        assert!(reader.bool("ok", false, "ok"));
        reader.finish();
        let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "run.yaml:2: stages.chunk.size must be a whole number from 100 to 100000, not \"big\"",
                "run.yaml:3: stages.chunk.overlap must be a whole number of at least 0, not -1",
                "run.yaml:4: stages.chunk.unit must be one of characters, tokens, not \"words\"",
                "run.yaml:5: unknown key `stages.chunk.sizee`: did you mean `size`?",
            ]
        );
        assert_eq!(documented.len(), 4);
    }

    #[test]
    fn paths_are_relative_to_their_file() {
        assert_eq!(resolve("configs/run.yaml", "../samples"), PathBuf::from("configs/../samples"));
        assert_eq!(resolve("--set", "samples"), PathBuf::from("samples"));
        assert_eq!(resolve("configs/run.yaml", "/data"), PathBuf::from("/data"));
    }
}
