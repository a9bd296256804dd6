//! Samples of what stages, servers and the writer are doing, ten a second, kept as sums over the last minute.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::bottleneck::{self, Bottleneck, BottleneckKind, EndpointLoad, Load, StageLoad};
use super::eta::History;
use crate::engine::Progress;
use crate::llm::endpoints::EndpointStatus;

/// How often a sample is taken.
pub(super) const EVERY: Duration = Duration::from_millis(100);
/// Sums are made over so many samples.
const A_BUCKET: u32 = 10;
/// So many of them are the last minute.
const BUCKETS: usize = 60;

/// Sums of samples.
#[derive(Clone, Debug, Default)]
struct Bucket {
    load: Load,
    seconds: f64,
    epochs: u64,
    busy_seconds: f64,
    ended: Vec<u64>,
}

/// Everything sampled that is still of use.
#[derive(Debug)]
pub(super) struct Sampled {
    names: Vec<String>,
    current: Bucket,
    window: VecDeque<Bucket>,
    last: Option<Instant>,
    epochs: u64,
    busy_micros: u64,
    ended: Vec<u64>,
    /// For the estimate of the time to the end.
    pub(super) history: History,
    /// Seconds by what slowed the run down.
    limited_by: BTreeMap<String, f64>,
    seconds: f64,
}

impl Sampled {
    /// Nothing yet, for stages of these names.
    pub(super) fn new(names: Vec<String>) -> Self {
        let stages = names.len();
        Self {
            names,
            current: Bucket::default(),
            window: VecDeque::new(),
            last: None,
            epochs: 0,
            busy_micros: 0,
            ended: vec![0; stages],
            history: History::new(stages),
            limited_by: BTreeMap::new(),
            seconds: 0.0,
        }
    }

    /// Takes a sample; `elapsed` is the attempt's time.
    pub(super) fn take(&mut self, progress: &Progress, endpoints: &[EndpointStatus], elapsed: Duration) {
        let now = Instant::now();
        let seconds = self.last.replace(now).map_or(0.0, |last| (now - last).as_secs_f64());
        let read = |gauge: &std::sync::atomic::AtomicUsize| gauge.load(Ordering::Relaxed) as f64;
        let bucket = &mut self.current;
        bucket.load.samples += 1;
        bucket.seconds += seconds;
        if bucket.load.stages.len() != progress.stages.len() {
            bucket.load.stages =
                self.names.iter().map(|n| StageLoad { name: n.clone(), ..StageLoad::default() }).collect();
            bucket.ended = vec![0; progress.stages.len()];
        }
        for (at, live) in progress.stages.iter().enumerate() {
            let sum = &mut bucket.load.stages[at];
            let (queued, capacity) = live.queue();
            sum.concurrency += read(&live.concurrency);
            sum.held += read(&live.in_flight);
            sum.asking += read(&live.asking);
            sum.committing += read(&live.committing);
            sum.sending += read(&live.sending);
            sum.queued += queued as f64;
            sum.not_empty += f64::from(u8::from(queued > 0));
            sum.queue_full += f64::from(u8::from(capacity > 0 && queued >= capacity));
            let ended = live.ended.load(Ordering::Relaxed);
            bucket.ended[at] += ended - self.ended[at];
            self.ended[at] = ended;
        }
        if bucket.load.endpoints.len() != endpoints.len() {
            let named = |e: &EndpointStatus| EndpointLoad { url: e.url.clone(), ..EndpointLoad::default() };
            bucket.load.endpoints = endpoints.iter().map(named).collect();
        }
        for (sum, live) in bucket.load.endpoints.iter_mut().zip(endpoints) {
            sum.in_flight += live.in_flight as f64;
            sum.limit += live.limit as f64;
            sum.waiting += live.waiting as f64;
            sum.limited += live.limited as f64;
            sum.full += f64::from(u8::from(live.in_flight >= live.limit));
            sum.out += f64::from(u8::from(live.out_seconds.is_some()));
        }
        let (epochs, busy) =
            (progress.commits.epochs.load(Ordering::Relaxed), progress.commits.busy_micros.load(Ordering::Relaxed));
        bucket.load.commits_waiting += read(&progress.commits.waiting);
        bucket.load.source_open += f64::from(u8::from(!progress.source_ended.load(Ordering::Relaxed)));
        bucket.epochs += epochs - self.epochs;
        bucket.busy_seconds += (busy - self.busy_micros) as f64 / 1e6;
        (self.epochs, self.busy_micros) = (epochs, busy);
        if bucket.load.samples >= A_BUCKET {
            let whole = std::mem::take(bucket);
            let seconds = whole.seconds;
            self.window.push_back(whole);
            if self.window.len() > BUCKETS {
                self.window.pop_front();
            }
            // What slowed it down in the last seconds.
            let found = bottleneck::name(&self.load(5));
            if found.kind != BottleneckKind::None {
                *self.limited_by.entry(found.name).or_default() += seconds;
            }
            self.seconds += seconds;
        }
        self.history.note(elapsed.as_secs_f64(), &self.ended);
    }

    /// Means over the last `buckets` seconds or so.
    fn load(&self, buckets: usize) -> Load {
        let recent: Vec<&Bucket> = self.window.iter().rev().take(buckets).chain(Some(&self.current)).collect();
        let samples: u32 = recent.iter().map(|bucket| bucket.load.samples).sum();
        let n = f64::from(samples.max(1));
        let mut load = Load { samples, ..Load::default() };
        for bucket in &recent {
            for (at, from) in bucket.load.stages.iter().enumerate() {
                if load.stages.len() <= at {
                    load.stages.push(StageLoad { name: from.name.clone(), ..StageLoad::default() });
                }
                let to = &mut load.stages[at];
                to.concurrency += from.concurrency / n;
                to.held += from.held / n;
                to.asking += from.asking / n;
                to.committing += from.committing / n;
                to.sending += from.sending / n;
                to.queued += from.queued / n;
                to.not_empty += from.not_empty / n;
                to.queue_full += from.queue_full / n;
            }
            for (at, from) in bucket.load.endpoints.iter().enumerate() {
                if load.endpoints.len() <= at {
                    load.endpoints.push(EndpointLoad { url: from.url.clone(), ..EndpointLoad::default() });
                }
                let to = &mut load.endpoints[at];
                to.in_flight += from.in_flight / n;
                to.limit += from.limit / n;
                to.waiting += from.waiting / n;
                to.limited += from.limited / n;
                to.full += from.full / n;
                to.out += from.out / n;
            }
            load.commits_waiting += bucket.load.commits_waiting / n;
            load.source_open += bucket.load.source_open / n;
        }
        let seconds: f64 = recent.iter().map(|bucket| bucket.seconds).sum();
        let busy: f64 = recent.iter().map(|bucket| bucket.busy_seconds).sum();
        let epochs: u64 = recent.iter().map(|bucket| bucket.epochs).sum();
        load.writer_busy = if seconds > 0.0 { (busy / seconds).min(1.0) } else { 0.0 };
        load.commit_seconds = if epochs > 0 { busy / epochs as f64 } else { 0.0 };
        load
    }

    /// What all did in the last minute.
    pub(super) fn last_minute(&self) -> Load {
        self.load(BUCKETS)
    }

    /// What slows the run down now: in the last ten seconds or so.
    pub(super) fn bottleneck(&self) -> Bottleneck {
        bottleneck::name(&self.load(10))
    }

    /// Items that a stage ended a minute, in the last minute.
    pub(super) fn per_minute(&self, stage: usize) -> f64 {
        let recent = || self.window.iter().chain(Some(&self.current));
        let seconds: f64 = recent().map(|bucket| bucket.seconds).sum();
        let ended: u64 = recent().filter_map(|bucket| bucket.ended.get(stage)).sum();
        if seconds > 0.0 { ended as f64 * 60.0 / seconds } else { 0.0 }
    }

    /// What slowed this attempt down, with the share of its time, the largest first.
    pub(super) fn limited_by(&self) -> Vec<(String, f64)> {
        let mut shares: Vec<(String, f64)> =
            self.limited_by.iter().map(|(name, seconds)| (name.clone(), seconds / self.seconds.max(1e-9))).collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        shares.truncate(4);
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(in_flight: u64, waiting: u64) -> EndpointStatus {
        EndpointStatus { url: "http://a".into(), in_flight, limit: 4, waiting, ..EndpointStatus::default() }
    }

    #[test]
    fn means_cover_the_last_minute_and_no_more() {
        let mut sampled = Sampled::new(Vec::new());
        let progress = Progress::default();
        for n in 0..(A_BUCKET * 100) {
            let servers = [if n < A_BUCKET * 30 { server(0, 0) } else { server(4, 2) }];
            sampled.take(&progress, &servers, Duration::from_secs(u64::from(n) / 10));
        }
        assert_eq!(sampled.window.len(), BUCKETS);
        let minute = sampled.last_minute();
        assert_eq!(minute.samples, A_BUCKET * BUCKETS as u32);
        assert!((minute.endpoints[0].full - 1.0).abs() < 1e-9 && (minute.endpoints[0].waiting - 2.0).abs() < 1e-9);
    }
}
