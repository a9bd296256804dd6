//! What counts as a twin, that the order of arrival changes nothing, and what a million pairs cost.

use proptest::prelude::*;

use super::super::encounters::Survey;
use super::*;
use crate::model::params::{Node, Reader};

const QUESTION: &str = "How soon must a member report a change of income to the county benefit office?";
const ANSWER: &str = "A member must report a change of income to the county benefit office within 10 calendar days.";

fn twin_with(params: NearDuplicateParams, first: (&str, &str), second: (&str, &str)) -> Option<Twin> {
    let mut seen = NearDuplicates::new(params);
    assert_eq!(seen.offer("first", first.0, first.1), None);
    let found = seen.find(second.0, second.1);
    assert_eq!(seen.offer("second", second.0, second.1), found);
    found
}

fn twin(first: (&str, &str), second: (&str, &str)) -> Option<f64> {
    twin_with(NearDuplicateParams::default(), first, second).map(|twin| {
        assert_eq!(twin.id, "first");
        twin.similarity
    })
}

#[test]
fn the_same_in_almost_the_same_words_is_a_twin() {
    for (question, answer) in [
        (QUESTION, ANSWER),
        ("HOW SOON must the member report a change of income, to the county benefit office ?", ANSWER),
        (QUESTION, "The member must report a change of income to the county benefit office within ten calendar days."),
        ("How soon must a member report changes of income to the county benefit office?", ANSWER),
        ("How soon must a member report a change of income to the county's benefit office?", ANSWER),
    ] {
        let found = twin((QUESTION, ANSWER), (question, answer));
        assert!(found.is_some_and(|similarity| similarity >= 0.8), "{question} {answer}: {found:?}");
    }
    assert_eq!(twin((QUESTION, ANSWER), (QUESTION, ANSWER)), Some(1.0));
}

#[test]
fn what_differs_in_a_fact_stays() {
    for (question, answer) in [
        // Another number, code or date, in the answer or in the question.
        (QUESTION, "A member must report a change of income to the county benefit office within 30 calendar days."),
        ("How soon must a member of household 2 report a change of income to the county benefit office?", ANSWER),
        // Another answer altogether.
        (
            QUESTION,
            "Changes are reported on form CB-10, which each office keeps and which the portal offers for download.",
        ),
        // The contrary.
        (QUESTION, "A member must not report a change of income to the county benefit office within 10 calendar days."),
        // Another question.
        ("By when does the county benefit office decide an appeal?", ANSWER),
        // Another group, in question and answer.
        (
            "How soon must a provider report a change of income to the county benefit office?",
            "A provider must report a change of income to the county benefit office within 10 calendar days.",
        ),
    ] {
        assert_eq!(twin((QUESTION, ANSWER), (question, answer)), None, "{question} {answer}");
    }
}

#[test]
fn rows_of_one_table_stay_apart() {
    let mut seen = NearDuplicates::new(NearDuplicateParams::default());
    for n in 0..200 {
        let question =
            format!("What is the fee for procedure code X{} in a clinic or an outpatient hospital?", 2000 + n);
        let answer = format!("The fee for procedure code X{} is $11.35 for each unit of 15 minutes.", 2000 + n);
        assert_eq!(seen.offer(&n.to_string(), &question, &answer), None, "{question}");
    }
}

#[test]
fn every_parameter_decides_something() {
    let base = NearDuplicateParams::default();
    let changed = "How soon must a member report changes of income to a county office?";
    let near = twin_with(NearDuplicateParams { jaccard: 0.5, ..base }, (QUESTION, ANSWER), (changed, ANSWER));
    let similarity = near.unwrap().similarity;
    assert!((0.5..0.8).contains(&similarity), "{similarity}");
    let reworded = "Any change of income goes to that office within 10 calendar days.";
    for (name, params, second, expected) in [
        ("jaccard before", base, (changed, ANSWER), false),
        ("jaccard", NearDuplicateParams { jaccard: 0.5, ..base }, (changed, ANSWER), true),
        // Longer shingles break at more places.
        ("shingle", NearDuplicateParams { jaccard: 0.5, shingle: 20, ..base }, (changed, ANSWER), false),
        ("min_answer_f1 before", base, (QUESTION, reworded), false),
        ("min_answer_f1", NearDuplicateParams { min_answer_f1: 0.5, ..base }, (QUESTION, reworded), true),
        ("enabled before", base, (QUESTION, ANSWER), true),
    ] {
        assert_eq!(twin_with(params, (QUESTION, ANSWER), second).is_some(), expected, "{name}");
    }
    // A new parameter needs a line above.
    let nothing = Node::empty_map(&"p.yaml".into(), 1);
    let (mut faults, mut documented) = (Vec::new(), Vec::new());
    let read = NearDuplicateParams::read(&mut Reader::new(&nothing, "", &mut faults, &mut documented));
    let names: Vec<&str> = documented.iter().map(|row| row.path.as_str()).collect();
    assert_eq!((names, read), (vec!["enabled", "jaccard", "shingle", "min_answer_f1"], base));
    let mut off = NearDuplicates::new(NearDuplicateParams { enabled: false, ..base });
    assert_eq!((off.offer("a", QUESTION, ANSWER), off.offer("b", QUESTION, ANSWER)), (None, None));
}

#[test]
fn odd_texts_do_no_harm() {
    let mut seen = NearDuplicates::new(NearDuplicateParams::default());
    assert_eq!(seen.offer("a", "", ""), None);
    assert!(seen.offer("b", "", "").is_some());
    assert_eq!(seen.offer("c", "?", "é"), None);
    assert_eq!(seen.offer("d", &"long ".repeat(10_000), &"1".repeat(10_000)), None);
}

/// A pair made of few words, so that many are alike.
fn pairs() -> impl Strategy<Value = Vec<(u32, String, String)>> {
    let word =
        prop::sample::select(vec!["member", "provider", "must", "report", "income", "office", "10", "30", "not"]);
    let text = prop::collection::vec(word, 3..7).prop_map(|words| words.join(" "));
    prop::collection::vec((text.clone(), text), 1..40).prop_map(|pairs| {
        pairs.into_iter().enumerate().map(|(i, (question, answer))| (i as u32, question, answer)).collect()
    })
}

fn survey(pairs: &[(u32, String, String)], params: NearDuplicateParams) -> Encounters {
    let mut survey = Survey::new(&params, &std::env::temp_dir()).unwrap();
    for (place, question, answer) in pairs {
        survey.note(&place.to_string(), question, answer).unwrap();
    }
    survey.end().unwrap()
}

/// The dataset that a set of pairs gives, by their places in it, as the export makes it.
fn dataset(
    mut arrived: Vec<(u32, String, String)>,
    params: NearDuplicateParams,
    surveyed: bool,
) -> (Vec<u32>, Vec<(u32, Twin)>) {
    arrived.sort();
    let mut seen =
        if surveyed { NearDuplicates::among(params, survey(&arrived, params)) } else { NearDuplicates::new(params) };
    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    for (place, question, answer) in arrived {
        match seen.offer(&place.to_string(), &question, &answer) {
            None => kept.push(place),
            Some(twin) => refused.push((place, twin)),
        }
    }
    (kept, refused)
}

#[test]
fn a_survey_finds_those_that_meet_and_no_others() {
    let pairs = [(1, QUESTION), (2, "Who signs the plan of care?"), (3, QUESTION), (4, "What does a waiver cover?")]
        .map(|(place, question)| (place, question.to_owned(), ANSWER.to_owned()));
    let met = survey(&pairs, NearDuplicateParams::default());
    assert_eq!([1, 2, 3, 4].map(|place: u32| met.has(&place.to_string())), [true, false, true, false]);
    assert_eq!(met.count(), 2);
    let nowhere = Survey::new(&NearDuplicateParams::default(), std::path::Path::new("/nowhere")).err().unwrap();
    assert!(nowhere.to_string().contains("/nowhere"), "{nowhere}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_order_of_arrival_changes_nothing(
        pairs in pairs(), swaps in prop::collection::vec((0_usize..40, 0_usize..40), 0..60)
    ) {
        let params = NearDuplicateParams { jaccard: 0.6, min_answer_f1: 0.6, ..NearDuplicateParams::default() };
        let expected = dataset(pairs.clone(), params, false);
        let mut shuffled = pairs.clone();
        for (a, b) in swaps {
            let n = shuffled.len();
            shuffled.swap(a % n, b % n);
        }
        let found = dataset(shuffled, params, true);
        prop_assert_eq!(&found, &expected);
        // Every pair stays or has an earlier twin that stays.
        let (kept, refused) = found;
        prop_assert_eq!(kept.len() + refused.len(), pairs.len());
        for (place, twin) in refused {
            let of: u32 = twin.id.parse().unwrap();
            prop_assert!(of < place && kept.contains(&of));
            prop_assert!(twin.similarity >= 0.6 - 1e-3);
        }
    }
}

/// `cargo test --release --lib -- --ignored --nocapture a_million_pairs`
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "the figures are the point")]
fn a_million_pairs() {
    const WHO: [&str; 8] = [
        "member",
        "provider",
        "applicant",
        "county office",
        "managed care plan",
        "case manager",
        "guardian",
        "pharmacy",
    ];
    const WHAT: [&str; 8] = [
        "report a change of income",
        "file a written appeal",
        "submit a corrected claim",
        "renew the prior authorization",
        "return the signed renewal form",
        "answer a request for records",
        "complete the level of care assessment",
        "keep the delivery log of each visit",
    ];
    let pairs: usize = std::env::var("QAFLOW_PAIRS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let made = |random: &mut fastrand::Rng| {
        let (who, what) = (WHO[random.usize(..8)], WHAT[random.usize(..8)]);
        let (place, days) = (random.u32(..3000), 5 + random.u32(..80));
        // One in twenty repeats what another said about the same place.
        let place = if random.u32(..20) == 0 { place % 10 } else { place + 10 };
        let tail = random.u32(..40);
        let question =
            format!("Within how many days must the {who} of region {place} {what} under part {tail} of the waiver?");
        let answer = format!(
            "The {who} of region {place} must {what} within {days} calendar days under part {tail} of the waiver, unless \
             the agency has granted an extension in writing before the period has ended and has told the {who} so."
        );
        (question, answer)
    };
    let params = NearDuplicateParams::default();
    let began = std::time::Instant::now();
    let (mut random, mut survey) = (fastrand::Rng::with_seed(7), Survey::new(&params, &std::env::temp_dir()).unwrap());
    for n in 0..pairs {
        let (question, answer) = made(&mut random);
        survey.note(&format!("{n:032x}"), &question, &answer).unwrap();
    }
    let met = survey.end().unwrap();
    println!("{} pairs met another, after {:.1} s", met.count(), began.elapsed().as_secs_f64());
    let (mut random, mut refused, mut seen) =
        (fastrand::Rng::with_seed(7), 0_usize, NearDuplicates::among(params, met));
    for n in 0..pairs {
        let (question, answer) = made(&mut random);
        refused += usize::from(seen.offer(&format!("{n:032x}"), &question, &answer).is_some());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim().to_owned();
    println!("{pairs} pairs in {:.1} s, {refused} refused, peak memory {peak}", began.elapsed().as_secs_f64());
}

/// The hard case: a hundred thousand questions of one form without numbers, alike but not enough.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "the figures are the point")]
fn a_hundred_thousand_pairs_of_one_form() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut word = || (0..random.usize(4..9)).map(|_| random.lowercase()).collect::<String>();
    let words: Vec<String> = (0..3000).map(|_| word()).collect();
    let (mut seen, mut refused) = (NearDuplicates::new(NearDuplicateParams::default()), 0_usize);
    let began = std::time::Instant::now();
    for n in 0..100_000 {
        let (a, b) = (&words[random.usize(..3000)], &words[random.usize(..3000)]);
        let question = format!("Does the Hearthway Waiver cover {a} {b} for a participant who lives at home?");
        let answer =
            format!("Yes, the waiver covers {a} {b} for every participant who lives at home and has a service plan.");
        refused += usize::from(seen.offer(&format!("{n:032x}"), &question, &answer).is_some());
    }
    println!("100000 pairs in {:.1} s, {refused} refused", began.elapsed().as_secs_f64());
}
