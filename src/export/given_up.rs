//! What is said of an export that could not be written: why, that nothing has changed, and what to do.

use std::io::{Error, ErrorKind};
use std::path::Path;

use super::ExportError;
use super::generation::last_bytes;

/// An error that ended an export to `out` before it was put in force, with what a person must know besides.
#[must_use]
pub fn given_up(out: &Path, error: ExportError) -> ExportError {
    let ExportError::Write { error: why, .. } = &error else { return error };
    let last = last_bytes(out);
    let kept = if last.is_some() { "The last export is untouched" } else { "Nothing else was changed" };
    let remedy = match why.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            let needed = last.map_or(String::new(), |bytes| {
                format!(", about {:.1} MB for files as large as the last ones", (bytes as f64 / 1e5).ceil() / 10.0)
            });
            format!("free some space{needed}, or give another --out")
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            "get the right to write there, or give another --out".into()
        }
        _ => "mend that, or give another --out".into(),
    };
    let advice = format!("{kept}: {remedy}, then give the same command again");
    ExportError::GivenUp { error: Box::new(error), advice }
}

/// Why a file cannot be written, in words for those who meet it.
pub(super) fn in_words(error: &Error) -> String {
    match error.kind() {
        ErrorKind::StorageFull => "no space is left on its disk".into(),
        ErrorKind::QuotaExceeded => "the quota on its disk is used up".into(),
        ErrorKind::ReadOnlyFilesystem => "its file system is read-only".into(),
        ErrorKind::FileTooLarge => "the system allows no larger file here (see `ulimit -f`)".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn it_is_said_why_that_nothing_has_changed_and_what_to_do() {
        let dir = tempfile::tempdir().expect("folder");
        let path = PathBuf::from("out/x.jsonl");
        let said = |errno: Errno| {
            given_up(dir.path(), ExportError::Write { path: path.clone(), error: errno.into() }).to_string()
        };
        assert_eq!(
            said(Errno::NOSPC),
            "cannot write out/x.jsonl: no space is left on its disk. Nothing else was changed: free some space, or give \
             another --out, then give the same command again"
        );
        let file = |bytes: u64| serde_json::json!({"rows": 1, "bytes": bytes, "sha256": ""});
        let manifest =
            serde_json::json!({"program": "qaflow", "files": {"a.jsonl": file(2_000_000), "b": file(1_010_000)}});
        std::fs::write(dir.path().join("manifest.json"), manifest.to_string()).expect("manifest");
        assert_eq!(
            said(Errno::DQUOT),
            "cannot write out/x.jsonl: the quota on its disk is used up. The last export is untouched: free some space, \
             about 3.1 MB for files as large as the last ones, or give another --out, then give the same command again"
        );
        assert!(
            said(Errno::ROFS).contains("its file system is read-only. The last export is untouched: get the right")
        );
        assert!(said(Errno::FBIG).contains("(see `ulimit -f`). The last export is untouched: mend that"));
        let other = given_up(dir.path(), ExportError::Busy { out: "out".into() }).to_string();
        assert!(other.starts_with("another export to out is under way"), "{other}");
    }
}
