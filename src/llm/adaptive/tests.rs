//! A simulated server in simulated time: what the limit settles at, and what that is worth.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use fastrand::Rng;

use super::*;

/// Service time in seconds and answer tokens of one request: (requests in service with it, randomness, task).
type Service = Box<dyn Fn(f64, &mut Rng, u8) -> (f64, u64)>;

struct Sim {
    service: Service,
    tasks: u8,
    /// Requests that want to be in flight.
    clients: usize,
    /// Requests served at the same time; the others queue.
    slots: usize,
    /// Requests that may queue before 503.
    queue: usize,
    /// Seconds between which everything is refused.
    outage: (f64, f64),
    /// Share of requests refused for no reason.
    stray: f64,
    /// Whether the controller sees `/metrics`, each second.
    metrics: bool,
    /// Requests in service above which preemptions happen.
    preempts_above: usize,
    seconds: f64,
    seed: u64,
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
            stray: 0.0,
            metrics: true,
            preempts_above: usize::MAX,
            seconds: 240.0,
            seed: 1,
        }
    }
}

/// As `simulate-llm --latency-ms 300 --jitter 0.2 --knee N --knee-factor F`.
fn knee(n: f64, factor: f64) -> Service {
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

struct Outcome {
    controller: Controller,
    /// (second, limit) at each change.
    limits: Vec<(f64, usize)>,
    /// Second and work of each answer, work being its service time in an idle server.
    answers: Vec<f64>,
    refused: u64,
    seconds: f64,
}

impl Outcome {
    /// Mean limit from second `from` to `to`, weighted by time.
    fn mean_limit(&self, from: f64, to: f64) -> f64 {
        let mut sum = 0.0;
        for (i, (at, limit)) in self.limits.iter().enumerate() {
            let until = self.limits.get(i + 1).map_or(self.seconds, |next| next.0);
            sum += *limit as f64 * (until.min(to) - at.max(from)).max(0.0);
        }
        sum / (to - from)
    }

    fn throughput(&self, from: f64, to: f64) -> f64 {
        self.answers.iter().filter(|at| (from..to).contains(*at)).count() as f64 / (to - from)
    }

    fn late_limit(&self) -> f64 {
        self.mean_limit(self.seconds / 2.0, self.seconds)
    }

    fn late_throughput(&self) -> f64 {
        self.throughput(self.seconds / 2.0, self.seconds)
    }

    fn limit_at(&self, second: f64) -> usize {
        self.limits.iter().take_while(|(at, _)| *at <= second).last().unwrap().1
    }
}

/// A closed loop against the server, under the controller or a fixed limit.
#[derive(Clone, Copy)]
enum Limit {
    Fixed(usize),
    Adaptive { start: usize, max: usize },
}

fn run(sim: &Sim, limit: Limit) -> Outcome {
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
        while ready > 0 && in_flight < if fixed { start } else { controller.limit() } {
            ready -= 1;
            let refused = (sim.outage.0..sim.outage.1).contains(&at)
                || rng.f64() < sim.stray
                || (running >= sim.slots && queued.len() >= sim.queue);
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

const ADAPTIVE: Limit = Limit::Adaptive { start: 20, max: 256 };

#[test]
fn settles_at_a_hidden_knee_from_any_start() {
    for (n, factor) in [(32_u32, 1.0), (32, 2.0), (96, 1.0), (96, 2.0)] {
        let sim = |seed| Sim { service: knee(n.into(), factor), seed, ..Sim::default() };
        let best = run(&sim(9), Limit::Fixed(n as usize)).late_throughput();
        for start in [10, 20, 50, 100] {
            for seed in 1..=8 {
                let out = run(&sim(seed), Limit::Adaptive { start, max: 256 });
                let (limit, share) = (out.late_limit() / f64::from(n), out.late_throughput() / best);
                let early = out.mean_limit(40.0, 60.0) / f64::from(n);
                let whole = out.throughput(0.0, out.seconds) / best;
                println!(
                    "knee {n} factor {factor} start {start} seed {seed}: limit {limit:.2} of the knee (40 s to 60 s: \
                     {early:.2}), throughput {share:.2} of the best (from the first second: {whole:.2})"
                );
                assert!((0.8..=1.2).contains(&limit), "knee {n} factor {factor} start {start}: {limit}");
                assert!((0.75..=1.3).contains(&early), "knee {n} factor {factor} start {start}: {early} after 40 s");
                assert!(share >= 0.9, "knee {n} factor {factor} start {start}: {share}");
                assert!(whole >= 0.85, "knee {n} factor {factor} start {start}: {whole} over all");
            }
        }
    }
}

#[test]
fn an_outage_is_forgotten_once_it_is_over() {
    let sim = Sim { outage: (60.0, 120.0), ..Sim::default() };
    let out = run(&sim, ADAPTIVE);
    println!("before {}, in it {}, after {:.1}", out.limit_at(59.0), out.limit_at(119.0), out.mean_limit(130.0, 240.0));
    assert!(out.limit_at(119.0) <= 4, "a dead server is asked by few");
    assert!(out.mean_limit(125.0, 135.0) >= 24.0, "back within seconds");
    assert!((25.6..=38.4).contains(&out.mean_limit(130.0, 240.0)));
    // From the very first second on.
    let out = run(&Sim { outage: (0.0, 60.0), ..Sim::default() }, ADAPTIVE);
    assert!((25.6..=38.4).contains(&out.late_limit()), "{}", out.late_limit());
}

#[test]
fn stray_refusals_do_not_lower_the_limit() {
    let out = run(&Sim { stray: 0.05, ..Sim::default() }, ADAPTIVE);
    println!("5% refused at random: limit {:.1}", out.late_limit());
    assert!((25.6..=38.4).contains(&out.late_limit()), "{}", out.late_limit());
}

#[test]
fn a_server_with_slots_is_kept_full_and_not_queued_at() {
    for metrics in [true, false] {
        for start in [10, 200] {
            let sim = Sim { service: knee(1e9, 1.0), slots: 64, metrics, ..Sim::default() };
            let best = run(&sim, Limit::Fixed(64)).late_throughput();
            let out = run(&sim, Limit::Adaptive { start, max: 256 });
            let (limit, share) = (out.late_limit(), out.late_throughput() / best);
            println!("64 slots, metrics {metrics}, start {start}: limit {limit:.1}, throughput {share:.2} of the best");
            assert!((51.2..=76.8).contains(&limit), "{limit}");
            assert!(share >= 0.9, "{share}");
        }
    }
}

#[test]
fn a_server_that_refuses_above_a_level_is_used_up_to_it() {
    let sim = Sim { service: knee(1e9, 1.0), slots: 40, queue: 0, metrics: false, seconds: 480.0, ..Sim::default() };
    let out = run(&sim, Limit::Adaptive { start: 100, max: 256 });
    let share = out.late_throughput() / (40.0 / 0.3);
    let refused = out.refused as f64 / out.answers.len() as f64;
    println!("503 above 40: limit {:.1}, throughput {share:.2} of the best, {refused:.3} refused", out.late_limit());
    assert!((28.0..=40.5).contains(&out.late_limit()), "{}", out.late_limit());
    assert!(share >= 0.8, "{share}");
    assert!(refused < 0.1, "{refused}");
}

#[test]
fn preemptions_keep_it_below_where_they_happen() {
    let sim = Sim { service: knee(1e9, 1.0), preempts_above: 80, ..Sim::default() };
    let out = run(&sim, ADAPTIVE);
    println!("preemptions above 80: limit {:.1}", out.late_limit());
    assert!((60.0..=82.0).contains(&out.late_limit()), "{}", out.late_limit());
}

#[test]
fn a_batching_server_is_filled_far_beyond_where_latency_begins_to_rise() {
    // Throughput Tmax × L / (L + K), as on a GPU; answers of 20 to 380 tokens at so much a token.
    let service = |k: f64| -> Service {
        Box::new(move |running, rng, _| {
            let tokens = 20 + rng.u64(0..360);
            (0.01 * tokens as f64 * (1.0 + running / k) * (0.9 + 0.2 * rng.f64()), tokens)
        })
    };
    for (k, metrics) in [(64.0, true), (64.0, false), (24.0, false)] {
        for start in [10, 20, 50, 100] {
            let sim = Sim { service: service(k), metrics, seconds: 2400.0, ..Sim::default() };
            let best = run(&sim, Limit::Fixed(256)).late_throughput();
            let out = run(&sim, Limit::Adaptive { start, max: 256 });
            let share = out.late_throughput() / best;
            println!("L/(L+{k}), start {start}: limit {:.1}, throughput {share:.2} of that at 256", out.late_limit());
            assert!(share >= 0.85, "{share}");
        }
    }
}

#[test]
fn a_mix_of_tasks_changes_nothing() {
    // Lengths that differ by ten, a mix that is drawn, latency by the token.
    let service: Service = Box::new(|running, rng, task| {
        let tokens = [300, 80, 30][usize::from(task)] as f64 * (0.5 + rng.f64());
        let slower = 1.0 + (running - 32.0).max(0.0) / 32.0;
        ((0.05 + 0.002 * tokens) * (0.9 + 0.2 * rng.f64()) * slower, tokens as u64)
    });
    let sim = Sim { service, tasks: 3, ..Sim::default() };
    let best = run(&sim, Limit::Fixed(32)).late_throughput();
    for start in [10, 20, 50, 100] {
        let out = run(&sim, Limit::Adaptive { start, max: 256 });
        let (limit, share) = (out.late_limit(), out.late_throughput() / best);
        println!("three tasks, start {start}: limit {limit:.1}, throughput {share:.2} of the best");
        assert!((25.6..=38.4).contains(&limit), "{limit}");
        assert!(share >= 0.9, "{share}");
    }
}

#[test]
fn too_little_work_teaches_nothing() {
    let out = run(&Sim { clients: 6, ..Sim::default() }, ADAPTIVE);
    assert_eq!(out.limits, [(0.0, 20)]);
}

#[test]
fn a_moved_knee_is_followed() {
    // 96 at first, 32 from answer 20,000 on, and 96 again.
    let served = std::cell::Cell::new(0_u32);
    let service: Service = Box::new(move |running, rng, task| {
        served.set(served.get() + 1);
        let n = if (20_000..35_000).contains(&served.get()) { 32.0 } else { 96.0 };
        knee(n, 1.0)(running, rng, task)
    });
    let out = run(&Sim { service, seconds: 480.0, ..Sim::default() }, ADAPTIVE);
    let second = |answer: usize| out.answers[answer];
    let (early, middle, late) = (
        out.mean_limit(second(15_000), second(20_000)),
        out.mean_limit(second(28_000), second(35_000)),
        out.mean_limit(second(35_000) + 60.0, out.seconds),
    );
    println!("limit {early:.1}, then {middle:.1}, then {late:.1}");
    assert!((77.0..=115.0).contains(&early), "{early}");
    assert!((25.6..=38.4).contains(&middle), "{middle}");
    assert!((77.0..=115.0).contains(&late), "{late}");
}

#[test]
fn the_limits_bounds_hold_whatever_happens() {
    proptest::proptest!(|(start in 0_usize..300, max in 0_usize..300, seed: u64)| {
        let mut rng = Rng::with_seed(seed);
        let mut now = Instant::now();
        let mut controller = Controller::new(start, max, now);
        for _ in 0..3000 {
            now += Duration::from_micros(rng.u64(0..200_000));
            match rng.u8(0..10) {
                0 if rng.bool() => controller.refused(now),
                1 => controller.observed(now, ServerLoad {
                    waiting: rng.u64(0..400),
                    kv_usage: rng.f64() * 2.0,
                    preemptions_total: rng.u64(..) >> rng.u8(0..64),
                }),
                _ => controller.completed(now, &Answered {
                    task: rng.u8(..),
                    latency: Duration::from_nanos(rng.u64(..) >> rng.u8(20..64)),
                    completion_tokens: rng.u64(..) >> rng.u8(0..64),
                    in_flight_at_start: if rng.u8(0..8) == 0 { rng.usize(..) } else { controller.limit() },
                }),
            }
            proptest::prop_assert!((1..=max.max(1)).contains(&controller.limit()));
            proptest::prop_assert!(controller.base.is_finite() && controller.base <= max.max(1) as f64);
        }
    });
}

#[test]
fn is_cheap() {
    let began = Instant::now();
    let mut now = began;
    let mut controller = Controller::new(32, 256, now);
    let calls = 200_000_u32;
    for i in 0..calls {
        now += Duration::from_millis(10);
        let in_flight_at_start = controller.limit();
        let latency = Duration::from_millis(300 + u64::from(i % 7));
        controller
            .completed(now, &Answered { task: 1, latency, completion_tokens: u64::from(i % 50), in_flight_at_start });
    }
    let each = began.elapsed() / calls;
    println!("{each:?} a call");
    assert!(each < Duration::from_micros(20), "2 µs wanted, ten times that allowed on a loaded machine: {each:?}");
}
