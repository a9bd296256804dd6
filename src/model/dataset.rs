//! Which files of a dataset are wanted: formats, splits, and whether training rows carry the passage.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A format of the accepted pairs besides `dataset.jsonl`, which is always written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON Lines: the rows of `dataset.jsonl`, by split.
    Jsonl,
    /// Parquet, with the same fields.
    Parquet,
    /// `{instruction, input, output}`.
    Alpaca,
    /// `{id, conversations: [{from, value}]}`.
    ShareGpt,
    /// `{messages: [{role, content}]}`.
    OpenAi,
    /// `SQuAD` 2.0 in the flat form of the Hugging Face hub.
    Squad,
}

impl Format {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 6] = [Self::Jsonl, Self::Parquet, Self::Alpaca, Self::ShareGpt, Self::OpenAi, Self::Squad];

    /// Its name on the command line, in the configuration, and of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Alpaca => "alpaca",
            Self::ShareGpt => "sharegpt",
            Self::OpenAi => "openai",
            Self::Squad => "squad",
        }
    }

    /// The ending of its files.
    pub fn extension(self) -> &'static str {
        if self == Self::Parquet { "parquet" } else { "jsonl" }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// Reads names of formats; `all` means every one.
///
/// # Errors
/// A message that names the unknown word and the known ones.
pub fn formats_named<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<BTreeSet<Format>, String> {
    let mut formats = BTreeSet::new();
    for name in names {
        match Format::named(name) {
            Some(format) => {
                formats.insert(format);
            }
            None if name == "all" => formats.extend(Format::ALL),
            None => {
                let known: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
                return Err(format!("no format is called `{name}`: known are {}, and all", known.join(", ")));
            }
        }
    }
    Ok(formats)
}

/// The shares of documents that each split gets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Splits {
    /// The share to train on, 0 to 1.
    pub train: f64,
    /// The share to choose by, 0 to 1.
    pub validation: f64,
    /// The share to measure on, 0 to 1. The three add up to 1.
    pub test: f64,
    /// Which documents go where; the same seed gives the same splits.
    pub seed: u64,
}

impl Default for Splits {
    fn default() -> Self {
        Self { train: 0.8, validation: 0.1, test: 0.1, seed: 42 }
    }
}

impl Splits {
    /// The shares with their names, in the order of the files.
    pub fn shares(&self) -> [(&'static str, f64); 3] {
        [("train", self.train), ("validation", self.validation), ("test", self.test)]
    }

    /// What is wrong with the shares, if anything is.
    pub fn fault(&self) -> Option<String> {
        let sum = self.train + self.validation + self.test;
        let near = (sum - 1.0).abs() < 1e-6;
        (!near).then(|| format!("train, validation and test must add up to 1, not {sum:.6}"))
    }
}

/// What an export writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportOptions {
    /// The formats besides `dataset.jsonl`.
    pub formats: BTreeSet<Format>,
    /// The splits; `None`: one file a format.
    pub splits: Option<Splits>,
    /// Whether the rows of Alpaca, `ShareGPT` and `OpenAI` carry the passage, for reading with the source at hand.
    pub passage: bool,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { formats: BTreeSet::from([Format::Jsonl]), splits: None, passage: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_unknown_ones_named() {
        assert_eq!(formats_named(["squad", "alpaca"]), Ok(BTreeSet::from([Format::Alpaca, Format::Squad])));
        assert_eq!(formats_named(["all"]).map(|all| all.len()), Ok(6));
        let fault = formats_named(["csv"]).expect_err("unknown");
        assert!(fault.contains("`csv`") && fault.contains("sharegpt"), "{fault}");
    }

    #[test]
    fn shares_must_be_whole() {
        assert_eq!(Splits::default().fault(), None);
        assert!(Splits { test: 0.2, ..Splits::default() }.fault().is_some_and(|fault| fault.contains("1.1")));
    }
}
