//! Tests of the chunk stage as a whole.

use proptest::prelude::*;

use super::*;
use crate::model::error::{LlmError, StoreError};
use crate::model::ids::{BlobId, DocumentHash, ItemId, Lineage};
use crate::model::llm::{Completion, CompletionRequest, LlmClient};
use crate::model::params::{Fault, Key, Node, Value};
use crate::model::payload::SourceRef;
use crate::model::record::ItemKey;

fn params() -> ChunkParams {
    ChunkParams {
        size: 300,
        unit: ChunkUnit::Characters,
        overlap: 0,
        tokenizer: None,
        select: None,
        min_chars: 40,
        skip_contents: true,
    }
}

fn pages(pages: u32) -> Pages {
    let source = SourceRef {
        name: "manual.pdf".into(),
        sha256: DocumentHash([1; 32]),
        text: BlobId([2; 32]),
        title: Some("Manual".into()),
    };
    Pages { source, pages, chars: 0 }
}

fn extracted(markdown: &str) -> ExtractedText {
    ExtractedText { markdown: markdown.into(), page_starts: vec![0] }
}

fn cut(params: ChunkParams, text: &ExtractedText) -> (Vec<Chunk>, Vec<String>, BTreeMap<String, u64>) {
    let cutter = Cutter { params, sizer: Sizer::Characters };
    let Outcome::Emit { children, warnings, notes } = cutter.cut(&pages(20), text).unwrap() else {
        panic!("chunking never rejects");
    };
    let chunks = children
        .into_iter()
        .map(|child| match child {
            Payload::Chunk(chunk) => chunk,
            other => panic!("{other:?}"),
        })
        .collect();
    (chunks, warnings, notes)
}

fn of<'a>(text: &'a ExtractedText, chunk: &Chunk) -> &'a str {
    &text.markdown[chunk.bytes.start as usize..chunk.bytes.end as usize]
}

/// The pieces before any is skipped, with the layout that they were cut by.
fn pieces(text: &str, params: &ChunkParams) -> (Vec<Range<usize>>, u64, Layout) {
    let monstrous = MONSTROUS * params.size;
    let layout = Layout::read(text, params.size / 2, monstrous);
    let (size, overlap, join_below) = (params.size, params.overlap, params.min_chars);
    let sizer = &Sizer::Characters;
    let splitting = Splitting { text, layout: &layout, sizer, size, overlap, join_below, monstrous };
    let pieces = splitting.split().unwrap();
    (pieces.ranges, pieces.cut_words, layout)
}

const MANUAL: &str = "# Eligibility Manual\n\n## Income\n\n\
    A household of four may have a monthly income of up to $3,450. Income of children under 19 who attend school is \
    not counted. The agency asks for pay stubs of the last 30 days.\n\n\
    | Household size | Monthly limit |\n|---|---|\n| 1 | $1,255 |\n| 2 | $1,703 |\n| 3 | $2,152 |\n| 4 | $2,600 |\n\n\
    ## Resources\n\n### Vehicles\n\n\
    One vehicle is excluded whatever it is worth. A second vehicle counts with its equity value unless it is needed \
    for work or for medical trips of a member of the household.\n\n\
    ### Burial funds\n\nUp to $1,500 for each person is excluded.\n";

#[test]
fn chunks_follow_the_structure_of_a_manual() {
    let text = extracted(MANUAL);
    let (chunks, warnings, notes) = cut(params(), &text);
    let shown: Vec<String> =
        chunks.iter().map(|chunk| format!("[{}]\n{}", chunk.headings.join(" > "), of(&text, chunk))).collect();
    insta::assert_snapshot!(shown.join("\n\n"), @r##"
[Eligibility Manual > Income]
# Eligibility Manual

## Income

A household of four may have a monthly income of up to $3,450. Income of children under 19 who attend school is not counted. The agency asks for pay stubs of the last 30 days.

[Eligibility Manual > Income]
| Household size | Monthly limit |
|---|---|
| 1 | $1,255 |
| 2 | $1,703 |
| 3 | $2,152 |
| 4 | $2,600 |

[Eligibility Manual > Resources > Vehicles]
## Resources

### Vehicles

One vehicle is excluded whatever it is worth. A second vehicle counts with its equity value unless it is needed for work or for medical trips of a member of the household.

### Burial funds

Up to $1,500 for each person is excluded.
"##);
    assert!(warnings.is_empty() && notes.is_empty(), "{warnings:?} {notes:?}");
}

#[test]
fn a_heading_goes_with_what_follows_even_if_that_is_too_long_for_one_chunk() {
    let text = format!("{}\n\n## Appeals\n\n{}", "Short words here. ".repeat(15), "An appeal takes time. ".repeat(40));
    let text = extracted(&text);
    let (chunks, ..) = cut(params(), &text);
    assert!(of(&text, &chunks[1]).starts_with("## Appeals\n\nAn appeal takes time."));
    assert!(chunks.iter().all(|chunk| !of(&text, chunk).ends_with("Appeals")));
    assert_eq!(chunks[1].headings, ["Appeals"]);
    assert_eq!(chunks[0].headings, Vec::<String>::new());
    assert_eq!(chunks[2].headings, ["Appeals"]);
}

#[test]
fn pages_are_found_by_character_offsets() {
    let first = "é".repeat(250) + ". Done here with page one.";
    let markdown = format!("{first}\n\n{}", "Page two says something else. ".repeat(12));
    let page_two = first.chars().count() as u64 + 2;
    let text = ExtractedText { markdown, page_starts: vec![0, page_two] };
    let (chunks, ..) = cut(params(), &text);
    let ranges: Vec<(u32, u32)> = chunks.iter().map(|chunk| (chunk.first_page, chunk.last_page)).collect();
    assert_eq!(ranges, [(1, 1), (2, 2), (2, 2)]);
}

#[test]
fn what_is_skipped_is_counted_and_an_empty_result_is_said() {
    let leaders: Vec<String> = (1..30).map(|n| format!("Chapter {n} about something ........ {n}")).collect();
    let text = extracted(&format!("# Contents\n\n{}", leaders.join("\n\n")));
    let (chunks, warnings, notes) = cut(params(), &text);
    assert!(chunks.is_empty());
    assert_eq!(notes.len(), 1);
    assert!(notes["chunks_skipped_contents"] >= 3, "{notes:?}");
    assert!(warnings[0].starts_with("no chunks: all"), "{warnings:?}");

    let (chunks, ..) = cut(ChunkParams { skip_contents: false, ..params() }, &text);
    assert!(!chunks.is_empty(), "skip_contents: false keeps them");

    let (chunks, warnings, _) = cut(params(), &extracted(" \n\n"));
    assert!(chunks.is_empty());
    insta::assert_snapshot!(warnings[0], @"no chunks: the extracted text of manual.pdf is empty");

    let short = extracted("Fees apply to everyone.\n");
    let (chunks, _, notes) = cut(params(), &short);
    assert_eq!((chunks.len(), notes["chunks_skipped_short"]), (0, 1));
    assert_eq!(cut(ChunkParams { min_chars: 10, ..params() }, &short).0.len(), 1);
}

#[test]
fn select_spreads_over_the_whole_document() {
    let markdown: Vec<String> =
        (0..100).map(|n| format!("## Part {n}\n\n{}", "The rule holds here. ".repeat(12))).collect();
    let text = extracted(&markdown.join("\n\n"));
    let (all, ..) = cut(params(), &text);
    let (chosen, _, notes) = cut(ChunkParams { select: Some(10), ..params() }, &text);
    assert_eq!((all.len(), chosen.len(), notes["chunks_not_selected"]), (100, 10, 90));
    for (stratum, chunk) in chosen.iter().enumerate() {
        let place = all.iter().position(|other| other == chunk).unwrap();
        assert_eq!(place / 10, stratum);
    }
}

#[test]
fn overlap_repeats_whole_sentences() {
    let text = extracted(&"The agency decides within 45 days. An appeal stops the clock. ".repeat(30));
    let (chunks, ..) = cut(ChunkParams { overlap: 80, ..params() }, &text);
    assert!(chunks.len() > 5);
    for pair in chunks.windows(2) {
        let overlap = pair[0].chars.end - pair[1].chars.start;
        assert!(overlap > 20 && overlap <= 80, "{overlap}");
        let opening = &of(&text, &pair[1])[..10];
        assert!(opening == "The agency" || opening == "An appeal ", "{opening}");
    }
}

#[test]
fn monstrous_rows_and_words_are_cut_and_counted() {
    let row = format!("| {} |", vec!["cell of ordinary length"; 200].join(" | "));
    let text = extracted(&format!("{row}\n\nIntro. {}\n", "QUJD".repeat(1000)));
    let (chunks, _, notes) = cut(params(), &text);
    assert_eq!(notes["table_rows_cut"], 1);
    assert!(notes["words_cut"] >= 10, "{notes:?}");
    assert!(chunks.iter().all(|chunk| chunk.chars.len() <= 8 * 300));
    let in_row = chunks.iter().filter(|chunk| of(&text, chunk).starts_with("| cell"));
    assert!(in_row.count() >= 15, "cells stay whole");
}

#[test]
fn sixteen_megabytes_take_time_in_proportion() {
    let section = format!("{MANUAL}\n{}\n", "Services need approval before they begin. ".repeat(40));
    let time = |bytes: usize| {
        let text = extracted(&section.repeat(bytes / section.len()));
        let start = std::time::Instant::now();
        let (chunks, ..) = cut(ChunkParams { size: 1500, ..params() }, &text);
        assert!(chunks.len() > bytes / 3000);
        start.elapsed()
    };
    let (small, large) = (time(2 << 20), time(16 << 20));
    // Eight times the text; a quadratic method would take 64 times as long.
    assert!(large < small * 25, "{small:?} then {large:?}");
}

/// A store of one text.
struct OneText(ExtractedText);

impl TextStore for OneText {
    fn put(&self, _: &ExtractedText) -> Result<BlobId, StoreError> {
        Err(StoreError::Lease("read only".into()))
    }

    fn get(&self, id: &BlobId) -> Result<Arc<ExtractedText>, StoreError> {
        if *id == BlobId([2; 32]) {
            return Ok(Arc::new(self.0.clone()));
        }
        Err(StoreError::Lease("no such text".into()))
    }
}

struct NoModel;

impl LlmClient for NoModel {
    fn complete<'a>(&'a self, _: &'a CompletionRequest) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(async { Err(LlmError::Interrupted) })
    }
}

fn context(text: &str) -> StageContext {
    StageContext {
        dialect: "".into(),
        texts: Arc::new(OneText(extracted(text))),
        llm: Arc::new(NoModel),
        model: "none".into(),
        worker_program: PathBuf::new(),
    }
}

fn item(pages: Pages) -> Item {
    let document = DocumentHash([1; 32]);
    let key = ItemKey { lineage: Lineage::document(&document), id: ItemId::document(&document) };
    Item { key, payload: Payload::Pages(pages), priority: 1 }
}

#[tokio::test]
async fn the_stage_reads_the_text_store() {
    let stage = ChunkStage::new(params(), &context(MANUAL)).unwrap();
    let Outcome::Emit { children, .. } = stage.process(&item(pages(1))).await.unwrap() else { panic!() };
    assert!(children.len() > 2 && children.iter().all(|child| child.kind() == stage.emits()));

    let mut lost = pages(1);
    lost.source.text = BlobId([9; 32]);
    let error = stage.process(&item(lost)).await.unwrap_err();
    assert_eq!((error.class, error.label.as_str()), (ErrorClass::Fatal, "store"));
}

#[test]
fn tokens_are_counted_by_the_tokenizer_and_its_hash_determines_results() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let words = r#"{"version":"1.0","truncation":{"direction":"Right","max_length":8,"strategy":"LongestFirst","stride":0},"padding":null,
        "added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[UNK]":0},"unk_token":"[UNK]"}}"#;
    std::fs::write(&path, words).unwrap();
    let by_tokens = ChunkParams { unit: ChunkUnit::Tokens, size: 100, tokenizer: Some(path.clone()), ..params() };
    let stage = ChunkStage::new(by_tokens.clone(), &context("")).unwrap();
    let text = extracted(&"one two three four five six seven eight nine. ".repeat(60));
    let Outcome::Emit { children, .. } = stage.cutter.cut(&pages(1), &text).unwrap() else { panic!() };
    // Ten tokens a sentence, its full stop included.
    assert_eq!(children.len(), 6);

    std::fs::write(&path, words.replace("[UNK]", "[UNKNOWN]")).unwrap();
    let other = ChunkStage::new(by_tokens.clone(), &context("")).unwrap();
    assert_ne!(stage.determinants(), other.determinants());

    std::fs::write(&path, "{}").unwrap();
    let error = ChunkStage::new(by_tokens.clone(), &context("")).err().unwrap();
    assert!(error.contains("is not a tokenizer.json"), "{error}");
    let missing = ChunkParams { tokenizer: Some(folder.path().join("none.json")), ..by_tokens };
    let error = ChunkStage::new(missing, &context("")).err().unwrap();
    assert!(error.starts_with("cannot read the tokenizer"), "{error}");
}

#[test]
fn every_parameter_that_matters_determines_results() {
    let of = |params| ChunkStage::new(params, &context("")).unwrap().determinants();
    let base = of(params());
    for other in [
        ChunkParams { size: 301, ..params() },
        ChunkParams { overlap: 1, ..params() },
        ChunkParams { select: Some(3), ..params() },
        ChunkParams { min_chars: 41, ..params() },
        ChunkParams { skip_contents: false, ..params() },
    ] {
        assert_ne!(base, of(other));
    }
}

fn read(entries: &[(&str, Value)]) -> (ChunkParams, Vec<String>) {
    let entries = entries.iter().enumerate().map(|(i, (name, value))| {
        let line = i as u32 + 2;
        (Key { name: (*name).into(), line }, Node { file: "p.yaml".into(), line, value: value.clone() })
    });
    let node = Node { file: "p.yaml".into(), line: 1, value: Value::Map(entries.collect()) };
    let (mut faults, mut documented): (Vec<Fault>, _) = (Vec::new(), Vec::new());
    let mut reader = Reader::new(&node, "stages.chunk", &mut faults, &mut documented);
    let params = ChunkParams::read(&mut reader);
    reader.finish();
    assert_eq!(documented.len(), 7);
    (params, faults.iter().map(ToString::to_string).collect())
}

#[test]
fn parameters_are_read_and_their_faults_named() {
    let (read_params, faults) = read(&[("size", Value::Int(900)), ("select", Value::Int(12))]);
    assert_eq!((read_params.size, read_params.select, faults.len()), (900, Some(12), 0));
    let (_, faults) = read(&[
        ("unit", Value::Text("tokens".into())),
        ("size", Value::Int(200)),
        ("overlap", Value::Int(100)),
        ("min_chars", Value::Int(300)),
    ]);
    insta::assert_snapshot!(faults.join("\n"), @r"
p.yaml:4: stages.chunk.overlap is 100, but must be less than half of stages.chunk.size (200): else chunks would mostly repeat each other
p.yaml:5: stages.chunk.min_chars is 300, which most chunks of size 200 could not reach: at most 200 makes sense
p.yaml:2: `unit: tokens` needs stages.chunk.tokenizer: the path of the model's tokenizer.json
");
}

/// Markdown as extraction gives it, and worse.
fn markdown() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        8 => "[a-zA-Z]{1,12}",
        1 => "[0-9$%,.(){}*_`|#~-]{1,6}",
        1 => "[éßλжñ漢字→“”]{1,5}",
    ];
    let words = |n: std::ops::Range<usize>| prop::collection::vec(word.clone(), n).prop_map(|words| words.join(" "));
    let row = prop::collection::vec("[a-z0-9$ ]{0,30}", 2..5).prop_map(|cells| format!("| {} |", cells.join(" | ")));
    let table = (row.clone(), prop::collection::vec(row, 1..8))
        .prop_map(|(head, rows)| format!("{head}\n|---|---|\n{}", rows.join("\n")));
    let block = prop_oneof![
        3 => (1_usize..5, words(1..6)).prop_map(|(level, text)| format!("{} {text}", "#".repeat(level))),
        6 => words(1..120),
        2 => table,
        2 => prop::collection::vec(words(1..20), 1..6).prop_map(|items| format!("- {}", items.join("\n- "))),
        1 => words(1..30).prop_map(|code| format!("```\n{code}\n```")),
        1 => "[a-z]{300,900}",
        1 => Just("---".to_owned()),
        1 => Just("\u{a0}\t ".to_owned()),
    ];
    prop::collection::vec((block, prop_oneof!["\n\n", "\n", "\n\n\n  "]), 0..20)
        .prop_map(|blocks| blocks.into_iter().map(|(block, end)| block + &end).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pieces_cover_the_text_and_respect_rows_and_words(text in markdown(), size in 100_usize..400) {
        let params = ChunkParams { size, ..params() };
        let (ranges, cut_words, layout) = pieces(&text, &params);
        let mut at = 0;
        for range in &ranges {
            prop_assert!(range.start >= at && range.end > range.start, "{ranges:?}");
            prop_assert!(text[at..range.start].trim().is_empty(), "lost: {:?}", &text[at..range.start]);
            let piece = &text[range.clone()];
            prop_assert_eq!(piece.trim(), piece);
            for boundary in [range.start, range.end] {
                prop_assert!(layout.row_across(boundary).is_none(), "row cut at {boundary}: {text:?}");
            }
            at = range.end;
        }
        prop_assert!(text[at..].trim().is_empty());
        if cut_words == 0 {
            for pair in ranges.windows(2) {
                let scripts = text[..pair[0].end].ends_with(['漢', '字', '→']) || text[pair[1].start..].starts_with(['漢', '字']);
                prop_assert!(scripts || pair[1].start > pair[0].end, "word cut at {}: {text:?}", pair[0].end);
            }
        }
        prop_assert_eq!(&pieces(&text, &params).0, &ranges);
    }

    #[test]
    fn pieces_keep_to_the_size_unless_a_row_or_word_is_longer(text in markdown(), size in 100_usize..400) {
        let params = ChunkParams { size, min_chars: 0, ..params() };
        let (ranges, _, layout) = pieces(&text, &params);
        for range in ranges {
            let piece = &text[range.clone()];
            let longest_word = piece.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
            let longest_row = (range.start..range.end)
                .filter_map(|at| layout.row_at(at)).map(ExactSizeIterator::len).max().unwrap_or(0);
            // A heading before it may be three quarters of a chunk at most.
            let allowed = size.max(size / 4 * 3 + longest_word.max(longest_row) + 2);
            prop_assert!(piece.chars().count() <= allowed, "{} > {allowed}: {piece:?}", piece.chars().count());
        }
    }

    #[test]
    fn spans_of_chunks_agree_in_bytes_and_characters(text in markdown(), overlap in 0_usize..120) {
        let extracted = extracted(&text);
        let (chunks, ..) = cut(ChunkParams { overlap, min_chars: 1, ..params() }, &extracted);
        let characters: Vec<char> = text.chars().collect();
        let (mut start, mut end) = (None, 0);
        for chunk in &chunks {
            let by_bytes = of(&extracted, chunk);
            let by_chars: String =
                characters[chunk.chars.start as usize..chunk.chars.end as usize].iter().collect();
            prop_assert_eq!(by_bytes, by_chars);
            prop_assert!(Some(chunk.chars.start) > start && chunk.chars.end > end);
            prop_assert!(overlap > 0 || chunk.chars.start >= end, "disjoint without overlap");
            prop_assert!(end.saturating_sub(chunk.chars.start) <= overlap as u64);
            (start, end) = (Some(chunk.chars.start), chunk.chars.end);
        }
    }
}
