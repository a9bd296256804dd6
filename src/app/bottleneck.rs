//! What slows a run down, by name and with the reason. A pure function of what was sampled over a stretch of time.
//!
//! The rule, first match wins:
//!
//! 1. The furthest stage whose hands are full while more waits before it, and which is not itself held up by the
//!    channels below. What its items spend their time on decides: the *disk*, if it is commits and the writer is busy
//!    most of the time; a *model server*, if it is model calls and the server is out, rate limited, or all its slots
//!    are in use; else the *stage*.
//! 2. No stage is full, but a model server is, and requests wait for it.
//! 3. No stage is full, but most items wait for commits of a writer that is always busy: the disk.
//! 4. The source has more and nothing waits: the source.
//! 5. Nothing: the last items are under way.

use serde::{Deserialize, Serialize};

/// Fewer samples say nothing.
const FEWEST: u32 = 5;
/// A stage's hands are full from this share of its concurrency on.
const FULL: f64 = 0.75;
/// More must wait before a full stage during this share of the time.
const WAITING: f64 = 0.5;
/// A server's slots are all in use during this share of the time, or more.
const SLOTS_FULL: f64 = 0.7;
/// The writer is busy during this share of the time, or more.
const WRITER_BUSY: f64 = 0.5;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BottleneckKind {
    /// Nothing: too little was seen, nothing is to do, or the last items are under way.
    None,
    /// The documents do not come fast enough.
    Source,
    /// A stage.
    Stage,
    /// A model server, or the model in the process.
    Endpoint,
    /// The commits.
    Disk,
}

/// What slows a run down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bottleneck {
    /// What the name stands for.
    pub kind: BottleneckKind,
    /// The stage's name, the server's address, `disk`, `source` or `none`.
    pub name: String,
    /// How it shows, and what helps.
    pub reason: String,
}

impl Bottleneck {
    fn new(kind: BottleneckKind, name: &str, reason: String) -> Self {
        Self { kind, name: name.into(), reason }
    }

    /// Nothing, for a reason.
    pub fn none(reason: &str) -> Self {
        Self::new(BottleneckKind::None, "none", reason.into())
    }
}

/// What a stage did, as means over the samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageLoad {
    /// Its name.
    pub name: String,
    /// Items that it may have in hand.
    pub concurrency: f64,
    /// Items in hand.
    pub held: f64,
    /// Of those: wait for a model call.
    pub asking: f64,
    /// Of those: wait for the commit of their outcome.
    pub committing: f64,
    /// Of those: wait for room below.
    pub sending: f64,
    /// Items in its channel.
    pub queued: f64,
    /// Share of the samples in which something was in its channel.
    pub not_empty: f64,
    /// Share of the samples in which its channel was full.
    pub queue_full: f64,
}

impl StageLoad {
    /// Items that it works on: in hand and not held up by the channels below.
    fn active(&self) -> f64 {
        (self.held - self.sending).max(0.0)
    }
}

/// What a model server did, as means over the samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointLoad {
    /// Its address.
    pub url: String,
    /// Requests with it.
    pub in_flight: f64,
    /// Requests that may be.
    pub limit: f64,
    /// Requests that wait for a slot.
    pub waiting: f64,
    /// Of those in flight: wait for a rate limit.
    pub limited: f64,
    /// Share of the samples in which all slots were in use.
    pub full: f64,
    /// Share of the samples in which it was out.
    pub out: f64,
}

/// What all did over a stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// How many samples.
    pub samples: u32,
    /// The stages in the order of the graph.
    pub stages: Vec<StageLoad>,
    /// The model servers.
    pub endpoints: Vec<EndpointLoad>,
    /// Requests that wait for their commit, those of model answers included.
    pub commits_waiting: f64,
    /// Share of the time that the writer spent on commits.
    pub writer_busy: f64,
    /// Mean seconds of a commit; 0 if there was none.
    pub commit_seconds: f64,
    /// Share of the samples in which the source had not shown all.
    pub source_open: f64,
}

/// What items wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Computing,
    Model,
    Commit,
}

/// Names what slows the run down.
pub fn name(load: &Load) -> Bottleneck {
    if load.samples < FEWEST {
        return Bottleneck::none("not known yet");
    }
    let active: f64 = load.stages.iter().map(StageLoad::active).sum();
    let all = StageLoad {
        held: active,
        asking: load.stages.iter().map(|s| s.asking).sum(),
        committing: load.stages.iter().map(|s| s.committing).sum(),
        ..StageLoad::default()
    };
    // Items whose answer waits for its commit count as asking; how many of them, only the whole shows.
    let journal = (load.commits_waiting - all.committing).max(0.0) / all.asking.max(1e-9);
    let journal = journal.min(1.0);
    let full =
        load.stages.iter().rev().find(|s| {
            s.active() >= FULL * s.concurrency && s.active() > 0.0 && s.not_empty.max(s.queue_full) >= WAITING
        });
    if let Some(stage) = full {
        return match waits(stage, journal) {
            Waits::Commit if load.writer_busy >= WRITER_BUSY => disk(load, stage, journal),
            Waits::Model => endpoint(load).unwrap_or_else(|| too_narrow(stage, "the model's answers")),
            Waits::Commit => too_narrow(stage, "the next group commit"),
            Waits::Computing => Bottleneck::new(
                BottleneckKind::Stage,
                &stage.name,
                format!(
                    "all {:.0} of its items at once are being worked on and {:.0} wait before it: give it more \
                     concurrency, if there are cores for it",
                    stage.concurrency, stage.queued
                ),
            ),
        };
    }
    if let Some(found) = endpoint(load).filter(|_| waits(&all, journal) == Waits::Model) {
        return found;
    }
    if active >= 1.0 && waits(&all, journal) == Waits::Commit && load.writer_busy >= WRITER_BUSY {
        return disk(load, &all, journal);
    }
    if load.source_open >= WAITING && load.stages.iter().all(|s| s.not_empty < WAITING) {
        return Bottleneck::new(
            BottleneckKind::Source,
            "source",
            "documents are found, read and hashed more slowly than they are worked on: the disk or network that the \
             input lies on is the limit"
                .into(),
        );
    }
    let busiest = load.stages.iter().max_by(|a, b| a.active().total_cmp(&b.active())).filter(|s| s.active() >= 0.5);
    busiest.map_or_else(
        || Bottleneck::none("nothing is to do at the moment"),
        |stage| {
            Bottleneck::none(&format!(
                "no stage and no server is full; most items under way are in `{}`, as at a run's beginning and end",
                stage.name
            ))
        },
    )
}

/// What the items of a stage spend most of their time on; `journal` is the share of asking items whose answer is there
/// and waits for its commit.
fn waits(stage: &StageLoad, journal: f64) -> Waits {
    let commit = stage.committing + stage.asking * journal;
    let model = stage.asking * (1.0 - journal);
    let computing = (stage.active() - stage.asking - stage.committing).max(0.0);
    if computing >= model && computing >= commit {
        Waits::Computing
    } else if model >= commit {
        Waits::Model
    } else {
        Waits::Commit
    }
}

fn too_narrow(stage: &StageLoad, for_what: &str) -> Bottleneck {
    let reason = format!(
        "all {:.0} of its items at once wait for {for_what}, which could take more, and {:.0} wait before it: raise the \
         stage's concurrency",
        stage.concurrency, stage.queued
    );
    Bottleneck::new(BottleneckKind::Stage, &stage.name, reason)
}

fn disk(load: &Load, stage: &StageLoad, journal: f64) -> Bottleneck {
    let share = (stage.committing + stage.asking * journal) / stage.active().max(1e-9);
    let reason = format!(
        "commits take {:.0} ms, the writer is busy {:.0}% of the time, and items spend {:.0}% of theirs waiting for it: \
         put the state on a faster disk",
        load.commit_seconds * 1000.0,
        load.writer_busy * 100.0,
        share.min(1.0) * 100.0
    );
    Bottleneck::new(BottleneckKind::Disk, "disk", reason)
}

/// The model server that holds up the flow, if one does: out, rate limited, or full.
fn endpoint(load: &Load) -> Option<Bottleneck> {
    let found = |endpoint: &EndpointLoad, reason: String| {
        Some(Bottleneck::new(BottleneckKind::Endpoint, &endpoint.url, reason))
    };
    let worst = load.endpoints.iter().max_by(|a, b| a.out.total_cmp(&b.out))?;
    if load.endpoints.iter().all(|e| e.out >= 0.5) {
        return found(
            worst,
            format!("it was out {:.0}% of the time; the flow waits until it is well", worst.out * 100.0),
        );
    }
    let limited = load.endpoints.iter().max_by(|a, b| a.limited.total_cmp(&b.limited))?;
    if limited.limited >= 0.5 * limited.in_flight && limited.limited >= 0.5 {
        return found(
            limited,
            format!(
                "{:.0} of its {:.0} requests under way wait for a rate limit: the server's own (status 429), or \
                 llm.requests_per_minute or llm.tokens_per_minute",
                limited.limited, limited.in_flight
            ),
        );
    }
    // Servers that are out cannot be full; the others must be.
    let (mut full, mut waiting) = (1.0_f64, 0.0);
    for endpoint in load.endpoints.iter().filter(|e| e.out < 0.5) {
        full = full.min(endpoint.full);
        waiting += endpoint.waiting;
    }
    let busiest = load.endpoints.iter().filter(|e| e.out < 0.5).max_by(|a, b| a.waiting.total_cmp(&b.waiting))?;
    if full < SLOTS_FULL || waiting < 0.5 {
        return None;
    }
    let what = if load.endpoints.len() > 1 {
        format!("it and all other servers that are well have all slots in use {:.0}% of the time", full * 100.0)
    } else {
        format!("all {:.0} slots are in use {:.0}% of the time", busiest.limit, full * 100.0)
    };
    found(
        busiest,
        format!(
            "{what}, and {waiting:.0} requests wait for one: raise llm.concurrency if the model bears it, else it is the limit"
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stage(name: &str) -> StageLoad {
        StageLoad { name: name.into(), concurrency: 4.0, ..StageLoad::default() }
    }

    /// Three stages of which the middle one is full with more before it; the first is held up by it.
    fn middle_full() -> Load {
        let first = StageLoad { held: 4.0, sending: 4.0, not_empty: 1.0, ..stage("extract") };
        let middle = StageLoad { held: 4.0, queued: 60.0, not_empty: 1.0, queue_full: 0.9, ..stage("generate") };
        let last = StageLoad { held: 1.0, ..stage("score") };
        let server = EndpointLoad { url: "http://a".into(), limit: 64.0, ..EndpointLoad::default() };
        Load { samples: 600, stages: vec![first, middle, last], endpoints: vec![server], ..Load::default() }
    }

    fn named(load: &Load) -> (BottleneckKind, String) {
        let found = name(load);
        (found.kind, found.name)
    }

    #[test]
    fn a_full_stage_that_computes_is_named() {
        assert_eq!(named(&middle_full()), (BottleneckKind::Stage, "generate".into()));
        let mut last = middle_full();
        last.stages[1].sending = 4.0;
        last.stages[2] = StageLoad { held: 4.0, not_empty: 1.0, ..stage("score") };
        assert_eq!(
            named(&last),
            (BottleneckKind::Stage, "score".into()),
            "the furthest full stage holds up the others"
        );
    }

    #[test]
    fn a_full_stage_that_waits_for_the_model_names_the_server_and_why() {
        let mut load = middle_full();
        load.stages[1].asking = 3.8;
        assert_eq!(named(&load), (BottleneckKind::Stage, "generate".into()), "free slots: the stage asks too little");
        let server = &mut load.endpoints[0];
        (server.in_flight, server.full, server.waiting) = (64.0, 0.98, 35.0);
        insta::assert_snapshot!(name(&load).reason, @"all 64 slots are in use 98% of the time, and 35 requests wait for one: raise llm.concurrency if the model bears it, else it is the limit");
        load.endpoints[0].limited = 60.0;
        assert!(name(&load).reason.contains("rate limit"), "{:?}", name(&load));
        load.endpoints[0].out = 0.9;
        assert!(name(&load).reason.contains("was out 90%"), "{:?}", name(&load));
        // One of two is out: the other is what the flow waits for.
        load.endpoints.push(EndpointLoad {
            url: "http://b".into(),
            full: 1.0,
            waiting: 9.0,
            limit: 8.0,
            in_flight: 8.0,
            ..EndpointLoad::default()
        });
        load.endpoints[0].limited = 0.0;
        assert_eq!(named(&load), (BottleneckKind::Endpoint, "http://b".into()));
    }

    #[test]
    fn the_disk_is_named_only_if_the_writer_is_busy() {
        let mut load = middle_full();
        load.stages[1].committing = 3.5;
        load.commits_waiting = 3.5;
        assert_eq!(
            named(&load),
            (BottleneckKind::Stage, "generate".into()),
            "group commits are spaced: more at once helps"
        );
        load.writer_busy = 0.97;
        load.commit_seconds = 0.05;
        assert_eq!(named(&load), (BottleneckKind::Disk, "disk".into()));
        // Answers that wait for their commit are asking, and wait for the disk all the same.
        load.stages[1].committing = 0.2;
        load.stages[1].asking = 3.6;
        load.commits_waiting = 3.6;
        assert_eq!(named(&load), (BottleneckKind::Disk, "disk".into()));
    }

    #[test]
    fn without_a_full_stage_it_is_the_server_the_source_or_nothing() {
        let mut load = middle_full();
        for stage in &mut load.stages {
            *stage = StageLoad { held: 1.0, asking: 1.0, ..self::stage(&stage.name) };
        }
        assert_eq!(named(&load).0, BottleneckKind::None);
        load.source_open = 1.0;
        assert_eq!(named(&load), (BottleneckKind::Source, "source".into()));
        let server = &mut load.endpoints[0];
        (server.limit, server.in_flight, server.full, server.waiting) = (2.0, 2.0, 1.0, 1.0);
        assert_eq!(named(&load), (BottleneckKind::Endpoint, "http://a".into()));
        assert_eq!(named(&Load { samples: 2, ..load }).0, BottleneckKind::None, "too little was seen");
    }

    proptest! {
        /// Whatever was sampled, there is a name and it is one of those that were given.
        #[test]
        fn it_always_has_a_known_name(numbers in proptest::collection::vec(0.0_f64..10.0, 40)) {
            let mut numbers = numbers.into_iter();
            let mut next = || numbers.next().unwrap_or(0.0);
            let mut load = middle_full();
            for stage in &mut load.stages {
                (stage.held, stage.asking, stage.committing, stage.sending) = (next(), next(), next(), next());
                (stage.queued, stage.not_empty, stage.queue_full) = (next(), next() / 10.0, next() / 10.0);
            }
            let server = &mut load.endpoints[0];
            (server.in_flight, server.waiting, server.limited) = (next(), next(), next());
            (server.full, server.out) = (next() / 10.0, next() / 10.0);
            (load.commits_waiting, load.writer_busy, load.source_open) = (next(), next() / 10.0, next() / 10.0);
            let found = name(&load);
            let expected = match found.kind {
                BottleneckKind::None => vec!["none"],
                BottleneckKind::Source => vec!["source"],
                BottleneckKind::Disk => vec!["disk"],
                BottleneckKind::Endpoint => vec!["http://a"],
                BottleneckKind::Stage => vec!["extract", "generate", "score"],
            };
            prop_assert!(expected.contains(&found.name.as_str()) && !found.reason.is_empty(), "{found:?}");
        }
    }
}
