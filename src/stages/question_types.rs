//! Which types of questions are asked for: a list from which the model chooses, or shares that are held over all
//! chunks.

use serde::{Serialize, Serializer};

use crate::model::ids::DocumentHash;
use crate::model::params::{Node, Reader, Value};
use crate::model::payload::UNANSWERABLE;

/// The types when a pipeline names no others.
const TYPES: [&str; 7] = ["factual", "definition", "procedural", "conditional", "numeric", "comparison", "exception"];

/// The types of questions.
#[derive(Clone, Debug, PartialEq)]
pub struct QuestionTypes {
    names: Vec<String>,
    /// For each type, the end of its part of all 64-bit numbers; `None` if the model chooses.
    parts: Option<Vec<u64>>,
}

impl Default for QuestionTypes {
    fn default() -> Self {
        Self { names: TYPES.iter().map(|name| (*name).to_owned()).collect(), parts: None }
    }
}

impl QuestionTypes {
    /// Reads them from a pipeline file.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        const KEY: &str = "question_types";
        let path = reader.path_of(KEY);
        let node = reader.raw(
            KEY,
            "a list of types, or a map of types to shares",
            &TYPES.join(", "),
            "the question types: of a list the model chooses what fits; shares (weights, their sum does not matter) are \
             held over all chunks; `unanswerable` asks for what a passage does not say, 0.05 to 0.1 is usual",
        );
        let Some(node) = node else { return Self::default() };
        match Self::of(node, &path) {
            Ok(types) => types,
            Err(fault) => {
                reader.fault(KEY, fault);
                Self::default()
            }
        }
    }

    fn of(node: &Node, path: &str) -> Result<Self, String> {
        let (names, shares) = match &node.value {
            Value::Text(name) => (vec![name.trim().to_owned()], None),
            Value::List(list) => {
                let names = list.iter().map(|item| match &item.value {
                    Value::Text(name) => Ok(name.trim().to_owned()),
                    other => Err(format!("{path} must list names of types, not {}", other.kind())),
                });
                (names.collect::<Result<Vec<_>, _>>()?, None)
            }
            Value::Map(entries) => {
                let share = |(key, node): &(crate::model::params::Key, Node)| match node.value {
                    Value::Int(share) if share > 0 => Ok(share as f64),
                    Value::Float(share) if share > 0.0 && share.is_finite() => Ok(share),
                    _ => Err(format!(
                        "{path}.{} must be a share, a number above 0: leave the type out for none",
                        key.name
                    )),
                };
                let shares = entries.iter().map(share).collect::<Result<Vec<f64>, _>>()?;
                (entries.iter().map(|(key, _)| key.name.trim().to_owned()).collect(), Some(shares))
            }
            other => {
                return Err(format!(
                    "{path} must be a list of types or a map of types to shares, not {}",
                    other.kind()
                ));
            }
        };
        if !names.iter().any(|name| name != UNANSWERABLE) {
            return Err(format!("{path} must name at least one type besides `{UNANSWERABLE}`"));
        }
        for (i, name) in names.iter().enumerate() {
            if name.is_empty() || names[..i].contains(name) {
                return Err(format!("{path} names the type `{name}` twice, or one without a name"));
            }
        }
        let parts = shares.map(|shares| {
            let total: f64 = shares.iter().sum();
            let mut sum = 0.0;
            let mut ends: Vec<u64> = shares
                .iter()
                .map(|share| {
                    sum += share;
                    // 2⁶⁴ as the end of the last part; the conversion saturates.
                    (sum / total * 18_446_744_073_709_551_616.0) as u64
                })
                .collect();
            if let Some(last) = ends.last_mut() {
                *last = u64::MAX;
            }
            ends
        });
        Ok(Self { names, parts })
    }

    /// Their names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether shares are held.
    pub fn has_shares(&self) -> bool {
        self.parts.is_some()
    }

    /// Whether questions without answer are among them.
    pub fn has_unanswerable(&self) -> bool {
        self.names.iter().any(|name| name == UNANSWERABLE)
    }

    /// The types to ask for in a chunk, one for each pair; `None` if the model chooses.
    ///
    /// The pairs of a document are numbered through its chunks, and number n gets the type whose part holds the n-th
    /// multiple of the golden section. Those multiples lie evenly in any part (Weyl; Knuth, volume 3, 6.4), so that
    /// after any number of pairs each type has its share, and a rare one comes at even distances. Documents begin at
    /// different places, so that short ones do not all begin with the same type. The order within a chunk is theirs
    /// too: where a passage holds fewer pairs than asked for, no type is always the one left out.
    pub fn wanted(&self, document: &DocumentHash, chunk: u32, pairs: u32) -> Option<Vec<&str>> {
        let parts = self.parts.as_ref()?;
        let mut offset = [0; 8];
        offset.copy_from_slice(&document.0[..8]);
        let wanted = (0..u64::from(pairs)).filter_map(|pair| {
            let number = u64::from(chunk) * u64::from(pairs) + pair;
            let at = u64::from_be_bytes(offset).wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let kind = parts.partition_point(|end| *end <= at).min(self.names.len() - 1);
            self.names.get(kind).map(String::as_str)
        });
        Some(wanted.collect())
    }
}

impl Serialize for QuestionTypes {
    /// As in the pipeline file: a list, or a map of types to shares, whose sum is 1 here.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(ends) = &self.parts else { return self.names.serialize(serializer) };
        let mut before = 0;
        let shares = ends.iter().map(|end| {
            let part = (end - std::mem::replace(&mut before, *end)) as f64 / 18_446_744_073_709_551_616.0;
            (part * 1e6).round() / 1e6
        });
        serializer.collect_map(self.names.iter().zip(shares))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::params::Key;

    fn node(value: Value) -> Node {
        Node { file: "p.yaml".into(), line: 1, value }
    }

    fn shares(entries: &[(&str, f64)]) -> Node {
        let entry = |(name, share): &(&str, f64)| (Key { name: (*name).into(), line: 1 }, node(Value::Float(*share)));
        node(Value::Map(entries.iter().map(entry).collect()))
    }

    #[test]
    fn they_are_shown_as_in_the_pipeline_file() {
        let shown = |types: &QuestionTypes| serde_json::to_string(types).unwrap();
        let given = QuestionTypes::of(&shares(&[("numeric", 3.0), ("factual", 1.0)]), "types").unwrap();
        assert_eq!(shown(&given), r#"{"numeric":0.75,"factual":0.25}"#);
        let list = QuestionTypes { names: vec!["numeric".into(), "factual".into()], parts: None };
        assert_eq!(shown(&list), r#"["numeric","factual"]"#);
    }

    #[test]
    fn shares_are_held_and_spread_over_the_chunks() {
        let types =
            QuestionTypes::of(&shares(&[("factual", 6.0), ("numeric", 3.3), (UNANSWERABLE, 0.7)]), "t").unwrap();
        for document in [DocumentHash([0; 32]), DocumentHash([0xab; 32])] {
            let mut counts: BTreeMap<String, u32> = BTreeMap::new();
            let mut chunks_with = Vec::new();
            for chunk in 0..200 {
                for name in types.wanted(&document, chunk, 5).unwrap() {
                    *counts.entry(name.to_owned()).or_default() += 1;
                    if name == UNANSWERABLE {
                        chunks_with.push(chunk);
                    }
                }
            }
            assert_eq!(counts.values().sum::<u32>(), 1000);
            for (name, expected) in [("factual", 600), ("numeric", 330), (UNANSWERABLE, 70)] {
                assert!(counts[name].abs_diff(expected) <= 3, "{counts:?}");
            }
            let widest = chunks_with.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(widest <= 5, "7 in 100 pairs come at least every fifth chunk of 5: {widest}");
        }
        assert_eq!(types.wanted(&DocumentHash([7; 32]), 3, 5), types.wanted(&DocumentHash([7; 32]), 3, 5));
        assert_eq!(QuestionTypes::default().wanted(&DocumentHash([7; 32]), 3, 5), None);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let fault = |value: Value| QuestionTypes::of(&node(value), "stages.g.question_types").unwrap_err();
        insta::assert_snapshot!(fault(Value::List(vec![])), @"stages.g.question_types must name at least one type besides `unanswerable`");
        insta::assert_snapshot!(fault(Value::Text(UNANSWERABLE.into())), @"stages.g.question_types must name at least one type besides `unanswerable`");
        insta::assert_snapshot!(fault(Value::Int(3)), @"stages.g.question_types must be a list of types or a map of types to shares, not a whole number");
        insta::assert_snapshot!(fault(shares(&[("factual", 0.0)]).value), @"stages.g.question_types.factual must be a share, a number above 0: leave the type out for none");
        let twice = Value::List(vec![node(Value::Text("a".into())), node(Value::Text("a".into()))]);
        insta::assert_snapshot!(fault(twice), @"stages.g.question_types names the type `a` twice, or one without a name");
    }
}
