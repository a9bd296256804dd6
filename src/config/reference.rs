//! The configuration reference, made from what the readers ask for.

use std::fmt::Write;

use super::pipeline::{self, Kinds};
use super::run;
use crate::model::params::{Documented, Node};

/// Every value of both files: those of the run file, of all stages (`stages.NAME`), and of each kind of stage
/// (`stages.KIND`).
pub fn rows<K: Kinds>(kinds: &K) -> Rows {
    let nothing = Node::empty_map(&"".into(), 0);
    let (mut run_rows, mut pipeline_rows) = (Vec::new(), Vec::new());
    let _ = run::read(&nothing, "NAME.yaml".as_ref(), &mut Vec::new(), &mut Vec::new(), &mut run_rows);
    pipeline::document(kinds, &mut pipeline_rows);
    Rows { run: run_rows, pipeline: pipeline_rows }
}

/// The rows of the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Those of the run file.
    pub run: Vec<Documented>,
    /// Those of the pipeline file.
    pub pipeline: Vec<Documented>,
}

const HEAD: &str = "\
# Configuration

This page is made from the code that reads the configuration, and a test keeps it true.

A run has two files: the run file (`configs/*.yaml`) says what is run, where it is kept and how fast it goes; the
pipeline file (`pipelines/*.yaml`) is the graph of stages, and holds what determines the results. All faults of both
are reported at once, each with file and line, before anything starts.

- **Paths** are relative to the file they stand in.
- **Environment**: any value may hold `${NAME}`, or `${NAME:-default}` for one that may be unset or empty; `$$` is a
  plain dollar. In a flow list or map such a value needs quotes.
- **Command line**: `--set path.to.key=value` overrides any value, list items by index:
  `--set llm.endpoints.0.base_url=http://gpu1:8000/v1`. The index one past the end appends, and missing maps are
  created. Paths that begin with `stages.`, `near_duplicates.` or `pipeline.` reach the pipeline file, all others the
  run file.
  The value is read as YAML; an empty one restores the default; file names in it are relative to the working directory.
- **Durations** are a number with `ms`, `s`, `m`, `h` or `d` behind it, or a number of seconds.
- **YAML**: one map a file, without anchors and tags. `null` and nothing restore the default. Text that looks like a
  number or like `true` needs quotes where text is meant.
";

/// The reference as Markdown: one section a group of values, one row a value.
pub fn render(rows: &Rows) -> String {
    let mut out = String::from(HEAD);
    out.push_str("\n## Run file\n");
    groups(&mut out, &rows.run, |section| match section {
        "" => None,
        section => Some(format!("`{section}`")),
    });
    out.push_str("\n## Pipeline file\n");
    groups(&mut out, &rows.pipeline, |section| match section.strip_prefix("stages.") {
        None if section.is_empty() => None,
        None => Some(format!("`{section}`")),
        Some("NAME") => Some("Every stage: `stages.NAME`".into()),
        Some(kind) => Some(match kind.split_once('.') {
            None => format!("Stages with `kind: {kind}`"),
            Some((kind, section)) => format!("Stages with `kind: {kind}`: `{section}`"),
        }),
    });
    out
}

/// One table for each section, sections in the order of their first row.
fn groups(out: &mut String, rows: &[Documented], title: impl Fn(&str) -> Option<String>) {
    let section_of =
        |row: &Documented| row.path.rsplit_once('.').map_or_else(String::new, |(section, _)| section.into());
    let mut sections: Vec<String> = Vec::new();
    for row in rows {
        let section = section_of(row);
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    for section in sections {
        if let Some(title) = title(&section) {
            let _ = write!(out, "\n### {title}\n");
        }
        out.push_str("\n| key | what may stand there | default | meaning |\n|---|---|---|---|\n");
        let mut written: Vec<&Documented> = Vec::new();
        for row in rows.iter().filter(|row| section_of(row) == section) {
            if written.contains(&row) {
                continue;
            }
            written.push(row);
            let key = row.path.rsplit_once('.').map_or(row.path.as_str(), |(_, key)| key);
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                cell(key),
                cell(&row.form),
                cell(&row.default),
                cell(&row.meaning)
            );
        }
    }
}

/// Text that stays within its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pipeline::tests::Fake;

    #[test]
    fn tables_by_section() {
        let row = |path: &str| Documented {
            path: path.into(),
            form: "a | b".into(),
            default: "a".into(),
            meaning: "two\nlines".into(),
        };
        let rows = Rows {
            run: vec![row("state"), row("llm.model"), row("llm.retry.max_ms"), row("out"), row("state")],
            pipeline: vec![row("name"), row("stages.NAME.kind"), row("stages.chunk.size"), row("stages.score.keep.x")],
        };
        insta::assert_snapshot!(render(&rows).split_once("\n## ").expect("sections").1, @r#"
        Run file

        | key | what may stand there | default | meaning |
        |---|---|---|---|
        | `state` | a \| b | a | two lines |
        | `out` | a \| b | a | two lines |

        ### `llm`

        | key | what may stand there | default | meaning |
        |---|---|---|---|
        | `model` | a \| b | a | two lines |

        ### `llm.retry`

        | key | what may stand there | default | meaning |
        |---|---|---|---|
        | `max_ms` | a \| b | a | two lines |

        ## Pipeline file

        | key | what may stand there | default | meaning |
        |---|---|---|---|
        | `name` | a \| b | a | two lines |

        ### Every stage: `stages.NAME`

        | key | what may stand there | default | meaning |
        |---|---|---|---|
        | `kind` | a \| b | a | two lines |

        ### Stages with `kind: chunk`

        | key | what may stand there | default | meaning |
        |---|---|---|---|
        | `size` | a \| b | a | two lines |

        ### Stages with `kind: score`: `keep`

        | key | what may stand there | default | meaning |
        |---|---|---|---|
        | `x` | a \| b | a | two lines |
        "#);
    }

    #[test]
    fn every_value_is_in_it_once() {
        let rows = rows(&Fake);
        let mut paths: Vec<&str> = rows.run.iter().chain(&rows.pipeline).map(|row| row.path.as_str()).collect();
        for path in ["pipeline", "llm.endpoints.N.base_url", "llm.outage.give_up_after", "stages.chunk.size"] {
            assert!(paths.contains(&path), "{path} is not documented");
        }
        let before = paths.len();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), before);
    }
}
