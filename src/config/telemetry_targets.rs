//! The keys under `telemetry` that say where metrics are read, announced and handed to.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::forms::{optional_path, wrong};
use crate::model::params::{Reader, Value};
use crate::telemetry::push::Gateway;

/// Where metrics go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TelemetryTargets {
    /// Where Prometheus reads the metrics; `None`: nowhere. Port 0 lets the system choose.
    pub prometheus: Option<SocketAddr>,
    /// The file, or the folder of the file, by which Prometheus finds the run.
    pub file_sd: Option<PathBuf>,
    /// The Pushgateway that the final values are handed to.
    pub pushgateway: Option<Gateway>,
    /// Whether the model servers' own figures are read and shown among the metrics.
    pub vllm_metrics: bool,
}

impl TelemetryTargets {
    /// Whether anything wants metrics at all.
    pub fn any(&self) -> bool {
        self.prometheus.is_some() || self.pushgateway.is_some()
    }
}

/// Reads the keys; the reader is that of the `telemetry` section.
pub(super) fn read_targets(r: &mut Reader<'_>) -> TelemetryTargets {
    let prometheus = address(r);
    let file_sd = optional_path(
        r,
        "file_sd",
        "none",
        "a folder (or a .json file) for Prometheus' file discovery: the run writes its address and labels there while \
         it works",
    );
    if file_sd.is_some() && prometheus.is_none() {
        r.fault("file_sd", format!("{} needs telemetry.prometheus, the address to announce", r.path_of("file_sd")));
    }
    let pushgateway = r
        .optional_text(
            "pushgateway",
            "none",
            "the address of a Pushgateway, as in http://pushgateway:9091, that gets the final values when the run ends; \
             http only",
        )
        .and_then(|url| match Gateway::parse(&url) {
            Ok(gateway) => Some(gateway),
            Err(fault) => {
                r.fault("pushgateway", format!("{} {fault}", r.path_of("pushgateway")));
                None
            }
        });
    let vllm_metrics = r.bool(
        "vllm_metrics",
        false,
        "reads /metrics of the model servers every 5 s and shows their queue and caches among the metrics; for where \
         Prometheus cannot read them itself",
    );
    TelemetryTargets { prometheus, file_sd, pushgateway, vllm_metrics }
}

fn address(r: &mut Reader<'_>) -> Option<SocketAddr> {
    let form = "off, or an address to listen at, as in 127.0.0.1:9464 or 0.0.0.0:9464";
    let node = r.raw("prometheus", form, "off", "where Prometheus reads the metrics; port 0 lets the system choose")?;
    match &node.value {
        Value::Bool(false) => None,
        Value::Text(text) if text == "off" => None,
        Value::Text(text) if text.parse::<SocketAddr>().is_ok() => text.parse().ok(),
        _ => {
            wrong(r, "prometheus", node, form);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::yaml;

    fn read(text: &str) -> (TelemetryTargets, Vec<String>) {
        let (mut faults, mut documented) = (Vec::new(), Vec::new());
        let file: Arc<str> = "/c/run.yaml".into();
        let lookup = |_: &str| Err(std::env::VarError::NotPresent);
        let tree = yaml::parse(&file, text.as_bytes(), &lookup, &mut faults).unwrap();
        let mut reader = Reader::new(&tree, "telemetry", &mut faults, &mut documented);
        let targets = read_targets(&mut reader);
        reader.finish();
        (targets, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn all_keys_are_read() {
        let (targets, faults) =
            read("prometheus: 0.0.0.0:0\nfile_sd: ../targets\npushgateway: http://push:9091\nvllm_metrics: true\n");
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(targets.prometheus, "0.0.0.0:0".parse().ok());
        assert_eq!(targets.file_sd, Some("/c/../targets".into()));
        assert_eq!(targets.pushgateway, Gateway::parse("http://push:9091").ok());
        assert!(targets.vllm_metrics && targets.any());
        assert!(!read("prometheus: off\n").0.any());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let (_, faults) = read("prometheus: 9464\nfile_sd: x\npushgateway: https://push\nvllm_metrics: 1\n");
        insta::assert_snapshot!(faults.join("\n"), @r"
        /c/run.yaml:1: telemetry.prometheus must be off, or an address to listen at, as in 127.0.0.1:9464 or 0.0.0.0:9464, not 9464
        /c/run.yaml:2: telemetry.file_sd needs telemetry.prometheus, the address to announce
        /c/run.yaml:3: telemetry.pushgateway must begin with http://: nothing else is spoken
        /c/run.yaml:4: telemetry.vllm_metrics must be true or false, not 1
        ");
    }
}
