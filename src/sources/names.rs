//! Names that no two documents share.

use std::collections::HashMap;
use std::path::{Component, Path};

use super::SourceFile;

/// Gives every file a name of its own: where two share one, the names of the folders above them are put in front,
/// as many as it takes.
pub(super) fn disambiguate(files: &mut [SourceFile]) {
    let parts: Vec<Vec<String>> = files.iter().map(|file| parts(&file.path)).collect();
    let deepest = parts.iter().map(Vec::len).max().unwrap_or(0);
    // Each round lengthens every shared name by one folder; whole paths differ, so the rounds end.
    for _ in 0..deepest {
        let mut holders: HashMap<&str, usize> = HashMap::new();
        for file in files.iter() {
            *holders.entry(&file.name).or_default() += 1;
        }
        let shared: Vec<usize> = (0..files.len()).filter(|i| holders[files[*i].name.as_str()] > 1).collect();
        if shared.is_empty() {
            return;
        }
        for i in shared {
            let have = files[i].name.split('/').count();
            let from = parts[i].len().saturating_sub(have + 1);
            files[i].name = parts[i][from..].join("/");
        }
    }
}

fn parts(path: &Path) -> Vec<String> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::payload::DocumentFormat;

    fn file(name: &str, path: &str) -> SourceFile {
        SourceFile { name: name.into(), path: path.into(), format: DocumentFormat::Pdf, bytes: 1 }
    }

    #[test]
    fn shared_names_get_their_folders_in_front() {
        let mut files = [
            file("x.pdf", "/data/state/x.pdf"),
            file("x.pdf", "/data/federal/x.pdf"),
            file("x.pdf", "/old/federal/x.pdf"),
            file("y.pdf", "/data/state/y.pdf"),
        ];
        disambiguate(&mut files);
        let names: Vec<_> = files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["state/x.pdf", "data/federal/x.pdf", "old/federal/x.pdf", "y.pdf"]);
    }

    #[test]
    fn a_longer_name_that_is_taken_is_lengthened_again() {
        let mut files = [file("x.pdf", "/a/s/x.pdf"), file("x.pdf", "/b/t/x.pdf"), file("s/x.pdf", "/c/s/x.pdf")];
        disambiguate(&mut files);
        let names: Vec<_> = files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["a/s/x.pdf", "t/x.pdf", "c/s/x.pdf"]);
    }
}
