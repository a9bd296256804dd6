//! Takes the model's answers out of the files of a database, whatever the engine makes of them, and begins a new
//! database with them.
//!
//! Answers are what cannot be had again for nothing. Each lies in the files under its own key and checksum, and is
//! written once, so that an old copy of one is as good as a new one. Everything else of a state follows from them and
//! is left behind, lest something superseded comes back; but for the accounts of attempts, which nothing follows from.
//!
//! Of the engine's own structure this needs only that a value lies in one piece, in a segment of its file or in a file
//! of its own, and in which order those were written.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::block;
use super::changes::read_answer;
use super::codec::{self, JournalPartV1, JournalV1, Kind, MetaV1, StateV1, VERSION};
use super::files::{copy_dir, damaged_dir, io_error};
use super::identity::{FORMAT, Identity};
use super::opening::{self, DATABASE, EPOCH_GAP};
use super::precaution::{Precaution, SEGMENT, Segment, segment_at};
use super::rebuild::{self, BATCH_BYTES};
use super::records::{Accounts, OpenOptions, SledStore};
use super::sled::{Value, Writes};
use super::table::Table;
use super::watermark::Watermark;
use super::{audit, keys};
use crate::model::StoreError;
use crate::model::ledger::record_name;

/// A record by its key, as it was written.
type Found = (Vec<u8>, Vec<u8>);

/// What was saved of a damaged database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// Model answers in the new database.
    pub answers: u64,
    /// How many there were when `identity.json` was last written, if that can be read.
    pub known: Option<u64>,
    /// Where the damaged database is kept.
    pub kept: PathBuf,
}

impl SledStore {
    /// Puts a new database in the place of the one in `dir`, with the model answers that its files hold, the accounts
    /// of attempts, and the named values `names`. The damaged one is kept in `damaged-<n>/`. It must not be open, and
    /// the state must be this process's.
    ///
    /// Should the process be killed, the next opening finds the damaged database or the new one, whole.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if there is no database, or it is another state's; [`StoreError::Newer`] and
    /// [`StoreError::Older`]; a fault of the disk. Then nothing was changed.
    pub fn salvage(dir: &Path, names: &[&str]) -> Result<Salvaged, StoreError> {
        rebuild::settle(dir)?;
        let database = dir.join(DATABASE);
        if !database.join("db").is_file() {
            return Err(nothing_to_take(&database, "it is missing".into()));
        }
        let identity = match Identity::load(dir) {
            Err(StoreError::Damaged { .. }) => None,
            loaded => loaded?,
        };
        // An opening that hung may still write to the database: then the copy is what it was before that.
        let precaution = Precaution::of(dir, &database);
        let aside = if precaution.exists() {
            let aside = damaged_dir(dir)?;
            copy_dir(&database, &aside.join(DATABASE))?;
            Precaution::of(dir, &aside.join(DATABASE)).write_back()?;
            Some(aside)
        } else {
            None
        };
        let source = aside.as_ref().map_or(database, |aside| aside.join(DATABASE));
        let unfinished = rebuild::begin(dir)?;
        let answers = begin_anew(dir, &source, &unfinished, identity.as_ref(), names)
            .inspect_err(|_| drop(fs::remove_dir_all(&unfinished)))?;
        precaution.release()?;
        let kept = rebuild::replace(dir, aside.is_none())?.or(aside).unwrap_or_else(|| dir.to_owned());
        Ok(Salvaged { answers, known: identity.map(|identity| identity.model.calls), kept })
    }
}

/// Makes the new database in `target`; gives how many answers it holds.
fn begin_anew(
    dir: &Path,
    source: &Path,
    target: &Path,
    identity: Option<&Identity>,
    names: &[&str],
) -> Result<u64, StoreError> {
    let table = rebuild::create(target, OpenOptions::default())?;
    let mut state: Option<StateV1> = None;
    add(source, &table, names, |found| {
        let epoch = state.as_ref().map_or(found.epoch, |known| known.epoch.max(found.epoch));
        state = Some(StateV1 { epoch, ..state.unwrap_or(found) });
    })?;
    let (known, found) =
        (identity.and_then(|identity| opening::parse_id(&identity.state)), state.map(|state| state.id));
    if let (Some(known), Some(found)) = (known, found)
        && known != found
    {
        let detail = format!("it belongs to the state {}, not {}", keys::hex(&found), keys::hex(&known));
        return Err(nothing_to_take(source, detail));
    }
    let format = identity.map(|identity| identity.format).or(state.map(|state| state.format)).unwrap_or(FORMAT);
    if format < FORMAT {
        let what = format!("the state {}", dir.display());
        return Err(StoreError::Older { what, found: format, known: FORMAT });
    }
    let recorded = Watermark::read(dir).max(identity.map_or(0, |identity| identity.epoch));
    let epoch = recorded.max(state.map_or(0, |state| state.epoch)) + EPOCH_GAP;
    let id = known.or(found).unwrap_or_else(opening::random_id);
    opening::write_state(&table, &StateV1 { format: FORMAT, id, epoch }, None)?;
    let accounts = Accounts { model: audit::recount_model(&table)?, ..Accounts::default() };
    let calls = identity.map_or(0, |identity| identity.model.calls);
    if accounts.model.calls == 0 && calls > 0 {
        return Err(nothing_to_take(source, format!("its files hold none of {calls} model answers")));
    }
    table.apply(&accounts.writes()?)?;
    table.database.sync_names()?;
    Ok(accounts.model.calls)
}

fn nothing_to_take(database: &Path, detail: String) -> StoreError {
    StoreError::Damaged {
        what: format!("the database {}", database.display()),
        detail,
        remedy: "Nothing was changed. Put the database back from a copy, or start afresh in another state folder"
            .into(),
    }
}

/// Adds to `table` the answers in the files of the database `folder` that it lacks or cannot read.
///
/// # Errors
/// A fault of the disk, or of `table`.
pub(super) fn add_answers(folder: &Path, table: &Table) -> Result<(), StoreError> {
    add(folder, table, &[], |_| {})
}

/// As [`add_answers`], with the named values `names` and, if there are any, the accounts of attempts. Every record of
/// the store itself is given to `state`.
fn add(folder: &Path, table: &Table, names: &[&str], mut state: impl FnMut(StateV1)) -> Result<(), StoreError> {
    let (mut writes, mut bytes) = (Writes::new(), 0);
    let mut named: HashMap<Vec<u8>, (Progress, Vec<u8>)> = HashMap::new();
    for piece in pieces(folder)? {
        // The newest first, so that of two versions the newer one is kept.
        for (key, value) in records_in(&piece.read()?, names).into_iter().rev() {
            if key == keys::STORE {
                codec::decode(&key, &value).map(&mut state)?;
                continue;
            }
            if keys::parse_journal(&key).is_none() {
                // A segment that is written anew keeps older records behind the new ones, so here the order says nothing.
                let progress = progress_of(&key, &value)?;
                if named.get(&key).is_none_or(|(known, _)| *known < progress) {
                    named.insert(key, (progress, value));
                }
                continue;
            }
            if writes.contains_key(&key) || holds(table, &key)? {
                continue;
            }
            bytes += key.len() + value.len();
            writes.insert(key, Some(Value::from(value)));
            if bytes > BATCH_BYTES {
                table.apply(&writes)?;
                writes.clear();
                bytes = 0;
            }
        }
    }
    for (key, (_, value)) in named {
        if !holds(table, &key)? {
            writes.insert(key, Some(Value::from(value)));
        }
    }
    table.apply(&writes)?;
    drop_incomplete(table)
}

/// How far the account of an attempt is on: whether it is closed, and its seconds; of a number how large it is. Both
/// only grow.
type Progress = (bool, f64);

fn progress_of(key: &[u8], value: &[u8]) -> Result<Progress, StoreError> {
    let MetaV1 { value: content } = codec::decode(key, value)?;
    let json: serde_json::Value = serde_json::from_slice(&content).unwrap_or_default();
    Ok(match &json {
        serde_json::Value::Number(number) => (false, number.as_f64().unwrap_or(0.0)),
        account => (!account["ended"].is_null(), account["seconds"].as_f64().unwrap_or(0.0)),
    })
}

/// Whether the table has a record that is what was written under `key`.
fn holds(table: &Table, key: &[u8]) -> Result<bool, StoreError> {
    match table.get(key) {
        Ok(value) => Ok(value.is_some_and(|value| codec::is_whole(key, &value))),
        Err(StoreError::Damaged { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Removes answers that lack one of their parts, so that they are asked for again.
fn drop_incomplete(table: &Table) -> Result<(), StoreError> {
    let mut writes = Writes::new();
    audit::readable(table, keys::JOURNAL, |key, value| {
        if let Some((request, 0)) = keys::parse_journal(key)
            && read_answer(&request, value, |key| table.get(key)).is_err()
        {
            writes.insert(key.to_vec(), None);
        }
        Ok(())
    })?;
    table.apply(&writes)
}

/// A part of a database's files in which values lie whole.
struct Piece {
    path: PathBuf,
    /// In the database's file; `None` for a file of its own.
    segment: Option<u64>,
}

impl Piece {
    fn read(&self) -> Result<Vec<u8>, StoreError> {
        let read = || -> io::Result<Vec<u8>> {
            let Some(offset) = self.segment else { return fs::read(&self.path) };
            let file = File::open(&self.path)?;
            let length = file.metadata()?.len().saturating_sub(offset).min(SEGMENT);
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        };
        read().map_err(|e| io_error("cannot read", &self.path, &e))
    }
}

/// All parts of the files of the database `folder`, those written last first; those that do not say when come last.
fn pieces(folder: &Path) -> Result<Vec<Piece>, StoreError> {
    let path = folder.join("db");
    let scanned = || -> io::Result<Vec<(Option<i64>, Piece)>> {
        let mut found = Vec::new();
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        for offset in (0..length).step_by(SEGMENT as usize) {
            let number = match segment_at(&file, length, offset)? {
                Segment::Number(number) => Some(number),
                Segment::Unused | Segment::Unreadable => None,
            };
            found.push((number, Piece { path: path.clone(), segment: Some(offset) }));
        }
        Ok(found)
    };
    let mut found = scanned().map_err(|e| io_error("cannot read", &path, &e))?;
    let blobs = folder.join("blobs");
    match fs::read_dir(&blobs) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_error("cannot read the folder", &blobs, &e)),
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(|e| io_error("cannot read the folder", &blobs, &e))?;
                // Their names are numbers of the same kind as the segments'.
                let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
                found.push((number, Piece { path: entry.path(), segment: None }));
            }
        }
    }
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    Ok(found.into_iter().map(|(_, piece)| piece).collect())
}

/// All answers, the store's own records, the named values `names` and, if there are any, the accounts of attempts that
/// lie whole in `bytes`, in the order in which they lie there.
fn records_in(bytes: &[u8], names: &[&str]) -> Vec<Found> {
    let mut found = Vec::new();
    for at in 0..bytes.len().saturating_sub(1) {
        let here = &bytes[at..];
        match [here[0], here[1]] {
            // Of a list: its lengths lie before it.
            [b'j', b'/'] => found.extend(at.checked_sub(block::LENGTHS).and_then(|from| listed(&bytes[from..]))),
            [VERSION, kind] if kind == Kind::Block as u8 => {
                if let Some(list) = here.get(codec::HEADER..).and_then(block::answers_of) {
                    found.extend(block::List(&list).map_while(|record| record).filter_map(answer));
                }
            }
            [VERSION, kind] if kind == Kind::State as u8 => {
                if let Some((_, value)) = codec::decode_front::<StateV1>(here)
                    && codec::is_whole(keys::STORE, value)
                {
                    found.push((keys::STORE.to_vec(), value.to_vec()));
                }
            }
            [VERSION, kind] if kind == Kind::Meta as u8 && !names.is_empty() => found.extend(named(here, names)),
            _ => {}
        }
    }
    found
}

/// The record at the front of a list, if it is an answer.
fn listed(list: &[u8]) -> Option<Found> {
    answer(block::List(list).next()??)
}

/// A record of a list, if it is an answer, whole under its own checksum.
fn answer((key, value): (&[u8], Option<&[u8]>)) -> Option<Found> {
    let (value, (_, part)) = (value?, keys::parse_journal(key)?);
    let whole = match part {
        0 => codec::decode::<JournalV1>(key, value).is_ok(),
        _ => codec::decode::<JournalPartV1>(key, value).is_ok(),
    };
    whole.then(|| (key.to_vec(), value.to_vec()))
}

/// The named value at the front of `bytes`, if it is one of `names` or the account of an attempt. Its key is not beside
/// it, but in its checksum.
fn named(bytes: &[u8], names: &[&str]) -> Option<Found> {
    let (MetaV1 { value: content }, value) = codec::decode_front(bytes)?;
    let fits = |name: &str| {
        let key = keys::meta(name);
        codec::is_whole(&key, value).then(|| (key, value.to_vec()))
    };
    names.iter().find_map(|name| fits(name)).or_else(|| {
        let json: serde_json::Value = serde_json::from_slice(&content).ok()?;
        fits(&record_name(json["number"].as_u64()?))
    })
}

#[cfg(test)]
#[path = "salvage_tests.rs"]
mod tests;
