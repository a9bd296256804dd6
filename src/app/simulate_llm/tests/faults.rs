//! Faults and outages.

use super::*;

/// What each of 60 requests meets over three attempts.
async fn attempts(sim: &SimHandle) -> Vec<String> {
    let mut met = Vec::new();
    for i in 0..60 {
        for _ in 0..3 {
            met.push(match chat(sim, &format!("id {i}"), &ask_pairs(SOURCE, &format!(" {i}"))).await {
                Ok(reply) if reply.status == 200 => {
                    let reason = reply.json()["choices"][0]["finish_reason"].as_str().unwrap().to_owned();
                    let broken = serde_json::from_str::<Value>(&reply.content()).is_err();
                    format!("{reason}{}", if broken { " broken" } else { "" })
                }
                Ok(reply) => reply.status.to_string(),
                Err(error) => format!("{:?}", error.kind()),
            });
        }
    }
    met
}

#[tokio::test]
async fn faults_come_in_their_shares_and_again_in_a_second_run() {
    let faults = FaultOptions {
        fault_429: 0.1,
        fault_503: 0.1,
        fault_reset: 0.1,
        fault_hang: 0.05,
        hang_seconds: 0.001,
        fault_malformed: 0.2,
        fault_truncated: 0.2,
        ..FaultOptions::default()
    };
    let sim = start(SimOptions { faults, ..fast() }).await;
    let met = attempts(&sim).await;
    let count = |what: &str| met.iter().filter(|m| *m == what).count();
    let counts = sim.stats().outcomes;
    assert_eq!(counts["malformed"], count("stop broken") as u64);
    assert_eq!(counts["truncated"], count("length broken") as u64);
    assert_eq!(counts["429"], count("429") as u64);
    assert_eq!(counts["503"], count("503") as u64);
    assert_eq!(counts["reset"] + counts["hang"], count("ConnectionReset") as u64, "{met:?}");
    assert_eq!(counts.values().sum::<u64>(), 180);
    for (outcome, about) in [("429", 18), ("503", 18), ("reset", 18), ("hang", 9), ("malformed", 24), ("truncated", 24)]
    {
        assert!((about / 3..=about * 2).contains(&counts[outcome]), "{counts:?}");
    }
    // Faults of content stay with the content, those of transport with the attempt.
    for three in met.chunks(3) {
        let mut answers: Vec<&String> =
            three.iter().filter(|m| m.starts_with("stop") || m.starts_with("length")).collect();
        answers.dedup();
        assert!(answers.len() <= 1, "{three:?}");
    }
    assert!(met.chunks(3).any(|three| three[0] == "429" && three[1].starts_with("stop")));
    sim.reset_stats();
    assert_eq!(attempts(&sim).await, met);
}

#[tokio::test]
async fn a_429_says_when_to_come_back() {
    let sim = start(fast()).await;
    let after = |ms| FaultOptions { fault_429: 1.0, retry_after_ms: ms, ..FaultOptions::default() };
    let mut shown = Vec::new();
    for ms in [1_000, 250, 0] {
        sim.set_faults(after(ms)).unwrap();
        let reply = chat(&sim, "a", &ask("x")).await.unwrap();
        shown.push((
            reply.status,
            reply.headers.get("retry-after").cloned(),
            reply.headers.get("retry-after-ms").cloned(),
        ));
    }
    let text = |s: &str| Some(s.to_owned());
    assert_eq!(shown, [(429, text("1"), None), (429, text("1"), text("250")), (429, None, None)]);
}

#[tokio::test]
async fn a_hanging_request_holds_its_slot_until_the_client_leaves() {
    let faults = FaultOptions { fault_hang: 1.0, ..FaultOptions::default() };
    let sim = start(SimOptions { faults, ..fast() }).await;
    let mut client = Client::new(&sim).await;
    client.send("POST", "/v1/chat/completions", &[], &ask("a").to_string()).await;
    wait_for("the request to run", || sim.stats().running == 1).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), client.receive()).await.is_err());
    drop(client);
    wait_for("the end", || sim.stats().outcomes.get("hang") == Some(&1)).await;
    assert_eq!(sim.stats().running, 0);
}

#[tokio::test]
async fn outages_begin_and_end_by_request() {
    let sim = start(fast()).await;
    let mut control = Client::new(&sim).await;
    let body = r#"{"outage_for":60}"#;
    assert_eq!(control.call("POST", "/sim/faults", &[], body).await.unwrap().json()["outage_for"], 60.0);
    assert_eq!(chat(&sim, "a", &ask("x")).await.unwrap().status, 503);
    assert_eq!(get(&sim, "/health").await.status, 503);
    control.call("POST", "/sim/faults", &[], r#"{"outage_for":60,"html_errors":true}"#).await.unwrap();
    let reply = chat(&sim, "a", &ask("x")).await.unwrap();
    assert_eq!((reply.status, &*reply.headers["content-type"]), (502, "text/html"));
    assert!(reply.body.contains("<h1>502 Bad Gateway</h1>"));
    control.call("POST", "/sim/faults", &[], r#"{"unhealthy":true}"#).await.unwrap();
    assert_eq!(get(&sim, "/health").await.status, 503);
    assert_eq!(chat(&sim, "a", &ask("x")).await.unwrap().status, 200);
    let refused = control.call("POST", "/sim/faults", &[], r#"{"fault_42":1}"#).await.unwrap();
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("unknown field `fault_42`"), "{}", refused.body);
    assert_eq!(control.call("POST", "/sim/faults", &[], r#"{"fault_429":2}"#).await.unwrap().status, 400);
}

#[tokio::test]
async fn an_outage_can_refuse_connections() {
    let sim = start(SimOptions { latency_ms: 60_000.0, ..fast() }).await;
    let mut client = Client::new(&sim).await;
    client.send("POST", "/v1/chat/completions", &[], &ask("a").to_string()).await;
    wait_for("the request to run", || sim.stats().running == 1).await;
    let outage =
        |seconds| FaultOptions { outage_for: seconds, outage_kind: OutageKind::Refuse, ..FaultOptions::default() };
    sim.set_faults(outage(60.0)).unwrap();
    assert!(client.receive().await.is_err(), "what was in flight is lost");
    let refused = TcpStream::connect(sim.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    sim.set_faults(outage(0.1)).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(sim.address()).await.is_err() {
        assert!(Instant::now() < until, "it must listen again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(get(&sim, "/health").await.status, 200);
    assert_eq!(sim.stats().outcomes["aborted"], 1);
}
