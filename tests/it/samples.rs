//! The shipped samples through the real flow: what a reader sees on the page is in the text, and every pair can be
//! checked against it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::support::{Place, Server, run, verify};

struct Ran {
    place: Place,
}

/// One run over the samples, shared by the tests here.
fn ran() -> &'static Ran {
    static RAN: OnceLock<Ran> = OnceLock::new();
    RAN.get_or_init(|| {
        // Shared by tests to the end of the process, so in a folder that the next one finds and empties.
        let place = Place::at(&PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("samples"));
        let server = Server::start(&["--latency-ms", "0"]);
        let config = place.config(&server, 16);
        let samples = root().join("samples");
        run(&place, &config, &[samples.to_str().unwrap()], 0);
        Ran { place }
    })
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rows(file: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(ran().place.path("out").join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Each sample's Markdown by the sample's name.
fn documents() -> BTreeMap<String, String> {
    rows("documents/index.jsonl")
        .into_iter()
        .filter(|row| row["state"] == "done")
        .map(|row| {
            let path = ran().place.path("out/documents").join(format!("{}.md", row["sha256"].as_str().unwrap()));
            (row["name"].as_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Whether a line of the page is one of the samples' running headers or footers.
fn is_running(line: &str) -> bool {
    let line = line.trim();
    let page_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    page_number(line)
        || line.split_once('/').is_some_and(|(a, b)| page_number(a) && page_number(b))
        || (line.starts_with("Page ") && line.contains(" of ") && line.len() < 16)
        || line.strip_prefix("HW-").is_some_and(page_number)
        || line.strip_prefix("Appeals and Fair Hearings Handbook · ").is_some_and(page_number)
        || line.strip_prefix("Bulletin 2025-07, page ").is_some_and(page_number)
}

/// The words of a text, comparable over hyphenation, quotes and markup.
fn words(text: &str) -> BTreeMap<String, usize> {
    let joined = text.replace("\u{ad}\n", "").replace("-\n", "-").replace(['\u{ad}', '\u{2060}'], "");
    let mut words = BTreeMap::new();
    for word in joined.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *words.entry(word.to_lowercase()).or_default() += 1;
    }
    words
}

#[test]
fn what_stands_on_the_page_is_in_the_text() {
    let documents = documents();
    let mut checked = 0;
    for entry in std::fs::read_dir(root().join("tests/data/samples")).unwrap().flatten() {
        let name = entry.path().file_stem().unwrap().to_string_lossy().into_owned();
        let seen = std::fs::read_to_string(entry.path()).unwrap();
        let seen = seen.lines().filter(|line| !is_running(line)).collect::<Vec<_>>().join("\n");
        let (mut expected, found) = (words(&seen), words(&documents[&format!("{name}.pdf")]));
        // Running headers have words; their lines are counted out below by what repeats over pages.
        for header in &RUNNING_HEADERS {
            let times = seen.lines().filter(|line| line.trim() == *header).count().saturating_sub(1);
            for (word, n) in words(header) {
                let left = expected.get(&word).copied().unwrap_or(0).saturating_sub(n * times);
                expected.insert(word, left);
            }
        }
        let total: usize = expected.values().sum();
        let kept: usize = expected.iter().map(|(word, n)| (*n).min(found.get(word).copied().unwrap_or(0))).sum();
        let recall = kept as f64 / total as f64;
        println!("{name}: recall {recall:.4} of {total} words");
        assert!(recall >= 0.98, "{name}: only {recall:.4} of the words on the page are in the text");
        checked += 1;
    }
    assert_eq!(checked, 7);
}

const RUNNING_HEADERS: [&str; 13] = [
    "CareBridge Eligibility Manual",
    "Chapter 2 · Release 25-01",
    "Calloway Health Coverage Authority",
    "Benefits and Fee Schedule",
    "State Fiscal Year 2026",
    "Rates and Benefits Bureau",
    "Hearthway Waiver",
    "Division of Aging and Disability Services",
    "Prior Authorization Criteria",
    "Edition 12, April 2025",
    "CareBridge Provider Bulletin",
    "Number 2025-07",
    "Contract CB-MC-2023, Amendment 6",
];

#[test]
fn no_running_header_or_footer_is_left() {
    for (name, text) in documents() {
        for line in text.lines().filter(|line| !line.starts_with('|')) {
            assert!(!is_running(line) || line.trim().is_empty(), "{name} has a running line: {line}");
        }
        for header in &RUNNING_HEADERS {
            let times = text.lines().filter(|line| line.trim_start_matches('#').trim() == *header).count();
            assert!(times <= 1, "{name} has “{header}” {times} times");
        }
    }
    for row in rows("dataset.jsonl").iter().chain(&rows("rejected.jsonl")) {
        let context = row["context"].as_str().or_else(|| row["pair"]["context"].as_str()).unwrap_or_default();
        for line in context.lines().filter(|line| !line.starts_with('|')) {
            assert!(!is_running(line) || line.trim().is_empty(), "a chunk holds a running line: {line}");
        }
    }
}

#[test]
fn columns_are_read_in_order_and_tables_are_tables() {
    let documents = documents();
    let in_order = |name: &str, phrases: &[&str]| {
        let text = documents[name].split_whitespace().collect::<Vec<_>>().join(" ");
        let mut at = 0;
        for phrase in phrases {
            let found = text[at..].find(phrase);
            assert!(found.is_some(), "{name}: “{phrase}” does not stand behind the phrase before it");
            at += found.unwrap();
        }
    };
    // Three columns: the end of one and the beginning of the next.
    in_order(
        "provider-bulletin.pdf",
        &[
            "A provider must submit an original claim within 180 calendar days",
            "A claim that was first sent to another insurer",
        ],
    );
    // Side headings stand before their text.
    in_order(
        "eligibility-manual.pdf",
        &[
            "Purpose of the chapter",
            "tells county eligibility workers",
            "Who does what",
            "The county benefit office of the county",
        ],
    );
    in_order("long-term-services-waiver.pdf", &["I. Purpose of the waiver", "The Hearthway Waiver pays for services"]);
    let rows = documents["benefits-and-fee-schedule.pdf"].lines().filter(|line| line.starts_with('|')).count();
    assert!(rows > 60, "only {rows} table rows in the fee schedule");
    let codes = documents["benefits-and-fee-schedule.pdf"]
        .lines()
        .filter(|line| line.starts_with("| X2019 |") && line.contains("$11.35"))
        .count();
    assert_eq!(codes, 1, "a row of a table over two pages is one row with its amount");
}

#[test]
fn every_quote_stands_where_the_span_says() {
    let documents: BTreeMap<String, Vec<char>> = rows("documents/index.jsonl")
        .into_iter()
        .filter(|row| row["state"] == "done")
        .map(|row| {
            let sha = row["sha256"].as_str().unwrap().to_owned();
            let path = ran().place.path("out/documents").join(format!("{sha}.md"));
            (sha, std::fs::read_to_string(path).unwrap().chars().collect())
        })
        .collect();
    let starts: BTreeMap<String, Vec<u64>> = rows("documents/index.jsonl")
        .into_iter()
        .map(|row| {
            let starts = row["page_starts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
            (row["sha256"].as_str().unwrap().to_owned(), starts)
        })
        .collect();
    let dataset = rows("dataset.jsonl");
    assert!(dataset.len() > 100, "only {} pairs", dataset.len());
    for row in &dataset {
        let sha = row["source_sha256"].as_str().unwrap();
        let citation = &row["citations"][0];
        let (start, end) = (citation["char_start"].as_u64().unwrap(), citation["char_end"].as_u64().unwrap());
        let text: String = documents[sha][start as usize..end as usize].iter().collect();
        assert_eq!(text, citation["quote"].as_str().unwrap());
        let page = starts[sha].iter().filter(|first| **first <= start).count() as u64;
        assert_eq!(row["source_page"].as_u64().unwrap(), page, "{text}");
        assert!(row["context"].as_str().unwrap().contains(&text));
    }
}

#[test]
fn the_scanned_page_is_a_warning_and_the_encrypted_file_a_dead_letter() {
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(ran().place.path("out/manifest.json")).unwrap()).unwrap();
    let documents = &manifest["documents"];
    assert_eq!(documents["total"], 8);
    assert_eq!(documents["dead"][0]["name"], "program-integrity-protocol.pdf");
    assert_eq!(documents["dead"][0]["messages"][0], "encrypted: needs a password");
    let warned = &documents["with_warnings"][0];
    assert_eq!(warned["name"], "managed-care-amendment.pdf");
    assert_eq!(warned["messages"][0], "no text layer on 1 of 4 pages (page 3): scanned?");
    let dead = rows("dead_letters.jsonl");
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0]["stage"].as_str(), dead[0]["label"].as_str()), (Some("extract"), Some("encrypted")));
    // Contents and index pages of the criteria give no pairs.
    for row in rows("dataset.jsonl") {
        let context = row["context"].as_str().unwrap();
        let leaders = context.lines().filter(|line| line.contains(" ... ") || line.contains(". . .")).count();
        assert!(leaders < 3, "a contents page was asked about: {context}");
    }
    verify(&ran().place, "state");
}
