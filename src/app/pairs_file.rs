//! Reading pairs from a file of JSON rows that anybody may have written, one at a time, with faults named by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::UsageError;

/// The longest row that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// A pair with its passage, as it stands in a row. A row of `dataset.jsonl` is one.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct PairRow {
    /// The question.
    pub(super) question: String,
    /// The answer.
    pub(super) answer: String,
    /// The quote that proves the answer.
    #[serde(default)]
    quote: Option<String>,
    /// Verified quotes, as a dataset has them; the first serves where there is no `quote`.
    #[serde(default)]
    citations: Vec<CitationRow>,
    /// The passage.
    pub(super) context: String,
    /// What the row calls itself.
    #[serde(default)]
    pub(super) id: Option<String>,
    /// `good`, or the kind of its fault.
    #[serde(default)]
    pub(super) label: Option<String>,
    /// The question's type.
    #[serde(default)]
    pub(super) question_type: Option<String>,
    /// The document it comes from.
    #[serde(default)]
    pub(super) source_document: Option<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct CitationRow {
    quote: String,
}

impl PairRow {
    /// The quote.
    pub(super) fn quote(&self) -> &str {
        self.quote.as_deref().or_else(|| self.citations.first().map(|one| one.quote.as_str())).unwrap_or_default()
    }
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{file}:{line}: {what}; a row is one JSON object a line, with `question`, `answer`, `quote` and `context`")]
pub(super) struct BadRow {
    file: String,
    line: u64,
    what: String,
}

/// The rows of a file, or of standard input for `-`.
pub(super) struct Rows {
    file: PathBuf,
    reader: Box<dyn BufRead>,
    line: u64,
}

impl Rows {
    /// Opens the file.
    ///
    /// # Errors
    /// [`UsageError`] if it cannot be read.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let reader: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            let opened = File::open(path).and_then(|file| {
                if file.metadata()?.is_dir() {
                    return Err(std::io::Error::other("it is a folder; name a file of JSON rows in it"));
                }
                Ok(file)
            });
            let file = opened.map_err(|error| UsageError(format!("cannot read {}: {error}", path.display())))?;
            Box::new(BufReader::with_capacity(1 << 16, file))
        };
        Ok(Self { file: path.into(), reader, line: 0 })
    }

    fn bad(&self, what: impl Into<String>) -> BadRow {
        BadRow { file: self.file.display().to_string(), line: self.line, what: what.into() }
    }

    /// Reads the row of one line.
    fn row(&self, line: &[u8]) -> Result<PairRow, BadRow> {
        let text = std::str::from_utf8(line).map_err(|_| self.bad("the line is not UTF-8"))?;
        let text = if self.line == 1 { text.trim_start_matches('\u{feff}') } else { text };
        let row: PairRow = serde_json::from_str(text).map_err(|error| {
            // The place within the line; serde counts lines of its own.
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or(&what).to_owned();
            self.bad(if error.is_data() { what } else { format!("not JSON: {what} (column {})", error.column()) })
        })?;
        if row.quote.is_none() && row.citations.is_empty() {
            return Err(self.bad("missing field `quote`"));
        }
        Ok(row)
    }
}

impl Iterator for Rows {
    type Item = anyhow::Result<(u64, Result<PairRow, BadRow>)>;

    /// The next line that is not empty, with its number. The outer error ends the file.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = Vec::new();
            self.line += 1;
            match self.reader.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) if line.len() as u64 == LONGEST && !line.ends_with(b"\n") => {
                    let mut rest = Vec::new();
                    // The rest of the line is passed over, a piece at a time.
                    while let Ok(read) = self.reader.by_ref().take(1 << 16).read_until(b'\n', &mut rest) {
                        if read == 0 || rest.ends_with(b"\n") {
                            break;
                        }
                        rest.clear();
                    }
                    return Some(Ok((self.line, Err(self.bad(format!("the line has more than {LONGEST} bytes"))))));
                }
                Ok(_) if line.trim_ascii().is_empty() => {}
                Ok(_) => return Some(Ok((self.line, self.row(line.trim_ascii())))),
                Err(error) => {
                    return Some(Err(anyhow::anyhow!("cannot read {} further: {error}", self.file.display())));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Vec<Result<PairRow, String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.jsonl");
        std::fs::write(&path, content).unwrap();
        let name = path.display().to_string();
        let rows = Rows::open(&path).unwrap();
        rows.map(|row| row.unwrap().1.map_err(|bad| bad.to_string().replace(&name, "pairs.jsonl"))).collect()
    }

    #[test]
    fn rows_are_read_and_bad_ones_named() {
        let rows = read(
            b"\xef\xbb\xbf{\"question\":\"q\",\"answer\":\"a\",\"quote\":\"x\",\"context\":\"c\",\"other\":1}\n\n\
              {\"question\":\"q\",\"answer\":\"a\",\"citations\":[{\"quote\":\"y\"}],\"context\":\"c\"}\r\n\
              {\"question\":\"q\",\"answer\":\"a\",\"quote\":\"x\"}\n{\"question\":\n[1]\n\xff\n\
              {\"question\":\"q\",\"answer\":\"a\",\"context\":\"c\"}",
        );
        assert_eq!(rows[0].as_ref().unwrap().quote(), "x");
        assert_eq!(rows[1].as_ref().unwrap().quote(), "y");
        let faults: Vec<&str> = rows[2..].iter().map(|row| row.as_ref().unwrap_err().as_str()).collect();
        insta::assert_snapshot!(faults.join("\n"), @r"
        pairs.jsonl:4: missing field `context`; a row is one JSON object a line, with `question`, `answer`, `quote` and `context`
        pairs.jsonl:5: not JSON: EOF while parsing a value (column 12); a row is one JSON object a line, with `question`, `answer`, `quote` and `context`
        pairs.jsonl:6: invalid type: integer `1`, expected a string; a row is one JSON object a line, with `question`, `answer`, `quote` and `context`
        pairs.jsonl:7: the line is not UTF-8; a row is one JSON object a line, with `question`, `answer`, `quote` and `context`
        pairs.jsonl:8: missing field `quote`; a row is one JSON object a line, with `question`, `answer`, `quote` and `context`
        ");
        assert!(read(b"").is_empty());
    }

    #[test]
    fn a_line_without_end_is_passed_over() {
        let mut content = vec![b'x'; LONGEST as usize + 100_000];
        content.extend_from_slice(b"\n{\"question\":\"q\",\"answer\":\"a\",\"quote\":\"x\",\"context\":\"c\"}\n");
        let rows = read(&content);
        assert!(rows[0].as_ref().unwrap_err().starts_with("pairs.jsonl:1: the line has more than"));
        assert!(rows[1].is_ok() && rows.len() == 2);
    }
}
