//! The run file's section `telemetry`, its part about GPUs: which are counted.

use super::forms::wrong;
use crate::model::params::{Node, Reader, Value};
use crate::telemetry::gpu::GpuMode;

/// The most GPUs that a run may be said to hold: the ledger names each one in a record of at most 64 KiB.
const MOST_GPUS: i64 = 256;

/// What is measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TelemetryConfig {
    /// Which GPUs are counted.
    pub gpu: GpuMode,
}

/// Reads its part of the section.
pub(super) fn read(r: &mut Reader<'_>) -> TelemetryConfig {
    TelemetryConfig { gpu: gpu(r) }
}

fn gpu(r: &mut Reader<'_>) -> GpuMode {
    let form = "auto, none, {held: N} or {simulated: N}";
    let meaning = "the GPUs whose time is counted: `auto`, those of this job on this machine, asked of the NVIDIA \
                   library; `{held: N}`, so many that the model's server holds elsewhere; `{simulated: N}`, for \
                   rehearsals: figures that are not real and say so";
    let Some(node) = r.raw("gpu", form, "auto", meaning) else { return GpuMode::Auto };
    match &node.value {
        Value::Text(text) if text == "auto" => GpuMode::Auto,
        Value::Text(text) if text == "none" || text == "off" => GpuMode::Off,
        Value::Bool(false) => GpuMode::Off,
        Value::Map(entries) if entries.len() == 1 => {
            let (key, count) = &entries[0];
            match (key.name.as_str(), number(count)) {
                ("held", Some(n)) => GpuMode::Held(n),
                ("simulated", Some(n)) => GpuMode::Simulated(n),
                ("held" | "simulated", None) => {
                    let message = format!(
                        "{}.{} must be a number of GPUs from 1 to {MOST_GPUS}, not {}",
                        r.path_of("gpu"),
                        key.name,
                        shown(count)
                    );
                    r.fault("gpu", message);
                    GpuMode::Auto
                }
                _ => {
                    let message = format!("{} must be {form}: `{}` is unknown", r.path_of("gpu"), key.name);
                    r.fault("gpu", message);
                    GpuMode::Auto
                }
            }
        }
        _ => {
            wrong(r, "gpu", node, form);
            GpuMode::Auto
        }
    }
}

fn number(node: &Node) -> Option<u32> {
    match node.value {
        Value::Int(n) if (1..=MOST_GPUS).contains(&n) => u32::try_from(n).ok(),
        _ => None,
    }
}

fn shown(node: &Node) -> String {
    match &node.value {
        Value::Int(n) => n.to_string(),
        Value::Float(n) => n.to_string(),
        Value::Text(text) => format!("\"{text}\""),
        other => other.kind().into(),
    }
}
