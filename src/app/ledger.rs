//! The ledger of a state: one record for each attempt, kept up to date while it runs, closed by the next one if it was
//! killed. What it counts never depends on the clock of another machine: seconds are this process's own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::state::ATTEMPTS;
use crate::export::manifest::LedgerFacts;
use crate::model::ledger::{
    Accounts, AttemptEnd, AttemptRecord, GpuHeld, GpuSource, LEDGER_FORMAT, LedgerTotals, StageAccount, record_name,
};
use crate::model::plan::Plan;
use crate::model::record::Change;
use crate::model::store::Store;
use crate::model::{StageKey, StoreError};
use crate::telemetry::gpu::GpuFigures;
use crate::telemetry::process::ProcessUse;

/// The least and the longest time between two writings of a record. Between them it is a tenth of the attempt's age,
/// so that a kill loses at most a tenth of what an attempt held, or five seconds of a long one.
const TICK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// How long after `elapsed` the record is written again.
pub fn next_tick(elapsed: Duration) -> Duration {
    (elapsed / 10).clamp(TICK.0, TICK.1)
}

/// All attempts of a state, the oldest first. Those of before there was a ledger are missing.
///
/// # Errors
/// If the store cannot be read, or a newer program wrote a record.
pub fn attempts(store: &dyn Store) -> Result<Vec<AttemptRecord>, StoreError> {
    let count = store.meta(ATTEMPTS)?.and_then(|text| String::from_utf8_lossy(&text).parse().ok()).unwrap_or(0_u64);
    let mut records = Vec::new();
    for number in 1..=count {
        if let Some(bytes) = store.meta(&record_name(number))? {
            records.push(read(number, &bytes)?);
        }
    }
    Ok(records)
}

/// The sums over all attempts of a state.
///
/// # Errors
/// As [`attempts`].
pub fn totals(store: &dyn Store) -> Result<LedgerTotals, StoreError> {
    Ok(LedgerTotals::of(&attempts(store)?))
}

/// The ledger as the manifest shows it.
///
/// # Errors
/// As [`attempts`].
pub fn manifest(store: &dyn Store) -> Result<LedgerFacts, StoreError> {
    let attempts = attempts(store)?;
    Ok(LedgerFacts { totals: LedgerTotals::of(&attempts), attempts })
}

fn read(number: u64, bytes: &[u8]) -> Result<AttemptRecord, StoreError> {
    let what = || format!("the ledger's record of attempt {number}");
    let damaged = |error: serde_json::Error| StoreError::Damaged {
        what: what(),
        detail: error.to_string(),
        remedy: "Run `qaflow verify --repair`, which sets it aside".into(),
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    let found = value["format"].as_u64().unwrap_or(0) as u32;
    if found > LEDGER_FORMAT {
        return Err(StoreError::Newer { what: what(), found, known: LEDGER_FORMAT });
    }
    serde_json::from_value(value).map_err(damaged)
}

/// The change that writes a record.
pub fn written(record: &AttemptRecord) -> Change {
    // A record holds nothing that JSON lacks; a number that is none becomes null, and is never made here.
    let value = serde_json::to_vec(record).unwrap_or_default();
    Change::Meta { name: record_name(record.number), value: Some(value) }
}

/// The accounts of the stages given by name and name space.
///
/// # Errors
/// If the store cannot be read.
pub fn accounts<'a>(
    store: &dyn Store,
    stages: impl Iterator<Item = (&'a str, StageKey)>,
    documents_done: u64,
) -> Result<Accounts, StoreError> {
    let mut counted = BTreeMap::new();
    for (name, key) in stages {
        counted.insert(name.to_owned(), StageAccount { key: key.hex(), counts: store.counts(&key)? });
    }
    Ok(Accounts { model: store.model_counts()?, stages: counted, documents_done })
}

/// The stages of a plan by name.
pub fn stages(plan: &Plan) -> impl Iterator<Item = (&str, StageKey)> {
    plan.nodes.iter().enumerate().map(|(at, node)| (node.name.as_str(), plan.key(at)))
}

/// Closes the last record if its attempt was killed: what it brought about is what the accounts hold now beyond those
/// at its beginning. `documents_done` is asked only if there is such a record.
///
/// # Errors
/// If the store cannot be read.
pub fn close_killed(
    store: &dyn Store,
    attempts: &mut [AttemptRecord],
    documents_done: impl FnOnce() -> Result<u64, StoreError>,
) -> Result<Option<Change>, StoreError> {
    let Some(last) = attempts.last_mut().filter(|last| last.end == AttemptEnd::Running) else { return Ok(None) };
    let stages: Vec<(String, StageKey)> = last
        .at_start
        .stages
        .iter()
        .filter_map(|(name, account)| Some((name.clone(), StageKey::from_hex(&account.key)?)))
        .collect();
    let now = accounts(store, stages.iter().map(|(name, key)| (name.as_str(), *key)), documents_done()?)?;
    // A repair may have left less in the store than the attempt had noted.
    count(last, &now.at_least(&last.at_end()));
    last.end = AttemptEnd::Killed;
    last.ended = Some(last.updated.clone());
    Ok(Some(written(last)))
}

/// The accounts that an attempt begins from, where the store says `now`: with what earlier attempts had done and a
/// repair or a retry made pending again, so that no attempt counts it a second time. Answers that were lost are paid for
/// again, and count again.
pub fn beginning(now: Accounts, attempts: &[AttemptRecord]) -> Accounts {
    let model = now.model;
    let stages_and_documents = attempts.iter().fold(now, |known, one| known.at_least(&one.at_end()));
    Accounts { model, ..stages_and_documents }
}

/// Closes a killed attempt before a command changes accounts between two attempts.
///
/// # Errors
/// If the store cannot be read or written.
pub fn settle(plan: &Plan, store: &dyn Store) -> Result<(), StoreError> {
    let mut attempts = attempts(store)?;
    let done = || Ok(super::tally::Tally::scan(plan, store)?.documents_done());
    if let Some(change) = close_killed(store, &mut attempts, done)? {
        store.commit(&[change])?;
    }
    Ok(())
}

fn count(record: &mut AttemptRecord, now: &Accounts) {
    let since = now.since(&record.at_start);
    record.calls = since.model.calls;
    record.prompt_tokens = since.model.usage.prompt_tokens;
    record.cached_tokens = since.model.usage.cached_tokens;
    record.completion_tokens = since.model.usage.completion_tokens;
    record.items = since.stages.into_iter().map(|(name, account)| (name, account.counts)).collect();
    record.documents_done = since.documents_done;
}

/// A moment of an attempt.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The time (RFC 3339).
    pub wall: String,
    /// Since the process began.
    pub elapsed: Duration,
}

/// Where an attempt runs.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The scheduler's job.
    pub job: Option<String>,
    /// The machine's name.
    pub node: String,
    /// How often the scheduler had restarted the job.
    pub restart_count: Option<u32>,
}

/// The record of the attempt that runs.
#[derive(Clone, Debug)]
pub struct Ledger {
    record: AttemptRecord,
    memory: (u64, u64),
}

impl Ledger {
    /// Begins attempt `number`.
    pub fn begin(
        number: u64,
        origin: Origin,
        gpus: &[GpuHeld],
        gpu_source: &GpuSource,
        at_start: Accounts,
        now: &Moment,
    ) -> Self {
        let record = AttemptRecord {
            format: LEDGER_FORMAT,
            number,
            job: origin.job,
            node: origin.node,
            restart_count: origin.restart_count,
            started: started(now),
            updated: now.wall.clone(),
            ended: None,
            end: AttemptEnd::Running,
            seconds: 0.0,
            gpus: gpus.to_vec(),
            gpu_source: gpu_source.clone(),
            gpu_seconds: 0.0,
            gpu_utilization_mean: None,
            gpu_memory_max_bytes: None,
            energy_joules: None,
            cpu_seconds: 0.0,
            memory_mean_bytes: 0,
            memory_max_bytes: 0,
            calls: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            items: BTreeMap::new(),
            documents_done: 0,
            budget_extension_asked: None,
            budget_extended_gpu_hours: 0.0,
            budget_stopped: false,
            at_start,
        };
        let mut ledger = Self { record, memory: (0, 0) };
        ledger.age(now);
        ledger
    }

    /// The record.
    pub fn record(&self) -> &AttemptRecord {
        &self.record
    }

    /// Notes an extension of the budget: the hours asked for, and those granted.
    pub fn extended(&mut self, asked: f64, granted: f64) {
        self.record.budget_extension_asked = Some(asked);
        self.record.budget_extended_gpu_hours = granted;
    }

    /// GPU-seconds of this attempt up to `elapsed`.
    pub fn gpu_seconds(&self, elapsed: Duration) -> f64 {
        self.record.gpus.len() as f64 * elapsed.as_secs_f64()
    }

    fn age(&mut self, now: &Moment) {
        self.record.updated.clone_from(&now.wall);
        self.record.seconds = milli(now.elapsed.as_secs_f64());
        self.record.gpu_seconds = milli(self.gpu_seconds(now.elapsed));
    }

    /// Brings the record up to date.
    pub fn tick(&mut self, now: &Moment, accounts: &Accounts, gpu: &GpuFigures, process: &ProcessUse) {
        self.age(now);
        count(&mut self.record, accounts);
        self.record.gpu_utilization_mean = gpu.utilization_mean;
        self.record.gpu_memory_max_bytes = gpu.memory_max_bytes;
        self.record.energy_joules = gpu.energy_joules.map(milli);
        self.record.cpu_seconds = process.cpu_seconds;
        self.memory = (self.memory.0 + process.memory_bytes, self.memory.1 + 1);
        self.record.memory_mean_bytes = self.memory.0 / self.memory.1;
        self.record.memory_max_bytes = process.memory_peak_bytes;
    }

    /// Ends the record.
    pub fn end(&mut self, now: &Moment, end: AttemptEnd, budget_stopped: bool) {
        self.age(now);
        self.record.ended = Some(now.wall.clone());
        self.record.end = end;
        self.record.budget_stopped = budget_stopped;
    }
}

/// To the thousandth: more digits of a second or a joule say nothing.
fn milli(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// When the process began: its age before now.
fn started(now: &Moment) -> String {
    let begun = now
        .wall
        .parse::<jiff::Timestamp>()
        .ok()
        .and_then(|wall| wall.checked_sub(jiff::SignedDuration::try_from(now.elapsed).ok()?).ok());
    begun.map_or_else(|| now.wall.clone(), |begun| begun.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::StageCounts;
    use crate::store::MemoryStore;

    fn at(seconds: u64) -> Moment {
        Moment {
            wall: format!("2026-01-01T00:{:02}:{:02}Z", seconds / 60, seconds % 60),
            elapsed: Duration::from_secs(seconds),
        }
    }

    fn two_gpus() -> Vec<GpuHeld> {
        (0..2).map(|at| GpuHeld { uuid: format!("held-{at}"), name: String::new(), memory_bytes: 0 }).collect()
    }

    fn begin(number: u64) -> Ledger {
        Ledger::begin(number, Origin::default(), &two_gpus(), &GpuSource::Configured, Accounts::default(), &at(0))
    }

    fn put(store: &MemoryStore, record: &AttemptRecord) {
        let number = Change::Meta { name: ATTEMPTS.into(), value: Some(record.number.to_string().into_bytes()) };
        store.commit(&[written(record), number]).unwrap();
    }

    #[test]
    fn a_killed_attempt_is_closed_at_its_last_tick_once() {
        let store = MemoryStore::default();
        let mut ledger = begin(1);
        ledger.tick(&at(40), &Accounts::default(), &GpuFigures::default(), &ProcessUse::default());
        put(&store, ledger.record());
        let mut attempts = attempts(&store).unwrap();
        let change = close_killed(&store, &mut attempts, || Ok(3)).unwrap().unwrap();
        store.commit(&[change]).unwrap();
        let closed = super::attempts(&store).unwrap();
        assert_eq!((&closed[0].end, closed[0].ended.as_deref()), (&AttemptEnd::Killed, Some("2026-01-01T00:00:40Z")));
        assert_eq!((closed[0].seconds, closed[0].gpu_seconds, closed[0].documents_done), (40.0, 80.0, 3));
        assert_eq!(closed, attempts);
        assert_eq!(close_killed(&store, &mut attempts, || Ok(9)).unwrap(), None);
        assert!((totals(&store).unwrap().gpu_seconds - 80.0).abs() < 1e-9);
    }

    #[test]
    fn ticks_of_a_simulated_clock_count_nothing_twice() {
        let mut ledger = begin(1);
        for seconds in [5, 10, 15, 600] {
            let process = ProcessUse { memory_bytes: seconds, memory_peak_bytes: 700, cpu_seconds: 1.0 };
            ledger.tick(&at(seconds), &Accounts::default(), &GpuFigures::default(), &process);
            assert!((ledger.record().gpu_seconds - 2.0 * seconds as f64).abs() < 1e-9);
        }
        ledger.end(&at(601), AttemptEnd::Finished, false);
        let record = ledger.record();
        assert_eq!((record.seconds, record.gpu_seconds), (601.0, 1202.0));
        assert_eq!((record.memory_mean_bytes, record.memory_max_bytes), (157, 700));
        assert_eq!(
            (record.started.as_str(), record.ended.as_deref()),
            ("2026-01-01T00:00:00Z", Some("2026-01-01T00:10:01Z"))
        );
        assert_eq!(
            [0, 9, 20, 49, 50, 90_000].map(|s| next_tick(Duration::from_secs(s)).as_millis()),
            [1000, 1000, 2000, 4900, 5000, 5000]
        );
    }

    fn of_score(key: &str, admitted: u64, done: u64, dead: u64) -> Accounts {
        let counts = StageCounts { admitted, done, dead, ..StageCounts::default() };
        let account = StageAccount { key: key.repeat(16), counts };
        let stages = BTreeMap::from([("score".to_owned(), account)]);
        Accounts { stages, documents_done: done, ..Accounts::default() }
    }

    #[test]
    fn what_has_to_be_done_again_is_counted_once() {
        let ran = |number, at_start: &Accounts, at_end: &Accounts| {
            let mut ledger =
                Ledger::begin(number, Origin::default(), &[], &GpuSource::Configured, at_start.clone(), &at(0));
            ledger.tick(&at(9), at_end, &GpuFigures::default(), &ProcessUse::default());
            ledger.end(&at(10), AttemptEnd::Finished, false);
            ledger.record().clone()
        };
        let whole = of_score("aa", 10, 7, 3);
        let mut attempts = vec![ran(1, &of_score("aa", 0, 0, 0), &whole)];
        assert_eq!(attempts[0].at_end(), whole);
        // A database begun anew is empty; two attempts fill it again, and the second goes on behind that.
        let begun = beginning(of_score("aa", 0, 0, 0), &attempts);
        assert_eq!(begun, whole);
        attempts.push(ran(2, &begun, &of_score("aa", 6, 4, 1)));
        attempts.push(ran(3, &beginning(of_score("aa", 6, 4, 1), &attempts), &of_score("aa", 12, 9, 3)));
        let done: Vec<u64> = attempts.iter().map(|one| one.documents_done).collect();
        assert_eq!(done, [7, 0, 2]);
        let items: Vec<(u64, u64)> =
            attempts.iter().map(|one| one.items["score"]).map(|counts| (counts.done, counts.dead)).collect();
        assert_eq!(items, [(7, 3), (0, 0), (2, 0)]);
        // Dead items that are tried again are open; if they die again, that is known.
        assert_eq!(beginning(of_score("aa", 12, 9, 0), &attempts), of_score("aa", 12, 9, 0));
        // Another configuration does everything anew.
        assert_eq!(beginning(of_score("bb", 0, 0, 0), &attempts), of_score("bb", 0, 0, 0));
        // Lost answers are asked for and paid for again.
        let mut asked = attempts[2].clone();
        asked.calls = 100;
        assert_eq!(beginning(of_score("aa", 0, 0, 0), &[asked]).model.calls, 0);
    }

    #[test]
    fn a_killed_attempt_keeps_what_a_repair_took_from_the_store() {
        let store = MemoryStore::default();
        let mut ledger = begin(1);
        let mut noted = of_score("aa", 6, 4, 1);
        noted.model.calls = 20;
        ledger.record.at_start = of_score("aa", 0, 0, 0);
        ledger.tick(&at(40), &noted, &GpuFigures::default(), &ProcessUse::default());
        put(&store, ledger.record());
        let mut attempts = attempts(&store).unwrap();
        close_killed(&store, &mut attempts, || Ok(0)).unwrap().unwrap();
        let closed = &attempts[0];
        assert_eq!((closed.calls, closed.documents_done, closed.items["score"].done), (20, 4, 4));
    }

    #[test]
    fn changes_are_those_since_the_start() {
        let accounts = |done, dead| of_score("aa", 10, done, dead);
        let since = accounts(7, 1).since(&accounts(4, 2));
        let counts = since.stages["score"].counts;
        // A dead item that was made pending again between the two is no negative change.
        assert_eq!((counts.admitted, counts.done, counts.dead, since.documents_done), (0, 3, 0, 3));
    }

    #[test]
    fn a_newer_record_is_refused_and_a_broken_one_named() {
        let store = MemoryStore::default();
        let mut record = begin(1).record().clone();
        record.format = LEDGER_FORMAT + 1;
        put(&store, &record);
        assert!(matches!(attempts(&store), Err(StoreError::Newer { found: 2, known: 1, .. })));
        let broken = Change::Meta { name: record_name(1), value: Some(b"{".to_vec()) };
        store.commit(&[broken]).unwrap();
        let error = attempts(&store).unwrap_err().to_string();
        assert!(error.contains("record of attempt 1") && error.contains("verify --repair"), "{error}");
    }
}
