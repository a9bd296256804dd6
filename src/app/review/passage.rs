//! The source text of a pair: its passage and what stands around it, with the quotes marked.

use std::path::Path;

use serde::Serialize;

use crate::export::rows::{CitationRow, PairRow};

/// Characters shown before and after the passage.
const AROUND: usize = 700;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Before or behind the passage.
    Around,
    /// The passage.
    Passage,
    /// A quote.
    Quote,
}

/// A piece of the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Piece {
    pub(super) kind: Kind,
    pub(super) text: String,
}

/// The text that a pair was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Source {
    pub(super) pieces: Vec<Piece>,
    /// What is not as it should be, for the reviewer to know.
    pub(super) warning: Option<String>,
}

/// Reads the document and marks the quotes. Where it is not there, the row's own passage is shown.
pub(super) fn source(documents: &Path, row: &PairRow) -> Source {
    // Hashes come from a file; only what looks like one becomes part of a path.
    let is_hash = row.source_sha256.len() == 64 && row.source_sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    let text =
        is_hash.then(|| std::fs::read_to_string(documents.join(format!("{}.md", row.source_sha256))).ok()).flatten();
    match text {
        Some(text) => in_document(&text, row),
        None => alone(row, Some("The document's text is not in documents/: only the passage is shown.".into())),
    }
}

fn in_document(text: &str, row: &PairRow) -> Source {
    // Byte offsets of every character, and of the end.
    let at: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let last = at.len() - 1;
    let spans: Vec<(usize, usize)> = row
        .citations
        .iter()
        .filter(|citation| stands(text, &at, citation))
        .map(|citation| (citation.char_start as usize, citation.char_end as usize))
        .collect();
    let wrong = spans.len() < row.citations.len();
    let warning = wrong.then(|| "A quote does not stand where the dataset says. Judge with care.".to_owned());
    let Some(passage) = passage(text, &at, row, spans.first().copied()) else {
        return alone(row, warning.or_else(|| Some("The passage was not found in the document.".into())));
    };
    let begin = spans.iter().map(|span| span.0).min().unwrap_or(passage.0).min(passage.0).saturating_sub(AROUND);
    let end = (spans.iter().map(|span| span.1).max().unwrap_or(passage.1).max(passage.1) + AROUND).min(last);
    let kind_at = |place: usize| {
        if spans.iter().any(|span| (span.0..span.1).contains(&place)) {
            Kind::Quote
        } else if (passage.0..passage.1).contains(&place) {
            Kind::Passage
        } else {
            Kind::Around
        }
    };
    let mut bounds: Vec<usize> = spans.iter().flat_map(|span| [span.0, span.1]).collect();
    bounds.extend([begin, passage.0, passage.1, end]);
    bounds.sort_unstable();
    bounds.dedup();
    let pieces = bounds
        .windows(2)
        .map(|part| Piece { kind: kind_at(part[0]), text: text[at[part[0]]..at[part[1]]].to_owned() })
        .collect();
    Source { pieces, warning }
}

/// Whether a quote stands in the text where its span says.
fn stands(text: &str, at: &[usize], citation: &CitationRow) -> bool {
    let bounds = (usize::try_from(citation.char_start), usize::try_from(citation.char_end));
    let (Ok(start), Ok(end)) = bounds else { return false };
    start < end && end < at.len() && text[at[start]..at[end]] == citation.quote
}

/// The span of the passage in characters: that copy of it which holds the quote.
fn passage(text: &str, at: &[usize], row: &PairRow, quote: Option<(usize, usize)>) -> Option<(usize, usize)> {
    if row.context.is_empty() {
        return quote;
    }
    let place = |bytes: usize| at.binary_search(&bytes).ok();
    let mut first = None;
    for (bytes, found) in text.match_indices(row.context.as_str()) {
        let span = (place(bytes)?, place(bytes + found.len())?);
        if quote.is_none_or(|quote| span.0 <= quote.0 && quote.1 <= span.1) {
            return Some(span);
        }
        first = first.or(Some(span));
    }
    first
}

/// The row's own passage, with the first place of each quote marked.
fn alone(row: &PairRow, warning: Option<String>) -> Source {
    let quote = row.citations.iter().find_map(|citation| {
        let at = row.context.find(citation.quote.as_str())?;
        Some((at, at + citation.quote.len()))
    });
    let piece = |kind, text: &str| (!text.is_empty()).then(|| Piece { kind, text: text.to_owned() });
    let pieces = match quote {
        Some((start, end)) => vec![
            piece(Kind::Passage, &row.context[..start]),
            piece(Kind::Quote, &row.context[start..end]),
            piece(Kind::Passage, &row.context[end..]),
        ],
        None => vec![piece(Kind::Passage, &row.context)],
    };
    Source { pieces: pieces.into_iter().flatten().collect(), warning }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(context: &str, quote: &str, start: u64) -> PairRow {
        let json = serde_json::json!({
            "id": "1", "question": "q", "answer": "a", "question_type": "t", "source_document": "d",
            "source_sha256": "ab".repeat(32), "source_page": 1, "chunk_id": "c",
            "citations": [{"quote": quote, "page": 1, "char_start": start,
                "char_end": start + quote.chars().count() as u64, "match_score": 1.0}],
            "context": context, "scores": null, "checks": {}, "model": "m", "judge_model": null, "prompt_hash": "p",
            "run_id": "r", "usage": {"prompt_tokens": 0, "completion_tokens": 0},
        });
        serde_json::from_value(json).expect("a row")
    }

    fn shown(source: &Source) -> String {
        let pieces: Vec<String> =
            source.pieces.iter().map(|piece| format!("{:?}[{}]", piece.kind, piece.text)).collect();
        pieces.concat()
    }

    #[test]
    fn spans_count_characters_and_the_copy_with_the_quote_is_shown() {
        let text = "Ä. Über dem Teich. — Ä. Über dem Teich. Ende";
        let source = in_document(text, &row("Über dem Teich.", "dem", 29));
        assert_eq!(
            shown(&source),
            "Around[Ä. Über dem Teich. — Ä. ]Passage[Über ]Quote[dem]Passage[ Teich.]Around[ Ende]"
        );
        assert_eq!(source.warning, None);
    }

    #[test]
    fn a_quote_that_is_elsewhere_is_told() {
        let source = in_document("Über dem Teich.", &row("Über dem Teich.", "dem", 0));
        assert!(source.warning.is_some_and(|warning| warning.contains("does not stand")));
        assert!(!source.pieces.iter().any(|piece| piece.kind == Kind::Quote));
        let gone = in_document("x", &row("Über dem Teich.", "dem", 9999));
        assert_eq!(shown(&gone), "Passage[Über ]Quote[dem]Passage[ Teich.]");
    }

    #[test]
    fn without_the_document_the_passage_is_shown() {
        let dir = tempfile::tempdir().expect("folder");
        let mut pair = row("Über dem Teich.", "dem", 5);
        assert!(source(dir.path(), &pair).warning.is_some());
        pair.source_sha256 = "../../etc/passwd".into();
        assert_eq!(shown(&source(dir.path(), &pair)), "Passage[Über ]Quote[dem]Passage[ Teich.]");
    }
}
