//! Refining on pages made of given lines.

use unpdf::model::{Paragraph, TableCell, TableRow};

use super::*;

/// A line of one segment, its letters half as wide as high.
fn line(y: f32, x0: f32, size: f32, styled: bool, text: &str) -> Line {
    let x1 = x0 + 0.5 * size * text.chars().count() as f32;
    Line { y, size, segments: vec![Segment { x0, x1, text: text.into(), styled, size }] }
}

fn shown(blocks: &[Block], lines: &[Line], side: Option<(&[Anchor], f32)>) -> Vec<String> {
    let refined = pieces(blocks, PageFrame { lines, side, ruled: false });
    refined
        .pieces
        .into_iter()
        .map(|piece| match piece.kind {
            Kind::Heading(_) => format!("# {}", piece.text),
            Kind::Item(marker) => format!("{marker} {}", piece.text),
            Kind::Paragraph | Kind::Verbatim => piece.text,
        })
        .collect()
}

fn paragraph(text: &str) -> Block {
    Block::Paragraph(Paragraph::with_text(text))
}

#[test]
fn run_in_headings_paragraphs_and_items_come_apart() {
    let lines = [
        line(700.0, 50.0, 11.0, true, "Provider enrollment"),
        line(680.0, 50.0, 10.0, false, "A provider must be enrolled before the first"),
        line(667.0, 50.0, 10.0, false, "service. These papers are due:"),
        line(654.0, 50.0, 10.0, false, "A. the form;"),
        line(641.0, 50.0, 10.0, false, "B. the fee."),
        line(618.0, 50.0, 10.0, false, "The Authority decides in 30 days, as the rule"),
        line(605.0, 50.0, 10.0, false, "says."),
    ];
    let all = lines.iter().map(Line::text).collect::<Vec<_>>().join(" ");
    assert_eq!(
        shown(&[paragraph(&all)], &lines, None),
        [
            "# Provider enrollment",
            "A provider must be enrolled before the first service. These papers are due:",
            "A. the form;",
            "B. the fee.",
            "The Authority decides in 30 days, as the rule says.",
        ]
    );
}

#[test]
fn contents_entries_stand_alone_and_are_no_headings() {
    let lines = [
        line(700.0, 50.0, 10.0, true, "1 Scope . . . . . . . 2"),
        line(687.0, 50.0, 10.0, false, "1.1 Purpose . . . . . . . 2"),
    ];
    let shown = shown(&[paragraph("1 Scope . . . . . . . 2 1.1 Purpose . . . . . . . 2")], &lines, None);
    assert_eq!(shown, ["1 Scope . . . . . . . 2", "1.1 Purpose . . . . . . . 2"]);
}

#[test]
fn side_headings_go_in_front_of_their_lines() {
    let lines = [
        line(700.0, 60.0, 14.0, true, "2.3 Households and how they are counted"),
        line(680.0, 184.0, 10.0, false, "The household of an adult includes the adult."),
        line(667.0, 184.0, 10.0, false, "A person who is away remains in the household."),
    ];
    let anchor = |y, text: &str| Anchor { y, text: text.into(), size: 9.5, heading: true };
    let anchors = [
        anchor(700.0, "2.3 Households and how they are counted"),
        anchor(681.0, "Who is counted"),
        anchor(668.0, "Absence"),
    ];
    let all = lines.iter().map(Line::text).collect::<Vec<_>>().join(" ");
    assert_eq!(
        shown(&[paragraph(&all)], &lines, Some((&anchors, 184.0))),
        [
            "# 2.3 Households and how they are counted",
            "# Who is counted",
            "The household of an adult includes the adult.",
            "# Absence",
            "A person who is away remains in the household.",
        ]
    );
}

fn table(rows: &[[&str; 2]]) -> Block {
    let mut table = Table::new();
    for row in rows {
        table.add_row(TableRow::new(row.iter().map(|cell| TableCell::text(*cell)).collect()));
    }
    Block::Table(table)
}

#[test]
fn columns_of_text_are_no_table() {
    let text = |n: usize| format!("words of column text number {n}");
    let lines: Vec<Line> = (0..6)
        .map(|i| {
            let mut line = line(700.0 - 13.0 * i as f32, 50.0, 10.0, false, &text(i));
            line.segments.extend(self::line(line.y, 300.0, 10.0, false, &text(i + 10)).segments);
            line
        })
        .collect();
    let made = table(&[[&text(2), &text(12)], [&text(3), &text(13)]]);
    let refined = pieces(&[made], PageFrame { lines: &lines, side: None, ruled: false });
    assert!(refined.false_table);
    let apart = [
        line(700.0, 50.0, 10.0, false, "Code"),
        line(687.0, 50.0, 10.0, false, "X1005"),
        line(640.0, 50.0, 10.0, false, "The amount for code X1005 includes the visit."),
    ];
    let made = table(&[["Code", "a|b"], ["X1005", "$58.20"]]);
    let refined = pieces(&[made], PageFrame { lines: &apart, side: None, ruled: false });
    assert!(!refined.false_table);
    assert_eq!(refined.pieces[0].text, "| Code | a\\|b |\n| --- | --- |\n| X1005 | $58.20 |");
}

#[test]
fn text_that_is_not_on_the_page_stays_whole() {
    assert_eq!(shown(&[paragraph("elsewhere")], &[line(700.0, 50.0, 10.0, false, "here")], None), ["elsewhere"]);
}
