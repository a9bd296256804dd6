//! What is to come: projections, their cost, and the decision.

use std::fmt::Write as _;

use super::Report;
use super::figures::missing;
use super::rungs::reason;
use crate::bench::book::{Entry, totals};
use crate::bench::outlook::{Planned, no_interval, plan};
use crate::bench::prices::Prices;
use crate::bench::text::{Table, grouped, number};

/// The plan for the whole corpus from each batch, and the outlook of all work.
pub(super) fn projections(report: &Report<'_>) -> String {
    let outlook = report.outlook;
    let mut text = format!(
        "GPU-hours = documents × average a document × (1 + overhead), the overhead being {}%. Intervals are 90% intervals \
         by resampling documents; what was used is certain, only the rest is projected.\n\n",
        number(outlook.overhead * 100.0)
    );
    let Some(documents) = outlook.documents else {
        let _ = writeln!(text, "Not known: {}.", outlook.reason.as_deref().unwrap_or_default());
        return text;
    };
    let mut table =
        Table::new(&["from", "documents", "GPU-hours a document", "expected for the whole corpus", "low", "high"]);
    let work = report.book.work();
    let mut add = |name: String, entries: &[&Entry]| {
        let sums = totals(entries.iter().copied());
        let planned = plan(entries, documents, outlook.overhead);
        let unknown = || unknown(entries);
        let few = || if planned.is_none() { unknown() } else { no_interval() };
        let interval = planned.and_then(|planned| planned.projection);
        let cells = vec![
            name,
            table.count(sums.pdfs, || "the record does not say".into()),
            table.number(sums.gpu_hours_per_pdf(), unknown),
            table.number(planned.map(|planned| planned.expected), unknown),
            table.number(interval.map(|projection| projection.low), few),
            table.number(interval.map(|projection| projection.high), few),
        ];
        table.row(cells);
    };
    for entry in &work {
        if entry.record.dataset.pdfs_processed != Some(0) {
            add(entry.record.id.clone(), &[entry]);
        }
    }
    if let Some(environment) = outlook.environment {
        add(format!("all of {}", environment.as_str()), &report.book.in_environment(environment));
    }
    let _ = write!(text, "The corpus has {} documents.\n\n{}", grouped(documents), table.markdown());
    let _ = write!(text, "\n{}\n", in_words(report));
    text
}

/// Why there are no GPU-hours a document.
fn unknown(entries: &[&Entry]) -> String {
    let sums = totals(entries.iter().copied());
    let path = match (sums.gpu_hours, sums.pdfs) {
        (None, _) => "results.gpu_hours",
        (_, None) => "dataset.pdfs_processed",
        _ => return "no document ended".into(),
    };
    match entries {
        [one] => reason(&one.record, path),
        _ => missing(entries, path),
    }
}

fn in_words(report: &Report<'_>) -> String {
    let outlook = report.outlook;
    let (Some(used), Some(rest), Some(whole)) = (outlook.used, outlook.rest, outlook.whole) else {
        return format!("The outlook of all work is not known: {}.", outlook.reason.as_deref().unwrap_or_default());
    };
    let place = outlook.environment.map_or("all records", crate::bench::record::Environment::as_str);
    let ends = |planned: Planned| match planned.projection {
        Some(p) => format!("{} to {}", number(p.low), number(p.high)),
        None => format!("no interval: {}", no_interval()),
    };
    let mut text = format!(
        "Used so far: {} GPU-hours by all records, experiments too. Done in {place}: {} of {} documents. The rest ({} \
         documents, by the documents of {place}): {} GPU-hours ({}). All: {} GPU-hours ({}).",
        number(used),
        grouped(outlook.done),
        grouped(outlook.documents.unwrap_or(0)),
        grouped(outlook.documents.unwrap_or(0).saturating_sub(outlook.done)),
        number(rest.expected),
        ends(rest),
        number(whole.expected),
        ends(whole)
    );
    match (outlook.budget, outlook.state) {
        (Some(budget), Some(state)) => {
            let _ = write!(
                text,
                " Budget: {} GPU-hours; within below {}, close up to {}, over above: **{}**.",
                number(budget),
                number(budget * outlook.warn_at),
                number(budget),
                state.as_str()
            );
        }
        _ => text.push_str(" Budget: not known, none is configured (budget.gpu_hours)."),
    }
    text
}

/// The cost of the whole at each price, and of an accepted pair.
pub(super) fn cost(report: &Report<'_>) -> String {
    let prices = match &report.prices {
        Ok(prices) => *prices,
        Err(why) => return format!("Not known: {why}.\n"),
    };
    let mut text =
        format!("Prices in {} as of {}, from the file of prices; edit it there.\n\n", prices.currency, prices.as_of);
    text.push_str(&table(report, prices).markdown());
    text.push_str(
        "\nThe best case is the lower end of the interval of all GPU-hours, the worst the upper end. Savings are what \
         renting would cost less what the own cluster charges. The price of an accepted pair is by what was used so far \
         where the work was last. It is assumed that a rented GPU does as much in an hour as \
         the one measured.\n",
    );
    text
}

fn table(report: &Report<'_>, prices: &Prices) -> Table {
    let outlook = report.outlook;
    let whole = outlook.whole;
    let environment = outlook.environment;
    let alike = environment.map_or_else(|| report.book.work(), |environment| report.book.in_environment(environment));
    let sums = totals(alike.iter().copied());
    let per_pair = sums.gpu_hours_per_pair();
    let mut table =
        Table::new(&["offer", "a GPU-hour", "best case", "expected", "worst case", "savings", "an accepted pair"]);
    let unknown = outlook.reason.clone().unwrap_or_else(|| "no record has work".into());
    for offer in &prices.offers {
        let price = || format!("the price of {} is not in the file of prices", offer.name);
        let why = || if offer.per_hour.is_none() { price() } else { unknown.clone() };
        let interval = whole.and_then(|whole| whole.projection).and_then(|projection| offer.cases(&projection));
        let ends = || {
            if offer.per_hour.is_some() && whole.is_some() {
                format!("there is no interval: {}", no_interval())
            } else {
                why()
            }
        };
        let expected = whole.and_then(|whole| offer.cost(whole.expected));
        let rented = !offer.own && !offer.local;
        let savings = whole.and_then(|whole| prices.savings(offer, whole.expected));
        let cells = vec![
            offer.name.clone(),
            table.number(offer.per_gpu_hour(), price),
            table.number(interval.map(|cases| cases[0]), ends),
            table.number(expected, why),
            table.number(interval.map(|cases| cases[2]), ends),
            if rented {
                table.number(savings, || match prices.own() {
                    Some(own) if own.per_hour.is_none() => format!(
                        "what {} charges is not in the file of prices; if it charges nothing, the savings are all that \
                         renting would cost",
                        own.name
                    ),
                    Some(_) => why(),
                    None => "no offer is marked as `own`".into(),
                })
            } else {
                "–".into()
            },
            table.number(per_pair.and_then(|hours| offer.cost(hours)), || {
                if offer.per_hour.is_none() {
                    price()
                } else if sums.gpu_hours.is_none() {
                    missing(&alike, "results.gpu_hours")
                } else {
                    "no pair was accepted, or a record does not say how many".into()
                }
            }),
        ];
        table.row(cells);
    }
    table
}

/// The gate over the last record.
pub(super) fn decision(report: &Report<'_>) -> String {
    let Some(decision) = report.decision else {
        return "No record of work is there to judge.\n".into();
    };
    let mut text = format!(
        "**{}** after {}, by {}.\n\n",
        if decision.go { "Go" } else { "No-go" },
        decision.id,
        report.rules_from
    );
    text.push_str(&findings(decision).markdown());
    text
}

/// The rules with their figures.
pub fn findings(decision: &crate::bench::gate::Decision) -> Table {
    let mut table = Table::new(&["rule", "figures", "holds"]);
    for finding in &decision.findings {
        let holds = match finding.holds {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "**cannot be said**",
        };
        table.row(vec![
            crate::bench::text::escaped(&finding.rule),
            crate::bench::text::escaped(&finding.figures),
            holds.into(),
        ]);
    }
    table
}
