//! The files for other programs, made from `dataset.jsonl` in two passes: formats, splits, statistics, card, sources,
//! checksums. They know rows, not stores, so that they come out the same wherever the rows came from.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

use super::card::{self, CardInput};
use super::file::{HashedFile, measure};
use super::formats::PairFile;
use super::generation::CARD;
use super::rows::PairRow;
use super::statistics::{self, DocumentCount, Gathered, SplitCount};
use super::{DocumentEntry, ExportError, Exported, splits};
use crate::model::dataset::{ExportOptions, Format};
use crate::model::plan::Plan;

/// What is known of a dataset besides its rows.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The run, for its names.
    pub plan: &'a Plan,
    /// Whether every item has ended.
    pub finished: bool,
    /// What else a reader must know.
    pub remarks: &'a [String],
    /// What people found who reviewed it, in Markdown.
    pub review: Option<&'a str>,
    /// Whether a card that a person wrote stands in the results folder: then none is written.
    pub own_card: bool,
}

/// The names that an export writes at the top of the results folder.
pub fn names(options: &ExportOptions) -> Vec<&'static str> {
    let mut names = vec![
        "dataset.jsonl",
        "rejected.jsonl",
        "dead_letters.jsonl",
        "documents",
        "manifest.json",
        CARD,
        "statistics.json",
        "sources.csv",
        "SHA256SUMS",
    ];
    names.extend(options.formats.iter().filter(|format| own_folder(options, **format)).map(|format| format.name()));
    names
}

/// Whether a format has files besides `dataset.jsonl`.
fn own_folder(options: &ExportOptions, format: Format) -> bool {
    format != Format::Jsonl || options.splits.is_some()
}

/// Calls `each` with every row of a file of pairs and its line.
///
/// # Errors
/// If the file cannot be read or holds something else; whatever `each` returns.
pub fn each_row(
    path: &Path,
    mut each: impl FnMut(PairRow, &str) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let fail = |detail: String| ExportError::Read { path: path.into(), detail };
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if reader.read_line(&mut line).map_err(|error| fail(format!("line {number}: {error}")))? == 0 {
            break;
        }
        let row = serde_json::from_str(&line).map_err(|error| fail(format!("line {number}: {error}")))?;
        each(row, &line)?;
    }
    Ok(())
}

/// Writes all of them to `folder`, which holds `dataset.jsonl`, `documents/` and the other files of the export already.
/// The files are added to `exported`.
///
/// # Errors
/// If a file cannot be written or read back.
pub fn write(
    folder: &Path,
    options: &ExportOptions,
    facts: &Facts<'_>,
    exported: &mut Exported,
) -> Result<(), ExportError> {
    let rows = folder.join("dataset.jsonl");
    let mut gathered = Gathered::default();
    each_row(&rows, |row, _| {
        gathered.add(&row);
        Ok(())
    })?;
    let split_of = options.splits.as_ref().map(|shares| {
        // Documents without pairs have no part in any split.
        splits::assign(gathered.per_document.keys().map(String::as_str), shares)
    });
    let split_of = split_of.unwrap_or_default();
    let (files, left_out) = write_formats(folder, &rows, options, &split_of, exported)?;
    let documents = documents(&exported.entries, &gathered, &split_of);
    let mut counts: BTreeMap<&'static str, SplitCount> = BTreeMap::new();
    for document in &documents {
        if let Some(split) = document.split {
            let count = counts.entry(split).or_default();
            count.documents += 1;
            count.pairs += document.pairs;
        }
    }
    let squad = options.formats.contains(&Format::Squad).then_some(left_out);
    let json = statistics::render(&gathered, &counts, squad, &documents);
    let mut files_written = Vec::new();
    let mut text = serde_json::to_vec_pretty(&json)
        .map_err(|error| ExportError::Write { path: folder.join("statistics.json"), error: error.into() })?;
    text.push(b'\n');
    files_written.push(("statistics.json", text));
    files_written.push(("sources.csv", sources(&folder.join("sources.csv"), &exported.entries, &documents)?));
    if !facts.own_card {
        let input = CardInput {
            plan: facts.plan,
            exported,
            options,
            gathered: &gathered,
            splits: &counts,
            documents: &documents,
            files: &files,
            finished: facts.finished,
            remarks: facts.remarks,
            review: facts.review,
        };
        files_written.push((CARD, card::render(&input).into_bytes()));
    }
    for (name, content) in files_written {
        let rows = if name == "sources.csv" { exported.entries.len() as u64 } else { 0 };
        put(folder, name, &content, rows, exported)?;
    }
    checksums(folder, exported)
}

fn put(folder: &Path, name: &str, content: &[u8], rows: u64, exported: &mut Exported) -> Result<(), ExportError> {
    let mut file = HashedFile::create(&folder.join(name))?;
    file.write_all(content).map_err(|error| file.failed(error))?;
    exported.files.insert(name.into(), file.finish(rows)?);
    Ok(())
}

/// The formats' files with their splits, and how many pairs `SQuAD` has no form for.
type FormatFiles = (Vec<(Format, &'static str, String)>, u64);

fn write_formats(
    folder: &Path,
    rows: &Path,
    options: &ExportOptions,
    split_of: &BTreeMap<String, &'static str>,
    exported: &mut Exported,
) -> Result<FormatFiles, ExportError> {
    let mut open: BTreeMap<(Format, &'static str), PairFile> = BTreeMap::new();
    let path_of = |format: Format, split: &str| format!("{}/{split}.{}", format.name(), format.extension());
    each_row(rows, |row, line| {
        // Without splits all is one, which the tools call `train`.
        let split = split_of.get(&row.source_sha256).copied().unwrap_or("train");
        for format in options.formats.iter().copied().filter(|format| own_folder(options, *format)) {
            let file = match open.entry((format, split)) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(PairFile::create(&folder.join(path_of(format, split)), format, options.passage)?)
                }
            };
            file.add(&row, line)?;
        }
        Ok(())
    })?;
    let mut files = Vec::new();
    let mut left_out = 0;
    for split in ["train", "validation", "test"] {
        for format in &options.formats {
            let Some(file) = open.remove(&(*format, split)) else { continue };
            let path = path_of(*format, split);
            let (written, without) = file.finish()?;
            left_out += without;
            if written.rows > 0 {
                files.push((*format, split, path.clone()));
            }
            exported.files.insert(path, written);
        }
    }
    if options.formats.contains(&Format::Jsonl) && options.splits.is_none() && exported.accepted > 0 {
        files.push((Format::Jsonl, "train", "dataset.jsonl".into()));
    }
    Ok((files, left_out))
}

/// The documents in the order of the dataset, each once.
fn documents<'a>(
    entries: &'a [DocumentEntry],
    gathered: &Gathered,
    split_of: &BTreeMap<String, &'static str>,
) -> Vec<DocumentCount<'a>> {
    let mut seen = BTreeSet::new();
    entries
        .iter()
        .filter(|entry| seen.insert(entry.sha256.as_str()))
        .map(|entry| DocumentCount {
            name: &entry.name,
            sha256: &entry.sha256,
            pairs: gathered.per_document.get(&entry.sha256).copied().unwrap_or(0),
            split: split_of.get(&entry.sha256).copied(),
        })
        .collect()
}

/// `sources.csv`: every document with what became of it.
fn sources(path: &Path, entries: &[DocumentEntry], documents: &[DocumentCount<'_>]) -> Result<Vec<u8>, ExportError> {
    let by_hash: BTreeMap<&str, &DocumentCount<'_>> =
        documents.iter().map(|document| (document.sha256, document)).collect();
    let mut csv = csv::Writer::from_writer(Vec::new());
    let fail = |error: csv::Error| ExportError::Write { path: path.into(), error: error.into() };
    csv.write_record(["document", "sha256", "state", "pages", "characters", "pairs", "split", "reason"])
        .map_err(fail)?;
    for entry in entries {
        let document = by_hash.get(entry.sha256.as_str());
        csv.write_record([
            entry.name.as_str(),
            &entry.sha256,
            entry.state,
            &entry.pages.to_string(),
            &entry.chars.to_string(),
            &document.map_or(0, |document| document.pairs).to_string(),
            document.and_then(|document| document.split).unwrap_or(""),
            entry.reason.as_deref().unwrap_or(""),
        ])
        .map_err(fail)?;
    }
    csv.into_inner().map_err(|error| ExportError::Write { path: path.into(), error: error.into_error() })
}

/// `SHA256SUMS`: every file but itself and the manifest, which holds this file's hash and the clock; so it is the same
/// whenever the dataset is the same. Texts of documents that are no longer in the dataset are removed.
fn checksums(folder: &Path, exported: &mut Exported) -> Result<(), ExportError> {
    let mut sums: BTreeMap<String, String> =
        exported.files.iter().map(|(name, file)| (name.clone(), file.sha256.clone())).collect();
    let texts = folder.join("documents");
    let known: BTreeSet<String> = exported.entries.iter().map(|entry| format!("{}.md", entry.sha256)).collect();
    let fail = |error| ExportError::Write { path: texts.clone(), error };
    for entry in std::fs::read_dir(&texts).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if known.contains(&name) {
            sums.insert(format!("documents/{name}"), measure(&entry.path())?.sha256);
        } else if name != "index.jsonl" {
            std::fs::remove_file(entry.path()).map_err(fail)?;
        }
    }
    let mut text = String::new();
    for (name, sum) in sums {
        text.extend([sum.as_str(), "  ", name.as_str(), "\n"]);
    }
    put(folder, "SHA256SUMS", text.as_bytes(), 0, exported)
}
