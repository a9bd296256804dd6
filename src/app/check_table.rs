//! The table of a test of the checks: for each kind of fault how many were caught, and how many good pairs were
//! refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::grouped;

/// The label of pairs without a fault.
pub(super) const GOOD: &str = "good";

/// Counts by label.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<String, Row>);

/// One label's counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Row {
    /// Pairs with the label.
    pub(super) pairs: u64,
    /// Those that a check refused.
    pub(super) refused: u64,
    /// `refused / pairs`, three decimals.
    pub(super) share: f64,
    /// Those refused, by the check that did.
    pub(super) by: BTreeMap<String, u64>,
}

impl Table {
    /// Counts one pair.
    pub(super) fn count(&mut self, label: &str, refused_by: Option<&str>) {
        let row = self.0.entry(label.to_owned()).or_default();
        row.pairs += 1;
        if let Some(check) = refused_by {
            row.refused += 1;
            *row.by.entry(check.to_owned()).or_default() += 1;
        }
        row.share = (row.refused as f64 / row.pairs as f64 * 1000.0).round() / 1000.0;
    }

    /// The counts of a label.
    pub(super) fn row(&self, label: &str) -> Row {
        self.0.get(label).cloned().unwrap_or_default()
    }

    /// Whether nothing was counted.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The counts as JSON: `faults` by kind, and `good`.
    pub(super) fn json(&self) -> serde_json::Value {
        let faults: BTreeMap<&String, &Row> = self.0.iter().filter(|(label, _)| *label != GOOD).collect();
        serde_json::json!({ "faults": faults, "good": self.0.get(GOOD) })
    }

    /// The counts for people.
    pub(super) fn text(&self) -> String {
        let width = self.0.keys().map(|label| label.chars().count()).max().unwrap_or(0).max(12);
        let mut text = format!("{:<width$}  {:>7}  {:>7}  {:>6}  by\n", "fault", "pairs", "caught", "share");
        for (label, row) in self.0.iter().filter(|(label, _)| *label != GOOD) {
            line(&mut text, label, width, row);
        }
        if let Some(good) = self.0.get(GOOD) {
            let _ = writeln!(text, "\n{:<width$}  {:>7}  {:>7}  {:>6}  by", "", "pairs", "refused", "share");
            line(&mut text, "good pairs", width, good);
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn line(text: &mut String, label: &str, width: usize, row: &Row) {
    let by: Vec<String> = row.by.iter().map(|(check, n)| format!("{check} {}", grouped(*n))).collect();
    let line = format!(
        "{label:<width$}  {:>7}  {:>7}  {:>6.3}  {}",
        grouped(row.pairs),
        grouped(row.refused),
        row.share,
        by.join(", ")
    );
    let _ = writeln!(text, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_and_good_pairs_are_told_apart() {
        let mut table = Table::default();
        for (label, by) in [
            ("leak", Some("no_leak")),
            ("leak", None),
            ("leak", Some("well_formed")),
            (GOOD, None),
            (GOOD, Some("no_leak")),
            ("a_kind_with_a_long_name", None),
        ] {
            table.count(label, by);
        }
        insta::assert_snapshot!(table.text(), @r"
        fault                      pairs   caught   share  by
        a_kind_with_a_long_name        1        0   0.000
        leak                           3        2   0.667  no_leak 1, well_formed 1

                                   pairs  refused   share  by
        good pairs                     2        1   0.500  no_leak 1
        ");
        assert_eq!(table.json()["faults"]["leak"]["refused"], 2);
        assert_eq!(table.json()["good"]["pairs"], 2);
    }
}
