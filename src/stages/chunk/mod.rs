//! The chunk stage: a document's Markdown becomes passages that keep to its structure, each with its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Serialize;
use tokenizers::Tokenizer;

use super::StageContext;
use crate::model::params::Reader;
use crate::model::payload::{Chunk, Pages, Payload, PayloadKind};
use crate::model::text::{ExtractedText, Span, TextStore};
use crate::model::{ErrorClass, Item, Outcome, Stage, StageError};
use layout::Layout;
use split::{Sizer, Splitting};

mod layout;
mod split;
mod worth;

/// Raised whenever the same parameters would give other chunks.
const CODE_VERSION: u32 = 1;
/// A table row or word of more than this many chunk sizes may be cut.
const MONSTROUS: usize = 8;
/// A piece of less than this part of a chunk's size is joined with what follows: small sections would else be asked
/// as many questions as full ones.
const JOINED: usize = 4;
/// The deepest headings kept for a chunk.
const MAX_HEADINGS: usize = 8;

/// In what a chunk's size is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChunkUnit {
    /// Unicode scalar values.
    Characters,
    /// Tokens of the tokenizer given.
    Tokens,
}

/// The parameters of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChunkParams {
    /// Largest size of a chunk; only a longer table row or word makes a larger one.
    pub size: usize,
    /// In what sizes are counted.
    pub unit: ChunkUnit,
    /// How much of a chunk's end the next one repeats at most; less than half of `size`.
    pub overlap: usize,
    /// A `tokenizer.json`; needed to count tokens.
    pub tokenizer: Option<PathBuf>,
    /// How many chunks of a document to keep at most.
    pub select: Option<usize>,
    /// Letters and digits outside headings that a chunk must have.
    pub min_chars: usize,
    /// Whether contents pages and indexes are left out.
    pub skip_contents: bool,
}

impl ChunkParams {
    /// Reads the parameters; faults are noted in the reader.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let size = reader.int(
            "size",
            1500,
            100..=100_000,
            "largest size of a chunk, in `unit`; only a longer table row or word makes a larger one",
        );
        let units = [("characters", ChunkUnit::Characters), ("tokens", ChunkUnit::Tokens)];
        let unit = reader
            .choice("unit", "characters", &units, "in what sizes are counted; tokens need `tokenizer`")
            .unwrap_or(ChunkUnit::Characters);
        let overlap = reader.int(
            "overlap",
            0,
            0..=50_000,
            "how much of a chunk's end the next one repeats at most, in `unit`; less than half of `size`",
        );
        let tokenizer =
            reader.optional_path("tokenizer", "none", "the model's tokenizer.json, by which tokens are counted");
        let select = reader.optional_int(
            "select",
            1..=1_000_000,
            "all",
            "how many chunks of a document to keep at most, spread evenly over the document",
        );
        let min_chars = reader.int("min_chars", 100, 0..=100_000, "a chunk with fewer letters and digits outside headings is skipped; shorter sections are joined with the next");
        let skip_contents = reader.bool("skip_contents", true, "whether contents pages and indexes are left out");
        if overlap * 2 >= size {
            let message = format!(
                "{} is {overlap}, but must be less than half of {} ({size}): else chunks would mostly repeat each other",
                reader.path_of("overlap"),
                reader.path_of("size"),
            );
            reader.fault("overlap", message);
        }
        let smallest_wanted = if unit == ChunkUnit::Tokens { size * 2 } else { size };
        if min_chars > smallest_wanted / 2 {
            let message = format!(
                "{} is {min_chars}, which most chunks of size {size} could not reach: at most {} makes sense",
                reader.path_of("min_chars"),
                smallest_wanted / 2,
            );
            reader.fault("min_chars", message);
        }
        if unit == ChunkUnit::Tokens && tokenizer.is_none() {
            let key = reader.path_of("tokenizer");
            reader.fault("unit", format!("`unit: tokens` needs {key}: the path of the model's tokenizer.json"));
        }
        Self {
            size: size as usize,
            unit,
            overlap: overlap as usize,
            tokenizer,
            select: select.map(|n| n as usize),
            min_chars: min_chars as usize,
            skip_contents,
        }
    }
}

/// The stage.
pub struct ChunkStage {
    texts: Arc<dyn TextStore>,
    cutter: Arc<Cutter>,
    determinants: String,
}

impl ChunkStage {
    /// Makes the stage; reads the tokenizer, if one is used.
    ///
    /// # Errors
    /// If the tokenizer is missing or cannot be read, in words for people.
    pub fn new(params: ChunkParams, context: &StageContext) -> Result<Self, String> {
        let (sizer, counted_by) = match (params.unit, &params.tokenizer) {
            (ChunkUnit::Characters, _) => (Sizer::Characters, "characters".to_owned()),
            (ChunkUnit::Tokens, None) => {
                return Err("counting tokens needs `tokenizer`: the path of the model's tokenizer.json".into());
            }
            (ChunkUnit::Tokens, Some(path)) => {
                let place = path.display();
                let bytes = std::fs::read(path).map_err(|error| {
                    format!("cannot read the tokenizer {place}: {error}; give the path of the model's tokenizer.json, or use `unit: characters`")
                })?;
                let mut tokenizer = Tokenizer::from_bytes(&bytes)
                    .map_err(|error| format!("{place} is not a tokenizer.json: {error}"))?;
                // Either would make every size look alike.
                tokenizer.with_padding(None);
                tokenizer
                    .with_truncation(None)
                    .map_err(|error| format!("the truncation of {place} cannot be turned off: {error}"))?;
                (Sizer::Tokens(Box::new(tokenizer)), format!("tokens of {}", blake3::hash(&bytes).to_hex()))
            }
        };
        let determinants = format!(
            "chunk code {CODE_VERSION}; size {}; counted in {counted_by}; overlap {}; select {:?}; min_chars {}; skip_contents {}",
            params.size, params.overlap, params.select, params.min_chars, params.skip_contents
        );
        let cutter = Arc::new(Cutter { params, sizer });
        Ok(Self { texts: Arc::clone(&context.texts), cutter, determinants })
    }
}

impl Stage for ChunkStage {
    fn accepts(&self) -> PayloadKind {
        PayloadKind::Pages
    }

    fn emits(&self) -> PayloadKind {
        PayloadKind::Chunk
    }

    fn determinants(&self) -> String {
        self.determinants.clone()
    }

    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>> {
        Box::pin(async move {
            let Payload::Pages(pages) = &item.payload else {
                let kind = item.payload.kind();
                return Err(StageError::fatal("wrong_payload", format!("the chunk stage takes pages, not a {kind}")));
            };
            let pages = pages.clone();
            let (texts, cutter) = (Arc::clone(&self.texts), Arc::clone(&self.cutter));
            // Reading may wait for the disk, and cutting a long document takes a second: not on a runtime thread.
            let work = tokio::task::spawn_blocking(move || {
                let text = texts.get(&pages.source.text)?;
                cutter.cut(&pages, &text)
            });
            match work.await {
                Ok(outcome) => outcome,
                Err(error) if error.is_panic() => {
                    let name = item.payload.document_name();
                    let reason = format!("splitting the text of {name} failed unexpectedly: {error}");
                    Err(StageError::poison("chunk_panic", reason))
                }
                Err(_) => Err(StageError::new(ErrorClass::Interrupted, "interrupted", "the run is stopping")),
            }
        })
    }
}

/// What cuts documents: parameters and the unit of size.
struct Cutter {
    params: ChunkParams,
    sizer: Sizer,
}

impl Cutter {
    /// The chunks of one document.
    fn cut(&self, pages: &Pages, extracted: &ExtractedText) -> Result<Outcome, StageError> {
        let params = &self.params;
        let text = extracted.markdown.as_str();
        let monstrous = MONSTROUS * params.size * self.sizer.typical_bytes();
        let layout = Layout::read(text, params.size * self.sizer.typical_bytes() / 2, monstrous);
        let splitting = Splitting {
            text,
            layout: &layout,
            sizer: &self.sizer,
            size: params.size,
            overlap: params.overlap,
            join_below: params.min_chars.max(params.size * self.sizer.typical_bytes() / JOINED),
            monstrous,
        };
        let pieces = splitting.split().map_err(|reason| StageError::poison("tokenizer", reason))?;

        let mut notes = BTreeMap::new();
        let mut note = |name: &str, count: u64| {
            if count > 0 {
                *notes.entry(name.to_owned()).or_default() += count;
            }
        };
        note("table_rows_cut", layout.monstrous_rows);
        note("words_cut", pieces.cut_words);
        let found = pieces.ranges.len();
        let mut kept: Vec<Range<usize>> = Vec::with_capacity(found);
        for range in pieces.ranges {
            match worth::skip(text, &layout, &range, pages.pages, params.min_chars) {
                Some(worth::Skip::Contents | worth::Skip::Index) if !params.skip_contents => kept.push(range),
                Some(reason) => note(reason.note(), 1),
                None => kept.push(range),
            }
        }
        if let Some(wanted) = params.select
            && kept.len() > wanted
        {
            note("chunks_not_selected", (kept.len() - wanted) as u64);
            let prose: Vec<usize> = kept.iter().map(|range| worth::prose(text, &layout, range)).collect();
            kept = worth::spread(&prose, wanted).into_iter().map(|i| kept[i].clone()).collect();
        }
        let mut warnings = Vec::new();
        if kept.is_empty() {
            warnings.push(if found == 0 {
                format!("no chunks: the extracted text of {} is empty", pages.source.name)
            } else {
                format!(
                    "no chunks: all {found} passages of {} are contents pages, indexes or near-empty (see the counts of skipped chunks)",
                    pages.source.name
                )
            });
        }
        let children = kept.into_iter().map(|range| Payload::Chunk(chunk(pages, extracted, &layout, &range))).collect();
        Ok(Outcome::Emit { children, warnings, notes })
    }
}

/// The chunk at a byte range of the text.
fn chunk(pages: &Pages, extracted: &ExtractedText, layout: &Layout, range: &Range<usize>) -> Chunk {
    let text = extracted.markdown.as_str();
    let chars = Span { start: layout.char_offset(text, range.start), end: layout.char_offset(text, range.end) };
    // Headings that the chunk begins with are above its text, too.
    let mut body = range.start;
    while let Some(heading) = layout.heading_at(body) {
        let rest = &text[heading.range.end..];
        body = heading.range.end + rest.len() - rest.trim_start().len();
    }
    let mut headings = layout.path(body.min(range.end));
    headings.truncate(MAX_HEADINGS);
    Chunk {
        source: pages.source.clone(),
        chars,
        bytes: Span { start: range.start as u64, end: range.end as u64 },
        first_page: extracted.page_at(chars.start),
        last_page: extracted.page_at(chars.end.saturating_sub(1).max(chars.start)),
        headings,
    }
}

#[cfg(test)]
mod tests;
