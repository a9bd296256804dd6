//! Tables and numbers of the reports. A value that is not known says so, with its reason under the table.

use std::fmt::Write as _;

/// A Markdown table whose columns are also aligned as plain text.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// A table with its head.
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()], notes: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// A number, or that it is not known and why.
    pub fn number(&mut self, value: Option<f64>, reason: impl FnOnce() -> String) -> String {
        match value {
            Some(value) => number(value),
            None => self.unknown(reason()),
        }
    }

    /// A whole number, or that it is not known and why.
    pub fn count(&mut self, value: Option<u64>, reason: impl FnOnce() -> String) -> String {
        match value {
            Some(value) => grouped(value),
            None => self.unknown(reason()),
        }
    }

    /// A share as percent, or that it is not known and why.
    pub fn percent(&mut self, value: Option<f64>, reason: impl FnOnce() -> String) -> String {
        match value {
            Some(value) => format!("{}%", number(value * 100.0)),
            None => self.unknown(reason()),
        }
    }

    /// A text, or that it is not known and why.
    pub fn text(&mut self, value: Option<&str>, reason: impl FnOnce() -> String) -> String {
        match value.map(str::trim).filter(|text| !text.is_empty()) {
            Some(text) => escaped(text),
            None => self.unknown(reason()),
        }
    }

    /// A value that is not known.
    pub fn unknown(&mut self, reason: String) -> String {
        let at = self.notes.iter().position(|note| *note == reason).unwrap_or_else(|| {
            self.notes.push(reason);
            self.notes.len() - 1
        });
        format!("not known ({})", at + 1)
    }

    /// The head and the rows.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// Whether it has no row but its head.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// The table, with the reasons of what is not known under it.
    pub fn markdown(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (at, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let pad = " ".repeat(width - cell.chars().count());
                let _ = write!(text, "| {cell}{pad} ");
            }
            text.push_str("|\n");
            if at == 0 {
                for width in &widths {
                    let _ = write!(text, "|{}", "-".repeat(width + 2));
                }
                text.push_str("|\n");
            }
        }
        for (at, note) in self.notes.iter().enumerate() {
            let _ = writeln!(text, "{}({}) {}  ", if at == 0 { "\n" } else { "" }, at + 1, escaped(note));
        }
        text
    }
}

/// Text in one line that cannot end a cell.
pub fn escaped(text: &str) -> String {
    let one_line: Vec<&str> = text.split_whitespace().collect();
    one_line.join(" ").replace('|', "\\|")
}

/// A number with four significant digits, without trailing zeros; thousands are grouped.
pub fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !value.is_finite() {
        return "not a number".into();
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = (3 - magnitude).clamp(0, 12) as usize;
    let text = format!("{:.decimals$}", value.abs());
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let whole = whole.parse::<u64>().map_or_else(|_| whole.to_owned(), grouped);
    let sign = if value < 0.0 { "-" } else { "" };
    fraction.map_or_else(|| format!("{sign}{whole}"), |fraction| format!("{sign}{whole}.{fraction}"))
}

/// A count with its thousands grouped, as in `12,345`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something, as in `1 state` or `12,345 states`.
pub fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let shown: Vec<String> =
            [0.0, 2.9, 1.0 / 3.0, 0.000_123_456, 319.0, 1234.5, 12_345.6, -0.5, 99.996].map(number).into();
        assert_eq!(shown, ["0", "2.9", "0.3333", "0.0001235", "319", "1,234", "12,346", "-0.5", "100"]);
    }

    #[test]
    fn what_is_not_known_has_its_reason_under_the_table_once() {
        let mut table = Table::new(&["what", "value"]);
        let a = table.number(None, || "no GPU | here\nat all".into());
        table.row(vec!["a".into(), a]);
        let b = table.count(None, || "no GPU | here\nat all".into());
        table.row(vec!["b".into(), b]);
        let c = table.percent(Some(0.876), String::new);
        table.row(vec!["c".into(), c]);
        assert_eq!(
            table.markdown(),
            "| what | value         |\n|------|---------------|\n| a    | not known (1) |\n| b    | not known (1) |\n\
             | c    | 87.6%         |\n\n(1) no GPU \\| here at all  \n"
        );
    }
}
