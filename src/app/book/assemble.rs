//! From the ledger's attempts and what the states hold to a record: every figure measured, or its gap reasoned.

use std::collections::BTreeMap;

use super::collect::Found;
use super::machine;
use crate::bench::derive::{complete, rounded};
use crate::bench::record::{
    Covered, Environment, ErrorRates, Issue, Issues, Limit, Quality, RECORD_FORMAT, RatedBy, Record, Rung,
};
use crate::bench::{documents, yaml};
use crate::model::ledger::{AttemptEnd, AttemptRecord, GpuSource};
use crate::model::plan::Plan;

const GB: f64 = (1_u64 << 30) as f64;
const MB: f64 = (1_u64 << 20) as f64;

/// What a record is made of.
pub(super) struct Parts<'a> {
    pub(super) plan: &'a Plan,
    pub(super) covers: Vec<Covered>,
    /// The attempts that are counted, by state.
    pub(super) attempts: Vec<Vec<AttemptRecord>>,
    pub(super) found: &'a mut Found,
    pub(super) rung: Option<Rung>,
    pub(super) manifest: Option<String>,
    /// What serves the model, or why that is not known.
    pub(super) serving: Result<String, String>,
    /// This machine's name: its cores and memory are those of attempts on it.
    pub(super) host: String,
    pub(super) today: String,
}

/// Puts a record together, without its id. Time is shared out over the rows of `found`.
pub(super) fn assemble(parts: &mut Parts<'_>) -> Record {
    let mut reasons: yaml::Reasons = BTreeMap::new();
    let all: Vec<&AttemptRecord> = parts.attempts.iter().flatten().collect();
    let ended = all.iter().map(|attempt| attempt.ended.as_ref().unwrap_or(&attempt.updated)).max();
    let mut record = Record {
        format: RECORD_FORMAT,
        date: ended.and_then(|time| time.get(..10)).unwrap_or(&parts.today).to_owned(),
        ended: ended.cloned().unwrap_or_default(),
        environment: match parts.plan.config["environment"].as_str() {
            Some("cluster") => Some(Environment::Cluster),
            _ => Some(Environment::Local),
        },
        config_file: Some(parts.plan.config_file.clone()),
        covers: parts.covers.clone(),
        rung: parts.rung.clone(),
        ..Record::default()
    };
    let folder = std::path::Path::new(&parts.plan.config_file).parent().filter(|p| !p.as_os_str().is_empty());
    keep(
        &mut record.commit_sha,
        machine::commit(folder.unwrap_or(std::path::Path::new("."))),
        "commit_sha",
        &mut reasons,
    );
    hardware(&mut record, parts, &all, &mut reasons);
    model(&mut record, parts, &mut reasons);
    let (ended, failed) = parts.found.ended();
    let dataset = &mut record.dataset;
    dataset.pdfs_processed = Some(ended);
    dataset.pdfs_failed = Some(failed);
    let no_manifest = "the run was given files and folders, no manifest".to_owned();
    keep(&mut dataset.manifest, parts.manifest.clone().ok_or(no_manifest), "dataset.manifest", &mut reasons);
    dataset.markdown_size_mb = Some(rounded(parts.found.text_bytes as f64 / MB));
    dataset.pages = Some(parts.found.rows.iter().map(|row| u64::from(row.pages)).sum());
    results(&mut record, parts, &all, &mut reasons);
    quality(&mut record.quality, parts.found, &mut reasons);
    record.issues = issues(parts, &all);
    complete(&mut record);
    record.not_measured = reasons;
    for (path, reason) in derived_reasons(&record) {
        record.not_measured.entry(path).or_insert(reason);
    }
    yaml::fill(&mut record);
    let (minutes, hours) = (record.results.total_time_minutes, record.results.gpu_hours);
    documents::share_out(&mut parts.found.rows, minutes.unwrap_or(0.0), hours);
    record
}

/// Keeps a value, or why there is none.
fn keep<T>(slot: &mut Option<T>, value: Result<T, String>, path: &str, reasons: &mut yaml::Reasons) {
    match value {
        Ok(value) => *slot = Some(value),
        Err(reason) => {
            reasons.insert(path.into(), reason);
        }
    }
}

fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut found: Vec<String> = values.map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

const NO_LEDGER: &str = "the state has no ledger of these attempts: they ran under a version without one";

fn hardware(record: &mut Record, parts: &Parts<'_>, all: &[&AttemptRecord], reasons: &mut yaml::Reasons) {
    let hardware = &mut record.hardware;
    let held = || all.iter().flat_map(|attempt| &attempt.gpus);
    let why_no_gpu = no_gpu(all).unwrap_or_else(|| "no GPU was held".into());
    let models = distinct(held().map(|gpu| gpu.name.as_str()));
    let any = !models.is_empty();
    let of_gpu = |what: Option<String>| what.filter(|text| any && !text.is_empty()).ok_or_else(|| why_no_gpu.clone());
    keep(&mut hardware.gpu_model, of_gpu(Some(models.join(" + "))), "hardware.gpu_model", reasons);
    if all.is_empty() {
        reasons.insert("hardware.gpu_count".into(), NO_LEDGER.into());
    } else if no_gpu(all).is_some() && !any {
        reasons.insert("hardware.gpu_count".into(), why_no_gpu.clone());
    } else {
        // Of states that run side by side, the GPUs of all.
        let at_once = parts.attempts.iter().map(|of| of.iter().map(|a| a.gpus.len() as u64).max().unwrap_or(0)).sum();
        hardware.gpu_count = Some(at_once);
    }
    let memory = held().map(|gpu| gpu.memory_bytes).max().filter(|bytes| *bytes > 0);
    let unknown = if any { "the configuration says how many GPUs are held, not how large".into() } else { why_no_gpu };
    keep(
        &mut hardware.gpu_vram_gb,
        memory.map(|bytes| rounded(bytes as f64 / GB)).ok_or(unknown),
        "hardware.gpu_vram_gb",
        reasons,
    );
    let sources = distinct(all.iter().map(|attempt| attempt.gpu_source.name()));
    let sources = (!sources.is_empty()).then(|| sources.join(" + "));
    keep(&mut hardware.gpu_source, sources.ok_or_else(|| NO_LEDGER.into()), "hardware.gpu_source", reasons);
    let nodes = distinct(all.iter().map(|attempt| attempt.node.as_str()));
    let here = nodes.iter().all(|node| *node == parts.host);
    if here {
        hardware.cpu_cores = Some(machine::cores());
        let memory = machine::memory_bytes().map(|bytes| rounded(bytes as f64 / GB));
        keep(
            &mut hardware.ram_gb,
            memory.ok_or_else(|| "/proc/meminfo cannot be read".into()),
            "hardware.ram_gb",
            reasons,
        );
    } else {
        let reason = format!("the run was on {}, this record was made on {}", nodes.join(", "), parts.host);
        reasons.insert("hardware.cpu_cores".into(), reason.clone());
        reasons.insert("hardware.ram_gb".into(), reason);
    }
    let jobs = distinct(all.iter().filter_map(|attempt| attempt.job.as_deref()));
    let jobs = (!jobs.is_empty()).then(|| jobs.join(", "));
    keep(&mut hardware.job_id, jobs.ok_or_else(|| "it was no job of a scheduler".into()), "hardware.job_id", reasons);
    let nodes = (!nodes.is_empty()).then(|| nodes.join(", "));
    keep(&mut hardware.node, nodes.ok_or_else(|| NO_LEDGER.into()), "hardware.node", reasons);
}

/// Why GPUs are not counted, if they were not in any attempt.
fn no_gpu(all: &[&AttemptRecord]) -> Option<String> {
    if all.is_empty() {
        return Some(NO_LEDGER.into());
    }
    all.iter().find_map(|attempt| match &attempt.gpu_source {
        GpuSource::None { reason } => Some(format!("no GPU is counted: {reason}")),
        _ => None,
    })
}

fn model(record: &mut Record, parts: &Parts<'_>, reasons: &mut yaml::Reasons) {
    let plan = parts.plan;
    record.model.name = Some(plan.model.clone());
    keep(&mut record.model.serving, parts.serving.clone(), "model.serving", reasons);
    for path in ["model.tensor_parallel", "model.checkpoint"] {
        let reason = if plan.provider == "embedded" {
            "the embedded model is one file in one process".to_owned()
        } else {
            format!("the server does not say; whoever knows gives it with --set {path}=…")
        };
        reasons.insert(path.into(), reason);
    }
    let configuration = &mut record.configuration;
    let number = |kind: &str, name: &str| {
        parameter(&plan.config, kind, name).ok_or_else(|| format!("the pipeline has no {name}"))
    };
    keep(&mut configuration.chunk_size, number("chunk", "size"), "configuration.chunk_size", reasons);
    let questions = number("generate", "questions_per_chunk");
    keep(&mut configuration.questions_per_chunk, questions, "configuration.questions_per_chunk", reasons);
    let limit = plan.config["llm"]["concurrency"].as_str();
    configuration.concurrency_limit =
        limit.map(|text| text.parse().map_or_else(|_| Limit::Word(text.into()), Limit::Number));
    configuration.fingerprint = plan.terminals().next().map(|at| plan.nodes[at].fingerprint.clone());
}

/// A whole number among a stage's parameters. Plans of earlier programs hold them as text: `Params { size: 1500, … }`.
fn parameter(config: &serde_json::Value, kind: &str, name: &str) -> Option<u64> {
    let stages = config["stages"].as_array()?;
    let parameters = &stages.iter().find(|stage| stage["kind"] == kind)?["parameters"];
    let Some(shown) = parameters.as_str() else { return parameters[name].as_u64() };
    let at = shown.find(&format!(" {name}: "))? + name.len() + 3;
    let digits: String = shown[at..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn results(record: &mut Record, parts: &Parts<'_>, all: &[&AttemptRecord], reasons: &mut yaml::Reasons) {
    let cores = record.hardware.cpu_cores;
    let results = &mut record.results;
    results.qa_pairs_generated = Some(parts.found.rows.iter().map(|row| row.pairs_accepted).sum());
    let unasked = "the pipeline does not look for near-duplicates (near_duplicates.enabled)".to_owned();
    let refused = parts.found.near_duplicates.ok_or(unasked);
    keep(&mut results.near_duplicates_refused, refused, "results.near_duplicates_refused", reasons);
    results.attempts = Some(all.len() as u64);
    results.error_rates = error_rates(parts.found);
    if all.is_empty() {
        results.attempts = None;
        for name in [
            "attempts",
            "total_time_minutes",
            "gpu_hours",
            "avg_gpu_utilization_percent",
            "max_gpu_memory_gb",
            "avg_cpu_memory_gb",
            "max_cpu_memory_gb",
            "job_efficiency_percent",
            "job_efficiency_source",
            "energy_kwh",
            "tokens.calls",
            "tokens.prompt",
            "tokens.cached",
            "tokens.completion",
        ] {
            reasons.insert(format!("results.{name}"), NO_LEDGER.into());
        }
        return;
    }
    let seconds: f64 = all.iter().map(|attempt| attempt.seconds).sum();
    results.total_time_minutes = Some(rounded(wall_seconds(&parts.attempts) / 60.0));
    let gpu_seconds: f64 = all.iter().map(|attempt| attempt.gpu_seconds).sum();
    let hours = no_gpu(all).map_or(Ok(rounded(gpu_seconds / 3600.0)), Err);
    keep(&mut results.gpu_hours, hours, "results.gpu_hours", reasons);
    let unmeasured = no_gpu(all).unwrap_or_else(|| "the GPUs were not measured, only counted".into());
    let utilization = weighted(all.iter().map(|a| (a.gpu_utilization_mean, a.gpu_seconds)));
    let percent = utilization.map(|mean| rounded(mean * 100.0)).ok_or_else(|| unmeasured.clone());
    keep(&mut results.avg_gpu_utilization_percent, percent, "results.avg_gpu_utilization_percent", reasons);
    let memory = all.iter().filter_map(|attempt| attempt.gpu_memory_max_bytes).max();
    let memory = memory.map(|bytes| rounded(bytes as f64 / GB)).ok_or_else(|| unmeasured.clone());
    keep(&mut results.max_gpu_memory_gb, memory, "results.max_gpu_memory_gb", reasons);
    // An attempt that died before its first measurement has no memory to average.
    let mean =
        weighted(all.iter().map(|a| ((a.memory_mean_bytes > 0).then_some(a.memory_mean_bytes as f64), a.seconds)));
    let short = || "no attempt lived long enough to be measured".to_owned();
    let mean = mean.map(|bytes| rounded(bytes / GB)).ok_or_else(short);
    keep(&mut results.avg_cpu_memory_gb, mean, "results.avg_cpu_memory_gb", reasons);
    let most = all.iter().map(|attempt| attempt.memory_max_bytes).max().filter(|bytes| *bytes > 0);
    let most = most.map(|bytes| rounded(bytes as f64 / GB)).ok_or_else(short);
    keep(&mut results.max_cpu_memory_gb, most, "results.max_cpu_memory_gb", reasons);
    let joules: Vec<f64> = all.iter().filter_map(|attempt| attempt.energy_joules).collect();
    let energy = if joules.is_empty() { Err(unmeasured) } else { Ok(rounded(joules.iter().sum::<f64>() / 3.6e6)) };
    keep(&mut results.energy_kwh, energy, "results.energy_kwh", reasons);
    let sum = |of: fn(&AttemptRecord) -> u64| all.iter().map(|attempt| of(attempt)).sum::<u64>();
    results.tokens.calls = Some(sum(|a| a.calls));
    results.tokens.prompt = Some(sum(|a| a.prompt_tokens));
    results.tokens.completion = Some(sum(|a| a.completion_tokens));
    let cached = Some(sum(|a| a.cached_tokens)).filter(|n| *n > 0);
    let unsaid = "no answer named cached tokens: the server does not report them, or its cache is off".to_owned();
    keep(&mut results.tokens.cached, cached.ok_or(unsaid), "results.tokens.cached", reasons);
    let used: f64 = all.iter().map(|attempt| attempt.cpu_seconds).sum();
    efficiency(record, used, seconds, cores, all, reasons);
}

/// Processor time used of what was held: by Slurm's accounting where every job is in it, else by our own figures.
fn efficiency(
    record: &mut Record,
    used: f64,
    seconds: f64,
    cores: Option<u64>,
    all: &[&AttemptRecord],
    reasons: &mut yaml::Reasons,
) {
    let jobs = distinct(all.iter().filter_map(|attempt| attempt.job.as_deref()));
    let accounted: Option<Vec<machine::Accounted>> = jobs
        .iter()
        .map(|job| match machine::sacct(job.trim_start_matches("slurm ").trim()) {
            Ok(accounted) => Some(accounted),
            Err(reason) => {
                tracing::info!("{job}: {reason}; the program's own figures are taken");
                None
            }
        })
        .collect();
    let results = &mut record.results;
    if let Some(accounted) = accounted.filter(|list| !list.is_empty()) {
        let used: f64 = accounted.iter().map(|one| one.used).sum();
        let held: f64 = accounted.iter().map(|one| one.held).sum();
        results.job_efficiency_percent = Some(rounded(used / held * 100.0));
        results.job_efficiency_source = Some("sacct".into());
        return;
    }
    let own = match cores {
        Some(cores) if seconds > 0.0 => Ok(rounded(used / (seconds * cores as f64) * 100.0)),
        Some(_) => Err("no time was measured".to_owned()),
        None => Err("sacct does not say, and how many cores the run had is not known here".to_owned()),
    };
    let source = own.as_ref().map(|_| "own figures".to_owned()).map_err(Clone::clone);
    keep(&mut results.job_efficiency_percent, own, "results.job_efficiency_percent", reasons);
    keep(&mut results.job_efficiency_source, source, "results.job_efficiency_source", reasons);
}

/// Seconds in which at least one process worked. Attempts of one state follow each other; those of several states
/// overlap.
fn wall_seconds(states: &[Vec<AttemptRecord>]) -> f64 {
    let with_work: Vec<&Vec<AttemptRecord>> = states.iter().filter(|attempts| !attempts.is_empty()).collect();
    if let [only] = with_work[..] {
        return only.iter().map(|attempt| attempt.seconds).sum();
    }
    let mut spans: Vec<(f64, f64)> = with_work
        .into_iter()
        .flatten()
        .filter_map(|attempt| {
            let began: jiff::Timestamp = attempt.started.parse().ok()?;
            let began = began.as_second() as f64;
            Some((began, began + attempt.seconds))
        })
        .collect();
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut sum, mut until) = (0.0, f64::NEG_INFINITY);
    for (began, ended) in spans {
        if ended > until {
            sum += ended - began.max(until);
            until = ended;
        }
    }
    sum
}

fn weighted(values: impl Iterator<Item = (Option<f64>, f64)>) -> Option<f64> {
    let (mut sum, mut weight) = (0.0, 0.0);
    for (value, share) in values {
        if let Some(value) = value {
            sum += value * share;
            weight += share;
        }
    }
    (weight > 0.0).then(|| sum / weight)
}

fn error_rates(found: &Found) -> ErrorRates {
    let (ended, failed) = found.ended();
    let percent = |part: u64, of: u64| rounded(part as f64 * 100.0 / of.max(1) as f64);
    let mut rates = ErrorRates { documents_percent: Some(percent(failed, ended)), ..ErrorRates::default() };
    for (stage, [done, rejected, dead]) in &found.stages {
        let all = done + rejected + dead;
        rates.dead_percent_by_stage.insert(stage.clone(), percent(*dead, all));
        rates.rejected_percent_by_stage.insert(stage.clone(), percent(*rejected, all));
    }
    rates
}

fn quality(quality: &mut Quality, found: &Found, reasons: &mut yaml::Reasons) {
    if found.judged == 0 {
        for name in [
            "sample_size",
            "avg_clarity_score",
            "avg_accuracy_score",
            "avg_relevance_score",
            "avg_overall_score",
            "overall_acceptance_rate",
            "rated_by",
        ] {
            reasons.insert(format!("quality.{name}"), "no pair was judged".into());
        }
        return;
    }
    let mean = |at: usize| Some(rounded(found.marks[at] as f64 / found.judged as f64));
    *quality = Quality {
        sample_size: Some(found.judged),
        avg_clarity_score: mean(0),
        avg_accuracy_score: mean(1),
        avg_relevance_score: mean(2),
        avg_overall_score: mean(3),
        overall_acceptance_rate: Some(rounded(found.judged_accepted as f64 / found.judged as f64)),
        rated_by: Some(RatedBy::Judge),
        marks: ["clarity", "accuracy", "relevance", "overall"]
            .map(str::to_owned)
            .into_iter()
            .zip(found.spread)
            .collect(),
    };
}

fn issues(parts: &Parts<'_>, all: &[&AttemptRecord]) -> Issues {
    let mut list: Vec<Issue> = parts
        .found
        .issues
        .iter()
        .map(|(what, (count, examples))| Issue {
            what: what.clone(),
            count: *count,
            critical: false,
            examples: examples.clone(),
        })
        .collect();
    let mut ended = |name: &str, what: &str, critical: bool| {
        let these: Vec<&&AttemptRecord> = all.iter().filter(|attempt| attempt.end.name() == name).collect();
        if !these.is_empty() {
            let reason = |attempt: &&&AttemptRecord| match &attempt.end {
                AttemptEnd::Interrupted { reason } | AttemptEnd::Failed { reason } => Some(reason.clone()),
                _ => None,
            };
            let mut examples: Vec<String> = these.iter().filter_map(reason).collect();
            examples.dedup();
            examples.truncate(3);
            list.push(Issue { what: what.into(), count: these.len() as u64, critical, examples });
        }
    };
    ended("killed", "attempts killed without a word", false);
    ended("interrupted", "attempts interrupted", false);
    // What a later attempt put right is history; a run that ended in failure is not.
    let last_failed = parts.attempts.iter().any(|of| of.last().is_some_and(|last| last.end.name() == "failed"));
    ended("failed", "attempts ended by an error", last_failed);
    let open = parts.found.rows.iter().filter(|row| row.state == documents::OPEN).count() as u64;
    if open > 0 {
        list.push(Issue {
            what: "documents not finished: what they took is in the totals, they are not counted".into(),
            count: open,
            critical: false,
            examples: Vec::new(),
        });
    }
    let (done, failed) = parts.found.ended();
    if failed as f64 > parts.plan.max_failure_ratio * done as f64 {
        list.push(Issue {
            what: format!(
                "more of the documents that ended here failed ({failed} of {done}) than max_failure_ratio ({}) allows",
                parts.plan.max_failure_ratio
            ),
            count: failed,
            critical: true,
            examples: Vec::new(),
        });
    }
    if list.is_empty() { Issues::default() } else { Issues::List(list) }
}

/// Why figures are missing that follow from others.
fn derived_reasons(record: &Record) -> Vec<(String, String)> {
    let because = |path: &str| record.not_measured.get(path).cloned();
    let none = record.dataset.pdfs_processed == Some(0);
    let mut reasons = Vec::new();
    for name in ["qa_pairs_per_pdf", "avg_time_per_pdf_minutes", "gpu_hours_per_pdf"] {
        if none {
            reasons.push((format!("results.{name}"), "no document ended in this record".to_owned()));
        }
    }
    let follows = |what: &str| format!("it follows from {what}, which is not known");
    for (name, from) in [
        ("avg_time_per_pdf_minutes", "results.total_time_minutes"),
        ("throughput_pdfs_per_hour", "results.total_time_minutes"),
        ("gpu_hours_per_pdf", "results.gpu_hours"),
        ("accepted_pairs_per_gpu_hour", "results.gpu_hours"),
        ("prefix_cache_hit_rate", "results.tokens.cached"),
    ] {
        reasons.push((format!("results.{name}"), because(from).unwrap_or_else(|| follows(from))));
    }
    reasons.push(("dataset.documents_file".into(), "no document was found".into()));
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_in_plans_of_earlier_programs_too() {
        let config = |parameters: serde_json::Value| {
            let chunk = serde_json::json!({"kind": "chunk", "parameters": parameters});
            serde_json::json!({"stages": [{"kind": "extract"}, chunk]})
        };
        let now = config(serde_json::json!({"size": 1500, "select": null}));
        let text = config("ChunkParams { size: 1500, unit: Characters, select: None }".into());
        for plan in [now, text] {
            assert_eq!(parameter(&plan, "chunk", "size"), Some(1500), "{plan}");
            assert_eq!(parameter(&plan, "chunk", "select"), None, "{plan}");
            assert_eq!(parameter(&plan, "extract", "size"), None, "{plan}");
        }
    }
}
