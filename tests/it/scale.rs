//! What a corpus costs beside the model: measured by hand, for docs/scale.md.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use qaflow::store::{OpenOptions, SledStore, disk_bytes};

use crate::support::{Place, Server, http, qaflow, write_document};

const SLOTS: usize = 64;
const SHARES: u32 = 4;

/// How long a command took, and the most memory that it had in MiB.
struct Cost {
    seconds: f64,
    peak: u64,
}

fn cost(command: &mut Command, mut meanwhile: impl FnMut()) -> Cost {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    let status = loop {
        peak = peak.max(kilobytes(&format!("/proc/{}/status", child.id()), "VmHWM:"));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        meanwhile();
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{command:?}");
    Cost { seconds: began.elapsed().as_secs_f64(), peak: peak >> 10 }
}

fn kilobytes(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

fn files(folder: &Path) -> usize {
    walkdir::WalkDir::new(folder).into_iter().flatten().filter(|entry| entry.file_type().is_file()).count()
}

fn command(place: &Place, name: &str, state: &str) -> Cost {
    let mut args = vec![name, "--state", state];
    if name == "export" {
        args.extend(["--out", "exported"]);
    }
    cost(&mut qaflow(&place.path(""), &args), || ())
}

/// Runs a corpus and prints a row: what it left behind, and what the commands take.
fn measure(place: &Place, server: &Server, documents: usize, paragraphs: usize) {
    let corpus = place.path("corpus");
    let _ = std::fs::remove_dir_all(&corpus);
    for name in ["state", "out", "exported"] {
        let _ = std::fs::remove_dir_all(place.path(name));
    }
    place.corpus(documents, paragraphs);
    place.config(server, SLOTS);
    let before = server.requests().arrived.len();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let metrics = format!("telemetry.prometheus=127.0.0.1:{port}");
    let (mut series, mut asked) = (0, Instant::now());
    let run = cost(&mut qaflow(&place.path(""), &["run", "run.yaml", "--set", &metrics]), || {
        if asked.elapsed() > Duration::from_secs(1) {
            asked = Instant::now();
            let text = http(port, "GET", "/metrics", "").unwrap_or_default();
            series = series.max(text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count());
        }
    });
    let calls = server.requests().arrived.len() - before;
    let state = place.path("state");
    let verified = command(place, "verify", "state");
    let exported = command(place, "export", "state");
    let status = command(place, "status", "state");
    let (own, began) = (kilobytes("/proc/self/status", "VmRSS:"), Instant::now());
    let store = SledStore::open(&state, OpenOptions::default()).unwrap().0;
    let (opening, more) = (began.elapsed().as_secs_f64(), kilobytes("/proc/self/status", "VmRSS:").saturating_sub(own));
    drop(store);
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("exported/manifest.json")).unwrap()).unwrap();
    println!(
        "| {documents} | {} | {} | {calls} | {:.0} | {} | {} | {} | {} | {} | {opening:.2} | {} | {:.1} | {} | {:.1} | {} | {:.2} | {series} |",
        manifest["stages"]["chunk"]["emitted"],
        manifest["pairs_accepted"],
        run.seconds,
        run.peak,
        disk_bytes(&state.join("db")).unwrap() >> 20,
        disk_bytes(&state.join("texts")).unwrap() >> 20,
        disk_bytes(&place.path("exported")).unwrap() >> 20,
        files(&state),
        more >> 10,
        verified.seconds,
        verified.peak,
        exported.seconds,
        exported.peak,
        status.seconds,
    );
}

/// Listing and hashing small files, which no model waits for.
fn listing(place: &Place, count: usize) {
    let root = place.path("many");
    for n in 0..count {
        let folder = root.join(format!("{:04}", n / 1000));
        if n % 1000 == 0 {
            std::fs::create_dir_all(&folder).unwrap();
        }
        write_document(&folder, n, 1);
    }
    let began = Instant::now();
    let listing = qaflow::sources::discover(std::slice::from_ref(&root), None).unwrap();
    let listed = began.elapsed().as_secs_f64();
    let bytes: u64 = listing.files().iter().map(|file| file.bytes).sum();
    let began = Instant::now();
    assert_eq!(listing.documents().flatten().count(), count);
    let hashed = began.elapsed().as_secs_f64();
    println!(
        "{count} files of {} bytes: listed in {listed:.2} s ({:.0}/s), hashed in {hashed:.2} s ({:.0}/s)",
        bytes / count as u64,
        count as f64 / listed,
        count as f64 / hashed
    );
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
#[ignore = "a measurement of some minutes: cargo test --release --test it -- --ignored scale --nocapture"]
fn what_grows_with_the_corpus() {
    let documents: usize = std::env::var("QAFLOW_SCALE").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let place = Place::new();
    listing(&place, documents * 10);
    let server = Server::start(&["--latency-ms", "0", "--slots", "64"]);
    println!(
        "| documents | chunks | pairs | calls | run s | run MiB | db MiB | texts MiB | results MiB | files | open s | open MiB \
         | verify s | verify MiB | export s | export MiB | status s | series |"
    );
    measure(&place, &server, documents / 40, 40);
    measure(&place, &server, documents / 4, 1);
    measure(&place, &server, documents, 1);

    // The last of them in shares.
    for share in 0..SHARES {
        let share = format!("{share}/{SHARES}");
        cost(&mut qaflow(&place.path(""), &["run", "run.yaml", "--shard", &share]), || ());
    }
    for name in ["status", "verify", "export"] {
        let whole = command(&place, name, "state");
        let shares = command(&place, name, "state-*-of-4");
        println!(
            "{name}: one state {:.2} s, {} MiB; {SHARES} shares {:.2} s, {} MiB",
            whole.seconds, whole.peak, shares.seconds, shares.peak
        );
    }
}
