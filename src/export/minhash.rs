//! `MinHash` signatures of short texts, and the bands by which alike ones are found (Broder, "On the resemblance and
//! containment of documents", 1997; Indyk and Motwani, 1998, for the bands).
//!
//! A text is the set of its shingles, its runs of so many characters. Two texts share the least value of a random
//! order of all shingles as often as their sets are alike by Jaccard's measure. Signatures only propose; whoever uses
//! them compares the sets themselves, so that chance decides nothing but what is looked at.

/// Rows of a band, and bands: with 16 bands of 5 rows, two texts of similarity 0.8 meet in some band with a
/// probability of 0.998, those of 0.9 with one of 0.999999.
const ROWS: usize = 5;
/// Bands of a signature.
pub const BANDS: usize = 16;
const FUNCTIONS: usize = ROWS * BANDS;

/// The hash functions of signatures: always the same ones.
#[derive(Clone, Debug)]
pub struct MinHasher {
    multipliers: [u64; FUNCTIONS],
    shingle: usize,
}

impl MinHasher {
    /// For shingles of `shingle` characters, at least 1.
    pub fn new(shingle: usize) -> Self {
        let mut state = 0x7161_666c_6f77_2031;
        // Multiply-shift hashing wants odd multipliers (Dietzfelbinger et al., 1997).
        let multipliers = std::array::from_fn(|_| {
            state = mixed(state);
            state | 1
        });
        Self { multipliers, shingle: shingle.max(1) }
    }

    /// The set of a text's shingles as sorted hashes, each once. A text shorter than a shingle is one. Of the hundred
    /// shingles of a question two share a hash of 32 bits once in a million texts, which changes a similarity by 0.01.
    pub fn shingles(&self, text: &str) -> Vec<u32> {
        let chars: Vec<char> = text.chars().collect();
        let width = self.shingle.min(chars.len()).max(1);
        let mut set: Vec<u32> = chars
            .windows(width)
            .map(|window| (window.iter().fold(0, |hash, c| mixed(hash ^ u64::from(u32::from(*c)))) >> 32) as u32)
            .collect();
        set.sort_unstable();
        set.dedup();
        set
    }

    /// A key for each band of the signature of a set of shingles. Equal sets have equal keys.
    pub fn bands(&self, shingles: &[u32]) -> [u32; BANDS] {
        let mut least = [u32::MAX; FUNCTIONS];
        for shingle in shingles {
            for (least, multiplier) in least.iter_mut().zip(&self.multipliers) {
                *least = (*least).min((u64::from(*shingle).wrapping_mul(*multiplier) >> 32) as u32);
            }
        }
        std::array::from_fn(|band| {
            let rows = &least[band * ROWS..(band + 1) * ROWS];
            (rows.iter().fold(band as u64, |hash, row| mixed(hash ^ u64::from(*row))) >> 32) as u32
        })
    }
}

/// The Jaccard similarity of two sets, each sorted and without repetition, if it is at least `least` (0 to 1); that of
/// two empty sets is 1. It gives up as soon as the similarity cannot be reached.
pub fn jaccard(a: &[u32], b: &[u32], least: f64) -> Option<f64> {
    let sum = a.len() + b.len();
    if sum == 0 {
        return Some(1.0);
    }
    // What is in one set only: with c in common the similarity is c / (sum - c), and sum - 2c are in one set only.
    let most_apart = (sum as f64 * (1.0 - least) / (1.0 + least) + 1e-9) as usize;
    let (mut i, mut j, mut apart) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        let (one, other) = (a[i], b[j]);
        i += usize::from(one <= other);
        j += usize::from(other <= one);
        apart += usize::from(one != other);
        if apart > most_apart {
            return None;
        }
    }
    apart += a.len() - i + b.len() - j;
    let common = (sum - apart) / 2;
    (apart <= most_apart).then(|| common as f64 / (sum - common) as f64)
}

/// One step of `SplitMix64` (Steele, Lea and Flood, 2014): every bit of the input moves every bit of the output.
pub(super) fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shingles_are_runs_of_characters() {
        let hasher = MinHasher::new(5);
        assert_eq!(hasher.shingles("abcdefg").len(), 3);
        assert_eq!(hasher.shingles("aaaaaaa").len(), 1);
        assert_eq!(hasher.shingles("abc").len(), 1);
        assert_eq!(hasher.shingles(""), Vec::<u32>::new());
        assert_ne!(hasher.shingles("abc"), hasher.shingles("abd"));
        assert_ne!(MinHasher::new(2).shingles("abc"), hasher.shingles("abc"));
    }

    #[test]
    fn bands_meet_as_often_as_the_formula_says() {
        // Sets of 100 with 100·s in common, for a Jaccard similarity of s.
        let hasher = MinHasher::new(5);
        for (common, least, most) in [(90_u64, 1.0, 1.0), (80, 0.98, 1.0), (50, 0.25, 0.55), (20, 0.0, 0.03)] {
            let mut met = 0;
            for trial in 0..400_u64 {
                let element = |n: u64| (mixed(mixed(trial) ^ n) >> 32) as u32;
                let both = common;
                let own = (100 - common) / 2;
                let a: Vec<u32> = (0..both + own).map(element).collect();
                let b: Vec<u32> = (0..both).chain(1000..1000 + own).map(element).collect();
                let (a, b) = (hasher.bands(&a), hasher.bands(&b));
                met += u32::from(a.iter().zip(&b).any(|(a, b)| a == b));
            }
            let share = f64::from(met) / 400.0;
            assert!((least..=most).contains(&share), "similarity {common}: {share}");
        }
    }

    proptest! {
        #[test]
        fn jaccard_agrees_with_its_definition(
            a in prop::collection::btree_set(0_u32..30, 0..20), b in prop::collection::btree_set(0_u32..30, 0..20),
            least in prop::sample::select(vec![0.0, 0.25, 0.5, 0.8, 1.0])
        ) {
            let union = a.union(&b).count();
            let expected = if union == 0 { 1.0 } else { a.intersection(&b).count() as f64 / union as f64 };
            let list = |set: &BTreeSet<u32>| set.iter().copied().collect::<Vec<_>>();
            let found = jaccard(&list(&a), &list(&b), least);
            prop_assert_eq!(found.is_some(), expected >= least, "{} at {}", expected, least);
            prop_assert!(found.is_none_or(|found| (found - expected).abs() < 1e-12));
        }
    }
}
