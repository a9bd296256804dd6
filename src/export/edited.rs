//! What a person changed in the files of an export is kept beside them when the next export replaces them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ExportError;
use super::file::{WrittenFile, measure};
use super::generation::{CARD, top};

/// Keeps each of `files` and of the documents' `texts` (names and SHA-256), as the last export to `out` wrote them,
/// that was changed since, as `out/NAME.edited`, and says so. The card has its own rule, and is left alone.
///
/// # Errors
/// If a changed file can be neither read nor kept.
pub(super) fn keep(
    out: &Path,
    files: &BTreeMap<String, WrittenFile>,
    texts: &BTreeMap<String, String>,
) -> Result<(), ExportError> {
    let changed = |path: &Path| path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    let exported = changed(&out.join("manifest.json"));
    let files = files.iter().map(|(name, written)| (name, Some(written.bytes), &written.sha256));
    for (name, bytes, sha256) in files.chain(texts.iter().map(|(name, sha256)| (name, None, sha256))) {
        let path = out.join(name);
        let Ok(meta) = path.metadata() else { continue };
        // An export writes its manifest last, and its files are links or lie behind one: others need a closer look.
        let same_size = bytes.is_none_or(|bytes| bytes == meta.len());
        let untouched = is_link(&out.join(top(name))) && same_size && changed(&path) <= exported;
        if name == CARD || !meta.is_file() || untouched {
            continue;
        }
        let found = measure(&path)?;
        if found.sha256 == *sha256 {
            continue;
        }
        let Some(kept) = free_name(out, name, &found)? else { continue };
        std::fs::copy(&path, &kept).map_err(|error| {
            // A part of it would pass for the changed file.
            let _ = std::fs::remove_file(&kept);
            ExportError::Write { path: kept.clone(), error }
        })?;
        tracing::warn!(
            "{} was changed after it was exported: the changed file is kept as {}",
            path.display(),
            kept.display()
        );
    }
    Ok(())
}

/// Where the changed file is kept; nowhere if that was done before.
fn free_name(out: &Path, name: &str, changed: &WrittenFile) -> Result<Option<PathBuf>, ExportError> {
    let name = name.replace('/', "-");
    for number in 1.. {
        let number = if number == 1 { String::new() } else { format!("-{number}") };
        let path = out.join(format!("{name}.edited{number}"));
        if path.symlink_metadata().is_err() {
            return Ok(Some(path));
        }
        if path.is_file() && measure(&path)?.sha256 == changed.sha256 {
            break;
        }
    }
    Ok(None)
}
