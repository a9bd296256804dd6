//! Which state a folder holds and how far it got, kept outside the database: it catches a database that opens
//! empty, older than it was, or belonging to another state.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::{io_error, write_atomic};
use crate::model::StoreError;
use crate::model::record::{ModelCounts, StageCounts};

/// The format of `identity.json` and of the keys and records of the database. In format 1 every record was a value of
/// the database; from format 2 on most lie in blocks.
pub const FORMAT: u32 = 2;
/// The file's name in the state folder.
pub const FILE: &str = "identity.json";

/// The content of `identity.json`. Also what another process can learn of a state while a run holds the database;
/// at most some seconds old.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Its format.
    pub format: u32,
    /// Which state this is: 32 hexadecimal digits.
    pub state: String,
    /// A commit that is on disk; the database may be further.
    pub epoch: u64,
    /// When it was written, RFC 3339.
    pub written: String,
    /// The accounts of the stages at that commit, by stage key in hexadecimal.
    pub stages: BTreeMap<String, StageCounts>,
    /// The account of model answers at that commit.
    pub model: ModelCounts,
}

/// What every format of the file begins with.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Identity {
    /// Reads the identity of the state in `dir`; `None` if there is none yet.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it cannot be understood, [`StoreError::Newer`] if a newer program wrote it.
    pub fn load(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("cannot read", &path, &e)),
        };
        let damaged = |e: serde_json::Error| StoreError::Damaged {
            what: path.display().to_string(),
            detail: e.to_string(),
            remedy: "It is rebuilt from the database where that can be read".into(),
        };
        let head: Head = serde_json::from_slice(&bytes).map_err(damaged)?;
        if head.format > FORMAT {
            return Err(StoreError::Newer { what: path.display().to_string(), found: head.format, known: FORMAT });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Writes it as a whole, durable when it returns.
    pub(super) fn save(&self, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(FILE);
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| StoreError::Io {
            action: "cannot write".into(),
            place: path.display().to_string(),
            detail: e.to_string(),
        })?;
        text.push(b'\n');
        write_atomic(&path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip_and_newer_or_broken_ones_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), None);
        let identity = Identity {
            format: FORMAT,
            state: "ab".repeat(16),
            epoch: 7,
            written: "2026-11-25T00:00:00Z".into(),
            stages: [("00".repeat(16), StageCounts { admitted: 3, ..StageCounts::default() })].into(),
            model: ModelCounts::default(),
        };
        identity.save(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), Some(identity));

        fs::write(dir.path().join(FILE), r#"{"format": 9, "other": 1}"#).unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(StoreError::Newer { found: 9, .. })));
        fs::write(dir.path().join(FILE), r#"{"format": 1, "sta"#).unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(StoreError::Damaged { .. })));
    }
}
