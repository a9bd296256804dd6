//! A model server in simulated time, for the tests of the controller.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use fastrand::Rng;

use super::*;

/// Service time in seconds and answer tokens of one request: (requests in service with it, randomness, task).
pub(super) type Service = Box<dyn Fn(f64, &mut Rng, u8) -> (f64, u64)>;

pub(super) struct Sim {
    pub(super) service: Service,
    pub(super) tasks: u8,
    /// Requests that want to be in flight.
    pub(super) clients: usize,
    /// Requests served at the same time; the others queue.
    pub(super) slots: usize,
    /// Requests that may queue before 503.
    pub(super) queue: usize,
    /// Seconds between which everything is refused.
    pub(super) outage: (f64, f64),
    /// Period in seconds of the outage, of which it spares the first 2; 0 for none.
    pub(super) flaps: f64,
    /// Share of requests refused for no reason.
    pub(super) stray: f64,
    /// Whether the controller sees `/metrics`, each second.
    pub(super) metrics: bool,
    /// Requests in service above which preemptions happen.
    pub(super) preempts_above: usize,
    /// Period in seconds of which the first half has work for all clients, the second for five; 0 for none.
    pub(super) bursts: f64,
    pub(super) seconds: f64,
    pub(super) seed: u64,
}

impl Default for Sim {
    fn default() -> Self {
        Self {
            service: knee(32.0, 1.0),
            tasks: 1,
            clients: 600,
            slots: usize::MAX,
            queue: usize::MAX,
            outage: (0.0, 0.0),
            flaps: 0.0,
            stray: 0.0,
            metrics: true,
            preempts_above: usize::MAX,
            bursts: 0.0,
            seconds: 240.0,
            seed: 1,
        }
    }
}

/// As `simulate-llm --latency-ms 300 --jitter 0.2 --knee N --knee-factor F`.
pub(super) fn knee(n: f64, factor: f64) -> Service {
    Box::new(move |running, rng, _| {
        let jitter = 1.0 + 0.2 * (2.0 * rng.f64() - 1.0);
        (0.3 * jitter * (1.0 + factor * (running - n).max(0.0) / n), 50 + rng.u64(0..100))
    })
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Done { request: usize },
    Back,
    Scrape,
}

pub(super) struct Outcome {
    pub(super) controller: Controller,
    /// (second, limit) at each change.
    pub(super) limits: Vec<(f64, usize)>,
    /// The second of each answer.
    pub(super) answers: Vec<f64>,
    pub(super) refused: u64,
    pub(super) seconds: f64,
}

impl Outcome {
    /// Mean limit from second `from` to `to`, weighted by time.
    pub(super) fn mean_limit(&self, from: f64, to: f64) -> f64 {
        let mut sum = 0.0;
        for (i, (at, limit)) in self.limits.iter().enumerate() {
            let until = self.limits.get(i + 1).map_or(self.seconds, |next| next.0);
            sum += *limit as f64 * (until.min(to) - at.max(from)).max(0.0);
        }
        sum / (to - from)
    }

    /// Share of the time from second `from` to the end in which the limit was within 20% of `level`.
    pub(super) fn near(&self, level: f64, from: f64) -> f64 {
        let near = |limit: usize| (0.8 * level..=1.2 * level).contains(&(limit as f64));
        let mut sum = 0.0;
        for (i, (at, limit)) in self.limits.iter().enumerate() {
            let until = self.limits.get(i + 1).map_or(self.seconds, |next| next.0);
            sum += if near(*limit) { (until - at.max(from)).max(0.0) } else { 0.0 };
        }
        sum / (self.seconds - from)
    }

    pub(super) fn throughput(&self, from: f64, to: f64) -> f64 {
        self.answers.iter().filter(|at| (from..to).contains(*at)).count() as f64 / (to - from)
    }

    pub(super) fn late_limit(&self) -> f64 {
        self.mean_limit(self.seconds / 2.0, self.seconds)
    }

    pub(super) fn late_throughput(&self) -> f64 {
        self.throughput(self.seconds / 2.0, self.seconds)
    }

    pub(super) fn limit_at(&self, second: f64) -> usize {
        self.limits.iter().take_while(|(at, _)| *at <= second).last().unwrap().1
    }
}

/// Who sets the limit.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    Fixed(usize),
    Adaptive { start: usize, max: usize },
}

/// A closed loop against the server.
pub(super) fn run(sim: &Sim, limit: Limit) -> Outcome {
    let origin = Instant::now();
    let instant = |at: f64| origin + Duration::from_secs_f64(at);
    let (start, max, fixed) = match limit {
        Limit::Fixed(n) => (n, n, true),
        Limit::Adaptive { start, max } => (start, max, false),
    };
    let mut controller = Controller::new(start, max, origin);
    let mut rng = Rng::with_seed(sim.seed);
    let mut heap: BinaryHeap<Reverse<(u64, Event)>> = BinaryHeap::new();
    let nanos = |at: f64| (at * 1e9) as u64;
    // (began, in flight at start, task, tokens) by request.
    let mut requests: Vec<(f64, usize, u8, u64)> = Vec::new();
    let mut queued: VecDeque<usize> = VecDeque::new();
    let (mut ready, mut in_flight, mut running, mut preemptions) = (sim.clients, 0_usize, 0_usize, 0_u64);
    let mut outcome = Outcome {
        controller: controller.clone(),
        limits: vec![(0.0, start)],
        answers: Vec::new(),
        refused: 0,
        seconds: sim.seconds,
    };
    heap.push(Reverse((nanos(1.0), Event::Scrape)));
    let mut at = 0.0;
    loop {
        let limit = if fixed { start } else { controller.limit() };
        if outcome.limits.last().unwrap().1 != limit {
            outcome.limits.push((at, limit));
        }
        // Whoever may goes to the server.
        let work = if sim.bursts > 0.0 && at % sim.bursts > sim.bursts / 2.0 { 5 } else { usize::MAX };
        while ready > 0 && in_flight < work.min(if fixed { start } else { controller.limit() }) {
            ready -= 1;
            let down = (sim.outage.0..sim.outage.1).contains(&at) && (sim.flaps == 0.0 || at % sim.flaps >= 2.0);
            let refused = down || rng.f64() < sim.stray || (running >= sim.slots && queued.len() >= sim.queue);
            if refused {
                outcome.refused += 1;
                if !fixed {
                    controller.refused(instant(at));
                }
                heap.push(Reverse((nanos(at + rng.f64() * 2.0), Event::Back)));
                continue;
            }
            in_flight += 1;
            let task = rng.u8(0..sim.tasks);
            requests.push((at, in_flight, task, 0));
            queued.push_back(requests.len() - 1);
            serve(sim, &mut rng, &mut heap, &mut requests, &mut queued, &mut running, at);
            preemptions += u64::from(running > sim.preempts_above);
        }
        let Some(Reverse((time, event))) = heap.pop() else { break };
        at = time as f64 / 1e9;
        if at >= sim.seconds {
            break;
        }
        match event {
            Event::Back => ready += 1,
            Event::Scrape => {
                if sim.metrics && !fixed {
                    let load =
                        ServerLoad { waiting: queued.len() as u64, kv_usage: 0.1, preemptions_total: preemptions };
                    controller.observed(instant(at), load);
                }
                heap.push(Reverse((nanos(at + 1.0), Event::Scrape)));
            }
            Event::Done { request } => {
                let (began, in_flight_at_start, task, completion_tokens) = requests[request];
                running -= 1;
                in_flight -= 1;
                ready += 1;
                outcome.answers.push(at);
                let latency = Duration::from_secs_f64(at - began);
                if !fixed {
                    controller
                        .completed(instant(at), &Answered { task, latency, completion_tokens, in_flight_at_start });
                }
                serve(sim, &mut rng, &mut heap, &mut requests, &mut queued, &mut running, at);
            }
        }
    }
    outcome.controller = controller;
    outcome
}

fn serve(
    sim: &Sim,
    rng: &mut Rng,
    heap: &mut BinaryHeap<Reverse<(u64, Event)>>,
    requests: &mut [(f64, usize, u8, u64)],
    queued: &mut VecDeque<usize>,
    running: &mut usize,
    at: f64,
) {
    while *running < sim.slots {
        let Some(request) = queued.pop_front() else { return };
        *running += 1;
        let (seconds, tokens) = (sim.service)(*running as f64, rng, requests[request].2);
        requests[request].3 = tokens;
        heap.push(Reverse((((at + seconds) * 1e9) as u64, Event::Done { request })));
    }
}

/// A batching server, step by step: a step takes 20 ms × (1 + L / `k`) and gives each request in service one token, so
/// that throughput is Tmax × L / (L + k) and nothing else ever shows. Returns mean limit and tokens a second, both
/// over the second half.
pub(super) fn decode(k: f64, limit: Limit, seconds: f64, seed: u64) -> (f64, f64) {
    let (start, max, fixed) = match limit {
        Limit::Fixed(n) => (n, n, true),
        Limit::Adaptive { start, max } => (start, max, false),
    };
    let origin = Instant::now();
    let mut rng = Rng::with_seed(seed);
    let mut controller = Controller::new(start, max, origin);
    // (began, in flight at start, tokens, tokens left)
    let mut running: Vec<(f64, usize, u64, u64)> = Vec::new();
    let (mut at, mut tokens, mut area) = (0.0, 0_u64, 0.0);
    while at < seconds {
        let limit = if fixed { start } else { controller.limit() };
        while running.len() < limit {
            let length = 20 + rng.u64(0..360);
            running.push((at, running.len() + 1, length, length));
        }
        let step = 0.02 * (1.0 + running.len() as f64 / k);
        at += step;
        if at > seconds / 2.0 {
            tokens += running.len() as u64;
            area += limit as f64 * step;
        }
        let mut i = 0;
        while i < running.len() {
            running[i].3 -= 1;
            if running[i].3 > 0 {
                i += 1;
                continue;
            }
            let (began, in_flight_at_start, completion_tokens, _) = running.swap_remove(i);
            let latency = Duration::from_secs_f64(at - began);
            let answered = Answered { task: 0, latency, completion_tokens, in_flight_at_start };
            controller.completed(origin + Duration::from_secs_f64(at), &answered);
        }
    }
    (area / (seconds / 2.0), tokens as f64 / (seconds / 2.0))
}
