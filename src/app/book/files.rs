//! The folder of records: read as a book, and written to.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::app::UsageError;
use crate::app::state::State;
use crate::bench::book::{Book, Entry};
use crate::bench::history::History;
use crate::bench::record::{DocumentRow, Record};
use crate::bench::{checks, documents, yaml};

/// Where records are unless the command line says otherwise.
pub(super) const DEFAULT_DIR: &str = "benchmarks";
/// Beside `<id>.yaml`, its documents.
pub(super) const DOCUMENTS_SUFFIX: &str = ".documents.csv";

/// The records of a folder: every `.yaml` and `.yml` file directly in it that is one. What else lies there is passed
/// over, what is a broken record is an error.
pub(super) fn load(dir: &Path) -> anyhow::Result<Book> {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"));
    paths.sort();
    let mut entries: Vec<Entry> = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    for path in paths {
        let Some(entry) = read(&path)? else { continue };
        if let Some(twin) = entries.iter().find(|other| other.record.id == entry.record.id) {
            return Err(UsageError(format!(
                "{}: another record of {} is called {} too: give each an id of its own",
                path.display(),
                dir.display(),
                twin.record.id
            ))
            .into());
        }
        entries.push(entry);
        files.push(path);
    }
    let book = Book::new(entries.clone());
    for (path, entry) in files.iter().zip(&entries) {
        name_contradictions(&book, path, entry);
    }
    Ok(book)
}

/// Says where a record contradicts itself, its documents, the other records, its file's name or the clock.
fn name_contradictions(book: &Book, path: &Path, entry: &Entry) {
    let (file, id) = (path.display(), &entry.record.id);
    if let Some(name) = path.file_stem().map(|stem| stem.to_string_lossy()).filter(|name| name != id) {
        tracing::warn!(
            "{file}: id is {id}, but the file is called {name}: rename the file to {id}.yaml, or correct the id"
        );
    }
    let future = checks::in_future(&entry.record, &crate::app::now()[..10]);
    for contradiction in checks::in_book(book, entry).into_iter().chain(future) {
        tracing::warn!("{file}: {contradiction}");
    }
}

/// The records of a folder, at least one.
pub(super) fn load_some(dir: &Path) -> anyhow::Result<Book> {
    let book = load(dir)?;
    if book.entries().is_empty() {
        return Err(UsageError(format!(
            "{} holds no benchmark record: make one of a finished run with `qaflow bench record`",
            dir.display()
        ))
        .into());
    }
    Ok(book)
}

fn read(path: &Path) -> anyhow::Result<Option<Entry>> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    let read = match yaml::read(&file, &text) {
        Ok(read) => read,
        Err(error @ yaml::RecordError::Other { .. }) => {
            tracing::info!("{error}: passed over");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    for remark in read.remarks {
        tracing::warn!("{remark}");
    }
    let documents = match &read.record.dataset.documents_file {
        Some(name) => read_documents(&path.with_file_name(name))?,
        None => Vec::new(),
    };
    Ok(Some(Entry { record: read.record, documents }))
}

fn read_documents(path: &Path) -> anyhow::Result<Vec<DocumentRow>> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read {file}, the documents of a record: put it back, or take dataset.documents_file out of it")
    })?;
    Ok(documents::from_csv(&file, &text)?)
}

/// Writes a record and its documents; gives the record's file.
pub(super) fn save(dir: &Path, record: &Record, rows: &[DocumentRow], replace: bool) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(format!("{}.yaml", record.id));
    if path.exists() && !replace {
        return Err(UsageError(format!(
            "{} is there already: give another --id, or --replace to write it anew",
            path.display()
        ))
        .into());
    }
    if let Some(name) = &record.dataset.documents_file {
        whole(&dir.join(name), &documents::to_csv(name, rows)?)?;
    }
    whole(&path, &yaml::write(record)?)?;
    Ok(path)
}

/// What is put behind a record's name: the history of its attempts, for the plots.
const HISTORY_SUFFIX: &str = ".history.jsonl";

/// Keeps the history of what a record covers beside it; a state without one has nothing to keep.
pub(super) fn save_history(dir: &Path, record: &Record, states: &[&State]) -> anyhow::Result<()> {
    let mut shards = Vec::new();
    for state in states {
        // A shard that did nothing new is not covered.
        let folder = state.dir.display().to_string();
        let Some(covered) = record.covers.iter().find(|covered| covered.state == folder) else { continue };
        match crate::app::history::read(&state.dir) {
            Ok(history) => shards.push(history.of_attempts(covered.first_attempt, covered.last_attempt)),
            Err(error) => tracing::warn!("the history of {} cannot be read: {error}", state.dir.display()),
        }
    }
    shards.retain(|history| !history.samples.is_empty());
    if shards.is_empty() {
        return Ok(());
    }
    whole(&dir.join(format!("{}{HISTORY_SUFFIX}", record.id)), &History::merged(&shards).text())
}

/// The history that was kept beside a record; empty if there is none.
pub(super) fn history(dir: &Path, id: &str) -> anyhow::Result<History> {
    let path = dir.join(format!("{id}{HISTORY_SUFFIX}"));
    match std::fs::read_to_string(&path) {
        Ok(text) => crate::bench::history::parse(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(History::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file whole or not at all, naming it if it cannot be written.
pub(super) fn whole(path: &Path, text: &str) -> anyhow::Result<()> {
    crate::app::write_whole(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
