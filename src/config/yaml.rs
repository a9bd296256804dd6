//! YAML text to a tree of values with their lines: the only user of the YAML crate.
//!
//! Scalars mean what YAML 1.2's core schema says, with two exceptions, both where a silent change of the value would
//! hurt: a decimal number with a leading zero (`007`) and a whole number beyond 64 bits stay text.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use marked_yaml::loader::LoadError;
use marked_yaml::{LoaderOptions, Marker, Node as Marked, parse_yaml_with_options};

use super::env::{Lookup, expand};
use crate::model::params::{Fault, Key, Node, Place, Value};

/// The largest file that is read, in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// The longest run of indentation and nested list or key marks at the start of a line, in columns. The parser is
/// recursive, so this bounds its depth; it bounds the depth of flow lists and maps itself.
const MAX_INDENT: usize = 250;

/// The longest scalar that is resolved to anything but text, in bytes.
const MAX_NUMBER: usize = 64;

/// Parses the bytes of the file `file` and expands environment variables in its scalars. Faults are noted; what
/// comes back is as much of the tree as could be read, so that reading goes on to further faults.
pub(super) fn parse(file: &Arc<str>, bytes: &[u8], lookup: Lookup<'_>, faults: &mut Vec<Fault>) -> Option<Node> {
    let at = |line: usize, message: String| Fault {
        place: Place { file: Arc::clone(file), line: u32::try_from(line).unwrap_or(u32::MAX) },
        message,
    };
    if bytes.len() > MAX_BYTES {
        faults.push(at(0, format!("the file has {} bytes; a configuration has at most {MAX_BYTES}", bytes.len())));
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
            faults.push(at(line, "this line is not UTF-8 text: save the file as UTF-8".into()));
            return None;
        }
    };
    // The parser takes a NUL for the end of the file, and ends lines at a lone carriage return.
    let text = &text.replace("\r\n", "\n");
    for (i, line) in text.split('\n').enumerate() {
        if let Some(c) = line.chars().find(|c| c.is_control() && *c != '\t') {
            faults.push(at(i + 1, format!("there is an invisible control character (U+{:04X}): delete it", c as u32)));
            return None;
        }
        if leading_marks(line) > MAX_INDENT {
            faults.push(at(i + 1, format!("this line is indented by more than {MAX_INDENT} columns")));
            return None;
        }
    }

    let marked = match load(text, true) {
        Ok(marked) => marked,
        Err(Some(LoadError::DuplicateKey(keys))) => {
            let first = keys.prev_key.span().start().map_or(0, Marker::line);
            let line = keys.key.span().start().map_or(0, Marker::line);
            faults.push(at(line, format!("the key `{}` stands twice, first on line {first}", keys.key.as_str())));
            load(text, false).ok()?
        }
        Err(error) => {
            let (line, message) = explain(error.as_ref(), text);
            faults.push(at(line, message));
            return None;
        }
    };
    let Marked::Mapping(top) = &marked else {
        faults.push(at(1, "the file must be a map of keys and values".into()));
        return None;
    };
    // The parser stops behind the first document and never looks at what follows.
    if let Some(end) = top.span().end()
        && let Some(line) = line_behind(text, end)
    {
        let message =
            "this does not belong to what stands above it: check the indentation, and write one document a file";
        faults.push(at(line, message.into()));
        return None;
    }
    if top.is_empty() {
        faults.push(at(0, "the file is empty: it must hold keys and values".into()));
        return None;
    }
    Some(Converter { file, lookup, faults }.node(&marked, 1))
}

/// Parses a list or map in flow style, or a quoted text, as the command line gives them; and takes anything else for
/// a plain scalar, whatever signs are in it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse_value(text: &str, lookup: Lookup<'_>) -> Result<Node, Vec<String>> {
    let file: Arc<str> = SET.into();
    let trimmed = text.trim();
    if !trimmed.starts_with(['{', '[', '"', '\'']) {
        let value = resolve_plain(&expand(trimmed, lookup)?);
        return Ok(Node { file, line: 0, value });
    }
    let mut faults = Vec::new();
    let wrong = "the value is not well-formed YAML: close every bracket and quote, or quote the whole as text";
    if trimmed.contains('\n') {
        return Err(vec!["a list, a map or a quoted text must stand on one line".into()]);
    }
    let node = parse(&file, format!("v: {trimmed}").as_bytes(), lookup, &mut faults);
    let mut node = match node.map(|node| node.value) {
        Some(Value::Map(entries)) if faults.is_empty() && entries.len() == 1 => entries.into_iter().next(),
        _ => None,
    };
    if let Some((_, node)) = &mut node {
        forget_lines(node);
    }
    match node {
        Some((_, node)) => Ok(node),
        None => Err(faults
            .into_iter()
            .map(|fault| if fault.message.contains("variable") { fault.message } else { wrong.into() })
            .collect()),
    }
}

/// The name that stands for the command line where a file's name would stand.
pub(super) const SET: &str = "--set";

fn forget_lines(node: &mut Node) {
    node.line = 0;
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(forget_lines),
        Value::Map(entries) => {
            for (key, node) in entries {
                key.line = 0;
                forget_lines(node);
            }
        }
        _ => {}
    }
}

/// `None` as the error stands for a panic of the parser, which its source does not rule out.
fn load(text: &str, refuse_duplicates: bool) -> Result<Marked, Option<LoadError>> {
    let options = LoaderOptions::default().error_on_duplicate_keys(refuse_duplicates).prevent_coercion(true);
    catch_unwind(AssertUnwindSafe(|| parse_yaml_with_options(0, text, options))).map_err(|_| None)?.map_err(Some)
}

/// How many columns of `line` are indentation, marks of nested lists and keys, anchors and tags.
fn leading_marks(line: &str) -> usize {
    let mut columns = 0;
    for word in line.split_inclusive(' ') {
        let mark = word.trim_end_matches(' ');
        if !(mark.is_empty() || matches!(mark, "-" | "?" | ":") || mark.starts_with(['&', '!'])) {
            break;
        }
        columns += word.len();
    }
    columns
}

/// The line of the first thing behind `end` that is neither blank nor a comment.
fn line_behind(text: &str, end: &Marker) -> Option<usize> {
    let at = text.char_indices().nth(end.character()).map_or(text.len(), |(at, _)| at);
    let (before, behind) = text.split_at(at);
    let first = 1 + before.matches('\n').count();
    behind.split('\n').enumerate().find_map(|(i, line)| {
        let line = line.trim();
        let closes = i == 0 && matches!(line.chars().next(), Some('}')) && line[1..].trim().is_empty();
        let comment = line.starts_with('#') || i == 0 && line.trim_start_matches('}').trim_start().starts_with('#');
        (!(line.is_empty() || comment || closes)).then_some(first + i)
    })
}

/// A parser's error as line and plain words.
fn explain(error: Option<&LoadError>, text: &str) -> (usize, String) {
    let Some(error) = error else { return (0, "this is not well-formed YAML".into()) };
    let (line, mut message) = match error {
        LoadError::TopLevelMustBeMapping(m) | LoadError::TopLevelMustBeSequence(m) => {
            (m.line(), "the file must be a map of keys and values".to_owned())
        }
        LoadError::UnexpectedAnchor(m) => {
            (m.line(), "anchors (`&name`) and aliases (`*name`) are not supported: write the value out".to_owned())
        }
        LoadError::MappingKeyMustBeScalar(m) => (m.line(), "a key must be a plain word".to_owned()),
        LoadError::UnexpectedTag(m) => {
            (m.line(), "tags (`!name`) are not supported: quote the value if it is text".to_owned())
        }
        LoadError::ScanError(m, scan) => (m.line(), in_plain_words(scan.info())),
        LoadError::DuplicateKey(_) => (0, "a key stands twice".to_owned()),
    };
    let lines: Vec<&str> = text.lines().collect();
    let line = line.clamp(1, lines.len().max(1));
    let source = |line: usize| lines.get(line - 1).copied().unwrap_or_default();
    let indented_by_tab = |line: usize| source(line).trim_start_matches(' ').starts_with('\t');
    // The parser may note a tab while it still counts the line before.
    if let Some(line) = [line, line + 1].into_iter().find(|line| indented_by_tab(*line)) {
        return (line, "tabs cannot indent: use spaces".into());
    }
    let source = source(line);
    if source.contains("${") && !source.contains("\"${") && source.replace("${", "").contains(['{', '[']) {
        message.push_str("; in a flow list or map, a value with `${...}` needs quotes");
    }
    (line, message)
}

fn in_plain_words(scan: &str) -> String {
    let known = [
        ("tab", "a tab stands where only spaces can: use spaces"),
        ("mapping values are not allowed", "a `:` stands where none can: check the indentation, or quote the value"),
        ("illegal placement of ':'", "a `:` stands where none can: check the indentation, or quote the value"),
        ("simple key expect", "a `:` is missing behind a key, or the indentation is wrong"),
        ("did not find expected key", "a key is missing, or the indentation is wrong"),
        ("indentation in quoted scalar", "a quoted text is not closed, or its further lines are not indented"),
        ("invalid indentation", "the indentation is wrong"),
        ("expected ',' or ']'", "a list opened with `[` is not closed, or a `,` is missing"),
        ("expected ',' or '}'", "a map opened with `{` is not closed, or a `,` is missing"),
        ("unexpected end of stream", "a quoted text is not closed"),
        ("unexpected eof", "the file ends too early: something is not closed"),
        ("unknown escape", "there is an unknown escape in a double-quoted text: write `\\\\` for a backslash"),
        ("trailing content after double-quoted", "something follows a quoted text: quote all of it or nothing"),
        ("'-' must be followed", "a space must follow the `-` of a list"),
        ("expected '-' indicator", "a `-` is missing in the list, or the indentation is wrong"),
        ("block sequence entries are not allowed", "a list cannot begin here: put it on lines of its own"),
        ("unknown anchor", "anchors (`&name`) and aliases (`*name`) are not supported: quote the value if it is text"),
        ("anchor or alias", "a plain text cannot begin with `&` or `*`: quote it"),
        ("unexpected character", "a plain text cannot begin with this character: quote it"),
        ("recursion limit", "lists and maps are nested too deep"),
    ];
    known
        .iter()
        .find(|(part, _)| scan.contains(part))
        .map_or_else(|| format!("this is not well-formed YAML ({scan})"), |(_, words)| (*words).to_owned())
}

struct Converter<'a> {
    file: &'a Arc<str>,
    lookup: Lookup<'a>,
    faults: &'a mut Vec<Fault>,
}

impl Converter<'_> {
    /// Converts `marked`, whose key stands on `key_line`. A map or list in block style counts as standing there too.
    fn node(&mut self, marked: &Marked, key_line: u32) -> Node {
        let own = marked.span().start().map_or(key_line, |m| u32::try_from(m.line()).unwrap_or(u32::MAX));
        let (line, value) = match marked {
            Marked::Scalar(scalar) => {
                // An empty value is marked where the next thing stands.
                let line = if scalar.as_str().is_empty() && scalar.may_coerce() { key_line } else { own };
                (line, self.scalar(scalar.as_str(), scalar.may_coerce(), line))
            }
            Marked::Sequence(items) => {
                (key_line, Value::List(items.iter().map(|item| self.node(item, line_of(item, key_line))).collect()))
            }
            Marked::Mapping(entries) => {
                let entries = entries.iter().map(|(key, node)| {
                    let line = key.span().start().map_or(key_line, |m| u32::try_from(m.line()).unwrap_or(u32::MAX));
                    (Key { name: key.as_str().to_owned(), line }, self.node(node, line))
                });
                (key_line, Value::Map(entries.collect()))
            }
        };
        Node { file: Arc::clone(self.file), line, value }
    }

    fn scalar(&mut self, text: &str, plain: bool, line: u32) -> Value {
        match expand(text, self.lookup) {
            Ok(text) if plain => resolve_plain(&text),
            Ok(text) => Value::Text(text),
            Err(messages) => {
                let place = Place { file: Arc::clone(self.file), line };
                self.faults.extend(messages.into_iter().map(|message| Fault { place: place.clone(), message }));
                // Text keeps a reader from saying that the key is missing.
                Value::Text(text.to_owned())
            }
        }
    }
}

fn line_of(node: &Marked, otherwise: u32) -> u32 {
    node.span().start().map_or(otherwise, |m| u32::try_from(m.line()).unwrap_or(u32::MAX))
}

/// Resolves a plain scalar by the core schema of YAML 1.2 (section 10.3.2), with the exceptions named above.
pub(super) fn resolve_plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let number = if text.len() > MAX_NUMBER {
        None
    } else if let Some(octal) = text.strip_prefix("0o").filter(|d| d.bytes().all(|b| b.is_ascii_digit())) {
        i64::from_str_radix(octal, 8).ok().map(Value::Int)
    } else if let Some(hex) = text.strip_prefix("0x").filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())) {
        i64::from_str_radix(hex, 16).ok().map(Value::Int)
    } else if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let leading_zero = unsigned.len() > 1 && unsigned.starts_with('0');
        text.parse().ok().filter(|_| !leading_zero).map(Value::Int)
    } else if is_float(unsigned) {
        text.parse().ok().map(Value::Float)
    } else {
        None
    };
    number.unwrap_or_else(|| Value::Text(text.to_owned()))
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(unsigned: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let exponent_fits = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent_fits
        && !mantissa.is_empty()
}

#[cfg(test)]
mod tests;
