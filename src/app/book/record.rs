//! `qaflow bench record`, and `--bench` of `qaflow run`: makes the record of what was done since the last one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use super::assemble::{Parts, assemble};
use super::collect::{Counted, Found, collect};
use super::files;
use crate::app::export::print;
use crate::app::state::{State, StateOptions, host};
use crate::app::states::select;
use crate::app::{Exit, UsageError, counted};
use crate::bench::book::{Book, Entry};
use crate::bench::checks;
use crate::bench::derive::{QualityTargets, complete, follow};
use crate::bench::ladder::Ladder;
use crate::bench::record::{Covered, Experiment, Quality, RatedBy, Record, Rung};
use crate::bench::{documents, yaml};
use crate::model::payload::Document;
use crate::model::plan::Plan;
use crate::sources::discover;
use crate::store::Identity;

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct RecordArgs {
    /// Folder of a state, or a pattern such as 'state/run-*'; several times for the shards of one run [default: the only
    /// one below state/]
    #[arg(long, value_name = "DIR")]
    pub state: Vec<PathBuf>,
    /// The record's name [default: `<environment>_<description>_<date>_<number>`]
    #[arg(long, value_parser = plain)]
    pub id: Option<String>,
    /// What the run was, for the name [default: the rung's name, else `run`]
    #[arg(long, value_name = "WORDS", value_parser = plain, conflicts_with = "id")]
    pub describe: Option<String>,
    /// Folder of the records
    #[arg(long, value_name = "DIR", default_value = files::DEFAULT_DIR)]
    pub dir: PathBuf,
    /// The manifest that the run was given, if the state does not know it; one of a ladder makes the record a rung
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Count from this attempt on, instead of from the first that no record counts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub from_attempt: Option<u64>,
    /// What only people know, as in `model.tensor_parallel=4`
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// Ratings by people, a CSV file with columns clarity, accuracy, relevance, overall and accepted, in place of the
    /// judge's marks
    #[arg(long, value_name = "FILE")]
    pub ratings: Option<PathBuf>,
    /// Write the record named by --id anew, over its attempts and what came after them
    #[arg(long, requires = "id")]
    pub replace: bool,
    /// Show the quick form
    #[arg(long)]
    pub quick: bool,
    /// The experiment that it is a point of
    #[arg(skip)]
    pub experiment: Option<Experiment>,
}

impl RecordArgs {
    /// The record of a run that just ended, under `id`.
    pub fn after_run(id: String) -> Self {
        Self {
            state: Vec::new(),
            id: Some(id),
            describe: None,
            dir: files::DEFAULT_DIR.into(),
            manifest: None,
            from_attempt: None,
            set: Vec::new(),
            ratings: None,
            replace: false,
            quick: false,
            experiment: None,
        }
    }
}

/// A name that can be a file's.
///
/// # Errors
/// What is wrong with it.
pub fn plain(text: &str) -> Result<String, String> {
    let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 100
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if good {
        Ok(text.into())
    } else {
        Err("give letters, digits and `._-`, at most 100, beginning with a letter or digit".into())
    }
}

/// Makes a record and shows where it is.
///
/// # Errors
/// If a state is not there or in use, if there is nothing to record, or if the record cannot be written.
pub async fn record(args: &RecordArgs) -> anyhow::Result<Exit> {
    let folders = select(&args.state)?.dirs;
    let states: Vec<State> =
        folders.iter().map(|dir| State::open(dir, StateOptions::default())).collect::<anyhow::Result<_>>()?;
    of_states(args, &states.iter().collect::<Vec<_>>()).await?;
    Ok(Exit::Done)
}

/// Makes the record of open states, writes it and shows it.
///
/// # Errors
/// As [`record`].
pub async fn of_states(args: &RecordArgs, states: &[&State]) -> anyhow::Result<()> {
    let whole = files::load(&args.dir)?;
    check_file(args, &whole)?;
    let first = states.first().ok_or_else(|| UsageError("no state is given".into()))?;
    let plan = first.plan()?;
    let replaced = args.id.as_deref().filter(|_| args.replace).and_then(|id| whole.exactly(id));
    // Of a record that is written anew its own: the state may have gone on with another since.
    let own = replaced.and_then(|entry| entry.record.dataset.manifest.clone());
    let last = || plan.config["manifest"].as_str().map(PathBuf::from);
    let manifest = args.manifest.clone().or(own.map(PathBuf::from)).or_else(last);
    let rung = manifest.as_deref().map(rung_of).transpose()?.flatten();
    let listed = manifest.as_deref().filter(|_| rung.is_some()).and_then(Listed::of);
    let book = replaced.map_or_else(|| whole.clone(), |entry| whole.without(&entry.record.id));
    let mut found = Found::default();
    let (mut covers, mut attempts) = (Vec::new(), Vec::new());
    let mut before = BTreeSet::new();
    for state in states {
        let own = state.plan()?;
        if own.fingerprints() != plan.fingerprints() {
            return Err(UsageError(format!(
                "{} and {} ran different configurations: make a record of each",
                first.dir.display(),
                state.dir.display()
            ))
            .into());
        }
        let identity = Identity::load(&state.dir)?.map(|identity| identity.state).unwrap_or_default();
        if args.from_attempt.is_none() && args.experiment.is_none() {
            check_counted(&whole, &args.dir, &identity, state)?;
        }
        let again = replaced.and_then(|entry| entry.record.covers.iter().find(|c| c.state_id == identity));
        let from = args
            .from_attempt
            .or_else(|| again.map(|covered| covered.first_attempt))
            .unwrap_or_else(|| book.covered_until(&identity).saturating_add(1));
        // Written anew, a record ends where the next one begins.
        let had = state.attempts()?;
        let end = again.map(|again| if counts_of(again, had) { again.last_attempt } else { from });
        let next = end.and_then(|end| book.covered_from(&identity, end.saturating_add(1)));
        let last = next.map_or(had, |next| next - 1);
        let covered = Covered {
            state_id: identity,
            state: state.dir.display().to_string(),
            first_attempt: from,
            last_attempt: last,
        };
        let elsewhere = counted_elsewhere(&book, &covered);
        if from <= last {
            if args.experiment.is_none() {
                warn_of_doubles(&book, &covered);
            }
            covers.push(covered);
        }
        let all = crate::app::ledger::attempts(state.store.as_ref())?;
        attempts.push(all.into_iter().filter(|attempt| (from..=last).contains(&attempt.number)).collect());
        collect(state, &own, &elsewhere, |document| listed.as_ref().is_none_or(|l| l.holds(document)), &mut found)?;
        before.extend(elsewhere.before);
    }
    if covers.is_empty() {
        return Err(UsageError(format!(
            "every attempt of {} is in a record already: run something first, or name the attempt with --from-attempt",
            first.dir.display()
        ))
        .into());
    }
    if plan.near_duplicates.enabled {
        found.near_duplicates = Some(super::twins::refuse(states, &plan, &before, &mut found)?);
    }
    let rung = rung.map(|rung| Rung { reused: found.reused.min(rung.documents), ..rung });
    let mut record = assemble(&mut Parts {
        serving: serving(&plan).await,
        plan: &plan,
        covers,
        attempts,
        found: &mut found,
        rung,
        manifest: manifest.as_ref().map(|path| path.display().to_string()),
        host: host(),
        today: crate::app::now()[..10].to_owned(),
    });
    if let Some(file) = &args.ratings {
        record.quality = ratings(file)?;
    }
    record.id = match &args.id {
        Some(id) => id.clone(),
        None => free_name(&args.dir, &book, &record, args.describe.as_deref()),
    };
    if !found.rows.is_empty() {
        record.dataset.documents_file = Some(format!("{}{}", record.id, files::DOCUMENTS_SUFFIX));
    }
    for setting in &args.set {
        record = set(&record, setting)?;
    }
    if !args.set.is_empty() {
        let given: Vec<&str> = args.set.iter().filter_map(|s| s.split_once('=')).map(|(path, _)| path.trim()).collect();
        follow(&mut record, &given);
    }
    if let Some(experiment) = &args.experiment {
        // The states of an experiment are copies of one another, and yet each is counted.
        for covered in &mut record.covers {
            covered.state_id = format!("{}-{}", covered.state_id, record.id);
        }
        record.experiment = Some(experiment.clone());
    }
    // What follows from what people set.
    complete(&mut record);
    documents::share_out(&mut found.rows, record.results.total_time_minutes.unwrap_or(0.0), record.results.gpu_hours);
    yaml::fill(&mut record);
    if let Some((path, value)) = checks::damage(&record) {
        return Err(UsageError(format!("{path} would be {value}: give a number from 0 up with --set")).into());
    }
    let entry = Entry { record, documents: found.rows };
    for contradiction in checks::in_book(&book, &entry) {
        tracing::warn!("{}: {contradiction}", entry.record.id);
    }
    let record = entry.record;
    let path = files::save(&args.dir, &record, &entry.documents, args.replace)?;
    files::save_history(&args.dir, &record, states)?;
    if args.quick {
        print(yaml::write_quick(&yaml::to_quick(&record, &QualityTargets::default()))?.trim_end());
    }
    let line = format!("{}: {}", path.display(), in_a_line(&record));
    if args.experiment.is_some() {
        tracing::debug!("{line}");
    } else {
        print(&line);
    }
    Ok(())
}

/// Documents that had ended in records of other attempts of the state.
fn counted_elsewhere(book: &Book, covered: &Covered) -> Counted {
    let mut counted = Counted::default();
    for entry in book.entries() {
        for other in entry.record.covers.iter().filter(|other| other.state_id == covered.state_id) {
            let (first, last) = other.span();
            let documents = if last < covered.first_attempt {
                &mut counted.before
            } else if first > covered.last_attempt {
                &mut counted.after
            } else {
                continue;
            };
            let ended = entry.documents.iter().filter(|row| row.state != crate::bench::documents::OPEN);
            documents.extend(ended.map(|row| row.sha256.clone()));
        }
    }
    counted
}

/// Refuses a name that a record has which lies in a file of another name: two records would be called so.
fn check_file(args: &RecordArgs, book: &Book) -> anyhow::Result<()> {
    let Some(id) = args.id.as_deref().filter(|id| book.exactly(id).is_some()) else { return Ok(()) };
    if args.dir.join(format!("{id}.yaml")).exists() {
        return Ok(());
    }
    Err(UsageError(format!(
        "a record of {} is called {id}, but its file is not: rename that file to {id}.yaml, or give another --id",
        args.dir.display()
    ))
    .into())
}

/// Refuses to count on where a record does not say which attempts of the state it counts, or counts attempts that
/// there have not been: others would be counted twice, or never.
fn check_counted(book: &Book, dir: &Path, identity: &str, state: &State) -> anyhow::Result<()> {
    let attempts = state.attempts()?;
    let odd = book.of_state(identity).find(|(_, covered)| !counts_of(covered, attempts));
    let Some((id, covered)) = odd else { return Ok(()) };
    Err(UsageError(format!(
        "{} counts attempts {} to {} of {}, which has had {}: correct `covers` there, or say with --from-attempt from \
         which attempt to count (with --id {id} --replace, to write that record anew)",
        dir.join(format!("{id}.yaml")).display(),
        covered.first_attempt,
        covered.last_attempt,
        state.dir.display(),
        counted(attempts, "attempt"),
    ))
    .into())
}

/// Whether a record can count so of a state that has had so many attempts.
fn counts_of(covered: &Covered, attempts: u64) -> bool {
    covered.is_range() && covered.last_attempt <= attempts
}

/// Says which records count the same attempts.
fn warn_of_doubles(book: &Book, covered: &Covered) {
    for (id, other) in book.counting(covered) {
        let (first, last) = other.span();
        let (first, last) = (covered.first_attempt.max(first), covered.last_attempt.min(last));
        let of = &covered.state;
        let which = if first == last {
            format!("attempt {first} of {of} is")
        } else {
            format!("attempts {first} to {last} of {of} are")
        };
        tracing::warn!(
            "{which} counted by {id} already: of the two records the later one is left out of every total. \
             Count from a later attempt, or write that one anew with --id {id} --replace"
        );
    }
}

/// The documents of a rung's manifest, by what they are called and where they lie.
struct Listed {
    names: BTreeSet<String>,
    paths: BTreeSet<PathBuf>,
}

impl Listed {
    /// `None`, with a warning, if the manifest or a document of it is no longer there.
    fn of(manifest: &Path) -> Option<Self> {
        match discover(&[], Some(manifest)) {
            Ok(listing) => Some(Self {
                names: listing.files().iter().map(|file| file.name.clone()).collect(),
                paths: listing.files().iter().map(|file| file.path.clone()).collect(),
            }),
            Err(error) => {
                tracing::warn!(
                    "the rung's documents cannot be listed, all that the state has count as reused: {error}"
                );
                None
            }
        }
    }

    fn holds(&self, document: &Document) -> bool {
        self.names.contains(&document.name) || self.paths.contains(Path::new(&document.path))
    }
}

fn in_a_line(record: &Record) -> String {
    let results = &record.results;
    let shown = |value: Option<f64>, unit: &str| value.map_or(format!("unknown {unit}"), |v| format!("{v:.3} {unit}"));
    format!(
        "{} documents ({} failed), {} pairs, {}, {}",
        record.dataset.pdfs_processed.unwrap_or(0),
        record.dataset.pdfs_failed.unwrap_or(0),
        results.qa_pairs_generated.unwrap_or(0),
        shown(results.total_time_minutes, "minutes"),
        shown(results.gpu_hours, "GPU-hours"),
    )
}

/// The rung that a manifest is, if it is one of a ladder's.
fn rung_of(manifest: &Path) -> anyhow::Result<Option<Rung>> {
    let file = manifest.with_file_name(super::ladder::LADDER_FILE);
    if !file.is_file() {
        return Ok(None);
    }
    let ladder: Ladder = super::read_ladder(&file)?;
    let name = manifest.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(ladder.rungs.iter().find(|rung| rung.manifest == name).map(|rung| Rung {
        ladder: file.display().to_string(),
        position: rung.position,
        name: rung.name.clone(),
        documents: rung.documents,
        reused: 0,
        corpus_documents: ladder.documents,
    }))
}

/// What serves the model, with its version.
async fn serving(plan: &Plan) -> Result<String, String> {
    use crate::llm::openai::{OpenAiClient, OpenAiOptions, StructuredOutput};
    if plan.provider == "embedded" {
        return Ok(format!("embedded in qaflow {}", env!("CARGO_PKG_VERSION")));
    }
    let Some(base_url) = plan.config["llm"]["endpoints"][0].as_str() else {
        return Err("the run's configuration names no server".into());
    };
    let client = OpenAiClient::new(OpenAiOptions {
        base_url: base_url.into(),
        api_key: None,
        api_key_env: None,
        connect_timeout: std::time::Duration::from_secs(4),
        request_timeout: None,
        structured_output: StructuredOutput::None,
        extra_body: String::new(),
    })
    .map_err(|error| error.to_string())?;
    match client.version().await {
        Some(version) => Ok(version.strip_prefix("qaflow-sim-").map_or_else(
            || format!("vllm or alike, version {version}"),
            |version| format!("qaflow simulate-llm {version}"),
        )),
        None => Err(format!("{base_url} did not say its version when the record was made")),
    }
}

/// `<environment>_<description>_<date>_<number>`, the first that is free.
fn free_name(dir: &Path, book: &Book, record: &Record, describe: Option<&str>) -> String {
    let environment = record.environment.map_or("local", crate::bench::record::Environment::as_str);
    let rung = record.rung.as_ref().map(|rung| rung.name.as_str());
    let description = describe.or(rung).unwrap_or("run");
    let stem = format!("{environment}_{description}_{}", record.date);
    let mut number = 1_u32;
    loop {
        let id = format!("{stem}_{number:03}");
        if !dir.join(format!("{id}.yaml")).exists() && book.exactly(&id).is_none() {
            return id;
        }
        number += 1;
    }
}

/// A record with one field set by a person.
fn set(record: &Record, setting: &str) -> anyhow::Result<Record> {
    let bad = |why: String| UsageError(format!("--set {setting}: {why}"));
    let Some((path, text)) = setting.split_once('=') else {
        return Err(bad("give it as field=value, as in model.tensor_parallel=4".into()).into());
    };
    let mut tree = serde_json::to_value(record)?;
    let slot = path.split('.').try_fold(&mut tree, |node, key| node.get_mut(key));
    let Some(slot) = slot.filter(|slot| !slot.is_object()) else {
        return Err(bad(format!("a record has no field {path}")).into());
    };
    let as_text = Value::String(text.into());
    *slot = serde_json::from_str(text).unwrap_or_else(|_| as_text.clone());
    let read = serde_json::from_value(tree.clone()).or_else(|_| {
        // A text that looks like a number.
        if let Some(slot) = path.split('.').try_fold(&mut tree, |node, key| node.get_mut(key)) {
            *slot = as_text;
        }
        serde_json::from_value(tree)
    });
    Ok(read.map_err(|error| bad(error.to_string()))?)
}

/// The quality by people's ratings.
fn ratings(file: &Path) -> anyhow::Result<Quality> {
    let bad = |why: String| UsageError(format!("{}: {why}", file.display()));
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let headers = reader.headers()?.clone();
    let names = ["clarity", "accuracy", "relevance", "overall"];
    let column = |name: &str| headers.iter().position(|header| header.eq_ignore_ascii_case(name));
    let marks: Vec<usize> = names
        .iter()
        .map(|name| column(name).ok_or_else(|| bad(format!("it has no column `{name}`"))))
        .collect::<Result<_, _>>()?;
    let accepted = ["accepted", "accept", "decision"].into_iter().find_map(column);
    let accepted = accepted.ok_or_else(|| bad("it has no column `accepted`".into()))?;
    let (mut sums, mut count, mut accepts) = ([0_u64; 4], 0_u64, 0_u64);
    let mut spread = [[0_u64; 5]; 4];
    for row in reader.records() {
        let row = row?;
        let line = row.position().map_or(0, csv::Position::line);
        for (i, (at, name)) in marks.iter().zip(names).enumerate() {
            let mark = row.get(*at).and_then(|text| text.parse::<u64>().ok()).filter(|mark| (1..=5).contains(mark));
            let mark = mark.ok_or_else(|| bad(format!("line {line}: {name} must be a whole number from 1 to 5")))?;
            sums[i] += mark;
            spread[i][mark as usize - 1] += 1;
        }
        accepts += match row.get(accepted).unwrap_or_default().to_ascii_lowercase().as_str() {
            "yes" | "true" | "1" | "accept" | "accepted" => 1,
            "no" | "false" | "0" | "reject" | "rejected" => 0,
            _ => return Err(bad(format!("line {line}: accepted must be yes or no")).into()),
        };
        count += 1;
    }
    if count == 0 {
        return Err(bad("it has no rating".into()).into());
    }
    let mean = |at: usize| Some(crate::bench::derive::rounded(sums[at] as f64 / count as f64));
    Ok(Quality {
        sample_size: Some(count),
        avg_clarity_score: mean(0),
        avg_accuracy_score: mean(1),
        avg_relevance_score: mean(2),
        avg_overall_score: mean(3),
        overall_acceptance_rate: Some(crate::bench::derive::rounded(accepts as f64 / count as f64)),
        rated_by: Some(RatedBy::People),
        marks: names.map(str::to_owned).into_iter().zip(spread).collect(),
    })
}

/// Names the documents that a run was given in its plan, so that a record can say which manifest it was.
pub fn note_input(plan: &mut Plan, inputs: &[PathBuf], manifest: Option<&Path>) {
    if let Value::Object(config) = &mut plan.config {
        config.insert("manifest".into(), manifest.map_or(Value::Null, |path| path.display().to_string().into()));
        let inputs: Vec<Value> = inputs.iter().map(|path| path.display().to_string().into()).collect();
        config.insert("input".into(), Value::Array(inputs));
    }
}

/// Checks the name of a record before a run is spent on it.
///
/// # Errors
/// If the name cannot be a file's or is taken.
pub fn check_name(id: &str) -> anyhow::Result<()> {
    plain(id).map_err(|why| UsageError(format!("--bench {id}: {why}")))?;
    let path = Path::new(files::DEFAULT_DIR).join(format!("{id}.yaml"));
    if path.exists() {
        return Err(UsageError(format!("--bench {id}: {} is there already: give another name", path.display())).into());
    }
    Ok(())
}
