//! A Llama decoder on the CPU: one shared prefix of keys and values, and rows that go on from it in one batch.
//!
//! The architecture is that of Touvron et al., "Llama 2" (2023): RMS norm, rotary positions, grouped queries, `SwiGLU`.
//! Weights are dequantised to 32-bit floats when they are loaded, because candle has no fast kernel for `Q4_1`.

use std::fs::File;
use std::io::BufReader;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{D, DType, Device, Result, Tensor, bail};

/// What marks a position that must not be attended to; finite, so that a row of nothing else gives no NaN.
const MASKED: f32 = -1e30;
/// The longest text that positions are prepared for, in tokens.
pub(super) const MAX_POSITIONS: usize = 4096;

struct Shape {
    dim: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f64,
}

struct Layer {
    attention_norm: Tensor,
    /// Queries, keys and values in one matrix.
    qkv: Tensor,
    output: Tensor,
    ffn_norm: Tensor,
    /// Gate and up projections in one matrix.
    gate_up: Tensor,
    down: Tensor,
}

/// A loaded model.
pub(super) struct Llama {
    shape: Shape,
    layers: Vec<Layer>,
    embedding: Tensor,
    final_norm: Tensor,
    cos: Tensor,
    sin: Tensor,
    device: Device,
}

/// The keys and values of a text that many rows begin with.
pub(super) struct Prefix {
    /// For each layer, `[kv_heads, length, head_dim]` keys and values.
    layers: Vec<(Tensor, Tensor)>,
    /// Its length in tokens.
    pub(super) length: usize,
}

/// Rows that go on from one prefix, with the keys and values of what they have said so far.
pub(super) struct Rows {
    /// For each layer, `[kv_heads, rows, length, head_dim]` keys and values.
    layers: Vec<Option<(Tensor, Tensor)>>,
    /// For each row, which of the positions held are its own; the others are padding.
    own: Vec<Vec<bool>>,
}

impl Llama {
    /// Reads the weights of a GGUF file whose header is `content`.
    pub(super) fn load(content: &Content, reader: &mut BufReader<File>) -> Result<Self> {
        let device = Device::Cpu;
        let number = |key: &str| -> Result<usize> {
            match content.metadata.get(key) {
                Some(Value::U32(n)) => Ok(*n as usize),
                Some(Value::U64(n)) => Ok(*n as usize),
                _ => bail!("its header has no number `{key}`"),
            }
        };
        let real = |key: &str| -> Result<f64> {
            match content.metadata.get(key) {
                Some(value) => Ok(f64::from(value.to_f32()?)),
                None => bail!("its header has no number `{key}`"),
            }
        };
        let (dim, heads) = (number("llama.embedding_length")?, number("llama.attention.head_count")?);
        let kv_heads = number("llama.attention.head_count_kv")?;
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) || !dim.is_multiple_of(2 * heads) {
            bail!("its header names {heads} heads and {kv_heads} key heads over {dim} dimensions, which do not fit");
        }
        let shape =
            Shape { dim, heads, kv_heads, head_dim: dim / heads, eps: real("llama.attention.layer_norm_rms_epsilon")? };

        let mut tensor = |name: String| content.tensor(reader, &name, &device)?.dequantize(&device);
        let mut layers = Vec::new();
        for i in 0..number("llama.block_count")? {
            let mut part = |name: &str| tensor(format!("blk.{i}.{name}.weight"));
            let query = halves(&part("attn_q")?, heads, shape.head_dim)?;
            let key = halves(&part("attn_k")?, kv_heads, shape.head_dim)?;
            let value = part("attn_v")?;
            layers.push(Layer {
                attention_norm: part("attn_norm")?,
                qkv: Tensor::cat(&[query, key, value], 0)?,
                output: part("attn_output")?,
                ffn_norm: part("ffn_norm")?,
                gate_up: Tensor::cat(&[part("ffn_gate")?, part("ffn_up")?], 0)?,
                down: part("ffn_down")?,
            });
        }
        let embedding = tensor("token_embd.weight".into())?;
        let final_norm = tensor("output_norm.weight".into())?;
        let (cos, sin) = rotations(shape.head_dim, real("llama.rope.freq_base")?, &device)?;
        Ok(Self { shape, layers, embedding, final_norm, cos, sin, device })
    }

    /// Number of tokens in the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        self.embedding.dims()[0]
    }

    /// Reads a text once, so that rows can go on from it.
    pub(super) fn prefix(&self, tokens: &[u32]) -> Result<Prefix> {
        let mut rows = self.rows(1);
        self.extend(&Prefix { layers: Vec::new(), length: 0 }, &mut rows, &[tokens.to_vec()])?;
        let layers = rows.layers.into_iter().flatten().map(|(k, v)| Ok((k.squeeze(1)?, v.squeeze(1)?)));
        Ok(Prefix { layers: layers.collect::<Result<_>>()?, length: tokens.len() })
    }

    /// Rows that have said nothing yet.
    pub(super) fn rows(&self, count: usize) -> Rows {
        Rows { layers: vec![None; self.layers.len()], own: vec![Vec::new(); count] }
    }

    /// The logits `[n, vocabulary]` of hidden states `[n, dim]`.
    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        linear(&hidden.contiguous()?, &self.embedding)
    }

    /// Adds tokens to each row. Returns the hidden states `[rows, longest, dim]`; rows with fewer tokens stand at
    /// the right, and what is left of them means nothing.
    pub(super) fn extend(&self, prefix: &Prefix, rows: &mut Rows, tokens: &[Vec<u32>]) -> Result<Tensor> {
        let (batch, held) = (rows.own.len(), rows.own.first().map_or(0, Vec::len));
        let new = tokens.iter().map(Vec::len).max().unwrap_or(0);
        let end = held + new;
        if tokens.len() != batch || new == 0 {
            bail!("{batch} rows cannot go on with {} texts of at most {new} tokens", tokens.len());
        }
        if prefix.length + end > MAX_POSITIONS {
            bail!("the text has {} tokens, more than the {MAX_POSITIONS} that fit", prefix.length + end);
        }
        let (mut ids, mut positions) = (Vec::with_capacity(batch * new), Vec::with_capacity(batch * new));
        for (own, tokens) in rows.own.iter_mut().zip(tokens) {
            // Positions count from the first token of the prefix and skip the padding.
            let said = prefix.length + own.iter().filter(|own| **own).count();
            let padding = new - tokens.len();
            ids.extend(std::iter::repeat_n(0, padding).chain(tokens.iter().copied()));
            positions.extend((0..new).map(|i| (said + i.saturating_sub(padding)) as u32));
            own.extend((0..new).map(|i| i >= padding));
        }
        // No position sees a later one, and none sees padding.
        let mut mask = Vec::with_capacity(batch * new * end);
        for own in &rows.own {
            for at in held..end {
                mask.extend(own.iter().enumerate().map(|(seen, own)| if seen <= at && *own { 0.0 } else { MASKED }));
            }
        }
        let mask = Tensor::from_vec(mask, (1, batch, 1, new, end), &self.device)?;
        let mut x = self.embedding.index_select(&Tensor::new(ids, &self.device)?, 0)?;
        let positions = Tensor::new(positions, &self.device)?;
        let cos = self.cos.index_select(&positions, 0)?.unsqueeze(1)?;
        let sin = self.sin.index_select(&positions, 0)?.unsqueeze(1)?;

        for (i, layer) in self.layers.iter().enumerate() {
            let normed = self.norm(&x, &layer.attention_norm)?;
            let mixed = self.attend(
                layer,
                &normed,
                (batch, new),
                (&cos, &sin),
                &mask,
                prefix.layers.get(i),
                &mut rows.layers[i],
            )?;
            x = (x + linear(&mixed, &layer.output)?)?;
            let gate_up = linear(&self.norm(&x, &layer.ffn_norm)?, &layer.gate_up)?;
            let width = gate_up.dims()[1] / 2;
            let gate = gate_up.narrow(1, 0, width)?.silu()?;
            let gated = (gate * gate_up.narrow(1, width, width)?)?;
            x = (x + linear(&gated, &layer.down)?)?;
        }
        self.norm(&x, &self.final_norm)?.reshape((batch, new, self.shape.dim))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one attention; a struct would only rename them")]
    fn attend(
        &self,
        layer: &Layer,
        x: &Tensor,
        (batch, new): (usize, usize),
        rotation: (&Tensor, &Tensor),
        mask: &Tensor,
        prefix: Option<&(Tensor, Tensor)>,
        cache: &mut Option<(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let Shape { dim, heads, kv_heads, head_dim, .. } = self.shape;
        let groups = heads / kv_heads;
        let qkv = linear(x, &layer.qkv)?;
        let split = |from: usize, count: usize| {
            qkv.narrow(1, from * head_dim, count * head_dim)?.reshape((batch * new, count, head_dim))
        };
        let query = (rotate(&split(0, heads)?, rotation)? / (head_dim as f64).sqrt())?;
        let key = rotate(&split(heads, kv_heads)?, rotation)?;
        let value = split(heads + kv_heads, kv_heads)?;

        // [kv_heads, batch, groups, new, head_dim] and [kv_heads, batch, new, head_dim]
        let query = query.reshape((batch, new, kv_heads, groups, head_dim))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let by_head = |t: Tensor| t.reshape((batch, new, kv_heads, head_dim))?.permute((2, 0, 1, 3))?.contiguous();
        let (mut keys, mut values) = (by_head(key)?, by_head(value)?);
        if let Some((old_keys, old_values)) = cache.take() {
            keys = Tensor::cat(&[&old_keys, &keys], 2)?;
            values = Tensor::cat(&[&old_values, &values], 2)?;
        }
        let length = keys.dims()[2];
        *cache = Some((keys.clone(), values.clone()));

        let own_query = query.reshape((kv_heads * batch, groups * new, head_dim))?;
        let own_keys = keys.reshape((kv_heads * batch, length, head_dim))?;
        let own = own_query.matmul(&own_keys.t()?)?.reshape((kv_heads, batch, groups, new, length))?;
        let own = own.broadcast_add(mask)?;
        let own_values = values.reshape((kv_heads * batch, length, head_dim))?;

        let mixed = if let Some((prefix_keys, prefix_values)) = prefix {
            // The prefix is the same for all rows, so they are stacked into one product.
            let shared = prefix_keys.dims()[1];
            let stacked = query.reshape((kv_heads, batch * groups * new, head_dim))?;
            let before = stacked.matmul(&prefix_keys.t()?)?.reshape((kv_heads, batch, groups, new, shared))?;
            let weights = softmax(&Tensor::cat(&[&before, &own], 4)?)?;
            let before = weights.narrow(4, 0, shared)?.contiguous()?;
            let before = before.reshape((kv_heads, batch * groups * new, shared))?.matmul(prefix_values)?;
            let own = weights.narrow(4, shared, length)?.contiguous()?;
            let own = own.reshape((kv_heads * batch, groups * new, length))?.matmul(&own_values)?;
            (before.reshape((kv_heads, batch, groups, new, head_dim))?
                + own.reshape((kv_heads, batch, groups, new, head_dim))?)?
        } else {
            let own = softmax(&own)?.reshape((kv_heads * batch, groups * new, length))?.matmul(&own_values)?;
            own.reshape((kv_heads, batch, groups, new, head_dim))?
        };
        mixed.permute((1, 3, 0, 2, 4))?.contiguous()?.reshape((batch * new, dim))
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + self.shape.eps)?.sqrt()?;
        x.broadcast_div(&scale)?.broadcast_mul(weight)
    }
}

impl Rows {
    /// Keeps only these rows, in this order; a row that is named twice goes on twice.
    pub(super) fn keep(&mut self, rows: &[usize]) -> Result<()> {
        let ids = Tensor::new(rows.iter().map(|r| *r as u32).collect::<Vec<_>>(), &Device::Cpu)?;
        for (keys, values) in self.layers.iter_mut().flatten() {
            *keys = keys.index_select(&ids, 1)?;
            *values = values.index_select(&ids, 1)?;
        }
        self.own = rows.iter().filter_map(|r| self.own.get(*r).cloned()).collect();
        Ok(())
    }
}

/// `x @ weight.t()`, computed the other way round: for the few rows of a batch that is up to three times as fast.
fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    weight.matmul(&x.t()?)?.t()?.contiguous()
}

/// GGUF keeps the two halves of a rotary pair side by side; this puts first halves first again.
fn halves(weight: &Tensor, heads: usize, head_dim: usize) -> Result<Tensor> {
    let (rows, columns) = weight.dims2()?;
    weight.reshape((heads, head_dim / 2, 2, columns))?.transpose(1, 2)?.contiguous()?.reshape((rows, columns))
}

/// Cosines and sines `[positions, head_dim]` of the rotary embedding (Su et al., "`RoFormer`", 2021).
fn rotations(head_dim: usize, base: f64, device: &Device) -> Result<(Tensor, Tensor)> {
    let half = head_dim / 2;
    let mut angles = Vec::with_capacity(MAX_POSITIONS * head_dim);
    for position in 0..MAX_POSITIONS {
        for i in 0..head_dim {
            let frequency = base.powf(-2.0 * (i % half) as f64 / head_dim as f64);
            angles.push((position as f64 * frequency) as f32);
        }
    }
    let angles = Tensor::from_vec(angles, (MAX_POSITIONS, head_dim), device)?;
    Ok((angles.cos()?, angles.sin()?))
}

fn rotate(x: &Tensor, (cos, sin): (&Tensor, &Tensor)) -> Result<Tensor> {
    let half = x.dims()[2] / 2;
    let turned = Tensor::cat(&[x.narrow(2, half, half)?.neg()?, x.narrow(2, 0, half)?], 2)?;
    x.broadcast_mul(cos)? + turned.broadcast_mul(sin)?
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
}

/// Logarithms of the probabilities, for logits `[n, vocabulary]`.
pub(super) fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let logits = logits.to_dtype(DType::F32)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}
