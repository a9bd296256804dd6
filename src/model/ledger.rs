//! The ledger of attempts: what each process of a run held, used and brought about, as the store keeps it.
//!
//! One record an attempt, JSON with a format version, under the meta value `ledger/<number in 8 digits>`. It is
//! written when the attempt begins, every few seconds, and when it ends; the next attempt closes a record that was
//! left running. GPU time is counted as held (GPUs times wall time), not as busy: that is what a cluster charges for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::payload::Usage;
use super::record::{ModelCounts, StageCounts};

/// The newest format of an attempt record that this program reads.
pub const LEDGER_FORMAT: u32 = 1;

/// The meta value that holds attempt `number` (from 1).
pub fn record_name(number: u64) -> String {
    format!("ledger/{number:08}")
}

/// One process of a run: what it held, used and brought about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The format of this record.
    pub format: u32,
    /// The attempt's number, from 1.
    pub number: u64,
    /// The scheduler's job, as in `slurm 4711` or `slurm 4711_3`, if it ran in one.
    pub job: Option<String>,
    /// The machine's name.
    pub node: String,
    /// How often the scheduler had restarted the job, if it says so.
    pub restart_count: Option<u32>,
    /// When it began (RFC 3339).
    pub started: String,
    /// When this record was last written (RFC 3339).
    pub updated: String,
    /// When it ended (RFC 3339); of an attempt that was killed, its last tick.
    pub ended: Option<String>,
    /// How it ended.
    pub end: AttemptEnd,
    /// Seconds from its beginning to its end, or to the last tick.
    pub seconds: f64,
    /// The GPUs that it held.
    pub gpus: Vec<GpuHeld>,
    /// Where the knowledge about its GPUs comes from.
    pub gpu_source: GpuSource,
    /// GPUs held times seconds.
    pub gpu_seconds: f64,
    /// Mean utilisation of its GPUs, 0 to 1, where it was measured.
    pub gpu_utilization_mean: Option<f64>,
    /// The most memory in use on one of its GPUs, in bytes, where it was measured.
    pub gpu_memory_max_bytes: Option<u64>,
    /// Energy that its GPUs used, in joules, where it was measured.
    pub energy_joules: Option<f64>,
    /// Processor seconds of the process and the workers that it has waited for.
    pub cpu_seconds: f64,
    /// Mean resident memory of the process, in bytes.
    pub memory_mean_bytes: u64,
    /// The most resident memory of the process, in bytes.
    pub memory_max_bytes: u64,
    /// Model answers received and kept in this attempt.
    pub calls: u64,
    /// Prompt tokens of those answers.
    pub prompt_tokens: u64,
    /// Those of the prompt tokens that came from the server's prefix cache.
    pub cached_tokens: u64,
    /// Completion tokens of those answers.
    pub completion_tokens: u64,
    /// What changed in each stage's account within this attempt, by the stage's name.
    pub items: BTreeMap<String, StageCounts>,
    /// Documents of which the last item ended in this attempt.
    pub documents_done: u64,
    /// GPU-hours by which this attempt's command asked to extend the budget.
    pub budget_extension_asked: Option<f64>,
    /// GPU-hours by which it was extended: 0 where the same command only went on after an interruption.
    pub budget_extended_gpu_hours: f64,
    /// Whether the used-up budget ended the attempt.
    pub budget_stopped: bool,
    /// The accounts when the attempt began, from which the changes above are computed; with what earlier attempts had
    /// done and had to be done again, by a repair or a retry, so that it is counted once.
    pub at_start: Accounts,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "lowercase")]
pub enum AttemptEnd {
    /// It has not ended, or it was killed and no later attempt has noticed yet.
    Running,
    /// Every item had ended.
    Finished,
    /// It was asked to stop.
    Interrupted {
        /// By what.
        reason: String,
    },
    /// An error ended it.
    Failed {
        /// Which.
        reason: String,
    },
    /// It ended without a word: the next attempt found its record still running.
    Killed,
}

impl AttemptRecord {
    /// The accounts when it ended, or when it was last written.
    pub fn at_end(&self) -> Accounts {
        let model = ModelCounts {
            calls: self.calls,
            usage: Usage {
                prompt_tokens: self.prompt_tokens,
                completion_tokens: self.completion_tokens,
                cached_tokens: self.cached_tokens,
            },
        };
        let mut accounts = self.at_start.clone();
        accounts.model = accounts.model.with(model, u64::saturating_add);
        accounts.documents_done += self.documents_done;
        for (name, account) in &mut accounts.stages {
            let since = self.items.get(name).copied().unwrap_or_default();
            account.counts = account.counts.with(since, u64::saturating_add);
        }
        accounts
    }
}

impl AttemptEnd {
    /// Its name, as in the records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Interrupted { .. } => "interrupted",
            Self::Failed { .. } => "failed",
            Self::Killed => "killed",
        }
    }
}

/// A GPU that an attempt held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuHeld {
    /// Its UUID as NVML names it; `held-0` or `simulated-0` and so on for those that were not asked.
    pub uuid: String,
    /// Its name, such as `NVIDIA A100-SXM4-80GB`.
    pub name: String,
    /// Its memory, in bytes; 0 if unknown.
    pub memory_bytes: u64,
}

/// Where the knowledge about GPUs comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum GpuSource {
    /// The NVIDIA management library on this machine.
    Nvml,
    /// `telemetry.gpu: {held: N}`: the configuration says how many GPUs are held, nothing is measured.
    Configured,
    /// `telemetry.gpu: {simulated: N}`: a rehearsal; no figure is real.
    Simulated,
    /// No GPU is counted.
    None {
        /// Why not.
        reason: String,
    },
}

impl GpuSource {
    /// Its name, as in the records.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nvml => "nvml",
            Self::Configured => "configured",
            Self::Simulated => "simulated",
            Self::None { .. } => "none",
        }
    }
}

/// The store's accounts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// Model answers and their tokens.
    pub model: ModelCounts,
    /// The account of each stage, by its name.
    pub stages: BTreeMap<String, StageAccount>,
    /// Documents of which every item had ended.
    pub documents_done: u64,
}

/// The account of one stage, with the name space that it is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageAccount {
    /// The stage's name space, in hexadecimal.
    pub key: String,
    /// The account.
    pub counts: StageCounts,
}

impl Accounts {
    /// These accounts, each count at least as high as in `before`: what was done then and has to be done again is known to
    /// have been done. Of stages only those with the same name space count, and documents only where all stages have
    /// the same: another configuration does them anew. Dead items that are tried again are no longer dead.
    #[must_use]
    pub fn at_least(mut self, before: &Self) -> Self {
        let same = |name: &String, key: &str| before.stages.get(name).filter(|old| old.key == key);
        if self.stages.len() == before.stages.len()
            && self.stages.iter().all(|(name, account)| same(name, &account.key).is_some())
        {
            self.documents_done = self.documents_done.max(before.documents_done);
        }
        for (name, account) in &mut self.stages {
            if let Some(old) = same(name, &account.key) {
                let now = account.counts;
                account.counts = now.with(old.counts, u64::max);
                if now.admitted >= old.counts.admitted {
                    account.counts.dead = now.dead;
                }
            }
        }
        self.model = self.model.with(before.model, u64::max);
        self
    }

    /// What changed from `before` to this, of the stages that `before` knows. A count that went down (a dead item
    /// made pending again between attempts) counts as no change.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let stages = before.stages.iter().map(|(name, old)| {
            let new = self.stages.get(name).filter(|new| new.key == old.key).map_or(old.counts, |new| new.counts);
            let counts = new.with(old.counts, u64::saturating_sub);
            (name.clone(), StageAccount { key: old.key.clone(), counts })
        });
        Self {
            model: self.model.with(before.model, u64::saturating_sub),
            stages: stages.collect(),
            documents_done: self.documents_done.saturating_sub(before.documents_done),
        }
    }
}

/// Sums over attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerTotals {
    /// How many attempts there were.
    pub attempts: u64,
    /// How many of them were killed.
    pub killed: u64,
    /// Seconds at work.
    pub seconds: f64,
    /// GPUs held times seconds.
    pub gpu_seconds: f64,
    /// Those of the GPU-seconds that are of a rehearsal with simulated GPUs.
    pub simulated_gpu_seconds: f64,
    /// Energy in joules, where it was measured.
    pub energy_joules: Option<f64>,
    /// Processor seconds.
    pub cpu_seconds: f64,
    /// The most resident memory of any attempt, in bytes.
    pub memory_max_bytes: u64,
    /// Model answers received and kept.
    pub calls: u64,
    /// Prompt tokens of those answers.
    pub prompt_tokens: u64,
    /// Those of the prompt tokens that came from the server's prefix cache.
    pub cached_tokens: u64,
    /// Completion tokens of those answers.
    pub completion_tokens: u64,
    /// Documents done.
    pub documents_done: u64,
    /// GPU-hours by which the budget was extended.
    pub budget_extended_gpu_hours: f64,
}

impl LedgerTotals {
    /// The sums over `attempts`.
    pub fn of(attempts: &[AttemptRecord]) -> Self {
        let mut totals = Self::default();
        for one in attempts {
            totals.attempts += 1;
            totals.killed += u64::from(one.end == AttemptEnd::Killed);
            totals.seconds += one.seconds;
            totals.gpu_seconds += one.gpu_seconds;
            if one.gpu_source == GpuSource::Simulated {
                totals.simulated_gpu_seconds += one.gpu_seconds;
            }
            if let Some(joules) = one.energy_joules {
                *totals.energy_joules.get_or_insert(0.0) += joules;
            }
            totals.cpu_seconds += one.cpu_seconds;
            totals.memory_max_bytes = totals.memory_max_bytes.max(one.memory_max_bytes);
            totals.calls += one.calls;
            totals.prompt_tokens += one.prompt_tokens;
            totals.cached_tokens += one.cached_tokens;
            totals.completion_tokens += one.completion_tokens;
            totals.documents_done += one.documents_done;
            totals.budget_extended_gpu_hours += one.budget_extended_gpu_hours;
        }
        totals
    }

    /// GPU-hours held.
    pub fn gpu_hours(&self) -> f64 {
        self.gpu_seconds / 3600.0
    }
}
