//! Keeps a run's history: a sample every second or less often, appended to `history.jsonl` in the state.
//!
//! It is for plots alone: nothing is decided by it, and a history that cannot be written ends no run.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::progress::Status;
use crate::bench::history::{History, MOST_SAMPLES, Sample, StageSample, line, parse};

/// The history's name within a state.
pub const HISTORY_FILE: &str = "history.jsonl";

/// The history of the run that this process is an attempt of.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: File,
    samples: usize,
    every: u64,
    last: i64,
}

impl Recorder {
    /// Goes on with the history of a state, or begins one.
    ///
    /// # Errors
    /// If the file cannot be read or written, or if it is newer than this program.
    pub fn open(state: &Path) -> io::Result<Self> {
        let path = state.join(HISTORY_FILE);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let history = parse(&text).map_err(io::Error::other)?;
        if text.is_empty() {
            file.write_all(history.text().as_bytes())?;
        } else if !text.ends_with('\n') {
            // A kill tore the last line: it ends here.
            file.write_all(b"\n")?;
        }
        let last = history.samples.last().map_or(0, |sample| sample.t);
        Ok(Self { path, file, samples: history.samples.len(), every: history.every_seconds, last })
    }

    /// Takes a sample if the last one is old enough, or if it is the attempt's last.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn note(&mut self, status: &Status, last: bool) -> io::Result<()> {
        let now = jiff::Timestamp::now().as_second();
        let wait = if last { 1 } else { self.every.cast_signed() };
        if now - self.last < wait {
            return Ok(());
        }
        self.last = now;
        self.file.write_all(line(&sample(status, now)).as_bytes())?;
        self.samples += 1;
        if self.samples > MOST_SAMPLES {
            self.thin()?;
        }
        Ok(())
    }

    fn thin(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut text = String::new();
        self.file.read_to_string(&mut text)?;
        let mut history: History = parse(&text).map_err(io::Error::other)?;
        history.thin();
        super::write_whole(&self.path, history.text().as_bytes())?;
        self.file = OpenOptions::new().read(true).append(true).open(&self.path)?;
        (self.samples, self.every) = (history.samples.len(), history.every_seconds);
        Ok(())
    }
}

/// Reads the history of a state; one that is not there is empty.
///
/// # Errors
/// If it cannot be read, or is newer than this program.
pub fn read(state: &Path) -> io::Result<History> {
    match std::fs::read_to_string(state.join(HISTORY_FILE)) {
        Ok(text) => parse(&text).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(History::default()),
        Err(error) => Err(error),
    }
}

fn sample(status: &Status, t: i64) -> Sample {
    let stages = status.stages.iter().map(|s| {
        let stage = StageSample {
            ended: s.admitted.saturating_sub(s.pending),
            made: s.emitted,
            in_flight: s.in_flight,
            queued: s.queued,
            capacity: s.capacity,
        };
        (s.name.clone(), stage)
    });
    Sample {
        t,
        attempt: status.attempt,
        stages: stages.collect(),
        in_flight: status.model.in_flight,
        slots: status.model.slots,
        calls: status.model.calls,
        gpu_utilization: mean(status.gpu.gpus.iter().filter_map(|gpu| gpu.utilization)),
        gpu_memory: status.gpu.gpus.iter().filter_map(|gpu| gpu.memory_used_bytes).max(),
        gpu_seconds: status.gpu.seconds_total,
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}
