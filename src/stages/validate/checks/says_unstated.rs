//! Check: the answer to a question that is meant to have none says what is not stated, and does not talk about itself.

use std::sync::LazyLock;

use regex::Regex;

use super::Finding;
use super::phrases::{Phrases, built_in, plain};

/// By which an answer says that something is not stated. A blank stands for any white space.
static UNSTATED: LazyLock<Regex> = LazyLock::new(|| {
    const STATE: &str = "(?:stat(?:e|es|ed|ing)|sa(?:y|ys|id)|mention(?:s|ed)?|specif(?:y|ies|ied)|giv(?:e|es|en)|sets?|provid(?:e|es|ed)|address(?:es|ed)?|lists?|listed|nam(?:e|es|ed)|defin(?:e|es|ed)|contain(?:s|ed)?|indicat(?:e|es|ed)|describ(?:e|es|ed)|explain(?:s|ed)?|includ(?:e|es|ed)|discuss(?:es|ed)?|information|details?|found|known)";
    built_in(&[
        &format!("(?:not|never|nowhere|nothing|neither|nor|no|[a-z]+n't) (?:[a-z]+ ){{0,4}}?{STATE}\\b"),
        "silent (?:on|about|as to)\\b",
        "leaves? (?:it |this |that )?open\\b",
        "(?:unspecified|unstated)\\b",
    ])
});

/// Talk of the model about itself.
static TALK: LazyLock<Regex> = LazyLock::new(|| {
    built_in(&[
        "i(?: am|'m) (?:sorry|unable|not able|afraid|only an?|just an?)\\b",
        "i (?:cannot|can't|can not|could not|couldn't|do not|don't|won't|will not|apologi[sz]e)\\b",
        "i (?:have no|lack) (?:information|access|knowledge)\\b",
        "as an? (?:ai|artificial intelligence|language model|assistant|large language model)\\b",
        "(?:please )?(?:consult|refer to|see|check) the (?:full|original|complete|entire) (?:text|document|policy|manual)\\b",
        "(?:let me know|feel free to ask|i hope this helps|hope that helps)\\b",
    ])
});

/// Checks an answer. The value is what is wrong, or empty.
pub(crate) fn check(more: &Phrases, answer: &str) -> Finding {
    let answer = plain(answer);
    let talk = TALK.find(&answer).map(|found| found.as_str().trim().to_owned()).or_else(|| more.find(&answer));
    let found = talk.or_else(|| (!UNSTATED.is_match(&answer)).then(|| "it says nothing of what is not stated".into()));
    Finding::none_of(found, || {
        "the answer to an unanswerable question must say what is not stated, without talk about the model".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_is_not_stated() {
        for (answer, good) in [
            ("The manual does not state which fee applies to a lost membership card.", true),
            ("Bulletin 2025-07 gives no information about parking permits for providers.", true),
            ("How a claim from abroad is paid isn't specified for the Hearthway Waiver.", true),
            ("The amendment is silent on dental services for adults in frontier counties.", true),
            ("The handbook does not say.", true),
            ("A member may not be charged for a missed appointment by any provider.", false),
            ("The fee for a lost membership card is $5 for each further card.", false),
            ("I'm sorry, but this is not stated in the manual that I was given.", false),
            ("As an AI language model I cannot say what the manual does not state.", false),
        ] {
            assert_eq!(check(&Phrases::default(), answer).broken.is_none(), good, "{answer}");
        }
        let more = Phrases::new(vec!["no idea".into()]).unwrap();
        assert!(check(&more, "No idea, the manual does not state it.").broken.is_some());
    }
}
