//! Which pairs of a dataset share a band with another one: only those can be near-duplicates, and only those are held
//! in memory while they are looked for.
//!
//! A first pass over the dataset notes the keys of every pair's bands in unnamed files, about 200 bytes a pair, which
//! are then sorted part by part. So memory grows with the pairs that are alike, not with the dataset.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::ExportError;
use super::minhash::{BANDS, MinHasher, mixed};
use super::near_duplicates::Pair;
use crate::model::near_duplicates::NearDuplicateParams;

/// Parts of a band's keys. Of ten million pairs one part takes 30 MB.
const PARTS: usize = 4;
/// Bytes of a note: the key of a band and the pair.
const NOTE: usize = 12;

/// The first pass.
pub struct Survey {
    hasher: MinHasher,
    folder: PathBuf,
    parts: Vec<BufWriter<File>>,
}

/// The pairs that share a band with another one.
#[derive(Debug, Default)]
pub struct Encounters(HashSet<u64>);

impl Survey {
    /// Notes nothing yet. The files are made in `folder`, and are gone with the process at the latest.
    ///
    /// # Errors
    /// If files cannot be made there.
    pub fn new(params: &NearDuplicateParams, folder: &Path) -> Result<Self, ExportError> {
        let part = |_| tempfile::tempfile_in(folder).map(|file| BufWriter::with_capacity(1 << 14, file));
        let parts: Result<_, _> = (0..BANDS * PARTS).map(part).collect();
        let parts = parts.map_err(|error| ExportError::Write { path: folder.into(), error })?;
        Ok(Self { hasher: MinHasher::new(params.shingle as usize), folder: folder.into(), parts })
    }

    /// Takes note of a pair, in any order.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn note(&mut self, id: &str, question: &str, answer: &str) -> Result<(), ExportError> {
        let (_, bands) = Pair::new(&self.hasher, question, answer);
        let pair = key_of(id).to_le_bytes();
        for (band, key) in bands.into_iter().enumerate() {
            let part = band * PARTS + key as usize % PARTS;
            let mut note = [0; NOTE];
            note[..4].copy_from_slice(&key.to_le_bytes());
            note[4..].copy_from_slice(&pair);
            self.parts[part].write_all(&note).map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// The pairs that met, now that all are noted.
    ///
    /// # Errors
    /// If the files cannot be written or read back.
    pub fn end(mut self) -> Result<Encounters, ExportError> {
        let mut met = HashSet::new();
        for part in std::mem::take(&mut self.parts) {
            let notes = read_back(part).map_err(|error| self.failed(error))?;
            for group in notes.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
                met.extend(group.iter().map(|(_, pair)| *pair));
            }
        }
        Ok(Encounters(met))
    }

    fn failed(&self, error: std::io::Error) -> ExportError {
        ExportError::Write { path: self.folder.clone(), error }
    }
}

impl Encounters {
    /// Whether the pair shares a band with another one.
    pub fn has(&self, id: &str) -> bool {
        self.0.contains(&key_of(id))
    }

    /// How many do.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// A part's notes, sorted.
fn read_back(part: BufWriter<File>) -> std::io::Result<Vec<(u32, u64)>> {
    let mut file = part.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut notes: Vec<(u32, u64)> = bytes
        .as_chunks::<NOTE>()
        .0
        .iter()
        .map(|note| {
            let [a, b, c, d, pair @ ..] = *note;
            (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(pair))
        })
        .collect();
    notes.sort_unstable();
    Ok(notes)
}

/// A pair by its id. Two that share a key are compared for nothing.
fn key_of(id: &str) -> u64 {
    id.as_bytes().chunks(8).fold(0, |hash, bytes| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        mixed(hash ^ u64::from_le_bytes(word))
    })
}
