//! Which document belongs to which split: no document is in two, and the shares hold as closely as whole documents
//! allow.
//!
//! Documents are put in the order of a hash of the seed and their content; the first of them are the training split,
//! the next validation, the last test. So a document's place depends on its content and the seed alone, never on its
//! name, its size or its neighbours, and the shares are exact to a document even for a small corpus, which thresholds
//! on the hash are not. When documents are added, only those whose hash lies next to a boundary change their split.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::model::dataset::Splits;

/// The split of each document, by its SHA-256 in hexadecimal. A split with a share has at least one document where
/// there are as many documents as such splits.
pub(super) fn assign<'a>(
    documents: impl IntoIterator<Item = &'a str>,
    splits: &Splits,
) -> BTreeMap<String, &'static str> {
    let mut order: Vec<([u8; 32], &str)> =
        documents.into_iter().map(|document| (place(splits.seed, document), document)).collect();
    order.sort_unstable();
    order.dedup();
    let quotas = quotas(order.len(), &splits.shares().map(|(_, share)| share));
    let names = splits.shares().into_iter().zip(quotas).flat_map(|((name, _), quota)| std::iter::repeat_n(name, quota));
    order.into_iter().zip(names).map(|((_, document), name)| (document.to_owned(), name)).collect()
}

/// A document's place in the order: SHA-256 of the seed's digits, a colon and the document's own SHA-256, so that
/// anyone can compute it again.
fn place(seed: u64, document: &str) -> [u8; 32] {
    Sha256::digest(format!("{seed}:{document}")).into()
}

/// Shares of `total` in whole numbers by largest remainders, which add up to it.
fn quotas(total: usize, shares: &[f64; 3]) -> [usize; 3] {
    let exact = shares.map(|share| share * total as f64);
    let mut quotas = exact.map(|exact| (exact + 1e-9).floor() as usize);
    let mut by_remainder = [0, 1, 2];
    by_remainder.sort_by(|a, b| (exact[*b] - quotas[*b] as f64).total_cmp(&(exact[*a] - quotas[*a] as f64)));
    let given: usize = quotas.iter().sum();
    for at in by_remainder.into_iter().cycle().take(total.saturating_sub(given)) {
        quotas[at] += 1;
    }
    for at in [1, 2, 0] {
        let largest = (0..3).rev().max_by_key(|i| quotas[*i]).unwrap_or(0);
        if shares[at] > 0.0 && quotas[at] == 0 && quotas[largest] > 1 {
            quotas[at] += 1;
            quotas[largest] -= 1;
        }
    }
    quotas
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_of_small_and_large_corpora() {
        let eighty = [0.8, 0.1, 0.1];
        for (total, expected) in [
            (0, [0, 0, 0]),
            (1, [1, 0, 0]),
            (2, [1, 1, 0]),
            (3, [1, 1, 1]),
            (8, [6, 1, 1]),
            (10, [8, 1, 1]),
            (1100, [880, 110, 110]),
        ] {
            assert_eq!(quotas(total, &eighty), expected, "{total}");
        }
        assert_eq!(quotas(5, &[1.0, 0.0, 0.0]), [5, 0, 0]);
    }

    #[test]
    fn a_document_keeps_its_place_when_others_come() {
        let names: Vec<String> = (0..200).map(|n| format!("{n:064x}")).collect();
        let before = assign(names[..190].iter().map(String::as_str), &Splits::default());
        let after = assign(names.iter().map(String::as_str), &Splits::default());
        let moved = before.iter().filter(|(name, split)| after[*name] != **split).count();
        assert!(moved <= 4, "{moved} of 190 documents changed their split when 10 came");
        let other = assign(names.iter().map(String::as_str), &Splits { seed: 43, ..Splits::default() });
        assert_ne!(after, other, "the seed decides");
    }

    proptest! {
        #[test]
        fn every_document_is_in_one_split(total in 0usize..300, seed in any::<u64>(), train in 0.0f64..=1.0) {
            let names: Vec<String> = (0..total).map(|n| format!("{n:x}")).collect();
            let rest = (1.0 - train) / 2.0;
            let splits = Splits { train, validation: rest, test: rest, seed };
            let assigned = assign(names.iter().map(String::as_str), &splits);
            prop_assert_eq!(assigned.len(), total);
            for (name, share) in splits.shares() {
                let count = assigned.values().filter(|split| **split == name).count();
                prop_assert!((count as f64 - share * total as f64).abs() < 2.0 + 1e-6, "{} of {} for {}", count, total, share);
            }
            let reversed = assign(names.iter().rev().map(String::as_str), &splits);
            prop_assert_eq!(assigned, reversed);
        }
    }
}
