//! Files below a folder, and files given directly.

use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::{EXTENSIONS, InputFault, SourceFile, format_of};

/// Adds the documents at `input`, a file or a folder, to `files`, and what is wrong to `faults`.
pub(super) fn list(input: &Path, files: &mut Vec<SourceFile>, faults: &mut Vec<InputFault>) {
    let mut fault = |message: String| faults.push(InputFault { line: None, message });
    let meta = match std::fs::metadata(input) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return fault(format!("{} does not exist: check the path", input.display()));
        }
        Err(error) => return fault(format!("cannot read {}: {error}", input.display())),
    };
    if meta.is_file() {
        let Some(name) = input.file_name() else {
            return fault(format!("{} has no file name", input.display()));
        };
        match source_file(input, Path::new(name)) {
            Ok(file) => files.push(file),
            Err(message) => fault(message),
        }
        return;
    }
    if !meta.is_dir() {
        return fault(format!("{} is neither a file nor a folder", input.display()));
    }
    let walk = WalkDir::new(input).follow_links(true).sort_by_file_name().into_iter();
    for entry in walk.filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry)) {
        let entry = match entry {
            Ok(entry) => entry,
            // A link back to a folder above it: what it holds is listed there already.
            Err(error) if error.loop_ancestor().is_some() => continue,
            Err(error) => {
                fault(unreadable(&error, input));
                continue;
            }
        };
        if !entry.file_type().is_file() || format_of(entry.path()).is_none() {
            continue;
        }
        let below = entry.path().strip_prefix(input).unwrap_or(entry.path());
        match source_file(entry.path(), below) {
            Ok(file) => files.push(file),
            Err(message) => fault(message),
        }
    }
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with('.')
}

fn unreadable(error: &walkdir::Error, input: &Path) -> String {
    let place = error.path().unwrap_or(input).display().to_string();
    let detail = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
    let is_link = error.path().is_some_and(Path::is_symlink);
    if is_link {
        format!("{place} is a link to something that cannot be read ({detail}): mend or remove it")
    } else {
        format!("cannot read {place}: {detail}")
    }
}

/// A document at `path`, which the dataset calls by the parts of `name`.
pub(super) fn source_file(path: &Path, name: &Path) -> Result<SourceFile, String> {
    let format = format_of(path)
        .ok_or_else(|| format!("{} is not a document that can be read: give {EXTENSIONS}", path.display()))?;
    let meta = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{} does not exist: check the path", path.display()),
        _ => format!("cannot read {}: {error}", path.display()),
    })?;
    if meta.is_dir() {
        return Err(format!("{} is a folder, not a document", path.display()));
    }
    if !meta.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    // Opening is the only test of the right to read that holds on every file system.
    std::fs::File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let path = std::path::absolute(path).map_err(|error| format!("cannot resolve {}: {error}", path.display()))?;
    if path.to_str().is_none() {
        return Err(format!("{} has a name that is not UTF-8: rename it", path.display()));
    }
    Ok(SourceFile { name: clean(name), path, format, bytes: meta.len() })
}

/// The parts of a path that name something, joined by `/`.
pub(super) fn clean(name: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in name.components() {
        match component {
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts.join("/")
}

/// Where a path really is, for telling whether two are the same file.
pub(super) fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned() {
        assert_eq!(clean(Path::new("./a//b/../c.pdf")), "a/c.pdf");
        assert_eq!(clean(Path::new("../../raw/x.pdf")), "raw/x.pdf");
        assert_eq!(clean(Path::new("/data/raw/x.pdf")), "data/raw/x.pdf");
    }

    #[test]
    fn folders_are_listed_deeply_without_hidden_files_or_link_loops() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("b/deep")).unwrap();
        std::fs::create_dir_all(root.join(".git")).unwrap();
        for name in ["z.PDF", "b/deep/a.md", "b/x.txt", "b/image.png", ".hidden.pdf", ".git/y.pdf", "README"] {
            std::fs::write(root.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink(root, root.join("b/loop")).unwrap();
        let (mut files, mut faults) = (Vec::new(), Vec::new());
        list(root, &mut files, &mut faults);
        let names: Vec<_> = files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["b/deep/a.md", "b/x.txt", "z.PDF"]);
        assert_eq!(faults, []);
        assert_eq!(files[2].bytes, 5);
        assert!(files.iter().all(|f| f.path.is_absolute()));
    }

    #[test]
    fn a_broken_link_and_a_missing_input_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere.pdf", dir.path().join("gone.pdf")).unwrap();
        let (mut files, mut faults) = (Vec::new(), Vec::new());
        list(dir.path(), &mut files, &mut faults);
        list(&dir.path().join("missing"), &mut files, &mut faults);
        assert_eq!(files, []);
        assert_eq!(faults.len(), 2);
        assert!(faults[0].message.contains("gone.pdf is a link"), "{}", faults[0]);
        assert!(faults[1].message.ends_with("missing does not exist: check the path"), "{}", faults[1]);
    }
}
