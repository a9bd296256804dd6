//! The NVIDIA management library: the only user of nvml-wrapper. It blocks, so it is called on the sampler's thread.

use std::ffi::OsStr;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::select::{Wanted, select};
use super::{Reading, Source};
use crate::model::ledger::GpuHeld;

/// The names under which drivers install the library. The one without a version comes with the developer's files
/// only, which few nodes have.
const NAMES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// Loads the library: the one named, else the driver's.
pub(super) fn open(named: Option<&str>) -> Result<Nvml, String> {
    let mut why = String::new();
    for name in named.map_or(NAMES.to_vec(), |named| vec![named]) {
        match Nvml::builder().lib_path(OsStr::new(name)).init() {
            Ok(nvml) => return Ok(nvml),
            Err(NvmlError::LibloadingError(error)) => {
                why = match named {
                    Some(name) => format!("the NVIDIA library {name} cannot be loaded ({error})"),
                    None => "this machine has no NVIDIA driver library (libnvidia-ml.so.1)".into(),
                };
            }
            Err(error) => return Err(format!("the NVIDIA library does not start: {error}")),
        }
    }
    Err(why)
}

/// A GPU of the job.
pub(super) struct Known<'n> {
    device: Device<'n>,
    held: GpuHeld,
}

impl Known<'_> {
    pub(super) fn held(&self) -> GpuHeld {
        self.held.clone()
    }
}

/// The job's GPUs.
pub(super) fn devices<'n>(nvml: &'n Nvml, wanted: &Wanted) -> Result<Vec<Known<'n>>, String> {
    let count = nvml.device_count().map_err(|error| format!("the NVIDIA library does not count GPUs: {error}"))?;
    let mut found = Vec::new();
    for index in 0..count {
        // Those that the job may not use answer with `no permission` here, and do not count.
        match nvml.device_by_index(index) {
            Ok(device) => found.push(device),
            Err(NvmlError::NoPermission) => {}
            Err(error) => tracing::warn!("GPU {index} does not answer and is not counted: {error}"),
        }
    }
    let uuids: Vec<String> =
        found.iter().enumerate().map(|(at, gpu)| gpu.uuid().unwrap_or_else(|_| format!("gpu-{at}"))).collect();
    let mut known: Vec<Known<'n>> = Vec::new();
    let mut add = |device: Device<'n>, uuid: String| {
        let held = GpuHeld {
            uuid,
            name: device.name().unwrap_or_else(|_| "unknown GPU".into()),
            memory_bytes: device.memory_info().map_or(0, |memory| memory.total),
        };
        known.push(Known { device, held });
    };
    let chosen = select(wanted, &uuids);
    if let Wanted::Cuda(entries) = wanted {
        // Slices of a GPU as newer drivers name them are devices of their own, known by their UUID alone.
        for slice in entries.iter().filter(|entry| entry.starts_with("MIG-") && !entry.starts_with("MIG-GPU-")) {
            if let Ok(device) = nvml.device_by_uuid(slice.as_str()) {
                add(device, slice.clone());
            }
        }
    }
    let mut places: Vec<Option<Device<'n>>> = found.into_iter().map(Some).collect();
    for at in chosen {
        if let Some(device) = places[at].take() {
            add(device, uuids[at].clone());
        }
    }
    Ok(known)
}

/// Reads the job's GPUs.
pub(super) struct Sampler<'n> {
    devices: Vec<Known<'n>>,
    missing: Vec<Missing>,
}

/// What was said of one GPU, each thing once.
#[derive(Clone, Default)]
struct Missing {
    values: Vec<&'static str>,
    lost: bool,
}

impl<'n> Sampler<'n> {
    /// Of these devices of `_nvml`, which it must outlive.
    pub(super) fn new(_nvml: &'n Nvml, devices: Vec<Known<'n>>) -> Self {
        let missing = vec![Missing::default(); devices.len()];
        Self { devices, missing }
    }
}

impl Source for Sampler<'_> {
    fn read(&mut self) -> Vec<Reading> {
        self.devices.iter().zip(&mut self.missing).map(|(gpu, missing)| read(gpu, missing)).collect()
    }
}

fn read(gpu: &Known<'_>, missing: &mut Missing) -> Reading {
    let uuid = &gpu.held.uuid;
    let was_lost = missing.lost;
    missing.lost = false;
    let device = &gpu.device;
    let reading = Reading {
        utilization: value(uuid, "utilisation", missing, device.utilization_rates())
            .map(|rates| f64::from(rates.gpu.min(100)) / 100.0),
        memory_used_bytes: value(uuid, "memory", missing, device.memory_info()).map(|memory| memory.used),
        power_watts: value(uuid, "power", missing, device.power_usage()).map(|milliwatts| f64::from(milliwatts) / 1e3),
        temperature_celsius: value(uuid, "temperature", missing, device.temperature(TemperatureSensor::Gpu))
            .map(f64::from),
        energy_joules: value(uuid, "energy", missing, device.total_energy_consumption())
            .map(|millijoules| millijoules as f64 / 1e3),
    };
    match (was_lost, missing.lost) {
        (false, true) => tracing::warn!(
            "GPU {uuid} ({}) no longer answers: its figures are absent from now on; it still counts as held",
            gpu.held.name
        ),
        (true, false) => tracing::info!("GPU {uuid} ({}) answers again", gpu.held.name),
        _ => {}
    }
    reading
}

/// A value if it can be read. Why it cannot is said once for each GPU.
fn value<T>(uuid: &str, name: &'static str, missing: &mut Missing, read: Result<T, NvmlError>) -> Option<T> {
    let error = match read {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    if matches!(error, NvmlError::GpuLost | NvmlError::ResetRequired) {
        missing.lost = true;
    } else if !missing.values.contains(&name) {
        missing.values.push(name);
        let detail = match &error {
            NvmlError::FailedToLoadSymbol(_) => "this driver is too old to tell".to_owned(),
            NvmlError::NotSupported => "this GPU does not tell".to_owned(),
            NvmlError::NoPermission => "this user may not ask".to_owned(),
            other => other.to_string(),
        };
        tracing::info!("GPU {uuid}: no {name}: {detail}");
    }
    None
}
