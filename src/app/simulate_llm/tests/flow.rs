//! The command line, the endpoints, slots, cache and log.

use super::*;

#[test]
fn the_command_line_has_the_defaults_of_the_library() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }
    let cli = <Cli as clap::Parser>::try_parse_from(["sim"]).unwrap();
    assert_eq!(cli.args.options, SimOptions::default());
    let given = ["sim", "--fault-429", "0.05", "--outage-kind", "refuse", "--cache-blocks", "0"];
    let cli = <Cli as clap::Parser>::try_parse_from(given).unwrap();
    assert_eq!((cli.args.options.faults.fault_429, cli.args.options.cache_blocks), (0.05, 0));
    assert_eq!(cli.args.options.faults.outage_kind, OutageKind::Refuse);
    assert!(<Cli as clap::Parser>::try_parse_from(["sim", "--jitter", "2"]).is_err());
}

#[tokio::test]
async fn answers_pairs_over_one_connection() {
    let sim = start(fast()).await;
    let mut client = Client::new(&sim).await;
    let body = ask_pairs(SOURCE, "").to_string();
    let mut contents = Vec::new();
    for _ in 0..2 {
        let reply = client.call("POST", "/v1/chat/completions", &[("x-request-id", "one")], &body).await.unwrap();
        assert_eq!((reply.status, &*reply.json()["choices"][0]["finish_reason"].to_string()), (200, "\"stop\""));
        contents.push(reply.content());
    }
    assert_eq!(contents[0], contents[1]);
    let pairs: Value = serde_json::from_str(&contents[0]).unwrap();
    assert_eq!(pairs["pairs"].as_array().unwrap().len(), 2);
    assert!(SOURCE.contains(pairs["pairs"][1]["quote"].as_str().unwrap()));
    let stats = sim.stats();
    assert_eq!((stats.requests, stats.distinct_ids, stats.repeated_ids, stats.ids_answered_again), (2, 1, 1, 1));
    assert_eq!(stats.tasks["qa_pairs"]["ok"], 2);
}

#[tokio::test]
async fn errors_have_vllms_form() {
    let sim = start(SimOptions { api_key: Some("k".into()), max_model_len: 100, ..fast() }).await;
    let mut client = Client::new(&sim).await;
    let mut shown = Vec::new();
    let key = ("authorization", "Bearer k");
    for (headers, body) in [
        (vec![], ask("x").to_string()),
        (vec![("authorization", "Bearer wrong")], ask("x").to_string()),
        (vec![key], json!({"model": "other", "messages": [{"role": "user", "content": "x"}]}).to_string()),
        (vec![key], ask(&"long ".repeat(100)).to_string()),
        (vec![key], "{\"model\":3}".to_owned()),
        (vec![key], json!({"model": "simulated", "messages": []}).to_string()),
        (vec![key], ask("fits").to_string()),
    ] {
        let reply = client.call("POST", "/v1/chat/completions", &headers, &body).await.unwrap();
        let body = if reply.status == 200 { String::new() } else { reply.body };
        shown.push(format!("{} {body}", reply.status).trim().to_owned());
    }
    insta::assert_snapshot!(shown.join("\n"), @r#"
    401 {"error":"Unauthorized"}
    401 {"error":"Unauthorized"}
    404 {"error":{"message":"The model `other` does not exist.","type":"NotFoundError","param":"model","code":404}}
    400 {"error":{"message":"This model's maximum context length is 100 tokens. However, you requested 126 tokens (125 in the messages, 1 in the completion). Please reduce the length of the messages or completion.","type":"BadRequestError","param":"messages","code":400}}
    400 {"error":{"message":"The request body is not a chat request: invalid type: integer `3`, expected a string at line 1 column 10","type":"BadRequestError","param":null,"code":400}}
    400 {"error":{"message":"The conversation is empty: give at least one message.","type":"BadRequestError","param":"messages","code":400}}
    200
    "#);
    assert_eq!(get(&sim, "/v1/models").await.status, 401);
    assert_eq!(get(&sim, "/health").await.status, 200, "as in vLLM, only /v1 needs the key");
    assert_eq!(sim.stats().outcomes, [("400", 3), ("401", 2), ("404", 1), ("ok", 1)].into_iter().collect());
}

#[tokio::test]
async fn the_other_endpoints_answer() {
    let sim = start(fast()).await;
    let models = get(&sim, "/v1/models").await.json();
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["max_model_len"]), (&"simulated".into(), &32_768.into()));
    assert!(get(&sim, "/version").await.json()["version"].is_string());
    let mut client = Client::new(&sim).await;
    let reply = client.call("POST", "/tokenize", &[], r#"{"prompt":"12345678"}"#).await.unwrap();
    assert_eq!(reply.json()["count"], 2);
    let reply = client.call("POST", "/tokenize", &[], &ask("123456789").to_string()).await.unwrap();
    assert_eq!(reply.json()["count"], 3);
    assert_eq!(client.call("POST", "/tokenize", &[], "{}").await.unwrap().status, 400);
    assert_eq!(client.call("POST", "/v1/models", &[], "").await.unwrap().status, 405);
    assert_eq!(get(&sim, "/nothing").await.status, 404);
    chat(&sim, "a", &ask("hello")).await.unwrap();
    assert_eq!(get(&sim, "/sim/stats").await.json()["outcomes"]["ok"], 1);
    assert!(
        get(&sim, "/metrics")
            .await
            .body
            .contains("vllm:request_success_total{engine=\"0\",model_name=\"simulated\"} 1\n")
    );
    client.call("POST", "/sim/reset", &[], "").await.unwrap();
    assert_eq!(get(&sim, "/sim/stats").await.json()["requests"], 0);
}

#[tokio::test]
async fn slots_are_honoured_first_come_first_served() {
    let sim = start(SimOptions { slots: 2, latency_ms: 150.0, ..fast() }).await;
    let mut clients = Vec::new();
    for i in 0..6_u64 {
        let mut client = Client::new(&sim).await;
        client.send("POST", "/v1/chat/completions", &[], &ask(&format!("question {i}")).to_string()).await;
        clients.push(client);
        wait_for("the arrival", || sim.stats().requests == i + 1).await;
    }
    assert_eq!((sim.stats().running, sim.stats().waiting), (2, 4));
    let metrics = get(&sim, "/metrics").await.body;
    assert!(metrics.contains("vllm:num_requests_waiting{engine=\"0\",model_name=\"simulated\"} 4"), "{metrics}");
    let began = Instant::now();
    let done = clients.into_iter().map(|mut client| async move {
        client.receive().await.unwrap();
        began.elapsed()
    });
    let done = futures::future::join_all(done).await;
    for (earlier, later) in done.iter().zip(&done[2..]) {
        assert!(later > earlier, "{done:?}");
    }
    let stats = sim.stats();
    assert_eq!((stats.max_running, stats.max_in_flight, stats.running, stats.waiting), (2, 6, 0, 0));
    assert!(stats.busy_slot_seconds >= 0.9, "six times 150 ms: {}", stats.busy_slot_seconds);
}

#[tokio::test]
async fn a_full_queue_answers_503() {
    let sim = start(SimOptions { slots: 1, max_queue: Some(1), latency_ms: 300.0, ..fast() }).await;
    let bodies: Vec<Value> = (0..3).map(|i| ask(&format!("{i}"))).collect();
    let replies = futures::future::join_all(bodies.iter().map(|body| chat(&sim, "", body))).await;
    let mut statuses: Vec<u16> = replies.into_iter().map(|reply| reply.unwrap().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503]);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot_or_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let sim = start(SimOptions { slots: 1, latency_ms: 60_000.0, log: Some(log.clone()), ..fast() }).await;
    let mut running = Client::new(&sim).await;
    running.send("POST", "/v1/chat/completions", &[("x-request-id", "r")], &ask("a").to_string()).await;
    wait_for("the first to run", || sim.stats().running == 1).await;
    let mut waiting = Client::new(&sim).await;
    waiting.send("POST", "/v1/chat/completions", &[("x-request-id", "w")], &ask("b").to_string()).await;
    wait_for("the second to wait", || sim.stats().waiting == 1).await;
    drop(waiting);
    wait_for("its place to be free", || sim.stats().waiting == 0).await;
    drop(running);
    wait_for("the slot to be free", || sim.stats().running == 0).await;
    assert_eq!(sim.stats().outcomes["aborted"], 2);
    let lines = log_lines(&log);
    let ends: Vec<(&str, &str)> =
        lines[2..].iter().map(|l| (l["id"].as_str().unwrap(), l["outcome"].as_str().unwrap())).collect();
    assert_eq!(ends, [("w", "aborted"), ("r", "aborted")]);
}

#[tokio::test]
async fn stopping_breaks_off_what_is_in_flight() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let options = SimOptions { latency_ms: 60_000.0, ..fast() };
    let sim = serve(listener, options, async { stopped.await.unwrap_or(()) }).await.unwrap();
    let mut client = Client::new(&sim).await;
    client.send("POST", "/v1/chat/completions", &[], &ask("a").to_string()).await;
    wait_for("the request to run", || sim.stats().running == 1).await;
    stop.send(()).unwrap();
    let address = sim.address();
    tokio::time::timeout(Duration::from_secs(5), sim.join()).await.unwrap();
    assert!(client.receive().await.is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_log_tells_of_each_request() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let sim = start(SimOptions { log: Some(log.clone()), ..fast() }).await;
    let body = ask_pairs(SOURCE, "");
    chat(&sim, "id-1", &body).await.unwrap();
    chat(&sim, "id-2", &json!({"model": "x", "messages": []})).await.unwrap();
    let mut lines = log_lines(&log);
    let hash = blake3::hash(body.to_string().as_bytes()).to_hex()[..16].to_owned();
    assert_eq!(lines[0]["body"], *hash);
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        assert!(line.remove("t").unwrap().as_f64().unwrap() > 1.7e9);
        line.remove("ms");
        line.remove("body");
        line.remove("source");
    }
    insta::assert_snapshot!(lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"), @r#"
    {"event":"arrive","id":"id-1","n":1,"task":"qa_pairs"}
    {"event":"end","id":"id-1","n":1,"outcome":"ok"}
    {"event":"arrive","id":"id-2","n":2,"task":"free"}
    {"event":"end","id":"id-2","n":2,"outcome":"404"}
    "#);
}

#[tokio::test]
async fn shared_prefixes_are_cached_and_spare_prefill() {
    let options = SimOptions { prefill_tokens_per_second: 800.0, ..fast() };
    let sim = start(options).await;
    let shared = "policy text ".repeat(80);
    let mut took = Vec::new();
    let mut cached = Vec::new();
    for tail in ["first", "second"] {
        let began = Instant::now();
        let reply = chat(&sim, tail, &ask(&format!("{shared}{tail}"))).await.unwrap();
        took.push(began.elapsed());
        cached.push(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap());
    }
    assert_eq!(cached, [0, 240], "960 characters are 240 tokens, 15 full blocks");
    let metrics = get(&sim, "/metrics").await.body;
    assert!(metrics.contains("prefix_cache_hits_total{engine=\"0\",model_name=\"simulated\"} 240\n"), "{metrics}");
    assert_eq!((sim.stats().prompt_tokens, sim.stats().cached_tokens), (242 + 242, 240));
    // Once the prompt is cached, the quickest of some is well below the time to read it, whatever else the machine does.
    assert!(took[0] >= Duration::from_millis(300), "{took:?}");
    for n in 0..8 {
        let began = Instant::now();
        chat(&sim, &format!("again-{n}"), &ask(&format!("{shared}again {n}"))).await.unwrap();
        took.push(began.elapsed());
    }
    assert!(took[1..].iter().any(|took| *took < Duration::from_millis(250)), "{took:?}");
}

#[tokio::test]
async fn service_slows_down_above_the_knee() {
    let sim = start(SimOptions { latency_ms: 100.0, knee: Some(1), knee_factor: 3.0, ..fast() }).await;
    let alone = Instant::now();
    chat(&sim, "", &ask("x")).await.unwrap();
    let alone = alone.elapsed();
    let bodies = [ask("a"), ask("b")];
    let both = Instant::now();
    futures::future::join_all(bodies.iter().map(|body| chat(&sim, "", body))).await;
    let both = both.elapsed();
    assert!((100..400).contains(&alone.as_millis()), "{alone:?}");
    assert!(both >= Duration::from_millis(400), "the second is above the knee, 4 times 100 ms: {both:?}");
}

#[tokio::test]
async fn schemas_can_be_ignored_and_answers_cut() {
    let sim = start(SimOptions { no_schema: true, ..fast() }).await;
    let reply = chat(&sim, "a", &ask_pairs(SOURCE, "")).await.unwrap();
    assert!(reply.content().starts_with("Here is what stands out: "));
    let sim = start(fast()).await;
    let mut short = ask_pairs(SOURCE, "");
    short["max_completion_tokens"] = 10.into();
    let reply = chat(&sim, "a", &short).await.unwrap().json();
    assert_eq!(
        (&reply["choices"][0]["finish_reason"], &reply["usage"]["completion_tokens"]),
        (&"length".into(), &10.into())
    );
    let parts =
        json!({"model": "simulated", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]});
    assert_eq!(chat(&sim, "a", &parts).await.unwrap().json()["usage"]["prompt_tokens"], 1);
}

#[test]
fn a_port_file_is_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("port");
    std::fs::write(&file, "old").unwrap();
    write_whole(&file, "8123\n").unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "8123\n");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
