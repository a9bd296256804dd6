//! The extract stage: a document to its text, as Markdown, page by page.
//!
//! PDFs are read by a [worker process](worker) under limits; Markdown and text files are decoded here. A document
//! that cannot be read ends with a reason that a person understands; one that can be read in part goes on with
//! warnings.

mod judge;
mod params;
pub mod pdf;
mod plain;
mod process;
mod sniff;
mod text;
mod title;
pub mod worker;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;

use super::StageContext;
use crate::model::payload::{Document, DocumentFormat, Pages, SourceRef};
use crate::model::text::{ExtractedText, TextStore};
use crate::model::{DocumentHash, Item, Outcome, Payload, PayloadKind, Stage, StageError};

pub use params::ExtractParams;
pub use worker::{WORKER_ARGUMENT, worker_main};

/// Raised whenever the same file would give another text.
const CODE_VERSION: u32 = 1;

/// Turns documents into text.
pub struct ExtractStage {
    params: ExtractParams,
    texts: Arc<dyn TextStore>,
    worker_program: PathBuf,
}

/// A document's text before it is stored.
struct Extracted {
    text: ExtractedText,
    title: Option<String>,
    warnings: Vec<String>,
}

impl ExtractStage {
    /// A stage that keeps texts in the context's store and starts workers from its program.
    pub fn new(params: ExtractParams, context: &StageContext) -> Self {
        Self { params, texts: Arc::clone(&context.texts), worker_program: context.worker_program.clone() }
    }

    async fn extract(&self, document: &Document) -> Result<Outcome, StageError> {
        if document.bytes == 0 {
            return Err(StageError::poison("empty", "empty file (0 bytes)"));
        }
        let extracted = match document.format {
            DocumentFormat::Pdf => {
                let read = process::read_pdf(&self.worker_program, &self.request(document), self.wall()).await?;
                let (min_chars, max_text) = (self.params.min_page_chars, self.params.max_text());
                blocking(move || from_pdf(&read, min_chars, max_text)).await??
            }
            DocumentFormat::Markdown | DocumentFormat::Text => {
                let (document, max_text) = (document.clone(), self.params.max_text());
                blocking(move || from_plain(&document, max_text)).await??
            }
        };
        let pages = extracted.text.page_starts.len() as u32;
        let chars = extracted.text.markdown.chars().count() as u64;
        let texts = Arc::clone(&self.texts);
        let text = blocking(move || texts.put(&extracted.text)).await??;
        let source = SourceRef { name: document.name.clone(), sha256: document.sha256, text, title: extracted.title };
        Ok(Outcome::Emit {
            children: vec![Payload::Pages(Pages { source, pages, chars })],
            warnings: extracted.warnings,
            notes: BTreeMap::from([("pages".to_owned(), u64::from(pages))]),
        })
    }

    fn request(&self, document: &Document) -> worker::Request {
        worker::Request {
            path: PathBuf::from(&document.path),
            sha256: document.sha256,
            options: pdf::PdfOptions {
                max_text: self.params.max_text(),
                max_pages: self.params.max_pages,
                strip_running: self.params.strip_running,
            },
            limits: worker::WorkerLimits {
                memory: self.params.memory_limit_mb << 20,
                cpu_seconds: self.params.cpu_seconds,
                cpu_seconds_a_page: self.params.cpu_seconds_a_page,
            },
        }
    }

    fn wall(&self) -> process::WallLimit {
        process::WallLimit { seconds: self.params.wall_seconds, seconds_a_page: self.params.wall_seconds_a_page }
    }
}

impl Stage for ExtractStage {
    fn accepts(&self) -> PayloadKind {
        PayloadKind::Document
    }

    fn emits(&self) -> PayloadKind {
        PayloadKind::Pages
    }

    fn determinants(&self) -> String {
        format!("extract v{CODE_VERSION} unpdf {} {}", pdf::UNPDF_VERSION, self.params.determinants())
    }

    fn process<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<Outcome, StageError>> {
        Box::pin(async move {
            match &item.payload {
                Payload::Document(document) => self.extract(document).await,
                other => Err(StageError::fatal(
                    "wrong_payload",
                    format!("the extract stage takes documents, not {}: please report it", other.kind()),
                )),
            }
        })
    }
}

/// Runs work that would hold up other tasks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StageError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        if error.is_cancelled() {
            StageError::new(crate::model::ErrorClass::Interrupted, "interrupted", "interrupted: the run is stopping")
        } else {
            StageError::poison("panic", format!("the program failed on it, please report it: {error}"))
        }
    })
}

/// The text of a PDF that was read.
fn from_pdf(read: &pdf::PdfText, min_chars: usize, max_text: usize) -> Result<Extracted, StageError> {
    let warnings =
        judge::judge(read, min_chars).map_err(|verdict| StageError::poison(verdict.label, verdict.reason))?;
    let mut pages: Vec<String> = read.pages.iter().map(|page| text::tidy(&page.markdown)).collect();
    text::join_hyphens(&mut pages);
    finish(&pages, read.title.as_deref(), warnings, max_text)
}

/// The text of a Markdown or text file.
fn from_plain(document: &Document, max_text: usize) -> Result<Extracted, StageError> {
    let path = Path::new(&document.path);
    // UTF-16 takes twice as many bytes as the text it holds.
    if document.bytes > 2 * max_text as u64 + 4 {
        return Err(too_large(max_text));
    }
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => gone(path),
        _ => StageError::transient("unreadable", format!("cannot read {}: {error}", path.display())),
    })?;
    if DocumentHash::of(&bytes) != document.sha256 {
        return Err(changed(path));
    }
    let decoded = plain::decode(&bytes).map_err(|fault| StageError::poison("not_text", fault.to_string()))?;
    let page = text::normalise(&decoded).trim().to_owned();
    if page.is_empty() {
        return Err(StageError::poison("no_text", "no text: the file holds only blanks"));
    }
    finish(&[page], None, Vec::new(), max_text)
}

fn finish(
    pages: &[String],
    metadata_title: Option<&str>,
    warnings: Vec<String>,
    max_text: usize,
) -> Result<Extracted, StageError> {
    let (markdown, page_starts) = text::assemble(pages);
    if markdown.len() > max_text {
        return Err(too_large(max_text));
    }
    let title = title::choose(metadata_title, &markdown);
    Ok(Extracted { text: ExtractedText { markdown, page_starts }, title, warnings })
}

fn too_large(max_text: usize) -> StageError {
    StageError::poison(
        "too_large",
        format!("text is larger than max_text_mb ({} MB): a decompression bomb?", max_text >> 20),
    )
}

fn gone(path: &Path) -> StageError {
    StageError::poison("gone", format!("{} is gone: put it back and retry the failures", path.display()))
}

fn changed(path: &Path) -> StageError {
    let reason = format!("{} changed after it was listed: run again to take its new content", path.display());
    StageError::poison("changed", reason)
}

#[cfg(test)]
mod tests;
