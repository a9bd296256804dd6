//! What the benchmark says: the figures, the targets they are held against, as JSON and as a table.

use std::fmt::Write as _;

use serde::Serialize;

use super::flow::Measured;
use super::window::{Steady, ratio};
use crate::app::grouped;

/// One benchmark.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The program's version.
    pub(super) version: &'static str,
    /// When it began, in UTC.
    pub(super) began: String,
    /// The processor, where the system names it.
    pub(super) processor: Option<String>,
    /// Processors that this process may use. The flow, the server and the benchmark share them.
    pub(super) cores: usize,
    /// Load of the machine before it began: what others were doing.
    pub(super) load_before: Option<f64>,
    /// What makes the figures doubtful.
    pub(super) remarks: Vec<String>,
    /// One for each setting.
    pub(super) settings: Vec<SettingReport>,
}

/// A client's figures in the steady part, over all rounds.
#[derive(Debug, Serialize)]
pub(super) struct ClientReport {
    /// Share of the server's slots that were busy, 0 to 1; none at zero latency, where it means nothing.
    pub(super) utilisation: Option<f64>,
    /// Requests answered in a second.
    pub(super) requests_per_second: f64,
    /// User and system time of the client for each request, in milliseconds.
    pub(super) cpu_ms_per_request: f64,
    /// The same of the server.
    pub(super) server_cpu_ms_per_request: f64,
    /// What these follow from.
    pub(super) steady: Steady,
}

/// The accounts of one run of the flow.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Account {
    /// Answers that the server gave, the probe's aside.
    pub(super) served: u64,
    /// Answers in the journal.
    pub(super) journaled: u64,
    /// Whether the corpus was done before the time was over.
    pub(super) ran_out: bool,
}

/// One setting.
#[derive(Debug, Serialize)]
pub(super) struct SettingReport {
    /// Slots of the server, and tasks or concurrency of the client.
    pub(super) slots: u32,
    /// The server's service time in milliseconds.
    pub(super) latency_ms: f64,
    /// Seconds of each measurement.
    pub(super) seconds: f64,
    /// Documents of the corpus.
    pub(super) documents: usize,
    /// The bare client loop.
    pub(super) bare: ClientReport,
    /// The flow.
    pub(super) flow: ClientReport,
    /// The flow's utilisation to the bare loop's; at zero latency its requests per second to the bare loop's.
    pub(super) ratio: f64,
    /// The most memory that the flow had resident, in bytes.
    pub(super) peak_rss_bytes: u64,
    /// One for each round.
    pub(super) accounts: Vec<Account>,
    /// Utilisation (requests per second at zero latency) of bare loop and flow by round, to show how steady they are.
    pub(super) rounds: Vec<[f64; 2]>,
    /// What is aimed at.
    pub(super) targets: Vec<Target>,
}

/// A figure and what it should be.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    /// What is measured.
    pub(super) name: &'static str,
    /// What was measured.
    pub(super) measured: f64,
    /// The bound.
    pub(super) bound: f64,
    /// Whether the bound is the least value rather than the greatest.
    pub(super) at_least: bool,
    /// Whether it is met.
    pub(super) met: bool,
}

impl Target {
    fn new(name: &'static str, measured: f64, bound: f64, at_least: bool) -> Self {
        Self { name, measured, bound, at_least, met: if at_least { measured >= bound } else { measured <= bound } }
    }
}

impl SettingReport {
    /// From the rounds of one setting: steady parts of the bare loop, and the flow's runs.
    pub(super) fn new(
        slots: u32,
        latency_ms: f64,
        seconds: f64,
        documents: usize,
        bare: &[Steady],
        flow: &[Measured],
    ) -> Self {
        let waits = latency_ms > 0.0;
        let client = |steady: Steady| ClientReport {
            utilisation: waits.then(|| steady.utilisation(slots)),
            requests_per_second: steady.rate(),
            cpu_ms_per_request: steady.client_ms(),
            server_cpu_ms_per_request: steady.server_ms(),
            steady,
        };
        let speed = |steady: &Steady| if waits { steady.utilisation(slots) } else { steady.rate() };
        let bare_sum = bare.iter().copied().fold(Steady::default(), Steady::plus);
        let flow_sum = flow.iter().map(|run| run.steady).fold(Steady::default(), Steady::plus);
        let compared = ratio(speed(&flow_sum), speed(&bare_sum));
        let mut targets = Vec::new();
        match (slots, waits) {
            (64, true) => targets.push(Target::new("utilisation, flow to bare loop", compared, 0.96, true)),
            (256, true) => targets.push(Target::new("utilisation, flow to bare loop", compared, 0.93, true)),
            (_, false) => targets.push(Target::new("requests/s, every item durable", flow_sum.rate(), 1_500.0, true)),
            _ => {}
        }
        targets.push(Target::new("CPU ms per model call of the flow", flow_sum.client_ms(), 0.5, false));
        Self {
            slots,
            latency_ms,
            seconds,
            documents,
            bare: client(bare_sum),
            flow: client(flow_sum),
            ratio: compared,
            peak_rss_bytes: flow.iter().map(|run| run.peak_rss).max().unwrap_or(0),
            accounts: flow
                .iter()
                .map(|run| Account { served: run.served, journaled: run.journaled, ran_out: run.ran_out })
                .collect(),
            rounds: bare.iter().zip(flow).map(|(bare, flow)| [speed(bare), speed(&flow.steady)]).collect(),
            targets,
        }
    }
}

impl Report {
    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let w = &mut text;
        let _ = writeln!(
            w,
            "{} cores, {}; load before {}",
            self.cores,
            self.processor.as_deref().unwrap_or("unknown processor"),
            self.load_before.map_or_else(|| "unknown".into(), |load| format!("{load:.2}")),
        );
        for setting in &self.settings {
            setting.table(w);
        }
        for remark in &self.remarks {
            let _ = writeln!(w, "\nNote: {remark}");
        }
        text.truncate(text.trim_end().len());
        text
    }
}

impl SettingReport {
    fn table(&self, w: &mut String) {
        let _ = writeln!(
            w,
            "\n{} slots × {} ms, {} × {} s each, alternating\n{:<12} {:>11} {:>11} {:>12} {:>16}",
            self.slots,
            self.latency_ms,
            self.rounds.len(),
            self.seconds,
            "",
            "utilisation",
            "requests/s",
            "CPU ms/call",
            "server ms/call",
        );
        for (name, client) in [("bare loop", &self.bare), ("flow", &self.flow)] {
            let _ = writeln!(
                w,
                "{name:<12} {:>11} {:>11} {:>12.3} {:>16.3}",
                client.utilisation.map_or_else(|| "–".into(), |u| format!("{u:.4}")),
                grouped(client.requests_per_second as u64),
                client.cpu_ms_per_request,
                client.server_cpu_ms_per_request,
            );
        }
        let served: u64 = self.accounts.iter().map(|account| account.served).sum();
        let journaled: u64 = self.accounts.iter().map(|account| account.journaled).sum();
        let _ = writeln!(
            w,
            "flow to bare loop {:.4}; peak memory of the flow {} MB; calls served {}, in the journal {}",
            self.ratio,
            self.peak_rss_bytes >> 20,
            grouped(served),
            grouped(journaled),
        );
        for target in &self.targets {
            let _ = writeln!(
                w,
                "  {:<8} {}: {:.3}, aim {} {}",
                if target.met { "met" } else { "NOT MET" },
                target.name,
                target.measured,
                if target.at_least { "at least" } else { "at most" },
                target.bound,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(busy: f64, requests: u64, cpu: f64) -> Steady {
        Steady { seconds: 10.0, requests, busy_slot_seconds: busy, client_cpu_seconds: cpu, server_cpu_seconds: 1.0 }
    }

    fn run(steady: Steady) -> Measured {
        Measured { steady, peak_rss: 100 << 20, served: 2_000, journaled: 2_000, ran_out: false }
    }

    fn report(settings: Vec<SettingReport>) -> Report {
        Report {
            version: "0",
            began: "2026-11-25T00:00:00Z".into(),
            processor: Some("a processor".into()),
            cores: 2,
            load_before: Some(0.5),
            remarks: vec!["the folder is in memory".into()],
            settings,
        }
    }

    #[test]
    fn figures_are_held_against_their_targets() {
        let bare = [steady(630.0, 2_100, 0.3), steady(630.0, 2_100, 0.3)];
        let flow = [run(steady(600.0, 2_000, 1.2)), run(steady(600.0, 2_000, 1.2))];
        let waiting = SettingReport::new(64, 300.0, 20.0, 30, &bare, &flow);
        let fast = SettingReport::new(64, 0.0, 20.0, 30, &bare, &flow);
        insta::assert_snapshot!(report(vec![waiting, fast]).table(), @r"
        2 cores, a processor; load before 0.50

        64 slots × 300 ms, 2 × 20 s each, alternating
                     utilisation  requests/s  CPU ms/call   server ms/call
        bare loop         0.9844         210        0.143            0.476
        flow              0.9375         200        0.600            0.500
        flow to bare loop 0.9524; peak memory of the flow 100 MB; calls served 4,000, in the journal 4,000
          NOT MET  utilisation, flow to bare loop: 0.952, aim at least 0.96
          NOT MET  CPU ms per model call of the flow: 0.600, aim at most 0.5

        64 slots × 0 ms, 2 × 20 s each, alternating
                     utilisation  requests/s  CPU ms/call   server ms/call
        bare loop              –         210        0.143            0.476
        flow                   –         200        0.600            0.500
        flow to bare loop 0.9524; peak memory of the flow 100 MB; calls served 4,000, in the journal 4,000
          NOT MET  requests/s, every item durable: 200.000, aim at least 1500
          NOT MET  CPU ms per model call of the flow: 0.600, aim at most 0.5

        Note: the folder is in memory
        ");
    }

    #[test]
    fn nothing_measured_is_no_division_by_zero() {
        let empty = SettingReport::new(64, 300.0, 20.0, 0, &[], &[]);
        assert!(empty.ratio.abs() < f64::EPSILON && !empty.targets[0].met);
    }
}
