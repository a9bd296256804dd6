//! The run file's `export` section: which files the dataset is written as.

use crate::model::dataset::{ExportOptions, Format, Splits, formats_named};
use crate::model::params::{Reader, Value};

/// Reads the section. A fault is noted and the default kept.
pub(super) fn read(r: &mut Reader<'_>) -> ExportOptions {
    let default = ExportOptions::default();
    let names = r.texts(
        "formats",
        &[Format::Jsonl.name()],
        "formats of the accepted pairs: jsonl, parquet, alpaca, sharegpt, openai, squad, or all; dataset.jsonl is \
         always written",
    );
    let formats = formats_named(names.iter().map(String::as_str)).unwrap_or_else(|message| {
        r.fault("formats", message);
        default.formats.clone()
    });
    let passage = r.bool(
        "passage",
        default.passage,
        "whether the rows of alpaca, sharegpt and openai carry the passage, to train a model that reads a source",
    );
    let wanted = r.has("splits");
    let node = r.raw("splits", "a map of shares, or true", "none", "splits by document, so that no document is in two");
    let all = node.is_some_and(|node| node.value == Value::Bool(true));
    let none = node.is_some_and(|node| node.value == Value::Bool(false));
    if all || none {
        return ExportOptions { formats, passage, splits: all.then(Splits::default) };
    }
    let of = Splits::default();
    let splits = r.section("splits", |r| Splits {
        train: r.float("train", of.train, 0.0..=1.0, "the share of documents to train on"),
        validation: r.float("validation", of.validation, 0.0..=1.0, "the share of documents to choose by"),
        test: r.float("test", of.test, 0.0..=1.0, "the share of documents to measure on; the three add up to 1"),
        seed: u64::try_from(r.int("seed", 42, 0..=i64::MAX, "which documents go where")).unwrap_or(of.seed),
    });
    if let Some(message) = splits.fault() {
        r.fault("splits", format!("export.splits: {message}"));
    }
    ExportOptions { formats, passage, splits: wanted.then_some(splits) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn options(text: &str) -> (ExportOptions, Vec<String>) {
        let mut faults = Vec::new();
        let lookup = |_: &str| Err(std::env::VarError::NotPresent);
        let tree = yaml::parse(&"run.yaml".into(), text.as_bytes(), &lookup, &mut faults).expect("a tree");
        let mut documented = Vec::new();
        let mut reader = Reader::new(&tree, "", &mut faults, &mut documented);
        let options = reader.section("export", read);
        reader.finish();
        (options, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn forms_of_the_section() {
        assert_eq!(options("export:\n"), (ExportOptions::default(), Vec::new()));
        let (all, faults) = options("export: {formats: all, splits: true, passage: true}\n");
        assert_eq!((all.formats.len(), all.splits, all.passage), (6, Some(Splits::default()), true));
        assert!(faults.is_empty());
        let (some, faults) = options(
            "export:\n  formats: [squad, parquet]\n  splits: {train: 0.5, validation: 0.25, test: 0.25, seed: 7}\n",
        );
        assert_eq!(some.formats.len(), 2);
        assert_eq!(some.splits.map(|s| (s.train, s.seed)), Some((0.5, 7)));
        assert!(faults.is_empty());
        assert_eq!(options("export: {splits: {seed: 1}}\n").0.splits, Some(Splits { seed: 1, ..Splits::default() }));
        assert_eq!(options("export: {splits: false}\n").0.splits, None);
    }

    #[test]
    fn faults_have_their_line() {
        let (_, faults) = options("export:\n  formats: [csv]\n  splits:\n    train: 0.9\n  split: x\n");
        insta::assert_snapshot!(faults.join("\n"), @"
        run.yaml:2: no format is called `csv`: known are jsonl, parquet, alpaca, sharegpt, openai, squad, and all
        run.yaml:3: export.splits: train, validation and test must add up to 1, not 1.100000
        run.yaml:5: unknown key `export.split`: did you mean `splits`?
        ");
    }
}
