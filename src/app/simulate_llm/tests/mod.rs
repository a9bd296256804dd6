//! Tests of the server as a whole, over TCP: a small client for all of them.

mod faults;
mod flow;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const SOURCE: &str = "The plan covers up to 60 home health visits per calendar year for members over 21 years of age. \
    Prior authorization is required for each skilled nursing visit after the tenth one.";

/// Options without waiting.
fn fast() -> SimOptions {
    SimOptions { latency_ms: 0.0, jitter: 0.0, bad_pairs: 0.0, ..SimOptions::default() }
}

async fn start(options: SimOptions) -> SimHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    serve(listener, options, std::future::pending()).await.unwrap()
}

/// A response as it came.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
    fn content(&self) -> String {
        self.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }
}

/// A connection that can carry several requests.
struct Client(TcpStream);

impl Client {
    async fn new(sim: &SimHandle) -> Self {
        Self(TcpStream::connect(sim.address()).await.unwrap())
    }

    async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        text.push_str(body);
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn receive(&mut self) -> std::io::Result<Reply> {
        let mut bytes = Vec::new();
        let (head, length) = loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let length: usize =
                    head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
                if bytes.len() >= end + 4 + length {
                    break (head, length);
                }
            }
            if self.0.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        };
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        Ok(Reply {
            status: head[9..12].parse().unwrap(),
            headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            body: String::from_utf8(bytes[bytes.len() - length..].to_vec()).unwrap(),
        })
    }

    async fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> std::io::Result<Reply> {
        self.send(method, path, headers, body).await;
        self.receive().await
    }
}

async fn get(sim: &SimHandle, path: &str) -> Reply {
    Client::new(sim).await.call("GET", path, &[], "").await.unwrap()
}

/// Posts to the chat endpoint on a connection of its own.
async fn chat(sim: &SimHandle, id: &str, body: &Value) -> std::io::Result<Reply> {
    Client::new(sim).await.call("POST", "/v1/chat/completions", &[("x-request-id", id)], &body.to_string()).await
}

fn ask(text: &str) -> Value {
    json!({"model": "simulated", "messages": [{"role": "user", "content": text}]})
}

fn ask_pairs(source: &str, extra: &str) -> Value {
    let user =
        format!("# Document\nT\n\n# Source\n<source id=\"ab\">\n{source}\n</source id=\"ab\">\n\nWrite pairs.{extra}");
    json!({"model": "simulated", "max_completion_tokens": 1000,
        "messages": [{"role": "system", "content": "You write."}, {"role": "user", "content": user}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "qa_pairs", "strict": true, "schema":
            {"type": "object", "properties": {"pairs": {"type": "array", "minItems": 1, "maxItems": 2, "items":
                {"type": "object", "properties": {"question_type": {"type": "string", "enum": ["factual"]}}}}}}}}})
}

async fn wait_for(what: &str, mut met: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !met() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn log_lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
