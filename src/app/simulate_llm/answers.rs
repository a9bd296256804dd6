//! Plausible answers, each a function of the seed and the messages alone.
//!
//! Generated pairs are sentences of the source with a question made of their rarest words, some with a planted flaw,
//! so that every check behind the model has something to refuse.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::answers_judge::judge;
use super::schema::Schema;
use super::sentences::{SHORTEST, Sentence, after_source, content_words, fold, sentences, source, word_key};
use super::{char_boundary, draw, mix};

/// Purposes of draws.
const PICK: u64 = 10;
const FLAW: u64 = 11;
const TYPE: u64 = 12;
const UNANSWERABLE: u64 = 13;
const MARKS: u64 = 14;

/// Share of round-trip questions that the model says it cannot answer.
const UNANSWERABLE_SHARE: f64 = 0.03;
/// Share of pairs that the judge gives low marks.
const LOW_MARKS_SHARE: f64 = 0.05;
/// Pairs given when the schema sets no limit.
const DEFAULT_PAIRS: u64 = 5;
/// Beyond this no prompt asks.
const MAX_PAIRS: u64 = 200;

/// The type of questions that the source does not answer.
const UNANSWERABLE_TYPE: &str = "unanswerable";

/// What determines an answer.
pub(super) struct Prompt<'a> {
    /// The first message that is not the system's.
    pub(super) user: &'a str,
    /// Hash of the first two messages.
    pub(super) content: u64,
    /// The server's seed.
    pub(super) seed: u64,
    /// Share of generated pairs with a planted flaw.
    pub(super) bad_pairs: f64,
    /// How much of the shares of doubts holds.
    pub(super) doubts: f64,
}

#[derive(Serialize)]
struct Pairs {
    pairs: Vec<Pair>,
}

#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(Deserialize))]
struct Pair {
    question: String,
    answer: String,
    question_type: String,
    quote: String,
}

#[derive(Serialize)]
struct RoundTrip {
    answerable: bool,
    answer: String,
}

#[derive(Serialize)]
struct Marks {
    reason: String,
    clarity: u8,
    accuracy: u8,
    relevance: u8,
    overall: u8,
}

/// What the client's last `Input: ` line holds.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Input {
    pub(super) question: String,
    pub(super) answer: String,
    /// Types of questions asked for, one for each pair.
    types: Vec<String>,
}

impl Input {
    /// The last line behind the source that begins with `Input: `: a source may hold such lines too.
    pub(super) fn of(prompt: &str) -> Self {
        let line = after_source(prompt).rsplit('\n').find_map(|line| line.strip_prefix("Input: "));
        line.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
    }
}

/// The answer to a request that names a schema.
pub(super) fn structured(prompt: &Prompt<'_>, name: &str, schema: &Schema) -> String {
    let has = |property| schema.properties.get(property).is_some();
    let json = match name {
        "qa_pairs" if has("pairs") => serde_json::to_string(&Pairs { pairs: pairs(prompt, schema) }),
        "answer" if has("answerable") => serde_json::to_string(&round_trip(prompt)),
        "judge" if has("claims") => serde_json::to_string(&judge(prompt)),
        "scores" if has("overall") => serde_json::to_string(&marks(prompt)),
        _ => serde_json::to_string(&schema.instance()),
    };
    json.unwrap_or_default()
}

/// The answer to a request without a schema.
pub(super) fn prose(prompt: &Prompt<'_>) -> String {
    let found = sentences(source(prompt.user));
    let pick = (mix(prompt.seed, PICK, prompt.content) % found.len().max(1) as u64) as usize;
    found.get(pick).map_or_else(
        || "Happy to help. Here is a short answer in plain prose.".to_owned(),
        |sentence| format!("Here is what stands out: {}", fold(sentence.text)),
    )
}

/// Broken JSON in the place of an answer: cut in the middle, with prose around it, or not closed.
pub(super) fn malformed(answer: &str, content: u64) -> String {
    let half = char_boundary(answer, answer.len() / 2);
    match content % 3 {
        0 => answer[..half].to_owned(),
        1 => format!("Sure! Here you go: {answer} Let me know, if {{you need more"),
        _ => format!("{},", answer.strip_suffix('}').unwrap_or(answer)),
    }
}

fn pairs(prompt: &Prompt<'_>, schema: &Schema) -> Vec<Pair> {
    let list = schema.properties.get("pairs");
    let wanted = list.and_then(|l| l.max_items).unwrap_or(DEFAULT_PAIRS).min(MAX_PAIRS) as usize;
    let types: Vec<&str> = list
        .and_then(|l| l.items.as_deref())
        .and_then(|items| items.properties.get("question_type"))
        .map(|kind| kind.choices.iter().filter_map(serde_json::Value::as_str).collect())
        .unwrap_or_default();
    let text = source(prompt.user);
    let found = sentences(text);
    let rarity = Rarity::of(&found);
    let mut pairs: Vec<Pair> = Vec::with_capacity(wanted);
    let asked_for = Input::of(prompt.user).types;
    let mut asked_for = asked_for.iter().map(String::as_str);
    for index in spread(&found, wanted, prompt) {
        let key = mix(prompt.seed, word_key(found[index].text), prompt.content);
        let one = asked_for.next();
        let mut pair = match one {
            Some(UNANSWERABLE_TYPE) => unanswerable_pair(found[index].text, text, key),
            _ => sound_pair(found[index].text, &rarity, one.as_ref().map_or(&types, std::slice::from_ref), key),
        };
        if draw(prompt.seed, FLAW, key) < prompt.bad_pairs {
            spoil(&mut pair, pairs.last(), text, key);
        }
        pairs.push(pair);
    }
    pairs
}

/// Which sentences to ask about: prose from all over the source; where that does not suffice, other text long enough
/// for an answer; where there is neither, one piece of whatever there is.
fn spread(found: &[Sentence<'_>], wanted: usize, prompt: &Prompt<'_>) -> Vec<usize> {
    let of =
        |wanted: &dyn Fn(&Sentence<'_>) -> bool| (0..found.len()).filter(|i| wanted(&found[*i])).collect::<Vec<_>>();
    let choose = |from: Vec<usize>, n: usize| -> Vec<usize> {
        if n == 0 || from.len() <= n {
            return from.into_iter().take(n).collect();
        }
        let offset = draw(prompt.seed, PICK, prompt.content);
        (0..n).map(|i| from[((i as f64 + offset) * from.len() as f64 / n as f64) as usize]).collect()
    };
    let mut chosen = choose(of(&|sentence| sentence.prose), wanted);
    let missing = wanted - chosen.len();
    chosen.extend(choose(of(&|sentence| !sentence.prose && sentence.text.chars().count() >= SHORTEST), missing));
    if chosen.is_empty() {
        chosen = choose(of(&|_| true), wanted.min(1));
    }
    chosen.sort_unstable();
    chosen
}

/// In how many sentences of the source each word occurs.
struct Rarity(HashMap<u64, u32>);

impl Rarity {
    fn of(found: &[Sentence<'_>]) -> Self {
        let mut counts = HashMap::with_capacity(found.len() * 12);
        for sentence in found {
            let mut keys: Vec<u64> = content_words(sentence.text).map(word_key).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                *counts.entry(key).or_insert(0) += 1;
            }
        }
        Self(counts)
    }

    fn count(&self, word: &str) -> u32 {
        self.0.get(&word_key(word)).copied().unwrap_or(0)
    }
}

fn sound_pair(sentence: &str, rarity: &Rarity, types: &[&str], key: u64) -> Pair {
    let answer = fold(sentence);
    let kind = question_type(&answer, types, key);
    let question = question(&kind, &topic(sentence, rarity));
    Pair { question, answer, question_type: kind, quote: sentence.to_owned() }
}

/// A question about what no policy manual speaks of, with the answer that says so.
fn unanswerable_pair(sentence: &str, text: &str, key: u64) -> Pair {
    const FOREIGN: [&str; 12] = [
        "parking permits",
        "solar panels",
        "holiday cruises",
        "music lessons",
        "garden tools",
        "chess tournaments",
        "bicycle helmets",
        "concert tickets",
        "swimming pools",
        "photo albums",
        "coffee machines",
        "postage stamps",
    ];
    let lower = text.to_lowercase();
    let foreign = |from: u64| {
        let at = (0..FOREIGN.len()).map(|i| (from as usize % FOREIGN.len() + i) % FOREIGN.len());
        at.map(|i| FOREIGN[i]).find(|topic| !topic.split(' ').any(|word| lower.contains(word))).unwrap_or(FOREIGN[0])
    };
    let topic = foreign(mix(0, TYPE, key));
    Pair {
        question: format!("What does the policy provide about {topic}?"),
        answer: format!("The policy does not state anything about {topic} for anybody."),
        question_type: UNANSWERABLE_TYPE.into(),
        quote: sentence.to_owned(),
    }
}

/// Up to five of the sentence's content words, the rarest in the source, in their order.
fn topic(sentence: &str, rarity: &Rarity) -> String {
    let mut words: Vec<(usize, &str)> = Vec::with_capacity(32);
    for (i, word) in content_words(sentence).enumerate() {
        if !words.iter().any(|(_, w)| w.eq_ignore_ascii_case(word)) {
            words.push((i, word));
        }
    }
    // Half of the words at most, so that the question does not give the answer away.
    let most = (words.len() / 2).clamp(1, 5);
    words.sort_by_key(|(i, word)| (rarity.count(word), std::cmp::Reverse(word.len().min(9)), *i));
    words.truncate(most);
    words.sort_unstable_by_key(|(i, _)| *i);
    let words: Vec<&str> = words.into_iter().map(|(_, word)| word).collect();
    match words.as_slice() {
        [] => "its subject".into(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A type that suits the answer, if the schema offers one.
fn question_type(answer: &str, types: &[&str], key: u64) -> String {
    let numeric = answer.bytes().any(|b| b.is_ascii_digit());
    let conditional = [" if ", " when ", " unless ", "must "].iter().any(|word| answer.contains(word));
    let suits = |kind: &&&str| {
        if kind.contains("unanswerable") {
            false
        } else if kind.contains("numer") {
            numeric
        } else if kind.contains("condition") || kind.contains("eligib") {
            conditional
        } else if kind.contains("defin") {
            [" is ", " are ", " means ", " refers "].iter().any(|word| answer.contains(word))
        } else {
            true
        }
    };
    let suitable: Vec<&&str> = types.iter().filter(suits).collect();
    if suitable.is_empty() {
        return types.first().map_or_else(|| "factual".to_owned(), |kind| (*kind).to_owned());
    }
    (*suitable[(mix(0, TYPE, key) % suitable.len() as u64) as usize]).to_owned()
}

fn question(kind: &str, topic: &str) -> String {
    let has = |part: &str| kind.contains(part);
    if has("proced") {
        format!("How does the policy handle {topic}?")
    } else if has("numer") {
        format!("Which figure does the policy set for {topic}?")
    } else if has("condition") || has("eligib") {
        format!("Under which conditions does the policy apply to {topic}?")
    } else if has("defin") {
        format!("How does the policy define {topic}?")
    } else if has("except") {
        format!("Which exception does the policy make for {topic}?")
    } else if has("compar") {
        format!("How does the policy compare {topic}?")
    } else {
        format!("What does the policy provide about {topic}?")
    }
}

/// Plants one flaw that a check should find.
fn spoil(pair: &mut Pair, previous: Option<&Pair>, text: &str, key: u64) {
    match (mix(0, FLAW, key) % 7, previous) {
        (0, _) => pair.answer = with_wrong_number(&pair.answer, text),
        (1, _) => {
            let words: Vec<&str> = pair.answer.trim_end_matches('.').split(' ').rev().collect();
            pair.quote = format!("{}.", words.join(" "));
        }
        (2, _) => pair.question = pair.question.replacen("the policy", "this section", 1),
        (3, _) => pair.answer = "I cannot answer this question, as it is not provided in the text.".into(),
        (4, _) => pair.question = format!("Is it true that {}?", pair.answer.trim_end_matches('.')),
        (5, Some(previous)) => pair.clone_from(previous),
        _ => pair.answer = pair.answer.split(' ').take(2).collect::<Vec<_>>().join(" "),
    }
}

/// The answer with a number that stands nowhere in the source.
fn with_wrong_number(answer: &str, text: &str) -> String {
    let absent = (0..u64::MAX).map(|i| (97 + i * 31).to_string()).find(|n| !text.contains(n.as_str()));
    let absent = absent.unwrap_or_default();
    let Some(start) = answer.find(|c: char| c.is_ascii_digit()) else {
        return format!("{} This holds for {absent} days.", answer.trim_end());
    };
    let digits = answer[start..].bytes().take_while(u8::is_ascii_digit).count();
    format!("{}{absent}{}", &answer[..start], &answer[start + digits..])
}

/// The sentence of the source that shares the most with the question, rare words counting more.
fn round_trip(prompt: &Prompt<'_>) -> RoundTrip {
    let nothing = || RoundTrip { answerable: false, answer: String::new() };
    if draw(prompt.seed, UNANSWERABLE, prompt.content) < UNANSWERABLE_SHARE * prompt.doubts {
        return nothing();
    }
    let question = Input::of(prompt.user).question;
    let mut asked: Vec<u64> = content_words(&question).map(word_key).collect();
    asked.sort_unstable();
    asked.dedup();
    let found = sentences(source(prompt.user));
    let holds: Vec<Vec<bool>> = found
        .iter()
        .map(|sentence| {
            let mut holds = vec![false; asked.len()];
            for word in content_words(sentence.text) {
                if let Ok(at) = asked.binary_search(&word_key(word)) {
                    holds[at] = true;
                }
            }
            holds
        })
        .collect();
    let occurs: Vec<f64> = (0..asked.len()).map(|w| holds.iter().filter(|h| h[w]).count() as f64).collect();
    let weight = |holds: &[bool]| -> f64 { holds.iter().zip(&occurs).filter(|(h, _)| **h).map(|(_, n)| 1.0 / n).sum() };
    let mut best: Option<(f64, &Sentence<'_>)> = None;
    for (sentence, holds) in found.iter().zip(&holds) {
        // A sentence that shares a word or two of many is about something else.
        if holds.iter().filter(|held| **held).count() * 3 < asked.len() {
            continue;
        }
        let weight = weight(holds);
        if weight > best.map_or(0.0, |(most, _)| most) {
            best = Some((weight, sentence));
        }
    }
    best.map_or_else(nothing, |(_, sentence)| RoundTrip { answerable: true, answer: fold(sentence.text) })
}

/// Mostly 4 and 5; for a small share one mark or more is low.
fn marks(prompt: &Prompt<'_>) -> Marks {
    let drawn = mix(prompt.seed, MARKS, prompt.content);
    let high = |shift: u32| if (drawn >> shift) % 10 < 7 { 5 } else { 4 };
    let (mut clarity, mut accuracy, mut relevance) = (high(0), high(8), high(16));
    let low = draw(prompt.seed, MARKS + 100, prompt.content) < LOW_MARKS_SHARE * prompt.doubts;
    if low {
        let mark = 1 + ((drawn >> 24) % 2) as u8;
        match (drawn >> 32) % 3 {
            0 => clarity = mark,
            1 => accuracy = mark,
            _ => relevance = mark,
        }
    }
    let reason = if low {
        "The pair falls short: the question or the answer goes beyond what the source supports."
    } else {
        "The question stands by itself, and the answer restates what the source says."
    };
    let overall = if low { clarity.min(accuracy).min(relevance) } else { (clarity + accuracy + relevance) / 3 };
    Marks { reason: reason.into(), clarity, accuracy, relevance, overall }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
