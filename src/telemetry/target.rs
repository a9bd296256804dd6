//! The file by which Prometheus finds a run: written when it listens, removed when it ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a run's time series are labelled with, besides what they say themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetLabels {
    /// The run's name.
    pub run_id: String,
    /// The name of the state's folder.
    pub state: String,
    /// The share of the corpus, as in `0/8`; `0/1` for all of it.
    pub shard: String,
}

/// The job that all runs belong to, in Prometheus' sense.
pub const JOB: &str = "qaflow";

impl TargetLabels {
    /// All labels by name.
    pub fn pairs(&self) -> [(&'static str, &str); 4] {
        [("job", JOB), ("run_id", &self.run_id), ("state", &self.state), ("shard", &self.shard)]
    }
}

/// The address under which another machine reaches a listener at `bound`: the machine's name where it listens at all
/// of its addresses.
pub fn reachable(bound: SocketAddr, host: &str) -> String {
    if bound.ip().is_unspecified() { format!("{host}:{}", bound.port()) } else { bound.to_string() }
}

/// A target file; removed when dropped, unless another process has replaced it meanwhile.
#[derive(Debug)]
pub struct TargetFile {
    path: PathBuf,
    text: String,
}

impl TargetFile {
    /// Writes the file at `place`, a `.json` file or a folder (made if it is not there). In a folder the name follows
    /// from the state's folder alone, so that one left by a killed attempt at the same state is replaced.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(place: &Path, state: &Path, address: &str, labels: &TargetLabels) -> std::io::Result<Self> {
        let path = if place.extension().is_some_and(|ending| ending == "json") {
            place.to_owned()
        } else {
            place.join(file_name(state, &labels.state))
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let labels: serde_json::Map<String, serde_json::Value> =
            labels.pairs().iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        let mut text = serde_json::json!([{ "targets": [address], "labels": labels }]).to_string();
        text.push('\n');
        // Prometheus reads the file as soon as it changes, so it must be whole; the name must not end in `.json`.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = folder.join(format!(".{name}.{}.partial", std::process::id()));
        std::fs::write(&partial, &text)?;
        std::fs::rename(&partial, &path).inspect_err(|_| {
            let _ = std::fs::remove_file(&partial);
        })?;
        Ok(Self { path, text })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TargetFile {
    fn drop(&mut self) {
        if std::fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A name that is the same for every attempt at a state, and another for each state.
fn file_name(state: &Path, name: &str) -> String {
    let whole = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    let mut hasher = blake3::Hasher::new_derive_key("qaflow target file v1");
    hasher.update(whole.as_os_str().as_encoded_bytes());
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let plain: String = plain.chars().take(60).collect();
    format!("qaflow-{plain}-{}.json", &hasher.finalize().to_hex()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> TargetLabels {
        TargetLabels { run_id: "r-1".into(), state: "run 1".into(), shard: "0/4".into() }
    }

    #[test]
    fn the_file_is_replaced_by_the_next_attempt_and_removed_by_the_one_that_wrote_it() {
        let place = tempfile::tempdir().unwrap();
        let (folder, state) = (place.path().join("targets"), place.path().join("run 1"));
        std::fs::create_dir(&state).unwrap();
        let killed = TargetFile::write(&folder, &state, "node1:1", &labels()).unwrap();
        let name = killed.path().file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("qaflow-run_1-") && name.len() == "qaflow-run_1-01234567.json".len(), "{name}");
        let second = TargetFile::write(&folder, &state, "node2:2", &labels()).unwrap();
        assert_eq!(killed.path(), second.path());
        insta::assert_snapshot!(
            std::fs::read_to_string(second.path()).unwrap(),
            @r#"[{"labels":{"job":"qaflow","run_id":"r-1","shard":"0/4","state":"run 1"},"targets":["node2:2"]}]"#
        );
        drop(killed);
        assert!(second.path().exists(), "it is the second attempt's now");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
        let path = second.path().to_owned();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_of_its_own_may_be_named() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("deep/mine.json");
        let written = TargetFile::write(&file, place.path(), "127.0.0.1:9", &labels()).unwrap();
        assert_eq!(written.path(), file);
    }

    #[test]
    fn other_machines_need_a_name() {
        assert_eq!(reachable("0.0.0.0:9464".parse().unwrap(), "node7"), "node7:9464");
        assert_eq!(reachable("[::]:9464".parse().unwrap(), "node7"), "node7:9464");
        assert_eq!(reachable("127.0.0.1:9464".parse().unwrap(), "node7"), "127.0.0.1:9464");
        assert_eq!(reachable("[::1]:9464".parse().unwrap(), "node7"), "[::1]:9464");
    }
}
