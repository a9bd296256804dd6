//! The request log: a line of JSON when a request arrives and one when it ends, written through at once.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// The log. Every line is one `write` to a file opened for appending, so a killed server loses none of them.
#[derive(Debug)]
pub(super) struct RequestLog {
    file: File,
    failed: AtomicU64,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line<'a> {
    Arrive {
        /// Unix time in seconds.
        t: f64,
        n: u64,
        id: &'a str,
        task: &'a str,
        body: &'a str,
        /// The tag of the source text in the prompt: the same for all requests about one passage.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<&'a str>,
    },
    End {
        t: f64,
        n: u64,
        id: &'a str,
        outcome: &'a str,
        /// Milliseconds since it arrived.
        ms: f64,
    },
}

impl RequestLog {
    /// Opens a log to append to; a line that a crash of the machine left unfinished is ended first.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { file, failed: AtomicU64::new(0) })
    }

    /// A request has arrived, whole. `body` is the start of its body's BLAKE3 hash.
    pub(super) fn arrive(&self, n: u64, id: &str, task: &str, body: &str, source: Option<&str>) {
        self.write(&Line::Arrive { t: now(), n, id, task, body, source });
    }

    /// A request has ended.
    pub(super) fn end(&self, n: u64, id: &str, outcome: &str, took: Duration) {
        let ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        self.write(&Line::End { t: now(), n, id, outcome, ms });
    }

    /// Lines that could not be written.
    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn write(&self, line: &Line<'_>) {
        let mut text = Vec::with_capacity(192);
        let written = serde_json::to_writer(&mut text, line).map_err(std::io::Error::from).and_then(|()| {
            text.push(b'\n');
            (&self.file).write_all(&text)
        });
        if let Err(error) = written
            && self.failed.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::error!(%error, "the request log cannot be written; lines are missing from now on");
        }
    }
}

/// Unix time in seconds, to the microsecond.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_there_at_once_and_are_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, "{\"event\":\"arr").unwrap();
        let log = RequestLog::open(&path).unwrap();
        log.arrive(1, "a\"b", "qa_pairs", "00ff", Some("9f3a"));
        log.end(1, "a\"b", "ok", Duration::from_micros(1_500));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "{\"event\":\"arr");
        let arrive: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(
            (&arrive["event"], &arrive["id"], &arrive["task"], &arrive["source"]),
            (&"arrive".into(), &"a\"b".into(), &"qa_pairs".into(), &"9f3a".into())
        );
        let end: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
        assert_eq!((&end["outcome"], &end["ms"], &end["n"]), (&"ok".into(), &1.5.into(), &1.into()));
        assert_eq!((lines.len(), log.failed()), (3, 0));
    }
}
