//! Reading records in order: the memtable's and the blocks' as one sequence.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::block::Block;
use super::keys;
use super::sled::{Scan as Rows, Value};
use super::table::Table;
use crate::model::StoreError;

/// Records of the memtable taken at once.
const CHUNK: usize = 256;

/// Pairs in order; see [`Table::scan`].
pub(super) struct Scan<'a> {
    source: Source<'a>,
    /// An error may repeat for ever.
    stuck: bool,
}

enum Source<'a> {
    Values(Box<Rows<'a>>),
    Records(Box<Merged<'a>>),
}

impl<'a> Scan<'a> {
    pub(super) fn new(table: &'a Table, lower: Bound<Vec<u8>>, upper: Option<Vec<u8>>) -> Result<Self, StoreError> {
        let (Bound::Included(from) | Bound::Excluded(from)) = &lower else {
            return Ok(Self { source: Source::Values(Box::new(table.database.scan(lower, upper)?)), stuck: false });
        };
        let source = if keys::in_blocks(from) {
            Source::Records(Box::new(Merged {
                table,
                excluded: matches!(lower, Bound::Excluded(_)),
                from: from.clone(),
                upper,
                compactions: 0,
                fresh: VecDeque::new(),
                all_fresh: false,
                block: None,
                all_blocks: false,
                unreadable: None,
                passed_over: false,
            }))
        } else {
            Source::Values(Box::new(table.database.scan(lower, upper)?))
        };
        Ok(Self { source, stuck: false })
    }

    /// Whether the error that it gave last will be given again, for ever.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<(Value, Value), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Source::Values(scan) => {
                let next = scan.next();
                self.stuck = matches!(next, Some(Err(_)));
                next
            }
            Source::Records(merged) => {
                let next = merged.next().transpose();
                self.stuck = matches!(next, Some(Err(_))) && !merged.passed_over;
                next
            }
        }
    }
}

struct Merged<'a> {
    table: &'a Table,
    /// Where it goes on: at this key or, if it is excluded, behind it.
    from: Vec<u8>,
    excluded: bool,
    upper: Option<Vec<u8>>,
    /// How often the memtable had been emptied when what follows was read.
    compactions: u64,
    /// The memtable's next records; `all_fresh` if there are no more of them.
    fresh: VecDeque<(Vec<u8>, Option<Value>)>,
    all_fresh: bool,
    /// The block that holds the blocks' next record, and its number there; `all_blocks` if there is none.
    block: Option<(Arc<Block>, usize)>,
    all_blocks: bool,
    /// The first key of the last block that could not be read.
    unreadable: Option<Vec<u8>>,
    /// Whether the error that is given came from such a block: then what lies behind it can be read.
    passed_over: bool,
}

impl Merged<'_> {
    fn next(&mut self) -> Result<Option<(Value, Value)>, StoreError> {
        self.passed_over = false;
        loop {
            if (self.fresh.is_empty() && !self.all_fresh) || (self.block.is_none() && !self.all_blocks) {
                self.refill()?;
            }
            let fresh = self.fresh.front().map(|(key, _)| key.as_slice());
            let kept = self.block.as_ref().and_then(|(block, at)| block.record(*at));
            let (from_fresh, from_block) = match (fresh, kept) {
                (None, None) => return Ok(None),
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, true),
                (Some(fresh), Some((kept, _))) => (fresh <= kept, kept <= fresh),
            };
            let kept = kept.filter(|_| from_block).map(|(key, value)| (key.to_vec(), Some(Value::from(value))));
            if from_block {
                self.advance();
            }
            // Of two with the same key the memtable's is the newer.
            let taken = if from_fresh { self.fresh.pop_front() } else { kept };
            let Some((key, value)) = taken else { return Ok(None) };
            self.from.clone_from(&key);
            self.excluded = true;
            if let Some(value) = value {
                return Ok(Some((Value::from(key), value)));
            }
        }
    }

    /// Reads on in the memtable, the blocks, or both.
    fn refill(&mut self) -> Result<(), StoreError> {
        let table = self.table;
        let memtable = table.memtable();
        if memtable.compactions != self.compactions {
            // What was in the memtable is in blocks now, and blocks have changed.
            self.compactions = memtable.compactions;
            (self.fresh, self.all_fresh) = (VecDeque::new(), false);
            (self.block, self.all_blocks) = (None, false);
        }
        if self.fresh.is_empty() && !self.all_fresh {
            let lower = if self.excluded { Bound::Excluded(&self.from) } else { Bound::Included(&self.from) };
            let upper = self.upper.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            if within(&self.from, self.upper.as_deref()) {
                let records = memtable.records.range::<Vec<u8>, _>((lower, upper));
                self.fresh.extend(records.take(CHUNK).map(|(key, value)| (key.clone(), value.clone())));
            }
            self.all_fresh = self.fresh.len() < CHUNK;
        }
        while self.block.is_none() && !self.all_blocks {
            let at = table.block_at(&self.from)?.filter(|(place, _)| !self.is_unreadable(place));
            if let Some((place, bytes)) = at
                && self.open(&place, bytes)?
            {
                break;
            }
            let from = self.unreadable.as_ref().filter(|key| **key > self.from).unwrap_or(&self.from);
            match table.block_behind(from, self.upper.as_deref())? {
                Some((place, bytes)) => {
                    self.open(&place, bytes)?;
                }
                None => self.all_blocks = true,
            }
        }
        Ok(())
    }

    fn is_unreadable(&self, place: &[u8]) -> bool {
        self.unreadable.as_deref().is_some_and(|key| place.strip_prefix(keys::BLOCK) == Some(key))
    }

    /// Goes on in this block, if it holds a record where the scan is; returns whether it does.
    fn open(&mut self, place: &[u8], bytes: Value) -> Result<bool, StoreError> {
        let block = match self.table.decode(place, bytes) {
            Ok(block) => block,
            Err(error) => {
                if matches!(error, StoreError::Damaged { .. }) {
                    self.passed_over = true;
                    self.unreadable = place.strip_prefix(keys::BLOCK).map(<[u8]>::to_vec);
                }
                return Err(error);
            }
        };
        let at = match block.search(&self.from) {
            Ok(at) if self.excluded => at + 1,
            Ok(at) | Err(at) => at,
        };
        self.go_to(block, at);
        Ok(self.block.is_some() || self.all_blocks)
    }

    fn go_to(&mut self, block: Arc<Block>, at: usize) {
        match block.record(at) {
            None => self.block = None,
            Some((key, _)) if within(key, self.upper.as_deref()) => self.block = Some((block, at)),
            Some(_) => (self.block, self.all_blocks) = (None, true),
        }
    }

    fn advance(&mut self) {
        if let Some((block, at)) = self.block.take() {
            self.go_to(block, at + 1);
        }
    }
}

fn within(key: &[u8], upper: Option<&[u8]>) -> bool {
    upper.is_none_or(|upper| key < upper)
}

/// Visits the records that begin with `prefix` and lie behind `last`, as far as they can be read from the end back,
/// in no particular order; gives the first key of those that it met. For where a [`Scan`] is stuck.
pub(super) fn from_the_end(
    table: &Table,
    prefix: &[u8],
    last: Option<&[u8]>,
    mut visit: impl FnMut(&Value, &Value) -> Result<(), StoreError>,
) -> Result<Option<Value>, StoreError> {
    let behind = |key: &[u8]| key.starts_with(prefix) && last.is_none_or(|last| key > last);
    let mut first: Option<Value> = None;
    let mut meet = |key: &[u8], value: &Value| {
        let key = Value::from(key);
        visit(&key, value)?;
        if first.as_ref().is_none_or(|first| key < *first) {
            first = Some(key);
        }
        Ok::<(), StoreError>(())
    };
    if !keys::in_blocks(prefix) {
        let lower = last.map_or(Bound::Included(prefix.to_vec()), |last| Bound::Excluded(last.to_vec()));
        let mut scan = table.database.scan(lower, keys::behind(prefix))?;
        while let Some(Ok((key, value))) = scan.next_back() {
            meet(&key, &value)?;
        }
        return Ok(first);
    }
    let memtable: BTreeMap<Vec<u8>, Option<Value>> = {
        let memtable = table.memtable();
        let records = memtable.records.iter().filter(|(key, _)| behind(key));
        records.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let kind = keys::block(prefix.get(..2).unwrap_or(prefix));
    let end = keys::behind(prefix).map(|end| keys::block(&end));
    let mut scan = table.database.scan(Bound::Included(kind), end)?;
    while let Some(Ok((place, bytes))) = scan.next_back() {
        let Ok(block) = Block::read(&place, &bytes) else { continue };
        for (key, value) in block.records() {
            if behind(key) && !memtable.contains_key(key) {
                meet(key, &Value::from(value))?;
            }
        }
        if place.get(keys::BLOCK.len()..).is_some_and(|first| last.is_some_and(|last| first <= last)) {
            break;
        }
    }
    for (key, value) in &memtable {
        if let Some(value) = value {
            meet(key, value)?;
        }
    }
    Ok(first)
}
