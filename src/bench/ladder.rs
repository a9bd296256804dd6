//! The ladder of growing batches: nested, seeded and stratified by size, so that each batch looks like the corpus and
//! holds the batches below it.
//!
//! All documents are put into one order of which every beginning is a stratified sample (proportional allocation;
//! Cochran, *Sampling Techniques*, 3rd ed. 1977, chapter 5). A batch of n documents is the first n of it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The newest format of `ladder.json` that this program reads.
pub const LADDER_FORMAT: u32 = 1;
/// The sizes of the project's ladder: two local trials, a smoke test of the cluster, then growing batches.
pub const DEFAULT_SIZES: &str = "5,20,1,50,200,500,rest";
/// Strata by size: fifths of the corpus.
const STRATA: usize = 5;

/// A ladder that cannot be made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LadderError {
    /// A size is no size.
    #[error("`{0}` is no size of a batch: give whole numbers of at least 1 and at last `rest`, as in {DEFAULT_SIZES}")]
    Size(String),
    /// A batch would be the whole corpus or more.
    #[error("the corpus has {documents} documents, too few for a batch of {size}: leave it out with --sizes")]
    TooFew {
        /// Documents there are.
        documents: usize,
        /// Documents wanted.
        size: u64,
    },
}

/// How many documents a rung has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RungSize {
    /// So many.
    Documents(u64),
    /// The whole corpus.
    Rest,
}

/// Reads sizes, as in `5,20,1,50,rest`.
///
/// # Errors
/// [`LadderError::Size`].
pub fn sizes(text: &str) -> Result<Vec<RungSize>, LadderError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let last = parts.len() - 1;
    parts
        .iter()
        .enumerate()
        .map(|(at, part)| match part.parse::<u64>() {
            Ok(n) if n > 0 => Ok(RungSize::Documents(n)),
            _ if *part == "rest" && at == last => Ok(RungSize::Rest),
            _ => Err(LadderError::Size((*part).to_owned())),
        })
        .collect()
}

/// A document to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name: with the seed it decides the order within a stratum, so that a corpus that grows changes little.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The order of all documents, as indices: every beginning is a stratified sample by size.
pub fn order(candidates: &[Candidate], seed: u64) -> Vec<usize> {
    let mut by_size: Vec<usize> = (0..candidates.len()).collect();
    by_size.sort_by(|a, b| {
        (candidates[*a].bytes, &candidates[*a].name).cmp(&(candidates[*b].bytes, &candidates[*b].name))
    });
    let count = candidates.len();
    let mut strata: Vec<Vec<usize>> = (0..STRATA)
        .map(|s| by_size[count * s / STRATA..count * (s + 1) / STRATA].to_vec())
        .filter(|stratum| !stratum.is_empty())
        .collect();
    let draw = |at: usize| {
        let mut hasher = blake3::Hasher::new_derive_key("qaflow ladder v1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(candidates[at].name.as_bytes());
        *hasher.finalize().as_bytes()
    };
    for stratum in &mut strata {
        stratum.sort_by_key(|at| draw(*at));
    }
    let middle = strata.len() / 2;
    let sizes: Vec<usize> = strata.iter().map(Vec::len).collect();
    let mut taken = vec![0; strata.len()];
    let mut order = Vec::with_capacity(count);
    for k in 1..=count {
        // The stratum that lags most behind its share comes next; first of all one of the middle.
        let lag = |s: usize| (k * sizes[s]) as i64 - (taken[s] * count) as i64;
        let next = (0..strata.len())
            .filter(|s| taken[*s] < sizes[*s])
            .max_by_key(|s| (lag(*s), std::cmp::Reverse(s.abs_diff(middle)), std::cmp::Reverse(*s)));
        if let Some(s) = next {
            order.push(strata[s][taken[s]]);
            taken[s] += 1;
        }
    }
    order
}

/// A ladder as its folder keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ladder {
    /// The format of this file.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// What decided the choice.
    pub seed: u64,
    /// Documents of the corpus.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The rungs, from the first to the last.
    pub rungs: Vec<LadderRung>,
}

/// A rung of a ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LadderRung {
    /// Its place, from 1.
    pub position: u32,
    /// Its name, as in `05-batch-200`.
    pub name: String,
    /// Its manifest, beside this file.
    pub manifest: String,
    /// Documents of it, those of smaller rungs included.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Documents that no rung before it holds.
    pub new_documents: u64,
}

impl Ladder {
    /// A ladder over documents in `order`.
    ///
    /// # Errors
    /// [`LadderError::TooFew`].
    pub fn new(
        name: &str,
        seed: u64,
        candidates: &[Candidate],
        order: &[usize],
        sizes: &[RungSize],
    ) -> Result<Self, LadderError> {
        let total = candidates.len();
        let bytes_of = |n: usize| order[..n].iter().map(|at| candidates[*at].bytes).sum::<u64>();
        let mut rungs = Vec::new();
        let mut highest = 0;
        for (at, size) in sizes.iter().enumerate() {
            let (documents, label) = match size {
                RungSize::Documents(n) if *n as usize > total => {
                    return Err(LadderError::TooFew { documents: total, size: *n });
                }
                RungSize::Documents(1) => (1, "smoke-1".to_owned()),
                RungSize::Documents(n) => (*n as usize, format!("batch-{n}")),
                RungSize::Rest => (total, "rest".to_owned()),
            };
            let name = format!("{:02}-{label}", at + 1);
            rungs.push(LadderRung {
                position: at as u32 + 1,
                manifest: format!("{name}.txt"),
                name,
                documents: documents as u64,
                bytes: bytes_of(documents),
                new_documents: documents.saturating_sub(highest) as u64,
            });
            highest = highest.max(documents);
        }
        Ok(Self {
            format: LADDER_FORMAT,
            name: name.into(),
            seed,
            documents: total as u64,
            bytes: bytes_of(total),
            rungs,
        })
    }

    /// Reads `ladder.json`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn read(file: &str, text: &str) -> Result<Self, String> {
        let tree: serde_json::Value = serde_json::from_str(text).map_err(|error| format!("{file}: {error}"))?;
        let found = tree["format"].as_u64().unwrap_or(0);
        if found > u64::from(LADDER_FORMAT) {
            return Err(format!("{file} has format {found}; this program reads up to {LADDER_FORMAT}"));
        }
        serde_json::from_value(tree).map_err(|error| format!("{file}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn corpus(count: usize) -> Vec<Candidate> {
        (0..count)
            .map(|n| Candidate { name: format!("{n}.pdf"), bytes: 1_000 + (n as u64 * 7_919) % 10_007 * 100 })
            .collect()
    }

    #[test]
    fn sizes_are_read_and_bad_ones_named() {
        assert_eq!(
            sizes("5, 20,1,rest").unwrap(),
            [RungSize::Documents(5), RungSize::Documents(20), RungSize::Documents(1), RungSize::Rest]
        );
        for bad in ["", "5,0", "rest,5", "5,x", "-1"] {
            assert!(sizes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_ladder_of_the_project_has_its_counts_and_bytes() {
        let corpus = corpus(1100);
        let order = order(&corpus, 42);
        let ladder = Ladder::new("l", 42, &corpus, &order, &sizes(DEFAULT_SIZES).unwrap()).unwrap();
        let shown: Vec<String> =
            ladder.rungs.iter().map(|r| format!("{} {} +{}", r.name, r.documents, r.new_documents)).collect();
        assert_eq!(
            shown,
            [
                "01-batch-5 5 +5",
                "02-batch-20 20 +15",
                "03-smoke-1 1 +0",
                "04-batch-50 50 +30",
                "05-batch-200 200 +150",
                "06-batch-500 500 +300",
                "07-rest 1100 +600"
            ]
        );
        assert_eq!(ladder.rungs[6].bytes, corpus.iter().map(|c| c.bytes).sum::<u64>());
        assert_eq!(
            Ladder::new("l", 42, &corpus[..10], &order[..0], &[RungSize::Documents(20)]),
            Err(LadderError::TooFew { documents: 10, size: 20 })
        );
        let text = serde_json::to_string(&ladder).unwrap();
        assert_eq!(Ladder::read("l", &text).unwrap(), ladder);
        assert!(Ladder::read("l", &text.replace("\"format\":1", "\"format\":2")).unwrap_err().contains("format 2"));
    }

    #[test]
    fn another_seed_chooses_others_and_a_longer_corpus_changes_little() {
        let corpus = corpus(500);
        let first: Vec<usize> = order(&corpus, 1)[..50].to_vec();
        assert_ne!(order(&corpus, 2)[..50], first);
        let names = |corpus: &[Candidate]| -> std::collections::BTreeSet<String> {
            order(corpus, 1)[..50].iter().map(|at| corpus[*at].name.clone()).collect()
        };
        let mut longer = corpus.clone();
        longer.push(Candidate { name: "new.pdf".into(), bytes: 500_000 });
        let kept = names(&corpus).intersection(&names(&longer)).count();
        assert!(kept >= 40, "only {kept} of 50 are the same");
    }

    proptest! {
        #[test]
        fn every_beginning_is_stratified(bytes in prop::collection::vec(0..1_000_000_u64, 1..300), seed in any::<u64>()) {
            let corpus: Vec<Candidate> =
                bytes.iter().enumerate().map(|(n, b)| Candidate { name: n.to_string(), bytes: *b }).collect();
            let order = order(&corpus, seed);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..corpus.len()).collect::<Vec<_>>(), "each document once");
            // The stratum of a document by its rank.
            let mut ranks: Vec<usize> = (0..corpus.len()).collect();
            ranks.sort_by(|a, b| (corpus[*a].bytes, &corpus[*a].name).cmp(&(corpus[*b].bytes, &corpus[*b].name)));
            let n = corpus.len();
            let stratum = |at: usize| {
                let rank = ranks.iter().position(|r| *r == at).unwrap();
                (0..STRATA).find(|s| rank < n * (s + 1) / STRATA).unwrap()
            };
            let mut taken = [0_usize; STRATA];
            for (k, at) in order.iter().enumerate() {
                taken[stratum(*at)] += 1;
                for (s, taken) in taken.iter().enumerate() {
                    let size = n * (s + 1) / STRATA - n * s / STRATA;
                    let share = (k + 1) as f64 * size as f64 / n as f64;
                    // Within two documents of its share at every beginning, within one most often.
                    prop_assert!((*taken as f64 - share).abs() < 2.0, "{taken} of {share} after {}", k + 1);
                }
            }
        }
    }
}
