//! The stage's parameters.

use serde::Serialize;

use crate::model::params::Reader;

/// The parameters of an extraction stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExtractParams {
    /// Whether running headers, footers and page numbers are taken out. Determines results.
    pub strip_running: bool,
    /// With fewer visible characters and a picture, a page has no text layer. Determines results.
    pub min_page_chars: usize,
    /// A document with more text is given up, in MB (2^20 bytes).
    pub max_text_mb: u64,
    /// A document with more pages is given up.
    pub max_pages: u32,
    /// Address space of a worker, in MB (2^20 bytes).
    pub memory_limit_mb: u64,
    /// Processor seconds of a worker for any document.
    pub cpu_seconds: f64,
    /// Processor seconds for each page besides.
    pub cpu_seconds_a_page: f64,
    /// Seconds of a worker by the clock for any document.
    pub wall_seconds: f64,
    /// Seconds by the clock for each page besides.
    pub wall_seconds_a_page: f64,
}

impl ExtractParams {
    /// Reads the parameters, noting faults in the reader.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            strip_running: reader.bool(
                "strip_running",
                true,
                "whether running headers, footers and page numbers are taken out",
            ),
            min_page_chars: reader.int(
                "min_page_chars",
                10,
                0..=10_000,
                "a page with a picture and fewer visible characters counts as one without a text layer",
            ) as usize,
            max_text_mb: reader.int("max_text_mb", 16, 1..=1024, "a document whose text is larger is given up; in MB")
                as u64,
            max_pages: reader.int("max_pages", 20_000, 1..=1_000_000, "a document with more pages is given up") as u32,
            memory_limit_mb: reader.int(
                "memory_limit_mb",
                2048,
                512..=1_048_576,
                "address space of the process that reads a PDF; in MB",
            ) as u64,
            cpu_seconds: reader.float("cpu_seconds", 60.0, 1.0..=86_400.0, "processor seconds for reading a PDF"),
            cpu_seconds_a_page: reader.float(
                "cpu_seconds_a_page",
                0.1,
                0.0..=3600.0,
                "processor seconds for each page besides",
            ),
            wall_seconds: reader.float(
                "wall_seconds",
                60.0,
                1.0..=86_400.0,
                "seconds by the clock for reading a PDF; up to four times as long while the machine is busy",
            ),
            wall_seconds_a_page: reader.float(
                "wall_seconds_a_page",
                0.1,
                0.0..=3600.0,
                "seconds by the clock for each page besides",
            ),
        }
    }

    /// The most text in bytes.
    pub(super) fn max_text(&self) -> usize {
        usize::try_from(self.max_text_mb << 20).unwrap_or(usize::MAX)
    }

    /// What determines the text of a document that is not given up. The limits are not among it: what was given up
    /// is tried again with `failures retry`, and raising a limit redoes nothing else.
    pub(super) fn determinants(&self) -> String {
        format!("strip_running={} min_page_chars={}", self.strip_running, self.min_page_chars)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::params::{Key, Node, Value};

    fn read(entries: Vec<(&str, Value)>) -> (ExtractParams, Vec<String>) {
        let file: Arc<str> = "p.yaml".into();
        let node = |value| Node { file: Arc::clone(&file), line: 1, value };
        let map = entries.into_iter().map(|(name, value)| (Key { name: name.into(), line: 1 }, node(value))).collect();
        let tree = node(Value::Map(map));
        let (mut faults, mut documented) = (Vec::new(), Vec::new());
        let mut reader = Reader::new(&tree, "stages.extract", &mut faults, &mut documented);
        let params = ExtractParams::read(&mut reader);
        reader.finish();
        (params, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn defaults_hold_and_bad_values_are_named() {
        let (params, faults) = read(vec![]);
        assert_eq!((params.max_text(), params.memory_limit_mb, faults.len()), (16 << 20, 2048, 0));
        let (_, faults) = read(vec![("memory_limit_mb", Value::Int(64)), ("max_txt_mb", Value::Int(1))]);
        assert_eq!(
            faults,
            [
                "p.yaml:1: stages.extract.memory_limit_mb must be a whole number from 512 to 1048576, not 64",
                "p.yaml:1: unknown key `stages.extract.max_txt_mb`: did you mean `max_text_mb`?",
            ]
        );
    }

    #[test]
    fn limits_determine_nothing() {
        let (a, _) = read(vec![("max_text_mb", Value::Int(2)), ("wall_seconds", Value::Int(5))]);
        let (b, _) = read(vec![]);
        let (c, _) = read(vec![("strip_running", Value::Bool(false))]);
        assert_eq!(a.determinants(), b.determinants());
        assert_ne!(b.determinants(), c.determinants());
    }
}
