//! What held a run up, found by rules over its records: the symptom with its figures, the impact, and the cause as far
//! as the figures show it.

use super::book::{Entry, totals};
use super::record::Record;
use super::text::number;

/// GPUs less busy than this, in percent, are paid for idle.
const BUSY: f64 = 50.0;
/// A share of prompt tokens from the prefix cache below this is low: with the passage first in every prompt and five
/// calls a passage about 0.78 can be had.
const CACHED: f64 = 0.3;
/// More items refused than this, in percent, is work thrown away.
const REFUSED: f64 = 25.0;
/// A tenth of the documents that takes more than this share of the work makes the end of a run long.
const TOP_TENTH: f64 = 0.4;
/// Processor time of this share of what was held, in percent, is a full machine.
const FULL: f64 = 85.0;

/// Something that held a run up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bottleneck {
    /// The record.
    pub id: String,
    /// What was seen.
    pub symptom: String,
    /// What it costs.
    pub impact: String,
    /// Why.
    pub cause: String,
}

/// What the rules found in the records, and for the record's reader what they could not look at.
pub fn find(entries: &[&Entry]) -> Vec<Bottleneck> {
    entries.iter().flat_map(|entry| one(entry)).collect()
}

fn one(entry: &Entry) -> Vec<Bottleneck> {
    let record = &entry.record;
    let rules = [idle_gpu, cold_cache, refused, interrupted, failed, full_machine];
    let mut found: Vec<Bottleneck> = rules.iter().filter_map(|rule| rule(record)).collect();
    found.extend(skewed(entry));
    found
}

fn note(record: &Record, symptom: String, impact: String, cause: String) -> Bottleneck {
    Bottleneck { id: record.id.clone(), symptom, impact, cause }
}

fn idle_gpu(record: &Record) -> Option<Bottleneck> {
    let busy = record.results.avg_gpu_utilization_percent.filter(|percent| *percent < BUSY)?;
    let hours = record.results.gpu_hours?;
    let idle = hours * (1.0 - busy / 100.0);
    let cause = match (&record.configuration.concurrency_limit, record.results.job_efficiency_percent) {
        (_, Some(cpu)) if cpu > FULL => {
            format!("the processors were full ({}%): the GPUs waited for the program", number(cpu))
        }
        (Some(limit), _) => format!(
            "the processors had room: at most {limit} requests in flight kept the server too little busy, or the \
             batch ended in a long tail; try a higher llm.concurrency, or auto"
        ),
        (None, _) => "the record does not say how many requests were in flight".into(),
    };
    Some(note(
        record,
        format!("GPUs {}% busy", number(busy)),
        format!("about {} of {} GPU-hours paid for idle GPUs", number(idle), number(hours)),
        cause,
    ))
}

fn cold_cache(record: &Record) -> Option<Bottleneck> {
    let rate = record.results.prefix_cache_hit_rate.filter(|rate| *rate < CACHED)?;
    let prompt = record.results.tokens.prompt?;
    Some(note(
        record,
        format!("{}% of the prompt tokens came from the prefix cache", number(rate * 100.0)),
        format!("about {} prompt tokens computed anew", number(prompt as f64 * (1.0 - rate))),
        "the server's cache is smaller than what is open at once, or other work shares it".into(),
    ))
}

fn refused(record: &Record) -> Option<Bottleneck> {
    let rates = &record.results.error_rates.rejected_percent_by_stage;
    let (stage, percent) = rates.iter().max_by(|a, b| a.1.total_cmp(b.1)).filter(|(_, percent)| **percent > REFUSED)?;
    let calls = record.results.tokens.calls;
    Some(note(
        record,
        format!("{}% of the items of `{stage}` were refused", number(*percent)),
        calls.map_or("model calls for pairs that nobody keeps".into(), |calls| {
            format!("part of the {} model calls went into pairs that nobody keeps", super::text::grouped(calls))
        }),
        "the model's pairs break the rules of that stage: rejected.jsonl names the rule of each".into(),
    ))
}

fn interrupted(record: &Record) -> Option<Bottleneck> {
    let attempts = record.results.attempts.filter(|attempts| *attempts > 1)?;
    let list = record.issues.list();
    let ends: Vec<String> = list
        .iter()
        .filter(|issue| issue.what.starts_with("attempts "))
        .map(|issue| format!("{} {}", issue.count, issue.what.trim_start_matches("attempts ")))
        .collect();
    // Attempts that each came to their end hold nothing up.
    (!ends.is_empty()).then(|| {
        note(
            record,
            format!("{attempts} attempts instead of one"),
            "what was in flight at each end was asked for again, and each start loads and warms up anew".into(),
            ends.join(", "),
        )
    })
}

fn failed(record: &Record) -> Option<Bottleneck> {
    let (failed, all) = (record.dataset.pdfs_failed.filter(|n| *n > 0)?, record.dataset.pdfs_processed?);
    let list = record.issues.list();
    let reasons: Vec<String> = list
        .iter()
        .filter(|issue| issue.what.contains("given up") || issue.what.contains("refused by"))
        .take(3)
        .map(|issue| format!("{} ({})", issue.what, issue.count))
        .collect();
    Some(note(
        record,
        format!("{failed} of {all} documents failed"),
        format!(
            "their pairs are missing from the dataset: {}% of the documents",
            number(failed as f64 * 100.0 / all as f64)
        ),
        if reasons.is_empty() { "the record names no reason".into() } else { reasons.join("; ") },
    ))
}

fn full_machine(record: &Record) -> Option<Bottleneck> {
    let percent = record.results.job_efficiency_percent.filter(|percent| *percent > FULL)?;
    // Where GPUs idle besides, the rule for these says it.
    if record.results.avg_gpu_utilization_percent.is_some_and(|busy| busy < BUSY) {
        return None;
    }
    Some(note(
        record,
        format!("processors {}% busy", number(percent)),
        "more model speed would not make the run faster".into(),
        if record.model.serving.as_deref().is_some_and(|serving| serving.starts_with("embedded")) {
            "the embedded model computes on them".into()
        } else {
            "reading documents and checking pairs, or other work on the machine".into()
        },
    ))
}

fn skewed(entry: &Entry) -> Option<Bottleneck> {
    let mut work: Vec<f64> = entry.documents.iter().map(|row| row.work).collect();
    if work.len() < 20 {
        return None;
    }
    work.sort_by(|a, b| b.total_cmp(a));
    let top = work.len().div_ceil(10);
    let share = work[..top].iter().sum::<f64>() / work.iter().sum::<f64>();
    (share > TOP_TENTH).then(|| {
        note(
            &entry.record,
            format!("a tenth of the documents ({top}) took {}% of the work", number(share * 100.0)),
            "the run ends with few large documents open, when not every slot has work".into(),
            "documents differ much in length".into(),
        )
    })
}

/// What the rules looked at, for a report that found nothing.
pub fn looked_at(entries: &[&Entry]) -> String {
    let all = totals(entries.iter().copied());
    format!(
        "{}: GPU utilisation below {BUSY}%, prefix cache below {}%, more than {REFUSED}% refused in a stage, \
         more than one attempt, failed documents, processors above {FULL}%, a tenth of the documents with more than {}% \
         of the work",
        super::text::counted(all.records as u64, "record"),
        number(CACHED * 100.0),
        number(TOP_TENTH * 100.0)
    )
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::entry;
    use super::super::record::{Issue, Issues, Limit};
    use super::*;

    #[test]
    fn a_run_without_trouble_has_no_bottleneck() {
        let quiet = entry("quiet", 40, 100.0, 10.0);
        assert_eq!(find(&[&quiet]), []);
        assert!(looked_at(&[&quiet]).starts_with("1 record: GPU utilisation below 50%"));
    }

    #[test]
    fn each_rule_says_symptom_impact_and_cause() {
        let mut bad = entry("bad", 40, 100.0, 10.0);
        let record = &mut bad.record;
        record.results.avg_gpu_utilization_percent = Some(30.0);
        record.configuration.concurrency_limit = Some(Limit::Number(8));
        record.results.prefix_cache_hit_rate = Some(0.1);
        record.results.tokens.prompt = Some(1_000_000);
        record.results.error_rates.rejected_percent_by_stage.insert("validate".into(), 40.0);
        record.results.attempts = Some(3);
        record.dataset.pdfs_failed = Some(2);
        record.issues = Issues::List(vec![
            Issue { what: "attempts killed without a word".into(), count: 2, ..Issue::default() },
            Issue { what: "extract: given up: encrypted".into(), count: 2, ..Issue::default() },
        ]);
        for (n, row) in bad.documents.iter_mut().enumerate() {
            row.work = if n < 4 { 100.0 } else { 1.0 };
        }
        let found = find(&[&bad]);
        let symptoms: Vec<&str> = found.iter().map(|b| b.symptom.as_str()).collect();
        assert_eq!(
            symptoms,
            [
                "GPUs 30% busy",
                "10% of the prompt tokens came from the prefix cache",
                "40% of the items of `validate` were refused",
                "3 attempts instead of one",
                "2 of 40 documents failed",
                "a tenth of the documents (4) took 91.74% of the work",
            ]
        );
        assert_eq!(found[0].impact, "about 7 of 10 GPU-hours paid for idle GPUs");
        assert!(found[0].cause.contains("at most 8 requests in flight"));
        assert_eq!(found[3].cause, "2 killed without a word");
        assert_eq!(found[4].cause, "extract: given up: encrypted (2)");
    }
}
