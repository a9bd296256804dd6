//! The last errors of a run, by class, stage and label: a small bounded list for people who watch.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::model::ErrorClass;

/// Kinds of errors kept; the one that was not seen for longest makes room.
const KEPT: usize = 12;
/// The longest text kept, in characters.
const TEXT: usize = 160;
/// What stands in quotation marks is left out from this many characters on: it may be a document's or a model's text.
const QUOTED: usize = 24;

/// Errors of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorSeen {
    /// `transient` (waited out), `poison` (the item was given up), `fatal` (the run stops).
    pub class: String,
    /// The stage, or `model` for calls that failed on the way.
    pub stage: String,
    /// A short label such as `http_503` or `bad_json`.
    pub label: String,
    /// The latest one's message, short and without the text of documents.
    pub text: String,
    /// How often it was seen in this attempt.
    pub count: u64,
    /// When it was last seen (RFC 3339).
    pub last: String,
}

/// Collects errors; shared by all that meet some.
#[derive(Debug, Default)]
pub struct ErrorLog {
    /// The latest last.
    kept: Mutex<VecDeque<ErrorSeen>>,
}

impl ErrorLog {
    /// Notes an error.
    pub fn note(&self, class: ErrorClass, stage: &str, label: &str, text: &str) {
        let class = match class {
            ErrorClass::Transient => "transient",
            ErrorClass::Poison => "poison",
            ErrorClass::Fatal => "fatal",
            // Nothing went wrong.
            ErrorClass::Interrupted => return,
        };
        let last = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().position(|e| e.class == class && e.stage == stage && e.label == label);
        let count = known.and_then(|at| kept.remove(at)).map_or(0, |earlier| earlier.count) + 1;
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        let (stage, label, text) = (stage.into(), label.into(), shown(text));
        kept.push_back(ErrorSeen { class: class.into(), stage, label, text, count, last });
    }

    /// The kinds of errors seen, the latest first.
    pub fn recent(&self) -> Vec<ErrorSeen> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

/// A message on one line, short, and without long quotations.
fn shown(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((at, open)) = rest.char_indices().find(|(_, c)| matches!(c, '"' | '“')) {
        let inside = &rest[at + open.len_utf8()..];
        let close = if open == '“' { '”' } else { '"' };
        let Some(end) = inside.find(close) else { break };
        out.push_str(&rest[..at + open.len_utf8()]);
        out.push_str(if inside[..end].chars().count() < QUOTED { &inside[..end] } else { "…" });
        out.push(close);
        rest = &inside[end + close.len_utf8()..];
    }
    out.push_str(rest);
    let line = out.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= TEXT { line } else { line.chars().take(TEXT - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_kind_and_the_oldest_make_room() {
        let log = ErrorLog::default();
        log.note(ErrorClass::Transient, "model", "http_503", "busy");
        for n in 0..KEPT {
            log.note(ErrorClass::Poison, "generate", &format!("label_{n}"), "x");
        }
        log.note(ErrorClass::Poison, "generate", "label_1", "again");
        log.note(ErrorClass::Interrupted, "generate", "interrupted", "no error");
        let recent = log.recent();
        assert_eq!(recent.len(), KEPT);
        assert_eq!((recent[0].label.as_str(), recent[0].count, recent[0].text.as_str()), ("label_1", 2, "again"));
        assert!(recent.iter().all(|e| e.label != "http_503"), "{recent:?}");
    }

    #[test]
    fn long_quotations_are_left_out() {
        let fault =
            "the JSON does not fit (invalid type: string \"The applicant must report a change\", expected \"pairs\")";
        assert_eq!(shown(fault), "the JSON does not fit (invalid type: string \"…\", expected \"pairs\")");
        assert_eq!(shown("it gives “<html> a page of a proxy with text”\nand \"no end"), "it gives “…” and \"no end");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), TEXT);
    }
}
