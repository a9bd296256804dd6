//! How many accepted pairs a document should give, and the rule by which its passages are asked one round after the
//! other until it does. Pure functions: the same results give the same rounds, whatever the order in which they came.

use serde::Serialize;

/// What is wanted of each document. Serialized it has the keys of the pipeline file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Accepted pairs, at least 1.
    #[serde(rename = "accepted_per_document")]
    pub accepted: u32,
    /// Pairs that may be made for it at most, at least `accepted`.
    #[serde(rename = "at_most_candidates")]
    pub candidates: u32,
}

/// How a document stands when everything asked so far has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its passages.
    pub passages: u32,
    /// Of those: asked.
    pub asked: u32,
    /// Pairs made of them.
    pub candidates: u32,
    /// Of those: accepted.
    pub accepted: u32,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// So many passages more are to be asked.
    Ask(u32),
    /// The target is met.
    Met,
    /// Another passage could make more candidates than allowed.
    Capped,
    /// All passages were asked.
    Exhausted,
}

impl Target {
    /// The next round of a document: as few passages as can meet the target, if every candidate is accepted, and never
    /// so many that there could be more candidates than allowed. `most_each` is the most pairs that a passage gives.
    pub fn next(&self, standing: &Standing, most_each: u32) -> Next {
        let most_each = most_each.max(1);
        let missing = self.accepted.saturating_sub(standing.accepted);
        if missing == 0 {
            return Next::Met;
        }
        let left = standing.passages.saturating_sub(standing.asked);
        if left == 0 {
            return Next::Exhausted;
        }
        match self.candidates.saturating_sub(standing.candidates) / most_each {
            0 => Next::Capped,
            room => Next::Ask(missing.div_ceil(most_each).min(room).min(left)),
        }
    }
}

/// The order in which `n` passages are asked: every beginning of it is spread evenly over the document. This is van der
/// Corput's sequence in base 2 ("Verteilungsfunktionen", 1935) from its second term on, so the middle comes first.
pub fn spread(n: u32) -> Vec<u32> {
    let mut order = Vec::with_capacity(n as usize);
    let mut taken = vec![false; n as usize];
    // The terms below `2^b` with `2^b >= n` fall into every one of the n places but, perhaps, the first.
    let terms = u64::from(n).next_power_of_two() * 2;
    for term in (1..terms).chain([0]) {
        let fraction = u64::from((term as u32).reverse_bits());
        let place = ((fraction * u64::from(n)) >> 32) as usize;
        if let Some(slot) = taken.get_mut(place)
            && !std::mem::replace(slot, true)
        {
            order.push(place as u32);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_order_is_spread_over_the_document() {
        assert_eq!(spread(0), Vec::<u32>::new());
        assert_eq!(spread(1), [0]);
        assert_eq!(spread(5), [2, 1, 3, 0, 4]);
        assert_eq!(spread(8), [4, 2, 6, 1, 5, 3, 7, 0]);
        // Each quarter of a long document has its share of the first passages.
        for n in [40, 97, 1000] {
            for asked in [8, 12, 16] {
                let mut quarters = [0; 4];
                spread(n)[..asked].iter().for_each(|at| quarters[(at * 4 / n) as usize] += 1);
                assert!(quarters.iter().all(|q| q * 8 >= asked), "{quarters:?} of {asked} of {n}");
            }
        }
    }

    #[test]
    fn rounds_ask_as_little_as_can_do() {
        let target = Target { accepted: 5, candidates: 15 };
        let next = |passages, asked, candidates, accepted, most_each| {
            target.next(&Standing { passages, asked, candidates, accepted }, most_each)
        };
        assert_eq!(next(40, 0, 0, 0, 1), Next::Ask(5));
        assert_eq!(next(40, 0, 0, 0, 3), Next::Ask(2));
        assert_eq!(next(40, 2, 6, 4, 3), Next::Ask(1));
        assert_eq!(next(40, 2, 6, 5, 3), Next::Met);
        assert_eq!(next(2, 2, 6, 4, 3), Next::Exhausted);
        assert_eq!(next(40, 4, 12, 0, 3), Next::Ask(1));
        assert_eq!(next(40, 5, 13, 0, 3), Next::Capped);
        assert_eq!(next(0, 0, 0, 0, 3), Next::Exhausted);
    }

    proptest! {
        #[test]
        fn the_order_names_each_passage_once(n in 0_u32..3000) {
            let mut order = spread(n);
            order.sort_unstable();
            prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
        }

        /// Whatever the passages give: the rounds end, the cap holds, and the target is met wherever passages and cap
        /// allow it.
        #[test]
        fn rounds_end_within_the_cap(
            gives in proptest::collection::vec((0_u32..4, 0_u32..4), 0..40), accepted in 1_u32..8, more in 0_u32..20,
        ) {
            let target = Target { accepted, candidates: accepted + more };
            let mut standing = Standing { passages: gives.len() as u32, ..Standing::default() };
            let end = loop {
                match target.next(&standing, 3) {
                    Next::Ask(n) => {
                        prop_assert!(n > 0);
                        for (made, good) in &gives[standing.asked as usize..(standing.asked + n) as usize] {
                            standing.candidates += made;
                            standing.accepted += good.min(made);
                        }
                        standing.asked += n;
                    }
                    end => break end,
                }
            };
            prop_assert!(standing.candidates <= target.candidates, "{:?}", standing);
            match end {
                Next::Met => prop_assert!(standing.accepted >= accepted),
                Next::Exhausted => prop_assert_eq!(standing.asked, standing.passages),
                _ => prop_assert!(standing.candidates + 3 > target.candidates),
            }
        }
    }
}
