//! Tests of the checks: tables of pairs that pass and pairs that do not.

use super::*;
use crate::model::params::{Fault, Key, Node, Value};

const SOURCE: &str = "## Redetermination\n\nThe agency shall redetermine **eligibility** every 12 months under \
    42 CFR § 435.916(a). A member must report a change of income within ten (10) calendar days. Effective July 1, 2026, \
    the monthly income limit for a household of four is $3,450, or 138 percent of the federal poverty level, and the \
    copayment for CPT 99213 and HCPCS H0031 is $1,200.50 at most. Offices are open from 8:00 a.m. to 4:30 p.m. \
    Providers keep records for ten to twenty percent of claims.\n\n\
    | Household size | Percent | Monthly limit |\n|---|---|---|\n| 1 | 133 | $1,255 |\n| 2 | 185 | $1,703 |\n";

const GOOD: CheckInput<'_> = CheckInput {
    question: "How soon must a member report a change of income to the agency?",
    answer: "A member must report a change of income within 10 calendar days.",
    quote: "A member must report a change of income within ten (10) calendar days.",
    source: SOURCE,
    unanswerable: false,
};

fn failed(params: &CheckParams, input: &CheckInput<'_>) -> Option<String> {
    run(params, input).failed.map(|failure| failure.check)
}

fn with<'a>(question: Option<&'a str>, answer: Option<&'a str>, quote: Option<&'a str>) -> CheckInput<'a> {
    CheckInput {
        question: question.unwrap_or(GOOD.question),
        answer: answer.unwrap_or(GOOD.answer),
        quote: quote.unwrap_or(GOOD.quote),
        source: SOURCE,
        unanswerable: false,
    }
}

#[test]
fn a_good_pair_passes_every_check_and_is_cited() {
    let report = run(&CheckParams::default(), &GOOD);
    assert_eq!(report.failed, None);
    let names: Vec<&str> = report.checks.keys().map(String::as_str).collect();
    assert_eq!(names, ["no_leak", "no_refusal", "numbers_hold", "quote_exists", "self_contained", "well_formed"]);
    assert!(report.checks.values().all(|check| check.pass));
    let citation = report.citation.unwrap();
    let at: String =
        SOURCE.chars().skip(citation.start as usize).take((citation.end - citation.start) as usize).collect();
    assert_eq!((at.as_str(), citation.text.as_str()), (GOOD.quote, GOOD.quote));
    assert!(!report.ask_again);
}

#[test]
fn checks_stop_at_the_first_failure() {
    let report = run(
        &CheckParams::default(),
        &with(Some("What does this section say about income?"), Some("I cannot say."), None),
    );
    assert_eq!(report.checks.keys().collect::<Vec<_>>(), ["well_formed"]);
    let report = run(&CheckParams::default(), &with(Some("What does this section say about income?"), None, None));
    assert_eq!(report.checks.keys().collect::<Vec<_>>(), ["self_contained", "well_formed"]);
    let failure = report.failed.unwrap();
    assert_eq!((failure.check.as_str(), failure.value.as_str()), ("self_contained", "this section"));
    assert_eq!(report.citation, None);
}

#[test]
fn well_formed() {
    let long = "a".repeat(301) + "?";
    let answer = "word ".repeat(201);
    let quote = "word ".repeat(400);
    for (input, expected) in [
        (with(Some("Income?"), None, None), "question of 7 characters"),
        (with(Some(""), None, None), "question of 0 characters"),
        (with(Some("   Why?       "), None, None), "question of 4 characters"),
        (with(Some(&long), None, None), "question of 302 characters"),
        (with(Some("State how soon a member must report a change."), None, None), "question ends with '.'"),
        (with(Some("How soon must a member report a change"), None, None), "question ends with 'e'"),
        (with(Some("How soon must a change be reported? Explain."), None, None), "question ends with '.'"),
        (with(None, Some("Within 10 calendar days."), None), "answer of 24 characters"),
        (with(None, Some(""), None), "answer of 0 characters"),
        (with(None, Some(&answer), None), "answer of 1004 characters"),
        (
            with(None, Some("A member must report a change of income within 10 calendar days of the"), None),
            "answer breaks off at \"the\"",
        ),
        (
            with(None, Some("A member must report within 10 calendar days a change of income, address,"), None),
            "answer breaks off at \"address,\"",
        ),
        (with(None, None, Some("within ten")), "quote of 10 characters"),
        (with(None, None, Some(" \n")), "quote of 0 characters"),
        (with(None, None, Some(&quote)), "quote of 1999 characters"),
    ] {
        let failure = run(&CheckParams::default(), &input).failed.unwrap();
        assert_eq!((failure.check.as_str(), failure.value.as_str()), ("well_formed", expected));
    }
    assert_eq!(
        failed(&CheckParams::default(), &with(Some(" How soon must a change be reported? \n"), None, None)),
        None
    );
}

#[test]
fn self_contained() {
    let check = |question: &str| self_contained::check(&Phrases::default(), question).broken.is_some();
    for vague in [
        "According to the text, how soon must a member report a change of income?",
        "What does this section require of providers?",
        "What is the income limit stated in the passage?",
        "Which services does the document exclude?",
        "Who is covered under this policy?",
        "What are the requirements listed above?",
        "Which of the following services needs prior authorization?",
        "What is the copayment shown in Table 3?",
        "What is the limit for two people in the table?",
        "Based on the information provided, who may appeal?",
        "What does the author say about managed care?",
        "How is the limit in the following table determined?",
        "As mentioned in the manual, who must sign the form?",
        "What does the context say about appeals?",
        "What happens in the above scenario?",
        "What is the purpose of this document?",
        "In this excerpt, what is the time limit for a fair hearing?",
        "What is the aforementioned time limit?",
        "What does **this\nchapter** cover?",
    ] {
        assert!(check(vague), "{vague}");
    }
    for clear in [
        "How soon must a member report a change of income to the agency?",
        "What is the monthly income limit for a household of four as of July 1, 2026?",
        "Which documents must an applicant submit to prove citizenship?",
        "Is a household with income above the limit eligible for spend-down?",
        "Who may appeal a denial under Section 1115 of the Social Security Act?",
        "What does 42 CFR 435.916 require of the state Medicaid agency?",
        "What must the notice of action contain when benefits are reduced?",
        "How does the CareBridge dental policy treat orthodontia for children?",
        "When does the agency send the renewal form to a member?",
        "What text must appear on the envelope of a renewal notice in Calloway?",
        "Are services listed in the fee schedule always covered?",
        "How is a list of excluded providers kept up to date by the Medicaid agency?",
        "What follows if a provider bills for a service above the scheduled amount?",
        "Which section of the Medicaid agency handles provider enrollment?",
    ] {
        assert!(!check(clear), "{clear}: {:?}", run(&CheckParams::default(), &with(Some(clear), None, None)).failed);
    }
}

#[test]
fn no_refusal() {
    let check = |answer: &str| no_refusal::check(&Phrases::default(), answer).broken.is_some();
    for refusal in [
        "I cannot answer this question from what is given.",
        "I'm sorry, but I can’t help with that.",
        "As an AI language model, I do not have access to state manuals.",
        "The time limit is not provided in the text.",
        "The copayment is not explicitly mentioned in this passage.",
        "The passage does not say how long records are kept.",
        "There is no information about appeals.",
        "It cannot be determined from the excerpt whether dental care is covered.",
        "No information is provided on the income limit for two people.",
        "According to the text, a member has 10 days to report a change.",
        "Unfortunately, the manual is silent on this point, so I do not know.",
        "The context states that renewals happen every 12 months.",
        "Please refer to the full document for the list of services.",
        "Based on the provided information, the limit is $3,450.",
        "Here is the answer: 10 days. Let me know if more is needed.",
    ] {
        assert!(check(refusal), "{refusal}");
    }
    for answer in [
        "A member must report a change of income within 10 calendar days.",
        "The agency cannot deny coverage because of a pre-existing condition.",
        "A claim that is not included in the remittance advice must be billed again.",
        "Services that are not specified in the state plan are not covered.",
        "The notice states the reason for the action and the right to a fair hearing.",
        "If eligibility cannot be determined within 45 days, the agency sends a notice.",
        "The provider should consult the fee schedule before billing.",
        "An applicant who is unable to sign may name an authorized representative.",
        "Income information from the electronic data sources is used first.",
        "The member does not have to repeat information that is available to the agency.",
        "The document must be kept by the provider for at least six years.",
        "Part I cannot be billed with Part II on the same day.",
    ] {
        assert!(!check(answer), "{answer}");
    }
}

#[test]
fn numbers_hold() {
    let missing = |answer: &str| numbers_hold::missing(answer, SOURCE, &[]).join(", ");
    for answer in [
        "A member has 10 calendar days, that is ten days, to report.",
        "Eligibility is redetermined every twelve months.",
        "The limit is $3,450.00 a month, or 3450 dollars.",
        "It is 138% of the federal poverty level.",
        "It is 138 per cent of the poverty level under 42 C.F.R. 435.916(a).",
        "The rule is in 42 CFR 435.916 and took effect on 7/1/2026.",
        "It took effect on 2026-07-01, that is on the 1st of July 2026, in July 2026.",
        "Codes 99213 and h0031 have a copayment of $1,200.50.",
        "A household of one is at 133 percent, a household of two at 185%.",
        "1. Report within 10 days.\n2. Wait.\n3. Renew every 12 months.",
        "A member must (1) report within 10 days and (2) renew every 12 months.",
        "Offices open at 8 a.m. and close at 4:30 PM; one of them is in town.",
        "Records are kept for 10% to 20% of claims.",
        "The tenth day is the last one on which to report.",
        "No number here at all, only words about the policy.",
        "It states five things: the issue, the findings, the rule, the reasons and the order.",
        "Only on three grounds: new evidence, a mistake of law, or misconduct by the officer.",
        "Two offices must answer: the county office or the bureau.",
    ] {
        assert_eq!(missing(answer), "", "{answer}");
    }
    for (answer, expected) in [
        ("A member has 30 calendar days to report.", "30"),
        ("Eligibility is redetermined every six months.", "six"),
        ("The limit is $3,540 a month.", "$3,540"),
        ("It states five things: the issue, the findings and the order.", "five"),
        ("Within five days, by letter: a form, a copy, a note, a list and a map. It has 6 parts.", "five, 6"),
        ("It is 12 percent of the federal poverty level.", "12"),
        ("It is 138.5% of the poverty level.", "138.5"),
        ("The rule is in 42 CFR 435.907.", "42 cfr 435.907"),
        ("The rule is in 42 CFR 435.916(b).", "42 cfr 435.916(b)"),
        ("It took effect on July 2, 2026.", "july 2, 2026"),
        ("It took effect on July 1, 2025.", "july 1, 2025"),
        ("It took effect on 6/1/2026, in June 2026.", "6/1/2026, june 2026"),
        ("The code is 99214.", "99214"),
        ("The code is H0032, or H0031.", "h0032"),
        ("Offices open at 8 p.m.", "8 p.m"),
        ("A household of 3 has a limit of $2,152.", "3, $2,152"),
        ("The limit is $3.450 million.", "$3.450 million"),
        ("Twenty-five days, and a hundred dollars.", "twenty five, hundred"),
    ] {
        assert_eq!(missing(answer), expected, "{answer}");
    }
    let answer = "In State Fiscal Year 2027 a member must report within 10 calendar days.";
    assert_eq!(numbers_hold::missing(answer, SOURCE, &["Schedule, FY2027"]), Vec::<String>::new());
    assert_eq!(numbers_hold::missing(answer, SOURCE, &[]), ["2027"]);
    let context = ["State Fiscal Year 2027"];
    assert_eq!(run_with_context(&CheckParams::default(), &with(None, Some(answer), None), &context).failed, None);
    assert_eq!(failed(&CheckParams::default(), &with(None, Some(answer), None)).as_deref(), Some("numbers_hold"));
}

#[test]
fn no_leak() {
    for (question, answer, leaks) in [
        (
            "Must a member report a change of income within 10 days?",
            "A member must report a change of income within 10 days.",
            true,
        ),
        (
            "Is the income limit for a household of four $3,450 a month?",
            "The income limit for a household of four is $3,450 a month.",
            true,
        ),
        (
            "Does the agency redetermine eligibility every 12 months?",
            "The agency does redetermine eligibility every 12 months.",
            true,
        ),
        ("Is prior authorization needed for a sleep study?", "Prior authorization is needed for a sleep study.", true),
        ("Why are emergency services exempt from copayments?", "Emergency services are exempt from copayments.", true),
        (
            "Which providers are paid 90 percent of the physician amount?",
            "Providers paid 90 percent of physician amount.",
            true,
        ),
        ("When is a second vehicle counted as a resource?", "A second vehicle is counted as a resource.", true),
        (
            "How soon must a member report a change of income?",
            "A member must report a change of income within 10 calendar days.",
            false,
        ),
        ("What is the monthly income limit for a household of four?", "The limit is $3,450 a month.", false),
        ("How often is eligibility redetermined?", "Every 12 months, unless circumstances change earlier.", false),
        ("What services need prior authorization?", "Sleep studies in a laboratory and power wheelchairs.", false),
        (
            "Who may file an appeal?",
            "The member, or a representative whom the member has authorized in writing.",
            false,
        ),
        ("Where is an appeal filed?", "An appeal is filed at the county office or online.", false),
        ("", "anything at all", false),
        ("Is it?", "", false),
    ] {
        assert_eq!(
            no_leak::check(0.8, question, answer).broken.is_some(),
            leaks,
            "{question}: {}",
            no_leak::leak(question, answer)
        );
    }
}

#[test]
fn quote_exists() {
    use quote_exists::{QuoteMatch, find};
    for quote in [
        "A member must report a change of income within ten (10) calendar days.",
        "a member must report a change of income within ten (10) calendar days",
        "The agency shall redetermine eligibility every 12 months under 42 CFR § 435.916(a).",
        "the monthly income limit for a household of four is $3,450",
        "Offices are open from 8:00 a.m. to 4:30 p.m.",
        "| 1 | 133 | $1,255 |",
        "1 133 $1,255 2 185 $1,703",
        "Household size Percent Monthly limit 1 133 $1,255",
        // Hardly different.
        "A member must report change of income within ten (10) calendar days.",
        "Members must report a change of income within ten (10) calendar days.",
        "The agency shall re-determine eligibility every 12 months under 42 CFR 435.916(a).",
        "Providers must keep records for ten to twenty percent of claims.",
    ] {
        assert!(matches!(find(quote, SOURCE, 0.9, 0.85), QuoteMatch::Found(_)), "{quote}");
    }
    for quote in [
        "A member should tell the agency of a change in income within ten days.",
        "The member may request a fair hearing within 90 days of the notice.",
        "Dental services are covered for members under the age of 21.",
        "The agency renews coverage once a year.",
        "No copayment is charged for preventive services.",
        "Income above the limit leads to spend-down.",
        "| 3 | 250 | $9,999 | none | other |",
        "Prior authorization is required for all inpatient stays.",
        "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
        "The household reports assets, vehicles and burial funds.",
        "Offices are closed on state holidays and weekends.",
        "Effective immediately, all claims are paid electronically.",
    ] {
        assert!(
            matches!(find(quote, SOURCE, 0.9, 0.85), QuoteMatch::Missing(_)),
            "{quote}: {:?}",
            find(quote, SOURCE, 0.9, 0.85)
        );
    }
}

#[test]
fn a_quote_with_another_number_is_another_quote() {
    use quote_exists::{QuoteMatch, find};
    for (quote, found) in [
        ("A member must report change of income within ten (10) calendar days.", true),
        ("A member must report change of income within 10 (ten) calendar days.", true),
        ("A member must report change of income within twenty (20) calendar days.", false),
        ("Effective July 1, 2025, the monthly income limit for a household of four is $3,450", false),
        ("and the copayment for CPT 99213 and HCPCS H0032 is $1,200.50 at most", false),
    ] {
        let result = find(quote, SOURCE, 0.9, 0.85);
        assert_eq!(matches!(result, QuoteMatch::Found(_)), found, "{quote}: {result:?}");
    }
}

#[test]
fn a_quote_that_is_nearly_right_may_be_asked_for_again() {
    let input = with(None, None, Some("A member must report any changes of their income within 10 calendar days."));
    let report = run(&CheckParams::default(), &input);
    let score = report.citation.as_ref().unwrap().score;
    assert!((0.85..0.90).contains(&score), "{score}");
    assert!(report.ask_again);
    let failure = report.failed.unwrap();
    assert_eq!(failure.check, "quote_exists");
    assert_eq!(failure.rule, "quote must stand in the passage, with its numbers: best partial ratio at least 0.90");
    assert_eq!(failure.value, format!("{score:.3}"));
}

#[test]
fn every_threshold_decides_something() {
    let base = CheckParams::default;
    let lengths = |change: fn(&mut Lengths)| {
        let mut params = base();
        change(&mut params.lengths);
        params
    };
    let near = with(None, None, Some("A member must report any changes of their income within 10 calendar days."));
    let wrong_number = with(None, Some("A member must report a change of income within 30 calendar days."), None);
    let similar = with(Some("Must a member also report changed family income within 10 days?"), None, None);
    for (name, params, input, expected) in [
        ("min question", lengths(|l| l.question.0 = 100), GOOD, Some("well_formed")),
        ("max question", lengths(|l| l.question.1 = 20), GOOD, Some("well_formed")),
        ("min answer", lengths(|l| l.answer.0 = 100), GOOD, Some("well_formed")),
        ("max answer", lengths(|l| l.answer.1 = 60), GOOD, Some("well_formed")),
        ("min quote", lengths(|l| l.quote.0 = 100), GOOD, Some("well_formed")),
        ("max quote", lengths(|l| l.quote.1 = 60), GOOD, Some("well_formed")),
        (
            "vague",
            CheckParams { vague: Phrases::new(vec!["the agency".into()]).unwrap(), ..base() },
            GOOD,
            Some("self_contained"),
        ),
        (
            "refusals",
            CheckParams { refusals: Phrases::new(vec!["calendar days".into()]).unwrap(), ..base() },
            GOOD,
            Some("no_refusal"),
        ),
        ("leak before", base(), similar, None),
        ("leak", CheckParams { max_leak: 0.6, ..base() }, similar, Some("no_leak")),
        ("numbers before", base(), wrong_number, Some("numbers_hold")),
        ("numbers", CheckParams { numbers_hold: false, ..base() }, wrong_number, None),
        ("match before", base(), near, Some("quote_exists")),
        ("match", CheckParams { quote_match: 0.85, ..base() }, near, None),
    ] {
        assert_eq!(failed(&params, &input).as_deref(), expected, "{name}");
    }
    assert!(run(&base(), &near).ask_again);
    assert!(!run(&CheckParams { quote_ask_again: 0.90, ..base() }, &near).ask_again);
}

fn read(entries: &[(&str, Value)]) -> (CheckParams, Vec<String>) {
    let entries = entries.iter().enumerate().map(|(i, (name, value))| {
        let line = i as u32 + 2;
        (Key { name: (*name).into(), line }, Node { file: "p.yaml".into(), line, value: value.clone() })
    });
    let node = Node { file: "p.yaml".into(), line: 1, value: Value::Map(entries.collect()) };
    let (mut faults, mut documented): (Vec<Fault>, _) = (Vec::new(), Vec::new());
    let mut reader = Reader::new(&node, "stages.validate.checks", &mut faults, &mut documented);
    let params = CheckParams::read(&mut reader);
    reader.finish();
    assert_eq!(documented.len(), 12);
    (params, faults.iter().map(ToString::to_string).collect())
}

#[test]
fn parameters_are_read_and_determine_results() {
    let (params, faults) = read(&[]);
    assert_eq!((params.determinants(), faults.len()), (CheckParams::default().determinants(), 0));
    for (key, value) in [
        ("min_question_chars", Value::Int(11)),
        ("max_question_chars", Value::Int(299)),
        ("min_answer_chars", Value::Int(20)),
        ("max_answer_chars", Value::Int(900)),
        ("min_quote_chars", Value::Int(21)),
        ("max_quote_chars", Value::Int(900)),
        ("vague_phrases", Value::Text("the bureau".into())),
        ("refusal_phrases", Value::Text("no idea".into())),
        ("max_leak", Value::Float(0.7)),
        ("numbers_hold", Value::Bool(false)),
        ("quote_match", Value::Float(0.95)),
        ("quote_ask_again", Value::Float(0.8)),
    ] {
        let (params, faults) = read(&[(key, value)]);
        assert_eq!(faults, Vec::<String>::new());
        assert_ne!(params.determinants(), CheckParams::default().determinants(), "{key}");
    }
    let (_, faults) = read(&[
        ("min_answer_chars", Value::Int(2000)),
        ("quote_ask_again", Value::Float(0.95)),
        ("vague_phrases", Value::Text(" ".into())),
        ("max_leek", Value::Float(0.5)),
    ]);
    insta::assert_snapshot!(faults.join("\n"), @r"
p.yaml:2: stages.validate.checks.min_answer_chars is 2000, more than stages.validate.checks.max_answer_chars (1000): no answer could pass
p.yaml:4: stages.validate.checks.vague_phrases: an empty phrase would be found everywhere: remove it
p.yaml:3: stages.validate.checks.quote_ask_again is 0.95, but can be at most stages.validate.checks.quote_match (0.9): make them equal to never ask again
p.yaml:5: unknown key `stages.validate.checks.max_leek`: did you mean `max_leak`?
");
}
