//! Which pairs are reviewed: spread evenly over question types, marks and documents, by a seed.
//!
//! The pairs are put in order by question type, the judge's overall mark, document and, within these, by a hash of the
//! seed. Places in this order are taken by the sequence of J. G. van der Corput (Verhandelingen 1935) from a start that
//! the seed gives. So each type, mark and document gets close to its share; every pair is as likely as every other,
//! which the means and intervals of the report rest on; and a larger sample holds the smaller one.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::export::dataset::each_row;
use crate::export::rows::PairRow;

/// Pairs in the order in which they are shown.
///
/// # Errors
/// If the dataset cannot be read.
pub fn draw(dataset: &Path, size: usize, seed: u64) -> anyhow::Result<(Vec<PairRow>, usize)> {
    let mut strata = Vec::new();
    let mut offset = 0_u64;
    each_row(dataset, |row, line| {
        let mark = row.scores.as_ref().map_or(0, |scores| scores.overall);
        let mixed: [u8; 32] = Sha256::digest(format!("{seed}:{}", row.id)).into();
        strata.push((row.question_type, mark, row.source_document, mixed, offset));
        offset += line.len() as u64;
        Ok(())
    })?;
    strata.sort_unstable();
    let file = std::fs::File::open(dataset).with_context(|| format!("cannot read {}", dataset.display()))?;
    let mut reader = std::io::BufReader::new(file);
    let mut rows = Vec::new();
    for place in places(strata.len(), size, seed) {
        let mut line = String::new();
        reader
            .seek(SeekFrom::Start(strata[place].4))
            .and_then(|_| reader.read_line(&mut line))
            .with_context(|| format!("cannot read {}", dataset.display()))?;
        rows.push(serde_json::from_str(&line).with_context(|| format!("cannot read {}", dataset.display()))?);
    }
    Ok((rows, strata.len()))
}

/// The first `size` different places among `total`.
fn places(total: usize, size: usize, seed: u64) -> Vec<usize> {
    let hash: [u8; 32] = Sha256::digest(format!("start:{seed}")).into();
    let start = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    let (mut taken, mut places) = (BTreeSet::new(), Vec::new());
    // Each round of as many steps as the next power of two reaches all places or leaves few, which are taken in order.
    let steps = (total * 4).next_power_of_two() as u64;
    for step in 0..steps {
        if places.len() >= size.min(total) {
            break;
        }
        let fraction = (step as u32).reverse_bits().wrapping_add(start);
        let place = ((u64::from(fraction) * total as u64) >> 32) as usize;
        if taken.insert(place) {
            places.push(place);
        }
    }
    let rest: Vec<usize> = (0..total).filter(|place| !taken.contains(place)).collect();
    let missing = size.min(total).saturating_sub(places.len());
    places.extend(rest.into_iter().take(missing));
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strata_get_their_shares() {
        // 1,000 pairs, of which the first 700 are of one stratum.
        for seed in 0..20 {
            let drawn = places(1000, 20, seed);
            let first = drawn.iter().filter(|place| **place < 700).count();
            assert!((13..=15).contains(&first), "seed {seed}: {first} of 20");
        }
    }

    #[test]
    fn every_place_is_as_likely() {
        let mut counts = vec![0_u32; 50];
        for seed in 0..4000 {
            for place in places(50, 5, seed) {
                counts[place] += 1;
            }
        }
        // 400 expected, standard deviation about 19.
        assert!(counts.iter().all(|count| (310..490).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn samples_are_nested_and_without_repeats(total in 0usize..400, size in 0usize..500, seed in any::<u64>()) {
            let all = places(total, size, seed);
            prop_assert_eq!(all.len(), size.min(total));
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
            let fewer = places(total, size / 2, seed);
            prop_assert_eq!(&all[..fewer.len()], &fewer[..]);
        }
    }
}
