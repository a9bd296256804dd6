//! Forms of values that both files share: durations, lists of paths, URLs, names.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::model::params::{Node, Reader, Value, resolve};

/// The longest duration, in seconds: a year.
const MAX_SECONDS: f64 = 366.0 * 86_400.0;

/// What a duration looks like.
pub(super) const DURATION: &str = "a duration such as 90s, 5m or 2h, or a number of seconds";

/// Reads a duration: a number with `ms`, `s`, `m`, `h` or `d` behind it, or a number of seconds. `None` for anything
/// else, for what is negative, and for more than a year.
pub(super) fn parse_duration(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Int(n) => *n as f64,
        Value::Float(n) => *n,
        Value::Text(text) => {
            let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
            let (number, unit) = text.split_at(unit_at);
            let factor = match unit {
                "ms" => 0.001,
                "s" | "" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
            let number = number.trim_end();
            if !number.starts_with(|c: char| c.is_ascii_digit()) {
                return None;
            }
            number.parse::<f64>().ok()? * factor
        }
        _ => return None,
    };
    // Whole milliseconds, so that no binary fraction shows.
    (0.0..=MAX_SECONDS).contains(&seconds).then(|| Duration::from_millis((seconds * 1000.0).round() as u64))
}

/// Reads the duration under `key`, of at least `least`; `default` if it is missing or wrong.
pub(super) fn duration(
    reader: &mut Reader<'_>,
    key: &str,
    default: Duration,
    least: Duration,
    meaning: &str,
) -> Duration {
    optional_duration(reader, key, &shown_duration(default), least, meaning).unwrap_or(default)
}

/// Reads the duration under `key`, of at least `least`; `None` if it is missing or wrong. `default` is shown.
pub(super) fn optional_duration(
    reader: &mut Reader<'_>,
    key: &str,
    default: &str,
    least: Duration,
    meaning: &str,
) -> Option<Duration> {
    let node = reader.raw(key, DURATION, default, meaning)?;
    match parse_duration(&node.value) {
        Some(duration) if duration >= least => return Some(duration),
        Some(_) => {
            let message = format!("{} must be at least {}", reader.path_of(key), shown_duration(least));
            reader.fault(key, message);
        }
        None => wrong(reader, key, node, DURATION),
    }
    None
}

/// A duration in the largest unit that shows it whole.
pub(super) fn shown_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match seconds {
        _ if millis != 0 => format!("{}ms", duration.as_millis()),
        0 => "0s".into(),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// Notes that the value under `key` is not of the form `expected`.
pub(super) fn wrong(reader: &mut Reader<'_>, key: &str, node: &Node, expected: &str) {
    let shown = match &node.value {
        Value::Text(text) => format!("\"{text}\""),
        Value::Int(n) => n.to_string(),
        Value::Float(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        other => other.kind().into(),
    };
    let message = format!("{} must be {expected}, not {shown}", reader.path_of(key));
    reader.fault(key, message);
}

/// Reads a path relative to the file it stands in; blank text and a `~` are faults.
pub(super) fn optional_path(reader: &mut Reader<'_>, key: &str, default: &str, meaning: &str) -> Option<PathBuf> {
    let path = reader.optional_path(key, default, meaning)?;
    if let Some(fault) = path_fault(&path.to_string_lossy()) {
        let message = format!("{} {fault}", reader.path_of(key));
        reader.fault(key, message);
        return None;
    }
    Some(tidy(&path))
}

/// Reads a list of paths, each relative to the file it stands in; one path alone counts as a list of one. `tree` is
/// the map that the reader reads.
pub(super) fn paths(reader: &mut Reader<'_>, tree: &Node, key: &str, meaning: &str) -> Vec<PathBuf> {
    reader.texts(key, &[], meaning);
    let Some(node) = tree.get(key) else { return Vec::new() };
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut paths = Vec::with_capacity(items.len());
    for item in items {
        let text = match &item.value {
            Value::Text(text) => text.clone(),
            Value::Int(n) => n.to_string(),
            // Noted by the reader.
            _ => continue,
        };
        if let Some(fault) = path_fault(&text) {
            let message = format!("{} {fault}", reader.path_of(key));
            reader.fault(key, message);
        } else {
            paths.push(tidy(&resolve(&item.file, &text)));
        }
    }
    paths
}

/// `path` without `..` steps where that names the same place, which a symbolic link can prevent.
pub(super) fn tidy(path: &Path) -> PathBuf {
    let without_steps = |parts: &[Component<'_>]| {
        let mut tidy = PathBuf::new();
        for part in parts {
            match (part, tidy.components().next_back()) {
                (Component::ParentDir, Some(Component::Normal(_))) => {
                    tidy.pop();
                }
                _ => tidy.push(part),
            }
        }
        tidy
    };
    let parts: Vec<Component<'_>> = path.components().collect();
    let Some(last_step) = parts.iter().rposition(|part| *part == Component::ParentDir) else {
        return path.to_path_buf();
    };
    let as_given: PathBuf = parts[..=last_step].iter().collect();
    let mut tidied = without_steps(&parts[..=last_step]);
    if tidied.as_os_str().is_empty() {
        tidied.push(".");
    }
    match (as_given.canonicalize(), tidied.canonicalize()) {
        (Ok(a), Ok(b)) if a == b => without_steps(&parts),
        _ => path.to_path_buf(),
    }
}

/// What makes `text` no path, if anything does. `text` may already have been joined to a folder.
fn path_fault(text: &str) -> Option<&'static str> {
    if text.trim().is_empty() {
        return Some("is an empty path");
    }
    let home = text.split('/').any(|part| part == "~");
    home.then_some("holds a `~`, which only a shell expands: write `${HOME}` instead")
}

/// What is wrong with the base URL of an endpoint, if anything is; it is never shown, since it may hold a password.
pub(super) fn base_url_fault(url: &str) -> Option<&'static str> {
    if url.contains("${") {
        return Some("must not hold `${`");
    }
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Some("must begin with http:// or https://");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some("must hold no user and password: put the key into a variable and name it in api_key_env");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if host.is_empty() || url.contains(char::is_whitespace) {
        return Some("must name a host, as in http://localhost:8000/v1");
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Some("must have a port from 0 to 65535 behind the `:`, as in http://localhost:8000/v1");
    }
    if rest.contains(['?', '#']) {
        return Some("must end at the path, without `?` or `#`");
    }
    if url.trim_end_matches('/').ends_with("/completions") {
        return Some("must end before /chat/completions, which is added to it");
    }
    None
}

/// Whether `name` is made of letters, digits and `._-` only, begins with a letter or digit, and has at most 100.
pub(super) fn is_plain_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 100
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_units() {
        for (value, want) in [
            (Value::Int(90), Some(90_000)),
            (Value::Float(0.5), Some(500)),
            (Value::Text("90s".into()), Some(90_000)),
            (Value::Text("1.5m".into()), Some(90_000)),
            (Value::Text("2 h".into()), Some(7_200_000)),
            (Value::Text("1d".into()), Some(86_400_000)),
            (Value::Text("250ms".into()), Some(250)),
            (Value::Text("m".into()), None),
            (Value::Text("-5s".into()), None),
            (Value::Text("5 parsecs".into()), None),
            (Value::Text("1e300d".into()), None),
            (Value::Text("400d".into()), None),
            (Value::Text("inf".into()), None),
            (Value::Float(f64::NAN), None),
            (Value::Int(-1), None),
            (Value::Bool(true), None),
        ] {
            let got = parse_duration(&value).map(|d| d.as_millis());
            assert_eq!(got, want, "{value:?}");
        }
    }

    #[test]
    fn urls_are_checked() {
        for good in ["http://localhost:8000/v1", "https://api.example.org/v1/", "http://[::1]:8000", "http://[::1]/v1"]
        {
            assert_eq!(base_url_fault(good), None, "{good}");
        }
        for bad in [
            "localhost:8000/v1",
            "http://",
            "http:///v1",
            "http://user:secret@host/v1",
            "http://host:port/v1",
            "http://host:99999/v1",
            "http://host/v1?key=1",
            "http://host/v1/chat/completions",
            "http://ho st/v1",
            "http://${HOST}/v1",
        ] {
            let fault = base_url_fault(bad);
            assert!(fault.is_some_and(|fault| !fault.contains("secret")), "{bad}");
        }
    }

    #[test]
    fn links_are_not_tidied_into_another_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path();
        for name in ["configs", "elsewhere/deep"] {
            std::fs::create_dir_all(root.join(name)).expect("folder");
        }
        std::os::unix::fs::symlink(root.join("elsewhere/deep"), root.join("link")).expect("link");
        assert_eq!(tidy(&root.join("configs/../state/not/there")), root.join("state/not/there"));
        for kept in ["link/../state", "missing/../state", "plain"] {
            assert_eq!(tidy(&root.join(kept)), root.join(kept));
        }
        assert_eq!(tidy("src/../state".as_ref()), PathBuf::from("state"));
        assert_eq!(tidy("../x".as_ref()), PathBuf::from("../x"));
    }

    proptest! {
        #[test]
        fn shown_durations_are_read_back(millis in 0u64..10_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&Value::Text(shown_duration(duration))), Some(duration));
        }

        #[test]
        fn never_panics(text in "\\PC{0,30}") {
            let _ = parse_duration(&Value::Text(text.clone()));
            let _ = base_url_fault(&text);
            let _ = base_url_fault(&format!("http://{text}"));
        }
    }
}
