//! Splits a plain English sentence into subject, verb and the rest, by rule; good enough to turn statements into
//! questions, and silent where it is not sure.

use super::words::is_stop_word;

/// Verbs that stand before the subject in a question.
const AUXILIARIES: &[&str] = &["are", "can", "is", "may", "must", "shall", "should", "was", "were", "will"];

/// Third-person verbs that policies use, which become "does … verb" in a question.
const VERBS: &[&str] = &[
    "accepts",
    "adds",
    "adjusts",
    "allows",
    "applies",
    "approves",
    "becomes",
    "begins",
    "charges",
    "closes",
    "conducts",
    "contains",
    "continues",
    "counts",
    "covers",
    "decides",
    "denies",
    "depends",
    "determines",
    "ends",
    "equals",
    "expires",
    "gives",
    "grants",
    "handles",
    "holds",
    "includes",
    "issues",
    "keeps",
    "lasts",
    "limits",
    "loses",
    "mails",
    "makes",
    "meets",
    "moves",
    "needs",
    "notifies",
    "obtains",
    "offers",
    "pays",
    "proves",
    "provides",
    "publishes",
    "qualifies",
    "receives",
    "records",
    "refuses",
    "remains",
    "replaces",
    "reports",
    "requires",
    "reviews",
    "runs",
    "sends",
    "serves",
    "sets",
    "signs",
    "starts",
    "states",
    "submits",
    "takes",
    "tells",
    "uses",
    "verifies",
];

/// A statement's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause<'a> {
    /// What the sentence is about, as it stands.
    pub(super) subject: &'a str,
    /// The finite verb as it stands.
    pub(super) verb: &'a str,
    /// Whether the verb is an auxiliary, which a question puts first.
    pub(super) auxiliary: bool,
    /// What follows the verb.
    pub(super) rest: &'a str,
}

impl<'a> Clause<'a> {
    /// The parts of `sentence`; `None` where the rules find no plain statement.
    pub(super) fn of(sentence: &'a str) -> Option<Self> {
        let first = sentence.split(' ').next()?.to_lowercase();
        if matches!(
            first.as_str(),
            "when" | "if" | "in" | "on" | "for" | "after" | "before" | "unless" | "until" | "to"
        ) {
            return None;
        }
        let (mut at, mut passed, mut relative) = (0, 0, false);
        for word in sentence.split(' ') {
            let start = at;
            at += word.len() + 1;
            let bare = word.trim_end_matches([',', ';', '.']);
            if bare == "whose" {
                return None;
            }
            if matches!(bare, "who" | "that" | "which") {
                relative = true;
                passed = 0;
                continue;
            }
            if relative {
                // The word behind the pronoun is the verb of the inner clause, unless a new subject begins there.
                if passed == 0 && is_stop_word(bare) && !AUXILIARIES.contains(&bare) && !matches!(bare, "has" | "have")
                {
                    return None;
                }
                relative = false;
                passed += 1;
                continue;
            }
            let auxiliary = AUXILIARIES.binary_search(&bare).is_ok();
            if start > 0 && bare == word && (auxiliary || VERBS.binary_search(&bare).is_ok() || bare == "has") {
                let subject = sentence[..start].trim_end();
                let rest = sentence.get(at..)?.trim_end_matches('.');
                // An article with a capital inside is a heading that ran into the sentence.
                let run_in = subject.split(' ').skip(1).any(|w| matches!(w, "A" | "An" | "The"));
                let plain = !run_in
                    && subject.chars().count() <= 90
                    && !subject.contains([',', ';', ':', '('])
                    && !rest.is_empty();
                return plain.then_some(Self { subject, verb: bare, auxiliary, rest });
            }
        }
        None
    }

    /// Whether the statement denies what its verb says.
    pub(super) fn negated(&self) -> bool {
        ["not ", "never ", "no "].iter().any(|n| self.rest.starts_with(n))
            || ["No ", "Neither ", "None "].iter().any(|n| self.subject.starts_with(n))
    }

    /// The subject as it stands inside a sentence: its article or quantifier in lower case.
    pub(super) fn inner_subject(&self) -> String {
        uncapital(self.subject)
    }

    /// The beginning of a question about something in the rest: verb or "does", subject, and the bare verb.
    pub(super) fn inverted(&self) -> String {
        let subject = self.inner_subject();
        if self.auxiliary { format!("{} {subject}", self.verb) } else { format!("does {subject} {}", base(self.verb)) }
    }
}

/// A phrase as it stands inside a sentence: its article or quantifier in lower case.
pub(super) fn uncapital(phrase: &str) -> String {
    match phrase.split_once(' ') {
        Some((first, rest)) if is_stop_word(&first.to_lowercase()) || first.ends_with("ing") => {
            format!("{} {rest}", first.to_lowercase())
        }
        _ => phrase.to_owned(),
    }
}

/// The base form of a third-person verb.
fn base(verb: &str) -> String {
    if verb == "has" {
        return "have".into();
    }
    if let Some(stem) = verb.strip_suffix("ies") {
        return format!("{stem}y");
    }
    for ending in ["ches", "shes", "sses", "xes"] {
        if verb.ends_with(ending) {
            return verb[..verb.len() - 2].into();
        }
    }
    verb.strip_suffix('s').unwrap_or(verb).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_sorted_for_the_search() {
        assert!(VERBS.is_sorted() && AUXILIARIES.is_sorted());
    }

    #[test]
    fn statements_are_inverted() {
        let inverted = |s: &'static str| Clause::of(s).map(|c| c.inverted());
        for (statement, beginning) in [
            ("The plan must decide an appeal within 28 days.", "must the plan"),
            ("A nurse reviewer decides a standard request within 7 days.", "does a nurse reviewer decide"),
            ("A member who is pregnant is exempt from the drug trial.", "is a member who is pregnant"),
            (
                "A member who changes from one plan to another keeps an approval.",
                "does a member who changes from one plan to another keep",
            ),
            ("Continued coverage ends on the date of the decision.", "does Continued coverage end"),
            ("CareBridge has two parts.", "does CareBridge have"),
        ] {
            assert_eq!(inverted(statement).as_deref(), Some(beginning), "{statement}");
        }
        assert_eq!(inverted("When a member moves, the county must be told."), None);
        assert_eq!(inverted("A letter that the member signed is kept."), None);
        assert_eq!(inverted("Carrying out the decision The agency must act at once."), None);
        assert_eq!(inverted("Nothing here to split."), None);
    }
}
