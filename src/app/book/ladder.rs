//! `qaflow manifest ladder` makes the manifests of growing batches; `qaflow bench ladder` shows which are done.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::files;
use crate::app::export::print;
use crate::app::{Exit, UsageError, grouped};
use crate::bench::book::Entry;
use crate::bench::ladder::{Candidate, DEFAULT_SIZES, Ladder, LadderRung, order, sizes};
use crate::bench::report;
use crate::sources::{SourceFile, discover};

/// The ladder's own file, beside its manifests.
pub(super) const LADDER_FILE: &str = "ladder.json";

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct LadderArgs {
    /// Files and folders of .pdf, .md and .txt: the whole corpus
    #[arg(required = true)]
    pub input: Vec<PathBuf>,
    /// Folder of the manifests
    #[arg(long, value_name = "DIR", default_value = "data/processed/manifests")]
    pub out: PathBuf,
    /// Sizes of the batches in the order in which they are run; `rest` is the whole corpus
    #[arg(long, value_name = "N,N,…,rest", default_value = DEFAULT_SIZES)]
    pub sizes: String,
    /// What decides the choice: the same seed chooses the same documents
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Write a ladder anew where one is
    #[arg(long)]
    pub replace: bool,
    /// Show JSON
    #[arg(long)]
    pub json: bool,
}

/// Makes a ladder.
///
/// # Errors
/// If the corpus is too small, cannot be read, or there is another ladder.
pub fn make(args: &LadderArgs) -> anyhow::Result<Exit> {
    let sizes = sizes(&args.sizes).map_err(|error| UsageError(format!("--sizes: {error}")))?;
    let listing = discover(&args.input, None).map_err(|error| UsageError(error.to_string()))?;
    let files = listing.files();
    let candidates: Vec<Candidate> =
        files.iter().map(|file| Candidate { name: file.name.clone(), bytes: file.bytes }).collect();
    let order = order(&candidates, args.seed);
    let ladder =
        Ladder::new("ladder", args.seed, &candidates, &order, &sizes).map_err(|error| UsageError(error.to_string()))?;
    let file = args.out.join(LADDER_FILE);
    if let Ok(text) = std::fs::read_to_string(&file)
        && !args.replace
        && Ladder::read(&file.display().to_string(), &text).as_ref() != Ok(&ladder)
    {
        return Err(UsageError(format!(
            "{} holds another ladder, whose rungs may be recorded: give another --out, or --replace to write it anew",
            file.display()
        ))
        .into());
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let base = args.out.canonicalize().with_context(|| format!("cannot find {}", args.out.display()))?;
    for rung in &ladder.rungs {
        let chosen = order[..rung.documents as usize].iter().map(|at| &files[*at]);
        files::whole(&args.out.join(&rung.manifest), &manifest(&ladder, rung, chosen, &base))?;
    }
    files::whole(&file, &(serde_json::to_string_pretty(&ladder)? + "\n"))?;
    if args.json {
        print(&serde_json::to_string(&ladder)?);
    } else {
        let mut table = crate::bench::text::Table::new(&["rung", "documents", "new", "MB", "manifest"]);
        for rung in &ladder.rungs {
            table.row(vec![
                rung.name.clone(),
                grouped(rung.documents),
                grouped(rung.new_documents),
                crate::bench::text::number(rung.bytes as f64 / f64::from(1 << 20)),
                args.out.join(&rung.manifest).display().to_string(),
            ]);
        }
        print(table.markdown().trim_end());
        print("\nRun them in this order: qaflow run CONFIG --manifest FILE, then qaflow bench record");
    }
    Ok(Exit::Done)
}

fn manifest<'a>(
    ladder: &Ladder,
    rung: &LadderRung,
    chosen: impl Iterator<Item = &'a SourceFile>,
    base: &Path,
) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "# Rung {} of {}: {} of {} documents, {} bytes, chosen by size with seed {}.\n# It holds every smaller rung.\n",
        rung.position,
        ladder.rungs.len(),
        rung.documents,
        ladder.documents,
        rung.bytes,
        ladder.seed
    );
    for file in chosen {
        let path = file.path.canonicalize().unwrap_or_else(|_| file.path.clone());
        let _ = writeln!(text, "{}", relative(&path, base).display());
    }
    text
}

/// `path` as seen from the folder `base`, both absolute.
fn relative(path: &Path, base: &Path) -> PathBuf {
    let common = path.components().zip(base.components()).take_while(|(a, b)| a == b).count();
    let up = base.components().skip(common).map(|_| Path::new(".."));
    up.chain(path.components().skip(common).map(|part| Path::new(part.as_os_str()))).collect()
}

/// Shows which rungs are done, and what each said.
pub(super) fn show(dir: &Path, manifests: Option<&Path>, json: bool) -> anyhow::Result<Exit> {
    let book = files::load(dir)?;
    let ladder = match manifests {
        Some(folder) => super::read_ladder(&folder.join(LADDER_FILE))?,
        None => super::ladder_of(&book)
            .map_or_else(|| super::read_ladder(&Path::new("data/processed/manifests").join(LADDER_FILE)), Ok)?,
    };
    let rungs = book.rungs();
    if json {
        let of = |rung: &LadderRung| -> Vec<&Entry> {
            let at = |entry: &&&Entry| entry.record.rung.as_ref().is_some_and(|r| r.position == rung.position);
            rungs.iter().filter(at).copied().collect()
        };
        let rows: Vec<serde_json::Value> = ladder
            .rungs
            .iter()
            .map(|rung| {
                let records: Vec<_> = of(rung).into_iter().map(|entry| &entry.record).collect();
                serde_json::json!({"rung": rung, "done": !records.is_empty(), "records": records})
            })
            .collect();
        print(&serde_json::Value::Array(rows).to_string());
        return Ok(Exit::Done);
    }
    print(report::rung_table(&rungs, Some(&ladder)).markdown().trim_end());
    let done = |rung: &&LadderRung| {
        !rungs.iter().any(|entry| entry.record.rung.as_ref().is_some_and(|r| r.position == rung.position))
    };
    match ladder.rungs.iter().find(done) {
        Some(next) => {
            print(&format!("\nNext: {} ({} documents, {} new)", next.name, next.documents, next.new_documents))
        }
        None => print("\nEvery rung is done."),
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_seen_from_the_manifest() {
        assert_eq!(relative(Path::new("/a/b/raw/x.pdf"), Path::new("/a/b/lists/one")), Path::new("../../raw/x.pdf"));
        assert_eq!(relative(Path::new("/a/x.pdf"), Path::new("/a")), Path::new("x.pdf"));
        assert_eq!(relative(Path::new("/c/x.pdf"), Path::new("/a/b")), Path::new("../../c/x.pdf"));
    }
}
