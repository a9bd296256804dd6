//! Where documents come from: what a run is given, listed, named and identified by content.
//!
//! [`discover`] finds every file before any work starts and reports everything that is wrong with the inputs at
//! once. [`Listing::documents`] then reads the files one by one, so that the first documents enter the flow while
//! the rest of a large corpus is still unread.

mod folder;
mod hash;
mod listing;
mod manifest;
mod names;

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::payload::DocumentFormat;

pub use hash::{Documents, Found};
pub use listing::{Listing, SourceFile, discover};

/// The file name extensions that are read, for messages.
pub const EXTENSIONS: &str = ".pdf, .md or .txt";

/// The format that a path's extension stands for, whatever its case; `None` for one that is not read.
pub fn format_of(path: &Path) -> Option<DocumentFormat> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "pdf" => Some(DocumentFormat::Pdf),
        "md" => Some(DocumentFormat::Markdown),
        "txt" => Some(DocumentFormat::Text),
        _ => None,
    }
}

/// One share of a corpus that several runs divide among themselves. A document's share follows from its content
/// alone, so it stays the same when the corpus grows, is renamed or moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// Share `index`, counted from 0, of `count`; `None` unless `index < count`.
    pub fn new(index: u32, count: u32) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    /// Among how many the corpus is divided.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Whether a document with this content hash belongs to the share.
    pub fn holds(self, hash: &crate::model::DocumentHash) -> bool {
        let mut head = [0; 8];
        head.copy_from_slice(&hash.0[..8]);
        u64::from_be_bytes(head) % u64::from(self.count) == u64::from(self.index)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// One thing that is wrong with the inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFault {
    /// The manifest and the line in it, from 1; `None` for an input given directly.
    pub line: Option<(PathBuf, usize)>,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for InputFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((manifest, line)) = &self.line {
            write!(f, "{}:{line}: ", manifest.display())?;
        }
        f.write_str(&self.message)
    }
}

/// Why the documents cannot be had.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SourceError {
    /// The inputs are at fault; nothing was started.
    #[error("{}", in_lines(.0))]
    Inputs(Vec<InputFault>),
    /// There is nothing to read.
    #[error("no documents: {0}")]
    Nothing(String),
    /// A file that was there when the inputs were listed cannot be read now.
    #[error("cannot read {} ({name}): {detail}. {remedy}", .path.display())]
    Unreadable {
        /// What the dataset calls it.
        name: String,
        /// Where it lies.
        path: PathBuf,
        /// The system's words.
        detail: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

fn in_lines(faults: &[InputFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DocumentHash;

    #[test]
    fn extensions_are_read_in_any_case() {
        assert_eq!(format_of(Path::new("a/B.PDF")), Some(DocumentFormat::Pdf));
        assert_eq!(format_of(Path::new("notes.Md")), Some(DocumentFormat::Markdown));
        assert_eq!(format_of(Path::new("x.tXt")), Some(DocumentFormat::Text));
        assert_eq!(format_of(Path::new("x.docx")), None);
        assert_eq!(format_of(Path::new("pdf")), None);
    }

    #[test]
    fn every_document_has_exactly_one_shard() {
        for byte in 0..=255_u8 {
            let hash = DocumentHash([byte; 32]);
            let holders = (0..7).filter(|i| Shard::new(*i, 7).is_some_and(|s| s.holds(&hash))).count();
            assert_eq!(holders, 1);
        }
        assert_eq!(Shard::new(3, 3), None);
        assert_eq!(Shard::new(0, 0), None);
    }
}
