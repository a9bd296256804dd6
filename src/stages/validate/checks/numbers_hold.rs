//! Check: every number, date, amount, percentage, code and citation of an answer stands in its source.
//!
//! The source is the passage itself, not the quote as the model gave it: a quote may differ from the passage in a
//! character or two and still be found, and that character can be a digit.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::LazyLock;

use regex::Regex;

use super::Finding;
use super::facts::{Fact, Kind, Stated, facts};
use crate::stages::validate::normalize::Normalized;

/// Numbers that only count the points of a list within the answer.
#[expect(clippy::expect_used, reason = "the pattern is a constant, and the tests use it")]
static LIST_MARK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^\s*\d{1,2}[.)]\s+|(?:^|[\s,;:])\((?:\d|1\d)\)\s").expect("a valid pattern"));

/// Checks an answer against its passage and whatever else the model was shown. The value lists what is missing.
pub(crate) fn check(answer: &str, source: &str, context: &[&str]) -> Finding {
    let missing = missing(answer, source, context);
    let found = (!missing.is_empty()).then(|| missing.join(", "));
    Finding::none_of(found, || {
        "every number, date, amount, percentage and code of the answer must stand in the passage".into()
    })
}

/// The facts of `answer` that stand neither in `source` nor in `context`, as they are written.
pub fn missing(answer: &str, source: &str, context: &[&str]) -> Vec<String> {
    let claimed = facts(&LIST_MARK.replace_all(answer, "\n"));
    if claimed.is_empty() {
        return Vec::new();
    }
    let known = Known::remembered(source, context);
    let mut missing: Vec<String> = Vec::new();
    for Stated { fact, words } in claimed {
        // `one` and `first` are mostly no numbers.
        let pronoun = matches!(words.as_str(), "one" | "first") || counts_its_list(answer, &words, &fact);
        if !pronoun && !known.holds(&fact) && !missing.contains(&words) {
            missing.push(words);
        }
    }
    missing
}

/// Whether a number in words only says how many points the answer itself lists: `on three grounds: …, … or …`.
fn counts_its_list(answer: &str, words: &str, fact: &Fact) -> bool {
    const LONGEST_HEAD: usize = 60;
    let Fact::Number { value, kind: Kind::Plain, .. } = fact else { return false };
    if !words.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return false;
    }
    let answer = answer.to_lowercase();
    let Some((_, behind)) = answer.split_once(words) else { return false };
    let Some((head, list)) = behind.split_once(':') else { return false };
    if head.len() > LONGEST_HEAD || head.contains(['.', ',', ';', '?']) {
        return false;
    }
    let list = list.trim();
    let list = list.split_once(". ").map_or(list, |(list, _)| list);
    let separators = list.matches([',', ';']).count();
    let last = list.rsplit([',', ';']).next().unwrap_or_default().trim();
    // Without a comma before it, `and` separates two points more.
    let joined = [" and ", " or "].iter().any(|word| last.contains(word));
    [Some(separators + 1), joined.then_some(separators + 2)]
        .into_iter()
        .flatten()
        .any(|count| count.to_string() == *value)
}

/// The facts of a source.
struct Known {
    facts: Vec<Fact>,
    /// The text without blanks and hyphens, for codes that are written apart.
    squeezed: String,
}

/// Passages whose facts each thread remembers: the pairs of one passage are mostly checked close together, and finding
/// its facts was nearly half of all work in the checks.
const REMEMBERED: usize = 64;

thread_local! {
    static PASSAGES: RefCell<VecDeque<(blake3::Hash, Rc<Known>)>> = const { RefCell::new(VecDeque::new()) };
}

impl Known {
    /// The facts of a passage and its context, taken from those remembered if they are there.
    fn remembered(source: &str, context: &[&str]) -> Rc<Self> {
        let mut hasher = blake3::Hasher::new();
        for text in std::iter::once(&source).chain(context) {
            hasher.update(&(text.len() as u64).to_be_bytes()).update(text.as_bytes());
        }
        let id = hasher.finalize();
        let there = PASSAGES.with_borrow(|all| all.iter().find(|(other, _)| *other == id).map(|(_, k)| Rc::clone(k)));
        there.unwrap_or_else(|| {
            let known = Rc::new(Self::of(std::iter::once(source).chain(context.iter().copied())));
            PASSAGES.with_borrow_mut(|all| {
                if all.len() >= REMEMBERED {
                    all.pop_front();
                }
                all.push_back((id, Rc::clone(&known)));
            });
            known
        })
    }

    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let (mut all, mut squeezed) = (Vec::new(), String::new());
        for text in texts {
            for Stated { fact, .. } in facts(text) {
                all.extend(parts(&fact));
                all.push(fact);
            }
            squeezed.extend(Normalized::of(text).text.chars().filter(|c| !matches!(c, ' ' | '-')));
            squeezed.push('\n');
        }
        Self { facts: all, squeezed }
    }

    fn holds(&self, claimed: &Fact) -> bool {
        self.facts.iter().any(|known| agrees(claimed, known))
            || match claimed {
                // `July 1 … 2026`
                Fact::Date { year: Some(year), month, day: Some(day) } => {
                    self.holds(&Fact::Date { year: None, month: *month, day: Some(*day) })
                        && self.undated(*month, *day)
                        && self.holds(&Fact::Number { value: year.to_string(), kind: Kind::Plain, bare: true })
                }
                // `COVID 19`; a code of letters and digits only, so that digits cannot run together.
                Fact::Code(code) if code.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                    self.squeezed.match_indices(code.as_str()).any(|(at, _)| {
                        let edge = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_digit());
                        edge(self.squeezed[at + code.len()..].chars().next()) && self.written_apart(code)
                    })
                }
                _ => false,
            }
    }

    /// Whether the month and day stand somewhere without a year.
    fn undated(&self, month: u32, day: u32) -> bool {
        self.facts.contains(&Fact::Date { year: None, month, day: Some(day) })
    }

    /// Whether the digits of a code stand alone as a number, as those of `COVID 19` do.
    fn written_apart(&self, code: &str) -> bool {
        let digits = code.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        self.facts.iter().any(|fact| matches!(fact, Fact::Number { value, .. } if value == digits))
    }
}

/// Whether a claimed fact is what a known one says, perhaps less exactly.
fn agrees(claimed: &Fact, known: &Fact) -> bool {
    match (claimed, known) {
        (Fact::Number { value, kind, bare }, Fact::Number { value: there, kind: known, bare: known_bare }) => {
            let compatible = match (kind, known) {
                (Kind::Percent | Kind::Money, Kind::Plain) => *known_bare,
                (Kind::Plain, Kind::Percent) => *bare,
                (Kind::Percent | Kind::Money, _) | (_, Kind::Percent) => kind == known,
                _ => true,
            };
            value == there && compatible
        }
        (Fact::Date { year, month, day }, Fact::Date { year: known_year, month: known_month, day: known_day }) => {
            month == known_month && (year.is_none() || year == known_year) && (day.is_none() || day == known_day)
        }
        (Fact::Code(code), Fact::Code(known)) => {
            // A rule cited without its paragraph; an hour without morning or afternoon.
            known.strip_prefix(code.as_str()).is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('(') || (code.contains(':') && matches!(rest, "a" | "p"))
            })
        }
        _ => false,
    }
}

/// Smaller facts that a fact of a source also states: a date its year and day, a citation its parts.
fn parts(fact: &Fact) -> Vec<Fact> {
    let plain = |value: String| Fact::Number { value, kind: Kind::Plain, bare: true };
    match fact {
        Fact::Date { year, day, .. } => year.iter().chain(day).map(|number| plain(number.to_string())).collect(),
        Fact::Code(code) => {
            let mut parts = Vec::new();
            if let Some(at) = code.find("cfr").or_else(|| code.find("usc")) {
                parts.push(plain(code[..at].to_owned()));
                let section = code[at + 3..].to_owned();
                parts.extend(section.match_indices('(').map(|(end, _)| section[..end].to_owned()).map(plain).next());
                parts.push(Fact::Code(section.clone()));
                parts.push(plain(section));
            } else if code.starts_with(|c: char| c.is_ascii_digit()) {
                parts.extend(code.find('(').map(|end| plain(code[..end].to_owned())));
            }
            parts
        }
        Fact::Number { .. } => Vec::new(),
    }
}
