//! Ratings as CSV, to rate in a spreadsheet and to bring ratings from elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

use super::ratings::{Decision, Rating, Ratings, is_reviewer};
use crate::app::UsageError;
use crate::export::dataset::each_row;
use crate::export::rows::PairRow;

/// The columns of a sheet. Only `id`, the marks, `decision` and `note`, and `reviewer` where it is there, are read back;
/// without `note` the notes given so far stay.
const COLUMNS: [&str; 13] = [
    "reviewer",
    "id",
    "clarity",
    "accuracy",
    "relevance",
    "overall",
    "decision",
    "note",
    "question",
    "answer",
    "quote",
    "document",
    "page",
];
/// Faults shown at once.
const SHOWN: usize = 20;

/// Text that no spreadsheet takes for a formula: a leading sign gets an apostrophe.
fn plain(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

/// The text as it was before [`plain`].
fn back(text: &str) -> &str {
    match text.strip_prefix('\'') {
        Some(rest) if rest.starts_with(['=', '+', '-', '@', '\t', '\r']) => rest,
        _ => text,
    }
}

/// Writes one row a pair and reviewer.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(to: impl std::io::Write, rows: &[(&str, &PairRow, Option<Rating>)]) -> anyhow::Result<()> {
    let mut csv = csv::Writer::from_writer(to);
    csv.write_record(COLUMNS).context("cannot write the sheet")?;
    for (reviewer, row, rating) in rows {
        let rating = rating.clone().unwrap_or_default();
        let marks = rating.marks().map(|mark| mark.map_or_else(String::new, |mark| mark.to_string()));
        let quote = row.citations.first().map_or("", |citation| citation.quote.as_str());
        let [clarity, accuracy, relevance, overall] = marks;
        csv.write_record([
            (*reviewer).to_owned(),
            row.id.clone(),
            clarity,
            accuracy,
            relevance,
            overall,
            rating.decision.map_or_else(String::new, |decision| decision.name().to_owned()),
            plain(&rating.note),
            plain(&row.question),
            plain(&row.answer),
            plain(quote),
            plain(&row.source_document),
            row.source_page.to_string(),
        ])
        .context("cannot write the sheet")?;
    }
    csv.flush().context("cannot write the sheet")
}

/// Reads a sheet and keeps its ratings, all or none. How many there are, and how many said something new.
///
/// # Errors
/// Every bad row with its line; if a file cannot be read or written.
pub(super) fn import(
    out: &Path,
    dataset: &Path,
    sheet: &Path,
    reviewer: Option<&str>,
) -> anyhow::Result<(usize, usize)> {
    let file = std::fs::File::open(sheet).with_context(|| format!("cannot read {}", sheet.display()))?;
    let Sheet { given, notes } = read(file, reviewer).map_err(|faults| fault(sheet, &faults))?;
    let wanted: std::collections::BTreeSet<&str> = given.iter().map(|given| given.id.as_str()).collect();
    let mut rows: BTreeMap<String, PairRow> = BTreeMap::new();
    each_row(dataset, |row, _| {
        if wanted.contains(row.id.as_str()) {
            rows.insert(row.id.clone(), row);
        }
        Ok(())
    })?;
    let unknown: Vec<String> = given
        .iter()
        .filter(|given| !rows.contains_key(&given.id))
        .map(|given| format!("line {}: the dataset holds no pair `{}`", given.line, given.id))
        .collect();
    if !unknown.is_empty() {
        return Err(fault(sheet, &unknown));
    }
    let total = given.len();
    let mut by_reviewer: BTreeMap<String, Vec<(&PairRow, Rating)>> = BTreeMap::new();
    for one in given {
        if let Some(row) = rows.get(&one.id) {
            by_reviewer.entry(one.reviewer).or_default().push((row, one.rating));
        }
    }
    // All files first, so that one that is in use leaves the others as they were.
    let mut files = Vec::new();
    for (reviewer, mut ratings) in by_reviewer {
        let file = Ratings::open(out, &reviewer)?;
        if !notes {
            for (row, rating) in &mut ratings {
                rating.note = file.of(row).map(|held| held.note).unwrap_or_default();
            }
        }
        files.push((file, ratings));
    }
    let mut new = 0;
    for (mut file, ratings) in files {
        new += file.keep_all(ratings)?;
    }
    Ok((total, new))
}

fn fault(sheet: &Path, faults: &[String]) -> anyhow::Error {
    let mut lines: Vec<String> =
        faults.iter().take(SHOWN).map(|fault| format!("{}: {fault}", sheet.display())).collect();
    if faults.len() > SHOWN {
        lines.push(format!("… and {} more", faults.len() - SHOWN));
    }
    lines.push("nothing was imported".into());
    UsageError(lines.join("\n")).into()
}

/// What a sheet says.
#[derive(Debug)]
struct Sheet {
    given: Vec<Given>,
    /// Whether it has a column of notes.
    notes: bool,
}

/// A row of a sheet.
#[derive(Debug)]
struct Given {
    line: u64,
    reviewer: String,
    id: String,
    rating: Rating,
}

/// Reads the rows that say something; every fault with its line.
fn read(mut from: impl std::io::Read, reviewer: Option<&str>) -> Result<Sheet, Vec<String>> {
    let mut text = Vec::new();
    from.read_to_end(&mut text).map_err(|error| vec![format!("it cannot be read: {error}")])?;
    if let Some(line) = open_quote(&text) {
        return Err(vec![format!("line {line}: a quotation mark is opened here and never closed")]);
    }
    let mut csv = csv::Reader::from_reader(text.as_slice());
    let headers = csv.headers().map_err(|error| vec![format!("line 1: {error}")])?.clone();
    // Spreadsheets put a byte order mark before the first name.
    let column = |name: &str| {
        headers.iter().position(|header| header.trim_start_matches('\u{feff}').trim().eq_ignore_ascii_case(name))
    };
    let missing: Vec<&str> = COLUMNS[1..7].iter().copied().filter(|name| column(name).is_none()).collect();
    if !missing.is_empty() {
        return Err(vec![format!("line 1: no column is called {}", missing.join(", "))]);
    }
    let (mut given, mut faults) = (Vec::new(), Vec::new());
    for (at, record) in csv.records().enumerate() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map_or(at as u64 + 2, csv::Position::line);
                faults.push(format!("line {line}: {error}"));
                continue;
            }
        };
        let line = record.position().map_or(at as u64 + 2, csv::Position::line);
        let cell = |name: &str| column(name).and_then(|at| record.get(at)).unwrap_or("").trim();
        match row(line, cell, reviewer) {
            Ok(Some(row)) => given.push(row),
            Ok(None) => {}
            Err(fault) => faults.push(format!("line {line}: {fault}")),
        }
    }
    let mut seen: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for one in &given {
        if let Some(before) = seen.insert((&one.reviewer, &one.id), one.line) {
            faults.push(format!("line {}: {} rated this pair in line {before} already", one.line, one.reviewer));
        }
    }
    if faults.is_empty() { Ok(Sheet { given, notes: column("note").is_some() }) } else { Err(faults) }
}

/// The line of a quotation mark that is never closed: the reader would take all that follows for one cell.
fn open_quote(text: &[u8]) -> Option<u64> {
    let (mut line, mut open) = (1, None);
    for byte in text {
        match byte {
            b'\n' => line += 1,
            b'"' => open = if open.is_some() { None } else { Some(line) },
            _ => {}
        }
    }
    open
}

fn row<'a>(line: u64, cell: impl Fn(&str) -> &'a str, reviewer: Option<&str>) -> Result<Option<Given>, String> {
    let mark = |name: &str| match cell(name) {
        "" => Ok(None),
        text => match text.parse::<u8>() {
            Ok(mark) if (1..=5).contains(&mark) => Ok(Some(mark)),
            _ => Err(format!("{name} must be a mark from 1 to 5 or empty, not `{text}`")),
        },
    };
    let decision = match cell("decision").to_lowercase().as_str() {
        "" => None,
        "accept" | "accepted" => Some(Decision::Accept),
        "reject" | "rejected" => Some(Decision::Reject),
        other => return Err(format!("decision must be accept, reject or empty, not `{other}`")),
    };
    let rating = Rating {
        clarity: mark("clarity")?,
        accuracy: mark("accuracy")?,
        relevance: mark("relevance")?,
        overall: mark("overall")?,
        decision,
        note: back(cell("note")).to_owned(),
    };
    if rating == Rating::default() {
        return Ok(None);
    }
    if let Some(fault) = rating.fault() {
        return Err(fault);
    }
    // As on the page.
    if rating.decision == Some(Decision::Accept)
        && let Some(at) = rating.marks().iter().position(Option::is_none)
    {
        return Err(format!("accepting needs all four marks, and {} is empty", COLUMNS[2 + at]));
    }
    let id = cell("id");
    if id.is_empty() {
        return Err("id is empty".into());
    }
    let who = reviewer.unwrap_or_else(|| cell("reviewer"));
    if who.is_empty() {
        return Err("nobody is named: fill the column reviewer, or give --reviewer".into());
    }
    if !is_reviewer(who) {
        return Err(format!("reviewer must be letters, digits and `._-`, at most 64, not `{who}`"));
    }
    Ok(Some(Given { line, reviewer: who.to_owned(), id: id.to_owned(), rating }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_rows_are_named_with_their_line() {
        let sheet = "reviewer,id,clarity,accuracy,relevance,overall,decision,note\n\
                     anna,1,5,4,3,2,accept,fine\n\
                     anna,2,6,,,,,\n\
                     anna,3,,,,,maybe,\n\
                     ,4,1,,,,,\n\
                     anna,5,,,,,,\n\
                     anna,,1,,,,reject,\n\
                     ../x,6,1,,,,reject,\n\
                     anna,7,5,,4,3,accept,\n";
        let faults = read(sheet.as_bytes(), None).expect_err("faults");
        insta::assert_snapshot!(faults.join("\n"), @"
        line 3: clarity must be a mark from 1 to 5 or empty, not `6`
        line 4: decision must be accept, reject or empty, not `maybe`
        line 5: nobody is named: fill the column reviewer, or give --reviewer
        line 7: id is empty
        line 8: reviewer must be letters, digits and `._-`, at most 64, not `../x`
        line 9: accepting needs all four marks, and accuracy is empty
        ");
        assert_eq!(read("id,clarity\n".as_bytes(), None).expect_err("columns").len(), 1);
        let good =
            read("\u{feff}ID,Clarity,accuracy,relevance,overall,decision\n7,1,,,,Reject\n".as_bytes(), Some("ben"));
        let Sheet { given: good, notes } = good.expect("a row");
        assert!(!notes);
        assert_eq!((good[0].id.as_str(), good[0].reviewer.as_str(), good[0].rating.clarity), ("7", "ben", Some(1)));
    }

    #[test]
    fn what_would_lose_ratings_is_refused() {
        let head = "id,clarity,accuracy,relevance,overall,decision,note\n";
        let faults = |rows: &str| read(format!("{head}{rows}").as_bytes(), Some("ben")).expect_err("faults").join("\n");
        insta::assert_snapshot!(faults("1,5,5,5,5,accept,\"oops\n2,1,1,1,1,reject,\n"), @"line 2: a quotation mark is opened here and never closed");
        insta::assert_snapshot!(faults("1,5,5\n"), @"line 2: CSV error: record 1 (line: 2, byte: 52): found record with 3 fields, but the previous record has 7 fields");
        insta::assert_snapshot!(faults("1,5,5,5,5,accept,\n1,1,1,1,1,reject,\n"), @"line 3: ben rated this pair in line 2 already");
    }

    #[test]
    fn no_cell_is_a_formula() {
        for text in ["=1+1", "+1", "-x", "@SUM(A1)", "plain", "'quoted'", ""] {
            assert!(!plain(text).starts_with(['=', '+', '-', '@']));
            assert_eq!(back(&plain(text)), text);
        }
    }
}
