//! Expansion of environment variables in the scalars of configuration files.

use std::env::VarError;

/// Where the values of environment variables come from; [`std::env::var`] outside tests.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Result<String, VarError>;

/// How deep defaults may hold variables themselves, as in `${A:-${B:-c}}`.
const MAX_DEPTH: usize = 8;

/// Replaces `${NAME}` by the variable's value and `${NAME:-default}` by the default where the variable is unset or
/// empty, as a shell does. A default may hold further variables. `$$` stands for one dollar; a dollar before
/// anything else stands for itself.
///
/// # Errors
/// Every fault of the text, each naming the variable.
pub(super) fn expand(text: &str, lookup: Lookup<'_>) -> Result<String, Vec<String>> {
    if !text.contains('$') {
        return Ok(text.to_owned());
    }
    let mut expander = Expander { rest: text, lookup, faults: Vec::new() };
    let out = expander.until_end(false, 0, true);
    if expander.faults.is_empty() { Ok(out) } else { Err(expander.faults) }
}

struct Expander<'a> {
    rest: &'a str,
    lookup: Lookup<'a>,
    faults: Vec<String>,
}

impl Expander<'_> {
    /// Expands up to the end, or within a default up to its closing brace, which is taken too. Faults of a default
    /// that is not `wanted` are not noted, since nothing depends on it.
    fn until_end(&mut self, in_default: bool, depth: usize, wanted: bool) -> String {
        let mut out = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            let after = &self.rest[at + c.len_utf8()..];
            match c {
                '}' if in_default => {
                    self.rest = after;
                    return out;
                }
                '$' if after.starts_with('$') => {
                    out.push('$');
                    chars.next();
                }
                '$' if after.starts_with('{') => {
                    self.rest = &after[1..];
                    out.push_str(&self.variable(depth, wanted));
                    chars = self.rest.char_indices();
                }
                c => out.push(c),
            }
        }
        self.rest = "";
        if in_default {
            self.faults.push("`${` is not closed: a `}` is missing; a plain dollar is written `$$`".into());
        }
        out
    }

    /// Expands one variable, behind its `${`.
    fn variable(&mut self, depth: usize, wanted: bool) -> String {
        if depth >= MAX_DEPTH {
            self.faults.push(format!("variables are nested more than {MAX_DEPTH} deep"));
            self.rest = "";
            return String::new();
        }
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (name, behind) = self.rest.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            self.faults.push(
                "a variable's name must follow `${`, of letters, digits and `_`; a plain dollar is written `$$`".into(),
            );
            self.rest = behind.find('}').map_or("", |close| &behind[close + 1..]);
            return String::new();
        }
        let value = match (self.lookup)(name) {
            Ok(value) => Some(value),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(_)) => {
                if wanted {
                    self.faults.push(format!("the environment variable `{name}` is not UTF-8 text"));
                }
                Some(String::new())
            }
        };
        if let Some(after) = behind.strip_prefix('}') {
            self.rest = after;
            if value.is_none() && wanted {
                self.faults.push(format!(
                    "the environment variable `{name}` is not set: set it, or give a default as in `${{{name}:-default}}`"
                ));
            }
            value.unwrap_or_default()
        } else if let Some(after) = behind.strip_prefix(":-") {
            self.rest = after;
            let value = value.filter(|value| !value.is_empty());
            let default = self.until_end(true, depth + 1, wanted && value.is_none());
            value.unwrap_or(default)
        } else {
            let closed = behind.find('}');
            self.rest = closed.map_or("", |close| &behind[close + 1..]);
            self.faults.push(if closed.is_none() {
                format!("`${{{name}` is not closed: a `}}` is missing; a plain dollar is written `$$`")
            } else {
                format!("after `${{{name}` only `}}` or `:-default}}` can follow")
            });
            String::new()
        }
    }
}

/// Whether `name` can be the name of an environment variable.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Result<String, VarError> {
        match name {
            "HOST" => Ok("gpu1".into()),
            "PORT" => Ok("8000".into()),
            "EMPTY" => Ok(String::new()),
            "DOLLAR" => Ok("${HOST}".into()),
            "BAD" => Err(VarError::NotUnicode(OsString::from_vec(vec![0xff]))),
            _ => Err(VarError::NotPresent),
        }
    }

    fn shown(text: &str) -> String {
        match expand(text, &lookup) {
            Ok(out) => out,
            Err(faults) => format!("! {}", faults.join(" ! ")),
        }
    }

    #[test]
    fn variables_defaults_and_dollars() {
        for (text, want) in [
            ("http://${HOST}:${PORT}/v1", "http://gpu1:8000/v1"),
            ("${NONE:-http://localhost:8000/v1}", "http://localhost:8000/v1"),
            ("${EMPTY:-x}|${EMPTY}|${NONE:-}", "x||"),
            ("${NONE:-${ALSO:-http://${HOST}}:1}", "http://gpu1:1"),
            ("${HOST:-${NONE}}", "gpu1"),
            ("$$ $${HOST} $HOST 5$ $$$${HOST}", "$ ${HOST} $HOST 5$ $${HOST}"),
            ("${DOLLAR}", "${HOST}"),
            ("ü${HOST}ü", "ügpu1ü"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn faults_name_the_variable_and_the_way_out() {
        let texts = [
            "${NONE}",
            "${HOST",
            "${NONE:-a",
            "${",
            "${}",
            "${1A}",
            "${HOST-x}",
            "${BAD}",
            "${NONE} ${TWO}",
            "${NONE:-${TWO}}",
        ];
        let all: Vec<String> = texts.iter().map(|text| format!("{text}  →  {}", shown(text))).collect();
        insta::assert_snapshot!(all.join("\n"), @r#"
        ${NONE}  →  ! the environment variable `NONE` is not set: set it, or give a default as in `${NONE:-default}`
        ${HOST  →  ! `${HOST` is not closed: a `}` is missing; a plain dollar is written `$$`
        ${NONE:-a  →  ! `${` is not closed: a `}` is missing; a plain dollar is written `$$`
        ${  →  ! a variable's name must follow `${`, of letters, digits and `_`; a plain dollar is written `$$`
        ${}  →  ! a variable's name must follow `${`, of letters, digits and `_`; a plain dollar is written `$$`
        ${1A}  →  ! a variable's name must follow `${`, of letters, digits and `_`; a plain dollar is written `$$`
        ${HOST-x}  →  ! after `${HOST` only `}` or `:-default}` can follow
        ${BAD}  →  ! the environment variable `BAD` is not UTF-8 text
        ${NONE} ${TWO}  →  ! the environment variable `NONE` is not set: set it, or give a default as in `${NONE:-default}` ! the environment variable `TWO` is not set: set it, or give a default as in `${TWO:-default}`
        ${NONE:-${TWO}}  →  ! the environment variable `TWO` is not set: set it, or give a default as in `${TWO:-default}`
        "#);
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "${A:-".repeat(100_000);
        assert!(shown(&deep).contains("nested more than 8 deep"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[$ {}:A-Ba\\-ü]{0,40}") {
            let _ = expand(&text, &lookup);
        }

        #[test]
        fn doubled_dollars_give_any_text_back(text in "\\PC{0,40}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), &lookup), Ok(text));
        }
    }
}
