//! What the readings of an attempt's GPUs add up to; and simulated readings for rehearsals.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Load, Reading, Source};
use crate::model::ledger::GpuHeld;

/// What was measured in this attempt. What is absent could not be measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuFigures {
    /// Mean utilisation over all GPUs and readings, 0 to 1.
    pub utilization_mean: Option<f64>,
    /// The most memory in use on one GPU, in bytes.
    pub memory_max_bytes: Option<u64>,
    /// Energy of all GPUs since the attempt began, in joules.
    pub energy_joules: Option<f64>,
    /// The GPUs now.
    pub now: Vec<GpuNow>,
}

/// A GPU at its last reading.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuNow {
    /// Its UUID.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// Utilisation, 0 to 1.
    pub utilization: Option<f64>,
    /// Memory in use, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Its memory, in bytes; 0 if unknown.
    pub memory_bytes: u64,
    /// Power in watts.
    pub power_watts: Option<f64>,
    /// Temperature in degrees Celsius.
    pub temperature_celsius: Option<f64>,
}

/// Adds readings up.
#[derive(Debug)]
pub(super) struct Figures {
    gpus: Vec<Gpu>,
    utilization: (f64, u64),
    memory_max: Option<u64>,
    held: Vec<GpuHeld>,
}

#[derive(Clone, Debug, Default)]
struct Gpu {
    last: Reading,
    /// The counter at its first reading, and at the latest.
    counted: Option<(f64, f64)>,
    /// Power times time, for a GPU without a counter.
    integrated: Option<f64>,
}

impl Figures {
    pub(super) fn new(held: Vec<GpuHeld>) -> Self {
        Self { gpus: vec![Gpu::default(); held.len()], utilization: (0.0, 0), memory_max: None, held }
    }

    pub(super) fn held(&self) -> &[GpuHeld] {
        &self.held
    }

    /// Takes one reading of each GPU, `since` after the one before.
    pub(super) fn take(&mut self, readings: &[Reading], since: Duration) {
        for (gpu, reading) in self.gpus.iter_mut().zip(readings) {
            if let Some(part) = reading.utilization {
                self.utilization.0 += part;
                self.utilization.1 += 1;
            }
            self.memory_max = self.memory_max.max(reading.memory_used_bytes);
            if let Some(joules) = reading.energy_joules {
                let (first, last) = gpu.counted.unwrap_or((joules, joules));
                // A counter that went back began anew with its driver: what it had before is kept.
                gpu.counted = Some(if joules < last { (first - last, joules) } else { (first, joules) });
            }
            if let Some(watts) = reading.power_watts {
                // The mean of both ends of the time between; the first reading has no time before it.
                let before = gpu.last.power_watts;
                let joules = before.map_or(0.0, |before| f64::midpoint(before, watts) * since.as_secs_f64());
                *gpu.integrated.get_or_insert(0.0) += joules;
            }
            gpu.last = *reading;
        }
    }

    /// Energy by GPU in joules, of those that tell.
    pub(super) fn energies(&self) -> impl Iterator<Item = (&str, f64)> {
        self.held.iter().zip(&self.gpus).filter_map(|(held, gpu)| Some((held.uuid.as_str(), gpu.energy()?)))
    }

    pub(super) fn figures(&self) -> GpuFigures {
        let (sum, count) = self.utilization;
        let energies: Vec<f64> = self.energies().map(|(_, joules)| joules).collect();
        GpuFigures {
            utilization_mean: (count > 0).then(|| sum / count as f64),
            memory_max_bytes: self.memory_max,
            energy_joules: (!energies.is_empty()).then(|| energies.iter().sum()),
            now: self
                .held
                .iter()
                .zip(&self.gpus)
                .map(|(held, gpu)| GpuNow {
                    uuid: held.uuid.clone(),
                    name: held.name.clone(),
                    utilization: gpu.last.utilization,
                    memory_used_bytes: gpu.last.memory_used_bytes,
                    memory_bytes: held.memory_bytes,
                    power_watts: gpu.last.power_watts,
                    temperature_celsius: gpu.last.temperature_celsius,
                })
                .collect(),
        }
    }
}

impl Gpu {
    fn energy(&self) -> Option<f64> {
        self.counted.map(|(first, last)| last - first).or(self.integrated)
    }
}

/// The name of a simulated GPU.
pub(super) const SIMULATED_NAME: &str = "simulated GPU";
/// The memory of a simulated GPU: that of an A100 with 80 GB, in bytes.
pub(super) const SIMULATED_MEMORY: u64 = 80 << 30;
/// What vLLM takes of it as it comes (`--gpu-memory-utilization 0.9`).
const SIMULATED_MEMORY_USED: u64 = SIMULATED_MEMORY / 10 * 9;
/// An A100's power when idle and at its limit, in watts (NVIDIA's data sheet of the SXM4 module: 400 W).
const SIMULATED_IDLE_WATTS: f64 = 60.0;
const SIMULATED_FULL_WATTS: f64 = 400.0;

/// GPUs that are not there: as busy as the slots of the model.
pub(super) struct Simulated {
    count: usize,
    load: Load,
    energy: f64,
    last: Instant,
}

impl Simulated {
    pub(super) fn new(count: usize, load: Load) -> Self {
        Self { count, load, energy: 0.0, last: Instant::now() }
    }

    fn reading(busy: f64, energy: f64) -> Reading {
        Reading {
            utilization: Some(busy),
            memory_used_bytes: Some(SIMULATED_MEMORY_USED),
            power_watts: Some(SIMULATED_IDLE_WATTS + busy * (SIMULATED_FULL_WATTS - SIMULATED_IDLE_WATTS)),
            temperature_celsius: Some((35.0 + 40.0 * busy).round()),
            energy_joules: Some(energy),
        }
    }
}

impl Source for Simulated {
    fn read(&mut self) -> Vec<Reading> {
        let (in_flight, slots) = (self.load)();
        let busy = if slots == 0 { 0.0 } else { (in_flight as f64 / slots as f64).min(1.0) };
        let since = self.last.elapsed();
        self.last += since;
        let watts = Self::reading(busy, 0.0).power_watts.unwrap_or(0.0);
        self.energy += watts * since.as_secs_f64();
        vec![Self::reading(busy, self.energy); self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Figures {
        Figures::new(["a", "b"].map(|uuid| GpuHeld { uuid: uuid.into(), name: "x".into(), memory_bytes: 10 }).to_vec())
    }

    #[test]
    fn readings_add_up() {
        let mut figures = two();
        let second = Duration::from_secs(1);
        let counted = |utilization, memory, joules| Reading {
            utilization: Some(utilization),
            memory_used_bytes: Some(memory),
            energy_joules: Some(joules),
            ..Reading::default()
        };
        let powered = |watts| Reading { power_watts: Some(watts), ..Reading::default() };
        figures.take(&[counted(0.5, 3, 1_000.0), powered(100.0)], second);
        figures.take(&[counted(1.0, 5, 1_250.0), powered(200.0)], second * 2);
        let sum = figures.figures();
        assert_eq!((sum.utilization_mean, sum.memory_max_bytes), (Some(0.75), Some(5)));
        assert_eq!(sum.energy_joules, Some(250.0 + 300.0));
        // One is lost: what it had counts, and its values are absent, not zero.
        figures.take(&[Reading::default(), powered(200.0)], second);
        let sum = figures.figures();
        assert_eq!(sum.energy_joules, Some(250.0 + 500.0));
        assert_eq!((sum.utilization_mean, sum.now[0].utilization), (Some(0.75), None));
    }

    #[test]
    fn a_counter_that_began_anew_loses_nothing() {
        let mut figures = two();
        for joules in [900.0, 1_000.0, 10.0, 40.0] {
            let reading = Reading { energy_joules: Some(joules), ..Reading::default() };
            figures.take(&[reading], Duration::from_secs(1));
        }
        // A hundred, then forty since it began anew.
        assert_eq!(figures.figures().energy_joules, Some(140.0));
    }

    #[test]
    fn nothing_measured_is_absent() {
        let figures = two().figures();
        assert_eq!((figures.utilization_mean, figures.memory_max_bytes, figures.energy_joules), (None, None, None));
        assert_eq!(figures.now.len(), 2);
    }

    #[test]
    fn simulated_gpus_follow_the_slots() {
        let half = Simulated::reading(0.5, 7.0);
        assert_eq!(
            (half.utilization, half.power_watts, half.temperature_celsius),
            (Some(0.5), Some(230.0), Some(55.0))
        );
        let mut gpus = Simulated::new(3, std::sync::Arc::new(|| (40, 20)));
        let readings = gpus.read();
        assert_eq!((readings.len(), readings[2].utilization), (3, Some(1.0)));
    }
}
