//! Lists of phrases that a text must not have, found as whole words whatever their case.

use regex::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

use crate::model::params::Reader;

/// A list of phrases from the configuration; may be empty.
#[derive(Clone, Debug, Default)]
pub struct Phrases {
    texts: Vec<String>,
    pattern: Option<Regex>,
}

impl Phrases {
    /// Reads a list of phrases.
    pub(super) fn read(reader: &mut Reader<'_>, key: &str, meaning: &str) -> Self {
        let texts = reader.texts(key, &[], meaning);
        Self::new(texts).unwrap_or_else(|fault| {
            let message = format!("{}: {fault}", reader.path_of(key));
            reader.fault(key, message);
            Self::default()
        })
    }

    /// A list of phrases. Each is taken literally; any white space in it stands for any white space.
    ///
    /// # Errors
    /// If a phrase is empty, or there is far too much of them.
    pub fn new(texts: Vec<String>) -> Result<Self, String> {
        if texts.is_empty() {
            return Ok(Self::default());
        }
        if texts.iter().any(|text| text.trim().is_empty()) {
            return Err("an empty phrase would be found everywhere: remove it".into());
        }
        let alternatives: Vec<String> = texts.iter().map(|text| literal(text)).collect();
        let pattern = RegexBuilder::new(&alternatives.join("|"))
            .case_insensitive(true)
            .build()
            .map_err(|error| format!("the phrases cannot be used: {error}"))?;
        Ok(Self { texts, pattern: Some(pattern) })
    }

    /// The phrases.
    pub(super) fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The first one in `text`, as it stands there.
    pub(super) fn find(&self, text: &str) -> Option<String> {
        self.pattern.as_ref()?.find(text).map(|found| found.as_str().to_owned())
    }
}

impl Serialize for Phrases {
    /// The phrases as they were written.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.texts.serialize(serializer)
    }
}

/// A phrase as a pattern: at whole words, unless it begins or ends with something else than a word.
fn literal(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(regex::escape).collect();
    let edge = |c: Option<char>| if c.is_some_and(|c| c.is_alphanumeric() || c == '_') { r"\b" } else { "" };
    let trimmed = text.trim();
    format!("{}{}{}", edge(trimmed.chars().next()), words.join(r"\s+"), edge(trimmed.chars().next_back()))
}

/// The built-in patterns as one; they use `\s+` for blanks by themselves.
#[expect(clippy::expect_used, reason = "the patterns are constants, and the tests use every one")]
pub(super) fn built_in(patterns: &[&str]) -> Regex {
    let alternatives: Vec<String> = patterns.iter().map(|pattern| pattern.replace(' ', r"\s+")).collect();
    RegexBuilder::new(&format!(r"\b(?:{})", alternatives.join("|")))
        .case_insensitive(true)
        .build()
        .expect("valid patterns")
}

/// Typographic apostrophes as plain ones, and no emphasis marks, for matching phrases.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '*' | '_' | '`')).map(|c| if c == '’' { '\'' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_whole_words_in_any_case() {
        let phrases = Phrases::new(vec!["per the manual".into(), "(see above)".into()]).unwrap();
        assert_eq!(phrases.find("What, Per  the\nManual, is due?").as_deref(), Some("Per  the\nManual"));
        assert_eq!(phrases.find("super the manual"), None);
        assert_eq!(phrases.find("per the manuals"), None);
        assert!(phrases.find("due (see above)").is_some());
        assert_eq!(Phrases::default().find("anything"), None);
        assert!(Phrases::new(vec![" ".into()]).is_err());
    }
}
