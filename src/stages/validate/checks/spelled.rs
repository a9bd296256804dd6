//! Numbers written in words.

const UNITS: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const ORDINALS: [&str; 20] = [
    "zeroth",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
];
/// Words that multiply, with their factors.
pub(super) const SCALES: [(&str, u64); 4] =
    [("hundred", 100), ("thousand", 1_000), ("million", 1_000_000), ("billion", 1_000_000_000)];

/// A pattern for any one number word.
pub(super) fn number_words() -> String {
    let mut words: Vec<String> = UNITS.iter().chain(&ORDINALS).chain(&TENS).map(|word| (*word).to_owned()).collect();
    for tens in TENS {
        let stem = tens.trim_end_matches('y');
        words.push(format!("{stem}ieth"));
        // As in `twentyfive`, where a line's end took the hyphen.
        words.extend(UNITS[1..10].iter().chain(&ORDINALS[1..10]).map(|unit| format!("{tens}{unit}")));
    }
    words.extend(SCALES.iter().flat_map(|(word, _)| [(*word).to_owned(), format!("{word}th")]));
    let plurals: Vec<String> = ORDINALS[3..].iter().map(|ordinal| format!("{ordinal}s")).collect();
    words.extend(plurals);
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    words.iter().map(|word| format!(r"{word}\b")).collect::<Vec<_>>().join("|")
}

/// The numbers in words that are number words or `and`, each with whether it is an ordinal. Words that make no one
/// number make several.
pub(super) fn numbers(words: &str) -> Vec<(u64, bool)> {
    let mut numbers: Vec<(u64, bool)> = Vec::new();
    // The number so far, its part below the last scale, and what may still be added to that.
    let (mut total, mut part, mut room): (u64, u64, u64) = (0, 0, 0);
    let mut open = false;
    let mut close = |total: &mut u64, part: &mut u64, open: &mut bool, ordinal: bool| {
        if *open {
            numbers.push((total.saturating_add(*part), ordinal));
        }
        (*total, *part, *open) = (0, 0, false);
    };
    for word in words.split([' ', '-']).filter(|word| !word.is_empty()) {
        if let Some((_, factor)) = SCALES.iter().find(|(scale, _)| word.strip_suffix("th").unwrap_or(word) == *scale) {
            let below = if open && part > 0 { part } else { 1 };
            if *factor == 100 {
                part = below.saturating_mul(100);
                room = 100;
            } else {
                total = total.saturating_add(below.saturating_mul(*factor));
                (part, room) = (0, 1000);
            }
            open = true;
            if word.ends_with("th") {
                close(&mut total, &mut part, &mut open, true);
            }
        } else if word == "and" {
            // `two hundred and five` is one number, `two and five` are two.
            if room < 100 {
                close(&mut total, &mut part, &mut open, false);
            }
        } else if let Some((value, ordinal)) = small(word) {
            if !open || value >= room {
                close(&mut total, &mut part, &mut open, false);
                part = value;
            } else {
                part += value;
            }
            open = true;
            room = if value >= 20 && value % 10 == 0 { 10 } else { 0 };
            if ordinal {
                close(&mut total, &mut part, &mut open, true);
            }
        }
    }
    close(&mut total, &mut part, &mut open, false);
    numbers
}

/// A number word below a hundred, and whether it is an ordinal.
fn small(word: &str) -> Option<(u64, bool)> {
    let place = |list: &[&str], word: &str| list.iter().position(|known| *known == word).map(|i| i as u64);
    let ordinal = |word: &str| place(&ORDINALS, word.strip_suffix('s').unwrap_or(word));
    if let Some(value) = place(&UNITS, word) {
        return Some((value, false));
    }
    if let Some(value) = ordinal(word) {
        return Some((value, true));
    }
    for (i, tens) in TENS.iter().enumerate() {
        let value = (i as u64 + 2) * 10;
        if let Some(unit) = word.strip_prefix(tens) {
            return match unit {
                "" => Some((value, false)),
                _ => place(&UNITS, unit)
                    .map(|unit| (value + unit, false))
                    .or_else(|| ordinal(unit).map(|unit| (value + unit, true))),
            };
        }
        if word.strip_suffix("ieth") == tens.strip_suffix('y') {
            return Some((value, true));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_make_numbers() {
        for (words, expected) in [
            ("ten", &[(10, false)][..]),
            ("twenty five", &[(25, false)]),
            ("twentyfive", &[(25, false)]),
            ("one hundred and thirty three", &[(133, false)]),
            ("two thousand five hundred", &[(2500, false)]),
            ("three hundred thousand and one", &[(300_001, false)]),
            ("hundred", &[(100, false)]),
            ("two and five", &[(2, false), (5, false)]),
            ("two three", &[(2, false), (3, false)]),
            ("two thirds", &[(2, false), (3, true)]),
            ("twenty first", &[(21, true)]),
            ("one hundredth", &[(100, true)]),
            ("thirtieth", &[(30, true)]),
            ("ninetyninth", &[(99, true)]),
        ] {
            assert_eq!(numbers(words), expected, "{words}");
        }
    }
}
