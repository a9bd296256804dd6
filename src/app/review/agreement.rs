//! The statistics of a review: shares and means with their intervals, and agreement beyond chance.

use serde::Serialize;

use crate::bench::student::mean_interval;

/// The normal quantile for 95% intervals, two-sided.
const Z95: f64 = 1.959_963_984_540_054;

/// A share with its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// How many of them.
    pub count: u64,
    /// Of how many.
    pub of: u64,
    /// The share, 0 to 1.
    pub rate: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// A share with the score interval of E. B. Wilson, "Probable inference, the law of succession, and statistical
/// inference", JASA 22 (1927), 209–212. `None` of nothing.
pub fn wilson(count: u64, of: u64) -> Option<Share> {
    if of == 0 {
        return None;
    }
    let (n, p) = (of as f64, count as f64 / of as f64);
    let z2 = Z95 * Z95;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // At the ends the interval touches 0 or 1 exactly, which rounding must not miss.
    let low = if count == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if count == of { 1.0 } else { (centre + half).min(1.0) };
    Some(Share { count, of, rate: p, low, high })
}

/// A mean with its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// How many values.
    pub n: u64,
    /// Their mean.
    pub value: f64,
    /// The interval's lower end; `None` of a single value.
    pub low: Option<f64>,
    /// The interval's upper end.
    pub high: Option<f64>,
}

/// A mean with Student's t interval. `None` of nothing.
pub fn mean(values: &[f64]) -> Option<Mean> {
    let (value, interval) = mean_interval(values, 0.95)?;
    Some(Mean {
        n: values.len() as u64,
        value,
        low: interval.map(|(low, _)| low),
        high: interval.map(|(_, high)| high),
    })
}

/// Agreement of two raters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Items that both rated.
    pub n: u64,
    /// The share that both gave the same.
    pub same: f64,
    /// The share whose marks differ by at most one.
    pub within_one: f64,
    /// Agreement beyond chance: 1 is perfect, 0 is chance. `None` where both gave all items one and the same mark, since
    /// then chance alone agrees, too.
    pub kappa: Option<f64>,
}

/// Weighted kappa with quadratic weights, for marks from 1 to `most`: J. Cohen, "Weighted kappa: nominal scale agreement
/// with provision for scaled disagreement or partial credit", Psychological Bulletin 70 (1968), 213–220. With two marks
/// it is Cohen's kappa of 1960. `None` of nothing; marks out of range are passed over.
pub fn weighted_kappa(pairs: &[(u8, u8)], most: u8) -> Option<Agreement> {
    let size = usize::from(most);
    let mut table = vec![vec![0.0; size]; size];
    let (mut n, mut same, mut near) = (0_u64, 0_u64, 0_u64);
    for (a, b) in pairs.iter().filter(|(a, b)| (1..=most).contains(a) && (1..=most).contains(b)) {
        table[usize::from(a - 1)][usize::from(b - 1)] += 1.0;
        n += 1;
        same += u64::from(a == b);
        near += u64::from(a.abs_diff(*b) <= 1);
    }
    if n == 0 {
        return None;
    }
    let total = n as f64;
    let rows: Vec<f64> = table.iter().map(|row| row.iter().sum::<f64>() / total).collect();
    let columns: Vec<f64> = (0..size).map(|j| table.iter().map(|row| row[j]).sum::<f64>() / total).collect();
    let (mut observed, mut expected) = (0.0, 0.0);
    for i in 0..size {
        for j in 0..size {
            let weight = (i as f64 - j as f64).powi(2);
            observed += weight * table[i][j] / total;
            expected += weight * rows[i] * columns[j];
        }
    }
    let kappa = (expected > 0.0).then(|| 1.0 - observed / expected);
    Some(Agreement { n, same: same as f64 / total, within_one: near as f64 / total, kappa })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 5e-4
    }

    #[test]
    fn wilson_intervals() {
        // Checked against R's prop.test(x, n, correct = FALSE).
        for (count, of, low, high) in [
            (8, 10, 0.490_16, 0.943_32),
            (0, 10, 0.0, 0.277_53),
            (10, 10, 0.722_47, 1.0),
            (95, 100, 0.888_25, 0.978_46),
        ] {
            let share = wilson(count, of).expect("some");
            assert!(near(share.low, low) && near(share.high, high), "{share:?}");
        }
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn means_have_student_intervals() {
        let five = mean(&[4.0, 5.0, 3.0, 4.0, 4.0]).expect("some");
        // 4 ± 2.776 · 0.7071 / √5
        assert!(near(five.value, 4.0) && near(five.low.unwrap_or(0.0), 3.1220), "{five:?}");
        assert_eq!(mean(&[3.0]).and_then(|mean| mean.low), None);
        assert_eq!(mean(&[]), None);
        for (freedom, quantile) in [(5, 2.5706), (10, 2.2281), (19, 2.0930), (30, 2.0423), (100, 1.9840)] {
            let found = crate::bench::student::quantile(0.05, f64::from(freedom));
            assert!((found - quantile).abs() < 1.5e-3, "{freedom}: {found}");
        }
    }

    #[test]
    fn kappa_by_hand() {
        assert_eq!(weighted_kappa(&[], 5), None);
        let perfect = weighted_kappa(&[(1, 1), (3, 3), (5, 5)], 5).expect("some");
        assert!(near(perfect.kappa.unwrap_or(0.0), 1.0) && near(perfect.same, 1.0));
        let opposite = weighted_kappa(&[(1, 5), (5, 1)], 5).expect("some");
        assert!(near(opposite.kappa.unwrap_or(0.0), -1.0));
        assert_eq!(weighted_kappa(&[(4, 4), (4, 4)], 5).and_then(|agreement| agreement.kappa), None);
        // Two categories: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no gives the textbook's 0.4.
        let mut pairs = vec![(2, 2); 20];
        pairs.extend([(2, 1); 5]);
        pairs.extend([(1, 2); 10]);
        pairs.extend([(1, 1); 15]);
        assert!(near(weighted_kappa(&pairs, 2).and_then(|agreement| agreement.kappa).unwrap_or(0.0), 0.4));
        // Quadratic weights: observed 2/4, expected 8.75/4 by the margins (1, 2, 4, 5) and (2, 2, 4, 4).
        let graded = weighted_kappa(&[(1, 2), (2, 2), (4, 4), (5, 4)], 5).expect("some");
        let expected: f64 = [1.0_f64, 2.0, 4.0, 5.0]
            .iter()
            .flat_map(|a| [2.0_f64, 2.0, 4.0, 4.0].iter().map(move |b| (a - b).powi(2)))
            .sum::<f64>()
            / 16.0;
        assert!(near(graded.kappa.unwrap_or(0.0), 1.0 - 0.5 / expected));
        assert!(near(graded.same, 0.5) && near(graded.within_one, 1.0));
    }
}
