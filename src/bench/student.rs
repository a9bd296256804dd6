//! Student's t distribution, for intervals and comparisons of few repeats and few batches.

/// The chance that |t| with `freedom` degrees of freedom is at least `t` (Student 1908), by the regularised incomplete
/// beta function.
pub fn two_sided(t: f64, freedom: f64) -> f64 {
    if freedom <= 0.0 || t.is_nan() {
        return 1.0;
    }
    if t.is_infinite() {
        return 0.0;
    }
    incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t))
}

/// The value that |t| exceeds with chance `chance`, between 0 and 1.
pub fn quantile(chance: f64, freedom: f64) -> f64 {
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    while two_sided(high, freedom) > chance && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if two_sided(middle, freedom) > chance { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// Mean and its interval of `level` (0.95, say); no interval from fewer than two values.
pub fn mean_interval(values: &[f64], level: f64) -> Option<(f64, Option<(f64, f64)>)> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.is_empty() {
        return None;
    }
    if values.len() < 2 {
        return Some((mean, None));
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let wide = quantile(1.0 - level, n - 1.0) * (variance / n).sqrt();
    Some((mean, Some((mean - wide, mean + wide))))
}

/// `I_x(a, b)`, by its continued fraction, evaluated after Lentz (1976).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    // The fraction converges fast only on this side of the mean.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(a, b, x) / a
    } else {
        1.0 - front * fraction(b, a, 1.0 - x) / b
    }
}

#[expect(clippy::many_single_char_names, reason = "the names of the formula")]
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for n in 1..400 {
        let m = f64::from(n);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            value *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-14 {
            break;
        }
    }
    value
}

/// ln Γ(x) for x > 0, by Stirling's series after stepping up to where it is exact to double precision.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 12.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series = (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse / 1680.0))) / x;
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_printed_tables() {
        // Any table of Student's t: two-sided 5% and 1%.
        for (freedom, five, one) in
            [(1.0, 12.706, 63.657), (2.0, 4.303, 9.925), (6.0, 2.447, 3.707), (30.0, 2.042, 2.750)]
        {
            assert!((quantile(0.05, freedom) - five).abs() < 1e-3, "{freedom}: {}", quantile(0.05, freedom));
            assert!((quantile(0.01, freedom) - one).abs() < 1e-3, "{freedom}: {}", quantile(0.01, freedom));
            assert!((two_sided(five, freedom) - 0.05).abs() < 1e-4);
        }
        assert!((two_sided(0.0, 5.0) - 1.0).abs() < 1e-12);
        assert!(
            (ln_gamma(5.0) - 24_f64.ln()).abs() < 1e-12
                && (ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-12
        );
    }

    #[test]
    fn intervals_of_means() {
        assert_eq!(mean_interval(&[], 0.95), None);
        assert_eq!(mean_interval(&[3.0], 0.95), Some((3.0, None)));
        let (mean, interval) = mean_interval(&[1.0, 2.0, 3.0], 0.95).unwrap();
        let (low, high) = interval.unwrap();
        assert!((mean - 2.0).abs() < 1e-12 && (high - 2.0 - 2.484).abs() < 1e-3 && (2.0 - low - 2.484).abs() < 1e-3);
    }
}
