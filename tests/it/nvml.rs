//! The GPUs as the program sees them through a stand-in for NVIDIA's library: figures that are known, a GPU that falls
//! off the bus, values that may not be asked, an old driver, and none.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qaflow::app::ledger::attempts;
use qaflow::model::ledger::{AttemptEnd, AttemptRecord, GpuSource};
use qaflow::store::{OpenOptions, SledStore};

use crate::support::{Place, Server, http, qaflow};

const UUIDS: [&str; 3] = [
    "GPU-00000000-feed-beef-cafe-000000000000",
    "GPU-10000000-feed-beef-cafe-000000000000",
    "GPU-20000000-feed-beef-cafe-000000000000",
];

/// Compiles the stand-in.
fn library(place: &Place, name: &str, options: &[&str]) -> PathBuf {
    let path = place.path(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/nvml/stand_in.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .arg(&path)
        .args(options)
        .arg(source)
        .status()
        .unwrap();
    assert!(status.success(), "the stand-in does not compile");
    path
}

struct Watched {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Watched {
    /// A run of a few seconds with a library.
    fn start(place: &Place, config: &Path, library: &Path, variables: &[(&str, &str)]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (config, log) = (config.display().to_string(), place.path("log"));
        let address = format!("telemetry.prometheus=127.0.0.1:{port}");
        let mut command = qaflow(&place.path(""), &["run", &config, "--set", &address]);
        for name in ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS"] {
            command.env_remove(name);
        }
        let child = command
            .env("QAFLOW_NVML_LIBRARY", library)
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, port, log }
    }

    /// Waits until the metrics say so.
    fn wait(&self, wanted: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let page = http(self.port, "GET", "/metrics", "").unwrap_or_default();
            if wanted(&page) {
                return page;
            }
            let log = std::fs::read_to_string(&self.log).unwrap();
            assert!(began.elapsed() < Duration::from_secs(60), "never seen:\n{page}\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the end; gives the log and the ledger's record.
    fn end(mut self, place: &Place) -> (String, AttemptRecord) {
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let (store, _) = SledStore::open(place.path("state"), OpenOptions::default()).unwrap();
        let records = attempts(&store).unwrap();
        assert_eq!(records.len(), 1);
        (std::fs::read_to_string(&self.log).unwrap(), records[0].clone())
    }
}

fn value(page: &str, metric: &str, gpu: usize) -> Option<f64> {
    let head = format!("{metric}{{gpu=\"{}\"}} ", UUIDS[gpu]);
    page.lines().find_map(|line| line.strip_prefix(&head))?.parse().ok()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * b.abs().max(1.0)
}

#[test]
fn known_figures_are_reported_and_a_gpu_may_vanish() {
    let place = Place::new();
    place.corpus(24, 3);
    let server = Server::start(&["--slots", "8", "--latency-ms", "300"]);
    let config = place.config(&server, 8);
    let library = library(&place, "libnvml-stand-in.so", &[]);
    let (lost, energies) = (place.path("lost"), place.path("energies"));
    // The job has the third GPU by its index, and the first by the beginning of its UUID.
    let run = Watched::start(
        &place,
        &config,
        &library,
        &[
            ("CUDA_VISIBLE_DEVICES", "2,GPU-00"),
            ("STAND_IN_LOST", lost.to_str().unwrap()),
            ("STAND_IN_LOG", energies.to_str().unwrap()),
        ],
    );
    let page = run.wait(|page| {
        page.contains("# HELP qaflow_gpu_seconds_total")
            && value(page, "qaflow_gpu_energy_joules_total", 2).is_some_and(|joules| joules > 0.0)
    });
    for (gpu, index) in [(0, 0.0), (2, 2.0)] {
        assert_eq!(value(&page, "qaflow_gpu_utilization_ratio", gpu), Some((40.0 + 10.0 * index) / 100.0));
        assert_eq!(value(&page, "qaflow_gpu_memory_used_bytes", gpu), Some(1_000_000_001.0 * (index + 1.0)));
        assert_eq!(value(&page, "qaflow_gpu_memory_total_bytes", gpu), Some(17_179_869_184.0 * (index + 1.0)));
        assert_eq!(value(&page, "qaflow_gpu_power_watts", gpu), Some(100.5 + 50.0 * index));
        assert_eq!(value(&page, "qaflow_gpu_temperature_celsius", gpu), Some(50.0 + index));
    }
    assert_eq!(value(&page, "qaflow_gpu_utilization_ratio", 1), None, "the second belongs to others:\n{page}");
    assert!(page.contains("qaflow_gpu_held 2\n"), "{page}");

    std::fs::write(&lost, "").unwrap();
    let page = run.wait(|page| value(page, "qaflow_gpu_utilization_ratio", 2).is_some_and(f64::is_nan));
    assert_eq!(value(&page, "qaflow_gpu_utilization_ratio", 0), Some(0.4));
    assert!(page.contains("qaflow_gpu_held 2\n"), "what is lost is still held:\n{page}");

    let (log, record) = run.end(&place);
    assert_eq!(log.matches("no longer answers").count(), 1, "{log}");
    assert_eq!((&record.gpu_source, &record.end), (&GpuSource::Nvml, &AttemptEnd::Finished));
    let held: Vec<(&str, &str)> = record.gpus.iter().map(|gpu| (gpu.uuid.as_str(), gpu.name.as_str())).collect();
    assert_eq!(held, [(UUIDS[2], "Stand-in A2"), (UUIDS[0], "Stand-in A0")]);
    assert_eq!(record.gpu_memory_max_bytes, Some(3_000_000_003));
    assert!((record.gpu_seconds - 2.0 * record.seconds).abs() < 0.002, "{record:?}");
    // Both counted while the third GPU answered, the first alone after that.
    assert!(record.gpu_utilization_mean.is_some_and(|mean| mean > 0.4 && mean < 0.5), "{record:?}");
    // The counters' last values minus their first; one more reading of the first GPU may have come after the record.
    let read: Vec<(usize, f64)> = std::fs::read_to_string(&energies)
        .unwrap()
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(gpu, millijoules)| (gpu.parse().unwrap(), millijoules.parse::<f64>().unwrap() / 1e3))
        .collect();
    let of = |gpu: usize| read.iter().filter(|(at, _)| *at == gpu).map(|(_, joules)| *joules).collect::<Vec<f64>>();
    let (first, third) = (of(0), of(2));
    let used = third[third.len() - 1] - third[0];
    let possible = [first[first.len() - 1] - first[0] + used, first[first.len() - 2] - first[0] + used];
    let energy = record.energy_joules.unwrap();
    assert!(possible.iter().any(|joules| close(*joules, energy)), "{energy} is none of {possible:?}");
}

#[test]
fn what_an_old_driver_does_not_tell_is_absent() {
    let place = Place::new();
    place.corpus(8, 2);
    let server = Server::start(&["--slots", "8", "--latency-ms", "300"]);
    let config = place.config(&server, 8);
    let old = library(&place, "libnvml-old.so", &["-DOLD"]);
    // One GPU of the node belongs to another job, and the cluster does not say which are this one's.
    let run = Watched::start(&place, &config, &old, &[("STAND_IN_FORBIDDEN", "1")]);
    let page = run.wait(|page| value(page, "qaflow_gpu_power_watts", 0).is_some());
    assert_eq!(value(&page, "qaflow_gpu_memory_used_bytes", 0), None, "absent, not zero:\n{page}");
    let (log, record) = run.end(&place);
    assert_eq!(record.gpus.len(), 2);
    assert_eq!(record.gpu_memory_max_bytes, None);
    // Without a counter, power times time: 100.5 W and 200.5 W, from the first reading to the last.
    let joules = record.energy_joules.unwrap();
    assert!(joules > 0.0 && joules <= 301.0 * record.seconds, "{record:?}");
    assert_eq!(log.matches("no memory: this driver is too old to tell").count(), 2, "{log}");
    assert_eq!(log.matches("no energy: this driver is too old to tell").count(), 2, "{log}");
}

#[test]
fn what_may_not_be_asked_is_absent() {
    let place = Place::new();
    place.corpus(4, 2);
    let server = Server::start(&["--slots", "8", "--latency-ms", "300"]);
    let config = place.config(&server, 8);
    let old = library(&place, "libnvml-old.so", &["-DOLD"]);
    let variables = [("STAND_IN_NO_PERMISSION", "1"), ("SLURM_JOB_GPUS", "1")];
    let run = Watched::start(&place, &config, &old, &variables);
    let page = run.wait(|page| value(page, "qaflow_gpu_temperature_celsius", 1) == Some(51.0));
    assert_eq!(value(&page, "qaflow_gpu_power_watts", 1), None, "{page}");
    let (log, record) = run.end(&place);
    assert_eq!((record.gpus.len(), record.energy_joules, record.gpu_utilization_mean), (1, None, Some(0.5)));
    assert_eq!(log.matches("no power: this user may not ask").count(), 1, "{log}");
}

#[test]
fn without_a_driver_there_are_no_gpu_figures_and_the_run_goes_on() {
    let place = Place::new();
    place.corpus(2, 1);
    let server = Server::start(&["--latency-ms", "50"]);
    let config = place.config(&server, 8);
    let broken = place.path("broken.so");
    std::fs::write(&broken, "no library").unwrap();
    let run = Watched::start(&place, &config, &broken, &[]);
    let (log, record) = run.end(&place);
    assert_eq!(log.matches("no GPU figures: the NVIDIA library").count(), 1, "{log}");
    assert!(matches!(&record.gpu_source, GpuSource::None { reason } if reason.contains("broken.so")), "{record:?}");
    assert_eq!((record.gpus.len(), record.gpu_seconds, record.energy_joules), (0, 0.0, None));
}
