//! Check: an answer answers; it neither refuses nor talks about the model or the passage.

use std::sync::LazyLock;

use regex::Regex;

use super::Finding;
use super::phrases::{Phrases, built_in, plain};

/// Refusals and talk about the passage. A blank stands for any white space.
static REFUSAL: LazyLock<Regex> = LazyLock::new(|| {
    const TEXT: &str = "(?:text|passage|excerpt|snippet|chunk|context|document|provided (?:text|information|context|document|section|material)|given (?:text|information|context)|information (?:provided|given)|source material)";
    let own = [
        format!(
            "(?:not|n't|never) (?:explicitly |specifically |clearly |directly )?(?:be )?(?:provided|mentioned|specified|stated|found|included|given|available|described|addressed|discussed|answered|defined|contained|present) (?:in|by|within|from) (?:the|this) {TEXT}\\b"
        ),
        format!(
            "(?:the|this) {TEXT} (?:does not|doesn't|do not|don't|did not|fails to|only|states?|says|mentions?|describes?|indicates?|explains?|provides?|specifies|notes|discusses|lists|outlines|contains no)\\b"
        ),
        format!(
            "(?:according to|based on|as stated in|as described in|as mentioned in|as per|from) (?:the|this) {TEXT}\\b"
        ),
        format!("in (?:the|this) {TEXT}[,.]"),
    ];
    let general = [
        "i(?: am|'m) (?:sorry|unable|not able|afraid|only an?|just an?)\\b",
        "i (?:cannot|can't|can not|could not|couldn't|do not|don't|am not|won't|will not|apologi[sz]e)\\b",
        "i (?:have no|lack) (?:information|access|knowledge)\\b",
        "as an? (?:ai|artificial intelligence|language model|assistant|large language model)\\b",
        "(?:sorry|apologies|unfortunately), (?:but )?(?:i|the|there|we|this)\\b",
        "(?:cannot|can't|can not|could not|couldn't) be (?:determined|answered|inferred|ascertained) (?:from|based on|with|by)\\b",
        "(?:no|insufficient|not enough) (?:information|details?|context) (?:is |was |are )?(?:provided|available|given|to (?:answer|determine))\\b",
        "there is (?:no|not enough|insufficient) (?:information|mention|context)\\b",
        "unable to (?:answer|provide an answer|determine (?:the answer|this))",
        "(?:please )?(?:consult|refer to|see|check) the (?:full|original|complete|entire) (?:text|document|policy|manual)\\b",
        "(?:question|answer) (?:cannot be|is not|can't be) (?:answered|answerable|available|known)\\b",
        "here is (?:the|an?|your) (?:answer|question|response)\\b",
        "if you have (?:any )?(?:more|other|further|additional) questions\\b",
        "(?:let me know|feel free to ask|i hope this helps|hope that helps)\\b",
    ];
    let all: Vec<&str> = own.iter().map(String::as_str).chain(general).collect();
    built_in(&all)
});

/// What is numbered in Roman numerals: `Part I cannot …` refuses nothing.
const NUMBERED: [&str; 14] = [
    "part", "title", "type", "class", "level", "phase", "step", "schedule", "appendix", "category", "tier", "group",
    "chapter", "table",
];

/// Checks an answer. The value is the phrase found, or empty.
pub(crate) fn check(more: &Phrases, answer: &str) -> Finding {
    let answer = plain(answer);
    let found = REFUSAL
        .find_iter(&answer)
        .filter(|found| {
            let before = answer[..found.start()].split_whitespace().next_back().unwrap_or_default().to_lowercase();
            !(found.as_str().starts_with("I ") && NUMBERED.contains(&before.as_str()))
        })
        .map(|found| found.as_str().trim().to_owned())
        .next()
        .or_else(|| more.find(&answer));
    Finding::none_of(found, || "answer must state facts: no refusal, no talk about the passage or the model".into())
}
