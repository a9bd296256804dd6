//! A model of vLLM's prefix cache: hash chains over full blocks, the least recently used evicted first.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Tokens in a block.
pub(super) const BLOCK_TOKENS: u64 = 16;
/// Bytes of text in a token, about right for English.
pub(super) const TOKEN_BYTES: u64 = 4;
const BLOCK_BYTES: usize = (BLOCK_TOKENS * TOKEN_BYTES) as usize;
const NONE: u32 = u32::MAX;

/// Tokens of a text of this many bytes.
pub(super) fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(TOKEN_BYTES)
}

/// The hashes of the full blocks of a prompt, each covering all before it, and a hash of the whole.
pub(super) fn chain<'a>(salt: &str, parts: impl Iterator<Item = &'a str>) -> (Vec<u64>, u64) {
    let mut hashes = Vec::with_capacity(128);
    let mut hash = 0x5851_f42d_4c95_7f2d;
    let mut block = [0_u8; BLOCK_BYTES];
    let mut filled = 0;
    let absorb = |hash, block: &[u8; BLOCK_BYTES]| {
        block.as_chunks::<8>().0.iter().fold(hash, |hash, word| fold(hash, u64::from_le_bytes(*word)))
    };
    for part in parts {
        let mut bytes = part.as_bytes();
        while !bytes.is_empty() {
            let taken = bytes.len().min(BLOCK_BYTES - filled);
            block[filled..filled + taken].copy_from_slice(&bytes[..taken]);
            filled += taken;
            bytes = &bytes[taken..];
            if filled == BLOCK_BYTES {
                hash = absorb(hash, &block);
                hashes.push(hash);
                filled = 0;
            }
        }
    }
    block[filled..].fill(0);
    let whole = fold(absorb(hash, &block), filled as u64);
    if !salt.is_empty() {
        let salt = salt.bytes().fold(1, |hash, byte| fold(hash, u64::from(byte)));
        for hash in &mut hashes {
            *hash = fold(*hash, salt);
        }
    }
    (hashes, whole)
}

/// One step of a folded multiplication, as in wyhash.
fn fold(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word ^ 0xa076_1d64_78bd_642f) * u128::from(0xe703_7ed1_a0b4_28db_u64);
    (product as u64) ^ ((product >> 64) as u64) ^ hash.rotate_left(23)
}

/// The keys are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    newer: u32,
    older: u32,
}

/// The blocks computed for requests that were started or finished.
pub(super) struct PrefixCache {
    capacity: usize,
    places: HashMap<u64, u32, BuildHasherDefault<Identity>>,
    entries: Vec<Entry>,
    newest: u32,
    oldest: u32,
    /// Prompt tokens looked up.
    pub(super) queried: u64,
    /// Those found.
    pub(super) hit: u64,
}

impl PrefixCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            places: HashMap::default(),
            entries: Vec::new(),
            newest: NONE,
            oldest: NONE,
            queried: 0,
            hit: 0,
        }
    }

    /// A request starts: counts the tokens of its prompt that were computed before, then holds all of its blocks.
    /// At least one token of a prompt is always computed, as in vLLM.
    pub(super) fn start(&mut self, chain: &[u64], prompt_tokens: u64) -> u64 {
        let usable = (prompt_tokens.saturating_sub(1) / BLOCK_TOKENS) as usize;
        let found = chain.iter().take(usable).take_while(|hash| self.places.contains_key(hash)).count();
        let cached = found as u64 * BLOCK_TOKENS;
        self.queried += prompt_tokens;
        self.hit += cached;
        // Last block first: what is shared by the most requests is evicted last.
        for hash in chain.iter().take(self.capacity).rev() {
            self.touch(*hash);
        }
        cached
    }

    fn touch(&mut self, hash: u64) {
        let place = if let Some(place) = self.places.get(&hash) {
            let place = *place;
            self.unlink(place);
            place
        } else if self.entries.len() < self.capacity {
            self.entries.push(Entry { hash, newer: NONE, older: NONE });
            (self.entries.len() - 1) as u32
        } else {
            let place = self.oldest;
            self.unlink(place);
            self.places.remove(&self.entries[place as usize].hash);
            self.entries[place as usize].hash = hash;
            place
        };
        self.places.insert(hash, place);
        self.entries[place as usize].newer = NONE;
        self.entries[place as usize].older = self.newest;
        match self.newest {
            NONE => self.oldest = place,
            newest => self.entries[newest as usize].newer = place,
        }
        self.newest = place;
    }

    fn unlink(&mut self, place: u32) {
        let Entry { newer, older, .. } = self.entries[place as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> (Vec<u64>, u64) {
        (chain("", std::iter::once(text)).0, tokens(text.len()))
    }

    #[test]
    fn a_shared_prefix_is_found_up_to_full_blocks() {
        let mut cache = PrefixCache::new(100);
        let shared = "s".repeat(200);
        let (first, n) = of(&format!("{shared}{}", "a".repeat(100)));
        assert_eq!(cache.start(&first, n), 0);
        let (second, n) = of(&format!("{shared}{}", "b".repeat(100)));
        assert_eq!(cache.start(&second, n), 48, "three full blocks of 64 characters in 200");
        assert_eq!((cache.queried, cache.hit), (150, 48));
    }

    #[test]
    fn a_prompt_is_never_wholly_cached() {
        let mut cache = PrefixCache::new(100);
        let (blocks, n) = of(&"x".repeat(128));
        cache.start(&blocks, n);
        assert_eq!(cache.start(&blocks, n), 16);
    }

    #[test]
    fn the_salt_and_the_beginning_matter() {
        let text = "t".repeat(300);
        let salted = |salt| chain(salt, std::iter::once(&*text));
        assert_ne!(salted("a").0, salted("b").0);
        assert_eq!(salted("a").1, salted("b").1, "answers do not depend on the salt");
        assert_ne!(of(&text).0[1], of(&format!("u{text}")).0[1]);
        assert_eq!(chain("", ["t".repeat(50).as_str(), "t".repeat(250).as_str()].into_iter()).0, of(&text).0);
    }

    #[test]
    fn no_capacity_means_no_cache() {
        let mut cache = PrefixCache::new(0);
        let (blocks, n) = of(&"x".repeat(1_000));
        assert_eq!((cache.start(&blocks, n), cache.start(&blocks, n), cache.entries.len()), (0, 0, 0));
    }

    proptest! {
        /// Against a list that is searched from end to end.
        #[test]
        fn evicts_the_least_recently_used(capacity in 1_usize..8, keys in proptest::collection::vec(0_u64..12, 0..80)) {
            let mut cache = PrefixCache::new(capacity);
            let mut model: Vec<u64> = Vec::new();
            for key in keys {
                cache.touch(key);
                model.retain(|k| *k != key);
                model.push(key);
                if model.len() > capacity {
                    model.remove(0);
                }
                let mut held: Vec<u64> = cache.places.keys().copied().collect();
                held.sort_unstable();
                let mut expected = model.clone();
                expected.sort_unstable();
                prop_assert_eq!(held, expected);
                prop_assert_eq!(cache.entries[cache.newest as usize].hash, key);
                prop_assert_eq!(cache.entries[cache.oldest as usize].hash, model[0]);
            }
        }
    }
}
