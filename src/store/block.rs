//! Blocks and the log's parts as bytes: many records in one value of the database, under one checksum.
//!
//! A list of records is, for each, `length of the key (2 bytes, little-endian) | length of the value (4) | key |
//! value`; a removed record has the length 2³²−1 and no value. A block is `length of its last key (2) | last key |
//! encoding (1: 0 plain, 1 deflate) | length of the list (4) | list`, behind the header of `codec.rs`.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::codec::{self, Kind, MAX_RECORD};
use super::keys;
use super::sled::Value;
use crate::model::StoreError;

/// The most bytes of a block's list: what the largest records need, and a forged length cannot exceed.
const MAX_LIST: usize = 4 * MAX_RECORD;
const REMOVED: u32 = u32::MAX;
const PLAIN: u8 = 0;
const DEFLATE: u8 = 1;
/// Bytes before key and value.
pub(super) const LENGTHS: usize = 6;

/// Bytes that a record takes in a list.
pub(super) fn weight(key: &[u8], value: Option<&Value>) -> usize {
    LENGTHS + key.len() + value.map_or(0, |value| value.len())
}

/// Adds a record to a list; no value means that it is removed.
pub(super) fn push(list: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    list.extend_from_slice(&(key.len() as u16).to_le_bytes());
    list.extend_from_slice(&value.map_or(REMOVED, |value| value.len() as u32).to_le_bytes());
    list.extend_from_slice(key);
    list.extend_from_slice(value.unwrap_or_default());
}

/// Reads a list of records one after the other; `None` in place of one that cannot be.
pub(super) struct List<'a>(pub(super) &'a [u8]);

impl<'a> List<'a> {
    fn take(&mut self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let key_len = u16::from_le_bytes(*self.0.split_off_first_chunk_of()?);
        let value_len = u32::from_le_bytes(*self.0.split_off_first_chunk_of()?);
        let key = self.0.split_off(..usize::from(key_len))?;
        let value = if value_len == REMOVED { None } else { Some(self.0.split_off(..value_len as usize)?) };
        Some((key, value))
    }
}

/// Takes arrays off the front of a slice.
trait SplitOff<'a> {
    fn split_off_first_chunk_of<const N: usize>(&mut self) -> Option<&'a [u8; N]>;
}

impl<'a> SplitOff<'a> for &'a [u8] {
    fn split_off_first_chunk_of<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        self.split_off(..N)?.first_chunk()
    }
}

impl<'a> Iterator for List<'a> {
    type Item = Option<(&'a [u8], Option<&'a [u8]>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = self.take();
        if taken.is_none() {
            self.0 = &[];
        }
        Some(taken)
    }
}

/// A block's list, read.
#[derive(Debug)]
pub(super) struct Block {
    list: Vec<u8>,
    /// Where each record's key begins, where its value begins, and where it ends.
    places: Vec<[u32; 3]>,
}

impl Block {
    /// Reads the block that is kept under the database key `key`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not what was written there, [`StoreError::Newer`].
    pub(super) fn read(key: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let payload = codec::unseal(key, Kind::Block, bytes)?;
        Self::parse(payload).ok_or_else(|| codec::damaged(Kind::Block, key, "it cannot be decoded".into()))
    }

    fn parse(mut payload: &[u8]) -> Option<Self> {
        let last = u16::from_le_bytes(*payload.split_off_first_chunk_of()?);
        payload.split_off(..usize::from(last))?;
        let [encoding] = *payload.split_off_first_chunk_of()?;
        let len = u32::from_le_bytes(*payload.split_off_first_chunk_of()?) as usize;
        if len > MAX_LIST {
            return None;
        }
        let list = match encoding {
            PLAIN => payload.to_vec(),
            DEFLATE => {
                // It takes no more room than the vector has.
                let mut list = Vec::with_capacity(len);
                let status = Decompress::new(false).decompress_vec(payload, &mut list, FlushDecompress::Finish).ok()?;
                (status == Status::StreamEnd).then_some(list)?
            }
            _ => return None,
        };
        if list.len() != len {
            return None;
        }
        let mut places = Vec::new();
        let mut at = 0;
        for record in List(&list) {
            let (key, value) = record?;
            let value = value?;
            let begin = at + LENGTHS;
            at = begin + key.len() + value.len();
            places.push([begin as u32, (begin + key.len()) as u32, at as u32]);
        }
        Some(Self { list, places })
    }

    /// How many records it holds.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Key and value of record number `at`.
    pub(super) fn record(&self, at: usize) -> Option<(&[u8], &[u8])> {
        let [key, value, end] = (*self.places.get(at)?).map(|n| n as usize);
        Some((self.list.get(key..value)?, self.list.get(value..end)?))
    }

    /// The number of the first record whose key is `key` or behind it, and whether it is `key`.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        self.places
            .binary_search_by(|[from, to, _]| self.list.get(*from as usize..*to as usize).unwrap_or_default().cmp(key))
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.search(key).ok().and_then(|at| self.record(at)).map(|(_, value)| value)
    }

    /// All records in order.
    pub(super) fn records(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.len()).filter_map(|at| self.record(at))
    }
}

/// The list of a compressed block of model answers, of which `payload` begins with what is behind the header: as much of
/// it as can be read. What follows the block does not matter.
pub(super) fn answers_of(mut payload: &[u8]) -> Option<Vec<u8>> {
    let last = u16::from_le_bytes(*payload.split_off_first_chunk_of()?);
    payload.split_off(..usize::from(last))?.strip_prefix(keys::JOURNAL)?;
    let [encoding] = *payload.split_off_first_chunk_of()?;
    let len = u32::from_le_bytes(*payload.split_off_first_chunk_of()?) as usize;
    if encoding != DEFLATE || len > MAX_LIST {
        return None;
    }
    let mut list = Vec::with_capacity(len);
    // What was read before a fault is in the list.
    let _ = Decompress::new(false).decompress_vec(payload, &mut list, FlushDecompress::Finish);
    Some(list)
}

/// How far a block reaches.
pub(super) struct Extent<'a> {
    /// Its last key.
    pub(super) last: &'a [u8],
    /// Bytes of its list.
    pub(super) bytes: usize,
}

/// How far the block under the database key `key` reaches, without reading its list; errors as those of
/// [`Block::read`].
pub(super) fn extent<'a>(key: &[u8], bytes: &'a [u8]) -> Result<Extent<'a>, StoreError> {
    let payload = codec::unseal(key, Kind::Block, bytes)?;
    extent_of(payload).ok_or_else(|| codec::damaged(Kind::Block, key, "it cannot be decoded".into()))
}

fn extent_of(mut payload: &[u8]) -> Option<Extent<'_>> {
    let len = u16::from_le_bytes(*payload.split_off_first_chunk_of()?);
    let last = payload.split_off(..usize::from(len))?;
    payload.split_off_first()?;
    let bytes = u32::from_le_bytes(*payload.split_off_first_chunk_of()?) as usize;
    Some(Extent { last, bytes })
}

/// Makes blocks. Its buffers, some hundred kilobytes, are used again for every block.
pub(super) struct Encoder {
    compress: Compress,
    list: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { compress: Compress::new(Compression::fast(), false), list: Vec::new() }
    }

    /// Makes a block of records that are in order; gives its database key and its bytes. `None` for no records.
    pub(super) fn encode(&mut self, records: &[(Vec<u8>, Value)]) -> Option<(Vec<u8>, Value)> {
        let ((first, _), (last, _)) = (records.first()?, records.last()?);
        self.list.clear();
        for (key, value) in records {
            push(&mut self.list, key, Some(value));
        }
        let mut payload = Vec::with_capacity(last.len() + 7 + self.list.len());
        payload.extend_from_slice(&(last.len() as u16).to_le_bytes());
        payload.extend_from_slice(last);
        let head = payload.len();
        payload.push(DEFLATE);
        payload.extend_from_slice(&(self.list.len() as u32).to_le_bytes());
        self.compress.reset();
        // It takes no more room than the vector has: what does not get smaller is kept as it is.
        let deflated = self.compress.compress_vec(&self.list, &mut payload, FlushCompress::Finish);
        if !matches!(deflated, Ok(Status::StreamEnd)) {
            payload.truncate(head);
            payload.push(PLAIN);
            payload.extend_from_slice(&(self.list.len() as u32).to_le_bytes());
            payload.extend_from_slice(&self.list);
        }
        let key = keys::block(first);
        let bytes = codec::seal(&key, Kind::Block, &payload);
        Some((key, Value::from(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_round_trip_and_find_their_records(
            records in btree_map(vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..200), 1..40),
            other in vec(any::<u8>(), 0..40),
        ) {
            let list: Vec<_> = records.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
            let (key, bytes) = Encoder::new().encode(&list).unwrap();
            let extent = extent(&key, &bytes).unwrap();
            prop_assert_eq!(Some(extent.last), records.keys().next_back().map(Vec::as_slice));
            let block = Block::read(&key, &bytes).unwrap();
            prop_assert_eq!(block.len(), records.len());
            prop_assert_eq!(extent.bytes, list.iter().map(|(k, v)| weight(k, Some(v))).sum::<usize>());
            prop_assert!(block.records().eq(records.iter().map(|(k, v)| (&k[..], &v[..]))));
            for (key, value) in &records {
                prop_assert_eq!(block.get(key), Some(&value[..]));
            }
            prop_assert_eq!(block.get(&other), records.get(&other).map(Vec::as_slice));
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Block::parse(&bytes);
            let _ = extent_of(&bytes);
            let _ = List(&bytes).count();
        }
    }

    #[test]
    fn every_altered_byte_is_refused() {
        let list: Vec<_> = (0..20_u8).map(|n| (vec![n], Value::from(vec![n; 30]))).collect();
        let (key, good) = Encoder::new().encode(&list).unwrap();
        assert!(good.len() < 400, "{} bytes", good.len());
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x10;
            assert!(matches!(Block::read(&key, &bad), Err(StoreError::Damaged { .. })), "byte {at}");
        }
        assert!(Block::read(b"b/other", &good).is_err());
    }

    #[test]
    fn what_does_not_compress_is_kept_plain() {
        let mut random = fastrand::Rng::with_seed(1);
        let value: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(60_000).collect();
        let (key, bytes) = Encoder::new().encode(&[(b"o/x".to_vec(), Value::from(value.clone()))]).unwrap();
        assert!(bytes.len() < 60_100);
        assert_eq!(Block::read(&key, &bytes).unwrap().get(b"o/x"), Some(&value[..]));
    }
}
