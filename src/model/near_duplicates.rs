//! What counts as a near-duplicate pair: the parameters, which the pipeline file gives and the plan keeps.

use serde::{Deserialize, Serialize};

use super::params::Reader;

/// When two pairs count as one. They do if their questions are alike, their answers too, and both state the same
/// numbers, dates and codes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NearDuplicateParams {
    /// Whether they are looked for.
    pub enabled: bool,
    /// Least Jaccard similarity of the questions' shingles, 0.5 to 1.
    pub jaccard: f64,
    /// Characters of a shingle, 2 to 32.
    pub shingle: u32,
    /// Least token F1 of the answers, 0 to 1.
    pub min_answer_f1: f64,
}

impl Default for NearDuplicateParams {
    fn default() -> Self {
        Self { enabled: true, jaccard: 0.8, shingle: 5, min_answer_f1: 0.8 }
    }
}

impl NearDuplicateParams {
    /// Reads them from a pipeline file.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let default = Self::default();
        Self {
            enabled: reader.bool(
                "enabled",
                default.enabled,
                "whether a pair is refused at export that says what an earlier one of the dataset says",
            ),
            jaccard: reader.float(
                "jaccard",
                default.jaccard,
                0.5..=1.0,
                "least Jaccard similarity of two questions' shingles (Broder 1997); 1 finds equal questions only",
            ),
            shingle: reader.int("shingle", i64::from(default.shingle), 2..=32, "characters of a shingle") as u32,
            min_answer_f1: reader.float(
                "min_answer_f1",
                default.min_answer_f1,
                0.0..=1.0,
                "least token F1 of two answers; numbers, dates, codes and negations must be the same in any case",
            ),
        }
    }
}
