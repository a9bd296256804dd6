//! Whether a state may be taken: who holds it, whether that process is gone, and where its database lies.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::fence;
use super::files::{io_error, temporary_name};
use super::lease::LeaseOptions;
use super::lease_files::{CLAIMS, FILE, LeaseHolder, claim_path, claims, highest_claim, is_released, read_holder};
use super::process;
use crate::model::StoreError;

/// What the files say at one moment.
pub(super) struct Standing {
    /// The highest claim; 0 if there never was one.
    pub(super) claim: u64,
    /// Its holder; `None` if there is no claim or it cannot be read.
    pub(super) holder: Option<LeaseHolder>,
    /// When the holder last wrote, by the file system's clock.
    heard: Option<SystemTime>,
}

/// Whether the state may be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody holds it: it was given back, or its holder is gone for certain.
    Free,
    /// Its holder has been silent for too long, or its job was started again elsewhere; that it is gone for certain is
    /// not known.
    Silent,
    /// Somebody holds it; the words say who.
    Held(String),
}

impl Standing {
    pub(super) fn read(dir: &Path) -> Result<Self, StoreError> {
        let mut claim = highest_claim(dir)?;
        let current = read_holder(&dir.join(FILE))?;
        if let Some((holder, heard)) = current {
            if holder.epoch > claim || (holder.epoch == claim && !is_released(dir, claim)?) {
                // The heartbeat's file is as good as the claim, should the folder's listing be behind.
                return Ok(Self { claim: holder.epoch, holder: Some(holder), heard: Some(heard) });
            }
            claim = claim.max(holder.epoch);
        }
        if claim == 0 {
            return Ok(Self { claim, holder: None, heard: None });
        }
        let path = claim_path(dir, claim);
        Ok(match read_holder(&path)? {
            Some((holder, heard)) => Self { claim, holder: Some(holder), heard: Some(heard) },
            None => Self { claim, holder: None, heard: fs::metadata(&path).and_then(|m| m.modified()).ok() },
        })
    }

    /// Whether the state may be taken by a process with these options, whatever they say of taking over.
    pub(super) fn verdict(&self, dir: &Path, options: &LeaseOptions) -> Result<Verdict, StoreError> {
        if self.claim == 0 {
            return Ok(Verdict::Free);
        }
        let age = self.age(dir)?;
        let wait = options.ttl.saturating_sub(age).as_secs() + 1;
        let what_to_do = format!(
            "stop it first, or, if it is gone, run the same command again in {wait} s (a heartbeat counts for {} s); \
             `qaflow status` shows what it does meanwhile, and `qaflow run` with --take-over goes on without it at once",
            options.ttl.as_secs()
        );
        let Some(holder) = &self.holder else {
            return Ok(if age > options.ttl {
                Verdict::Silent
            } else {
                Verdict::Held(format!("the state {} is being taken by another process: {what_to_do}", dir.display()))
            });
        };
        if is_gone(holder, &options.host) {
            return Ok(Verdict::Free);
        }
        let who = format!(
            "the state {} is in use by {}, last heard of {} s ago",
            dir.display(),
            holder.describe(),
            age.as_secs()
        );
        if runs_here(holder) {
            return Ok(Verdict::Held(format!(
                "{who}, which is running: wait for it to end, or stop it, then run the same command again. If it hangs, \
                 `qaflow run` with --take-over goes on without it"
            )));
        }
        let requeued = holder.host != options.host && options.job.is_some() && holder.job == options.job;
        if requeued || age > options.ttl {
            return Ok(Verdict::Silent);
        }
        Ok(Verdict::Held(format!("{who}: {what_to_do}")))
    }

    /// The folder of the newest whole database, below the state's folder, and whether the holder of the highest claim
    /// was still copying it into another.
    pub(super) fn place(&self, dir: &Path) -> Result<(String, bool), StoreError> {
        let holder = match &self.holder {
            Some(holder) => Some(holder.clone()),
            None => latest_readable(dir)?,
        };
        let Some(holder) = holder else {
            // Without any claim, as after somebody removed them: the newest copy is the one in use.
            return Ok((fence::newest(dir).map_or_else(String::new, fence::name), false));
        };
        fence::checked(dir, &holder.folder)?;
        match &holder.copied_from {
            Some(from) if !dir.join(&holder.folder).is_dir() => {
                fence::checked(dir, from)?;
                Ok((from.clone(), true))
            }
            _ => Ok((holder.folder, false)),
        }
    }

    /// How long ago the holder last wrote, by the clock of the file system that holds both files.
    fn age(&self, dir: &Path) -> Result<Duration, StoreError> {
        self.heard.map_or(Ok(Duration::ZERO), |heard| age_of(dir, heard))
    }
}

/// What the lease says of a process that worked on a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// It runs on this host.
    Alive,
    /// It holds the state as far as the files say, and runs where this process cannot look: gone when it is silent for
    /// longer than this.
    Claimed {
        /// How long it may be silent.
        lease: Duration,
    },
    /// It can write no more: its process ended, it gave the state back, or another process has it.
    Gone,
    /// The files do not say.
    Unknown,
}

/// What the lease of the state in `dir` says of process `pid` of `host`, seen from the host `here`. Only reads.
pub fn holding(dir: &Path, pid: u32, host: &str, here: &str) -> Holding {
    let Ok(Standing { holder: Some(holder), .. }) = Standing::read(dir) else { return Holding::Unknown };
    if (holder.pid, holder.host.as_str()) != (pid, host) || is_gone(&holder, here) {
        Holding::Gone
    } else if runs_here(&holder) {
        Holding::Alive
    } else {
        Holding::Claimed { lease: Duration::from_secs(holder.ttl_seconds) }
    }
}

/// How long ago `then` was, by the clock of the state's file system.
pub(super) fn age_of(dir: &Path, then: SystemTime) -> Result<Duration, StoreError> {
    let probe = temporary_name(&dir.join(CLAIMS).join("probe"));
    let made = File::create_new(&probe).and_then(|file| file.metadata()).and_then(|m| m.modified());
    let _ = fs::remove_file(&probe);
    let now = made.map_err(|e| io_error("cannot write", &probe, &e))?;
    Ok(now.duration_since(then).unwrap_or_default())
}

/// Whether a holder can write no more: it gave the state back, its process ended, or its host was booted since. Only
/// a process of this host's same boot, or another boot of this host, can be judged so.
pub(super) fn is_gone(holder: &LeaseHolder, host: &str) -> bool {
    if holder.released {
        return true;
    }
    if seen_from_here(holder) {
        return process::start_time(holder.pid) != Some(holder.pid_start);
    }
    let same_host = holder.host == host && !matches!(host, "" | "localhost");
    same_host && !holder.boot_id.is_empty() && holder.boot_id != process::boot_id()
}

fn runs_here(holder: &LeaseHolder) -> bool {
    seen_from_here(holder) && process::start_time(holder.pid) == Some(holder.pid_start)
}

fn seen_from_here(holder: &LeaseHolder) -> bool {
    let same_boot = !holder.boot_id.is_empty() && holder.boot_id == process::boot_id();
    same_boot && holder.pid_namespace == process::pid_namespace()
}

/// The holder of the highest claim that can be read.
fn latest_readable(dir: &Path) -> Result<Option<LeaseHolder>, StoreError> {
    let mut numbers = claims(dir).unwrap_or_default();
    numbers.sort_unstable();
    for number in numbers.into_iter().rev() {
        if let Some((holder, _)) = read_holder(&claim_path(dir, number))? {
            return Ok(Some(holder));
        }
    }
    Ok(read_holder(&dir.join(FILE))?.map(|(holder, _)| holder))
}
