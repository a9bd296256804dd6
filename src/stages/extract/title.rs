//! A document's title.

/// The title: the one in the document's data if it looks like one, else the first heading.
pub(super) fn choose(metadata: Option<&str>, markdown: &str) -> Option<String> {
    metadata.and_then(sensible).or_else(|| first_heading(markdown))
}

/// Endings of file names that word processors leave as titles.
const FILE_ENDINGS: [&str; 12] =
    [".doc", ".docx", ".pdf", ".indd", ".qxd", ".xls", ".xlsx", ".ppt", ".pptx", ".rtf", ".txt", ".wpd"];

fn sensible(title: &str) -> Option<String> {
    let title = super::text::one_line(&super::text::normalise(title));
    let lower = title.to_lowercase();
    let letters = title.chars().filter(|c| c.is_alphabetic()).count();
    let leftover = FILE_ENDINGS.iter().any(|ending| lower.ends_with(ending))
        || [
            "untitled",
            "microsoft word",
            "microsoft powerpoint",
            "powerpoint presentation",
            "slide 1",
            "(anonymous)",
            "title",
            "document",
        ]
        .iter()
        .any(|start| {
            lower == *start || lower.starts_with(&format!("{start} -")) || lower.starts_with(&format!("{start}1"))
        })
        || title.contains(['\\', '\u{fffd}'])
        || (title.contains('_') && !title.contains(' '))
        || lower.starts_with("http");
    (letters >= 3 && title.chars().count() <= 200 && 2 * letters >= title.chars().count() && !leftover).then_some(title)
}

fn first_heading(markdown: &str) -> Option<String> {
    markdown.lines().find_map(|line| {
        let text = line.trim_start_matches('#');
        let level = line.len() - text.len();
        let title = text.strip_prefix(' ')?.trim().trim_end_matches('#').trim().replace("**", "");
        let title = title.trim_matches(['*', '_']).trim();
        ((1..=6).contains(&level) && title.chars().any(char::is_alphabetic) && title.chars().count() <= 200)
            .then(|| title.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_word_processors_are_no_titles() {
        for leftover in [
            "Microsoft Word - policy.doc",
            "untitled",
            "Chapter2_final.docx",
            "12-34",
            "(anonymous)",
            "905_Precinct",
            "",
            "C:\\x\\y",
            "Document1",
        ] {
            assert_eq!(choose(Some(leftover), "text\n\n## **Real** title\n"), Some("Real title".into()), "{leftover}");
        }
        assert_eq!(choose(Some("  Eligibility\nManual "), "# Other"), Some("Eligibility Manual".into()));
        assert_eq!(choose(None, "no heading here #1"), None);
        assert_eq!(choose(None, "#hashtag\n# *Title* "), Some("Title".into()));
    }
}
