//! The database's keys: a prefix for each kind of record, then a stage, then an item, in lineage order.
//!
//! An item's key is its document's hash, then `01` and four bytes for each ordinal, then `00` and the item's id.
//! The markers make the order of the bytes the order of [`ItemKey`], also where one lineage is the beginning of
//! another.

pub(super) use crate::model::ids::to_hex as hex;
use crate::model::ids::{DocumentHash, ItemId, Lineage, RequestKey, StageKey};
use crate::model::record::ItemKey;

/// Endings of items.
pub(super) const ENDING: &[u8] = b"i/";
/// Outputs of stages.
pub(super) const OUTPUT: &[u8] = b"o/";
/// The pending index.
pub(super) const PENDING: &[u8] = b"p/";
/// Model answers.
pub(super) const JOURNAL: &[u8] = b"j/";
/// Accounts.
pub(super) const LEDGER: &[u8] = b"l/";
/// The account of model answers.
pub(super) const LEDGER_MODEL: &[u8] = b"l/model";
/// Named values of the run.
pub(super) const META: &[u8] = b"m/";
/// Damaged records set aside by a repair, under their old keys.
pub(super) const SET_ASIDE: &[u8] = b"q/";
/// Format, id and epoch of the store.
pub(super) const STORE: &[u8] = b"s/state";
/// Blocks of records, each under the key of its first record.
pub(super) const BLOCK: &[u8] = b"b/";
/// The log of the changes that are in no block yet.
const LOG: &[u8] = b"w/";
/// How far the log goes.
pub(super) const LOG_HEAD: &[u8] = b"w/head";

const ORDINAL: u8 = 1;
const END: u8 = 0;

/// The beginning of all records of one kind of one stage.
pub(super) fn stage(prefix: &[u8], stage: &StageKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(160);
    bytes.extend_from_slice(prefix);
    bytes.extend_from_slice(&stage.0);
    bytes
}

/// The beginning of all records of one kind of one stage that come from one document.
pub(super) fn document(prefix: &[u8], of: &StageKey, document: &DocumentHash) -> Vec<u8> {
    let mut bytes = stage(prefix, of);
    bytes.extend_from_slice(&document.0);
    bytes
}

/// One record.
pub(super) fn item(prefix: &[u8], of: &StageKey, key: &ItemKey) -> Vec<u8> {
    let mut bytes = stage(prefix, of);
    let lineage = key.lineage.as_bytes();
    bytes.extend_from_slice(&lineage[..32]);
    for ordinal in lineage[32..].chunks(4) {
        bytes.push(ORDINAL);
        bytes.extend_from_slice(ordinal);
    }
    bytes.push(END);
    bytes.extend_from_slice(&key.id.0);
    bytes
}

/// Reads what [`item`] wrote; `None` if the bytes cannot be such a key.
pub(super) fn parse_item(prefix: &[u8], bytes: &[u8]) -> Option<(StageKey, ItemKey)> {
    let (of, mut rest) = bytes.strip_prefix(prefix)?.split_first_chunk::<16>()?;
    let mut lineage = rest.split_off(..32)?.to_vec();
    loop {
        match *rest.split_off_first()? {
            ORDINAL => lineage.extend_from_slice(rest.split_off(..4)?),
            END => break,
            _ => return None,
        }
    }
    let id = ItemId(rest.try_into().ok()?);
    Some((StageKey(*of), ItemKey { lineage: Lineage::from_bytes(&lineage)?, id }))
}

/// A model answer.
pub(super) fn journal(key: &RequestKey) -> Vec<u8> {
    [JOURNAL, &key.0].concat()
}

/// Part number `n` (from 1) of a model answer that does not fit one record.
pub(super) fn journal_part(key: &RequestKey, n: u32) -> Vec<u8> {
    [JOURNAL, &key.0, b"/", &n.to_be_bytes()].concat()
}

/// Reads what [`journal`] (part 0) or [`journal_part`] wrote.
pub(super) fn parse_journal(bytes: &[u8]) -> Option<(RequestKey, u32)> {
    let (key, rest) = bytes.strip_prefix(JOURNAL)?.split_first_chunk::<32>()?;
    let part = match rest {
        [] => 0,
        [b'/', n @ ..] => u32::from_be_bytes(n.try_into().ok()?),
        _ => return None,
    };
    Some((RequestKey(*key), part))
}

/// The account of a stage.
pub(super) fn ledger(of: &StageKey) -> Vec<u8> {
    stage(LEDGER, of)
}

/// Reads what [`ledger`] wrote.
pub(super) fn parse_ledger(bytes: &[u8]) -> Option<StageKey> {
    Some(StageKey(bytes.strip_prefix(LEDGER)?.try_into().ok()?))
}

/// A named value of the run.
pub(super) fn meta(name: &str) -> Vec<u8> {
    [META, name.as_bytes()].concat()
}

/// Where a damaged record is set aside.
pub(super) fn set_aside(key: &[u8]) -> Vec<u8> {
    [SET_ASIDE, key].concat()
}

/// The block whose first record is `first`.
pub(super) fn block(first: &[u8]) -> Vec<u8> {
    [BLOCK, first].concat()
}

/// Place number `place` of the log.
pub(super) fn log_place(place: u32) -> Vec<u8> {
    [LOG, &place.to_be_bytes()].concat()
}

/// Reads what [`log_place`] wrote.
pub(super) fn parse_log_place(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.strip_prefix(LOG)?.try_into().ok()?))
}

/// Whether records under this key lie in blocks; the few others have a value of the database each.
pub(super) fn in_blocks(key: &[u8]) -> bool {
    [ENDING, OUTPUT, PENDING, JOURNAL].iter().any(|prefix| key.starts_with(prefix))
}

/// The first key behind all that begin with `prefix`; `None` if there is none.
pub(super) fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_item() -> impl Strategy<Value = ItemKey> {
        (
            0..3_u8,
            proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(0x0100_0000), any::<u32>()], 0..4),
            0..4_u8,
        )
            .prop_map(|(doc, ordinals, id)| {
                let root = Lineage::document(&DocumentHash([doc; 32]));
                ItemKey {
                    lineage: ordinals.into_iter().fold(root, |lineage, ordinal| lineage.child(ordinal)),
                    id: ItemId([id.wrapping_mul(100); 32]),
                }
            })
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_keep_the_order(a in any_item(), b in any_item()) {
            let of = StageKey([9; 16]);
            let (ka, kb) = (item(ENDING, &of, &a), item(ENDING, &of, &b));
            prop_assert_eq!(parse_item(ENDING, &ka), Some((of, a.clone())));
            prop_assert_eq!(a.cmp(&b), ka.cmp(&kb));
            prop_assert!(ka.starts_with(&document(ENDING, &of, &a.lineage.root())));
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let key = [OUTPUT, &bytes].concat();
            if let Some((of, read)) = parse_item(OUTPUT, &key) {
                prop_assert_eq!(item(OUTPUT, &of, &read), key);
            }
            let key = [JOURNAL, &bytes].concat();
            let _ = parse_journal(&key);
            let _ = parse_ledger(&key);
        }
    }

    #[test]
    fn journal_parts_are_told_apart() {
        let key = RequestKey([b'/'; 32]);
        assert_eq!(parse_journal(&journal(&key)), Some((key, 0)));
        assert_eq!(parse_journal(&journal_part(&key, 7)), Some((key, 7)));
        assert_eq!(parse_journal(b"j/short"), None);
    }

    #[test]
    fn behind_is_the_next_prefix() {
        assert_eq!(behind(b"i/"), Some(b"i0".to_vec()));
        assert_eq!(behind(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(behind(&[255]), None);
    }
}
