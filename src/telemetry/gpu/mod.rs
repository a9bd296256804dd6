//! The GPUs of the job: which they are, and what they do, sampled once a second on a thread of its own.
//!
//! A GPU counts from the beginning to the end as held, whether it is busy or not, and whether it still answers or not.
//! What cannot be measured is absent, never zero.

mod figures;
mod nvml;
mod select;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

pub use figures::{GpuFigures, GpuNow};

use super::metrics;
use crate::model::ledger::{GpuHeld, GpuSource};
use figures::Figures;

/// The environment variable that names another library in place of the driver's `libnvidia-ml.so.1`.
pub const LIBRARY_VARIABLE: &str = "QAFLOW_NVML_LIBRARY";
/// The time between two samples.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// How long the library may take to start. Without persistence mode a driver wakes each GPU first, about two seconds
/// each.
const START_WITHIN: Duration = Duration::from_secs(30);

/// Which GPUs a run counts: `telemetry.gpu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuMode {
    /// Those of this job on this machine, asked of the NVIDIA management library; none without it.
    #[default]
    Auto,
    /// None.
    Off,
    /// So many, held elsewhere: the model's server runs there, and this run pays for it.
    Held(u32),
    /// So many that are not there: a rehearsal.
    Simulated(u32),
}

/// One reading of one GPU. What is absent could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// The part of the last moments in which it was busy, 0 to 1.
    pub utilization: Option<f64>,
    /// Memory in use, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Power in watts.
    pub power_watts: Option<f64>,
    /// Temperature in degrees Celsius.
    pub temperature_celsius: Option<f64>,
    /// Energy in joules since the driver was loaded.
    pub energy_joules: Option<f64>,
}

/// Where readings come from.
trait Source {
    /// The next reading of every GPU, in the order in which they were named.
    fn read(&mut self) -> Vec<Reading>;
}

/// How busy the model is, for simulated GPUs: requests under way, and as many as may be.
pub type Load = Arc<dyn Fn() -> (u64, u64) + Send + Sync>;

/// Watches the GPUs until it is dropped.
pub struct GpuMonitor {
    held: Vec<GpuHeld>,
    source: GpuSource,
    shared: Arc<Shared>,
}

struct Shared {
    figures: Mutex<Figures>,
    ended: AtomicBool,
    wake: Condvar,
}

impl GpuMonitor {
    /// Finds the GPUs and begins to sample them; it may block for as long as the driver takes, 30 s at most.
    ///
    /// `environment` looks up a variable: `CUDA_VISIBLE_DEVICES`, `SLURM_STEP_GPUS` and `SLURM_JOB_GPUS` say which
    /// GPUs are the job's.
    pub fn start(mode: GpuMode, load: Load, environment: &dyn Fn(&str) -> Option<String>) -> Self {
        match mode {
            GpuMode::Off => Self::without(GpuSource::None { reason: "telemetry.gpu is none".into() }),
            GpuMode::Held(n) => Self::counted(n, "held", "held by the model's server", 0, GpuSource::Configured),
            GpuMode::Simulated(n) => {
                let (name, memory) = (figures::SIMULATED_NAME, figures::SIMULATED_MEMORY);
                let monitor = Self::counted(n, "simulated", name, memory, GpuSource::Simulated);
                let count = monitor.held.len();
                monitor.sample(move || Some(Box::new(figures::Simulated::new(count, load)) as Box<dyn Source>));
                monitor
            }
            GpuMode::Auto => Self::nvml(environment),
        }
    }

    fn without(source: GpuSource) -> Self {
        Self::new(Vec::new(), source)
    }

    fn counted(n: u32, prefix: &str, name: &str, memory_bytes: u64, source: GpuSource) -> Self {
        let held =
            (0..n).map(|at| GpuHeld { uuid: format!("{prefix}-{at}"), name: name.into(), memory_bytes }).collect();
        Self::new(held, source)
    }

    fn new(held: Vec<GpuHeld>, source: GpuSource) -> Self {
        metrics::gpu_held(held.len());
        let figures = Mutex::new(Figures::new(held.clone()));
        Self { held, source, shared: Arc::new(Shared { figures, ended: AtomicBool::new(false), wake: Condvar::new() }) }
    }

    /// The library's calls block, and a sick driver can block for good: everything happens on the sampler's thread.
    fn nvml(environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let library = environment(LIBRARY_VARIABLE).filter(|path| !path.is_empty());
        let wanted = select::Wanted::of(environment);
        let shared = Arc::new(Shared {
            figures: Mutex::new(Figures::new(Vec::new())),
            ended: AtomicBool::new(false),
            wake: Condvar::new(),
        });
        let (found, finding) = mpsc::sync_channel(1);
        let inner = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("gpu".into()).spawn(move || {
            let outcome = nvml::open(library.as_deref()).and_then(|nvml| {
                let devices = nvml::devices(&nvml, &wanted)?;
                // Who asked may have given up.
                let held: Vec<GpuHeld> = devices.iter().map(nvml::Known::held).collect();
                *inner.figures.lock().unwrap_or_else(PoisonError::into_inner) = Figures::new(held.clone());
                let _ = found.send(Ok(held));
                let mut source = nvml::Sampler::new(&nvml, devices);
                run(&inner, &mut source);
                Ok(())
            });
            if let Err(reason) = outcome {
                let _ = found.send(Err(reason));
            }
        });
        let outcome = match thread {
            Ok(_) => finding
                .recv_timeout(START_WITHIN)
                .unwrap_or_else(|_| Err(format!("the NVIDIA library did not answer in {} s", START_WITHIN.as_secs()))),
            Err(error) => Err(format!("its thread cannot be started: {error}")),
        };
        match outcome {
            Ok(held) if held.is_empty() => {
                shared.end();
                tracing::info!("no GPU of this machine belongs to the job: no GPU time is counted");
                Self::without(GpuSource::None { reason: "no GPU of this machine belongs to the job".into() })
            }
            Ok(held) => {
                metrics::gpu_held(held.len());
                let names: Vec<&str> = held.iter().map(|gpu| gpu.name.as_str()).collect();
                tracing::info!("{} GPU(s) held: {}", held.len(), names.join(", "));
                Self { held, source: GpuSource::Nvml, shared }
            }
            Err(reason) => {
                shared.end();
                tracing::info!(
                    "no GPU figures: {reason}; where the model's server holds GPUs elsewhere, say how many with \
                     `telemetry.gpu: {{held: N}}`"
                );
                Self::without(GpuSource::None { reason })
            }
        }
    }

    /// Samples on a thread; without one there are no figures, and the run goes on.
    fn sample(&self, open: impl FnOnce() -> Option<Box<dyn Source>> + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("gpu".into()).spawn(move || {
            if let Some(mut source) = open() {
                run(&shared, source.as_mut());
            }
        });
        if let Err(error) = thread {
            tracing::warn!("no GPU figures: the sampler's thread cannot be started: {error}");
        }
    }

    /// The GPUs held.
    pub fn held(&self) -> &[GpuHeld] {
        &self.held
    }

    /// Where the knowledge about them comes from.
    pub fn source(&self) -> &GpuSource {
        &self.source
    }

    /// What was measured so far.
    pub fn figures(&self) -> GpuFigures {
        self.shared.figures.lock().unwrap_or_else(PoisonError::into_inner).figures()
    }
}

impl Drop for GpuMonitor {
    fn drop(&mut self) {
        // The thread is not waited for: a sick driver may hold it.
        self.shared.end();
    }
}

impl Shared {
    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.wake.notify_all();
    }
}

/// Reads once a second until the end.
fn run(shared: &Shared, source: &mut dyn Source) {
    let mut last = Instant::now();
    let mut known: Vec<[bool; 4]> = Vec::new();
    while !shared.ended.load(Ordering::Relaxed) {
        let readings = source.read();
        let now = Instant::now();
        let mut figures = shared.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.take(&readings, now.duration_since(last));
        last = now;
        known.resize(readings.len(), [false; 4]);
        for ((gpu, reading), known) in figures.held().iter().zip(&readings).zip(&mut known) {
            publish(gpu, reading, known);
        }
        for (gpu, joules) in figures.energies() {
            metrics::gpu_energy(gpu, joules);
        }
        let _ = shared.wake.wait_timeout_while(figures, SAMPLE_EVERY, |_| !shared.ended.load(Ordering::Relaxed));
    }
}

/// Publishes a reading. A value that was never there has no series; one that is there no more is not a number, so that
/// the last one does not stand still.
fn publish(gpu: &GpuHeld, reading: &Reading, known: &mut [bool; 4]) {
    let values = [
        reading.utilization,
        reading.memory_used_bytes.map(|bytes| bytes as f64),
        reading.power_watts,
        reading.temperature_celsius,
    ];
    for ((value, known), set) in values.into_iter().zip(known).zip(metrics::GPU_LEVELS) {
        *known |= value.is_some();
        if *known {
            set(&gpu.uuid, value.unwrap_or(f64::NAN));
        }
    }
    if gpu.memory_bytes > 0 {
        metrics::gpu_memory_total(&gpu.uuid, gpu.memory_bytes as f64);
    }
}
