//! JSON schemas as requests carry them, and the smallest instance that satisfies one.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Deeper schemas are answered with null below this depth.
const MAX_DEPTH: u32 = 32;

/// The part of JSON Schema that structured output uses. Unknown keywords are ignored, as servers do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Schema {
    #[serde(rename = "type")]
    kind: Value,
    pub(super) properties: Properties,
    required: Option<Vec<String>>,
    pub(super) items: Option<Box<Schema>>,
    #[serde(rename = "enum")]
    pub(super) choices: Vec<Value>,
    #[serde(rename = "const")]
    constant: Option<Value>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    min_items: u64,
    pub(super) max_items: Option<u64>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    min_length: u64,
}

/// Properties in the order of the schema.
#[derive(Clone, Debug, Default)]
pub(super) struct Properties(Vec<(String, Schema)>);

impl Properties {
    pub(super) fn get(&self, name: &str) -> Option<&Schema> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, schema)| schema)
    }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Properties;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of schemas")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Properties, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Properties(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl Schema {
    fn is(&self, kind: &str) -> bool {
        match &self.kind {
            Value::String(name) => name == kind,
            Value::Array(names) => names.iter().any(|name| name == kind),
            _ => false,
        }
    }

    /// The smallest instance: required properties only, the fewest items, the first choice.
    pub(super) fn instance(&self) -> Value {
        self.instance_at(0)
    }

    fn instance_at(&self, depth: u32) -> Value {
        if depth > MAX_DEPTH {
            return Value::Null;
        }
        if let Some(constant) = &self.constant {
            return constant.clone();
        }
        if let Some(first) = self.choices.first() {
            return first.clone();
        }
        if let Some(first) = self.any_of.first().or_else(|| self.one_of.first()) {
            return first.instance_at(depth + 1);
        }
        if self.is("object") || !self.properties.0.is_empty() {
            let wanted = |name: &String| self.required.as_ref().is_none_or(|required| required.contains(name));
            let pairs = self.properties.0.iter().filter(|(name, _)| wanted(name));
            return Value::Object(pairs.map(|(n, s)| (n.clone(), s.instance_at(depth + 1))).collect::<Map<_, _>>());
        }
        if self.is("array") {
            // A grammar would let a model write thousands; the simulation writes a few.
            let item = self.items.as_ref().map_or(Value::Null, |items| items.instance_at(depth + 1));
            return Value::Array(vec![item; self.min_items.min(100) as usize]);
        }
        if self.is("string") {
            return Value::String("text".repeat(self.min_length.min(10_000).div_ceil(4).max(1) as usize));
        }
        if self.is("integer") || self.is("number") {
            let value = self.minimum.or(self.maximum).unwrap_or(1.0);
            return if self.is("integer") { Value::from(value.ceil() as i64) } else { Value::from(value) };
        }
        if self.is("boolean") { Value::Bool(true) } else { Value::Null }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(schema: &str) -> String {
        serde_json::from_str::<Schema>(schema).unwrap().instance().to_string()
    }

    #[test]
    fn instances_satisfy_their_schema() {
        insta::assert_snapshot!(instance(r#"{"type":"object","properties":{"ok":{"type":"boolean"},
            "name":{"type":"string","minLength":6},"n":{"type":"integer","minimum":3,"maximum":7},
            "tags":{"type":"array","minItems":2,"items":{"enum":["a","b"]}},"more":{"type":"string"}},
            "required":["ok","name","n","tags"],"additionalProperties":false}"#),
            @r#"{"n":3,"name":"texttext","ok":true,"tags":["a","a"]}"#);
        insta::assert_snapshot!(instance(r#"{"type":["null","string"]}"#), @r#""text""#);
        insta::assert_snapshot!(instance(r#"{"anyOf":[{"const":7},{"type":"string"}]}"#), @"7");
        insta::assert_snapshot!(instance("{}"), @"null");
    }

    #[test]
    fn a_schema_that_is_none_is_an_error() {
        assert!(serde_json::from_str::<Schema>("3").is_err());
        assert!(serde_json::from_str::<Schema>(r#"{"properties":3}"#).is_err());
    }
}
