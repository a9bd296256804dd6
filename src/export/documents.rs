//! `documents/`: the extracted Markdown of every document, which the spans of the dataset count in, and an index with
//! the pages.

use std::path::Path;

use serde::Serialize;

use super::file::{RowFile, sync_all, write_one_of_many};
use super::{Export, ExportError, Exported};
use crate::model::payload::Document;
use crate::model::record::Ending;
use crate::model::{Payload, PayloadKind};

/// One document, for the index and the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DocumentEntry {
    /// Its name.
    pub name: String,
    /// Its content hash.
    pub sha256: String,
    /// `done`, `dead` or `pending`.
    pub state: &'static str,
    /// Pages; 0 if it was not extracted.
    pub pages: u32,
    /// Characters of its extracted text.
    pub chars: u64,
    /// Character offsets at which its pages begin.
    pub page_starts: Vec<u64>,
    /// What a person should know of its extraction.
    pub warnings: Vec<String>,
    /// Why it was given up, if it was.
    pub reason: Option<String>,
}

/// Writes the texts and the index.
pub(super) fn write(
    export: &Export<'_>,
    out: &Path,
    documents: &[Document],
    exported: &mut Exported,
) -> Result<(), ExportError> {
    let folder = out.join("documents");
    std::fs::create_dir_all(&folder).map_err(|error| ExportError::Write { path: folder.clone(), error })?;
    let mut index = RowFile::create(&folder.join("index.jsonl"))?;
    for document in documents {
        let entry = entry(export, &folder, document)?;
        if entry.state == "dead" {
            exported.documents_failed += 1;
        }
        index.row(&entry)?;
        exported.entries.push(DocumentEntry { page_starts: Vec::new(), ..entry });
    }
    sync_all(&folder)?;
    (export.held)()?;
    let written = index.finish()?;
    exported.files.insert("documents/index.jsonl".into(), written);
    Ok(())
}

fn entry(export: &Export<'_>, folder: &Path, document: &Document) -> Result<DocumentEntry, ExportError> {
    let mut entry = DocumentEntry {
        name: document.name.clone(),
        sha256: document.sha256.hex(),
        state: "pending",
        pages: 0,
        chars: 0,
        page_starts: Vec::new(),
        warnings: Vec::new(),
        reason: None,
    };
    for (at, node) in export.plan.nodes.iter().enumerate() {
        if !node.from_source {
            continue;
        }
        export.each_ending(&export.plan.key(at), document, |_, ending| {
            match ending {
                Ending::Done(done) => {
                    entry.state = "done";
                    entry.warnings.extend(done.warnings);
                }
                Ending::Dead(letter) => {
                    entry.state = "dead";
                    entry.reason = Some(letter.reason);
                }
                Ending::Rejected(rejection) => {
                    entry.state = "dead";
                    entry.reason = Some(format!("{}: {}", rejection.check, rejection.value));
                }
            }
            Ok::<(), ExportError>(())
        })?;
        if node.emits != PayloadKind::Pages {
            continue;
        }
        export.each_output(&export.plan.key(at), document, |_, payload| {
            if let Payload::Pages(pages) = payload {
                let text = export.texts.get(&pages.source.text)?;
                entry.pages = pages.pages;
                entry.chars = pages.chars;
                entry.page_starts.clone_from(&text.page_starts);
                let path = folder.join(format!("{}.md", document.sha256.hex()));
                // Most often it is there from an earlier export.
                let same = std::fs::read(&path).is_ok_and(|there| there == text.markdown.as_bytes());
                if !same {
                    write_one_of_many(&path, text.markdown.as_bytes())?;
                }
            }
            Ok::<(), ExportError>(())
        })?;
    }
    Ok(entry)
}
