//! The extraction's worker processes: hostile files, limits, and who ends whom.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Place, Server, qaflow, run, verify};

/// A one-page PDF whose page shows `text`, with a content stream as given if any.
fn pdf(text: &str) -> Vec<u8> {
    let content = format!("BT /F1 12 Tf 72 700 Td ({text}) Tj ET");
    let objects = [
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        "<</Type/Pages/Kids[3 0 R]/Count 1>>".to_owned(),
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>".to_owned(),
        format!("<</Length {}>>stream\n{content}\nendstream", content.len()),
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>".to_owned(),
    ];
    let mut bytes = b"%PDF-1.4\n".to_vec();
    let mut places = Vec::new();
    for (n, object) in objects.iter().enumerate() {
        places.push(bytes.len());
        bytes.extend_from_slice(format!("{} 0 obj\n{object}\nendobj\n", n + 1).as_bytes());
    }
    let table = bytes.len();
    bytes.extend_from_slice(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).as_bytes());
    for place in places {
        bytes.extend_from_slice(format!("{place:010} 00000 n \n").as_bytes());
    }
    bytes.extend_from_slice(
        format!("trailer<</Size {}/Root 1 0 R>>\nstartxref\n{table}\n%%EOF\n", objects.len() + 1).as_bytes(),
    );
    bytes
}

/// `%PDF` with three million opening brackets: recursion without end.
fn nested() -> Vec<u8> {
    let mut bytes = b"%PDF-1.4\n1 0 obj\n".to_vec();
    bytes.extend(std::iter::repeat_n(b'[', 3_000_000));
    bytes.extend_from_slice(b"\nendobj\ntrailer<</Root 1 0 R>>\n%%EOF\n");
    bytes
}

fn reasons(place: &Place) -> Vec<(String, String)> {
    place.results("out")["dead_letters.jsonl"]
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|row| (row["source_document"].as_str().unwrap().to_owned(), row["reason"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn hostile_files_become_dead_letters_with_reasons() {
    let place = Place::new();
    let corpus = place.path("corpus");
    std::fs::create_dir_all(&corpus).unwrap();
    let sentence = "A provider must keep every record of a covered service for ten years after the date of service.";
    std::fs::write(corpus.join("good.pdf"), pdf(sentence)).unwrap();
    std::fs::write(corpus.join("empty.pdf"), "").unwrap();
    std::fs::write(corpus.join("photo.pdf"), b"\xff\xd8\xff\xe0\x00\x10JFIF\x00").unwrap();
    std::fs::write(corpus.join("nested.pdf"), nested()).unwrap();
    let mut cut = pdf(sentence);
    cut.truncate(60);
    std::fs::write(corpus.join("cut.pdf"), cut).unwrap();
    std::fs::write(corpus.join("latin1.txt"), b"caf\xe9 and more").unwrap();
    std::fs::write(corpus.join("blank.txt"), " \n\n").unwrap();
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 4);
    run(&place, &config, &["--set", "max_failure_ratio=1"], 0);
    let reasons = reasons(&place);
    let of = |name: &str| reasons.iter().find(|(n, _)| n == name).map_or("", |(_, reason)| reason.as_str());
    assert_eq!(of("good.pdf"), "");
    assert_eq!(of("empty.pdf"), "empty file (0 bytes)");
    assert_eq!(of("photo.pdf"), "not a PDF: the file begins with JPEG data");
    assert!(of("nested.pdf").contains("nested too deeply") || of("nested.pdf").contains("damaged PDF"), "{reasons:?}");
    assert!(of("cut.pdf").starts_with("damaged PDF"), "{reasons:?}");
    assert!(of("latin1.txt").starts_with("not UTF-8 text at byte 3"), "{reasons:?}");
    assert!(!of("blank.txt").is_empty(), "{reasons:?}");
    verify(&place, "state");
}

fn workers() -> Vec<u32> {
    let me = std::fs::canonicalize(crate::support::QAFLOW).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let is_ours = std::fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == me);
        if is_ours && line.split(|b| *b == 0).any(|arg| arg == b"extract-worker") {
            found.push(pid);
        }
    }
    found
}

/// A PDF that takes the extractor seconds: thousands of text operators on one page.
fn slow(path: &Path) {
    use std::fmt::Write as _;
    let mut text = String::from("a) Tj ");
    for i in 0..120_000 {
        let _ = write!(text, "{} {} Td (word{i}) Tj ", i % 7, -(i % 5));
    }
    text.push_str("(z");
    std::fs::write(path, pdf(&text)).unwrap();
}

#[test]
fn a_killed_run_leaves_no_worker_behind() {
    let place = Place::new();
    let corpus = place.path("corpus");
    std::fs::create_dir_all(&corpus).unwrap();
    for n in 0..4 {
        slow(&corpus.join(format!("slow{n}.pdf")));
    }
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 4).display().to_string();
    let mut child = qaflow(&place.path(""), &["run", &config]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let mine = loop {
        let mine: Vec<u32> = workers().into_iter().filter(|pid| parent(*pid) == Some(child.id())).collect();
        if !mine.is_empty() {
            break mine;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "no worker was ever seen");
        if child.try_wait().unwrap().is_some() {
            // The machine was faster than the look; there is nothing to leave behind then.
            return;
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let began = Instant::now();
    while workers().iter().any(|pid| mine.contains(pid)) {
        assert!(began.elapsed() < Duration::from_secs(10), "a worker outlives the run that was killed");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn the_wall_limit_ends_a_file_that_takes_too_long() {
    let place = Place::new();
    let corpus = place.path("corpus");
    std::fs::create_dir_all(&corpus).unwrap();
    slow(&corpus.join("slow.pdf"));
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 4);
    // A limit that cannot be met.
    let limits = [
        "--set",
        "stages.extract.cpu_seconds=1",
        "--set",
        "stages.extract.cpu_seconds_a_page=0",
        "--set",
        "max_failure_ratio=1",
    ];
    run(&place, &config, &limits, 0);
    let reasons = reasons(&place);
    assert!(reasons.len() <= 1, "{reasons:?}");
    if let Some((_, reason)) = reasons.first() {
        assert!(reason.contains("gave up after") || reason.contains("CPU"), "{reason}");
    }
    assert!(Command::new("true").status().unwrap().success());
}
