//! What people wrote, made fit for the page: headings below the page's own, and no code block that runs on.

/// A fence of a code block (`CommonMark` 0.31, section 4.5): its character and how many of them.
fn fence(line: &str) -> Option<(char, usize, &str)> {
    let text = line.trim_start_matches(' ');
    let mark = text.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let rest = text.trim_start_matches(mark);
    let count = text.len() - rest.len();
    // Four blanks make an indented block, and ```a`b``` is a code span.
    (line.len() - text.len() < 4 && count >= 3 && !(mark == '`' && rest.contains('`'))).then_some((mark, count, rest))
}

/// The notes as they stand in the page, and the line, from 1, of a code block that nobody closed: it is closed at their
/// end, or the rest of the page would be in it.
pub fn fitted(text: &str) -> (String, Option<usize>) {
    let mut fitted = String::new();
    let mut open: Option<(char, usize, usize)> = None;
    for (at, line) in text.lines().enumerate() {
        match (open, fence(line)) {
            (None, Some((mark, count, _))) => open = Some((mark, count, at + 1)),
            (Some((mark, least, _)), Some((also, count, rest)))
                if also == mark && count >= least && rest.trim().is_empty() =>
            {
                open = None;
            }
            // Headings of the notes go below the page's; in code a # is a comment.
            (None, None) if line.starts_with('#') => fitted.push_str("##"),
            _ => {}
        }
        fitted.push_str(line);
        fitted.push('\n');
    }
    if let Some((mark, count, _)) = open {
        fitted.extend(std::iter::repeat_n(mark, count));
        fitted.push('\n');
    }
    (fitted, open.map(|(.., line)| line))
}

#[cfg(test)]
mod tests {
    use super::fitted;

    #[test]
    fn headings_go_down_and_code_stays_as_it_is() {
        let (text, open) = fitted("# Lessons\n\n```sh\n# a comment\n```\n~~~\n```\n# two\n~~~~\n## Next\n");
        assert_eq!(text, "### Lessons\n\n```sh\n# a comment\n```\n~~~\n```\n# two\n~~~~\n#### Next\n");
        assert_eq!(open, None);
    }

    #[test]
    fn a_block_that_nobody_closed_ends_with_the_notes_and_its_line_is_told() {
        assert_eq!(fitted("a\n\n````text\n```\nb"), ("a\n\n````text\n```\nb\n````\n".into(), Some(3)));
        assert_eq!(fitted("~~~\n~~~ no end\n"), ("~~~\n~~~ no end\n~~~\n".into(), Some(1)));
        for closed in ["    ```\nindented\n", "```a`b``` is a span\n", "``\n", "```\n```\n"] {
            assert_eq!(fitted(closed), (closed.into(), None));
        }
    }
}
