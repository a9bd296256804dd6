//! `qaflow doctor`: checks a configuration against the world before a night is spent on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::build::{self, Configuration};
use super::export::print;
use super::{Exit, grouped};
use crate::config::Provider;
use crate::llm::probe::probe;
use crate::sources::discover;
use crate::stages::StageParams;
use crate::stages::chunk::ChunkUnit;
use crate::store::locks::Locks;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct DoctorArgs {
    /// The run file.
    pub config: PathBuf,
    /// `--set`.
    pub set: Vec<String>,
    /// Whether it is shown as JSON.
    pub json: bool,
}

/// What one check found.
#[derive(Clone, Debug, serde::Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    Warning,
    Bad,
}

/// Space that a state takes for each byte of documents, from runs over mixed policy PDFs: text, records, answers.
const STATE_BYTES_PER_INPUT_BYTE: f64 = 1.0;
/// The least free space that is not worth a warning.
const FREE_ENOUGH: u64 = 2 << 30;

/// Checks everything and shows what it found.
///
/// # Errors
/// Faults of the configuration; what the checks find is shown, and exit code 1 if any is bad.
pub async fn doctor(args: &DoctorArgs) -> anyhow::Result<Exit> {
    let loaded = build::load(&args.config, &args.set)?;
    let mut findings = vec![Finding {
        check: "configuration",
        verdict: Verdict::Good,
        detail: format!(
            "{} with pipeline `{}`: {}",
            args.config.display(),
            loaded.pipeline.name,
            loaded.graph.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(" → ")
        ),
    }];
    calls(&loaded, &mut findings);
    let bytes = input(&loaded, &mut findings);
    disk("state", &loaded.run.state, bytes, &mut findings);
    disk("results", &loaded.run.out, bytes, &mut findings);
    locks(&loaded.run.state, &mut findings);
    match loaded.run.llm.provider {
        Provider::Embedded => weights(&loaded, &mut findings),
        Provider::Openai => server(&loaded, &mut findings).await?,
    }
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    if args.json {
        print(&serde_json::to_string(&findings)?);
    } else {
        for Finding { check, verdict, detail } in &findings {
            let mark = match verdict {
                Verdict::Good => "good   ",
                Verdict::Warning => "warning",
                Verdict::Bad => "BAD    ",
            };
            print(&format!("{mark}  {check:<14} {detail}"));
        }
    }
    Ok(if bad { Exit::Error } else { Exit::Done })
}

fn input(loaded: &Configuration, findings: &mut Vec<Finding>) -> u64 {
    let (verdict, detail, bytes) = if loaded.run.input.is_empty() && loaded.run.manifest.is_none() {
        (Verdict::Warning, "none configured: name files or folders behind `qaflow run CONFIG`".into(), 0)
    } else {
        match discover(&loaded.run.input, loaded.run.manifest.as_deref()) {
            Ok(listing) => {
                let bytes = listing.files().iter().map(|file| file.bytes).sum();
                let count = listing.files().len() as u64;
                let verdict = if count == 0 { Verdict::Bad } else { Verdict::Good };
                (verdict, format!("{} documents, {} MB", grouped(count), bytes / 1_000_000), bytes)
            }
            Err(error) => (Verdict::Bad, error.to_string(), 0),
        }
    };
    findings.push(Finding { check: "input", verdict, detail });
    bytes
}

/// How many calls the model will be asked for: what GPU-hours follow from before anything is measured.
fn calls(loaded: &Configuration, findings: &mut Vec<Finding>) {
    let stages = &loaded.pipeline.stages;
    let params: Vec<&StageParams> = loaded.graph.declared.iter().map(|at| &stages[*at].params).collect();
    let by_stage = crate::stages::calls::of_a_chunk(&loaded.graph, &params);
    let all: u64 = by_stage.iter().map(|(_, calls)| calls).sum();
    let each: Vec<String> = by_stage.iter().map(|(name, calls)| format!("{name} {}", grouped(*calls))).collect();
    if !each.is_empty() {
        let detail = format!("{} for a chunk whose every pair passes: {}", grouped(all), each.join(", "));
        findings.push(Finding { check: "model calls", verdict: Verdict::Good, detail });
    }
}

fn disk(check: &'static str, dir: &Path, input_bytes: u64, findings: &mut Vec<Finding>) {
    // The folder may not be there yet: the nearest one above it tells which disk it will be on.
    let Some(there) =
        dir.ancestors().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }).find(|p| p.exists())
    else {
        return;
    };
    let wanted = ((input_bytes as f64 * STATE_BYTES_PER_INPUT_BYTE) as u64).max(FREE_ENOUGH);
    let (verdict, detail) = match rustix::fs::statvfs(there) {
        Ok(fs) => {
            let free = fs.f_bavail * fs.f_frsize;
            let verdict = if free < wanted { Verdict::Warning } else { Verdict::Good };
            (verdict, format!("{}: {} GB free", dir.display(), free / 1_000_000_000))
        }
        Err(error) => (Verdict::Bad, format!("{}: {error}", there.display())),
    };
    findings.push(Finding { check, verdict, detail });
}

/// Whether file locks hold where the state is, or will be.
fn locks(state: &Path, findings: &mut Vec<Finding>) {
    let above = state.ancestors().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    let Some(there) = above.into_iter().find(|p| p.is_dir()) else { return };
    let locks = super::state::locks(there);
    let verdict = if locks == Locks::Hold { Verdict::Good } else { Verdict::Warning };
    findings.push(Finding { check: "locks", verdict, detail: format!("{}: {locks}", state.display()) });
}

fn weights(loaded: &Configuration, findings: &mut Vec<Finding>) {
    let path = loaded.run.llm.weights.clone().unwrap_or_else(super::model_pull::default_weights_path);
    let (verdict, detail) = if path.is_file() {
        (Verdict::Good, format!("embedded demo model at {}", path.display()))
    } else {
        (Verdict::Bad, format!("no weights at {}: fetch them with `qaflow model pull`", path.display()))
    };
    findings.push(Finding { check: "model", verdict, detail });
}

async fn server(loaded: &Configuration, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    let llm = &loaded.run.llm;
    for endpoint in &llm.endpoints {
        one_server(loaded, endpoint, findings).await?;
    }
    Ok(())
}

async fn one_server(
    loaded: &Configuration,
    endpoint: &crate::config::Endpoint,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    let llm = &loaded.run.llm;
    let client = build::openai(llm, endpoint)?;
    let schema = llm.structured_output != crate::config::StructuredOutput::None;
    let report = match probe(&client, &llm.model, schema, Duration::from_secs(1)).await {
        Ok(report) => report,
        Err(error) => {
            findings.push(Finding { check: "model", verdict: Verdict::Bad, detail: error.to_string() });
            return Ok(());
        }
    };
    let obeyed = if schema { ", schema obeyed" } else { ", schema not sent (llm.structured_output: none)" };
    findings.push(Finding {
        check: "model",
        verdict: Verdict::Good,
        detail: format!("{} serves {} (answered in {:.0?}{obeyed})", client.base_url(), llm.model, report.took),
    });
    if let Some(limit) = report.max_model_len {
        for entry in &loaded.pipeline.stages {
            if let Some(needed) = longest_request(loaded, &entry.params) {
                let verdict = if needed > limit { Verdict::Bad } else { Verdict::Good };
                findings.push(Finding {
                    check: "context",
                    verdict,
                    detail: format!(
                        "stage `{}` needs about {} tokens for its longest request, the model has {}",
                        entry.name,
                        grouped(needed),
                        grouped(limit)
                    ),
                });
            }
        }
    }
    Ok(())
}

/// About how many tokens a stage's longest request has, answer included, at three characters a token.
fn longest_request(loaded: &Configuration, params: &StageParams) -> Option<u64> {
    let chunk = loaded.pipeline.stages.iter().find_map(|entry| match &entry.params {
        StageParams::Chunk(chunk) => Some(match chunk.unit {
            ChunkUnit::Characters => chunk.size as u64,
            ChunkUnit::Tokens => chunk.size as u64 * 4,
        }),
        _ => None,
    })?;
    let asking = match params {
        StageParams::Generate(generate) => &generate.asking,
        StageParams::Validate(validate) => &validate.asking,
        StageParams::Score(score) => &score.asking,
        StageParams::Extract(_) | StageParams::Chunk(_) | StageParams::Target(_) => return None,
    };
    let prompt = asking.system.text.len() as u64 + chunk + 3000;
    Some(prompt / 3 + u64::from(asking.max_tokens))
}

/// Prints the configuration reference.
pub fn print_reference() {
    print(crate::config::reference::render(&crate::config::reference::rows(&build::Registry)).trim_end());
}
