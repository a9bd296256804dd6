//! `qaflow bench report`: writes `BENCHMARKS.md` and `report.html`.

use std::path::Path;

use super::sweep_report::Outcome;
use super::{Outlook, files};
use crate::app::export::print;
use crate::app::{Exit, counted};
use crate::bench::outlook::outlook;
use crate::bench::report::{Report, notes};

/// Writes the report, unless it is there already as it would be.
pub(super) fn report(
    dir: &Path,
    options: &Outlook,
    out: &Path,
    html: &Path,
    notes_file: Option<&Path>,
) -> anyhow::Result<Exit> {
    let book = files::load_some(dir)?;
    let asked = super::decide::asked(options)?;
    let outlook = outlook(&book, asked.question);
    let decision = book.work().last().map(|entry| super::decide::decision(&book, &asked, &outlook, entry));
    let prices = super::prices_or_why(&options.prices)?;
    let ladder = super::ladder_of(&book);
    let default_notes = dir.join("NOTES.md");
    let notes_file = notes_file.unwrap_or(&default_notes);
    let written = std::fs::read_to_string(notes_file);
    if let Ok(text) = &written
        && let (_, Some(line)) = notes::fitted(text)
    {
        tracing::warn!(
            "{}:{line}: this code block is never closed: it ends with the notes in the report; close it where it ends",
            notes_file.display()
        );
    }
    let described = super::sweep::all(dir)?;
    let outcomes: Vec<Outcome<'_>> = described.iter().map(|sweep| Outcome::of(sweep, &book)).collect();
    let sweeps: Vec<(String, String)> = outcomes.iter().map(|one| (one.heading(), one.text())).collect();
    let report = Report {
        book: &book,
        outlook: &outlook,
        prices: prices.as_ref().map_err(String::clone),
        decision: decision.as_ref(),
        rules_from: &asked.rules_from,
        ladder: ladder.as_ref(),
        sweeps: &sweeps,
        notes: match &written {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(format!("Nobody has written any yet. What people put into {} stands here.", notes_file.display()))
            }
            Err(error) => anyhow::bail!("cannot read {}: {error}", notes_file.display()),
        },
    };
    let page = super::page::page(dir, &book, &outlook, &outcomes)?;
    for (path, text) in [(out, report.markdown()), (html, crate::bench::html::render(&page))] {
        let same = std::fs::read_to_string(path).is_ok_and(|there| there == text);
        if !same {
            files::whole(path, &text)?;
        }
        let how = if same { "unchanged" } else { "written" };
        print(&format!("{}: {}, {how}", path.display(), counted(book.entries().len() as u64, "record")));
    }
    Ok(Exit::Done)
}
