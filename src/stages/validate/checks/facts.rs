//! The hard facts of a text: numbers, amounts, percentages, dates, times, codes and citations, each in one form
//! whatever way it is written, so that those of an answer can be looked up among those of its source.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::spelled::{SCALES, number_words, numbers};
use crate::stages::validate::normalize::Normalized;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anything.
    Plain,
    /// Per cent.
    Percent,
    /// Money.
    Money,
    /// A place in an order.
    Ordinal,
}

/// A hard fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// A number: decimal digits without separators or needless zeros.
    Number {
        /// The digits.
        value: String,
        /// What it counts.
        kind: Kind,
        /// Whether no noun follows that says what it counts, as in a table cell.
        bare: bool,
    },
    /// A date, or a part of one.
    Date {
        /// The year.
        year: Option<u32>,
        /// The month, from 1.
        month: u32,
        /// The day of the month.
        day: Option<u32>,
    },
    /// A code, a citation or a time, in lower case without blanks and hyphens.
    Code(String),
}

/// A fact and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stated {
    /// The fact.
    pub(super) fact: Fact,
    /// The words, normalised.
    pub(super) words: String,
}

const MONTH: &str = r"(?:january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec)\b\.?";
/// One pattern for all, in order of preference where several begin at the same place.
#[expect(clippy::expect_used, reason = "the pattern is a constant, and the tests use every part of it")]
static FACT: LazyLock<Regex> = LazyLock::new(|| {
    let words = number_words();
    let pattern = format!(
        r"(?x)
        \b(?P<iso>(\d{{4}})-(\d{{2}})-(\d{{2}}))\b
        |\b(?P<us>(\d{{1,2}})/(\d{{1,2}})/(\d{{4}}|\d{{2}}))\b
        |\b(?P<md>({MONTH})\ (\d{{1,2}})(?:st|nd|rd|th)?(?:,?\ (\d{{4}}))?)\b
        |\b(?P<my>({MONTH}),?\ (?:of\ )?(\d{{4}}))\b
        |\b(?P<dm>(\d{{1,2}})(?:st|nd|rd|th)?\ (?:day\ )?(?:of\ )?({MONTH}),?\ (\d{{4}}))\b
        |\b(?P<cite>(\d+)\ ?(c\.?\ ?f\.?\ ?r|u\.?\ ?s\.?\ ?c)\b\.?\ ?(?:§+\ ?|parts?\ |sections?\ |sec\.?\ )?(\d+[a-z]?(?:\.\d+)?[a-z]?(?:-\d+)?(?:\([a-z0-9]{{1,5}}\))*))
        |\b(?P<clock>(\d{{1,2}})(?::(\d{{2}}))?\ ?([ap])\.?\ ?m\b)
        |\b(?P<hour>\d{{1,2}}:\d{{2}})\b
        |\b(?P<code>[a-z]{{1,6}}-?\d[a-z0-9]*(?:[-.][a-z0-9]*\d[a-z0-9]*)*(?:\([a-z0-9]{{1,5}}\))*)
        |\b(?P<part>\d+(?:\.\d+)?[a-z]?(?:\([a-z0-9]{{1,5}}\))+)
        |(?P<number>(?P<money>\$\ ?|\busd\ ?)?\b(?P<digits>\d{{1,3}}(?:,\d{{3}})+|\d+)(?P<decimals>\.\d+)?
            (?:(?P<ordinal>st|nd|rd|th)\b|(?P<letters>[a-z][a-z0-9]*))?(?:\ (?P<scale>thousand|million|billion)\b)?)
        |\b(?P<words>(?:{words})(?:[\ -](?:and\ )?(?:{words}))*)\b"
    );
    Regex::new(&pattern).expect("a valid pattern")
});

/// What follows a number and says its kind.
#[expect(clippy::expect_used, reason = "the pattern is a constant, and the tests use every part of it")]
static UNIT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^[\ -]?(?:(?P<percent>%|percent(?:age)?\b|per\ cent\b|pct\b)|(?P<money>dollars?\b|usd\b)|(?P<noun>[a-z]+))",
    )
    .expect("a valid pattern")
});

/// Between two numbers of which the second says the kind for both, as in `10 to 20 percent`.
const JOINTS: [&str; 9] = ["to", "and", "or", "through", "-", "but", "versus", "until", ","];

/// Words behind a number that are no unit.
const NO_UNITS: [&str; 24] = [
    "per", "a", "an", "each", "every", "for", "and", "or", "in", "to", "of", "is", "are", "if", "with", "monthly",
    "annually", "weekly", "yearly", "as", "on", "at", "when", "plus",
];

/// All facts of a text, in order.
pub(super) fn facts(text: &str) -> Vec<Stated> {
    let text = Normalized::of(&apart(text)).text;
    let mut facts: Vec<Stated> = Vec::new();
    let mut last: Option<(usize, usize)> = None;
    for captures in FACT.captures_iter(&text) {
        let Some(whole) = captures.get(0) else { continue };
        let first = facts.len();
        for fact in read(&captures, &text[whole.end()..]) {
            facts.push(Stated { fact, words: whole.as_str().trim().to_owned() });
        }
        // `10 to 20 percent`: the first number has the second's kind.
        if let Some((index, end)) = last
            && JOINTS.contains(&text[end..whole.start()].trim())
            && let Some(Fact::Number { kind: behind, .. }) = facts.get(first).map(|stated| stated.fact.clone())
            && let Some(Stated { fact: Fact::Number { kind, .. }, .. }) = facts.get_mut(index)
            && *kind == Kind::Plain
            && behind == Kind::Percent
        {
            *kind = behind;
        }
        last = (facts.len() > first).then_some((facts.len() - 1, whole.end()));
    }
    facts
}

/// The facts of a text in one form each, sorted, each once: what two texts must have in common to state the same.
/// `one` and `first` are mostly no numbers and are left out.
pub(super) fn canonical(text: &str) -> Vec<String> {
    let mut all: Vec<String> = facts(text)
        .into_iter()
        .filter(|stated| !matches!(stated.words.as_str(), "one" | "first"))
        .map(|stated| match stated.fact {
            Fact::Number { value, kind, .. } => format!("{value}{kind:?}"),
            Fact::Date { year, month, day } => format!("{year:?} {month} {day:?}"),
            Fact::Code(code) => code,
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Blanks for hyphens between letters, which normalisation would drop: `ten-day`, `two-thirds`.
fn apart(text: &str) -> String {
    let mut chars = text.chars().peekable();
    let mut letter = false;
    let mut apart = String::with_capacity(text.len());
    while let Some(character) = chars.next() {
        let between = letter && matches!(character, '-' | '\u{2010}' | '\u{2011}');
        let hyphen = between && chars.peek().is_some_and(|next| next.is_alphabetic());
        apart.push(if hyphen { ' ' } else { character });
        letter = character.is_alphabetic();
    }
    apart
}

/// The facts of one match.
fn read(found: &Captures<'_>, behind: &str) -> Vec<Fact> {
    let text = |i: usize| found.get(i).map_or("", |group| group.as_str());
    let number = |i: usize| text(i).parse::<u32>().ok();
    let at = |name: &str| FACT.capture_names().position(|known| known == Some(name)).unwrap_or(0);
    let has = |name: &str| found.name(name).is_some();
    if has("iso") {
        let i = at("iso");
        return date(number(i + 1), number(i + 2), number(i + 3));
    }
    if has("us") {
        let i = at("us");
        let year = number(i + 3).map(|year| if year < 100 { 2000 + year } else { year });
        return date(year, number(i + 1), number(i + 2));
    }
    if has("md") {
        let i = at("md");
        return date(number(i + 3), month(text(i + 1)), number(i + 2));
    }
    if has("my") {
        let i = at("my");
        return date(number(i + 2), month(text(i + 1)), None);
    }
    if has("dm") {
        let i = at("dm");
        return date(number(i + 3), month(text(i + 2)), number(i + 1));
    }
    if has("cite") {
        let i = at("cite");
        let book: String = text(i + 2).chars().filter(char::is_ascii_alphabetic).collect();
        return vec![Fact::Code(format!("{}{book}{}", text(i + 1), squeezed(text(i + 3))))];
    }
    if has("clock") {
        let i = at("clock");
        let minutes = if text(i + 2).is_empty() { "00" } else { text(i + 2) };
        return vec![Fact::Code(format!("{}:{minutes}{}", text(i + 1).trim_start_matches('0'), text(i + 3)))];
    }
    if let Some(hour) = found.name("hour") {
        return vec![Fact::Code(hour.as_str().trim_start_matches('0').to_owned())];
    }
    if let Some(code) = found.name("code") {
        let code = squeezed(code.as_str());
        let digits = code.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        // A fiscal or calendar year is a year, however it is written.
        if ["fy", "sfy", "ffy", "cy", "py"].contains(&&code[..code.len() - digits.len()])
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            let value = if digits.len() == 2 { format!("20{digits}") } else { digits.to_owned() };
            return vec![Fact::Number { value, kind: Kind::Plain, bare: true }];
        }
        return vec![Fact::Code(code)];
    }
    if let Some(part) = found.name("part") {
        return vec![Fact::Code(squeezed(part.as_str()))];
    }
    if let Some(words) = found.name("words") {
        let (unit_kind, unit_bare) = unit(behind);
        let numbers = numbers(words.as_str());
        let last = numbers.len().saturating_sub(1);
        return numbers
            .into_iter()
            .enumerate()
            .map(|(i, (value, ordinal))| {
                let kind = match (ordinal, i == last) {
                    (true, _) => Kind::Ordinal,
                    (false, true) => unit_kind,
                    (false, false) => Kind::Plain,
                };
                Fact::Number { value: value.to_string(), kind, bare: i == last && unit_bare }
            })
            .collect();
    }
    digits(found, behind).into_iter().collect()
}

/// A number in digits, or a code that begins with one.
fn digits(found: &Captures<'_>, behind: &str) -> Option<Fact> {
    let digits = found.name("digits")?.as_str();
    let decimals = found.name("decimals").map_or("", |group| group.as_str());
    if let Some(letters) = found.name("letters") {
        return Some(Fact::Code(format!("{digits}{decimals}{}", letters.as_str()).replace(',', "")));
    }
    let scale = found.name("scale").and_then(|scale| SCALES.iter().find(|(word, _)| *word == scale.as_str()));
    let zeros = scale.map_or(0, |(_, factor)| factor.ilog10() as usize);
    let mut whole = digits.replace(',', "");
    let mut fraction = decimals.trim_start_matches('.').to_owned();
    if zeros > 0 {
        let moved: String = fraction.chars().chain(std::iter::repeat('0')).take(zeros).collect();
        fraction = fraction.chars().skip(zeros).collect();
        whole.push_str(&moved);
    }
    let fraction = fraction.trim_end_matches('0');
    let value = if fraction.is_empty() { whole } else { format!("{whole}.{fraction}") };
    let (mut kind, bare) = unit(behind);
    if found.name("money").is_some() {
        kind = Kind::Money;
    } else if found.name("ordinal").is_some() {
        kind = Kind::Ordinal;
    }
    Some(Fact::Number { value, kind, bare })
}

/// What the text behind a number says of its kind, and whether the number stands for itself.
fn unit(behind: &str) -> (Kind, bool) {
    let Some(found) = UNIT.captures(behind) else { return (Kind::Plain, true) };
    if found.name("percent").is_some() {
        (Kind::Percent, false)
    } else if found.name("money").is_some() {
        (Kind::Money, false)
    } else {
        (Kind::Plain, found.name("noun").is_some_and(|noun| NO_UNITS.contains(&noun.as_str())))
    }
}

fn date(year: Option<u32>, month: Option<u32>, day: Option<u32>) -> Vec<Fact> {
    month.map(|month| Fact::Date { year, month, day }).into_iter().collect()
}

/// The number of a month by the first three letters of its name.
fn month(name: &str) -> Option<u32> {
    const NAMES: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    NAMES.iter().position(|known| name.starts_with(known)).map(|i| i as u32 + 1)
}

/// A code without blanks and hyphens.
fn squeezed(code: &str) -> String {
    code.chars().filter(|c| !matches!(c, ' ' | '-')).collect::<String>().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let facts = facts(text).into_iter().map(|stated| match stated.fact {
            Fact::Number { value, kind: Kind::Plain, .. } => value,
            Fact::Number { value, kind: Kind::Percent, .. } => format!("{value}%"),
            Fact::Number { value, kind: Kind::Money, .. } => format!("${value}"),
            Fact::Number { value, kind: Kind::Ordinal, .. } => format!("{value}."),
            Fact::Date { year, month, day } => format!(
                "{}-{month}-{}",
                year.map_or("?".into(), |year| year.to_string()),
                day.map_or("?".into(), |day| day.to_string())
            ),
            Fact::Code(code) => format!("<{code}>"),
        });
        facts.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_way_of_writing_gives_one_form() {
        for (text, expected) in [
            ("1,000 and 1000 and 1000.00", "1000 1000 1000"),
            ("$1,200.00, 1,200 dollars, \\$ 1200.50", "$1200 $1200 $1200.5"),
            ("10 percent, 10%, ten per cent, 10 to 20 percent, 2.50 %", "10% 10% 10% 10% 20% 2.5%"),
            ("ten days, twenty-five, forty five, one hundred and thirty-three", "10 25 45 133"),
            (
                "two hundred thousand, two thousand five hundred, $1.5 million, 3 billion",
                "200000 2500 $1500000 3000000000",
            ),
            ("two and five, ages two three", "2 5 2 3"),
            ("the 10th day, tenth day, twenty-first, thirtieth, 1st", "10. 10. 21. 30. 1."),
            (
                "July 1, 2026 = 2026-07-01 = 7/1/2026 = 07/01/26 = 1 July 2026 = 1st of July, 2026",
                ["2026-7-1"; 6].join(" ").as_str(),
            ),
            ("Sept. 30; December 31st; March 2027; a member may 12", "?-9-30 ?-12-31 2027-3-? ?-5-12"),
            (
                "CPT 99213, HCPCS H0031, D0120, T1019-U2, 0120T, form DHS-1171, COVID-19",
                "99213 <h0031> <d0120> <t1019u2> <0120t> <dhs1171> <covid19>",
            ),
            (
                "42 CFR 435.916, 42 C.F.R. § 435.916(a)(1), 42 U.S.C. 1396a, section 1915(c)",
                "<42cfr435.916> <42cfr435.916(a)(1)> <42usc1396a> <1915(c)>",
            ),
            ("from 8 a.m. to 4:30 p.m., 8:00 AM", "<8:00a> <4:30p> <8:00a>"),
            ("SFY2026, FY 2026, FY26", "2026 2026 2026"),
            ("a 90-day limit, ages 19-64, 1-800-555-0100", "90 19 64 1 800 555 0100"),
            ("two-thirds; a ten-day limit; nobody; often; attend; seconds", "2 3. 10"),
            ("| 1 | $1,255 | 138% |", "1 $1255 138%"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }
}
