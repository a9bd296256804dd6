//! The simulated server as a process of its own, and its control interface.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long the server may take to listen, and to answer a control request.
const PATIENCE: Duration = Duration::from_secs(20);
/// The task of the start-up probe, which is no work.
const PROBE: &str = "probe";

/// What `GET /sim/stats` says, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Stats {
    /// Seconds since the last reset.
    pub(super) seconds_since_reset: f64,
    /// Seconds that slots were busy, summed over slots.
    pub(super) busy_slot_seconds: f64,
    tasks: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Stats {
    /// Requests answered since the reset, probes aside.
    pub(super) fn answered(&self) -> u64 {
        self.tasks.iter().filter(|(task, _)| *task != PROBE).filter_map(|(_, outcomes)| outcomes.get("ok")).sum()
    }
}

/// A running `qaflow simulate-llm`; it is killed when this is dropped.
pub(super) struct Simulator {
    child: Child,
    address: SocketAddr,
}

impl Simulator {
    /// Starts the server; `folder` takes the file with its port.
    ///
    /// # Errors
    /// If it does not come up.
    pub(super) async fn start(folder: &Path, slots: u32, latency_ms: f64) -> anyhow::Result<Self> {
        let port_file = folder.join("port");
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut child = Command::new(program)
            .args(["simulate-llm", "--port", "0", "--port-file"])
            .arg(&port_file)
            .args(["--slots", &slots.to_string(), "--latency-ms", &latency_ms.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `qaflow simulate-llm`")?;
        let began = Instant::now();
        let port: u16 = loop {
            if let Ok(text) = std::fs::read_to_string(&port_file) {
                break text.trim().parse().context("the simulated server's port")?;
            }
            if let Some(status) = child.try_wait()? {
                bail!("`qaflow simulate-llm` ended at once ({status})");
            }
            if began.elapsed() > PATIENCE {
                bail!("`qaflow simulate-llm` does not listen after {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        Ok(Self { child, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) })
    }

    /// What a client takes as its base URL.
    pub(super) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Its process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Counts from zero again.
    pub(super) async fn reset(&self) -> anyhow::Result<()> {
        self.control("POST /sim/reset").await.map(|_| ())
    }

    /// What it has counted since the last reset.
    pub(super) async fn stats(&self) -> anyhow::Result<Stats> {
        let body = self.control("GET /sim/stats").await?;
        serde_json::from_str(&body).context("the simulated server's statistics cannot be read")
    }

    /// One request over a connection of its own, so that none of it is shared with what is measured.
    async fn control(&self, line: &str) -> anyhow::Result<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            let request =
                format!("{line} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", self.address);
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| anyhow!("the simulated server does not answer {line}"))?
            .with_context(|| format!("the simulated server cannot be asked {line}"))?;
        body_of(&answer).with_context(|| format!("the simulated server's answer to {line}"))
    }
}

fn body_of(answer: &str) -> anyhow::Result<String> {
    let (head, body) = answer.split_once("\r\n\r\n").context("it is cut off")?;
    let status = head.split_ascii_whitespace().nth(1);
    if status != Some("200") {
        bail!("it is {}: {body}", status.unwrap_or("no HTTP"));
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        assert_eq!(body_of("HTTP/1.1 200 OK\r\na: b\r\n\r\n{}").unwrap(), "{}");
        assert_eq!(body_of("HTTP/1.1 404 Not Found\r\na: b\r\n\r\nno").unwrap_err().to_string(), "it is 404: no");
        assert!(body_of("HTTP/1.1 200 OK\r\n").is_err());
    }

    #[test]
    fn probes_and_failures_are_no_answers() {
        let stats: Stats = serde_json::from_str(
            r#"{"seconds_since_reset":1.0,"running":0,"busy_slot_seconds":0.5,"slots":4,
                "tasks":{"probe":{"ok":1},"answer":{"ok":5,"503":2},"scores":{"ok":3}}}"#,
        )
        .unwrap();
        assert_eq!(stats.answered(), 8);
    }
}
