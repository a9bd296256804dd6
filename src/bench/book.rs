//! The book: all records together, in order, and what they sum to.

use std::collections::BTreeMap;

use super::record::{Covered, DocumentRow, Environment, Record};

/// A record of the book.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The record.
    pub record: Record,
    /// Its documents, where the record has them.
    pub documents: Vec<DocumentRow>,
}

impl Entry {
    /// Whether its GPUs were a rehearsal's.
    pub fn is_simulated(&self) -> bool {
        self.record.hardware.gpu_source.as_deref() == Some("simulated")
    }
}

/// All records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Book {
    /// By the time of their end as far as it is known, then place in the ladder, then name.
    entries: Vec<Entry>,
}

/// Sums over records. A sum over a value that a record lacks is `None`: half a sum is no sum.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Records.
    pub records: usize,
    /// Documents.
    pub pdfs: Option<u64>,
    /// Those of them that failed.
    pub failed: Option<u64>,
    /// Minutes.
    pub minutes: Option<f64>,
    /// Accepted pairs.
    pub pairs: Option<u64>,
    /// GPU-hours.
    pub gpu_hours: Option<f64>,
    /// Processes.
    pub attempts: Option<u64>,
}

impl Totals {
    /// Minutes a document.
    pub fn minutes_per_pdf(&self) -> Option<f64> {
        Some(self.minutes? / self.pdfs.filter(|n| *n > 0)? as f64)
    }

    /// Documents an hour.
    pub fn pdfs_per_hour(&self) -> Option<f64> {
        Some(self.pdfs? as f64 / (self.minutes.filter(|m| *m > 0.0)? / 60.0))
    }

    /// GPU-hours a document.
    pub fn gpu_hours_per_pdf(&self) -> Option<f64> {
        Some(self.gpu_hours? / self.pdfs.filter(|n| *n > 0)? as f64)
    }

    /// Accepted pairs a document.
    pub fn pairs_per_pdf(&self) -> Option<f64> {
        Some(self.pairs? as f64 / self.pdfs.filter(|n| *n > 0)? as f64)
    }

    /// GPU-hours an accepted pair.
    pub fn gpu_hours_per_pair(&self) -> Option<f64> {
        Some(self.gpu_hours? / self.pairs.filter(|n| *n > 0)? as f64)
    }

    /// The share of documents that failed, 0 to 1.
    pub fn failed_share(&self) -> Option<f64> {
        Some(self.failed? as f64 / self.pdfs.filter(|n| *n > 0)? as f64)
    }
}

fn sum<T: std::iter::Sum>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
    values.sum()
}

/// Sums over some records.
pub fn totals<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Totals {
    let records: Vec<&Record> = entries.into_iter().map(|entry| &entry.record).collect();
    if records.is_empty() {
        return Totals::default();
    }
    Totals {
        records: records.len(),
        pdfs: sum(records.iter().map(|r| r.dataset.pdfs_processed)),
        failed: sum(records.iter().map(|r| r.dataset.pdfs_failed)),
        minutes: sum(records.iter().map(|r| r.results.total_time_minutes)),
        pairs: sum(records.iter().map(|r| r.results.qa_pairs_generated)),
        gpu_hours: sum(records.iter().map(|r| r.results.gpu_hours)),
        attempts: sum(records.iter().map(|r| r.results.attempts)),
    }
}

impl Book {
    /// A book of records.
    pub fn new(mut entries: Vec<Entry>) -> Self {
        let place = |entry: &Entry| {
            let record = &entry.record;
            let position = record.rung.as_ref().map_or(u32::MAX, |rung| rung.position);
            (record.date.clone(), record.ended.clone(), position, record.id.clone())
        };
        entries.sort_by_key(place);
        Self { entries }
    }

    /// All records.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The record with this id, or the only one whose id begins so.
    pub fn find(&self, id: &str) -> Option<&Entry> {
        let mut begin = self.entries.iter().filter(|entry| entry.record.id.starts_with(id));
        match (self.exactly(id), begin.next(), begin.next()) {
            (Some(exact), ..) => Some(exact),
            (None, Some(one), None) => Some(one),
            _ => None,
        }
    }

    /// The record with exactly this id.
    pub fn exactly(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.record.id == id)
    }

    /// What was work and no experiment, without what an earlier record counts already.
    pub fn work(&self) -> Vec<&Entry> {
        let doubles = self.doubles();
        self.entries
            .iter()
            .filter(|entry| entry.record.experiment.is_none() && !doubles.contains_key(&entry.record.id))
            .collect()
    }

    /// Points of experiments.
    pub fn experiments(&self) -> Vec<&Entry> {
        self.entries.iter().filter(|entry| entry.record.experiment.is_some()).collect()
    }

    /// Records of rungs, by place in the ladder.
    pub fn rungs(&self) -> Vec<&Entry> {
        let mut rungs: Vec<&Entry> = self.work().into_iter().filter(|entry| entry.record.rung.is_some()).collect();
        rungs.sort_by_key(|entry| entry.record.rung.as_ref().map(|rung| rung.position));
        rungs
    }

    /// Work in one environment.
    pub fn in_environment(&self, environment: Environment) -> Vec<&Entry> {
        self.work().into_iter().filter(|entry| entry.record.environment == Some(environment)).collect()
    }

    /// Records that count attempts which an earlier record of the book counts too, with that one's id.
    pub fn doubles(&self) -> BTreeMap<String, String> {
        let mut doubles = BTreeMap::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let earlier = self.entries[..at]
                .iter()
                .find(|other| entry.record.covers.iter().any(|a| other.record.covers.iter().any(|b| a.overlaps(b))));
            if let Some(other) = earlier {
                doubles.insert(entry.record.id.clone(), other.record.id.clone());
            }
        }
        doubles
    }

    /// Attempts that records count which `covered` counts too, each with its record's id.
    pub fn counting(&self, covered: &Covered) -> Vec<(&str, &Covered)> {
        let all = self.entries.iter().flat_map(|e| e.record.covers.iter().map(|other| (e.record.id.as_str(), other)));
        all.filter(|(_, other)| other.overlaps(covered)).collect()
    }

    /// What records count of a state, each with its record's id.
    pub fn of_state<'a>(&'a self, state_id: &'a str) -> impl Iterator<Item = (&'a str, &'a Covered)> {
        let all =
            self.entries.iter().flat_map(|e| e.record.covers.iter().map(|covered| (e.record.id.as_str(), covered)));
        all.filter(move |(_, covered)| covered.state_id == state_id)
    }

    /// The first attempt from `attempt` on with which a record of a state begins.
    pub fn covered_from(&self, state_id: &str, attempt: u64) -> Option<u64> {
        self.of_state(state_id).map(|(_, covered)| covered.span().0).filter(|first| *first >= attempt).min()
    }

    /// Attempts of a state that records count: the last one's number.
    pub fn covered_until(&self, state_id: &str) -> u64 {
        self.of_state(state_id).map(|(_, covered)| covered.span().1).max().unwrap_or(0)
    }

    /// The book without the record of this id.
    #[must_use]
    pub fn without(&self, id: &str) -> Self {
        Self { entries: self.entries.iter().filter(|entry| entry.record.id != id).cloned().collect() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bench::record::Rung;

    /// A record of `pdfs` documents in `minutes` with `gpu_hours`.
    pub(crate) fn entry(id: &str, pdfs: u64, minutes: f64, gpu_hours: f64) -> Entry {
        let mut record = Record { id: id.into(), date: "2026-01-01".into(), format: 1, ..Record::default() };
        record.environment = Some(Environment::Cluster);
        record.dataset.pdfs_processed = Some(pdfs);
        record.dataset.pdfs_failed = Some(0);
        record.results.total_time_minutes = Some(minutes);
        record.results.gpu_hours = Some(gpu_hours);
        record.results.qa_pairs_generated = Some(pdfs * 5);
        record.results.attempts = Some(1);
        record.rung = Some(Rung { position: pdfs as u32, name: id.into(), documents: pdfs, ..Rung::default() });
        crate::bench::derive::complete(&mut record);
        let documents = (0..pdfs)
            .map(|n| DocumentRow {
                sha256: format!("{id}-{n}"),
                name: format!("{n}.pdf"),
                state: "done".into(),
                work: 1.0,
                minutes: minutes / pdfs as f64,
                gpu_hours: Some(gpu_hours / pdfs as f64),
                ..DocumentRow::default()
            })
            .collect();
        Entry { record, documents }
    }

    #[test]
    fn totals_are_sums_and_a_gap_is_no_sum() {
        let mut book = Book::new(vec![entry("b", 20, 40.0, 2.0), entry("a", 5, 20.0, 1.0)]);
        let sums = totals(book.work());
        assert_eq!((sums.records, sums.pdfs, sums.pairs), (2, Some(25), Some(125)));
        assert_eq!((sums.minutes, sums.gpu_hours, sums.gpu_hours_per_pdf()), (Some(60.0), Some(3.0), Some(0.12)));
        assert_eq!((sums.pdfs_per_hour(), sums.minutes_per_pdf()), (Some(25.0), Some(2.4)));
        assert_eq!(book.entries()[0].record.id, "a");
        book.entries[0].record.results.gpu_hours = None;
        assert_eq!(totals(book.work()).gpu_hours, None);
        assert_eq!(totals([]), Totals::default());
    }

    #[test]
    fn attempts_are_counted_once_even_if_two_records_name_them() {
        let mut entries = vec![entry("a", 5, 20.0, 1.0), entry("b", 20, 40.0, 2.0), entry("c", 30, 40.0, 2.0)];
        for (entry, (first, last)) in entries.iter_mut().zip([(1, 3), (3, 4), (5, 6)]) {
            entry.record.covers =
                vec![Covered { state_id: "s".into(), state: "x".into(), first_attempt: first, last_attempt: last }];
        }
        let book = Book::new(entries);
        assert_eq!(book.doubles(), BTreeMap::from([("b".to_owned(), "a".to_owned())]));
        assert_eq!(totals(book.work()).pdfs, Some(35));
        assert_eq!((book.covered_until("s"), book.covered_until("t")), (6, 0));
        let asked = Covered { state_id: "s".into(), state: "x".into(), first_attempt: 4, last_attempt: 5 };
        let by: Vec<&str> = book.counting(&asked).into_iter().map(|(id, _)| id).collect();
        assert_eq!(by, ["b", "c"]);
        assert_eq!(book.counting(&Covered { state_id: "t".into(), ..asked }), []);
        assert_eq!((book.covered_from("s", 4), book.without("c").covered_from("s", 4)), (Some(5), None));
    }

    #[test]
    fn limits_the_wrong_way_round_hide_no_attempt() {
        let of =
            |first, last| Covered { state_id: "s".into(), state: "x".into(), first_attempt: first, last_attempt: last };
        let mut entries = vec![entry("a", 5, 20.0, 1.0), entry("b", 20, 40.0, 2.0)];
        entries[0].record.covers = vec![of(3, 1)];
        entries[1].record.covers = vec![of(2, 4)];
        let book = Book::new(entries);
        assert_eq!(book.doubles(), BTreeMap::from([("b".to_owned(), "a".to_owned())]));
        assert_eq!(book.without("b").covered_until("s"), 3);
        assert_eq!(
            [of(3, 1), of(0, 2), of(1, 0), of(2, 2)].map(|covered| covered.is_range()),
            [false, false, false, true]
        );
    }

    #[test]
    fn a_record_is_found_by_the_beginning_of_its_id() {
        let book = Book::new(vec![entry("abc", 1, 1.0, 1.0), entry("abd", 1, 1.0, 1.0), entry("ab", 1, 1.0, 1.0)]);
        assert_eq!(book.find("abc").map(|e| e.record.id.as_str()), Some("abc"));
        assert_eq!(book.find("ab").map(|e| e.record.id.as_str()), Some("ab"));
        assert_eq!(book.find("a"), None);
    }
}
