//! The dataset card, `README.md`: what the Hugging Face hub shows, and what `datasets.load_dataset` reads the files by.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::statistics::{DocumentCount, Gathered, MARKS, SplitCount};
use super::{DocumentEntry, Exported};
use crate::model::dataset::{ExportOptions, Format, Splits};
use crate::model::plan::Plan;

/// Documents named in the card; all of them are in `sources.csv`.
const SHOWN_DOCUMENTS: usize = 25;

/// What a card is made of.
pub(super) struct CardInput<'a> {
    pub(super) plan: &'a Plan,
    pub(super) exported: &'a Exported,
    pub(super) options: &'a ExportOptions,
    pub(super) gathered: &'a Gathered,
    pub(super) splits: &'a BTreeMap<&'static str, SplitCount>,
    pub(super) documents: &'a [DocumentCount<'a>],
    /// The files of each format: split and path.
    pub(super) files: &'a [(Format, &'static str, String)],
    pub(super) finished: bool,
    pub(super) remarks: &'a [String],
    pub(super) review: Option<&'a str>,
}

/// What each check asks of a pair.
fn check_meaning(check: &str) -> &'static str {
    match check {
        "well_formed" => "question and answer have sensible lengths and forms",
        "self_contained" => "the question can be understood without the passage at hand",
        "no_refusal" => "the answer answers, rather than declines or talks about itself",
        "no_leak" => "the question does not give its answer away",
        "numbers_hold" => "every number, date and code of the answer stands in the passage",
        "quote_exists" => "the supporting quote stands in the passage",
        "round_trip" => "asked again from the passage alone, the same answer comes",
        "score_clarity" => "the judge's mark for clarity is high enough",
        "score_accuracy" => "the judge's mark for accuracy is high enough",
        "score_relevance" => "the judge's mark for relevance is high enough",
        "score_overall" => "the judge's overall mark is high enough",
        _ => "",
    }
}

/// Renders the card.
pub(super) fn render(input: &CardInput<'_>) -> String {
    let mut out = String::new();
    front_matter(&mut out, input);
    summary(&mut out, input);
    how_to_load(&mut out, input);
    splits(&mut out, input);
    fields(&mut out);
    origin(&mut out, input);
    checks(&mut out, input);
    quality(&mut out, input);
    sources(&mut out, input);
    limits(&mut out, input);
    out
}

fn front_matter(out: &mut String, input: &CardInput<'_>) {
    let name = serde_json::Value::from(input.plan.run_id.as_str());
    let size = match input.gathered.pairs {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        _ => "1M<n<10M",
    };
    let _ = write!(
        out,
        "---\npretty_name: {name}\ntask_categories:\n- question-answering\n- text-generation\nsize_categories:\n- {size}\n\
         tags:\n- synthetic\n- qaflow\n"
    );
    if !input.files.is_empty() {
        out.push_str("configs:\n");
    }
    for (at, format) in formats(input).into_iter().enumerate() {
        let _ = writeln!(out, "- config_name: {}", format.name());
        if at == 0 {
            out.push_str("  default: true\n");
        }
        out.push_str("  data_files:\n");
        for (_, split, path) in input.files.iter().filter(|(of, _, _)| *of == format) {
            let _ = writeln!(out, "  - split: {split}\n    path: {path}");
        }
    }
    out.push_str("---\n");
}

/// The formats that the card's configurations name. `datasets` reads all configurations of one card with one reader, so
/// Parquet is among them only where nothing else is; beside others it is loaded by its own folder.
fn formats(input: &CardInput<'_>) -> Vec<Format> {
    let mut formats: Vec<Format> = input.files.iter().map(|(format, _, _)| *format).collect();
    formats.sort_unstable();
    formats.dedup();
    if formats.len() > 1 {
        formats.retain(|format| *format != Format::Parquet);
    }
    formats
}

fn summary(out: &mut String, input: &CardInput<'_>) {
    let (gathered, plan) = (input.gathered, input.plan);
    let _ = write!(
        out,
        "\n# {}\n\n{} questions with answers, made from {} documents by a language model. Each answer rests on a quote that \
         was found in its document and is placed to the character, so that every pair can be checked.\n",
        plain(&plan.run_id),
        grouped(gathered.pairs),
        grouped(gathered.per_document.len() as u64),
    );
    if !input.finished {
        out.push_str(
            "\n> The run that made this dataset was **not finished** when it was written: pairs are missing.\n",
        );
    }
    for remark in input.remarks {
        let _ = write!(out, "\n> {}\n", plain(remark));
    }
}

fn how_to_load(out: &mut String, input: &CardInput<'_>) {
    let formats = formats(input);
    if formats.is_empty() {
        return;
    }
    out.push_str("\n## Loading\n\n```python\nfrom datasets import load_dataset\n");
    for format in formats {
        let _ = writeln!(out, "load_dataset(\"path/to/this/folder\", \"{}\")", format.name());
    }
    if input.options.formats.contains(&Format::Parquet) {
        out.push_str("load_dataset(\"path/to/this/folder/parquet\")  # the same rows, from Parquet\n");
    }
    out.push_str(
        "```\n\n`sha256sum -c SHA256SUMS` checks the files. `dataset.jsonl` holds all pairs, `rejected.jsonl` what the \
         checks refused, `statistics.json` the numbers.\n",
    );
}

fn splits(out: &mut String, input: &CardInput<'_>) {
    let Some(Splits { train, validation, test, seed }) = input.options.splits else { return };
    out.push_str("\n## Splits\n\n| split | documents | pairs |\n|---|---|---|\n");
    for (name, count) in ["train", "validation", "test"].iter().filter_map(|name| input.splits.get_key_value(name)) {
        let _ = writeln!(out, "| {name} | {} | {} |", grouped(count.documents), grouped(count.pairs));
    }
    let _ = write!(
        out,
        "\nNo document is in two splits. Documents are ordered by the SHA-256 of `{seed}:` and their own SHA-256, and shared \
         out {train} : {validation} : {test}; `sources.csv` says where each is.\n"
    );
}

fn fields(out: &mut String) {
    out.push_str(
        "\n## Fields\n\nA row of `dataset.jsonl` and of the Parquet files holds `id`, `question`, `answer`, `question_type`, \
         `source_document`, `source_sha256`, `source_page`, `chunk_id`, `citations` (`quote`, `page`, `char_start`, \
         `char_end`, `match_score`), `context` (the passage), `scores` (`clarity`, `accuracy`, `relevance`, `overall` from 1 \
         to 5, and the judge's `reason`), `checks`, `model`, `judge_model`, `prompt_hash`, `run_id` and `usage`. Positions \
         count Unicode characters in `documents/<source_sha256>.md`.\n",
    );
}

fn origin(out: &mut String, input: &CardInput<'_>) {
    let plan = input.plan;
    let list = |models: &BTreeMap<String, u64>| {
        models.iter().map(|(name, n)| format!("{} ({} pairs)", plain(name), grouped(*n))).collect::<Vec<_>>().join(", ")
    };
    let _ = write!(
        out,
        "\n## How it was made\n\nWith qaflow {}, pipeline `{}`, in the stages {}.\n\n",
        env!("CARGO_PKG_VERSION"),
        plan.pipeline.replace('`', "'"),
        plan.nodes.iter().map(|node| format!("`{}`", node.name)).collect::<Vec<_>>().join(" → "),
    );
    let _ = writeln!(out, "- Questions and answers by: {}", or_none(list(&input.gathered.models)));
    let _ = writeln!(out, "- Judged by: {}", or_none(list(&input.gathered.judges)));
    out.push_str(
        "- Prompts, parameters and code: `manifest.json`, which holds the configuration and its fingerprints\n",
    );
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".into() } else { text }
}

fn checks(out: &mut String, input: &CardInput<'_>) {
    let mut names: Vec<&String> = input.gathered.checks.keys().chain(input.exported.rejected.keys()).collect();
    names.sort();
    names.dedup();
    out.push_str("\n## Checks\n\n");
    if names.is_empty() {
        out.push_str("No check was applied.\n");
    } else {
        out.push_str("| check | what it asks | refused |\n|---|---|---|\n");
    }
    for name in names {
        let refused = input.exported.rejected.get(name).copied().unwrap_or(0);
        let _ = writeln!(out, "| {} | {} | {} |", plain(name), check_meaning(name), grouped(refused));
    }
    out.push_str("\nA pair is refused by the first check that it fails. All refused pairs are in `rejected.jsonl`, each with the value found and the rule.\n");
    let dead: u64 = input.exported.dead.values().sum();
    if dead > 0 {
        let _ = write!(out, "\nGiven up, with the reasons in `dead_letters.jsonl`: {}.\n", {
            let reasons: Vec<String> =
                input.exported.dead.iter().map(|(reason, n)| format!("{} ({})", plain(reason), grouped(*n))).collect();
            reasons.join(", ")
        });
    }
}

fn quality(out: &mut String, input: &CardInput<'_>) {
    let types: Vec<String> =
        input.gathered.types().into_iter().map(|(name, n)| format!("{} {}", plain(name), grouped(n))).collect();
    let _ = write!(out, "\n## In numbers\n\nQuestion types: {}.\n", or_none(types.join(", ")));
    if let Some(means) = input.gathered.means() {
        let marks: Vec<String> = MARKS.iter().zip(means).map(|(name, mean)| format!("{name} {mean:.2}")).collect();
        let _ = write!(out, "\nThe judge's mean marks, from 1 to 5: {}.\n", marks.join(", "));
    }
    out.push_str("\n## Review by people\n\n");
    out.push_str(input.review.unwrap_or("No person has reviewed this dataset with `qaflow review` yet."));
    out.push('\n');
}

fn sources(out: &mut String, input: &CardInput<'_>) {
    let entries: BTreeMap<&str, &DocumentEntry> =
        input.exported.entries.iter().map(|entry| (entry.sha256.as_str(), entry)).collect();
    out.push_str("\n## Sources\n\n| document | pages | pairs |\n|---|---|---|\n");
    for document in input.documents.iter().take(SHOWN_DOCUMENTS) {
        let pages = entries.get(document.sha256).map_or(0, |entry| entry.pages);
        let _ = writeln!(out, "| {} | {pages} | {} |", plain(document.name), grouped(document.pairs));
    }
    let more = input.documents.len().saturating_sub(SHOWN_DOCUMENTS);
    if more > 0 {
        let _ = write!(out, "\n… and {} more.", grouped(more as u64));
    }
    out.push_str("\nAll documents, with their SHA-256, are in `sources.csv`. Their rights are their owners'; this card claims none.\n");
}

fn limits(out: &mut String, input: &CardInput<'_>) {
    out.push_str(
        "\n## Limits\n\n\
         - Questions and answers are a model's words. The quote is verified; that the answer follows from it is a judgement, \
         of a model where no person has reviewed the pair.\n\
         - The text of a document is what could be read from its file: a figure, a scan or a complex table may be missing \
         or garbled.\n\
         - A pair says what its document said. It may have been superseded since.\n",
    );
    let failed = input.exported.documents_failed;
    if failed > 0 {
        let _ = writeln!(
            out,
            "- {} of {} documents could not be read and gave no pairs.",
            grouped(failed),
            grouped(input.exported.documents)
        );
    }
    let warned = input.exported.entries.iter().filter(|entry| !entry.warnings.is_empty()).count();
    if warned > 0 {
        let _ = writeln!(out, "- Documents read with warnings: {warned}; see `documents/index.jsonl`.");
    }
}

/// A count with thin groups, as in `12,345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|part| std::str::from_utf8(part).ok()).collect();
    parts.join(",")
}

/// Text that stays what it is in Markdown and in a table's cell: names come from outside.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '#' | '~' | '!' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_stay_text() {
        assert_eq!(plain("a|b_<script>\n`x`"), "a\\|b\\_&lt;script&gt; \\`x\\`");
        assert_eq!((grouped(0), grouped(999), grouped(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
    }
}
