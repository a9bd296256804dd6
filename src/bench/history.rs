//! The history of a run: samples of what it was doing, one line each, as `history.jsonl` in its state holds them.
//!
//! The first line is `{"format":1,"every_seconds":N}`. When the file grows past [`MOST_SAMPLES`], every second sample
//! of each attempt goes and samples are taken half as often, so that a run of weeks has as small a file as one of an
//! hour. The beginning and the end of each attempt stay.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The newest format of a history that this program reads.
pub const HISTORY_FORMAT: u32 = 1;
/// More samples than these are thinned out.
pub const MOST_SAMPLES: usize = 4_000;

/// The first line of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The format.
    pub format: u32,
    /// Seconds between two samples.
    pub every_seconds: u64,
}

/// What a run was doing at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// When: seconds since 1970 in UTC.
    pub t: i64,
    /// The attempt, from 1.
    pub attempt: u64,
    /// The stages with their names, in the order of the graph.
    pub stages: Vec<(String, StageSample)>,
    /// Requests that were with the model.
    pub in_flight: u64,
    /// Requests that could have been.
    pub slots: u64,
    /// Model answers of the whole run so far.
    pub calls: u64,
    /// Mean utilisation of the GPUs, 0 to 1, where measured.
    pub gpu_utilization: Option<f64>,
    /// The most memory in use on one GPU, in bytes, where measured.
    pub gpu_memory: Option<u64>,
    /// GPU-seconds of the whole run so far.
    pub gpu_seconds: f64,
}

impl Sample {
    /// One of its stages.
    pub fn stage(&self, name: &str) -> Option<&StageSample> {
        self.stages.iter().find(|(known, _)| known == name).map(|(_, stage)| stage)
    }
}

/// What one stage was doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageSample {
    /// Items that had ended, over the whole run.
    pub ended: u64,
    /// Children made, over the whole run.
    pub made: u64,
    /// Items in its hands.
    pub in_flight: u64,
    /// Items in its channel.
    pub queued: u64,
    /// Size of its channel.
    pub capacity: u64,
}

/// A history, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The samples in the order in which they were taken.
    pub samples: Vec<Sample>,
    /// Seconds between two of them.
    pub every_seconds: u64,
}

/// Reads a history. Lines that a kill has torn are passed over.
///
/// # Errors
/// A newer format, in words.
pub fn parse(text: &str) -> Result<History, String> {
    let mut lines = text.lines();
    let head: Head = lines
        .next()
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or(Head { format: HISTORY_FORMAT, every_seconds: 1 });
    if head.format > HISTORY_FORMAT {
        return Err(format!("it has format {}, newer than this program reads: use the newer qaflow", head.format));
    }
    let samples = lines.filter_map(|line| serde_json::from_str::<Sample>(line).ok()).filter(|s| s.t > 0).collect();
    Ok(History { samples, every_seconds: head.every_seconds.max(1) })
}

impl History {
    /// The file's text.
    pub fn text(&self) -> String {
        let head = Head { format: HISTORY_FORMAT, every_seconds: self.every_seconds };
        let mut text = line(&head);
        for sample in &self.samples {
            text.push_str(&line(sample));
        }
        text
    }

    /// Only the samples of attempts `first` to `last`.
    #[must_use]
    pub fn of_attempts(mut self, first: u64, last: u64) -> Self {
        self.samples.retain(|sample| (first..=last).contains(&sample.attempt));
        self
    }

    /// The histories of shards as one: what they did at the same time is summed up, and whenever one of them begins
    /// an attempt, so does the sum.
    pub fn merged(shards: &[Self]) -> Self {
        let every_seconds = shards.iter().map(|shard| shard.every_seconds).max().unwrap_or(1).max(1);
        if let [one] = shards {
            return one.clone();
        }
        let mut times: BTreeMap<i64, Vec<(usize, &Sample)>> = BTreeMap::new();
        for (at, shard) in shards.iter().enumerate() {
            for sample in &shard.samples {
                let bucket = times.entry(sample.t.div_euclid(every_seconds.cast_signed())).or_default();
                // A shard's latest sample of the bucket counts.
                bucket.retain(|(other, _)| *other != at);
                bucket.push((at, sample));
            }
        }
        // What a shard has done stays done while it does not run.
        let mut latest: Vec<Sample> = vec![Sample::default(); shards.len()];
        let mut samples = Vec::with_capacity(times.len());
        for (bucket, now) in times {
            for one in &mut latest {
                let stages = one.stages.iter_mut();
                stages.for_each(|(_, stage)| (stage.in_flight, stage.queued, stage.capacity) = (0, 0, 0));
                (one.in_flight, one.slots, one.gpu_utilization, one.gpu_memory) = (0, 0, None, None);
            }
            for (at, sample) in now {
                latest[at] = sample.clone();
            }
            samples.push(sum(bucket * every_seconds.cast_signed(), &latest));
        }
        Self { samples, every_seconds }
    }

    /// Halves the samples of each attempt, its first and last excepted, and takes them half as often from now on.
    pub fn thin(&mut self) {
        let attempts: Vec<u64> = self.samples.iter().map(|sample| sample.attempt).collect();
        let mut place = 0;
        let mut index = 0;
        self.samples.retain(|sample| {
            let first = index == 0 || attempts[index - 1] != sample.attempt;
            let last = attempts.get(index + 1) != Some(&sample.attempt);
            place = if first { 0 } else { place + 1 };
            index += 1;
            first || last || place % 2 == 0
        });
        self.every_seconds *= 2;
    }
}

fn sum(t: i64, of: &[Sample]) -> Sample {
    let mut total = Sample { t, ..Sample::default() };
    let (mut utilization, mut measured) = (0.0, 0_u32);
    for sample in of {
        total.attempt += sample.attempt;
        total.in_flight += sample.in_flight;
        total.slots += sample.slots;
        total.calls += sample.calls;
        total.gpu_seconds += sample.gpu_seconds;
        total.gpu_memory = total.gpu_memory.max(sample.gpu_memory);
        if let Some(share) = sample.gpu_utilization {
            utilization += share;
            measured += 1;
        }
        for (name, stage) in &sample.stages {
            let at = total.stages.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                total.stages.push((name.clone(), StageSample::default()));
                total.stages.len() - 1
            });
            let sum = &mut total.stages[at].1;
            sum.ended += stage.ended;
            sum.made += stage.made;
            sum.in_flight += stage.in_flight;
            sum.queued += stage.queued;
            sum.capacity += stage.capacity;
        }
    }
    total.gpu_utilization = (measured > 0).then(|| utilization / f64::from(measured));
    total
}

/// One line of the file.
pub fn line<T: Serialize>(value: &T) -> String {
    // Numbers and names only: it cannot fail.
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(t: i64, attempt: u64) -> Sample {
        let stage = StageSample { ended: 5, made: 7, in_flight: 1, queued: 2, capacity: 8 };
        Sample { t, attempt, stages: vec![("chunk".to_owned(), stage)], ..Sample::default() }
    }

    #[test]
    fn it_is_read_back_and_torn_lines_are_passed_over() {
        let history = History { samples: (1..=5).map(|t| sample(t, 1)).collect(), every_seconds: 4 };
        let text = history.text();
        assert_eq!(parse(&text).unwrap(), history);
        let torn = &text[..text.len() - 9];
        assert_eq!(parse(torn).unwrap().samples, history.samples[..4]);
        assert!(parse("{\"format\":9,\"every_seconds\":1}\n").unwrap_err().contains("newer"));
        assert_eq!(parse("").unwrap().samples, []);
    }

    #[test]
    fn shards_are_summed_up_and_what_is_done_stays_done() {
        let a = History { samples: vec![sample(10, 1), sample(20, 1), sample(30, 2)], every_seconds: 10 };
        let b = History { samples: vec![sample(11, 1), sample(19, 1)], every_seconds: 1 };
        let merged = History::merged(&[a, b]);
        let seen: Vec<(i64, u64, u64, u64)> = merged
            .samples
            .iter()
            .map(|s| (s.t, s.attempt, s.stage("chunk").unwrap().ended, s.stage("chunk").unwrap().in_flight))
            .collect();
        assert_eq!(seen, [(10, 2, 10, 2), (20, 2, 10, 1), (30, 3, 10, 1)]);
        assert_eq!(merged.every_seconds, 10);
    }

    #[test]
    fn thinning_keeps_the_ends_of_every_attempt() {
        let mut history = History { every_seconds: 1, ..History::default() };
        history.samples.extend((1..=10).map(|t| sample(t, 1)));
        history.samples.extend((21..=22).map(|t| sample(t, 2)));
        history.samples.push(sample(30, 3));
        history.thin();
        let times: Vec<i64> = history.samples.iter().map(|s| s.t).collect();
        assert_eq!(times, [1, 3, 5, 7, 9, 10, 21, 22, 30]);
        assert_eq!(history.every_seconds, 2);
    }
}
