//! The folders of a run, checked before any work is spent.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::build::{self, Configuration};
use super::run_args::RunArgs;
use super::{UsageError, shard};
use crate::export::{dataset, generation};
use crate::sources::{Listing, Shard, discover};

/// Where a run reads and writes.
pub(super) struct Places {
    /// The documents.
    pub(super) listing: Listing,
    /// The state's folder.
    pub(super) state: PathBuf,
    /// The results folder.
    pub(super) out: PathBuf,
}

impl Places {
    /// Finds them, and all that is wrong with them as far as it can be seen without changing anything.
    pub(super) fn find(args: &RunArgs, loaded: &Configuration, share: Option<Shard>) -> anyhow::Result<Self> {
        let (inputs, manifest) = input_of(args, loaded);
        if inputs.is_empty() && manifest.is_none() {
            return Err(build::no_input());
        }
        let listing = discover(inputs, manifest).map_err(|error| UsageError(error.to_string()))?.with_shard(share);
        let of_share = |folder: &Path| share.map_or_else(|| folder.into(), |share| shard::folder_of(folder, share));
        let state = args.state.clone().unwrap_or_else(|| of_share(&loaded.run.state));
        let out = args.out.clone().unwrap_or_else(|| of_share(&loaded.run.out));
        if state == out {
            return Err(UsageError("state and out must be different folders".into()).into());
        }
        apart_from_input(inputs, &[("state", &state), ("results", &out)])?;
        generation::check(&out, &dataset::names(&loaded.run.export))?;
        Ok(Self { listing, state, out })
    }
}

/// Inputs and manifest: the command line's, else the configuration's.
pub(super) fn input_of<'a>(args: &'a RunArgs, loaded: &'a Configuration) -> (&'a [PathBuf], Option<&'a Path>) {
    if !args.input.is_empty() || args.manifest.is_some() {
        (&args.input, args.manifest.as_deref())
    } else {
        (&loaded.run.input, loaded.run.manifest.as_deref())
    }
}

/// Neither state nor results may lie in a folder of the input: the next run would take them for documents.
fn apart_from_input(inputs: &[PathBuf], folders: &[(&str, &Path)]) -> anyhow::Result<()> {
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
    let way_out = "make room or get the right to write, or give another --out";
    std::fs::create_dir_all(out)
        .with_context(|| format!("cannot make the results folder {} ({way_out})", out.display()))?;
    let probe = out.join(".qaflow-write-test");
    std::fs::write(&probe, b"")
        .and_then(|()| std::fs::remove_file(&probe))
        .with_context(|| format!("cannot write to the results folder {} ({way_out})", out.display()))
}

/// Whether a state that is there can be written to. It must be, also to be read: a command takes its lease, and the
/// database writes as it opens.
pub(super) fn state_writable(dir: &Path) -> anyhow::Result<()> {
    for part in [dir.to_path_buf(), dir.join("lease"), dir.join("db")] {
        if let Err(errno) = access(&part, Access::WRITE_OK)
            && let Some(refusal) = refusal(dir, errno)
        {
            anyhow::bail!(refusal);
        }
    }
    Ok(())
}

/// What is said of a state that the system does not let this process write to; other faults show when it is opened.
fn refusal(dir: &Path, errno: Errno) -> Option<String> {
    [Errno::ROFS, Errno::ACCESS, Errno::PERM].contains(&errno).then(|| {
        format!(
            "the state {} cannot be written to ({}), and only `status` does without: all else takes the lease, and the \
             database writes as it opens. Copy the folder to where you can write, as in `cp -a {0} COPY`, and give \
             --state COPY",
            dir.display(),
            std::io::Error::from(errno)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_cannot_be_written_to_is_named_with_the_way_out() {
        for errno in [Errno::ROFS, Errno::ACCESS, Errno::PERM] {
            let said = refusal(Path::new("archive/state"), errno).expect("refused");
            assert!(said.starts_with("the state archive/state cannot be written to ("), "{said}");
            assert!(said.contains("`cp -a archive/state COPY`, and give --state COPY"), "{said}");
        }
        assert_eq!(refusal(Path::new("s"), Errno::NOENT), None);
        let dir = tempfile::tempdir().expect("folder");
        state_writable(dir.path()).expect("its parts may be missing");
    }
}
