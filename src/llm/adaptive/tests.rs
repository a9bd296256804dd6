//! What the limit settles at on simulated servers, and what that is worth.
#![expect(clippy::print_stdout, reason = "`--nocapture` shows the levels settled at")]

use fastrand::Rng;

use super::simulation::{Limit, Service, Sim, decode, knee, run};
use super::*;

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
                let near = out.near(n.into(), 40.0);
                println!(
                    "knee {n} factor {factor} start {start} seed {seed}: limit {limit:.2} of the knee (40 s to 60 s: \
                     {early:.2}), throughput {share:.2} of the best (from the first second: {whole:.2}), near it {near:.2} of the time"
                );
                assert!((0.8..=1.2).contains(&limit), "knee {n} factor {factor} start {start}: {limit}");
                assert!((0.75..=1.3).contains(&early), "knee {n} factor {factor} start {start}: {early} after 40 s");
                assert!(share >= 0.9, "knee {n} factor {factor} start {start}: {share}");
                assert!(near >= 0.9, "knee {n} factor {factor} start {start}: near it {near} of the time");
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
fn a_flapping_server_is_not_left_at_one() {
    // Up for 2 s, down for 3 s, twelve times, then up.
    let sim = Sim { outage: (60.0, 120.0), flaps: 5.0, ..Sim::default() };
    let out = run(&sim, ADAPTIVE);
    println!("flapping: {} at its end, then {:.1}", out.limit_at(120.0), out.mean_limit(150.0, 240.0));
    assert!((25.6..=38.4).contains(&out.mean_limit(150.0, 240.0)));
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
    for k in [64.0, 24.0] {
        let best = decode(k, Limit::Fixed(256), 1200.0, 9).1;
        for start in [10, 20, 50, 100] {
            for seed in 1..=3 {
                let (limit, throughput) = decode(k, Limit::Adaptive { start, max: 256 }, 2400.0, seed);
                let share = throughput / best;
                println!(
                    "L/(L+{k}), start {start} seed {seed}: limit {limit:.1}, throughput {share:.2} of that at 256"
                );
                assert!(share >= 0.85, "{share}");
            }
        }
    }
}

#[test]
fn noise_that_nothing_explains_is_averaged_out() {
    // Latencies that vary tenfold and more, with lengths that say nothing about them.
    for factor in [1.0, 2.0] {
        let service = || -> Service {
            Box::new(move |running, rng, _| {
                let slower = 1.0 + factor * (running - 32.0).max(0.0) / 32.0;
                (0.3 * (0.1 + 1.8 * rng.f64()) * slower, rng.u64(0..200))
            })
        };
        for seed in 1..=8 {
            let sim = Sim { service: service(), seed, seconds: 480.0, ..Sim::default() };
            let best = run(&sim, Limit::Fixed(32)).late_throughput();
            let out = run(&sim, ADAPTIVE);
            let (limit, share) = (out.late_limit(), out.late_throughput() / best);
            println!("noise, factor {factor}, seed {seed}: limit {limit:.1}, throughput {share:.2} of the best");
            assert!((25.6..=38.4).contains(&limit), "{limit}");
            assert!(share >= 0.9, "{share}");
        }
    }
}

#[test]
fn windows_with_different_mixes_are_comparable() {
    // Twice the requests in flight at the same pace of each: elasticity 1, though the second window holds many more
    // long answers, so that its mean latency is more than twice the first's.
    let now = Instant::now();
    let windows = [(10, 4), (20, 20)].map(|(level, long)| {
        let mut window = Window::new(now, level);
        for i in 0..40_u64 {
            let task = u8::from(i % 20 < long);
            let completion_tokens = if task == 1 { 400 + i % 7 * 20 + long * 10 } else { 30 + i % 5 };
            let latency = Duration::from_millis(50 + 10 * completion_tokens);
            window.add(&Answered { task, latency, completion_tokens, in_flight_at_start: level });
        }
        window
    });
    let seen = compare(&windows[0], &windows[1]).unwrap();
    assert!((seen.elasticity - 1.0).abs() < 0.01, "{seen:?}");
    assert!(seen.spread < 0.01, "{seen:?}");
    assert!(compare(&windows[0], &windows[0]).is_none(), "one level says nothing");
}

#[test]
fn a_mix_of_tasks_changes_nothing() {
    // Lengths that differ by ten, a mix that is drawn, latency by the token.
    let service: Service = Box::new(|running, rng, task| {
        let tokens = f64::from([300, 80, 30][usize::from(task)]) * (0.5 + rng.f64());
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
    // Work for a little more than the limit gets it, and no more is learned from that.
    let out = run(&Sim { clients: 25, ..Sim::default() }, ADAPTIVE);
    println!("25 clients: limits {:?}", out.limits);
    assert_eq!(out.limits[1..].iter().map(|(_, limit)| *limit).collect::<Vec<_>>(), [30]);
}

#[test]
fn work_in_bursts_is_learned_from_while_it_lasts() {
    let sim = Sim { bursts: 20.0, seconds: 480.0, ..Sim::default() };
    for start in [10, 100] {
        let out = run(&sim, Limit::Adaptive { start, max: 256 });
        println!("bursts, start {start}: limit {:.1}", out.late_limit());
        assert!((25.6..=38.4).contains(&out.late_limit()), "{}", out.late_limit());
    }
}

#[test]
fn a_small_knee_is_found_too() {
    for n in [1_u32, 2, 4, 8] {
        for factor in [1.0, 2.0] {
            let sim = Sim { service: knee(n.into(), factor), seconds: 480.0, ..Sim::default() };
            let best = run(&sim, Limit::Fixed(n as usize)).late_throughput();
            let out = run(&sim, ADAPTIVE);
            let (limit, share) = (out.late_limit(), out.late_throughput() / best);
            println!("small knee {n}, factor {factor}: limit {limit:.1}, throughput {share:.2} of the best");
            assert!((limit - f64::from(n)).abs() <= 1.0, "{limit} for {n}");
            assert!(share >= 0.8, "{share}");
        }
    }
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
#[ignore = "a measurement, by hand"]
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
    assert!(each < Duration::from_micros(20), "2 µs wanted, ten times that allowed on a loaded machine: {each:?}");
}
