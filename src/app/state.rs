//! A state's folder: opened for work under its lease, or looked at.
//!
//! Besides what the store keeps there, `status.json` says what a run is doing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::UsageError;
use crate::model::StoreError;
use crate::model::plan::{PLAN_FORMAT, Plan};
use crate::model::store::{Lease, Store};
use crate::model::text::TextStore;
use crate::store::locks::{Locks, probe};
use crate::store::{FileLease, FileTexts, LeaseOptions, OpenOptions, Salvaged, SledStore, holds_state};

/// The meta value that holds the plan.
pub const PLAN: &str = "plan";
/// The meta value that counts attempts.
pub const ATTEMPTS: &str = "attempts";
/// The meta value that holds when the state was begun.
pub const CREATED: &str = "created";
/// The meta value that is there while the last run was given a part of its input only, as in `2 of 8`.
pub const LIMITED: &str = "limited";
/// What a state without a plan is, and what to do.
pub const NOT_BEGUN: &str =
    "it has not been run yet, or not since a repair began its database anew. Start `qaflow run` first";
/// Memory for documents' texts, in bytes.
const TEXT_CACHE: u64 = 64 << 20;

/// A state under this process's lease.
pub struct State {
    /// Its folder.
    pub dir: PathBuf,
    /// The database.
    pub store: Arc<SledStore>,
    /// The documents' texts.
    pub texts: Arc<FileTexts>,
    /// The right to write.
    pub lease: Arc<FileLease>,
    /// What was saved, if the database was begun anew.
    pub salvaged: Option<Salvaged>,
}

/// How a state is opened.
#[derive(Clone, Copy, Debug)]
pub struct StateOptions {
    /// The most memory for the database's cache, in MiB.
    pub cache_mb: u32,
    /// The most memory for documents' texts, in bytes.
    pub text_cache: u64,
    /// How long a silent holder keeps the lease.
    pub lease: Duration,
    /// Whether a state that is not there is made.
    pub create: bool,
    /// Whether a database that lost its latest commits to damage is accepted; for repair.
    pub accept_loss: bool,
    /// Whether its database is begun anew with the model's answers that the files of the old one hold; for repair.
    pub salvage: bool,
    /// Whether it is taken from a holder that may be alive.
    pub take_over: bool,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self {
            cache_mb: 16,
            text_cache: TEXT_CACHE,
            lease: Duration::from_secs(60),
            create: false,
            accept_loss: false,
            salvage: false,
            take_over: false,
        }
    }
}

impl State {
    /// Takes the lease and opens the state.
    ///
    /// # Errors
    /// If another process works on it, if it is damaged or newer, or not there.
    pub fn open(dir: &Path, options: StateOptions) -> anyhow::Result<Self> {
        if options.create {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make the state's folder {}", dir.display()))?;
        } else if !holds_state(dir) {
            return Err(UsageError(format!(
                "{} holds no state: give --state the folder that `qaflow run` was given, or run first",
                dir.display()
            ))
            .into());
        }
        super::places::state_writable(dir)?;
        let lease = FileLease::acquire(
            dir,
            LeaseOptions {
                ttl: options.lease,
                job: slurm_job(),
                host: host(),
                take_over: options.take_over,
                ..LeaseOptions::default()
            },
        )?;
        let salvaged =
            options.salvage.then(|| SledStore::salvage(&lease.folder(), &[ATTEMPTS, CREATED])).transpose()?;
        let open = OpenOptions {
            cache_bytes: u64::from(options.cache_mb) << 20,
            create: options.create,
            accept_loss: options.accept_loss,
            ..OpenOptions::default()
        };
        let (store, notices) = SledStore::open(lease.folder(), open)?;
        for notice in notices {
            tracing::warn!("{notice}");
        }
        let texts = FileTexts::open(dir, options.text_cache)?;
        Ok(Self { dir: dir.into(), store: Arc::new(store), texts: Arc::new(texts), lease: Arc::new(lease), salvaged })
    }

    /// The store as its trait.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    /// The texts as their trait.
    pub fn texts(&self) -> Arc<dyn TextStore> {
        Arc::clone(&self.texts) as Arc<dyn TextStore>
    }

    /// The lease as its trait.
    pub fn lease(&self) -> Arc<dyn Lease> {
        Arc::clone(&self.lease) as Arc<dyn Lease>
    }

    /// The plan of the last run.
    ///
    /// # Errors
    /// If there is none, or a newer program wrote it.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let none = || UsageError(format!("{} holds no plan: {NOT_BEGUN}", self.dir.display()));
        Ok(self.known_plan()?.ok_or_else(none)?)
    }

    /// The plan of the last run; `None` if no run has begun the state, or none since a repair began its database anew.
    ///
    /// # Errors
    /// If it cannot be read, or a newer program wrote it.
    pub fn known_plan(&self) -> Result<Option<Plan>, StoreError> {
        self.store.meta(PLAN)?.map(|bytes| read_plan(&bytes)).transpose()
    }

    /// How many processes have worked on the state.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn attempts(&self) -> Result<u64, StoreError> {
        Ok(self.text(ATTEMPTS)?.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// A text among the meta values.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn text(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.store.meta(name)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn read_plan(bytes: &[u8]) -> Result<Plan, StoreError> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| damaged_plan(&error))?;
    let found = value["format"].as_u64().unwrap_or(0) as u32;
    if found > PLAN_FORMAT {
        return Err(StoreError::Newer { what: "the state's plan".into(), found, known: PLAN_FORMAT });
    }
    serde_json::from_value(value).map_err(|error| damaged_plan(&error))
}

fn damaged_plan(error: &serde_json::Error) -> StoreError {
    StoreError::Damaged {
        what: "the state's plan".into(),
        detail: error.to_string(),
        remedy: "Start `qaflow run` again: it writes the plan anew".into(),
    }
}

/// The state that a command means: the one named, else the only one below `state/`.
///
/// # Errors
/// If none is named and there is not exactly one.
pub fn resolve(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = named {
        return Ok(dir.into());
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("state")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| holds_state(path))
        .collect();
    found.sort();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(UsageError("no state was found below state/: name one with --state".into()).into()),
        _ => {
            let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
            Err(UsageError(format!("there are several states, name one with --state: {}", names.join(", "))).into())
        }
    }
}

/// The Slurm job that this process belongs to, the array task included: a requeued job keeps it.
pub fn slurm_job() -> Option<String> {
    let id = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (id("SLURM_ARRAY_JOB_ID"), id("SLURM_ARRAY_TASK_ID"), id("SLURM_JOB_ID")) {
        (Some(job), Some(task), _) => Some(format!("slurm {job}_{task}")),
        (_, _, Some(job)) => Some(format!("slurm {job}")),
        _ => None,
    }
}

/// Whether file locks hold in a folder, found out with a second process of this program.
pub fn locks(dir: &Path) -> Locks {
    match std::env::current_exe() {
        Ok(program) => probe(dir, &program),
        Err(error) => Locks::Unknown(error.to_string()),
    }
}

/// This machine's name.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
