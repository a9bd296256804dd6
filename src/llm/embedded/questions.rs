//! Lets the model write questions: one batch of rows a request, greedy, held to the words of each sentence.

use candle_core::Tensor;

use super::angles::{Angle, sayable};
use super::model::{Llama, Prefix, log_softmax};
use super::tokenizer::Tokenizer;
use super::vocabulary::{Place, Vocabulary};

/// The most tokens that the model may add to the beginning of a question; a row that has not ended by then is dropped.
const MOST_TOKENS: usize = 28;

const SYSTEM: &str = "You write one short, clear question that the given sentence answers.";

/// What the model is shown. Of other fields than health policy, so that a copy would show.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    (
        "The library lends a reader no more than 12 books at a time.",
        "How many books may a reader borrow from the library at a time?",
    ),
    (
        "A tenant must report a broken lock to the housing office within 3 working days.",
        "Within how many working days must a tenant report a broken lock to the housing office?",
    ),
    ("A visitor permit is a card that lets a guest park on the campus for one day.", "What is a visitor permit?"),
    (
        "Only the harbor master may close the east pier, unless a storm warning is in force.",
        "Who may close the east pier?",
    ),
    (
        "The museum shop gives back the price of a ticket when a tour is cancelled.",
        "When does the museum shop give back the price of a ticket?",
    ),
];

/// A question the model wrote.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Which of the sentences it is about.
    pub(super) sentence: usize,
    /// What it asks for.
    pub(super) angle: Angle,
    /// The question.
    pub(super) question: String,
    /// The mean log-likelihood of the tokens the model chose, at most 0; 0 where the rule had written the whole.
    pub(super) likelihood: f64,
    /// How many tokens the model added.
    pub(super) tokens: u64,
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    /// Read, those of the shared examples included.
    pub(super) prompt: u64,
    /// Of these, taken from the shared examples' keys and values.
    pub(super) cached: u64,
    /// Written.
    pub(super) written: u64,
}

/// The examples, read once, and the tokens that matter.
pub(super) struct Asker {
    prefix: Prefix,
    question_mark: u32,
}

struct Row {
    candidate: Candidate,
    vocabulary: Vocabulary,
    place: Place,
    said: Vec<u32>,
    sum: f64,
    counted: u32,
    done: bool,
}

impl Asker {
    /// Reads the examples.
    pub(super) fn new(llama: &Llama, tokenizer: &Tokenizer) -> Result<Self, String> {
        let mut tokens = tokenizer.turn("system", SYSTEM)?;
        for (sentence, question) in EXAMPLES {
            tokens.extend(tokenizer.turn("user", &prompt(sentence))?);
            tokens.extend(tokenizer.turn("assistant", question)?);
        }
        let prefix = llama.prefix(&tokens).map_err(|e| e.to_string())?;
        let [question_mark] = tokenizer.encode("?")?[..] else {
            return Err("its vocabulary has no token for a question mark".into());
        };
        Ok(Self { prefix, question_mark })
    }

    /// Writes one question for every angle of every sentence, all in one batch, in that order; those that reach no
    /// end are left out.
    pub(super) fn ask(
        &self,
        llama: &Llama,
        tokenizer: &Tokenizer,
        asks: &[(&str, Vec<Angle>)],
    ) -> Result<(Vec<Candidate>, Tokens), String> {
        let mut tokens = Tokens::default();
        let mut texts = Vec::with_capacity(asks.len());
        let (mut all, mut fork) = (Vec::new(), Vec::new());
        for (i, (sentence, angles)) in asks.iter().enumerate() {
            let text = Self::text(tokenizer, sentence)?;
            tokens.prompt += (self.prefix.length + text.len()) as u64;
            tokens.cached += self.prefix.length as u64;
            texts.push(text);
            for angle in angles {
                fork.push(i);
                all.push(Row {
                    // What the question asks for is kept from it.
                    vocabulary: Vocabulary::new(tokenizer, &sayable(sentence, angle))?,
                    place: Vocabulary::BETWEEN,
                    said: tokenizer.encode(&angle.start)?,
                    sum: 0.0,
                    counted: 0,
                    done: angle.start.ends_with('?'),
                    candidate: Candidate {
                        sentence: i,
                        angle: angle.clone(),
                        question: String::new(),
                        likelihood: 0.0,
                        tokens: 0,
                    },
                });
            }
        }
        if !all.is_empty() {
            self.write(llama, &texts, &fork, &mut all).map_err(|e| e.to_string())?;
        }
        let mut candidates = Vec::new();
        for row in all {
            tokens.written += row.candidate.tokens;
            if row.done {
                let likelihood = row.sum / f64::from(row.counted.max(1));
                candidates.push(Candidate { question: tokenizer.decode(&row.said)?, likelihood, ..row.candidate });
            }
        }
        Ok((candidates, tokens))
    }

    fn write(&self, llama: &Llama, texts: &[Vec<u32>], fork: &[usize], all: &mut [Row]) -> candle_core::Result<()> {
        let mut rows = llama.rows(texts.len());
        llama.extend(&self.prefix, &mut rows, texts)?;
        let mut live: Vec<usize> = (0..all.len()).filter(|i| !all[*i].done).collect();
        if live.is_empty() {
            return Ok(());
        }
        rows.keep(&live.iter().map(|i| fork[*i]).collect::<Vec<_>>())?;
        let starts: Vec<Vec<u32>> = live.iter().map(|i| all[*i].said.clone()).collect();
        let mut hidden = last(&llama.extend(&self.prefix, &mut rows, &starts)?)?;
        for _ in 0..MOST_TOKENS {
            let chances = log_softmax(&llama.logits(&hidden)?)?.to_vec2::<f32>()?;
            let (mut kept, mut next, mut still) = (Vec::new(), Vec::new(), Vec::new());
            for (at, (row, chances)) in live.iter().zip(&chances).enumerate() {
                if let Some(token) = self.choose(&mut all[*row], chances) {
                    kept.push(at);
                    next.push(vec![token]);
                    still.push(*row);
                }
            }
            if still.is_empty() {
                break;
            }
            live = still;
            rows.keep(&kept)?;
            hidden = last(&llama.extend(&self.prefix, &mut rows, &next)?)?;
        }
        Ok(())
    }

    /// Adds the likeliest of the tokens allowed to a row; `None` once the row has ended, well or not.
    fn choose(&self, row: &mut Row, chances: &[f32]) -> Option<u32> {
        let chance = |token: u32| chances.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let best = |tokens: &mut dyn Iterator<Item = u32>| {
            // Of equals the lowest token, so that the choice does not hang on the order.
            tokens.max_by(|a, b| chance(*a).total_cmp(&chance(*b)).then(b.cmp(a)))
        };
        let repeats = |token: u32| {
            let [.., a, b] = row.said[..] else { return false };
            row.said.windows(3).any(|w| w == [a, b, token])
        };
        let may_end = row.vocabulary.may_end(row.place);
        let word = best(&mut row.vocabulary.next(row.place).filter(|t| !repeats(*t)));
        let wished = best(&mut (0..chances.len() as u32))?;
        // Where the model would rather say what is kept from it, the question has said all it can.
        let withheld = may_end && Some(wished) != word && wished != self.question_mark;
        let token = match word {
            Some(word) if !(may_end && (withheld || chance(self.question_mark) >= chance(word))) => word,
            _ if may_end => self.question_mark,
            _ => return None,
        };
        // The end that a withheld word brought about says nothing about the question.
        if token != self.question_mark || !withheld {
            row.sum += f64::from(chance(token));
            row.counted += 1;
        }
        row.candidate.tokens += 1;
        row.place = row.vocabulary.follow(row.place, token);
        row.said.push(token);
        row.done = token == self.question_mark;
        (!row.done).then_some(token)
    }

    /// The mean log-likelihood of `question` for the model that has read `sentence`, over all its tokens, at most 0.
    pub(super) fn likelihood(
        &self,
        llama: &Llama,
        tokenizer: &Tokenizer,
        sentence: &str,
        question: &str,
    ) -> Result<(f64, Tokens), String> {
        let mut text = Self::text(tokenizer, sentence)?;
        let asked = tokenizer.encode(question)?;
        let before = text.len();
        text.extend(&asked);
        if asked.is_empty() {
            return Ok((f64::NEG_INFINITY, Tokens::default()));
        }
        let length = (self.prefix.length + text.len()) as u64;
        let tokens = Tokens { prompt: length, cached: self.prefix.length as u64, written: 0 };
        let sum = self.sum(llama, text, before, &asked).map_err(|e| e.to_string())?;
        Ok((sum / asked.len() as f64, tokens))
    }

    fn sum(&self, llama: &Llama, text: Vec<u32>, before: usize, asked: &[u32]) -> candle_core::Result<f64> {
        let hidden = llama.extend(&self.prefix, &mut llama.rows(1), &[text])?.squeeze(0)?;
        // The position before a token foretells it.
        let foretelling = hidden.narrow(0, before - 1, asked.len())?;
        let chances = log_softmax(&llama.logits(&foretelling)?)?;
        let tokens = Tensor::new(asked, chances.device())?.unsqueeze(1)?;
        let chosen = chances.gather(&tokens, 1)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(chosen.into_iter().map(f64::from).sum())
    }

    fn text(tokenizer: &Tokenizer, sentence: &str) -> Result<Vec<u32>, String> {
        let mut text = tokenizer.turn("user", &prompt(sentence))?;
        text.extend(tokenizer.open("assistant")?);
        Ok(text)
    }
}

fn prompt(sentence: &str) -> String {
    format!("Sentence: {sentence}")
}

/// The hidden states of the last position of each row.
fn last(hidden: &Tensor) -> candle_core::Result<Tensor> {
    hidden.narrow(1, hidden.dims()[1] - 1, 1)?.squeeze(1)
}
