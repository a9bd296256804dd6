//! Parquet: the fields of `dataset.jsonl` as columns, Snappy-compressed, written a row group at a time.
//!
//! `citations` and `checks` are lists of structures, since their number varies; the value of a check, a number in some
//! and a text in others, is a text. The columns are described as the Parquet format's `LIST` and `STRING`, which
//! pyarrow, pandas, Hugging Face `datasets`, `DuckDB` and Spark read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::ExportError;
use super::file::{HashedFile, WrittenFile};
use super::rows::{CheckRow, CitationRow, PairRow, ScoresRow};

/// A row group ends with so many rows …
const GROUP_ROWS: usize = 2_000;
/// … or with so many bytes of text, whichever comes first: this bounds the memory.
const GROUP_BYTES: usize = 8 << 20;

const SCHEMA: &str = "
message dataset {
  REQUIRED BYTE_ARRAY id (STRING);
  REQUIRED BYTE_ARRAY question (STRING);
  REQUIRED BYTE_ARRAY answer (STRING);
  REQUIRED BYTE_ARRAY question_type (STRING);
  REQUIRED BYTE_ARRAY source_document (STRING);
  REQUIRED BYTE_ARRAY source_sha256 (STRING);
  REQUIRED INT32 source_page;
  REQUIRED BYTE_ARRAY chunk_id (STRING);
  REQUIRED group citations (LIST) {
    REPEATED group list {
      REQUIRED group element {
        REQUIRED BYTE_ARRAY quote (STRING);
        REQUIRED INT32 page;
        REQUIRED INT64 char_start;
        REQUIRED INT64 char_end;
        REQUIRED DOUBLE match_score;
      }
    }
  }
  REQUIRED BYTE_ARRAY context (STRING);
  OPTIONAL group scores {
    REQUIRED INT32 clarity;
    REQUIRED INT32 accuracy;
    REQUIRED INT32 relevance;
    REQUIRED INT32 overall;
    REQUIRED BYTE_ARRAY reason (STRING);
  }
  REQUIRED group checks (LIST) {
    REPEATED group list {
      REQUIRED group element {
        REQUIRED BYTE_ARRAY name (STRING);
        REQUIRED BOOLEAN pass;
        REQUIRED BYTE_ARRAY value (STRING);
      }
    }
  }
  REQUIRED BYTE_ARRAY model (STRING);
  OPTIONAL BYTE_ARRAY judge_model (STRING);
  REQUIRED BYTE_ARRAY prompt_hash (STRING);
  REQUIRED BYTE_ARRAY run_id (STRING);
  REQUIRED group usage {
    REQUIRED INT64 prompt_tokens;
    REQUIRED INT64 completion_tokens;
  }
  REQUIRED BOOLEAN is_impossible;
}";

/// A Parquet file under way.
pub(super) struct ParquetFile {
    path: PathBuf,
    writer: SerializedFileWriter<HashedFile>,
    rows: Vec<PairRow>,
    bytes: usize,
}

impl ParquetFile {
    /// Begins a file. `path` is for messages.
    pub(super) fn new(path: &Path, file: HashedFile) -> Result<Self, ExportError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("qaflow ", env!("CARGO_PKG_VERSION")).into())
            .build();
        let writer = parse_message_type(SCHEMA)
            .and_then(|schema| SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)))
            .map_err(|error| failed(path, error))?;
        Ok(Self { path: path.into(), writer, rows: Vec::new(), bytes: 0 })
    }

    /// Adds a row.
    pub(super) fn add(&mut self, row: PairRow) -> Result<(), ExportError> {
        self.bytes += row.context.len() + row.answer.len() + row.question.len() + 1_000;
        self.rows.push(row);
        if self.rows.len() >= GROUP_ROWS || self.bytes >= GROUP_BYTES { self.write_group() } else { Ok(()) }
    }

    fn write_group(&mut self) -> Result<(), ExportError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let mut write = || {
            let mut group = self.writer.next_row_group()?;
            columns(&mut group, &rows)?;
            group.close().map(drop)
        };
        write().map_err(|error| failed(&self.path, error))
    }

    /// Ends the file.
    pub(super) fn finish(mut self, rows: u64) -> Result<WrittenFile, ExportError> {
        if !self.rows.is_empty() {
            self.write_group()?;
        }
        let file = self.writer.into_inner().map_err(|error| failed(&self.path, error))?;
        file.finish(rows)
    }
}

fn failed(path: &Path, error: ParquetError) -> ExportError {
    ExportError::Write { path: path.into(), error: std::io::Error::other(error) }
}

/// Writes all columns, in the order of the schema's leaves.
fn columns(group: &mut SerializedRowGroupWriter<'_, HashedFile>, rows: &[PairRow]) -> Result<(), ParquetError> {
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.id)))?;
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.question)))?;
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.answer)))?;
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.question_type)))?;
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.source_document)))?;
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.source_sha256)))?;
    required::<Int32Type>(group, rows.iter().map(|row| page(row.source_page)))?;
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.chunk_id)))?;
    let quotes = |row: &PairRow| row.citations.clone();
    repeated::<ByteArrayType, _>(group, rows, quotes, |c: &CitationRow| text(&c.quote))?;
    repeated::<Int32Type, _>(group, rows, quotes, |c| page(c.page))?;
    repeated::<Int64Type, _>(group, rows, quotes, |c| long(c.char_start))?;
    repeated::<Int64Type, _>(group, rows, quotes, |c| long(c.char_end))?;
    repeated::<DoubleType, _>(group, rows, quotes, |c| c.match_score)?;
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.context)))?;
    let mark = |of: fn(&ScoresRow) -> u8| rows.iter().map(move |row| row.scores.as_ref().map(|s| i32::from(of(s))));
    optional::<Int32Type>(group, mark(|s| s.clarity))?;
    optional::<Int32Type>(group, mark(|s| s.accuracy))?;
    optional::<Int32Type>(group, mark(|s| s.relevance))?;
    optional::<Int32Type>(group, mark(|s| s.overall))?;
    optional::<ByteArrayType>(group, rows.iter().map(|row| row.scores.as_ref().map(|s| text(&s.reason))))?;
    let checks = |row: &PairRow| row.checks.clone().into_iter().collect::<Vec<_>>();
    repeated::<ByteArrayType, _>(group, rows, checks, |(name, _): &(String, CheckRow)| text(name))?;
    repeated::<BoolType, _>(group, rows, checks, |(_, check)| check.pass)?;
    repeated::<ByteArrayType, _>(group, rows, checks, |(_, check)| match &check.value {
        serde_json::Value::String(value) => text(value),
        other => ByteArray::from(other.to_string().as_str()),
    })?;
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.model)))?;
    optional::<ByteArrayType>(group, rows.iter().map(|row| row.judge_model.as_deref().map(text)))?;
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.prompt_hash)))?;
    required::<ByteArrayType>(group, rows.iter().map(|row| text(&row.run_id)))?;
    required::<Int64Type>(group, rows.iter().map(|row| long(row.usage.prompt_tokens)))?;
    required::<Int64Type>(group, rows.iter().map(|row| long(row.usage.completion_tokens)))?;
    required::<BoolType>(group, rows.iter().map(|row| row.is_impossible))
}

fn text(text: &str) -> ByteArray {
    ByteArray::from(text)
}

fn page(page: u32) -> i32 {
    i32::try_from(page).unwrap_or(i32::MAX)
}

fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A column that every row has one value of.
fn required<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, HashedFile>,
    values: impl Iterator<Item = T::T>,
) -> Result<(), ParquetError> {
    let values: Vec<T::T> = values.collect();
    column::<T>(group, &values, None, None)
}

/// A column that some rows have a value of. Its definition level, 1 or 0, says which.
fn optional<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, HashedFile>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let (mut there, mut levels) = (Vec::new(), Vec::new());
    for value in values {
        levels.push(i16::from(value.is_some()));
        there.extend(value);
    }
    column::<T>(group, &there, Some(&levels), None)
}

/// A field of the elements of a list. An empty list has definition level 0; the first element of a list has repetition
/// level 0, all others 1.
fn repeated<T: DataType, E>(
    group: &mut SerializedRowGroupWriter<'_, HashedFile>,
    rows: &[PairRow],
    list: impl Fn(&PairRow) -> Vec<E>,
    value: impl Fn(&E) -> T::T,
) -> Result<(), ParquetError> {
    let (mut values, mut defined, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let elements = list(row);
        if elements.is_empty() {
            defined.push(0);
            repeats.push(0);
        }
        for (at, element) in elements.iter().enumerate() {
            defined.push(1);
            repeats.push(i16::from(at > 0));
            values.push(value(element));
        }
    }
    column::<T>(group, &values, Some(&defined), Some(&repeats))
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, HashedFile>,
    values: &[T::T],
    defined: Option<&[i16]>,
    repeats: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column =
        group.next_column()?.ok_or_else(|| ParquetError::General("the schema has no more columns".into()))?;
    column.typed::<T>().write_batch(values, defined, repeats)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::super::rows::tests::pair_row;
    use super::*;

    #[test]
    fn rows_come_back_in_groups() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("a.parquet");
        let mut file = ParquetFile::new(&path, HashedFile::create(&path).expect("file")).expect("parquet");
        for n in 0..GROUP_ROWS + 3 {
            let mut row = pair_row("a", "An appeal is heard.", "appeal");
            row.id = format!("{n}");
            if n % 2 == 0 {
                row.citations.clear();
                row.scores = None;
            }
            file.add(row).expect("row");
        }
        let written = file.finish((GROUP_ROWS + 3) as u64).expect("finished");
        assert_eq!(written.bytes, path.metadata().expect("there").len());
        let reader = SerializedFileReader::new(std::fs::File::open(&path).expect("open")).expect("parquet");
        assert_eq!(reader.metadata().num_row_groups(), 2, "rows are written group by group");
        assert_eq!(reader.metadata().file_metadata().num_rows() as usize, GROUP_ROWS + 3);
        let rows: Vec<String> =
            reader.get_row_iter(None).expect("rows").map(|row| row.expect("row").to_string()).collect();
        assert!(rows[0].contains("citations: []") && rows[0].contains("scores: null"), "{}", rows[0]);
        assert!(rows[1].contains("quote: \"appeal\"") && rows[1].contains("accuracy: 4"), "{}", rows[1]);
        assert!(rows[GROUP_ROWS + 2].contains(&format!("id: \"{}\"", GROUP_ROWS + 2)));
    }
}
