//! Makes what may be cut fit a record: raw answers of dead letters, warnings, evidence. Payloads and model answers
//! are never cut.

use super::codec::{self, MAX_RECORD};
use crate::model::StoreError;
use crate::model::record::{DeadLetter, Done, Ending, NewItem, Output, Rejection};

/// Whether an item's payload fits a record, so that a caller can give the item up instead of the run.
///
/// # Errors
/// [`StoreError::TooLarge`] with the size and the limit.
pub fn fits(item: &NewItem) -> Result<(), StoreError> {
    size_fits(item, codec::encoded_len(&Output { parent: item.parent, payload: item.payload.clone() }))
}

/// As [`fits`], where the encoded size is known.
fn size_fits(item: &NewItem, bytes: usize) -> Result<(), StoreError> {
    if bytes <= MAX_RECORD {
        return Ok(());
    }
    Err(StoreError::TooLarge {
        what: format!(
            "the {} {} of {}",
            item.payload.kind(),
            item.key.id.short(),
            item.payload.document_name().chars().take(200).collect::<String>()
        ),
        bytes,
        limit: MAX_RECORD,
    })
}

/// The ending, cut where it has to be, always in the same way. One that still does not fit is refused when it is
/// encoded.
pub(super) fn ending(ending: &Ending) -> Ending {
    if codec::encoded_len(ending) <= MAX_RECORD {
        return ending.clone();
    }
    let mut cut = ending.clone();
    for limit in [16 * 1024, 4 * 1024, 1024, 256, 32] {
        cut = match ending {
            Ending::Done(done) => Ending::Done(cut_done(done, limit)),
            Ending::Rejected(rejection) => Ending::Rejected(cut_rejection(rejection, limit)),
            Ending::Dead(letter) => Ending::Dead(cut_letter(letter, limit)),
        };
        if codec::encoded_len(&cut) <= MAX_RECORD {
            break;
        }
    }
    cut
}

/// The last character boundary of `text` at or before byte `at`.
pub(super) fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|n| text.is_char_boundary(*n)).unwrap_or(0)
}

/// `text`, if longer than `limit` bytes its beginning and how much is missing.
fn cut_text(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let head = &text[..floor_char_boundary(text, limit)];
    format!("{head}[… cut, {} characters]", text[head.len()..].chars().count())
}

/// At most this many texts of `limit` bytes each take half a record.
fn room(limit: usize) -> usize {
    MAX_RECORD / 2 / (limit + 64)
}

fn cut_done(done: &Done, limit: usize) -> Done {
    let keep = room(limit);
    let mut warnings: Vec<String> = done.warnings.iter().take(keep).map(|w| cut_text(w, limit)).collect();
    if done.warnings.len() > keep {
        warnings.push(format!("[… cut, {} warnings]", done.warnings.len() - keep));
    }
    Done { children: done.children, warnings, notes: done.notes.clone() }
}

fn cut_rejection(rejection: &Rejection, limit: usize) -> Rejection {
    // The evidence is the pair, which stands in the output of the stage before as well; value and rule do not.
    let without_evidence = Rejection { evidence: None, ..rejection.clone() };
    if codec::encoded_len(&Ending::Rejected(without_evidence.clone())) <= MAX_RECORD {
        return without_evidence;
    }
    Rejection {
        check: cut_text(&rejection.check, limit.min(1024)),
        value: cut_text(&rejection.value, limit),
        rule: cut_text(&rejection.rule, limit),
        evidence: None,
    }
}

fn cut_letter(letter: &DeadLetter, limit: usize) -> DeadLetter {
    let keep = room(limit);
    let mut raw = Vec::new();
    let dropped = letter.raw.len().saturating_sub(keep);
    if dropped > 0 {
        raw.push(format!("[… cut, {dropped} older answers]"));
    }
    raw.extend(letter.raw[dropped..].iter().map(|text| cut_text(text, limit)));
    DeadLetter {
        label: cut_text(&letter.label, limit.min(1024)),
        reason: cut_text(&letter.reason, limit),
        attempts: letter.attempts,
        raw,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::StageKey;
    use crate::model::ids::{DocumentHash, ItemId, Lineage};
    use crate::model::payload::{Document, DocumentFormat, Payload};
    use crate::model::record::ItemKey;
    use crate::store::keys;

    fn letter(raw: Vec<String>) -> Ending {
        Ending::Dead(DeadLetter { label: "bad_json".into(), reason: "no JSON".into(), attempts: 3, raw })
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let ending = letter(vec!["x".repeat(60_000)]);
        assert_eq!(super::ending(&ending), ending);
    }

    #[test]
    fn raw_answers_are_cut_and_say_so() {
        let Ending::Dead(cut) = super::ending(&letter(vec!["é".repeat(100_000)])) else { panic!("still dead") };
        assert_eq!(cut.attempts, 3);
        let text = &cut.raw[0];
        assert!(text.ends_with("[… cut, 91808 characters]"), "{}", &text[text.len() - 60..]);
        assert!(text.len() < 17_000);
    }

    #[test]
    fn evidence_goes_before_the_rule() {
        let document = Payload::Document(Document {
            name: "n".repeat(70_000),
            sha256: DocumentHash([0; 32]),
            path: String::new(),
            bytes: 1,
            format: DocumentFormat::Text,
        });
        let rejection = Rejection {
            check: "quote_exists".into(),
            value: "v".repeat(20_000),
            rule: "0.90".into(),
            evidence: Some(Box::new(document)),
        };
        let Ending::Rejected(cut) = super::ending(&Ending::Rejected(rejection.clone())) else { panic!("rejected") };
        assert_eq!(cut, Rejection { evidence: None, ..rejection });
    }

    #[test]
    fn too_large_a_payload_is_named() {
        let key = ItemKey { lineage: Lineage::document(&DocumentHash([1; 32])), id: ItemId([2; 32]) };
        let payload = Payload::Document(Document {
            name: "manual.pdf".into(),
            sha256: DocumentHash([1; 32]),
            path: "p".repeat(70_000),
            bytes: 1,
            format: DocumentFormat::Pdf,
        });
        let error = fits(&NewItem { key, parent: None, payload }).unwrap_err();
        insta::assert_snapshot!(error, @"the document 02020202020202020202020202020202 of manual.pdf has 70058 bytes, more than the 65536 a record may have");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_dead_letter_and_any_warnings_fit(lengths in proptest::collection::vec(0..40_000_usize, 0..12), many in 0..5_000_usize) {
            let key = keys::stage(keys::ENDING, &StageKey([0; 16]));
            let mut texts: Vec<String> = lengths.iter().map(|n| "ß".repeat(*n)).collect();
            texts.extend((0..many).map(|n| format!("answer {n}")));
            let dead = super::ending(&letter(texts.clone()));
            prop_assert!(codec::encode(&key, &dead).is_ok());
            let done = Done { children: 0, warnings: texts, ..Done::default() };
            prop_assert!(codec::encode(&key, &super::ending(&Ending::Done(done))).is_ok());
        }
    }
}
