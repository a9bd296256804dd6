//! Logs hold neither secrets nor text of documents; metrics are announced while a run works and handed over at its end.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Place, Server, http, output, post, proxy, qaflow, stats};

const KEY: &str = "sk-planted-4f1c9e77";
const MARKER: &str = "quetzalcoatlus";

/// A document whose every sentence holds the marker.
fn marked(place: &Place) {
    let folder = place.path("corpus");
    std::fs::create_dir_all(&folder).unwrap();
    let mut text = format!("# Rules of the {MARKER} program\n\n");
    for n in 0..60 {
        let _ = write!(
            text,
            "The {MARKER} applicant must report change number {n} to the {MARKER} county office within {} calendar \
             days.{}",
            n + 5,
            if n % 4 == 3 { "\n\n" } else { " " }
        );
    }
    std::fs::write(folder.join("marked.md"), text).unwrap();
    // A document that is given up as it is read.
    std::fs::write(folder.join("not-a.pdf"), format!("{MARKER} is no PDF")).unwrap();
}

/// The log of a run at the default level, as JSON, with the planted key.
fn log_of(place: &Place, config: &Path) -> String {
    let mut command = qaflow(&place.path(""), &["run", &config.display().to_string(), "--log-format", "json"]);
    command.env("PLANTED_KEY", KEY).args(["--set", "llm.api_key_env=PLANTED_KEY", "--set", "max_failure_ratio=1"]);
    let output = output(&mut command);
    let (out, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    for (what, text) in [("the log", &log), ("standard output", &out)] {
        assert!(!text.contains(KEY), "{what} holds the key:\n{text}");
        assert!(!text.contains(MARKER), "{what} holds text of a document:\n{text}");
    }
    log
}

#[test]
fn the_log_holds_no_secret_and_no_text_of_a_document() {
    let place = Place::new();
    marked(&place);
    let server = Server::start(&["--latency-ms", "20", "--api-key", KEY, "--bad-pairs", "0.3"]);
    let config = place.config(&server, 4);
    let log = std::thread::scope(|scope| {
        // After the start-up probe, which must find a sound server.
        scope.spawn(|| {
            while stats(&server)["outcomes"]["ok"].as_u64().unwrap_or(0) < 5 {
                std::thread::sleep(Duration::from_millis(5));
            }
            post(&server, "/sim/faults", "{\"fault_malformed\": 0.6, \"fault_truncated\": 0.2, \"fault_503\": 0.1}");
        });
        log_of(&place, &config)
    });
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let given_up: Vec<_> = lines.iter().filter(|l| l["message"].as_str().unwrap().starts_with("given up")).collect();
    assert!(given_up.len() > 1, "{log}");
    for line in given_up {
        let span = &line["span"];
        assert!(["marked.md", "not-a.pdf"].iter().any(|name| span["document"] == *name), "{line}");
        assert!(span["stage"].is_string() && span["item"].is_string() && line["label"].is_string(), "{line}");
    }
}

#[test]
fn a_server_that_repeats_key_and_text_does_not_bring_them_into_the_log() {
    const ECHO: &str = "{\"error\":{\"message\":\"key sk-planted-4f1c9e77 may not ask: quetzalcoatlus applicant\"}}";
    for status in [400, 500] {
        let place = Place::new();
        marked(&place);
        let server = Server::start(&["--latency-ms", "1"]);
        let config = place.config(&server, 4);
        let answer = if status == 400 { (400, ECHO) } else { (500, "key sk-planted-4f1c9e77 broke it") };
        let base_url = proxy(&server, MARKER, answer);
        let text = std::fs::read_to_string(&config).unwrap().replace(&server.base_url, &base_url);
        std::fs::write(&config, text).unwrap();
        let log = log_of(&place, &config);
        assert!(log.contains("qaflow failures show"), "{log}");
    }
}

#[test]
fn a_run_is_announced_while_it_works_and_handed_over_at_its_end() {
    let place = Place::new();
    place.corpus(6, 2);
    let server = Server::start(&["--latency-ms", "60"]);
    let config = place.config(&server, 4).display().to_string();
    let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
    let pushed_to = format!("telemetry.pushgateway=http://{}", gateway.local_addr().unwrap());
    let targets = format!("telemetry.file_sd={}", place.path("targets").display());
    let args = [
        "run",
        &config,
        "--set",
        "telemetry.prometheus=127.0.0.1:0",
        "--set",
        &targets,
        "--set",
        &pushed_to,
        "--set",
        "telemetry.vllm_metrics=true",
    ];
    let start = || qaflow(&place.path(""), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let announced = || -> Option<(std::path::PathBuf, serde_json::Value)> {
        let entry = std::fs::read_dir(place.path("targets"))
            .ok()?
            .flatten()
            .find(|e| e.path().extension().is_some_and(|ending| ending == "json"))?;
        Some((entry.path(), serde_json::from_str(&std::fs::read_to_string(entry.path()).ok()?).ok()?))
    };
    let wait = |what: &str, test: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !test() {
            assert!(began.elapsed() < Duration::from_secs(60), "{what} does not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut killed = start();
    wait("the target file", &|| announced().is_some());
    let (path, first) = announced().unwrap();
    assert_eq!(first[0]["labels"]["job"], "qaflow");
    assert_eq!((&first[0]["labels"]["state"], &first[0]["labels"]["shard"]), (&"state".into(), &"0/1".into()));
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(announced().map(|(path, _)| path), Some(path.clone()), "a killed attempt leaves its file");

    let mut second = start();
    let port = |value: &serde_json::Value| -> u16 {
        value[0]["targets"][0].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
    };
    let reads = || announced().and_then(|(_, value)| http(port(&value), "GET", "/metrics", "").ok());
    wait("the second attempt", &|| reads().is_some_and(|page| page.contains("qaflow_run_attempt 2")));
    assert_eq!(std::fs::read_dir(place.path("targets")).unwrap().count(), 1, "the file was replaced");
    assert!(http(port(&announced().unwrap().1), "GET", "/nothing", "").unwrap().contains("/metrics"));

    let (mut stream, _) = gateway.accept().unwrap();
    let (mut pushed, mut buffer) = (String::new(), [0; 16_384]);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    loop {
        let n = stream.read(&mut buffer).unwrap();
        pushed.push_str(&String::from_utf8_lossy(&buffer[..n]));
        let (head, body) = pushed.split_once("\r\n\r\n").unwrap_or((&pushed, ""));
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if length.is_some_and(|length| body.len() >= length) {
            break;
        }
    }
    stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert!(second.wait().unwrap().success());
    assert!(pushed.starts_with("PUT /metrics/job@base64/cWFmbG93/run_id@base64/"), "{pushed}");
    for line in ["qaflow_eta_seconds 0", "qaflow_documents_found 6", "qaflow_documents_done 6", "qaflow_run_attempt 2"]
    {
        assert!(pushed.lines().any(|l| l == line), "{line} is not among what was pushed:\n{pushed}");
    }
    assert!(!path.exists(), "the target file goes with the run");
}

#[test]
fn an_address_that_cannot_be_listened_at_is_told_at_once() {
    let place = Place::new();
    place.corpus(1, 1);
    let server = Server::start(&[]);
    let config = place.config(&server, 1).display().to_string();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let set = format!("telemetry.prometheus={}", taken.local_addr().unwrap());
    let output = output(&mut qaflow(&place.path(""), &["run", &config, "--set", &set]));
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("telemetry.prometheus: cannot listen at 127.0.0.1:"), "{said}");
}
