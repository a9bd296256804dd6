//! Experiments over settings: which cells there are and in which order they are run, and what the repeats say.
//!
//! Every repeat runs all cells, in an order of its own, so that whatever drifts with time (a warm server, a busy
//! machine) hits all cells alike. A repeat is a block; cells are compared within blocks (a randomised complete block
//! design, Fisher 1935): the variance is what is left after the cells' and the blocks' means, with
//! (cells − 1)(repeats − 1) degrees of freedom. Every pair of cells is compared by Student's t, the chance multiplied
//! by the number of pairs (Bonferroni), so that among many settings that do not differ none is called better by luck.
//! Measures that are positive are compared by their logarithms: times and rates scatter by factors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::student::{mean_interval, two_sided};

/// The newest format of a sweep's file that this program reads.
pub const SWEEP_FORMAT: u32 = 1;
/// Differences with a chance of at most so much of being luck are called real.
pub const SIGNIFICANT: f64 = 0.05;

/// A parameter and the values it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its configuration path, as in `llm.concurrency`.
    pub path: String,
    /// Its short name, as in `concurrency`.
    pub name: String,
    /// Its values, as they are written in a configuration.
    pub values: Vec<String>,
}

/// An experiment, as its folder keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// The format of the file.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// The run file.
    pub config: String,
    /// Settings that hold for every cell.
    pub set: Vec<String>,
    /// What is varied.
    pub parameters: Vec<Parameter>,
    /// How often each cell is run.
    pub repeats: u32,
    /// What the order follows from.
    pub seed: u64,
}

/// The settings of one cell: a value for each parameter, by its path.
pub type Settings = BTreeMap<String, String>;

/// One run of one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// From 1.
    pub repeat: u32,
    /// The cell's number in [`Sweep::cells`], from 0.
    pub cell: usize,
}

impl Sweep {
    /// All combinations of the parameters' values, the last parameter changing fastest.
    pub fn cells(&self) -> Vec<Settings> {
        let mut cells = vec![Settings::new()];
        for parameter in &self.parameters {
            cells = cells
                .into_iter()
                .flat_map(|cell| {
                    parameter.values.iter().map(move |value| {
                        let mut cell = cell.clone();
                        cell.insert(parameter.path.clone(), value.clone());
                        cell
                    })
                })
                .collect();
        }
        cells
    }

    /// All runs in their order: repeat after repeat, each in an order of its own.
    pub fn turns(&self) -> Vec<Turn> {
        let cells = self.cells().len();
        let mut turns = Vec::with_capacity(cells * self.repeats as usize);
        for repeat in 1..=self.repeats {
            let mut order: Vec<usize> = (0..cells).collect();
            fastrand::Rng::with_seed(self.seed.wrapping_add(u64::from(repeat))).shuffle(&mut order);
            turns.extend(order.into_iter().map(|cell| Turn { repeat, cell }));
        }
        turns
    }

    /// A cell as people read it, as in `concurrency=20, chunk_size=1500`.
    pub fn label(&self, settings: &Settings) -> String {
        let parts = self.parameters.iter().filter_map(|p| Some(format!("{}={}", p.name, settings.get(&p.path)?)));
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// What is measured of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
}

/// The values of one measure: for each cell those of its repeats in order; `None` where it was not measured.
pub type Table = Vec<Vec<Option<f64>>>;

/// A mean, and its interval if there is one.
pub type Mean = (f64, Option<(f64, f64)>);

/// What the repeats say about one measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// For each cell: mean and its 95% interval over the repeats.
    pub means: Vec<Option<Mean>>,
    /// The cell with the best mean.
    pub best: Option<usize>,
    /// The cells that cannot be told from the best, itself left out.
    pub tied: Vec<usize>,
    /// How much better the best is than the next best, as a part of that; above 0.
    pub ahead: Option<f64>,
    /// The chance, corrected, that the best and the next best do not differ.
    pub chance: Option<f64>,
    /// Why nothing can be said, if so.
    pub reason: Option<String>,
}

impl Verdict {
    /// Whether the best cell is really better than every other.
    pub fn is_real(&self) -> bool {
        self.best.is_some() && self.reason.is_none() && self.tied.is_empty()
    }

    /// In words; `labels` are the cells'.
    pub fn words(&self, labels: &[String]) -> String {
        let Some(best) = self.best else {
            return self.reason.clone().unwrap_or_else(|| "not measured".into());
        };
        let name = |at: usize| labels.get(at).cloned().unwrap_or_default();
        if let Some(reason) = &self.reason {
            return format!("{} has the best mean; {reason}", name(best));
        }
        if self.tied.len() + 1 == self.means.len() {
            return format!("no real difference: what separates the means may be luck (best mean: {})", name(best));
        }
        let chance = self.chance.map_or_else(String::new, |p| {
            if p < 0.001 { " (chance of luck below 0.001)".into() } else { format!(" (chance of luck {p:.3})") }
        });
        if self.tied.is_empty() {
            let ahead = self.ahead.map_or_else(String::new, |part| format!(" by {:.1}%", part * 100.0));
            return format!("{} is better than every other{ahead}{chance}", name(best));
        }
        let tied: Vec<String> = self.tied.iter().map(|at| name(*at)).collect();
        format!(
            "{} has the best mean, but cannot be told from {}; the others are worse",
            name(best),
            tied.join(" and ")
        )
    }
}

/// Compares the cells of a table.
pub fn judge(table: &Table, more_is_better: bool) -> Verdict {
    let means: Vec<_> =
        table.iter().map(|cell| mean_interval(&cell.iter().flatten().copied().collect::<Vec<f64>>(), 0.95)).collect();
    let better = |a: f64, b: f64| if more_is_better { a > b } else { a < b };
    let mut ranked: Vec<usize> = (0..table.len()).filter(|at| means[*at].is_some()).collect();
    let value = |at: usize| means[at].map_or(f64::NAN, |(mean, _)| mean);
    ranked.sort_by(|a, b| {
        let order = value(*a).total_cmp(&value(*b));
        (if more_is_better { order.reverse() } else { order }).then(a.cmp(b))
    });
    let mut verdict = Verdict {
        best: ranked.first().copied(),
        tied: vec![],
        ahead: None,
        chance: None,
        reason: None,
        means: means.clone(),
    };
    let Some(best) = verdict.best else {
        verdict.reason = Some("it was not measured".into());
        return verdict;
    };
    if let Some(next) = ranked.get(1)
        && value(*next) != 0.0
        && better(value(best), value(*next))
    {
        verdict.ahead = Some((value(best) / value(*next) - 1.0).abs());
    }
    // Blocks in which every cell was measured.
    let repeats = table.iter().map(Vec::len).max().unwrap_or(0);
    let whole: Vec<usize> =
        (0..repeats).filter(|r| table.iter().all(|cell| cell.get(*r).copied().flatten().is_some())).collect();
    if table.len() < 2 {
        verdict.reason = Some("there is nothing to compare it with".into());
        return verdict;
    }
    if whole.len() < 2 {
        verdict.reason = Some(format!("{} whole repeats are too few to tell a difference from luck", whole.len()));
        return verdict;
    }
    let mut blocks: Vec<Vec<f64>> =
        table.iter().map(|cell| whole.iter().filter_map(|r| cell[*r]).collect::<Vec<f64>>()).collect();
    if blocks.iter().flatten().all(|v| *v > 0.0) {
        blocks.iter_mut().flatten().for_each(|v| *v = v.ln());
    }
    let (cells, n) = (blocks.len() as f64, whole.len() as f64);
    let cell_means: Vec<f64> = blocks.iter().map(|cell| cell.iter().sum::<f64>() / n).collect();
    let block_means: Vec<f64> = (0..whole.len()).map(|r| blocks.iter().map(|c| c[r]).sum::<f64>() / cells).collect();
    let grand = cell_means.iter().sum::<f64>() / cells;
    let residual: f64 = blocks
        .iter()
        .zip(&cell_means)
        .flat_map(|(cell, mean)| {
            cell.iter().zip(&block_means).map(move |(v, block)| (v - mean - block + grand).powi(2))
        })
        .sum();
    let freedom = (cells - 1.0) * (n - 1.0);
    let error = (residual / freedom * 2.0 / n).sqrt();
    let pairs = cells * (cells - 1.0) / 2.0;
    let chance_of = |at: usize| {
        let difference = (cell_means[best] - cell_means[at]).abs();
        // Values that do not scatter at all: any difference is one, none is none.
        let t = if error > 0.0 {
            difference / error
        } else if difference > 1e-12 {
            f64::INFINITY
        } else {
            0.0
        };
        (two_sided(t, freedom) * pairs).min(1.0)
    };
    verdict.tied = ranked.iter().copied().filter(|at| *at != best && chance_of(*at) > SIGNIFICANT).collect();
    verdict.chance = ranked.get(1).map(|next| chance_of(*next));
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep() -> Sweep {
        let parameter = |path: &str, name: &str, values: &[&str]| Parameter {
            path: path.into(),
            name: name.into(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        };
        Sweep {
            format: SWEEP_FORMAT,
            name: "s".into(),
            config: "c.yaml".into(),
            set: vec![],
            parameters: vec![
                parameter("llm.concurrency", "concurrency", &["10", "20"]),
                parameter("stages.chunk.size", "chunk_size", &["1000", "1500", "2000"]),
            ],
            repeats: 4,
            seed: 7,
        }
    }

    #[test]
    fn a_grid_is_run_whole_in_every_repeat_and_in_different_orders() {
        let sweep = sweep();
        let cells = sweep.cells();
        assert_eq!(cells.len(), 6);
        assert_eq!(sweep.label(&cells[1]), "concurrency=10, chunk_size=1500");
        let turns = sweep.turns();
        let mut orders = Vec::new();
        for repeat in 1..=4 {
            let order: Vec<usize> = turns.iter().filter(|t| t.repeat == repeat).map(|t| t.cell).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
            orders.push(order);
        }
        assert!(orders.windows(2).any(|pair| pair[0] != pair[1]));
        assert_eq!(turns, sweep.turns(), "the order follows from the seed");
    }

    /// Cells whose true means are given, with noise by factors and a drift from repeat to repeat.
    fn simulated(means: &[f64], repeats: usize, noise: f64, random: &mut fastrand::Rng) -> Table {
        let mut normal = || (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
        let drift: Vec<f64> = (0..repeats).map(|_| 0.2 * normal()).collect();
        means.iter().map(|mean| drift.iter().map(|d| Some(mean * (d + noise * normal()).exp())).collect()).collect()
    }

    #[test]
    fn the_winner_is_found_where_there_is_one() {
        let mut random = fastrand::Rng::with_seed(1);
        for round in 0..20 {
            let table = simulated(&[10.0, 8.0, 6.0, 9.0], 4, 0.04, &mut random);
            let verdict = judge(&table, false);
            assert_eq!((verdict.best, verdict.is_real()), (Some(2), true), "round {round}: {verdict:?}");
        }
    }

    #[test]
    fn no_difference_is_called_none() {
        let mut random = fastrand::Rng::with_seed(2);
        let none = (0..20).filter(|_| {
            let verdict = judge(&simulated(&[10.0; 4], 4, 0.05, &mut random), true);
            verdict.tied.len() == 3
        });
        let none = none.count();
        assert!(none >= 18, "only {none} of 20");
        // Over many more rounds the share of false alarms is what was promised.
        let alarms = (0..2000).filter(|_| judge(&simulated(&[10.0; 4], 4, 0.05, &mut random), true).tied.len() < 3);
        let alarms = alarms.count();
        assert!(alarms <= 120, "{alarms} false alarms of 2000");
    }

    #[test]
    fn what_cannot_be_said_is_said_so() {
        let labels: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        let one = judge(&vec![vec![Some(1.0)], vec![Some(2.0)]], true);
        assert!(one.words(&labels).contains("too few"), "{}", one.words(&labels));
        assert!(judge(&vec![vec![None], vec![None]], true).words(&labels).contains("not measured"));
        assert!(judge(&vec![vec![Some(1.0), Some(2.0)]], true).words(&labels).contains("nothing to compare"));
        let same = judge(&vec![vec![Some(5.0); 3], vec![Some(5.0); 3]], true);
        assert!(same.words(&labels).contains("no real difference"), "{}", same.words(&labels));
        let tied = judge(
            &vec![
                vec![Some(10.0), Some(10.4), Some(9.9)],
                vec![Some(10.1), Some(10.2), Some(10.0)],
                vec![Some(1.0), Some(1.1), Some(1.0)],
            ],
            true,
        );
        assert!(tied.words(&labels).contains("cannot be told from"), "{}", tied.words(&labels));
    }
}
