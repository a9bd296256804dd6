//! What the tests share: folders, corpora, the simulated server, the program, and the server's log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program under test.
pub(crate) const QAFLOW: &str = env!("CARGO_BIN_EXE_qaflow");

/// A folder of its own for one test, with a corpus, a state and results; removed at the end.
pub(crate) struct Place {
    dir: PathBuf,
    _kept: Option<tempfile::TempDir>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir: dir.path().to_owned(), _kept: Some(dir) }
    }

    /// This folder, emptied first and left where it is.
    pub(crate) fn at(dir: &Path) -> Self {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_owned(), _kept: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a corpus of Markdown documents with policy-like sentences, each different, and returns its folder.
    pub(crate) fn corpus(&self, documents: usize, paragraphs: usize) -> PathBuf {
        let folder = self.path("corpus");
        std::fs::create_dir_all(&folder).unwrap();
        for n in 0..documents {
            write_document(&folder, n, paragraphs);
        }
        folder
    }

    /// Writes a configuration for the simulated server with a pipeline of five stages.
    pub(crate) fn config(&self, server: &Server, concurrency: usize) -> PathBuf {
        std::fs::write(self.path("pipeline.yaml"), PIPELINE).unwrap();
        let config = format!(
            "pipeline: pipeline.yaml\ninput: [corpus]\nstate: state\nout: out\nllm:\n  provider: openai\n  endpoints: \
             [{{base_url: \"{}\"}}]\n  model: simulated\n  concurrency: {concurrency}\n  retry: {{initial_ms: 50, max_ms: 1000}}\n\
             shutdown: {{grace: 10s}}\nmax_failure_ratio: 0.5\n",
            server.base_url
        );
        let path = self.path("run.yaml");
        std::fs::write(&path, config).unwrap();
        path
    }

    /// `dataset.jsonl`, `rejected.jsonl` and `dead_letters.jsonl` of a results folder.
    pub(crate) fn results(&self, out: &str) -> BTreeMap<&'static str, String> {
        ["dataset.jsonl", "rejected.jsonl", "dead_letters.jsonl"]
            .into_iter()
            .map(|name| (name, std::fs::read_to_string(self.path(out).join(name)).unwrap()))
            .collect()
    }
}

const PIPELINE: &str = "name: test
stages:
  extract: {kind: extract, input: source}
  chunk: {kind: chunk, input: extract, size: 600}
  generate: {kind: generate, input: chunk, questions_per_chunk: 3}
  validate: {kind: validate, input: generate}
  score: {kind: score, input: validate, keep: {accuracy: 4, relevance: 4, clarity: 3}}
";

/// Writes document `n` into a folder.
pub(crate) fn write_document(folder: &Path, n: usize, paragraphs: usize) {
    use std::fmt::Write as _;
    const WHO: [&str; 6] =
        ["applicant", "provider", "case manager", "hearing officer", "managed care plan", "county office"];
    const WHAT: [&str; 6] = [
        "report a change of income",
        "file a written appeal",
        "submit a corrected claim",
        "renew the prior authorization",
        "return the signed form",
        "answer a request for records",
    ];
    const TO: [&str; 5] = [
        "the regional office",
        "the program integrity unit",
        "the enrollment broker",
        "the benefits desk",
        "the review panel",
    ];
    let mut text = format!("# Bulletin {n} of the Calloway program\n\n");
    for p in 0..paragraphs {
        let k = n * 31 + p * 7;
        let _ = write!(text, "## Part {} rules of bulletin {n}\n\n", p + 1);
        for s in 0..4 {
            let m = k + s * 5;
            let _ = write!(
                text,
                "The {} under bulletin {n} must {} to {} within {} calendar days after event {} of part {}. ",
                WHO[m % 6],
                WHAT[(m / 2) % 6],
                TO[(m / 3) % 5],
                5 + m % 80,
                m * 13 + s,
                p + 1
            );
        }
        text.push_str("\n\n");
    }
    std::fs::write(folder.join(format!("bulletin-{n:04}.md")), text).unwrap();
}

/// A running `qaflow simulate-llm`.
pub(crate) struct Server {
    child: Child,
    pub(crate) base_url: String,
    pub(crate) log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (log, port_file) = (dir.path().join("requests.jsonl"), dir.path().join("port"));
        let child = Command::new(QAFLOW)
            .args(["simulate-llm", "--port", "0", "--port-file"])
            .arg(&port_file)
            .arg("--log")
            .arg(&log)
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        let port = loop {
            if let Ok(port) = std::fs::read_to_string(&port_file) {
                break port;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the simulated server does not start");
            std::thread::sleep(Duration::from_millis(10));
        };
        Self { child, base_url: format!("http://127.0.0.1:{}/v1", port.trim()), log, _dir: dir }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Requests {
        Requests::read(&self.log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server's log says.
#[derive(Debug, Default, Clone)]
pub(crate) struct Requests {
    /// In order of arrival: id and task.
    pub(crate) arrived: Vec<(String, String)>,
    /// Ids that were answered.
    pub(crate) answered: BTreeSet<String>,
    /// Tags of the passages that were asked about.
    pub(crate) passages: BTreeSet<String>,
}

impl Requests {
    fn read(log: &Path) -> Self {
        let mut requests = Self::default();
        for line in std::fs::read_to_string(log).unwrap_or_default().lines() {
            let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let id = value["id"].as_str().unwrap_or_default().to_owned();
            match value["event"].as_str() {
                // The start-up probe is no work.
                Some("arrive") if value["task"] != "probe" => {
                    requests.passages.extend(value["source"].as_str().map(str::to_owned));
                    requests.arrived.push((id, value["task"].as_str().unwrap_or_default().into()));
                }
                Some("end") if value["outcome"] == "ok" => {
                    requests.answered.insert(id);
                }
                _ => {}
            }
        }
        requests
    }

    /// How many requests of a task arrived.
    pub(crate) fn of(&self, task: &str) -> usize {
        self.arrived.iter().filter(|(_, t)| t == task).count()
    }

    /// How many arrived after the first `n`, by task.
    pub(crate) fn since(&self, n: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (_, task) in &self.arrived[n..] {
            *counts.entry(task.clone()).or_default() += 1;
        }
        counts
    }
}

/// `qaflow` with arguments, in a folder.
pub(crate) fn qaflow(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(QAFLOW);
    command.current_dir(dir).args(args).env_remove("QAFLOW_LOG").env_remove("SLURM_JOB_ID");
    command
}

/// Runs it to its end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// Runs it to its end and demands an exit code.
pub(crate) fn expect(command: &mut Command, code: i32) -> String {
    let output = output(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout:\n{out}\nstderr:\n{err}");
    out.into_owned()
}

/// A run with the given extra arguments, to its end.
pub(crate) fn run(place: &Place, config: &Path, extra: &[&str], code: i32) -> String {
    let config = config.display().to_string();
    let mut args = vec!["run", config.as_str()];
    args.extend(extra);
    expect(&mut qaflow(&place.path(""), &args), code)
}

/// `verify` on a state; it must find nothing.
pub(crate) fn verify(place: &Place, state: &str) -> serde_json::Value {
    let out = expect(&mut qaflow(&place.path(""), &["verify", "--json", "--state", state]), 0);
    serde_json::from_str(&out).unwrap()
}

/// One HTTP/1.1 exchange with a server on this machine; its body.
pub(crate) fn http(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

fn port_of(server: &Server) -> u16 {
    server.base_url.trim_end_matches("/v1").rsplit(':').next().unwrap().parse().unwrap()
}

/// Tells the simulated server something.
pub(crate) fn post(server: &Server, path: &str, body: &str) {
    http(port_of(server), "POST", path, body).unwrap();
}

/// What the simulated server counted.
pub(crate) fn stats(server: &Server) -> serde_json::Value {
    serde_json::from_str(&http(port_of(server), "GET", "/sim/stats", "").unwrap()).unwrap()
}

/// A proxy in front of a simulated server, which answers requests that hold `needle` with `answer` instead, as status
/// and body, or with status 0 never. Gives its base URL.
pub(crate) fn proxy(server: &Server, needle: &'static str, answer: (u16, &'static str)) -> String {
    use std::io::{BufRead as _, Read as _, Write as _};
    let upstream = port_of(server);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
                let (mut line, mut length) = (String::new(), 0);
                reader.read_line(&mut line).unwrap();
                let mut words = line.split_whitespace().map(str::to_owned);
                let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                loop {
                    let mut header = String::new();
                    reader.read_line(&mut header).unwrap();
                    let header = header.trim();
                    if header.is_empty() {
                        break;
                    }
                    let (name, value) = header.split_once(':').unwrap();
                    if name.eq_ignore_ascii_case("content-length") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let body = String::from_utf8(body).unwrap();
                if answer.0 == 0 && body.contains(needle) {
                    // Until whoever asked hangs up.
                    let _ = reader.read(&mut [0]);
                    return;
                }
                let (status, text) = if body.contains(needle) {
                    (answer.0, answer.1.to_owned())
                } else {
                    (200, http(upstream, &method, &path, &body).unwrap_or_default())
                };
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                    text.len()
                );
            });
        }
    });
    format!("http://127.0.0.1:{port}/v1")
}
