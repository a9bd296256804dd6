//! The check `new`: refuses a pair that says what an earlier pair of the dataset says.
//!
//! Two pairs count as one if their questions' shingles are alike by Jaccard's measure, and their answers agree: the
//! same numbers, dates, amounts and codes in the pairs as a whole, as many negations, answers of almost the same
//! words, and no word that sets both question and answer of the one apart from those of the other. So pairs that
//! differ in one number, or in the group that they are about, stay apart.
//!
//! Pairs are offered in the order of the dataset and compared with those that stay, so what is refused follows from
//! the set of pairs alone: in which order they were made changes nothing. Those that share no band with another pair
//! ([`Encounters`]) need no look.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::encounters::Encounters;
use super::minhash::{BANDS, MinHasher, jaccard, mixed};
use crate::model::near_duplicates::NearDuplicateParams;
use crate::model::record::Rejection;
use crate::stages::validate::checks::hard_facts;
use crate::stages::validate::tokens::{common, tokens};

/// The check's name.
pub const CHECK: &str = "new";
/// With how many pairs of one band a pair is compared at most, the latest of them: without a bound a corpus of one
/// sentence in a million variants would take the square of that.
const COMPARED: usize = 32;
/// The end of a chain.
const NONE: u32 = u32::MAX;

/// The earlier pair that a refused one repeats.
#[derive(Clone, Debug, PartialEq)]
pub struct Twin {
    /// Its id.
    pub id: String,
    /// The Jaccard similarity of both questions, 0 to 1.
    pub similarity: f64,
}

impl Twin {
    /// The rejection of the pair that repeats this one.
    pub fn rejection(&self, params: &NearDuplicateParams) -> Rejection {
        Rejection {
            check: CHECK.into(),
            value: format!("{:.3} like {}", self.similarity, self.id),
            rule: format!(
                "a pair must be new: no earlier one with the same answer and a question of Jaccard similarity {} or more",
                params.jaccard
            ),
            evidence: None,
        }
    }
}

/// The pairs that stayed so far, about 1.1 KB for each that is held.
pub struct NearDuplicates {
    params: NearDuplicateParams,
    hasher: MinHasher,
    /// The pairs that need a look; all if it is not known.
    encounters: Option<Encounters>,
    kept: Vec<Kept>,
    /// Ids, questions and answers of the pairs that stayed, one behind the other.
    texts: String,
    /// The shingles of their questions, one set behind the other.
    shingles: Vec<u32>,
    /// For each band, the latest pair with a key.
    latest: Vec<HashMap<u32, u32, BuildHasherDefault<KeyHasher>>>,
    /// For each pair that stayed and each band, the pair before it with the same key.
    before: Vec<[u32; BANDS]>,
}

/// A pair that stayed: where its texts end.
struct Kept {
    id_end: u64,
    question_end: u64,
    answer_end: u64,
    shingles_end: u64,
    /// A hash of its facts and negations, which a twin must share.
    facts: u64,
}

/// A pair as it is compared.
pub(super) struct Pair {
    question: Vec<String>,
    answer: Vec<String>,
    shingles: Vec<u32>,
    facts: u64,
}

impl Pair {
    /// Makes it ready, with the keys under which it meets others.
    pub(super) fn new(hasher: &MinHasher, question: &str, answer: &str) -> (Self, [u32; BANDS]) {
        let (asked, answered) = (tokens(question), tokens(answer));
        let shingles = hasher.shingles(&asked.join(" "));
        let mut facts = mixed(negations(&asked) << 32 | negations(&answered));
        for fact in hard_facts(&format!("{question}\n{answer}")) {
            facts = fact.bytes().fold(mixed(facts), |hash, byte| mixed(hash ^ u64::from(byte)));
        }
        // Pairs that state other facts never meet, so that a table asked row by row costs nothing.
        let bands = hasher.bands(&shingles).map(|band| (mixed(u64::from(band) ^ facts) >> 32) as u32);
        (Self { question: asked, answer: answered, shingles, facts }, bands)
    }
}

impl NearDuplicates {
    /// None yet; every pair is looked at and held.
    pub fn new(params: NearDuplicateParams) -> Self {
        Self {
            params,
            hasher: MinHasher::new(params.shingle as usize),
            encounters: None,
            kept: Vec::new(),
            texts: String::new(),
            shingles: Vec::new(),
            latest: (0..BANDS).map(|_| HashMap::default()).collect(),
            before: Vec::new(),
        }
    }

    /// None yet; only pairs that share a band with another one, as a survey of all found, are looked at and held.
    pub fn among(params: NearDuplicateParams, encounters: Encounters) -> Self {
        Self { encounters: Some(encounters), ..Self::new(params) }
    }

    /// What counts as one.
    pub fn params(&self) -> &NearDuplicateParams {
        &self.params
    }

    /// Takes the next pair in the order of the dataset: its twin if it has one, else the pair stays.
    pub fn offer(&mut self, id: &str, question: &str, answer: &str) -> Option<Twin> {
        if !self.params.enabled || self.encounters.as_ref().is_some_and(|encounters| !encounters.has(id)) {
            return None;
        }
        let (pair, bands) = Pair::new(&self.hasher, question, answer);
        let twin = self.twin(&pair, &bands);
        if twin.is_none() {
            self.keep(id, &pair, &bands);
        }
        twin
    }

    /// The pair's twin among those that stayed; it does not itself stay.
    pub fn find(&self, question: &str, answer: &str) -> Option<Twin> {
        let (pair, bands) = Pair::new(&self.hasher, question, answer);
        self.twin(&pair, &bands)
    }

    fn twin(&self, pair: &Pair, bands: &[u32; BANDS]) -> Option<Twin> {
        let mut candidates: Vec<u32> = Vec::new();
        for (band, key) in bands.iter().enumerate() {
            let mut at = self.latest[band].get(key).copied().unwrap_or(NONE);
            let mut left = COMPARED;
            while at != NONE && left > 0 {
                candidates.push(at);
                at = self.before[at as usize][band];
                left -= 1;
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates.into_iter().find_map(|at| self.compared(pair, at as usize))
    }

    fn compared(&self, pair: &Pair, at: usize) -> Option<Twin> {
        let kept = &self.kept[at];
        if kept.facts != pair.facts {
            return None;
        }
        let (start, first) =
            at.checked_sub(1).map_or((0, 0), |before| (self.kept[before].answer_end, self.kept[before].shingles_end));
        let shingles = self.shingles.get(first as usize..kept.shingles_end as usize).unwrap_or_default();
        let similarity = jaccard(&pair.shingles, shingles, self.params.jaccard)?;
        let text = |from: u64, to: u64| self.texts.get(from as usize..to as usize).unwrap_or_default();
        let question = text(kept.id_end, kept.question_end);
        let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let other: (Vec<String>, Vec<String>) = (words(question), words(text(kept.question_end, kept.answer_end)));
        let both = (pair.answer.len() + other.1.len()).max(1) as f64;
        let f1 = 2.0 * common(&pair.answer, &other.1) as f64 / both;
        let equal = pair.answer == other.1;
        let apart = || told_apart((&pair.question, &pair.answer), (&other.0, &other.1));
        (equal || (f1 >= self.params.min_answer_f1 && !apart()))
            .then(|| Twin { id: text(start, kept.id_end).into(), similarity: (similarity * 1000.0).round() / 1000.0 })
    }

    fn keep(&mut self, id: &str, pair: &Pair, bands: &[u32; BANDS]) {
        // Four billion pairs do not fit into memory; what comes behind them would be kept unseen.
        let Ok(index) = u32::try_from(self.kept.len()) else { return };
        if index == NONE {
            return;
        }
        self.texts.push_str(id);
        let id_end = self.texts.len() as u64;
        push_words(&mut self.texts, &pair.question);
        let question_end = self.texts.len() as u64;
        push_words(&mut self.texts, &pair.answer);
        self.shingles.extend_from_slice(&pair.shingles);
        let (answer_end, shingles_end) = (self.texts.len() as u64, self.shingles.len() as u64);
        self.kept.push(Kept { id_end, question_end, answer_end, shingles_end, facts: pair.facts });
        let before = std::array::from_fn(|band| self.latest[band].insert(bands[band], index).unwrap_or(NONE));
        self.before.push(before);
    }
}

fn push_words(text: &mut String, words: &[String]) {
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            text.push(' ');
        }
        text.push_str(word);
    }
}

/// How many of the words turn a statement round or limit it.
fn negations(words: &[String]) -> u64 {
    const NEGATIONS: [&str; 11] =
        ["not", "no", "never", "none", "neither", "nor", "cannot", "without", "except", "unless", "only"];
    const SHORT: [&str; 16] = [
        "isnt", "arent", "wasnt", "werent", "doesnt", "dont", "didnt", "cant", "couldnt", "wont", "wouldnt", "mustnt",
        "shouldnt", "hasnt", "havent", "neednt",
    ];
    words.iter().filter(|word| NEGATIONS.contains(&word.as_str()) || SHORT.contains(&word.as_str())).count() as u64
}

/// Whether each pair has a word in both question and answer that the other has in neither: then they are about two
/// things.
fn told_apart(a: (&[String], &[String]), b: (&[String], &[String])) -> bool {
    let own = |one: (&[String], &[String]), other: (&[String], &[String])| {
        let others: HashSet<&String> = other.0.iter().chain(other.1).collect();
        let answer: HashSet<&String> = one.1.iter().collect();
        one.0.iter().any(|word| answer.contains(word) && !others.contains(word))
    };
    own(a, b) && own(b, a)
}

/// Spreads keys that are hashes already.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mixed(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u32(&mut self, key: u32) {
        self.0 = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
#[path = "near_duplicates_tests.rs"]
mod tests;
