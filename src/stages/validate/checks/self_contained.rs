//! Check: a question can be understood by someone who does not see the passage.

use std::sync::LazyLock;

use regex::Regex;

use super::Finding;
use super::phrases::{Phrases, built_in, plain};

/// What only makes sense beside the passage. A blank stands for any white space.
static VAGUE: LazyLock<Regex> = LazyLock::new(|| {
    const TEXT: &str = "(?:text|passage|excerpt|snippet|chunk|context|paragraph|source material)";
    const PLACE: &str = "(?:document|section|subsection|chapter|page|table|figure|chart|list|policy|manual|handbook|guide|bulletin|notice|article|appendix|part|form|report|material|rule|statement|information)";
    let own = [
        // The passage itself, by whatever name.
        format!("the (?:(?:given|provided|above|following|preceding|previous|present|quoted|same) )?{TEXT}\\b"),
        format!("(?:this|that|these|those) (?:sentence|{TEXT})s?\\b"),
        format!("this {PLACE}\\b"),
        "the document\\b".into(),
        format!("the (?:given|provided|above|following|preceding|previous|aforementioned) {PLACE}s?\\b"),
        "(?:in|from|by|per|to|on|of|within|under) the (?:table|figure|chart|list|page|information)(?: (?:above|below|provided|given|shown))?(?:[?,.;]| (?:what|which|who|how|when|where|is|are|does|do|shown|listed)\\b)".into(),
        format!("(?:the )?(?:table|figure|chart|{PLACE}) (?:above|below)\\b"),
        "(?:in|to|from|per|see|under|of|by) (?:table|figure|chart|exhibit) [0-9a-z]{1,3}\\b".into(),
    ];
    let general = [
        "(?:mentioned|described|listed|stated|noted|outlined|shown|given|discussed|defined|specified) (?:above|below|here|earlier|previously)\\b",
        "as (?:mentioned|described|listed|stated|noted|outlined|discussed)(?: (?:in|by) (?:the|this)\\b|[?,])",
        "the above(?:[?,.]| (?:mentioned|listed|described|example|case|situation|scenario|rule|rules|requirements?|criteria|limits?|amounts?|provisions?|exceptions?)\\b)",
        "the following(?:[?:,]| (?:is|are|statements?|options?|items?|does|do)\\b)",
        "(?:which|what|who|any|all|one|each|none|some) of the following\\b",
        "aforementioned\\b",
        "the author(?:s|'s)?\\b",
        "(?:based on|according to|using|from) the (?:information|details|data|description|content|facts|example)(?: (?:provided|given|above|presented))?\\b",
        "(?:is|are|was|were) (?:mentioned|discussed|described) (?:here|as an example)\\b",
        "the (?:quote|quoted|cited) (?:text|passage|sentence)\\b",
    ];
    let all: Vec<&str> = own.iter().map(String::as_str).chain(general).collect();
    built_in(&all)
});

/// Checks a question. The value is the vague reference found, or empty.
pub(crate) fn check(more: &Phrases, question: &str) -> Finding {
    let question = plain(question);
    let found = VAGUE.find(&question).map(|found| found.as_str().trim().to_owned()).or_else(|| more.find(&question));
    Finding::none_of(found, || {
        "question must be understandable without the passage: no reference to the text itself".into()
    })
}
