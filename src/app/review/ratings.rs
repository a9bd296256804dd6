//! A reviewer's ratings: one line a change, appended and on disk before it is acknowledged.
//!
//! `reviews/<reviewer>.jsonl` beside the results. The last line about a pair holds. A line that a kill cut short was
//! never acknowledged, and is taken off.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::export::rows::PairRow;
use crate::model::ids::to_hex;

/// The newest format of a line that this program reads.
pub const FORMAT: u32 = 1;
/// The longest note, in characters.
pub const MAX_NOTE: usize = 4_000;

/// Whether a pair is fit for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It is.
    Accept,
    /// It is not.
    Reject,
}

impl Decision {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
        }
    }
}

/// What a reviewer says of a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rating {
    /// 1 to 5.
    pub clarity: Option<u8>,
    /// 1 to 5.
    pub accuracy: Option<u8>,
    /// 1 to 5.
    pub relevance: Option<u8>,
    /// 1 to 5.
    pub overall: Option<u8>,
    /// Accept or reject; a pair without is not done.
    pub decision: Option<Decision>,
    /// Free text, at most 4,000 characters.
    pub note: String,
}

impl Rating {
    /// The marks: clarity, accuracy, relevance, overall.
    pub fn marks(&self) -> [Option<u8>; 4] {
        [self.clarity, self.accuracy, self.relevance, self.overall]
    }

    /// What is out of range, if anything is.
    pub fn fault(&self) -> Option<String> {
        if let Some(mark) = self.marks().into_iter().flatten().find(|mark| !(1..=5).contains(mark)) {
            return Some(format!("a mark is from 1 to 5, not {mark}"));
        }
        let long = self.note.chars().count() > MAX_NOTE;
        long.then(|| format!("a note has at most {MAX_NOTE} characters"))
    }
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    format: u32,
    at: String,
    reviewer: String,
    /// The pair's id.
    id: String,
    /// The pair's words, so that a rating is never taken for one of a pair that was made anew under the same id.
    pair: String,
    #[serde(flatten)]
    rating: Flat,
}

/// [`Rating`] without its refusal of unknown fields, which does not go with flattening.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Flat {
    clarity: Option<u8>,
    accuracy: Option<u8>,
    relevance: Option<u8>,
    overall: Option<u8>,
    decision: Option<Decision>,
    #[serde(default)]
    note: String,
}

impl From<Rating> for Flat {
    fn from(rating: Rating) -> Self {
        let Rating { clarity, accuracy, relevance, overall, decision, note } = rating;
        Self { clarity, accuracy, relevance, overall, decision, note }
    }
}

impl From<Flat> for Rating {
    fn from(flat: Flat) -> Self {
        let Flat { clarity, accuracy, relevance, overall, decision, note } = flat;
        Self { clarity, accuracy, relevance, overall, decision, note }
    }
}

/// What tells one wording of a pair from another: the first half of SHA-256 of question and answer.
pub fn pair_hash(row: &PairRow) -> String {
    let mut hash = Sha256::new();
    hash.update(row.question.as_bytes());
    hash.update([0]);
    hash.update(row.answer.as_bytes());
    to_hex(&hash.finalize()[..16])
}

/// Ratings by pair: the pair's hash with what holds.
pub type Held = BTreeMap<String, (String, Rating)>;

/// What holds of a pair, as it is worded now.
pub fn of<'a>(held: &'a Held, row: &PairRow) -> Option<&'a Rating> {
    held.get(&row.id).filter(|(hash, _)| *hash == pair_hash(row)).map(|(_, rating)| rating)
}

/// A reviewer's file, open for more.
#[derive(Debug)]
pub struct Ratings {
    path: PathBuf,
    reviewer: String,
    file: File,
    held: Held,
}

/// Whether a reviewer may be called so: the name is a file's.
pub fn is_reviewer(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// The folder of the ratings beside the results.
pub fn folder(out: &Path) -> PathBuf {
    out.join("reviews")
}

impl Ratings {
    /// Opens a reviewer's file, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be read or written, is damaged, was written by a newer program, or is open in another process.
    pub fn open(out: &Path, reviewer: &str) -> anyhow::Result<Self> {
        let folder = folder(out);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("{reviewer}.jsonl"));
        let mut file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        // A child that this process has just started holds the lock as well, until it has become another program.
        let mut tries = 0..50;
        while flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
            if tries.next().is_some() {
                std::thread::sleep(std::time::Duration::from_millis(10));
                continue;
            }
            bail!("{reviewer} is reviewing in another process: end it, or give another --reviewer");
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).with_context(|| format!("cannot read {}", path.display()))?;
        let whole = whole_lines(&content);
        if whole < content.len() {
            tracing::warn!("{}: the last line was cut short by a kill, and is taken off", path.display());
            file.set_len(whole as u64)
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot mend {}", path.display()))?;
            file.seek(SeekFrom::End(0)).with_context(|| format!("cannot mend {}", path.display()))?;
        }
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot sync {}", folder.display()))?;
        let held = parse(&path, &content[..whole])?;
        Ok(Self { path, reviewer: reviewer.into(), file, held })
    }

    /// What holds of a pair, as it is worded now.
    pub fn of(&self, row: &PairRow) -> Option<Rating> {
        of(&self.held, row).cloned()
    }

    /// Keeps a rating; it is on disk when this returns. Nothing is written if it says what holds already.
    ///
    /// # Errors
    /// If it cannot be written: then it is not held.
    pub fn keep(&mut self, row: &PairRow, rating: Rating) -> anyhow::Result<()> {
        self.keep_all(std::iter::once((row, rating))).map(drop)
    }

    /// Keeps several ratings at once, and tells how many said something new.
    ///
    /// # Errors
    /// If they cannot be written: then none is held.
    pub fn keep_all<'a>(&mut self, ratings: impl IntoIterator<Item = (&'a PairRow, Rating)>) -> anyhow::Result<usize> {
        let mut text = Vec::new();
        let mut new = Vec::new();
        for (row, rating) in ratings {
            let pair = pair_hash(row);
            if of(&self.held, row).map_or_else(|| rating == Rating::default(), |held| *held == rating) {
                continue;
            }
            let line = Line {
                format: FORMAT,
                at: crate::app::now(),
                reviewer: self.reviewer.clone(),
                id: row.id.clone(),
                pair: pair.clone(),
                rating: rating.clone().into(),
            };
            serde_json::to_writer(&mut text, &line).context("cannot write a rating")?;
            text.push(b'\n');
            new.push((row.id.clone(), (pair, rating)));
        }
        let before = self.file.metadata().map(|meta| meta.len());
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // A disk that is full may have taken half a line; what follows must not be glued to it.
            if let Ok(before) = before {
                let _ = self.file.set_len(before);
            }
            return Err(error).with_context(|| format!("cannot write {}", self.path.display()));
        }
        let count = new.len();
        self.held.extend(new);
        Ok(count)
    }
}

/// The length of the lines that are whole.
fn whole_lines(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

fn parse(path: &Path, content: &[u8]) -> anyhow::Result<Held> {
    let mut held = Held::new();
    for (number, line) in content.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let place = || format!("{}:{}", path.display(), number + 1);
        let value: serde_json::Value =
            serde_json::from_slice(line).with_context(|| format!("{}: this is no rating", place()))?;
        let format = value["format"].as_u64().unwrap_or(0);
        if format > u64::from(FORMAT) {
            bail!("{}: a newer program wrote this (format {format}, known is {FORMAT}): use that one", place());
        }
        let line: Line = serde_json::from_value(value).with_context(|| format!("{}: this is no rating", place()))?;
        let rating = Rating::from(line.rating);
        if let Some(fault) = rating.fault() {
            bail!("{}: {fault}", place());
        }
        held.insert(line.id, (line.pair, rating));
    }
    Ok(held)
}

/// The ratings of all reviewers, by name; reads only. An unfinished last line is passed over.
///
/// # Errors
/// If a file cannot be read, is damaged, or was written by a newer program.
pub fn read_all(out: &Path) -> anyhow::Result<BTreeMap<String, Held>> {
    let folder = folder(out);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    let mut all = BTreeMap::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if path.extension().is_none_or(|ending| ending != "jsonl") || !is_reviewer(&name) {
            continue;
        }
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        all.insert(name, parse(&path, &content[..whole_lines(&content)])?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str) -> PairRow {
        let json = serde_json::json!({
            "id": id, "question": "q", "answer": "a", "question_type": "t", "source_document": "d", "source_sha256": "s",
            "source_page": 1, "chunk_id": "c", "citations": [], "context": "", "scores": null, "checks": {}, "model": "m",
            "judge_model": null, "prompt_hash": "p", "run_id": "r", "usage": {"prompt_tokens": 0, "completion_tokens": 0},
        });
        serde_json::from_value(json).expect("a row")
    }

    fn rating(mark: u8) -> Rating {
        Rating { clarity: Some(mark), decision: Some(Decision::Accept), ..Rating::default() }
    }

    #[test]
    fn the_last_line_about_a_pair_holds_and_a_torn_one_is_taken_off() {
        let dir = tempfile::tempdir().expect("folder");
        let path = folder(dir.path()).join("anna.jsonl");
        let mut ratings = Ratings::open(dir.path(), "anna").expect("open");
        ratings.keep(&row("1"), rating(3)).expect("kept");
        ratings.keep(&row("1"), rating(4)).expect("kept");
        ratings.keep(&row("1"), rating(4)).expect("kept");
        ratings.keep(&row("2"), rating(5)).expect("kept");
        drop(ratings);
        let content = std::fs::read(&path).expect("there");
        assert_eq!(String::from_utf8_lossy(&content).lines().count(), 3, "what says nothing new is not written");
        // Cut at every byte of the last line: the rest holds, and more can be added.
        let last = whole_lines(&content[..content.len() - 1]);
        for cut in last..content.len() {
            std::fs::write(&path, &content[..cut]).expect("cut");
            assert_eq!(read_all(dir.path()).expect("readable")["anna"].len(), 1);
            let mut ratings = Ratings::open(dir.path(), "anna").expect("open");
            assert_eq!(ratings.of(&row("1")), Some(rating(4)));
            ratings.keep(&row("2"), rating(1)).expect("kept");
            drop(ratings);
            assert_eq!(read_all(dir.path()).expect("readable")["anna"]["2"].1, rating(1));
        }
    }

    #[test]
    fn damage_and_newer_formats_are_named() {
        let dir = tempfile::tempdir().expect("folder");
        let path = folder(dir.path()).join("anna.jsonl");
        Ratings::open(dir.path(), "anna").expect("open").keep(&row("1"), rating(3)).expect("kept");
        let good = std::fs::read_to_string(&path).expect("there");
        std::fs::write(&path, format!("{good}nonsense\n{good}")).expect("written");
        let said = Ratings::open(dir.path(), "anna").expect_err("damaged").to_string();
        assert!(said.contains("anna.jsonl:2"), "{said}");
        std::fs::write(&path, good.replace("\"format\":1", "\"format\":2")).expect("written");
        let said = read_all(dir.path()).expect_err("newer").to_string();
        assert!(said.contains("newer program"), "{said}");
        std::fs::write(&path, good.replace("\"clarity\":3", "\"clarity\":9")).expect("written");
        assert!(read_all(dir.path()).expect_err("out of range").to_string().contains("from 1 to 5"));
    }

    #[test]
    fn one_process_a_reviewer() {
        let dir = tempfile::tempdir().expect("folder");
        let _first = Ratings::open(dir.path(), "anna").expect("open");
        assert!(Ratings::open(dir.path(), "anna").expect_err("busy").to_string().contains("another process"));
        assert!(Ratings::open(dir.path(), "ben").is_ok());
        for bad in ["", "../anna", "a/b", ".hidden", "a b"] {
            assert!(!is_reviewer(bad), "{bad}");
        }
    }
}
