//! Token F1 between two texts, as the evaluation of `SQuAD` defines it (Rajpurkar et al., EMNLP 2016): lower case,
//! punctuation and articles removed, tokens counted as bags.

use std::collections::HashMap;

use super::normalize::Normalized;

/// The tokens that count.
pub fn tokens(text: &str) -> Vec<String> {
    Normalized::of(text)
        .text
        .split_whitespace()
        .map(|word| word.chars().filter(|c| c.is_alphanumeric()).collect::<String>())
        .filter(|word| !word.is_empty() && !matches!(word.as_str(), "a" | "an" | "the"))
        .collect()
}

/// The F1 of `a`'s tokens against `b`'s, 0 to 1; 1 if neither has any.
pub fn token_f1(a: &str, b: &str) -> f64 {
    let (a, b) = (tokens(a), tokens(b));
    if a.is_empty() && b.is_empty() {
        return 1.0;
    }
    let common = common(&a, &b);
    2.0 * common as f64 / (a.len() + b.len()) as f64
}

/// How many tokens the two have in common, each as often as both have it.
pub fn common(a: &[String], b: &[String]) -> usize {
    let mut left: HashMap<&str, usize> = HashMap::new();
    for token in b {
        *left.entry(token).or_default() += 1;
    }
    a.iter()
        .filter(|token| match left.get_mut(token.as_str()) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_squad_evaluation() {
        for (a, b, f1) in [
            ("The limit is $1,255 a month.", "the limit is 1255 month", 1.0),
            ("within 45 days", "within 90 days", 2.0 / 3.0),
            ("yes", "no", 0.0),
            ("", "", 1.0),
            ("", "no", 0.0),
            ("days days days", "days", 0.5),
            ("“Long-term” care", "long-\nterm care", 1.0),
        ] {
            assert!((token_f1(a, b) - f1).abs() < 1e-12, "{a} / {b}: {}", token_f1(a, b));
        }
    }
}
