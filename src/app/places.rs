//! The folders of a run, checked before any work is spent.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::UsageError;

/// Neither state nor results may lie in a folder of the input: the next run would take them for documents.
pub(super) fn apart_from_input(inputs: &[PathBuf], folders: &[(&str, &Path)]) -> anyhow::Result<()> {
    for (name, folder) in folders {
        // Of a folder that is not there yet, the part that is.
        let there = folder.ancestors().find_map(|part| {
            let part = if part.as_os_str().is_empty() { Path::new(".") } else { part };
            let whole = part.canonicalize().ok()?;
            Some(whole.join(folder.strip_prefix(part).unwrap_or(Path::new(""))))
        });
        for input in inputs.iter().filter(|input| input.is_dir()) {
            if let (Some(there), Ok(input)) = (&there, input.canonicalize())
                && there.starts_with(&input)
            {
                return Err(UsageError(format!(
                    "the {name} folder {} lies in the input folder {}, and would be taken for documents: put it elsewhere",
                    folder.display(),
                    input.display()
                ))
                .into());
            }
        }
    }
    Ok(())
}

/// Whether the results can be written, before any work is spent.
pub(super) fn writable(out: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the results folder {}", out.display()))?;
    let probe = out.join(".qaflow-write-test");
    std::fs::write(&probe, b"")
        .and_then(|()| std::fs::remove_file(&probe))
        .with_context(|| format!("cannot write to the results folder {}", out.display()))
}
