//! Faults: which request meets which, and when the server is out altogether.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{draw, non_negative, share};

/// Purposes of draws, so that two decisions about one request are independent.
const TRANSPORT: u64 = 1;
const CONTENT: u64 = 2;

/// Which faults to play. On the command line and, with the same names, in `POST /sim/faults`.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultOptions {
    /// Share of requests answered 429 at once; drawn for each attempt, as are 503, reset and hang
    #[arg(long = "fault-429", value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub fault_429: f64,

    /// Share of requests answered 503 at once
    #[arg(long = "fault-503", value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub fault_503: f64,

    /// Share of requests whose connection is reset half-way through their service time
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub fault_reset: f64,

    /// Share of requests never answered; each holds its slot until the client leaves
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub fault_hang: f64,

    /// Share of requests answered with broken JSON and status 200; drawn by content, so asking the same again gives the same
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub fault_malformed: f64,

    /// Share of requests whose answer is cut off with `finish_reason` length; drawn by content
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub fault_truncated: f64,

    /// What a 429 asks the client to wait, in milliseconds; 0 sends no such header
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub retry_after_ms: u64,

    /// Close the connection of a hanging request after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600.0, value_parser = non_negative)]
    pub hang_seconds: f64,

    /// Seconds from the start (or from the change) to an outage
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = non_negative)]
    pub outage_after: f64,

    /// Seconds that the outage lasts; 0 means none
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = non_negative)]
    pub outage_for: f64,

    /// What clients see of an outage
    #[arg(long, value_enum, value_name = "KIND", default_value_t = OutageKind::Status)]
    pub outage_kind: OutageKind,

    /// Send every 503 as a proxy would: status 502 with a page of HTML
    #[arg(long)]
    pub html_errors: bool,

    /// Answer 503 on /health, like a server whose engine has died
    #[arg(long)]
    pub unhealthy: bool,
}

/// What clients see of an outage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OutageKind {
    /// Every request gets 503.
    #[default]
    #[value(name = "503")]
    #[serde(rename = "503")]
    Status,
    /// All connections break and new ones are refused, as if the process had died; no request can end it early.
    Refuse,
}

impl Default for FaultOptions {
    /// No faults.
    fn default() -> Self {
        Self {
            fault_429: 0.0,
            fault_503: 0.0,
            fault_reset: 0.0,
            fault_hang: 0.0,
            fault_malformed: 0.0,
            fault_truncated: 0.0,
            retry_after_ms: 1000,
            hang_seconds: 3600.0,
            outage_after: 0.0,
            outage_for: 0.0,
            outage_kind: OutageKind::Status,
            html_errors: false,
            unhealthy: false,
        }
    }
}

impl FaultOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// A text that names the option and its range.
    pub fn check(&self) -> Result<(), String> {
        let shares = [
            ("fault_429", self.fault_429),
            ("fault_503", self.fault_503),
            ("fault_reset", self.fault_reset),
            ("fault_hang", self.fault_hang),
            ("fault_malformed", self.fault_malformed),
            ("fault_truncated", self.fault_truncated),
        ];
        for (name, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("{name} is {value}: give a share from 0 to 1"));
            }
        }
        for (group, names) in [(&shares[..4], "429, 503, reset and hang"), (&shares[4..], "malformed and truncated")] {
            let sum: f64 = group.iter().map(|(_, value)| value).sum();
            if sum > 1.0 + 1e-9 {
                return Err(format!("the shares of {names} add up to {sum}: together they may be at most 1"));
            }
        }
        for (name, value) in
            [("hang_seconds", self.hang_seconds), ("outage_after", self.outage_after), ("outage_for", self.outage_for)]
        {
            if !(0.0..=1e9).contains(&value) {
                return Err(format!("{name} is {value}: give seconds from 0 to 1e9"));
            }
        }
        Ok(())
    }
}

/// A fault of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransportFault {
    TooManyRequests,
    Unavailable,
    Reset,
    Hang,
}

/// A fault of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentFault {
    Malformed,
    Truncated,
}

/// The options in force since a moment.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) options: FaultOptions,
    /// When the outage begins and ends, if there is one.
    outage: Option<(Instant, Instant)>,
}

impl Faults {
    pub(super) fn new(options: FaultOptions, now: Instant) -> Self {
        let outage = (options.outage_for > 0.0).then(|| {
            let from = now + Duration::from_secs_f64(options.outage_after.min(1e9));
            (from, from + Duration::from_secs_f64(options.outage_for.min(1e9)))
        });
        Self { options, outage }
    }

    /// The outage that refuses connections: from when to when.
    pub(super) fn refusal(&self) -> Option<(Instant, Instant)> {
        self.outage.filter(|_| self.options.outage_kind == OutageKind::Refuse)
    }

    /// Whether every request gets 503 now.
    pub(super) fn out(&self, now: Instant) -> bool {
        self.options.outage_kind == OutageKind::Status
            && self.outage.is_some_and(|(from, until)| from <= now && now < until)
    }

    /// The fault of the `nth` attempt (from 1) of the request with this identity.
    pub(super) fn transport(&self, seed: u64, identity: u64, nth: u32) -> Option<TransportFault> {
        let o = &self.options;
        let drawn = draw(seed ^ u64::from(nth), TRANSPORT, identity);
        pick(
            drawn,
            &[
                (o.fault_429, TransportFault::TooManyRequests),
                (o.fault_503, TransportFault::Unavailable),
                (o.fault_reset, TransportFault::Reset),
                (o.fault_hang, TransportFault::Hang),
            ],
        )
    }

    /// The fault of every answer to this body.
    pub(super) fn content(&self, seed: u64, body: u64) -> Option<ContentFault> {
        let o = &self.options;
        pick(
            draw(seed, CONTENT, body),
            &[(o.fault_malformed, ContentFault::Malformed), (o.fault_truncated, ContentFault::Truncated)],
        )
    }
}

/// The alternative into whose share the drawn number falls.
fn pick<T: Copy>(drawn: f64, shares: &[(f64, T)]) -> Option<T> {
    let mut below = 0.0;
    shares.iter().find_map(|(share, fault)| {
        below += share;
        (drawn < below).then_some(*fault)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(options: FaultOptions) -> Faults {
        Faults::new(options, Instant::now())
    }

    #[test]
    fn shares_are_met_and_attempts_are_independent() {
        let faults = faults(FaultOptions { fault_429: 0.1, fault_hang: 0.3, ..FaultOptions::default() });
        let count = |nth: u32, fault| (0..20_000).filter(|i| faults.transport(7, *i, nth) == Some(fault)).count();
        for nth in [1, 2] {
            assert!((1_800..2_200).contains(&count(nth, TransportFault::TooManyRequests)));
            assert!((5_700..6_300).contains(&count(nth, TransportFault::Hang)));
            assert_eq!(count(nth, TransportFault::Reset), 0);
        }
        let both = (0..20_000).filter(|i| {
            faults.transport(7, *i, 1) == Some(TransportFault::Hang)
                && faults.transport(7, *i, 2) == Some(TransportFault::Hang)
        });
        let both = both.count();
        assert!((1_600..2_000).contains(&both), "a second attempt is drawn anew: {both}");
    }

    #[test]
    fn content_faults_follow_from_the_body() {
        let faults = faults(FaultOptions { fault_malformed: 0.5, fault_truncated: 0.5, ..FaultOptions::default() });
        let all: Vec<_> = (0..1_000).map(|i| faults.content(3, i)).collect();
        assert!(all.iter().all(Option::is_some));
        assert_eq!(all, (0..1_000).map(|i| faults.content(3, i)).collect::<Vec<_>>());
        assert_ne!(all, (0..1_000).map(|i| faults.content(4, i)).collect::<Vec<_>>());
    }

    #[test]
    fn bad_shares_are_named() {
        let sum = FaultOptions { fault_429: 0.6, fault_reset: 0.5, ..FaultOptions::default() };
        insta::assert_snapshot!(sum.check().unwrap_err(), @"the shares of 429, 503, reset and hang add up to 1.1: together they may be at most 1");
        let range = FaultOptions { fault_malformed: f64::NAN, ..FaultOptions::default() };
        insta::assert_snapshot!(range.check().unwrap_err(), @"fault_malformed is NaN: give a share from 0 to 1");
    }

    #[test]
    fn an_outage_has_a_beginning_and_an_end() {
        let now = Instant::now();
        let faults = Faults::new(FaultOptions { outage_after: 10.0, outage_for: 5.0, ..FaultOptions::default() }, now);
        let at = |s| faults.out(now + Duration::from_secs(s));
        assert_eq!([at(9), at(10), at(14), at(15)], [false, true, true, false]);
        assert_eq!(faults.refusal(), None);
    }
}
