//! What a question about a sentence may ask for, by rule: the part of the sentence that answers it, and how the
//! question begins. The model writes the rest.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::clause::{Clause, uncapital};
use super::words::{is_stop_word, words};

/// One way to ask about a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Angle {
    /// The part of the sentence that the question asks for, and must not give away.
    pub(super) focus: String,
    /// How the question begins; one that ends with a question mark is complete.
    pub(super) start: String,
    /// The kind of question.
    pub(super) kind: &'static str,
}

/// At most this many angles a sentence: each costs a row of the batch.
const MOST: usize = 2;

/// Those who act in policies: their part in a rule can be asked for with "Who".
const ACTORS: &[&str] = &[
    "administrator",
    "agency",
    "agencies",
    "aide",
    "applicant",
    "applicants",
    "assistant",
    "authority",
    "beneficiary",
    "board",
    "center",
    "clinician",
    "clinic",
    "committee",
    "contractor",
    "court",
    "department",
    "director",
    "division",
    "doctor",
    "doula",
    "employer",
    "enrollee",
    "guardian",
    "hospital",
    "individual",
    "laboratory",
    "lawyer",
    "manager",
    "member",
    "members",
    "nurse",
    "office",
    "officer",
    "operator",
    "parent",
    "participant",
    "participants",
    "patient",
    "person",
    "persons",
    "pharmacist",
    "pharmacy",
    "physician",
    "plan",
    "plans",
    "practitioner",
    "practitioners",
    "prescriber",
    "provider",
    "providers",
    "recipient",
    "representative",
    "reviewer",
    "spouse",
    "staff",
    "supplier",
    "suppliers",
    "supervisor",
    "surgeon",
    "team",
    "vendor",
    "worker",
    "woman",
    "residents",
    "people",
];

fn rule(pattern: &str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

static MONEY: LazyLock<Option<Regex>> =
    LazyLock::new(|| rule(r"(?:up to |at least |no more than )?\$\d[\d,]*(?:\.\d+)?(?: (?:million|billion))?"));
static PERCENT: LazyLock<Option<Regex>> = LazyLock::new(|| rule(r"\d[\d.,]*(?:%| percent)"));
static PERIOD: LazyLock<Option<Regex>> = LazyLock::new(|| {
    rule(
        r"(?i)\b(?:(within|at least|up to|for up to|no more than|more than|less than|for at least|for|once every|every|after) )?(?:the (?:last|first|next) )?(\d[\d,]*)[ -]((?:business |calendar |working |consecutive |full |more )?)(minute|hour|day|week|month|year)s?\b",
    )
});
static COUNT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    rule(r"(?:(?:at least|up to|no more than|more than|fewer than) )?\b(\d[\d,]*) ((?:[a-z]+ )?[a-z]{3,}s)\b")
});
static DEFINITION: LazyLock<Option<Regex>> =
    LazyLock::new(|| rule(r"^((?:(?:An?|The) )?[^,;:]{3,60}?) (means|is an?|is the) (.+)$"));
static CONDITION: LazyLock<Option<Regex>> =
    LazyLock::new(|| rule(r"(?:^|[ ,])((?:only )?(?:when|if|while|until) [^;]{12,})$"));

/// The angles of a sentence, the most telling first; none where no rule fits.
pub(super) fn angles(sentence: &str) -> Vec<Angle> {
    let mut found: Vec<Angle> = Vec::new();
    let mut add = |focus: &str, start: String, kind: &'static str| {
        let focus = focus.trim().trim_end_matches(['.', ',', ';']).to_owned();
        if found.len() < MOST && !found.iter().any(|a| a.start == start || (a.focus == focus && a.kind == kind)) {
            found.push(Angle { focus, start, kind });
        }
    };
    if let Some((subject, verb, rest)) = definition(sentence) {
        let plain = uncapital(subject);
        let start = match verb {
            "means" if plain == subject => format!("What does the term {plain} mean?"),
            _ => format!("What is {plain}?"),
        };
        add(rest, start, "definition");
    }
    let Some(clause) = Clause::of(sentence) else { return found };
    let inverted = clause.inverted();
    let actor = ACTORS.contains(&head(clause.subject).as_str());
    if !clause.negated() && !clause.subject.starts_with("Only ") {
        let statement = &clause.rest[..joined(clause.rest)];
        if let Some((focus, ask)) = quantity(statement, clause.verb) {
            add(&focus, format!("{ask} {inverted}"), "numeric");
        }
        if let Some(condition) = captures(&CONDITION, statement).and_then(|c| c.get(1)) {
            let (before, condition) = (&statement[..condition.start()], condition.as_str());
            if !before.ends_with("even ") && !condition.contains(", and ") {
                let ask = if condition.starts_with("until") { "Until when" } else { "When" };
                add(condition, format!("{ask} {inverted}"), "conditional");
            }
        }
        if actor && matches!(clause.verb, "must" | "may" | "shall" | "should") && !clause.rest.starts_with("be ") {
            // The condition or deadline stays in the question; the deed is what it asks for.
            let marks = [" when ", " if ", " before ", " after ", " unless ", " within ", " until "];
            if let Some(end) = marks
                .iter()
                .filter_map(|mark| clause.rest.find(mark))
                .min()
                .filter(|end| *end > 12 && !clause.rest[..*end].contains(" that "))
            {
                let mark = clause.rest[end..].split_whitespace().next().unwrap_or_default();
                add(&clause.rest[..end], format!("What {inverted} do {mark}"), "procedural");
            }
        }
    }
    // A thing is asked for only by what is or may be done with it: "What includes a notice?" is no question.
    if !clause.subject.starts_with("No ") && (actor || done_to(&clause)) {
        let verb = if actor && clause.verb == "are" { "is" } else { clause.verb };
        // The first telling word keeps the question on the sentence's own statement.
        let mut lead = String::new();
        for word in clause.rest.split(' ') {
            lead = format!("{lead} {}", word.trim_end_matches(','));
            if !is_stop_word(&word.to_lowercase()) || word.ends_with(',') {
                break;
            }
        }
        add(clause.subject, format!("{} {verb}{lead}", if actor { "Who" } else { "What" }), "factual");
    }
    found
}

/// What of a sentence the question about an angle may say: without its focus, and without a second statement
/// that is joined on.
pub(super) fn sayable(sentence: &str, angle: &Angle) -> String {
    let at = sentence.find(&angle.focus).unwrap_or(0);
    let first = joined(sentence);
    let statement = if first > at { &sentence[..first] } else { sentence };
    if angle.focus.is_empty() { statement.to_owned() } else { statement.replacen(&angle.focus, " ", 1) }
}

/// Whether a statement says what is, or is to be, done with its subject.
fn done_to(clause: &Clause<'_>) -> bool {
    let passive = matches!(clause.verb, "is" | "was") || (clause.auxiliary && clause.rest.starts_with("be "));
    passive && !clause.negated()
}

/// Where a second statement is joined on; the length of the text if none is.
fn joined(text: &str) -> usize {
    let marks = [", and the ", ", and a ", ", and an ", ", and no ", ", but ", ", whichever ", "; "];
    marks.iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len())
}

/// The head noun of a subject, in lower case: the last word before whatever qualifies it.
fn head(subject: &str) -> String {
    let qualifies = |w: &&str| {
        matches!(
            *w,
            "of" | "who"
                | "that"
                | "which"
                | "whose"
                | "for"
                | "with"
                | "in"
                | "at"
                | "on"
                | "to"
                | "from"
                | "above"
                | "under"
        )
    };
    words(subject).take_while(|w| !qualifies(w)).last().unwrap_or_default().to_lowercase()
}

fn captures<'t>(rule: &'static LazyLock<Option<Regex>>, text: &'t str) -> Option<Captures<'t>> {
    rule.as_ref().and_then(|rule| rule.captures(text))
}

fn part<'t>(captures: &Captures<'t>, group: usize) -> &'t str {
    captures.get(group).map_or("", |m| m.as_str())
}

/// Subject, verb and definition of a sentence that defines something.
fn definition(sentence: &str) -> Option<(&str, &str, &str)> {
    let found = captures(&DEFINITION, sentence)?;
    let (subject, verb, rest) = (part(&found, 1), part(&found, 2), part(&found, 3));
    let inner = words(subject).skip(1).any(|w| {
        matches!(w, "who" | "that" | "which" | "when" | "of" | "must" | "may" | "is" | "are" | "and" | "or" | "for")
    });
    let conditional = [" when ", " if ", " while ", " unless "].iter().any(|mark| rest.contains(mark));
    (!inner && !conditional && words(subject).count() <= 5 && words(rest).count() >= 4).then_some((subject, verb, rest))
}

/// The first quantity of what follows `verb`, and the words that ask for it.
fn quantity(text: &str, verb: &str) -> Option<(String, String)> {
    // A quantity inside a condition or an inner clause belongs to that, not to the statement; a deadline behind an
    // inner clause mostly belongs to the statement.
    let first = |marks: &[&str]| {
        let begins = marks.iter().any(|mark| text.starts_with(mark.trim_start())) || text.starts_with("only ");
        let found = marks.iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
        if begins { 0 } else { found }
    };
    let condition = first(&[" when ", " if ", " unless ", " while ", " because "]);
    let inner = condition.min(first(&[" that ", " who ", " which "]));
    let outer = |c: &Captures<'_>| c.get(0).is_some_and(|m| m.start() < inner);
    if let Some(c) = captures(&MONEY, text).filter(outer) {
        return Some((part(&c, 0).into(), "How much".into()));
    }
    if let Some(c) = captures(&PERCENT, text).filter(outer) {
        return Some((part(&c, 0).into(), "What percentage".into()));
    }
    if let Some(c) = captures(&PERIOD, text) {
        let (whole, lead) = (part(&c, 0), part(&c, 1).to_lowercase());
        let start = c.get(0).map_or(0, |m| m.start());
        let placed = start < inner || (lead == "within" && start < condition);
        let part_of_phrase = [" of", " any", " every", " the"].iter().any(|w| text[..start].trim_end().ends_with(w));
        let has = matches!(verb, "has" | "have" | "is" | "are" | "equals")
            || text.starts_with("have ")
            || text.starts_with("be ");
        let behind = c.get(0).map_or("", |m| &text[m.end()..]);
        let relative = behind.starts_with(" before ") || behind.starts_with(" after ");
        if !placed
            || [" last ", " first ", " next "].iter().any(|w| whole.contains(w))
            || (lead.is_empty() && (part_of_phrase || !(has || relative)))
            || (lead != "within" && part_of_phrase)
        {
            return None;
        }
        let unit = format!("{}{}s", part(&c, 3).replace("more ", ""), part(&c, 4));
        if behind.starts_with(" old") {
            return Some((format!("{whole} old"), "How old".into()));
        }
        if relative && lead != "within" {
            let until = behind.find([',', ';']).unwrap_or(behind.len());
            if words(&behind[..until]).count() <= 5 {
                return Some((format!("{whole}{}", &behind[..until]), format!("How many {unit}{}", &behind[..until])));
            }
        }
        let ask = match lead.as_str() {
            "within" => format!("Within how many {unit}"),
            "every" | "once every" => "How often".into(),
            "for" | "for up to" | "for at least" => "For how long".into(),
            "after" => format!("After how many {unit}"),
            _ => format!("How many {unit}"),
        };
        return Some((whole.into(), ask));
    }
    let c = captures(&COUNT, text).filter(outer)?;
    let noun = part(&c, 2);
    (!words(noun).any(is_stop_word)).then(|| (part(&c, 0).into(), format!("How many {noun}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(sentence: &str) -> Vec<String> {
        angles(sentence).into_iter().map(|a| a.start).collect()
    }

    #[test]
    fn questions_begin_as_the_sentence_asks_for() {
        for (sentence, start) in [
            (
                "The plan must decide an internal appeal within 28 calendar days.",
                "Within how many calendar days must the plan",
            ),
            ("The managed care plan pays the fee of $410 for each review.", "How much does the managed care plan pay"),
            ("Resource means cash, or property that an owner can sell.", "What does the term Resource mean?"),
            ("An applicant must be at least 65 years old to enroll.", "How old must an applicant"),
            (
                "The Office mails a notice at least 17 days before the hearing.",
                "How many days before the hearing does the Office mail",
            ),
            ("A request is accepted only when the portal has been closed for more than 2 hours.", "When is a request"),
            ("A school record is acceptable proof of identity.", "What is acceptable"),
            ("The Office of Clinical Review must forward the request in writing.", "Who must forward"),
        ] {
            assert_eq!(starts(sentence).first().map(String::as_str), Some(start), "{sentence}");
        }
    }

    #[test]
    fn what_no_rule_understands_gets_no_question() {
        assert!(starts("When in doubt, the older rule stays.").is_empty());
        assert!(starts("").is_empty());
        assert!(angles("The Office mails a notice at least 17 days before the hearing.").len() <= MOST);
    }

    #[test]
    fn a_question_may_say_its_own_statement_without_the_focus() {
        let sentence = "A request is answered within 24 hours, and the pharmacy may dispense a supply.";
        let angle = &angles(sentence)[0];
        assert_eq!(sayable(sentence, angle), "A request is answered  ");
    }

    #[test]
    fn the_focus_is_what_the_question_asks_for() {
        let angle = &angles("The plan must decide an internal appeal within 28 calendar days.")[0];
        assert_eq!((angle.focus.as_str(), angle.kind), ("within 28 calendar days", "numeric"));
    }
}
