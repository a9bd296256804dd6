//! Compaction: the changes in the memtable are merged into the blocks that they touch.

use super::block::{self, Block, Encoder};
use super::keys;
use super::sled::{Value, Writes};
use super::table::{Memtable, Table};
use crate::model::StoreError;

/// Bytes of a block's list, before it is compressed, at which another is begun.
const BLOCK_BYTES: usize = 8 * 1024;
/// A block of fewer bytes takes up what comes behind it.
const ROOMY: usize = BLOCK_BYTES / 2;

type Records = Vec<(Vec<u8>, Value)>;

/// Adds to `raw` what makes blocks of all changes in `memtable`.
///
/// # Errors
/// [`StoreError::Damaged`] if a block that the changes touch cannot be read; a fault of the disk.
pub(super) fn blocks(table: &Table, memtable: &Memtable, raw: &mut Writes) -> Result<(), StoreError> {
    let mut encoder = Encoder::new();
    let mut changes = memtable.records.iter().peekable();
    while let Some((first, _)) = changes.peek() {
        let first = first.as_slice();
        let next = table.block_behind(first, None)?.map(|(place, _)| place[keys::BLOCK.len()..].to_vec());
        // What lies before the next block, and is of the same kind.
        let mut run = Vec::new();
        while let Some((key, value)) =
            changes.next_if(|(key, _)| key[..2] == first[..2] && next.as_ref().is_none_or(|next| *key < next))
        {
            run.push((key, value));
        }
        let added = run.iter().any(|(_, value)| value.is_some());
        let before = match table.block_at(first)? {
            Some((place, bytes)) => {
                let extent = block::extent(&place, &bytes)?;
                let touched = extent.last >= first || (added && extent.bytes < ROOMY);
                touched.then(|| Block::read(&place, &bytes)).transpose()?.map(|block| (place, block))
            }
            None => None,
        };
        let records = match before {
            Some((place, block)) => {
                raw.insert(place.to_vec(), None);
                merge(&block, run)
            }
            None => run.into_iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect(),
        };
        for records in even(&records) {
            if let Some((key, value)) = encoder.encode(records) {
                raw.insert(key, Some(value));
            }
        }
    }
    Ok(())
}

/// A block's records with the changes applied.
fn merge(block: &Block, changes: Vec<(&Vec<u8>, &Option<Value>)>) -> Records {
    let mut merged = Records::with_capacity(block.len() + changes.len());
    let mut old = block.records().peekable();
    for (key, value) in changes {
        while let Some((key, value)) = old.next_if(|(old, _)| *old < key.as_slice()) {
            merged.push((key.to_vec(), Value::from(value)));
        }
        old.next_if(|(old, _)| *old == key.as_slice());
        if let Some(value) = value {
            merged.push((key.clone(), value.clone()));
        }
    }
    merged.extend(old.map(|(key, value)| (key.to_vec(), Value::from(value))));
    merged
}

/// Splits records into blocks of about the same size, none much larger than [`BLOCK_BYTES`].
fn even(records: &[(Vec<u8>, Value)]) -> Vec<&[(Vec<u8>, Value)]> {
    let weight = |(key, value): &(Vec<u8>, Value)| block::weight(key, Some(value));
    let total: usize = records.iter().map(weight).sum();
    let size = total.div_ceil(total.div_ceil(BLOCK_BYTES).max(1));
    let (mut blocks, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (at, record) in records.iter().enumerate() {
        bytes += weight(record);
        if bytes >= size {
            blocks.push(&records[begin..=at]);
            (begin, bytes) = (at + 1, 0);
        }
    }
    blocks.push(&records[begin..]);
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_split_evenly_and_none_is_lost() {
        for count in [0_usize, 1, 2, 50, 500] {
            let records: Records =
                (0..count).map(|n| (format!("o/{n:05}").into_bytes(), Value::from(vec![1; n * 7 % 900]))).collect();
            let blocks = even(&records);
            assert_eq!(blocks.concat(), records);
            let sizes: Vec<usize> =
                blocks.iter().map(|b| b.iter().map(|(k, v)| block::weight(k, Some(v))).sum()).collect();
            assert!(sizes.iter().all(|size| *size < BLOCK_BYTES + 1000), "{sizes:?}");
            assert!(count < 500 || sizes.iter().filter(|size| **size > ROOMY).count() + 1 >= sizes.len(), "{sizes:?}");
        }
    }
}
