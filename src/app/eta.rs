//! How long a run has still to go, with an interval. A pure function of what was seen.
//!
//! A stage's remaining items are those that wait for it and those that the stages above will still send, estimated by
//! the mean number of children an item had. Their time is that number over the stage's rate; the slowest stage counts.
//!
//! The interval covers two sources of variation. Items differ in their number of children: with `m` items still to come
//! whose numbers of children have mean `f` and variance `s²`, seen on `n` items, the number they send has variance
//! `m s² + m² s²/n + f² Var(m)`. And rates vary: the attempt is cut into blocks of equal length, of which the latter
//! half counts; with `n` block rates of variance `v`, the rate over the remaining time `T` varies by
//! `v (1/n' + b/T)`, where `b` is the length of a block and `n' = n (1-r)/(1+r)` makes up for the correlation `r` of
//! neighbouring blocks (Bayley and Hammersley, "The effective number of independent observations in an autocorrelated
//! time series", 1946). Both relative variances add up, and the time is taken as log-normal.

/// Blocks are joined in pairs when there are so many.
const MOST_BLOCKS: usize = 32;
/// Fewer blocks give no interval.
const FEWEST_BLOCKS: usize = 4;
/// Seconds of a block at first.
const FIRST_BLOCK: f64 = 2.0;
/// The standard normal quantile of 0.95, for intervals of 90%.
const Z90: f64 = 1.645;

/// How many items each stage ended, in blocks of equal length over the whole attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    block: f64,
    blocks: Vec<Vec<f64>>,
    /// Seconds and totals at the end of the last whole block.
    mark: (f64, Vec<u64>),
}

impl History {
    /// An empty history of so many stages.
    pub fn new(stages: usize) -> Self {
        Self { block: FIRST_BLOCK, blocks: Vec::new(), mark: (0.0, vec![0; stages]) }
    }

    /// Notes how many items each stage has ended since the attempt began, `elapsed` seconds ago.
    pub fn note(&mut self, elapsed: f64, ended: &[u64]) {
        let seconds = elapsed - self.mark.0;
        if seconds < self.block {
            return;
        }
        let rates = ended.iter().zip(&self.mark.1).map(|(now, then)| now.saturating_sub(*then) as f64 / seconds);
        self.blocks.push(rates.collect());
        self.mark = (elapsed, ended.to_vec());
        if self.blocks.len() >= MOST_BLOCKS {
            let joined = self
                .blocks
                .chunks_exact(2)
                .map(|pair| pair[0].iter().zip(&pair[1]).map(|(a, b)| f64::midpoint(*a, *b)).collect());
            self.blocks = joined.collect();
            self.block *= 2.0;
        }
    }

    /// A stage's rates in items a second: the latter half of the blocks, but at least [`FEWEST_BLOCKS`] if there are.
    fn rates(&self, stage: usize) -> Vec<f64> {
        let from = (self.blocks.len() / 2).min(self.blocks.len().saturating_sub(FEWEST_BLOCKS));
        self.blocks[from..].iter().map(|block| block[stage]).collect()
    }
}

/// What is known of a stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageWork {
    /// The stages that feed it.
    pub inputs: Vec<usize>,
    /// Items that wait for it or are in its hands.
    pub pending: u64,
    /// Documents that the source will still show it.
    pub unseen: u64,
    /// Items it ever ended, and their children.
    pub ended: u64,
    /// Children of those.
    pub emitted: u64,
    /// The variance of an item's number of children, if two items were seen at least.
    pub fan_variance: Option<f64>,
    /// Its mean rate over the attempt, in items a second.
    pub mean_rate: f64,
}

/// The time to the end, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The expected time.
    pub seconds: f64,
    /// Where it lies with a probability of 90%; `None` while too little was seen.
    pub interval: Option<(f64, f64)>,
}

/// Estimates the time to the end; `None` while a stage that has work to do has not shown how fast it is.
pub fn estimate(stages: &[StageWork], history: &History) -> Option<Estimate> {
    // Mean and variance of what each stage has still to do.
    let mut remaining: Vec<(f64, f64)> = Vec::with_capacity(stages.len());
    let mut slowest = Estimate { seconds: 0.0, interval: Some((0.0, 0.0)) };
    for (at, stage) in stages.iter().enumerate() {
        let (mut mean, mut variance) = (stage.pending as f64 + stage.unseen as f64, 0.0);
        for from in &stage.inputs {
            let above = &stages[*from];
            let (items, items_variance) = remaining[*from];
            if items > 0.0 && above.ended == 0 {
                return None;
            }
            let seen = above.ended.max(1) as f64;
            let fan = above.emitted as f64 / seen;
            let fan_variance = above.fan_variance.unwrap_or(fan * fan);
            mean += items * fan;
            variance += items * fan_variance + items * items * fan_variance / seen + fan * fan * items_variance;
        }
        remaining.push((mean, variance));
        if mean < 1.0 {
            continue;
        }
        let rates = history.rates(at);
        let recent = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
        let rate = if recent > 0.0 { recent } else { stage.mean_rate };
        if rate <= 0.0 {
            return None;
        }
        let seconds = mean / rate;
        if seconds >= slowest.seconds {
            let spread = relative_rate_variance(&rates, history.block, seconds)
                .map(|of_rate| (of_rate + variance / (mean * mean)).sqrt());
            let interval = spread.map(|spread| (seconds * (-Z90 * spread).exp(), seconds * (Z90 * spread).exp()));
            slowest = Estimate { seconds, interval };
        }
    }
    Some(slowest)
}

/// The variance, over its square, of the mean rate during the next `ahead` seconds.
fn relative_rate_variance(rates: &[f64], block: f64, ahead: f64) -> Option<f64> {
    let n = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / n;
    if rates.len() < FEWEST_BLOCKS || mean <= 0.0 {
        return None;
    }
    let off: Vec<f64> = rates.iter().map(|rate| rate - mean).collect();
    let squares: f64 = off.iter().map(|d| d * d).sum();
    let neighbours: f64 = off.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let correlation = if squares > 0.0 { (neighbours / squares).clamp(0.0, 0.9) } else { 0.0 };
    let independent = (n * (1.0 - correlation) / (1.0 + correlation)).max(1.0);
    let variance = squares / (n - 1.0);
    Some(variance * (1.0 / independent + (block / ahead).min(1.0)) / (mean * mean))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history in which stage `i` ended `rates[i]` items a second, times `factor(second)`.
    fn history(rates: &[f64], seconds: u32, factor: impl Fn(u32) -> f64) -> History {
        let mut history = History::new(rates.len());
        let mut totals = vec![0.0; rates.len()];
        for second in 1..=seconds {
            for (total, rate) in totals.iter_mut().zip(rates) {
                *total += rate * factor(second);
            }
            let ended: Vec<u64> = totals.iter().map(|total| *total as u64).collect();
            history.note(f64::from(second), &ended);
        }
        history
    }

    fn two_stages() -> Vec<StageWork> {
        let a = StageWork { pending: 2, unseen: 6, ended: 2, emitted: 20, mean_rate: 1.0, ..StageWork::default() };
        let b = StageWork { inputs: vec![0], pending: 10, ended: 10, mean_rate: 0.5, ..StageWork::default() };
        vec![a, b]
    }

    #[test]
    fn what_is_still_to_come_from_above_counts() {
        // 2 pending and 6 unseen documents above send 80 more; 90 items at one every two seconds.
        let found = estimate(&two_stages(), &History::new(2)).unwrap();
        assert_eq!(found, Estimate { seconds: 180.0, interval: None });
        let mut stages = two_stages();
        stages[0].mean_rate = 0.0;
        assert_eq!(estimate(&stages, &History::new(2)), None, "nothing is known of the first stage's rate");
        let done = vec![StageWork { ended: 5, ..StageWork::default() }];
        assert!(estimate(&done, &History::new(1)).unwrap().seconds.abs() < 1e-9);
    }

    #[test]
    fn a_steady_rate_gives_a_narrow_interval_and_an_unsteady_one_a_wide_one() {
        let work = vec![StageWork { pending: 6000, ended: 600, mean_rate: 10.0, ..StageWork::default() }];
        let width = |history: &History| {
            let found = estimate(&work, history).unwrap();
            let (low, high) = found.interval.unwrap();
            assert!(low <= found.seconds && found.seconds <= high);
            assert!((found.seconds - 600.0).abs() < 60.0, "{found:?}");
            high / low
        };
        let steady = width(&history(&[10.0], 60, |_| 1.0));
        let jumping = width(&history(&[10.0], 60, |s| if s / 4 % 2 == 0 { 1.5 } else { 0.5 }));
        let drifting = width(&history(&[10.0], 60, |s| if s < 46 { 1.5 } else { 0.5 }));
        assert!(steady < 1.01 && jumping > 1.2 && drifting > jumping, "{steady} {jumping} {drifting}");
    }

    #[test]
    fn documents_that_differ_widen_the_interval() {
        let width = |fan_variance: f64| {
            let mut stages = two_stages();
            stages[0].fan_variance = Some(fan_variance);
            let history = history(&[1.0, 0.5], 60, |_| 1.0);
            let (low, high) = estimate(&stages, &history).unwrap().interval.unwrap();
            high / low
        };
        assert!(width(0.0) < 1.2 && width(100.0) > 2.0 * width(0.0), "{} {}", width(0.0), width(100.0));
    }

    #[test]
    fn the_history_is_bounded_and_covers_the_whole_attempt() {
        let kept = history(&[10.0], 4000, |_| 1.0);
        assert!(kept.blocks.len() < MOST_BLOCKS && kept.block > 100.0, "{} of {}", kept.blocks.len(), kept.block);
        assert!(kept.blocks.iter().all(|block| (block[0] - 10.0).abs() < 0.5), "{:?}", kept.blocks);
    }

    /// Runs of a flow whose rate changes from block to block: the interval given after a third of the time holds the
    /// true time about as often as it says.
    #[test]
    fn the_interval_holds_the_true_end_about_as_often_as_it_says() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut held, runs) = (0, 300);
        for _ in 0..runs {
            let mut history = History::new(1);
            let (mut done, mut second, mut found) = (0.0, 0.0, None);
            let end = loop {
                // Each second's rate is drawn anew: mean 10, standard deviation 5.8.
                done += 20.0 * random.f64();
                second += 1.0;
                history.note(second, &[done as u64]);
                if done >= 1000.0 && found.is_none() {
                    let work = StageWork { pending: 2000, ended: 1000, mean_rate: 10.0, ..StageWork::default() };
                    found = Some((second, estimate(&[work], &history).unwrap().interval.unwrap()));
                }
                if done >= 3000.0 {
                    break second;
                }
            };
            let (at, (low, high)) = found.unwrap();
            held += u32::from((low..=high).contains(&(end - at)));
        }
        let share = f64::from(held) / f64::from(runs);
        assert!((0.82..=0.97).contains(&share), "held in {share} of the runs");
    }
}
