//! `qaflow review report`: what people found, how far they agree with each other and with the judge.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::agreement::{Agreement, Mean, Share, mean, weighted_kappa, wilson};
use super::ratings::{self, Decision, Held, Rating};
use crate::export::dataset::each_row;

/// The marks' names, in their order.
pub(super) const MARKS: [&str; 4] = ["clarity", "accuracy", "relevance", "overall"];
/// What a review is to show before a dataset is used: the lower end of the interval of the share accepted, agreement of
/// judge and people beyond chance, and how many pairs at least.
const TARGETS: (f64, f64, u64) = (0.90, 0.6, 100);

/// What people found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Pairs of the dataset.
    pub pairs: u64,
    /// Pairs that at least one reviewer has decided on.
    pub reviewed: u64,
    /// Pairs that more than half of their reviewers accept.
    pub accepted: Option<Share>,
    /// Each pair's mean mark over its reviewers, averaged.
    pub marks: BTreeMap<&'static str, Mean>,
    /// Each reviewer alone.
    pub reviewers: BTreeMap<String, Reviewer>,
    /// How far any two reviewers agree.
    pub between_reviewers: Vec<Between>,
    /// The judge beside people, by mark.
    pub judge: BTreeMap<&'static str, Judge>,
    /// Ratings of pairs that are not in the dataset, or are worded otherwise now; they count nowhere.
    pub stale: u64,
    /// Notes, with the pairs' ids.
    pub notes: Vec<Note>,
}

/// One reviewer.
#[derive(Debug, Serialize)]
pub struct Reviewer {
    /// Pairs decided on.
    pub decided: u64,
    /// The share accepted.
    pub accepted: Option<Share>,
    /// Mean marks.
    pub marks: BTreeMap<&'static str, Mean>,
}

/// Two reviewers.
#[derive(Debug, Serialize)]
pub struct Between {
    /// One.
    pub first: String,
    /// The other.
    pub second: String,
    /// Accept or reject.
    pub decision: Option<Agreement>,
    /// The marks.
    pub marks: BTreeMap<&'static str, Agreement>,
}

/// The judge beside people. Of several reviewers, their mean mark rounded to a whole one counts.
#[derive(Debug, Serialize)]
pub struct Judge {
    /// How far they agree.
    pub agreement: Agreement,
    /// Judge less people: above 0 the judge is milder.
    pub bias: Mean,
}

/// A note.
#[derive(Debug, Serialize)]
pub struct Note {
    /// The pair.
    pub id: String,
    /// Who wrote it.
    pub reviewer: String,
    /// The text.
    pub text: String,
}

/// What all say of one pair.
struct Pair {
    ratings: Vec<(String, Rating)>,
    judge: Option<[u8; 4]>,
}

/// Computes the report from the ratings beside `out` and the pairs of `dataset`.
///
/// # Errors
/// If a file cannot be read.
pub fn report(out: &Path, dataset: &Path) -> anyhow::Result<Report> {
    let all = ratings::read_all(out)?;
    let mut total = 0;
    let mut pairs = Vec::new();
    let mut found = 0;
    each_row(dataset, |row, _| {
        total += 1;
        let ratings: Vec<(String, Rating)> =
            all.iter().filter_map(|(name, held)| Some((name.clone(), ratings::of(held, &row)?.clone()))).collect();
        if !ratings.is_empty() {
            found += ratings.len() as u64;
            let judge = row.scores.map(|s| [s.clarity, s.accuracy, s.relevance, s.overall]);
            pairs.push((row.id, Pair { ratings, judge }));
        }
        Ok(())
    })?;
    let held: u64 = all.values().map(|held| held.len() as u64).sum();
    let notes = pairs
        .iter()
        .flat_map(|(id, pair)| pair.ratings.iter().map(move |(reviewer, rating)| (id, reviewer, rating)))
        .filter(|(_, _, rating)| !rating.note.is_empty())
        .map(|(id, reviewer, rating)| Note { id: id.clone(), reviewer: reviewer.clone(), text: rating.note.clone() })
        .collect();
    let pairs: Vec<Pair> = pairs.into_iter().map(|(_, pair)| pair).collect();
    let votes: Vec<bool> = pairs.iter().filter_map(majority).collect();
    Ok(Report {
        pairs: total,
        reviewed: votes.len() as u64,
        accepted: wilson(votes.iter().filter(|accepted| **accepted).count() as u64, votes.len() as u64),
        marks: by_mark(|at| mean(&pairs.iter().filter_map(|pair| people(pair, at)).collect::<Vec<_>>())),
        reviewers: all.keys().map(|name| (name.clone(), reviewer(name, &pairs))).collect(),
        between_reviewers: between(&all, &pairs),
        judge: by_mark(|at| judge(&pairs, at)),
        stale: held.saturating_sub(found),
        notes,
    })
}

fn by_mark<T>(of: impl Fn(usize) -> Option<T>) -> BTreeMap<&'static str, T> {
    MARKS.iter().enumerate().filter_map(|(at, name)| Some((*name, of(at)?))).collect()
}

/// Whether more than half of those who decided accept; `None` if nobody has decided.
fn majority(pair: &Pair) -> Option<bool> {
    let decisions: Vec<Decision> = pair.ratings.iter().filter_map(|(_, rating)| rating.decision).collect();
    let accepted = decisions.iter().filter(|decision| **decision == Decision::Accept).count();
    (!decisions.is_empty()).then_some(accepted * 2 > decisions.len())
}

/// The mean of the reviewers' marks.
fn people(pair: &Pair, at: usize) -> Option<f64> {
    let marks: Vec<f64> = pair.ratings.iter().filter_map(|(_, rating)| rating.marks()[at].map(f64::from)).collect();
    (!marks.is_empty()).then(|| marks.iter().sum::<f64>() / marks.len() as f64)
}

fn of<'a>(pair: &'a Pair, name: &str) -> Option<&'a Rating> {
    pair.ratings.iter().find(|(reviewer, _)| reviewer == name).map(|(_, rating)| rating)
}

fn reviewer(name: &str, pairs: &[Pair]) -> Reviewer {
    let ratings: Vec<&Rating> = pairs.iter().filter_map(|pair| of(pair, name)).collect();
    let decisions: Vec<Decision> = ratings.iter().filter_map(|rating| rating.decision).collect();
    let accepted = decisions.iter().filter(|decision| **decision == Decision::Accept).count() as u64;
    let marks = |at: usize| ratings.iter().filter_map(|rating| rating.marks()[at].map(f64::from)).collect::<Vec<_>>();
    Reviewer {
        decided: decisions.len() as u64,
        accepted: wilson(accepted, decisions.len() as u64),
        marks: by_mark(|at| mean(&marks(at))),
    }
}

fn between(all: &BTreeMap<String, Held>, pairs: &[Pair]) -> Vec<Between> {
    let names: Vec<&String> = all.keys().collect();
    let mut found = Vec::new();
    for (at, first) in names.iter().enumerate() {
        for second in &names[at + 1..] {
            let both: Vec<(&Rating, &Rating)> =
                pairs.iter().filter_map(|pair| Some((of(pair, first)?, of(pair, second)?))).collect();
            let marks = |at: usize| {
                let marks: Vec<(u8, u8)> =
                    both.iter().filter_map(|(a, b)| Some((a.marks()[at]?, b.marks()[at]?))).collect();
                weighted_kappa(&marks, 5)
            };
            let side = |decision: Decision| 1 + u8::from(decision == Decision::Accept);
            let decisions: Vec<(u8, u8)> =
                both.iter().filter_map(|(a, b)| Some((side(a.decision?), side(b.decision?)))).collect();
            if both.is_empty() {
                continue;
            }
            found.push(Between {
                first: (*first).clone(),
                second: (*second).clone(),
                decision: weighted_kappa(&decisions, 2),
                marks: by_mark(marks),
            });
        }
    }
    found
}

fn judge(pairs: &[Pair], at: usize) -> Option<Judge> {
    let both: Vec<(u8, f64)> = pairs.iter().filter_map(|pair| Some((pair.judge?[at], people(pair, at)?))).collect();
    let whole: Vec<(u8, u8)> = both.iter().map(|(judge, people)| (*judge, people.round() as u8)).collect();
    let differences: Vec<f64> = both.iter().map(|(judge, people)| f64::from(*judge) - people).collect();
    Some(Judge { agreement: weighted_kappa(&whole, 5)?, bias: mean(&differences)? })
}

fn shown_share(share: &Share) -> String {
    format!(
        "{:.1}% ({} of {}; 95% interval {:.1}% to {:.1}%)",
        share.rate * 100.0,
        share.count,
        share.of,
        share.low * 100.0,
        share.high * 100.0
    )
}

fn shown_mean(mean: &Mean) -> String {
    match (mean.low, mean.high) {
        (Some(low), Some(high)) => format!("{:.2} ({low:.2} to {high:.2})", mean.value),
        _ => format!("{:.2}", mean.value),
    }
}

fn shown_kappa(agreement: &Agreement) -> String {
    agreement.kappa.map_or_else(|| "undefined".into(), |kappa| format!("{kappa:.2}"))
}

impl Report {
    /// How many people have decided anything.
    fn deciders(&self) -> usize {
        self.reviewers.values().filter(|one| one.accepted.is_some() || !one.marks.is_empty()).count()
    }

    /// The table for people.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        if self.reviewers.is_empty() {
            return "Nobody has reviewed this dataset yet: qaflow review".into();
        }
        lines.push(format!("{} of {} pairs reviewed, by {}", self.reviewed, self.pairs, self.deciders()));
        if let Some(share) = &self.accepted {
            lines.push(format!("Accepted: {}", shown_share(share)));
        }
        lines.push("\nMean marks, 1 to 5, with 95% intervals".into());
        for (name, mean) in in_order(&self.marks) {
            lines.push(format!("  {name:<10} {:<24} n = {}", shown_mean(mean), mean.n));
        }
        lines.push("\nReviewers".into());
        for (name, one) in &self.reviewers {
            let accepted = one
                .accepted
                .as_ref()
                .map_or_else(|| "nothing decided".into(), |share| format!("accepted {}", shown_share(share)));
            let marks: Vec<String> =
                in_order(&one.marks).map(|(name, mean)| format!("{name} {:.2}", mean.value)).collect();
            let marks = if marks.is_empty() { String::new() } else { format!("; {}", marks.join(", ")) };
            lines.push(format!("  {name}: {accepted}{marks}"));
        }
        if !self.between_reviewers.is_empty() {
            lines.push("\nAgreement between reviewers (quadratic weighted kappa; 1 is perfect, 0 is chance)".into());
        }
        for two in &self.between_reviewers {
            let marks: Vec<String> = in_order(&two.marks)
                .map(|(name, agreement)| format!("{name} {} (n = {})", shown_kappa(agreement), agreement.n))
                .collect();
            let decision = two.decision.as_ref().map_or_else(|| "undecided".into(), shown_kappa);
            lines.push(format!("  {} and {}: decision {decision}, {}", two.first, two.second, marks.join(", ")));
        }
        if !self.judge.is_empty() {
            lines.push("\nThe model's judge beside people".into());
            lines.push("  mark       kappa      same  within 1  judge less people        n".into());
        }
        for (name, judge) in in_order(&self.judge) {
            let agreement = &judge.agreement;
            lines.push(format!(
                "  {name:<10} {:<9} {:>4.0}%     {:>4.0}%  {:<24} {}",
                shown_kappa(agreement),
                agreement.same * 100.0,
                agreement.within_one * 100.0,
                shown_mean(&judge.bias),
                agreement.n
            ));
        }
        lines.extend(self.targets());
        if self.stale > 0 {
            lines.push(format!(
                "\n{} ratings are of pairs that the dataset no longer holds so; they count nowhere",
                self.stale
            ));
        }
        if !self.notes.is_empty() {
            lines.push("\nNotes".into());
        }
        for note in &self.notes {
            lines.push(format!("  {} {}: {}", note.id, note.reviewer, note.text.replace(char::is_control, " ")));
        }
        lines.join("\n")
    }

    /// Whether the review shows what it should.
    fn targets(&self) -> Vec<String> {
        let (accepted, kappa, least) = TARGETS;
        let met = |met: bool| if met { "met" } else { "not met" };
        let enough = least.min(self.pairs);
        let mut lines = vec!["\nTargets".into()];
        lines.push(format!("  at least {enough} pairs reviewed: {} ({})", met(self.reviewed >= enough), self.reviewed));
        if let Some(share) = &self.accepted {
            lines.push(format!(
                "  lower end of the share accepted at least {:.0}%: {} ({:.1}%)",
                accepted * 100.0,
                met(share.low >= accepted),
                share.low * 100.0
            ));
        }
        if let Some(judge) = self.judge.get("overall") {
            lines.push(format!(
                "  kappa of judge and people, overall, at least {kappa}: {} ({})",
                judge.agreement.kappa.map_or("cannot be told", |found| met(found >= kappa)),
                shown_kappa(&judge.agreement)
            ));
        }
        lines
    }

    /// What the dataset card says of the review; `None` if nobody has decided on a pair.
    pub fn markdown(&self) -> Option<String> {
        let share = self.accepted.as_ref()?;
        let mut text = format!(
            "{} of {} pairs were reviewed by {} with the source beside them; accepted: {}.\n\n| mark | people's mean (95% \
             interval) | judge less people | weighted kappa |\n|---|---|---|---|\n",
            self.reviewed,
            self.pairs,
            if self.reviewers.len() == 1 { "one person".into() } else { format!("{} people", self.reviewers.len()) },
            shown_share(share)
        );
        for (name, mean) in in_order(&self.marks) {
            let judge = self.judge.get(name);
            let bias = judge.map_or_else(|| "–".into(), |judge| shown_mean(&judge.bias));
            let kappa = judge.map_or_else(|| "–".into(), |judge| shown_kappa(&judge.agreement));
            text.extend(["| ", name, " | ", &shown_mean(mean), " | ", &bias, " | ", &kappa, " |\n"]);
        }
        Some(text)
    }
}

/// Marks in the order in which they are given, not by name.
fn in_order<'a, T>(by: &'a BTreeMap<&'static str, T>) -> impl Iterator<Item = (&'static str, &'a T)> {
    MARKS.into_iter().filter_map(|name| Some((name, by.get(name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rated(mark: u8, decision: Decision) -> Rating {
        let mark = Some(mark);
        Rating {
            clarity: mark,
            accuracy: mark,
            relevance: mark,
            overall: mark,
            decision: Some(decision),
            note: String::new(),
        }
    }

    #[test]
    fn judge_and_people_are_compared_by_pair() {
        use Decision::{Accept, Reject};
        let pair = |a: Option<Rating>, b: Option<Rating>, judge: u8| Pair {
            ratings: [("anna", a), ("ben", b)]
                .into_iter()
                .filter_map(|(name, r)| Some((name.to_owned(), r?)))
                .collect(),
            judge: Some([judge; 4]),
        };
        let pairs = [
            pair(Some(rated(4, Accept)), Some(rated(4, Accept)), 5),
            pair(Some(rated(2, Reject)), Some(rated(1, Reject)), 3),
            pair(Some(rated(5, Accept)), None, 5),
            pair(Some(rated(3, Accept)), Some(rated(3, Reject)), 3),
        ];
        assert_eq!(pairs.iter().map(majority).collect::<Vec<_>>(), [Some(true), Some(false), Some(true), Some(false)]);
        let judge = judge(&pairs, 0).expect("some");
        assert!((judge.bias.value - (1.0 + 1.5 + 0.0 + 0.0) / 4.0).abs() < 1e-9);
        assert_eq!(judge.agreement.n, 4);
        let names: BTreeMap<String, Held> = [("anna".into(), Held::new()), ("ben".into(), Held::new())].into();
        let between = between(&names, &pairs);
        assert_eq!(between[0].marks["clarity"].n, 3);
        assert!(between[0].decision.is_some_and(|decision| decision.kappa.is_some_and(|kappa| kappa > 0.3)));
    }
}
