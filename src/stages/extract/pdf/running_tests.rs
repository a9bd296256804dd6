//! Running lines on pages made of given lines.

use super::*;
use crate::stages::extract::pdf::lines::Segment;

const TOP: f32 = 792.0;

/// A line whose segments stand at the given places, in 10-point type 5 points a letter.
fn line(y: f32, segments: &[(f32, &str)]) -> Line {
    let segments = segments
        .iter()
        .map(|(x0, text)| Segment {
            x0: *x0,
            x1: x0 + 5.0 * text.chars().count() as f32,
            text: (*text).into(),
            styled: false,
            size: 10.0,
        })
        .collect();
    Line { y, size: 10.0, segments }
}

/// The texts that stay on each page.
fn kept(pages: &[Vec<Line>]) -> Vec<Vec<String>> {
    let edges: Vec<Edges> = pages.iter().map(|lines| edges(lines, 0.0, TOP)).collect();
    let cuts = find(&edges);
    let keep = |(lines, cut): (&Vec<Line>, Cut)| {
        lines.iter().filter(|line| !cut.takes(line.y)).map(Line::text).collect::<Vec<_>>()
    };
    pages.iter().zip(cuts).map(keep).collect()
}

#[test]
fn header_and_numbered_footer_go_and_the_body_stays() {
    let pages: Vec<Vec<Line>> = (1..=5)
        .map(|n| {
            vec![
                line(760.0, &[(50.0, "Eligibility Manual"), (450.0, "Release 25-01")]),
                line(600.0, &[(50.0, &format!("Section text {} of this page", ["a", "b", "c", "d", "e"][n - 1]))]),
                line(150.0, &[(50.0, "and its last line")]),
                line(40.0, &[(280.0, &format!("Page {n} of 5"))]),
            ]
        })
        .collect();
    let kept = kept(&pages);
    assert_eq!(kept[2], ["Section text c of this page", "and its last line"]);
    assert_eq!(kept.iter().map(Vec::len).sum::<usize>(), 10);
}

#[test]
fn a_repeated_table_head_stays() {
    let pages: Vec<Vec<Line>> = (0..4)
        .map(|n| {
            vec![
                line(742.0, &[(68.0, "Benefits and Fee Schedule")]),
                line(709.0, &[(73.0, "Code"), (108.0, "Procedure"), (300.0, "Amount")]),
                line(693.0, &[(73.0, &format!("X10{n}4")), (108.0, "Visit"), (300.0, "$10.00")]),
                line(300.0, &[(73.0, "closing words")]),
            ]
        })
        .collect();
    let kept = kept(&pages);
    assert_eq!(kept[3], ["Code Procedure Amount", "X1034 Visit $10.00", "closing words"]);
}

#[test]
fn page_numbers_in_any_dress_go() {
    for (dress, count) in [("{}", 4), ("- {} -", 4), ("HW-{}", 4), ("Bulletin 2025-07, page {}", 4)] {
        let pages: Vec<Vec<Line>> = (0..count)
            .map(|n| {
                let number = dress.replace("{}", &(n + 7).to_string());
                vec![line(600.0, &[(50.0, &format!("body {n}"))]), line(30.0, &[(300.0, &number)])]
            })
            .collect();
        assert!(kept(&pages).iter().all(|page| page.len() == 1), "{dress}");
    }
    let roman: Vec<Vec<Line>> = ["i", "ii", "iii", "iv"]
        .iter()
        .map(|n| vec![line(600.0, &[(50.0, "preface")]), line(30.0, &[(300.0, n)])])
        .collect();
    assert!(kept(&roman).iter().all(|page| page == &["preface"]));
}

#[test]
fn numbers_that_do_not_count_the_pages_stay() {
    let pages: Vec<Vec<Line>> = [310, 275, 298, 290]
        .iter()
        .map(|n| vec![line(600.0, &[(50.0, "rows")]), line(60.0, &[(300.0, &n.to_string())])])
        .collect();
    assert!(kept(&pages).iter().all(|page| page.len() == 2));
}

#[test]
fn left_and_right_pages_may_differ() {
    let pages: Vec<Vec<Line>> = (0..8)
        .map(|n| {
            let head = if n % 2 == 0 { "Chapter two" } else { "The long title of the book" };
            vec![line(760.0, &[(50.0, head)]), line(600.0, &[(50.0, &format!("words {n}"))])]
        })
        .collect();
    assert!(kept(&pages).iter().all(|page| page.len() == 1));
}

#[test]
fn what_changes_place_or_occurs_twice_is_text() {
    let pages: Vec<Vec<Line>> = (0..6)
        .map(|n| {
            let y = 760.0 - 15.0 * (n % 3) as f32;
            let head = if n < 2 { "Notice of action" } else { "Something else" };
            let letter = ["a", "b", "c", "d", "e", "f"][n];
            vec![line(y, &[(50.0, &format!("{head} {letter}"))]), line(400.0, &[(50.0, "words")])]
        })
        .collect();
    assert!(kept(&pages).iter().all(|page| page.len() == 2));
}

#[test]
fn two_pages_need_the_very_same_words() {
    let page = |head: &str, n: usize| {
        vec![line(760.0, &[(50.0, head)]), line(400.0, &[(50.0, "words")]), line(30.0, &[(50.0, &format!("{n}"))])]
    };
    assert_eq!(kept(&[page("Memo", 1), page("Memo", 2)]), [["words"], ["words"]]);
    assert_eq!(kept(&[page("Fee 10", 1), page("Fee 40", 2)])[0], ["Fee 10", "words"]);
    assert_eq!(kept(&[page("Memo", 1)])[0].len(), 3, "one page repeats nothing");
}

#[test]
fn roman_numerals_are_read_in_lower_case_only() {
    assert_eq!(roman("xiv"), Some(14));
    assert_eq!(roman("- ix -"), None);
    assert_eq!(roman("-ix-"), Some(9));
    assert_eq!(roman("XIV"), None);
    assert_eq!(roman("mix"), None);
}

#[test]
fn a_large_heading_on_every_page_stays() {
    let pages: Vec<Vec<Line>> = (1..=5)
        .map(|n| {
            let mut heading = line(720.0, &[(50.0, &format!("Chapter {n}"))]);
            heading.size = 18.0;
            vec![line(760.0, &[(50.0, "The manual")]), heading, line(600.0, &[(50.0, "words of ordinary size")])]
        })
        .collect();
    assert!(kept(&pages).iter().all(|page| page.len() == 2));
}
