//! A document's extracted text, and where things stand in it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::ids::BlobId;

/// A half-open range. Of characters it counts Unicode scalar values, of bytes UTF-8 bytes; the field's name says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// The first position inside.
    pub start: u64,
    /// The first position behind.
    pub end: u64,
}

impl Span {
    /// How many positions it covers.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// The Markdown of one document and where its pages begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtractedText {
    /// The whole document as Markdown.
    pub markdown: String,
    /// For each page, the character offset at which it begins; ascending, the first is 0.
    pub page_starts: Vec<u64>,
}

impl ExtractedText {
    /// The number (from 1) of the page that holds character `offset`.
    pub fn page_at(&self, offset: u64) -> u32 {
        self.page_starts.partition_point(|start| *start <= offset).max(1) as u32
    }
}

/// Keeps documents' texts by content, outside the database. Implementations cache a bounded number of bytes.
pub trait TextStore: Send + Sync {
    /// Stores a text and returns its id only once it is on disk. Storing the same text twice changes nothing.
    fn put(&self, text: &ExtractedText) -> Result<BlobId, StoreError>;

    /// Reads a text back and checks its hash.
    fn get(&self, id: &BlobId) -> Result<Arc<ExtractedText>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_at_maps_offsets() {
        let text = ExtractedText { markdown: String::new(), page_starts: vec![0, 10, 10, 25] };
        assert_eq!(text.page_at(0), 1);
        assert_eq!(text.page_at(9), 1);
        assert_eq!(text.page_at(10), 3, "an empty page 2 holds nothing");
        assert_eq!(text.page_at(99), 4);
        assert_eq!(ExtractedText::default().page_at(5), 1);
    }
}
