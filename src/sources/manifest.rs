//! A manifest: a file that names documents, one path a line.
//!
//! Blank lines and lines that begin with `#` say nothing. A path is looked for in the manifest's folder first, then
//! in the working directory.

use std::path::{Path, PathBuf};

use super::folder::source_file;
use super::{InputFault, SourceFile};

/// Adds the documents that the manifest names to `files`, and what is wrong to `faults`, line by line.
pub(super) fn list(manifest: &Path, files: &mut Vec<SourceFile>, faults: &mut Vec<InputFault>) {
    let whole = |message: String| InputFault { line: None, message };
    let bytes = match std::fs::read(manifest) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            faults.push(whole(format!("the manifest {} does not exist: check the path", manifest.display())));
            return;
        }
        Err(error) => {
            faults.push(whole(format!("cannot read the manifest {}: {error}", manifest.display())));
            return;
        }
    };
    let Ok(text) = std::str::from_utf8(&bytes) else {
        faults.push(whole(format!("the manifest {} is not UTF-8 text", manifest.display())));
        return;
    };
    let folder = manifest.parent().unwrap_or(Path::new(""));
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let entry = line.trim();
        if entry.is_empty() || entry.starts_with('#') {
            continue;
        }
        match locate(folder, Path::new(entry)).and_then(|path| source_file(&path, Path::new(entry))) {
            Ok(file) => files.push(file),
            Err(message) => faults.push(InputFault { line: Some((manifest.to_owned(), i + 1)), message }),
        }
    }
}

/// Where an entry lies.
fn locate(folder: &Path, entry: &Path) -> Result<PathBuf, String> {
    let beside = folder.join(entry);
    if beside.exists() {
        return Ok(beside);
    }
    if entry.is_relative() && entry.exists() {
        return Ok(entry.to_owned());
    }
    if entry.is_absolute() {
        return Err(format!("{} does not exist", entry.display()));
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    Err(format!("{} is neither in {} nor in the working directory", entry.display(), folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_line_is_reported_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("raw/folder.pdf")).unwrap();
        std::fs::write(dir.path().join("raw/good.pdf"), "x").unwrap();
        std::fs::write(dir.path().join("raw/data.csv"), "x").unwrap();
        let manifest = dir.path().join("batch.txt");
        std::fs::write(
            &manifest,
            "\u{feff}# first batch\r\n\r\nraw/good.pdf\r\n  ./raw/missing.pdf\nraw/data.csv\nraw/folder.pdf\n",
        )
        .unwrap();
        let (mut files, mut faults) = (Vec::new(), Vec::new());
        list(&manifest, &mut files, &mut faults);
        assert_eq!(files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["raw/good.pdf"]);
        let lines: Vec<_> = faults.iter().filter_map(|f| f.line.as_ref().map(|l| l.1)).collect();
        assert_eq!(lines, [4, 5, 6]);
        assert!(faults[0].message.contains("./raw/missing.pdf is neither in"), "{}", faults[0]);
        assert!(faults[1].message.contains("give .pdf, .md or .txt"), "{}", faults[1]);
        assert!(faults[2].message.ends_with("is a folder, not a document"), "{}", faults[2]);
        assert!(faults[0].to_string().starts_with(&format!("{}:4: ", manifest.display())));
    }

    #[test]
    fn a_missing_manifest_is_named() {
        let (mut files, mut faults) = (Vec::new(), Vec::new());
        list(Path::new("/nowhere/batch.txt"), &mut files, &mut faults);
        assert_eq!(faults[0].to_string(), "the manifest /nowhere/batch.txt does not exist: check the path");
    }
}
