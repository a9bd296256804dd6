//! How a record becomes bytes and back: the only user of bincode.
//!
//! Every value is `format version (1 byte) | kind of record (1) | crc32 (4, little-endian) | bincode payload`, the
//! checksum being taken over version, kind, database key and payload. So a record that was altered, cut, or put
//! under another key is refused. At most [`MAX_RECORD`] bytes.
//!
//! Version 1 of each kind is the structure that the model layer defines, or one of the structures below.
//! To change one: freeze the old structure here under the name `…V1`, add a `From<…V1>` to the new one, raise
//! [`VERSION`], and let [`Record::decode_payload`] of that kind choose by the version it is given. The six bytes of
//! the header and what the checksum covers stay as they are in every version, so that an older program can tell a
//! newer record from a damaged one.

use bincode::Options as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::keys;
use crate::model::StoreError;
use crate::model::payload::Usage;
use crate::model::record::{Ending, ModelCounts, Output, StageCounts};
use crate::model::{StageKey, llm};

/// The format that is written, and the newest that is read.
pub const VERSION: u8 = 1;
/// The most bytes of one encoded record.
pub const MAX_RECORD: usize = 64 * 1024;

/// Bytes before the payload.
pub(super) const HEADER: usize = 6;
/// What to do about a record that cannot be read.
pub(super) const REMEDY: &str = "Run `qaflow verify --repair`, which marks what cannot be read to be done again";

/// The kinds of record, each with the byte that stands for it on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Ending = 1,
    Output = 2,
    Pending = 3,
    Journal = 4,
    JournalPart = 5,
    Counts = 6,
    ModelCounts = 7,
    Meta = 8,
    State = 9,
    Block = 10,
    LogPart = 11,
    LogHead = 12,
}

impl Kind {
    /// The name for messages and audits.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ending => "ending",
            Self::Output => "output",
            Self::Pending => "pending",
            Self::Journal | Self::JournalPart => "journal",
            Self::Counts | Self::ModelCounts => "counts",
            Self::Meta | Self::State => "meta",
            Self::Block => "block",
            Self::LogPart | Self::LogHead => "log",
        }
    }
}

/// What can be kept under a key.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// Its kind on disk.
    const KIND: Kind;

    /// Reads a payload of format `version`, which is not newer than [`VERSION`].
    fn decode_payload(version: u8, payload: &[u8]) -> Result<Self, String> {
        match version {
            1 => options().deserialize(payload).map_err(|e| format!("it cannot be decoded ({e})")),
            other => Err(format!("it has the unknown format version {other}")),
        }
    }
}

impl Record for Ending {
    const KIND: Kind = Kind::Ending;
}
impl Record for Output {
    const KIND: Kind = Kind::Output;
}
impl Record for StageCounts {
    const KIND: Kind = Kind::Counts;
}
impl Record for ModelCounts {
    const KIND: Kind = Kind::ModelCounts;
}

/// An entry of the pending index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingV1 {
    /// Whose output holds the payload.
    pub(super) producer: StageKey,
    /// The commit that made it pending.
    pub(super) epoch: u64,
}
impl Record for PendingV1 {
    const KIND: Kind = Kind::Pending;
}

/// A model answer, or the beginning of a long one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JournalV1 {
    pub(super) content: String,
    pub(super) finish_reason: llm::FinishReason,
    pub(super) usage: Usage,
    pub(super) model: String,
    /// How many [`JournalPartV1`] follow.
    pub(super) parts: u32,
}
impl Record for JournalV1 {
    const KIND: Kind = Kind::Journal;
}

/// The continuation of a long model answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JournalPartV1 {
    pub(super) content: String,
}
impl Record for JournalPartV1 {
    const KIND: Kind = Kind::JournalPart;
}

/// A named value of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MetaV1 {
    pub(super) value: Vec<u8>,
}
impl Record for MetaV1 {
    const KIND: Kind = Kind::Meta;
}

/// The store itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StateV1 {
    /// The format of keys and records as a whole.
    pub(super) format: u32,
    /// Which state this is: random.
    pub(super) id: [u8; 16],
    /// The last commit.
    pub(super) epoch: u64,
}
impl Record for StateV1 {
    const KIND: Kind = Kind::State;
}

/// How far the log of changes goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogHeadV1 {
    /// The number of the last batch in the log.
    pub(super) last: u64,
    /// How many places, from 0 on, hold batches that are in no block yet.
    pub(super) places: u32,
}
impl Record for LogHeadV1 {
    const KIND: Kind = Kind::LogHead;
}

fn options() -> impl bincode::Options {
    // The limit also bounds what a forged length can make the decoder allocate.
    bincode::DefaultOptions::new().with_limit(MAX_RECORD as u64)
}

/// Bytes of the record that `value` would make.
pub(super) fn encoded_len<R: Record>(value: &R) -> usize {
    bincode::DefaultOptions::new().serialized_size(value).map_or(usize::MAX, |n| n as usize + HEADER)
}

/// Makes the record's bytes, to be kept under `key` and nowhere else.
pub(super) fn encode<R: Record>(key: &[u8], value: &R) -> Result<Vec<u8>, StoreError> {
    let size = encoded_len(value);
    if size > MAX_RECORD {
        return Err(StoreError::TooLarge { what: describe(R::KIND, key), bytes: size, limit: MAX_RECORD });
    }
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&[VERSION, R::KIND as u8, 0, 0, 0, 0]);
    options().serialize_into(&mut bytes, value).map_err(|e| StoreError::Io {
        action: "cannot encode".into(),
        place: describe(R::KIND, key),
        detail: e.to_string(),
    })?;
    sign(key, &mut bytes);
    Ok(bytes)
}

/// Puts the header of `kind` before a payload that is not a record of its own, such as a block. Its size is the
/// caller's care.
pub(super) fn seal(key: &[u8], kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&[VERSION, kind as u8, 0, 0, 0, 0]);
    bytes.extend_from_slice(payload);
    sign(key, &mut bytes);
    bytes
}

fn sign(key: &[u8], bytes: &mut [u8]) {
    let crc = checksum(key, bytes);
    bytes[2..HEADER].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a record back.
///
/// # Errors
/// [`StoreError::Newer`] for a whole record of a newer format, [`StoreError::Damaged`] for anything that is not what
/// was once written under `key`.
pub(super) fn decode<R: Record>(key: &[u8], bytes: &[u8]) -> Result<R, StoreError> {
    if bytes.len() > MAX_RECORD && bytes[0] == VERSION {
        let detail = format!("it has {} bytes, more than a record may have", bytes.len());
        return Err(damaged(R::KIND, key, detail));
    }
    let payload = unseal(key, R::KIND, bytes)?;
    R::decode_payload(bytes[0], payload).map_err(|detail| damaged(R::KIND, key, detail))
}

/// The payload behind the header of `kind`, after its checksum was compared; errors as those of [`decode`].
pub(super) fn unseal<'a>(key: &[u8], kind: Kind, bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(damaged(kind, key, format!("it has {} bytes, fewer than its header", bytes.len())));
    };
    let stored = u32::from_le_bytes([header[2], header[3], header[4], header[5]]);
    let computed = checksum(key, bytes);
    if stored != computed {
        return Err(damaged(kind, key, format!("its checksum is {computed:08x} instead of {stored:08x}")));
    }
    if header[0] > VERSION {
        let what = describe(kind, key);
        return Err(StoreError::Newer { what, found: u32::from(header[0]), known: u32::from(VERSION) });
    }
    if header[1] != kind as u8 {
        return Err(damaged(kind, key, format!("it is of kind {} instead of {}", header[1], kind as u8)));
    }
    Ok(payload)
}

/// Whether `bytes` are a record that this program can know, as it was written under `key`.
pub(super) fn is_whole(key: &[u8], bytes: &[u8]) -> bool {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else { return false };
    header[0] <= VERSION && header[2..] == checksum(key, bytes).to_le_bytes()
}

/// Reads a record that something else follows, and gives its bytes; its checksum is the caller's care.
pub(super) fn decode_front<R: Record>(bytes: &[u8]) -> Option<(R, &[u8])> {
    let record: R = options().allow_trailing_bytes().deserialize(bytes.get(HEADER..)?).ok()?;
    let value = bytes.get(..encoded_len(&record))?;
    Some((record, value))
}

/// Something under `key` that is not what was written there.
pub(super) fn damaged(kind: Kind, key: &[u8], detail: String) -> StoreError {
    StoreError::Damaged { what: describe(kind, key), detail, remedy: REMEDY.into() }
}

/// Over version, kind, key and payload.
fn checksum(key: &[u8], record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..2]);
    hasher.update(key);
    hasher.update(&record[HEADER..]);
    hasher.finalize()
}

/// Names a record for people: kind, stage and item where the key says so, else the key itself.
pub(super) fn describe(kind: Kind, key: &[u8]) -> String {
    if let Some(first) = key.strip_prefix(keys::BLOCK) {
        return format!("the block of records that begins with {}", keys::hex(first));
    }
    if let Some(place) = keys::parse_log_place(key) {
        return format!("place {place} of the log of the latest changes");
    }
    if key == keys::LOG_HEAD {
        return "the head of the log of the latest changes".into();
    }
    for prefix in [keys::ENDING, keys::OUTPUT, keys::PENDING] {
        if let Some((stage, item)) = keys::parse_item(prefix, key) {
            return format!(
                "the {} record of item {} (stage key {}, document {})",
                kind.name(),
                item.id.short(),
                stage.hex(),
                item.lineage.root()
            );
        }
    }
    if let Some((request, _)) = keys::parse_journal(key) {
        return format!("the model answer to request {}", request.short());
    }
    if let Some(stage) = keys::parse_ledger(key) {
        return format!("the account of stage key {}", stage.hex());
    }
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => format!("the {} record `{text}`", kind.name()),
        _ => format!("the {} record with key {}", kind.name(), keys::hex(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{DocumentHash, ItemId, Lineage};
    use crate::model::record::{Done, ItemKey};

    fn sample() -> (Vec<u8>, Ending) {
        let key = ItemKey { lineage: Lineage::document(&DocumentHash([3; 32])).child(4), id: ItemId([5; 32]) };
        let done = Done {
            children: 3,
            warnings: vec!["page 2 has no text".into()],
            notes: [("chunks_skipped_contents".to_owned(), 2)].into(),
        };
        (keys::item(keys::ENDING, &StageKey([1; 16]), &key), Ending::Done(done))
    }

    #[test]
    fn records_round_trip() {
        let (key, ending) = sample();
        let bytes = encode(&key, &ending).unwrap();
        assert_eq!(bytes.len(), encoded_len(&ending));
        assert_eq!(decode::<Ending>(&key, &bytes).unwrap(), ending);
    }

    #[test]
    fn every_altered_byte_is_refused() {
        let (key, ending) = sample();
        let good = encode(&key, &ending).unwrap();
        for at in 0..good.len() {
            for value in 0..=u8::MAX {
                if value == good[at] {
                    continue;
                }
                let mut bad = good.clone();
                bad[at] = value;
                let error = decode::<Ending>(&key, &bad).unwrap_err();
                assert!(matches!(error, StoreError::Damaged { .. }), "byte {at} as {value}: {error}");
            }
        }
        for len in 0..good.len() {
            assert!(decode::<Ending>(&key, &good[..len]).is_err(), "cut to {len}");
        }
        assert!(decode::<Ending>(&key, &[&good[..], &[0]].concat()).is_err(), "a trailing byte");
    }

    #[test]
    fn a_record_under_another_key_or_of_another_kind_is_refused() {
        let (key, ending) = sample();
        let bytes = encode(&key, &ending).unwrap();
        let mut other = key.clone();
        other[10] ^= 1;
        assert!(decode::<Ending>(&other, &bytes).is_err());
        assert!(decode::<Output>(&key, &bytes).is_err());
    }

    #[test]
    fn a_newer_record_is_told_from_a_damaged_one() {
        let (key, ending) = sample();
        let mut bytes = encode(&key, &ending).unwrap();
        bytes[0] = VERSION + 1;
        assert!(matches!(decode::<Ending>(&key, &bytes), Err(StoreError::Damaged { .. })), "the checksum is wrong");
        let crc = checksum(&key, &bytes);
        bytes[2..6].copy_from_slice(&crc.to_le_bytes());
        let error = decode::<Ending>(&key, &bytes).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
    }

    #[test]
    fn a_forged_length_is_refused_without_allocating() {
        let key = keys::meta("x");
        let mut bytes = vec![VERSION, Kind::Meta as u8, 0, 0, 0, 0, 253];
        bytes.extend_from_slice(&(1_u64 << 40).to_le_bytes());
        let crc = checksum(&key, &bytes);
        bytes[2..6].copy_from_slice(&crc.to_le_bytes());
        let error = decode::<MetaV1>(&key, &bytes).unwrap_err();
        assert!(error.to_string().contains("cannot be decoded"), "{error}");
    }

    #[test]
    fn too_large_names_the_record() {
        let key = keys::meta("config");
        let error = encode(&key, &MetaV1 { value: vec![0; MAX_RECORD] }).unwrap_err();
        insta::assert_snapshot!(error, @"the meta record `m/config` has 65547 bytes, more than the 65536 a record may have");
    }

    #[test]
    fn damage_names_item_and_remedy() {
        let (key, ending) = sample();
        let mut bytes = encode(&key, &ending).unwrap();
        bytes[2] ^= 1;
        let text = decode::<Ending>(&key, &bytes).unwrap_err().to_string();
        assert!(text.contains("item 0505") && text.contains("qaflow verify --repair"), "{text}");
    }
}
