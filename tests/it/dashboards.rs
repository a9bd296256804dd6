//! The dashboards and rules in `grafana/` fit Grafana, Prometheus and the metrics of the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use qaflow::telemetry::catalogue::{CATALOGUE, Kind};
use serde_json::Value;

/// Metrics on no panel, each with the reason.
const NOT_SHOWN: &[(&str, &str)] =
    &[("qaflow_process_start_time_seconds", "marks on all graphs, as an annotation, where attempts begin")];

/// Labels that a target file gives to every series, and those that Prometheus makes.
const TARGET_LABELS: [&str; 6] = ["run_id", "state", "shard", "job", "instance", "le"];

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All dashboards, by file stem.
pub(crate) fn dashboards() -> BTreeMap<String, Value> {
    ["run", "fleet", "benchmarks"]
        .into_iter()
        .map(|name| {
            let text = std::fs::read_to_string(root().join(format!("grafana/dashboards/{name}.json"))).unwrap();
            (name.to_owned(), serde_json::from_str(&text).unwrap())
        })
        .collect()
}

/// The panels that show something: all but the headings.
pub(crate) fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// The expressions of a panel with their legends.
pub(crate) fn expressions(panel: &Value) -> impl Iterator<Item = (&str, &str)> {
    let targets = panel["targets"].as_array().unwrap().iter();
    targets.map(|target| (target["expr"].as_str().unwrap(), target["legendFormat"].as_str().unwrap()))
}

fn validator(schema: &Value) -> jsonschema::Validator {
    jsonschema::draft7::new(schema).unwrap()
}

#[test]
fn dashboards_fit_grafanas_types() {
    let text = std::fs::read_to_string(root().join("tests/data/grafana/dashboard.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let whole = validator(&schema["dashboard"]);
    let units: BTreeSet<&str> = schema["units"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let mut faults = Vec::new();
    for (name, dashboard) in dashboards() {
        for error in whole.iter_errors(&dashboard) {
            faults.push(format!("{name}: {}: {error}", error.instance_path()));
        }
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap_or("?");
            // The names of the types have no dash.
            let kind = panel["type"].as_str().unwrap().replace('-', "");
            let options = &schema["options"][&kind];
            assert!(options.is_object(), "{name}, {title}: panels of type {kind} are not in the schema");
            for error in validator(options).iter_errors(&panel["options"]) {
                faults.push(format!("{name}, {title}: options{}: {error}", error.instance_path()));
            }
            let (custom, known) = (&panel["fieldConfig"]["defaults"]["custom"], &schema["custom"][&kind]);
            if known.is_object() {
                for error in validator(known).iter_errors(custom) {
                    faults.push(format!("{name}, {title}: custom{}: {error}", error.instance_path()));
                }
            } else if !custom.is_null() {
                faults.push(format!("{name}, {title}: {kind} has no custom options"));
            }
            let mut used = vec![panel["fieldConfig"]["defaults"]["unit"].clone()];
            for over in panel["fieldConfig"]["overrides"].as_array().unwrap() {
                let properties = over["properties"].as_array().unwrap().iter();
                used.extend(properties.filter(|p| p["id"] == "unit").map(|p| p["value"].clone()));
            }
            for unit in used {
                if !unit.as_str().is_some_and(|unit| units.contains(unit)) {
                    faults.push(format!("{name}, {title}: {unit} is no unit of Grafana's"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(!whole.is_valid(&serde_json::json!({"schemaVersion": 42, "tittle": "x"})), "the schema refuses nothing");
}

#[test]
fn dashboards_can_be_told_apart_and_read() {
    let mut titles = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        assert_eq!(dashboard["uid"], format!("qaflow-{name}"));
        assert!(titles.insert(dashboard["title"].as_str().unwrap().to_owned()), "{name}: its title is another's");
        assert!(dashboard["description"].as_str().is_some_and(|text| text.len() > 20), "{name}");
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        assert!(variables.iter().any(|v| v["type"] == "datasource" && v["name"] == "datasource"), "{name}");
        let (mut ids, mut cells, mut shown) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: a panel's id stands twice");
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{name}: {} is too wide", panel["title"]);
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(cells.insert((x, y)), "{name}: {} lies over another panel", panel["title"]);
                }
            }
        }
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(!title.is_empty() && shown.insert(title.to_owned()), "{name}: `{title}` stands twice");
            let description = panel["description"].as_str().unwrap_or_default();
            assert!(description.len() > 20 && description.ends_with('.'), "{name}, {title}: says not what it shows");
            for (expression, _) in expressions(panel) {
                assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}, {title}");
                for (at, _) in expression.match_indices("rate(") {
                    let inside = &expression[at..];
                    let range = inside.split_once('[').and_then(|(_, rest)| rest.split_once(']')).unwrap().0;
                    assert_eq!(range, "$__rate_interval", "{name}, {title}: {expression}");
                }
            }
            let targets = panel["targets"].as_array().unwrap();
            let references: BTreeSet<&str> = targets.iter().filter_map(|t| t["refId"].as_str()).collect();
            assert_eq!(references.len(), targets.len(), "{name}, {title}");
            assert!(targets.iter().all(|t| t["datasource"]["uid"] == "${datasource}"), "{name}, {title}");
        }
    }
}

#[test]
fn dashboards_are_as_generated() {
    let script = root().join("grafana/tools/dashboards.py");
    let output = std::process::Command::new("python3").arg(&script).arg("--check").output();
    let output = output.expect("python3 is needed: install the package python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| ["json", "yml"].iter().any(|known| e == *known)) {
            found.push(path);
        }
    }
}

/// The metrics that a text names, as they stand in the catalogue where they are there.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("qaflow_") {
        if text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "_:-/".contains(c)) {
            continue;
        }
        let name: String = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).filter(|stem| {
            CATALOGUE.iter().any(|metric| metric.name == *stem && matches!(metric.kind, Kind::Histogram(_)))
        });
        names.insert(histogram.unwrap_or(&name).to_owned());
    }
    names
}

#[test]
fn dashboards_and_code_name_the_same_metrics() {
    let known: BTreeSet<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
    let mut paths = Vec::new();
    files(&root().join("grafana"), &mut paths);
    assert!(paths.len() >= 8, "{paths:?}");
    for path in &paths {
        for name in named(&std::fs::read_to_string(path).unwrap()) {
            assert!(known.contains(name.as_str()), "{} names {name}, which the code does not have", path.display());
        }
    }
    let shown: BTreeSet<String> = dashboards()
        .values()
        .flat_map(|dashboard| panels(dashboard).flat_map(expressions).flat_map(|(e, _)| named(e)).collect::<Vec<_>>())
        .collect();
    for metric in CATALOGUE {
        let omitted = NOT_SHOWN.iter().find(|(name, _)| *name == metric.name);
        match (shown.contains(metric.name), omitted) {
            (true, None) | (false, Some(_)) => {}
            (true, Some(_)) => panic!("{} is on a panel, and in the list of those that are not", metric.name),
            (false, None) => panic!("{} is on no panel, and no reason is given", metric.name),
        }
    }
}

#[test]
fn queries_use_labels_that_there_are() {
    let known: BTreeSet<&str> =
        CATALOGUE.iter().flat_map(|metric| metric.labels).chain(&TARGET_LABELS).copied().collect();
    for (name, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for (expression, legend) in expressions(panel) {
                let mut used = BTreeSet::new();
                for (_, rest) in
                    expression.split(" by (").skip(1).filter_map(|part| Some(("", part.split_once(')')?.0)))
                {
                    used.extend(rest.split(',').map(str::trim));
                }
                for part in legend.split("{{").skip(1) {
                    used.extend(part.split_once("}}").map(|(label, _)| label.trim()));
                }
                for label in used {
                    assert!(known.contains(label), "{name}, {}: there is no label {label}", panel["title"]);
                }
            }
        }
    }
}

#[test]
fn the_guide_lists_every_metric_as_it_is() {
    let text = std::fs::read_to_string(root().join("docs/operator.md")).unwrap();
    let mut rows = String::new();
    for metric in CATALOGUE {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{} ", labels.join(", ")) };
        let _ = writeln!(rows, "| `{}` | {kind} | {labels}| {} |", metric.name, metric.help);
    }
    assert!(text.contains(&rows), "docs/operator.md must hold these rows:\n{rows}");
}
