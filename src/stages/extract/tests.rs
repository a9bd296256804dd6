//! The stage on small files, and the PDF reader on PDFs written here.

use std::fmt::Write as _;
use std::sync::Mutex;

use super::pdf::{PdfFault, PdfOptions, PdfText, read_pdf};
use super::*;
use crate::model::record::ItemKey;
use crate::model::{BlobId, ErrorClass, ItemId, Lineage, StoreError};

/// A PDF of one-column pages: each line is a size, a height and a text.
fn pdf(pages: &[Vec<(u32, u32, &str)>]) -> Vec<u8> {
    let kids: Vec<String> = (0..pages.len()).map(|i| format!("{} 0 R", 4 + 2 * i)).collect();
    let mut objects = vec![
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        format!("<</Type/Pages/Kids[{}]/Count {}>>", kids.join(" "), pages.len()),
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>".to_owned(),
    ];
    for (i, lines) in pages.iter().enumerate() {
        let mut content = String::new();
        for (size, y, text) in lines {
            let _ = writeln!(content, "BT /F1 {size} Tf 72 {y} Td ({text}) Tj ET");
        }
        objects.push(format!(
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>/Contents {} 0 R>>",
            5 + 2 * i
        ));
        objects.push(format!("<</Length {}>>\nstream\n{content}\nendstream", content.len() + 1));
    }
    assemble_objects(&objects, "")
}

fn assemble_objects(objects: &[String], trailer: &str) -> Vec<u8> {
    let mut out = String::from("%PDF-1.4\n");
    let mut offsets = Vec::new();
    for (i, object) in objects.iter().enumerate() {
        offsets.push(out.len());
        let _ = write!(out, "{} 0 obj\n{object}\nendobj\n", i + 1);
    }
    let start = out.len();
    let _ = write!(out, "xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for offset in offsets {
        let _ = writeln!(out, "{offset:010} 00000 n ");
    }
    let _ = write!(out, "trailer\n<</Size {}/Root 1 0 R{trailer}>>\nstartxref\n{start}\n%%EOF\n", objects.len() + 1);
    out.into_bytes()
}

fn read(bytes: &[u8]) -> Result<PdfText, PdfFault> {
    let options = PdfOptions { max_text: 1 << 20, max_pages: 100, strip_running: true };
    read_pdf(bytes, &options, &mut |_| {})
}

fn report(strip_running: bool) -> Vec<String> {
    let numbers: Vec<String> = (1..=4).map(|n| format!("Page {n} of 4")).collect();
    let bodies: Vec<String> = ["first", "second", "third", "fourth"]
        .iter()
        .map(|n| format!("The {n} page says its own words here."))
        .collect();
    let pages: Vec<Vec<(u32, u32, &str)>> = (0..4)
        .map(|i| {
            vec![
                (9, 760, "Benefit Handbook 2025"),
                (10, 700, bodies[i].as_str()),
                (10, 688, "They go on to a second line."),
                (9, 30, numbers[i].as_str()),
            ]
        })
        .collect();
    let options = PdfOptions { max_text: 1 << 20, max_pages: 100, strip_running };
    let text = read_pdf(&pdf(&pages), &options, &mut |_| {}).unwrap();
    text.pages.into_iter().map(|page| page.markdown).collect()
}

#[test]
fn running_lines_are_taken_out_or_left() {
    let stripped = report(true);
    assert_eq!(stripped[1], "The second page says its own words here. They go on to a second line.");
    let left = report(false);
    assert!(left[1].contains("Benefit Handbook 2025"), "{}", left[1]);
}

#[test]
fn the_number_of_pages_is_told_first() {
    let bytes = pdf(&[vec![(10, 700, "One.")], vec![]]);
    let mut opened = Vec::new();
    let options = PdfOptions { max_text: 1 << 20, max_pages: 2, strip_running: true };
    let text = read_pdf(&bytes, &options, &mut |pages| opened.push(pages)).unwrap();
    assert_eq!((opened, text.pages.len()), (vec![2], 2));
    let options = PdfOptions { max_pages: 1, ..options };
    assert_eq!(read_pdf(&bytes, &options, &mut |_| {}), Err(PdfFault::TooManyPages(2)));
    let options = PdfOptions { max_text: 3, max_pages: 2, ..options };
    assert_eq!(read_pdf(&bytes, &options, &mut |_| {}), Err(PdfFault::TooLarge));
}

#[test]
fn what_is_no_readable_pdf_is_told_apart() {
    assert_eq!(read(b"\xff\xd8\xff\xe0JFIF"), Err(PdfFault::NotPdf("the file begins with JPEG data".into())));
    let none = assemble_objects(&["<</Type/Catalog/Pages 2 0 R>>".into(), "<</Type/Pages/Kids[]/Count 0>>".into()], "");
    assert_eq!(read(&none), Err(PdfFault::NoPages));
    assert!(matches!(read(b"%PDF-1.4\nnothing more"), Err(PdfFault::Damaged(_))));
    let locked = format!(
        "/Encrypt<</Filter/Standard/V 2/R 3/Length 128/P -44/O<{}>/U<{}>>>/ID[<00><00>]",
        "11".repeat(32),
        "22".repeat(32)
    );
    let objects = ["<</Type/Catalog/Pages 2 0 R>>".to_owned(), "<</Type/Pages/Kids[]/Count 0>>".to_owned()];
    assert_eq!(read(&assemble_objects(&objects, &locked)), Err(PdfFault::Encrypted));
}

#[test]
fn a_truncated_pdf_gives_what_is_left() {
    let whole = pdf(&[vec![(10, 700, "Words that survive the cut.")]]);
    let cut = &whole[..whole.len() - 60];
    let text = read(cut).unwrap();
    assert!(text.rebuilt);
    assert_eq!(text.pages[0].markdown, "Words that survive the cut.");
    for length in (0..whole.len()).step_by(7) {
        let _ = read(&whole[..length]);
    }
}

#[derive(Default)]
struct Texts(Mutex<Vec<ExtractedText>>);

impl TextStore for Texts {
    fn put(&self, text: &ExtractedText) -> Result<BlobId, StoreError> {
        self.0.lock().unwrap().push(text.clone());
        Ok(BlobId([1; 32]))
    }

    fn get(&self, _: &BlobId) -> Result<Arc<ExtractedText>, StoreError> {
        unreachable!("the stage only writes")
    }
}

fn params() -> ExtractParams {
    ExtractParams {
        strip_running: true,
        min_page_chars: 10,
        max_text_mb: 1,
        max_pages: 100,
        memory_limit_mb: 2048,
        cpu_seconds: 10.0,
        cpu_seconds_a_page: 0.1,
        wall_seconds: 10.0,
        wall_seconds_a_page: 0.1,
    }
}

/// Runs the stage on a file; the text it stored, too.
async fn run(name: &str, content: &[u8], tamper: bool) -> (Result<Outcome, StageError>, Option<ExtractedText>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    let (sha256, bytes) = (DocumentHash::of(content), content.len() as u64);
    if tamper {
        std::fs::write(&path, "other").unwrap();
    }
    let format = match name.rsplit_once('.').unwrap().1 {
        "pdf" => DocumentFormat::Pdf,
        "md" => DocumentFormat::Markdown,
        _ => DocumentFormat::Text,
    };
    let document = Document { name: name.into(), sha256, path: path.to_string_lossy().into_owned(), bytes, format };
    let texts = Arc::new(Texts::default());
    let stage = ExtractStage {
        params: params(),
        texts: Arc::clone(&texts) as Arc<dyn TextStore>,
        worker_program: "/nowhere/qaflow".into(),
    };
    let key = ItemKey { lineage: Lineage::document(&sha256), id: ItemId::document(&sha256) };
    let result = stage.process(&Item { key, payload: Payload::Document(document), priority: 1 }).await;
    let stored = texts.0.lock().unwrap().pop();
    (result, stored)
}

#[tokio::test]
async fn a_markdown_file_is_one_page() {
    let (result, stored) = run("guide.md", b"\xef\xbb\xbf# The guide\r\n\r\nWords.\n", false).await;
    let Outcome::Emit { children, warnings, notes } = result.unwrap() else { panic!("text expected") };
    let [Payload::Pages(pages)] = children.as_slice() else { panic!("one child expected") };
    assert_eq!((pages.pages, pages.chars), (1, 19));
    assert_eq!(pages.source.title.as_deref(), Some("The guide"));
    assert_eq!((warnings.len(), notes["pages"]), (0, 1));
    let expected = ExtractedText { markdown: "# The guide\n\nWords.".into(), page_starts: vec![0] };
    assert_eq!(stored, Some(expected));
}

#[tokio::test]
async fn bad_text_files_have_reasons() {
    let large = vec![b'a'; 3 << 20];
    for (content, label) in [
        (&b""[..], "empty"),
        (b" \n\t ", "no_text"),
        (b"caf\xe9", "not_text"),
        (&large, "too_large"),
        (&large[..=1 << 20], "too_large"),
    ] {
        let (result, stored) = run("x.txt", content, false).await;
        let error = result.unwrap_err();
        assert_eq!((error.class, error.label.as_str()), (ErrorClass::Poison, label), "{error}");
        assert_eq!(stored, None);
    }
    let (result, _) = run("x.txt", b"text", true).await;
    assert_eq!(result.unwrap_err().label, "changed");
}

#[tokio::test]
async fn a_pdf_without_a_worker_stops_the_run() {
    let (result, _) = run("x.pdf", b"%PDF-1.4", false).await;
    assert_eq!(result.unwrap_err().class, ErrorClass::Fatal);
    let (result, _) = run("x.pdf", b"", false).await;
    assert_eq!(result.unwrap_err().reason, "empty file (0 bytes)");
}

#[test]
fn a_read_pdf_becomes_text_with_page_starts() {
    let page = |markdown: &str| pdf::PdfPage { markdown: markdown.into(), ..pdf::PdfPage::default() };
    let read = PdfText {
        pages: vec![page("# Manual\n\nThe admis- sion of members."), page(""), page("Admission is free of charge.")],
        title: Some("Microsoft Word - manual.doc".into()),
        ..PdfText::default()
    };
    let extracted = from_pdf(&read, 10, 1000).unwrap();
    assert_eq!(extracted.text.markdown, "# Manual\n\nThe admission of members.\n\nAdmission is free of charge.");
    assert_eq!(extracted.text.page_starts, [0, 37, 37]);
    assert_eq!(extracted.title.as_deref(), Some("Manual"));
    assert_eq!(from_pdf(&read, 10, 20).map(|_| ()).unwrap_err().label, "too_large");
}

#[test]
fn the_version_of_the_reader_is_the_one_that_is_built() {
    let manifest = include_str!("../../../Cargo.toml");
    assert!(manifest.contains(&format!("unpdf = {{ version = \"={}\"", pdf::UNPDF_VERSION)));
}
