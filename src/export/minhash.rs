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

    /// The set of a text's shingles as sorted hashes, each once. A text shorter than a shingle is one.
    pub fn shingles(&self, text: &str) -> Vec<u64> {
        let chars: Vec<char> = text.chars().collect();
        let width = self.shingle.min(chars.len()).max(1);
        let mut set: Vec<u64> = chars
            .windows(width)
            .map(|window| window.iter().fold(0, |hash, c| mixed(hash ^ u64::from(u32::from(*c)))))
            .collect();
        set.sort_unstable();
        set.dedup();
        set
    }

    /// A key for each band of the signature of a set of shingles. Equal sets have equal keys.
    pub fn bands(&self, shingles: &[u64]) -> [u32; BANDS] {
        let mut least = [u32::MAX; FUNCTIONS];
        for shingle in shingles {
            for (least, multiplier) in least.iter_mut().zip(&self.multipliers) {
                *least = (*least).min((shingle.wrapping_mul(*multiplier) >> 32) as u32);
            }
        }
        std::array::from_fn(|band| {
            let rows = &least[band * ROWS..(band + 1) * ROWS];
            (rows.iter().fold(band as u64, |hash, row| mixed(hash ^ u64::from(*row))) >> 32) as u32
        })
    }
}

/// The Jaccard similarity of two sets, each sorted and without repetition, 0 to 1; 1 if both are empty.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0_usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, common) = (i + 1, j + 1, common + 1),
        }
    }
    let all = a.len() + b.len() - common;
    if all == 0 { 1.0 } else { common as f64 / all as f64 }
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
        assert_eq!(hasher.shingles(""), Vec::<u64>::new());
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
                let element = |n: u64| mixed(mixed(trial) ^ n);
                let both = common;
                let own = (100 - common) / 2;
                let a: Vec<u64> = (0..both + own).map(element).collect();
                let b: Vec<u64> = (0..both).chain(1000..1000 + own).map(element).collect();
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
            a in prop::collection::btree_set(0_u64..30, 0..20), b in prop::collection::btree_set(0_u64..30, 0..20)
        ) {
            let union = a.union(&b).count();
            let expected = if union == 0 { 1.0 } else { a.intersection(&b).count() as f64 / union as f64 };
            let list = |set: &BTreeSet<u64>| set.iter().copied().collect::<Vec<_>>();
            prop_assert!((jaccard(&list(&a), &list(&b)) - expected).abs() < 1e-12);
        }
    }
}
