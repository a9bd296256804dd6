//! What a record says of each document: rows of `<id>.documents.csv`, and how time is shared out over them.
//!
//! Documents are processed side by side, so no clock can say what one took. The record's minutes and GPU-hours are
//! therefore shared out by work: the items of the document that ended in the stages that ask the model (its chunks,
//! pairs and checked pairs). What a document took is an estimate; the sum over a record's documents is its total.

use thiserror::Error;

use super::checks::is_damaged;
use super::derive::rounded;
use super::record::DocumentRow;

/// A file of documents that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{file}: {detail}: make the record anew with `qaflow bench record`")]
pub struct RowsError {
    /// The file.
    pub file: String,
    /// What is wrong, with the line.
    pub detail: String,
}

/// Shares minutes and GPU-hours out by work; without any work, evenly.
pub fn share_out(rows: &mut [DocumentRow], minutes: f64, gpu_hours: Option<f64>) {
    let total: f64 = rows.iter().map(|row| row.work).sum();
    let even = 1.0 / rows.len().max(1) as f64;
    for row in rows {
        let part = if total > 0.0 { row.work / total } else { even };
        row.minutes = rounded(minutes * part);
        row.gpu_hours = gpu_hours.map(|hours| rounded(hours * part));
    }
}

/// The rows as CSV with a header.
///
/// # Errors
/// [`RowsError`], which only a fault of memory can cause.
pub fn to_csv(file: &str, rows: &[DocumentRow]) -> Result<String, RowsError> {
    let failed = |detail: String| RowsError { file: file.into(), detail };
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(|error| failed(error.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|error| failed(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| failed(error.to_string()))
}

/// Reads rows. `file` is for messages.
///
/// # Errors
/// [`RowsError`] with the line.
pub fn from_csv(file: &str, text: &str) -> Result<Vec<DocumentRow>, RowsError> {
    let bad = |detail: String| RowsError { file: file.into(), detail };
    let rows = csv::Reader::from_reader(text.as_bytes())
        .deserialize()
        .collect::<Result<Vec<DocumentRow>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    for row in &rows {
        let figures = [("work", Some(row.work)), ("minutes", Some(row.minutes)), ("gpu_hours", row.gpu_hours)];
        for (name, value) in figures {
            if let Some(value) = value.filter(|value| is_damaged(*value)) {
                return Err(bad(format!("{name} of {} is {value}, negative or not a number", row.name)));
            }
        }
    }
    Ok(rows)
}

/// GPU-hours of the documents that ended.
pub fn gpu_hours(rows: &[DocumentRow]) -> Vec<f64> {
    rows.iter().filter(|row| row.state != OPEN).filter_map(|row| row.gpu_hours).collect()
}

/// The state of a document that has items left to do.
pub const OPEN: &str = "open";
/// The state of a document that could not be read.
pub const FAILED: &str = "failed";
/// The state of a document of which every item has ended.
pub const DONE: &str = "done";

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, work: f64) -> DocumentRow {
        DocumentRow { name: name.into(), sha256: "00".into(), state: DONE.into(), work, ..DocumentRow::default() }
    }

    #[test]
    fn time_is_shared_out_by_work_and_sums_to_the_whole() {
        let mut rows = vec![row("a", 1.0), row("b", 3.0), row("failed", 0.0)];
        share_out(&mut rows, 8.0, Some(2.0));
        assert_eq!(rows.iter().map(|row| row.minutes).collect::<Vec<_>>(), [2.0, 6.0, 0.0]);
        assert_eq!(gpu_hours(&rows), [0.5, 1.5, 0.0]);
        let mut rows = vec![row("a", 0.0), row("b", 0.0)];
        share_out(&mut rows, 8.0, None);
        assert_eq!((rows[0].minutes, rows[1].gpu_hours), (4.0, None));
    }

    #[test]
    fn rows_are_read_back_the_same_and_a_bad_one_is_named_with_its_line() {
        let mut rows = vec![row("a, \"quoted\"\nline.pdf", 1.0), row("b", 3.0)];
        share_out(&mut rows, 1.0, Some(0.1));
        rows[1].gpu_hours = None;
        let text = to_csv("x.csv", &rows).unwrap();
        assert_eq!(from_csv("x.csv", &text).unwrap(), rows);
        let error = from_csv("x.csv", &text.replace(",0,0,0,0,", ",0,0,many,0,")).unwrap_err().to_string();
        assert!(error.starts_with("x.csv: ") && error.contains("line"), "{error}");
        rows[0].minutes = -0.25;
        let error = from_csv("x.csv", &to_csv("x.csv", &rows).unwrap()).unwrap_err().to_string();
        assert!(error.contains("minutes of a, \"quoted\"") && error.contains("is -0.25, negative"), "{error}");
    }
}
