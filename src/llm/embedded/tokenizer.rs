//! The tokenizer of `SmolLM2`, built from the vocabulary and merges that a GGUF file carries.

use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::Tokenizer as Inner;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

/// Turns text into tokens and back.
pub(super) struct Tokenizer {
    inner: Inner,
    /// `<|im_start|>` and `<|im_end|>`, which open and close a turn.
    turn: (u32, u32),
}

impl Tokenizer {
    /// Builds the tokenizer; the error says what the file lacks.
    pub(super) fn from_gguf(content: &Content) -> Result<Self, String> {
        let texts = |key: &str| -> Result<Vec<String>, String> {
            let Some(Value::Array(values)) = content.metadata.get(key) else {
                return Err(format!("its header has no list `{key}`"));
            };
            values
                .iter()
                .map(|v| v.to_string().cloned().map_err(|_| format!("`{key}` holds something that is not text")))
                .collect()
        };
        match content.metadata.get("tokenizer.ggml.pre") {
            Some(Value::String(pre)) if pre == "smollm" => {}
            other => return Err(format!("its tokenizer is {other:?}, and only `smollm` is known")),
        }
        let vocabulary: Vocab =
            texts("tokenizer.ggml.tokens")?.into_iter().enumerate().map(|(i, token)| (token, i as u32)).collect();
        let special = |name: &str| vocabulary.get(name).copied().ok_or_else(|| format!("its vocabulary lacks {name}"));
        let turn = (special("<|im_start|>")?, special("<|im_end|>")?);
        let merges = texts("tokenizer.ggml.merges")?
            .into_iter()
            .map(|merge| match merge.split_once(' ') {
                Some((a, b)) => Ok((a.to_owned(), b.to_owned())),
                None => Err(format!("`tokenizer.ggml.merges` holds `{merge}`, which is no pair")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let model = BPE::builder().vocab_and_merges(vocabulary, merges).build().map_err(|e| e.to_string())?;
        let mut inner = Inner::new(model);
        // As in the model's own tokenizer.json: single digits first, then bytes, and no space put in front.
        let bytes = ByteLevel::new(false, true, true);
        inner.with_pre_tokenizer(Some(Sequence::new(vec![Digits::new(true).into(), bytes.into()])));
        inner.with_decoder(Some(ByteLevelDecoder::new(false, true, true)));
        Ok(Self { inner, turn })
    }

    /// Number of tokens in the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The tokens of a text. Special tokens written out in it are plain text here.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| e.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of some tokens.
    pub(super) fn decode(&self, tokens: &[u32]) -> Result<String, String> {
        self.inner.decode(tokens, false).map_err(|e| e.to_string())
    }

    /// A whole turn of a conversation in the `ChatML` form that the model was tuned on.
    pub(super) fn turn(&self, role: &str, text: &str) -> Result<Vec<u32>, String> {
        let mut tokens = self.open(role)?;
        tokens.extend(self.encode(text)?);
        tokens.push(self.turn.1);
        tokens.extend(self.encode("\n")?);
        Ok(tokens)
    }

    /// The beginning of a turn.
    pub(super) fn open(&self, role: &str) -> Result<Vec<u32>, String> {
        let mut tokens = vec![self.turn.0];
        tokens.extend(self.encode(&format!("{role}\n"))?);
        Ok(tokens)
    }
}
