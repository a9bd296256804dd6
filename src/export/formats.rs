//! The accepted pairs in the formats of other programs: one writer a file, fed row by row.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::ExportError;
use super::file::{HashedFile, WrittenFile};
use super::parquet::ParquetFile;
use super::rows::PairRow;
use super::squad::SquadRow;
use crate::model::dataset::Format;

/// A file of pairs under way.
pub(super) struct PairFile {
    form: Form,
    rows: u64,
    left_out: u64,
}

enum Form {
    Lines { format: Format, passage: bool, file: HashedFile },
    Parquet(Box<ParquetFile>),
}

/// `{instruction, input, output}`, from Stanford Alpaca.
#[derive(Serialize)]
struct Alpaca<'a> {
    instruction: &'a str,
    input: &'a str,
    output: &'a str,
}

/// `{id, conversations}`, as `FastChat` and Axolotl read it.
#[derive(Serialize)]
struct ShareGpt<'a> {
    id: &'a str,
    conversations: [ShareGptTurn<'a>; 2],
}

#[derive(Serialize)]
struct ShareGptTurn<'a> {
    from: &'static str,
    value: &'a str,
}

/// `{messages}`, and nothing beside it: fine-tuning services refuse further keys.
#[derive(Serialize)]
struct OpenAi<'a> {
    messages: [OpenAiMessage<'a>; 2],
}

#[derive(Serialize)]
struct OpenAiMessage<'a> {
    role: &'static str,
    content: &'a str,
}

impl PairFile {
    /// Begins a file. With `passage`, the rows of Alpaca, `ShareGPT` and `OpenAI` carry the passage.
    pub(super) fn create(path: &Path, format: Format, passage: bool) -> Result<Self, ExportError> {
        let file = HashedFile::create(path)?;
        let form = if format == Format::Parquet {
            Form::Parquet(Box::new(ParquetFile::new(path, file)?))
        } else {
            Form::Lines { format, passage, file }
        };
        Ok(Self { form, rows: 0, left_out: 0 })
    }

    /// Adds a pair. `line` is its line of `dataset.jsonl`, with the line's end.
    pub(super) fn add(&mut self, row: &PairRow, line: &str) -> Result<(), ExportError> {
        match &mut self.form {
            Form::Parquet(file) => file.add(row.clone())?,
            Form::Lines { format, passage, file } => {
                let Some(json) = json_line(*format, *passage, row, line).map_err(|error| file.failed(error.into()))?
                else {
                    self.left_out += 1;
                    return Ok(());
                };
                file.write_all(&json).map_err(|error| file.failed(error))?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Ends the file; also gives how many pairs had no form in it.
    pub(super) fn finish(self) -> Result<(WrittenFile, u64), ExportError> {
        let written = match self.form {
            Form::Parquet(file) => file.finish(self.rows)?,
            Form::Lines { file, .. } => file.finish(self.rows)?,
        };
        Ok((written, self.left_out))
    }
}

/// A pair's line, with the line's end; `None` if it has no form in this format.
fn json_line(format: Format, passage: bool, row: &PairRow, line: &str) -> serde_json::Result<Option<Vec<u8>>> {
    let asked;
    let question = if passage {
        asked = format!("{}\n\n{}", row.context.trim(), row.question);
        asked.as_str()
    } else {
        row.question.as_str()
    };
    let mut json = match format {
        Format::Jsonl | Format::Parquet => return Ok(Some(line.as_bytes().to_vec())),
        Format::Alpaca => serde_json::to_vec(&Alpaca {
            instruction: &row.question,
            input: if passage { &row.context } else { "" },
            output: &row.answer,
        }),
        Format::ShareGpt => serde_json::to_vec(&ShareGpt {
            id: &row.id,
            conversations: [
                ShareGptTurn { from: "human", value: question },
                ShareGptTurn { from: "gpt", value: &row.answer },
            ],
        }),
        Format::OpenAi => serde_json::to_vec(&OpenAi {
            messages: [
                OpenAiMessage { role: "user", content: question },
                OpenAiMessage { role: "assistant", content: &row.answer },
            ],
        }),
        Format::Squad => match SquadRow::of(row) {
            Some(squad) => serde_json::to_vec(&squad),
            None => return Ok(None),
        },
    }?;
    json.push(b'\n');
    Ok(Some(json))
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::pair_row;
    use super::*;

    #[test]
    fn rows_in_each_format() {
        let row = pair_row("a", "An appeal is heard.", "appeal");
        let shown = |format, passage| {
            let json = json_line(format, passage, &row, "the line\n").expect("json").expect("a form");
            format!("{}: {}", format.name(), String::from_utf8_lossy(&json))
        };
        let all: String = Format::ALL.into_iter().map(|format| shown(format, false)).collect();
        insta::assert_snapshot!(all, @r#"
        jsonl: the line
        parquet: the line
        alpaca: {"instruction":"When is an appeal heard?","input":"","output":"Within 30 days."}
        sharegpt: {"id":"00ff","conversations":[{"from":"human","value":"When is an appeal heard?"},{"from":"gpt","value":"Within 30 days."}]}
        openai: {"messages":[{"role":"user","content":"When is an appeal heard?"},{"role":"assistant","content":"Within 30 days."}]}
        squad: {"id":"00ff","title":"a.pdf","context":"An appeal is heard.","question":"When is an appeal heard?","answers":{"text":["appeal"],"answer_start":[3]},"is_impossible":false}
        "#);
        let with: String =
            [Format::Alpaca, Format::ShareGpt, Format::OpenAi].map(|format| shown(format, true)).concat();
        insta::assert_snapshot!(with, @r#"
        alpaca: {"instruction":"When is an appeal heard?","input":"An appeal is heard.","output":"Within 30 days."}
        sharegpt: {"id":"00ff","conversations":[{"from":"human","value":"An appeal is heard.\n\nWhen is an appeal heard?"},{"from":"gpt","value":"Within 30 days."}]}
        openai: {"messages":[{"role":"user","content":"An appeal is heard.\n\nWhen is an appeal heard?"},{"role":"assistant","content":"Within 30 days."}]}
        "#);
    }
}
