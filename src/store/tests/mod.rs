//! Tests of the store as a whole.

mod blocks;
mod damage;
mod kill;
mod lockstep;
mod measure;
mod salvage;

use std::path::Path;

use super::{OpenOptions, SledStore};
use crate::model::StageKey;
use crate::model::ids::{DocumentHash, ItemId, Lineage, RequestKey};
use crate::model::llm::{Completion, FinishReason};
use crate::model::payload::{Document, DocumentFormat, Payload, Usage};
use crate::model::record::{Change, DeadLetter, Done, Ending, ItemKey, JournalEntry, NewItem, Rejection};

const SOURCE: StageKey = StageKey([1; 16]);
const FIRST: StageKey = StageKey([2; 16]);
const SECOND: StageKey = StageKey([3; 16]);

fn open(dir: &Path) -> SledStore {
    let (store, notices) = SledStore::open(dir, OpenOptions::default()).unwrap();
    assert_eq!(notices, Vec::<String>::new());
    store
}

/// The item at `ordinals` below document `doc`; `branch` tells items of one lineage apart.
fn key(doc: u8, ordinals: &[u32], branch: u8) -> ItemKey {
    let root = Lineage::document(&DocumentHash([doc; 32]));
    ItemKey { lineage: ordinals.iter().fold(root, |at, n| at.child(*n)), id: ItemId([branch; 32]) }
}

fn item(key: &ItemKey, name: &str) -> NewItem {
    let payload = Payload::Document(Document {
        name: name.to_owned(),
        sha256: key.lineage.root(),
        path: format!("/in/{name}"),
        bytes: 7,
        format: DocumentFormat::Pdf,
    });
    NewItem { key: key.clone(), parent: key.lineage.parent().map(|_| ItemId([9; 32])), payload }
}

fn admit(key: &ItemKey, consumers: &[StageKey]) -> Change {
    Change::Admit { producer: SOURCE, consumers: consumers.to_vec(), item: item(key, "a.pdf") }
}

fn done(children: u32) -> Ending {
    Ending::Done(Done { children, warnings: vec!["page 2 has no text".into()], ..Done::default() })
}

fn rejected() -> Ending {
    Ending::Rejected(Rejection {
        check: "quote_exists".into(),
        value: "0.4".into(),
        rule: ">= 0.9".into(),
        evidence: None,
    })
}

fn dead(raw: &str) -> Ending {
    let raw = vec![raw.to_owned()];
    Ending::Dead(DeadLetter { label: "bad_json".into(), reason: "no JSON".into(), attempts: 3, raw })
}

fn finish(stage: StageKey, key: &ItemKey, ending: Ending, children: &[NewItem], consumers: &[StageKey]) -> Change {
    Change::Finish { stage, key: key.clone(), ending, children: children.to_vec(), consumers: consumers.to_vec() }
}

fn reopen(stage: StageKey, key: &ItemKey) -> Change {
    Change::Reopen { stage, key: key.clone(), producer: SOURCE }
}

fn answer(request: u8, content: &str, tokens: u64) -> Change {
    let usage = Usage { prompt_tokens: 10, completion_tokens: tokens, cached_tokens: 1 };
    let completion =
        Completion { content: content.into(), finish_reason: FinishReason::Stop, usage, model: "llama".into() };
    Change::Journal { key: RequestKey([request; 32]), entry: JournalEntry { completion } }
}
