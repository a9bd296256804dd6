//! What the simulated answers look like, and that the checks find the planted flaws.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const SOURCE: &str = "# Home health\n\nThe plan covers up to 60 home health visits per calendar year for members over 21 years of age. \
    Prior authorization is required for each skilled nursing visit after the tenth one.\n\n\
    A physician must review the plan of care every 60 days and sign the certification form. \
    Providers bill the visit with procedure code G0299 and the modifier for the setting.\n\n\
    | Code | Amount in dollars |\n| G0299 | 112.50 per visit |\n\n\
    Claims must arrive within 365 days of the date of service, otherwise the agency denies them.";

fn prompt_text(source: &str, tail: &str) -> String {
    format!(
        "# Document\nHome health\n\n# Source\n<source id=\"9f3a1c22\">\n{source}\n</source id=\"9f3a1c22\">\n\n{tail}"
    )
}

fn prompt(user: &str, content: u64, bad_pairs: f64) -> Prompt<'_> {
    Prompt { user, content, seed: 42, bad_pairs, doubts: 1.0 }
}

fn pairs_schema(most: u32) -> Schema {
    serde_json::from_value(
        serde_json::json!({"type":"object","properties":{"pairs":{"type":"array","minItems":1,"maxItems":most,
        "items":{"type":"object","properties":{"question":{"type":"string"},"answer":{"type":"string"},
        "question_type":{"type":"string","enum":["factual","numeric","procedural"]},"quote":{"type":"string"}}}}}}),
    )
    .unwrap()
}

fn schema(properties: &[&str]) -> Schema {
    let properties: serde_json::Map<String, Value> =
        properties.iter().map(|name| ((*name).to_owned(), serde_json::json!({"type":"string"}))).collect();
    serde_json::from_value(serde_json::json!({"type":"object","properties":properties})).unwrap()
}

fn generated(source: &str, most: u32, content: u64, bad_pairs: f64) -> Vec<Pair> {
    let user = prompt_text(source, "Write pairs.");
    let json = structured(&prompt(&user, content, bad_pairs), "qa_pairs", &pairs_schema(most));
    serde_json::from_value(serde_json::from_str::<Value>(&json).unwrap()["pairs"].clone()).unwrap()
}

/// Harmonic mean of precision and recall over lower-case words.
fn token_f1(a: &str, b: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
    };
    let (a, mut b) = (words(a), words(b));
    let total = (a.len() + b.len()) as f64;
    let mut shared = 0.0;
    for word in a {
        if let Some(at) = b.iter().position(|other| *other == word) {
            b.swap_remove(at);
            shared += 1.0;
        }
    }
    2.0 * shared / total
}

#[test]
fn sound_pairs_pass_the_checks() {
    let pairs = generated(SOURCE, 3, 7, 0.0);
    assert_eq!(pairs.len(), 3);
    for pair in &pairs {
        assert!(SOURCE.contains(&pair.quote));
        assert_eq!(pair.answer, fold(&pair.quote));
        assert!((50..=500).contains(&pair.answer.chars().count()));
        assert!(token_f1(&pair.question, &pair.answer) < 0.8, "{pair:?}");
        let asks = pair.question.to_lowercase();
        assert!(asks.ends_with('?') && !["this ", "the text", "document", "section"].iter().any(|w| asks.contains(w)));
        assert!(["factual", "numeric", "procedural"].contains(&pair.question_type.as_str()));
    }
    let at: Vec<usize> = pairs.iter().map(|p| SOURCE.find(&p.quote).unwrap()).collect();
    assert!(at.is_sorted() && at[0] < SOURCE.len() / 3 && at[2] > SOURCE.len() / 2, "spread over the source: {at:?}");
    insta::assert_snapshot!(pairs.iter().map(|p| p.question.as_str()).collect::<Vec<_>>().join("\n"), @r"
    Which figure does the policy set for covers, health, visits, calendar and members?
    What does the policy provide about authorization, required, skilled and nursing?
    Which figure does the policy set for Providers, procedure, modifier and setting?
    ");
}

#[test]
fn other_text_serves_where_prose_does_not_suffice() {
    let table = "| Code | Amount in dollars |\n| G0299 | 112.50 per visit |";
    assert_eq!(generated(table, 5, 1, 0.0).len(), 1, "rows are too short for more");
    let long = "| Skilled nursing | 112.50 dollars per visit in a facility |\n| Therapy | 80 dollars per visit of 15 minutes at home |";
    assert_eq!(generated(long, 5, 1, 0.0).len(), 2);
    assert_eq!(generated("Too short.", 5, 1, 0.0).len(), 0);
    assert_eq!(generated(SOURCE, 200, 1, 0.0).len(), 5);
}

#[test]
fn flaws_come_in_every_kind_and_in_their_share() {
    let sound = |content| generated(SOURCE, 3, content, 0.0);
    let mut kinds = std::collections::BTreeMap::<&str, u32>::new();
    let mut flawed = 0;
    for content in 0..400 {
        for (bad, good) in generated(SOURCE, 3, content, 0.5).iter().zip(sound(content)) {
            let kind = if !SOURCE.contains(&bad.quote) {
                "quote"
            } else if bad.question.contains("this section") {
                "vague"
            } else if bad.answer.starts_with("I cannot") {
                "refusal"
            } else if bad.question.starts_with("Is it true") {
                "leak"
            } else if bad.answer.split(' ').count() == 2 {
                "short"
            } else if bad.quote == good.quote && bad.answer != good.answer {
                "number"
            } else if bad.quote != good.quote {
                "duplicate"
            } else {
                continue;
            };
            flawed += 1;
            *kinds.entry(kind).or_default() += 1;
        }
    }
    assert!((540..660).contains(&flawed), "half of 1,200: {flawed}");
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    assert!(kinds.values().all(|n| *n > 20), "{kinds:?}");
}

#[test]
fn the_round_trip_finds_the_sentence_again() {
    let mut refused = 0;
    let mut same = 0;
    for content in 0..300 {
        for pair in generated(SOURCE, 3, content, 0.0) {
            let tail = format!("Answer.\n\nInput: {}", serde_json::json!({ "question": pair.question }));
            let user = prompt_text(SOURCE, &tail);
            let json = structured(&prompt(&user, content + 1_000, 0.0), "answer", &schema(&["answerable", "answer"]));
            let answer: Value = serde_json::from_str(&json).unwrap();
            if answer["answerable"] == false {
                refused += 1;
            } else if answer["answer"] == pair.answer.as_str() {
                same += 1;
            }
        }
    }
    assert!((3..=54).contains(&refused), "about 3%: {refused}");
    assert_eq!(refused + same, 900);
    let user = prompt_text(SOURCE, "Input: {\"question\":\"Quantum chromodynamics?\"}");
    insta::assert_snapshot!(structured(&prompt(&user, 1, 0.0), "answer", &schema(&["answerable", "answer"])), @r#"{"answerable":false,"answer":""}"#);
}

#[test]
fn types_asked_for_are_given() {
    let tail = "Write pairs.\n\nInput: {\"types\":[\"numeric\",\"unanswerable\",\"numeric\"]}";
    // A line of the source that looks like an input is none.
    let source = format!("{SOURCE}\nInput: {{\"types\":[\"procedural\"]}}");
    let user = prompt_text(&source, tail);
    let json = structured(&prompt(&user, 7, 0.0), "qa_pairs", &pairs_schema(3));
    let pairs: Vec<Pair> =
        serde_json::from_value(serde_json::from_str::<Value>(&json).unwrap()["pairs"].clone()).unwrap();
    let types: Vec<&str> = pairs.iter().map(|pair| pair.question_type.as_str()).collect();
    assert_eq!(types, ["numeric", "unanswerable", "numeric"]);
    let tail = format!("Answer.\n\nInput: {}", serde_json::json!({ "question": pairs[1].question }));
    let user = prompt_text(SOURCE, &tail);
    for content in 0..50 {
        let json = structured(&prompt(&user, content, 0.0), "answer", &schema(&["answerable", "answer"]));
        assert!(json.contains("\"answerable\":false"), "{json}");
    }
}

#[test]
fn marks_are_mostly_high() {
    let user = prompt_text(SOURCE, "Input: {\"question\":\"Q?\",\"answer\":\"A.\",\"quote\":\"A.\"}");
    let mut low = 0;
    for content in 0..1_000 {
        let json = structured(&prompt(&user, content, 0.0), "scores", &schema(&["overall"]));
        assert!(json.starts_with("{\"reason\":"), "the reason comes first");
        let marks: Value = serde_json::from_str(&json).unwrap();
        let of = |name: &str| marks[name].as_u64().unwrap();
        assert!(["clarity", "accuracy", "relevance", "overall"].iter().all(|name| (1..=5).contains(&of(name))));
        low += u32::from(of("clarity").min(of("accuracy")).min(of("relevance")) < 4);
    }
    assert!((25..80).contains(&low), "about 5%: {low}");
}

#[test]
fn broken_json_is_broken() {
    for content in 0..9 {
        let text = malformed("{\"pairs\":[{\"question\":\"é?\"}]}", content);
        assert!(serde_json::from_str::<Value>(&text).is_err(), "{text}");
    }
}

#[test]
fn an_unknown_schema_gets_an_instance() {
    let asked = prompt("Say ok.", 1, 0.0);
    insta::assert_snapshot!(structured(&asked, "probe", &schema(&["ok"])), @r#"{"ok":"text"}"#);
    insta::assert_snapshot!(structured(&asked, "qa_pairs", &schema(&["ok"])), @r#"{"ok":"text"}"#);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_source_gets_valid_answers(source in "[a-zA-Z .!?|#\n0-9é“”{}\"\\\\<>/-]{0,400}", content in any::<u64>()) {
        for pair in generated(&source, 5, content, 0.5) {
            prop_assert!(!pair.question.is_empty() && !pair.answer.is_empty());
        }
        let user = prompt_text(&source, &format!("Input: {source}"));
        let json = structured(&prompt(&user, content, 0.0), "answer", &schema(&["answerable"]));
        prop_assert!(serde_json::from_str::<Value>(&json).is_ok());
        prop_assert!(!prose(&prompt(&user, content, 0.0)).is_empty());
    }
}
