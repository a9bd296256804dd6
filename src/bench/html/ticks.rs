//! Where an axis has its marks, and how their numbers are written.

/// Marks at 1, 2 or 5 times a power of ten, between `low` and `high`, about `wanted` of them.
pub(super) fn nice(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 {
        return vec![low];
    }
    let step = step(span / wanted.max(1) as f64);
    let first = (low / step - 1e-9).ceil();
    let mut ticks = Vec::new();
    let mut n = first;
    while n * step <= high + step * 1e-9 && ticks.len() < 100 {
        // Not summed up: a sum of tenths drifts.
        ticks.push(if n == 0.0 { 0.0 } else { n * step });
        n += 1.0;
    }
    ticks
}

/// The least of 1, 2, 5 times a power of ten that is not below `rough`.
fn step(rough: f64) -> f64 {
    let power = 10_f64.powf(rough.log10().floor());
    let times = rough / power;
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| times <= f + 1e-9).unwrap_or(10.0);
    factor * power
}

/// An upper end that is a mark itself, at least `high`.
pub(super) fn rounded_up(high: f64, wanted: usize) -> f64 {
    if high <= 0.0 || !high.is_finite() {
        return 1.0;
    }
    let step = step(high / wanted.max(1) as f64);
    (high / step - 1e-9).ceil() * step
}

/// A number as short as it can be said, with thousands apart.
pub(super) fn number(value: f64) -> String {
    let magnitude = value.abs();
    let digits = match magnitude {
        m if m == 0.0 || m >= 100.0 => 0,
        m if m >= 10.0 => 1,
        m if m >= 1.0 => 2,
        m if m >= 0.1 => 3,
        _ => 4,
    };
    let mut text = format!("{magnitude:.digits$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    let whole = text.find('.').unwrap_or(text.len());
    let mut at = whole;
    while at > 3 {
        at -= 3;
        text.insert(at, ',');
    }
    if value < 0.0 && text != "0" { format!("−{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_are_round_numbers() {
        assert_eq!(nice(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(nice(0.0, 0.7, 4), [0.0, 0.2, 0.4, 0.600_000_000_000_000_1]);
        assert_eq!(nice(3.0, 3.0, 4), [3.0]);
        assert_eq!((rounded_up(9.1, 5), rounded_up(0.0, 5), rounded_up(101.0, 4)), (10.0, 1.0, 150.0));
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0.0, 1_234_567.0, 12.34, 1.5, 0.05, 0.25, -3.0].map(number).into();
        assert_eq!(shown, ["0", "1,234,567", "12.3", "1.5", "0.05", "0.25", "−3"]);
    }

    proptest! {
        #[test]
        fn marks_lie_within_and_are_few(low in -1e6..1e6_f64, span in 1e-6..1e6_f64, wanted in 2..9_usize) {
            let ticks = nice(low, low + span, wanted);
            prop_assert!(ticks.len() <= wanted * 3 + 1);
            prop_assert!(ticks.iter().all(|t| *t >= low - span * 1e-6 && *t <= low + span * (1.0 + 1e-6)));
            prop_assert!(rounded_up(span, wanted) >= span * (1.0 - 1e-9));
        }
    }
}
