//! Samples of a measurement, and its steady part: what lies between the ramp-up and the end.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::process;
use super::simulator::Simulator;

/// How often the server is asked.
pub(super) const EVERY: Duration = Duration::from_millis(250);
/// Share of the time from the first request on that counts as ramp-up.
const RAMP: f64 = 0.25;
/// Share of it that counts as tail, where the work ran out.
const TAIL: f64 = 0.25;

/// What was seen at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Seconds since the server's counts were reset, by the server's clock.
    pub(super) at: f64,
    /// Whether any request was with the server, or had been answered.
    pub(super) active: bool,
    /// Requests answered.
    pub(super) answered: u64,
    /// Seconds that slots were busy, summed over slots.
    pub(super) busy: f64,
    /// Processor seconds of the client.
    pub(super) client_cpu: f64,
    /// Processor seconds of the server.
    pub(super) server_cpu: f64,
}

/// Asks the server and the system; `client` is the process whose time is measured. `None` if it has ended.
pub(super) async fn sample(simulator: &Simulator, client: u32) -> anyhow::Result<Option<Sample>> {
    let stats = simulator.stats().await?;
    let server = simulator.pid().context("the simulated server has ended")?;
    let (Some(client_cpu), Some(server_cpu)) = (process::cpu_seconds(client), process::cpu_seconds(server)) else {
        return Ok(None);
    };
    let answered = stats.answered();
    Ok(Some(Sample {
        at: stats.seconds_since_reset,
        active: answered > 0,
        answered,
        busy: stats.busy_slot_seconds,
        client_cpu,
        server_cpu,
    }))
}

/// Sums over the steady part of one measurement or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Steady {
    /// Seconds.
    pub(super) seconds: f64,
    /// Requests answered.
    pub(super) requests: u64,
    /// Seconds that slots were busy, summed over slots.
    pub(super) busy_slot_seconds: f64,
    /// Processor seconds of the client.
    pub(super) client_cpu_seconds: f64,
    /// Processor seconds of the server.
    pub(super) server_cpu_seconds: f64,
}

impl Steady {
    /// The steady part of `samples`. Where the work `ran_out` by itself the last quarter is left out too.
    ///
    /// # Errors
    /// If there is too little of it.
    pub(super) fn of(samples: &[Sample], ran_out: bool) -> anyhow::Result<Self> {
        let (Some(begin), Some(end)) = (samples.iter().find(|s| s.active), samples.last()) else {
            bail!("no request was answered: give it more --seconds");
        };
        let length = end.at - begin.at;
        let from = begin.at + RAMP * length;
        let to = if ran_out { end.at - TAIL * length } else { end.at };
        let mut steady = samples.iter().filter(|s| s.at >= from && s.at <= to);
        let (Some(first), Some(last)) = (steady.next(), steady.next_back()) else {
            bail!("it was over before anything could be measured: give it more --seconds or --documents");
        };
        Ok(Self {
            seconds: last.at - first.at,
            requests: last.answered - first.answered,
            busy_slot_seconds: last.busy - first.busy,
            client_cpu_seconds: last.client_cpu - first.client_cpu,
            server_cpu_seconds: last.server_cpu - first.server_cpu,
        })
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            requests: self.requests + other.requests,
            busy_slot_seconds: self.busy_slot_seconds + other.busy_slot_seconds,
            client_cpu_seconds: self.client_cpu_seconds + other.client_cpu_seconds,
            server_cpu_seconds: self.server_cpu_seconds + other.server_cpu_seconds,
        }
    }

    /// Share of the slots' time that they were busy, 0 to 1.
    pub(super) fn utilisation(&self, slots: u32) -> f64 {
        ratio(self.busy_slot_seconds, self.seconds * f64::from(slots))
    }

    /// Requests answered in a second.
    pub(super) fn rate(&self) -> f64 {
        ratio(self.requests as f64, self.seconds)
    }

    /// Processor milliseconds of the client for each request.
    pub(super) fn client_ms(&self) -> f64 {
        ratio(self.client_cpu_seconds * 1e3, self.requests as f64)
    }

    /// Processor milliseconds of the server for each request.
    pub(super) fn server_ms(&self) -> f64 {
        ratio(self.server_cpu_seconds * 1e3, self.requests as f64)
    }
}

/// `a / b`, and 0 where that is none.
pub(super) fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One sample a second: idle for two, half busy for two, then busy; the last three idle again if `tail`.
    fn samples(tail: bool) -> Vec<Sample> {
        let mut sample = Sample::default();
        (0..16)
            .map(|second| {
                let share = match second {
                    0..=2 => 0.0,
                    3..=4 => 0.5,
                    13.. if tail => 0.0,
                    _ => 1.0,
                };
                sample = Sample {
                    at: f64::from(second),
                    active: second >= 3,
                    answered: sample.answered + (share * 100.0) as u64,
                    busy: sample.busy + share * 8.0,
                    client_cpu: sample.client_cpu + 0.1,
                    server_cpu: sample.server_cpu + 0.2,
                };
                sample
            })
            .collect()
    }

    #[test]
    fn ramp_up_and_tail_do_not_count() {
        for tail in [false, true] {
            let steady = Steady::of(&samples(tail), tail).unwrap();
            assert!((steady.utilisation(8) - 1.0).abs() < 1e-9, "{steady:?}");
            assert!((steady.rate() - 100.0).abs() < 1e-9 && (steady.client_ms() - 1.0).abs() < 1e-9, "{steady:?}");
            assert!((steady.server_ms() - 2.0).abs() < 1e-9);
        }
        assert!(Steady::of(&samples(true), false).unwrap().utilisation(8) < 0.8, "the tail shows if it is counted");
    }

    #[test]
    fn too_little_is_an_error() {
        assert!(Steady::of(&[], false).is_err());
        assert!(Steady::of(&samples(false)[..3], false).unwrap_err().to_string().contains("no request"));
        assert!(Steady::of(&samples(false)[..4], false).unwrap_err().to_string().contains("--documents"));
    }

    #[test]
    fn several_measurements_add_up() {
        let one = Steady::of(&samples(false), false).unwrap();
        let two = one.plus(one);
        assert!((two.utilisation(8) - one.utilisation(8)).abs() < 1e-9);
        assert_eq!(two.requests, 2 * one.requests);
        assert!(Steady::default().utilisation(8).abs() < 1e-9, "nothing is no reason to divide by it");
    }
}
