//! Bad input gets one clear message that names the thing, the place and the way out; exit codes as documented.

use std::io::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{Place, Server, output, qaflow};

/// Runs and gives exit code and standard error without the log's time stamps, with paths and ports made stable.
fn fail(place: &Place, args: &[&str]) -> (i32, String) {
    let began = Instant::now();
    let output = output(&mut qaflow(&place.path(""), args));
    assert!(began.elapsed() < Duration::from_secs(5), "the message comes within 5 s, not {:?}", began.elapsed());
    let text = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("qaflow: ")).collect();
    let said = said.join("\n").replace(place.path("").to_str().unwrap().trim_end_matches('/'), "DIR");
    (output.status.code().unwrap(), said)
}

#[test]
fn faults_of_both_files_come_at_once_and_nothing_is_started() {
    let place = Place::new();
    std::fs::write(
        place.path("run.yaml"),
        "pipeline: p.yaml\ninput: [nowhere]\nllm:\n  provider: openai\n  modle: x\n  concurrency: many\n",
    )
    .unwrap();
    std::fs::write(
        place.path("p.yaml"),
        "name: p\nstages:\n  extract: {kind: extract, input: source}\n  chunk: {kind: chonk, input: extrakt}\n  generate: {kind: generate, input: extract, questions_per_chunk: 0, prompt: gone.md}\n",
    )
    .unwrap();
    let (code, said) = fail(&place, &["run", "run.yaml"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!(said);
    assert!(!place.path("state").exists(), "nothing was started");
}

#[test]
fn missing_input_and_manifest_lines_are_named() {
    let place = Place::new();
    let server = Server::start(&["--latency-ms", "0"]);
    place.config(&server, 4);
    std::fs::write(place.path("list.txt"), "# documents\n\nhere.md\ngone.pdf\nslides.pptx\n").unwrap();
    std::fs::write(place.path("here.md"), "# Here\n").unwrap();
    let (code, said) = fail(&place, &["run", "run.yaml", "--manifest", "list.txt"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!("manifest", said);
    let (code, said) = fail(&place, &["run", "run.yaml", "nothing-here"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!("missing_input", said);
    assert!(server.requests().arrived.is_empty());
}

#[test]
fn what_is_wrong_with_the_server_is_said_before_any_work() {
    let place = Place::new();
    place.corpus(1, 1);
    let stable = |said: String, server: &Server| said.replace(&server.base_url, "URL");

    let server = Server::start(&["--latency-ms", "0", "--api-key", "right"]);
    let config = place.config(&server, 4);
    let (code, said) = fail(&place, &["run", "run.yaml"]);
    assert_eq!(code, 1);
    insta::assert_snapshot!("no_key", stable(said, &server));
    let text = std::fs::read_to_string(&config).unwrap().replace("  model:", "  api_key_env: TEST_KEY\n  model:");
    std::fs::write(&config, text).unwrap();
    let wrong = output(qaflow(&place.path(""), &["run", "run.yaml"]).env("TEST_KEY", "wrong-secret"));
    assert_eq!(wrong.status.code(), Some(1));
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!said.contains("wrong-secret"), "the key is never shown: {said}");
    insta::assert_snapshot!("wrong_key", stable(said.lines().last().unwrap_or_default().to_owned(), &server));

    let server = Server::start(&["--latency-ms", "0"]);
    place.config(&server, 4);
    let (code, said) = fail(&place, &["run", "run.yaml", "--set", "llm.model=llama"]);
    assert_eq!(code, 1);
    insta::assert_snapshot!("wrong_model", stable(said, &server));

    let url = format!("llm.endpoints.0.base_url={}/nowhere", server.base_url.trim_end_matches("/v1"));
    let (code, said) = fail(&place, &["run", "run.yaml", "--set", &url]);
    assert_eq!(code, 1);
    insta::assert_snapshot!(
        "wrong_path",
        stable(said.replace(server.base_url.trim_end_matches("/v1"), "HOST"), &server)
    );

    let server = Server::start(&["--latency-ms", "0", "--no-schema"]);
    place.config(&server, 4);
    let (code, said) = fail(&place, &["run", "run.yaml"]);
    assert_eq!(code, 1);
    let said = stable(said, &server);
    assert!(said.contains("ignores the JSON schema") && said.contains("llm.structured_output"), "{said}");

    let (code, said) = fail(
        &place,
        &[
            "run",
            "run.yaml",
            "--set",
            "llm.endpoints.0.base_url=http://127.0.0.1:9/v1",
            "--set",
            "llm.wait_for_server=1s",
        ],
    );
    assert_eq!(code, 1);
    insta::assert_snapshot!("nobody_there", said);
    assert!(server.requests().arrived.is_empty(), "no work was spent");
}

#[test]
fn a_proxy_with_an_html_page_is_recognised() {
    let place = Place::new();
    place.corpus(1, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(20) {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut buffer);
            let page = "<html><head><title>Welcome to the campus proxy</title></head></html>";
            let _ =
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}", page.len());
        }
    });
    let server = Server::start(&["--latency-ms", "0"]);
    place.config(&server, 4);
    let url = format!("llm.endpoints.0.base_url=http://127.0.0.1:{port}/v1");
    let (code, said) = fail(&place, &["run", "run.yaml", "--set", &url]);
    assert_eq!(code, 1);
    insta::assert_snapshot!(said.replace(&port.to_string(), "PORT"));
}

#[test]
fn a_second_process_on_a_state_is_refused_by_name() {
    let place = Place::new();
    place.corpus(20, 3);
    let server = Server::start(&["--latency-ms", "500"]);
    place.config(&server, 4);
    let mut first = qaflow(&place.path(""), &["run", "run.yaml"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    while !place.path("state/status.json").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    for args in [&["run", "run.yaml"][..], &["export", "--state", "state"], &["verify", "--state", "state"]] {
        let (code, said) = fail(&place, args);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("process {}", first.id())), "{said}");
    }
    // Looking needs no lease.
    let status = output(&mut qaflow(&place.path(""), &["status", "--state", "state"]));
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(shown.contains(": running, "), "{shown}");
    first.kill().unwrap();
    first.wait().unwrap();
    // One that was killed is succeeded at once.
    let began = Instant::now();
    crate::support::verify(&place, "state");
    assert!(began.elapsed() < Duration::from_secs(30), "its heartbeat would count for a minute");
}

#[test]
fn bad_usage_is_exit_code_2() {
    let place = Place::new();
    for args in [
        &["run"][..],
        &["run", "gone.yaml"],
        &["frobnicate"],
        &["status", "--state", "gone"],
        &["export", "--state", "gone"],
        &["verify"],
        &["failures", "list"],
        &["run", "gone.yaml", "--shard", "9/3"],
    ] {
        let output = output(&mut qaflow(&place.path(""), args));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn graphs_that_would_double_items_are_refused() {
    let place = Place::new();
    place.corpus(2, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    place.config(&server, 4);
    let head = "name: p\nstages:\n  extract: {kind: extract, input: source}\n  chunk: {kind: chunk, input: extract}\n";
    let twins = "  g1: {kind: generate, input: chunk}\n  g2: {kind: generate, input: chunk}\n  v: {kind: validate, input: [g1, g2]}\n";
    std::fs::write(place.path("pipeline.yaml"), format!("{head}{twins}")).unwrap();
    let (code, said) = fail(&place, &["run", "run.yaml"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!("twins", said);
    let ends = "  g: {kind: generate, input: chunk}\n  v: {kind: validate, input: g}\n  w: {kind: validate, input: g, max_leak: 0.5}\n";
    std::fs::write(place.path("pipeline.yaml"), format!("{head}{ends}")).unwrap();
    let (code, said) = fail(&place, &["run", "run.yaml"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!("two_ends", said);
    assert!(server.requests().arrived.is_empty());
}

#[test]
fn results_that_would_be_taken_for_documents_are_refused() {
    let place = Place::new();
    place.corpus(1, 1);
    let server = Server::start(&["--latency-ms", "0"]);
    place.config(&server, 4);
    for args in [["--out", "corpus/out"], ["--state", "corpus/state"]] {
        let (code, said) = fail(&place, &[&["run", "run.yaml"][..], &args].concat());
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("lies in the input folder"), "{said}");
    }
    std::fs::write(place.path("taken"), "a file").unwrap();
    let (code, said) = fail(&place, &["run", "run.yaml", "--out", "taken"]);
    assert_eq!(code, 1);
    assert!(said.contains("cannot make the results folder taken"), "{said}");
}

#[test]
fn a_reader_who_leaves_early_is_no_error() {
    let place = Place::new();
    place.corpus(3, 2);
    let server = Server::start(&["--latency-ms", "0"]);
    place.config(&server, 4);
    let program = crate::support::QAFLOW;
    for line in [
        format!("({program} run run.yaml; echo $? >code) | true"),
        format!("({program} run run.yaml 2>&1 >/dev/null; echo $? >code) | true"),
        format!("({program} verify --state state; echo $? >code) | true"),
    ] {
        let status = std::process::Command::new("sh").current_dir(place.path("")).args(["-c", &line]).status().unwrap();
        assert!(status.success());
        let began = Instant::now();
        let code = loop {
            let code = std::fs::read_to_string(place.path("code")).unwrap_or_default();
            if code.ends_with('\n') || began.elapsed() > Duration::from_secs(20) {
                break code;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(code.trim(), "0", "{line}");
        std::fs::remove_file(place.path("code")).unwrap();
    }
}
