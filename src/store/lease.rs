//! The right of one process to write a state, in plain files, so that it works where file locks do not.
//!
//! `lease/epoch-<n>` are claims: each is created by exactly one process (a hard link or an exclusive creation, never
//! over an existing file), and the highest one holds the state. `lease.json` repeats the holder and carries its
//! heartbeat. The highest claim is never removed, so numbers only grow: a process that was overtaken sees a higher
//! one. Ages are differences between modification times that the same file system gave, so that clocks of hosts that
//! disagree do no harm; the times inside the files are for people.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::files::{create_dirs, io_error, temporary_name, write_atomic, write_synced};
use super::process;
use crate::model::StoreError;
use crate::model::store::Lease;

/// The newest format of the lease's files.
const FORMAT: u32 = 1;
const FILE: &str = "lease.json";
const CLAIMS: &str = "lease";
/// How often a claim that was lost to another process, or is being written, is looked at again.
const TRIES: u32 = 40;

/// How to hold the lease.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// The age of a heartbeat from which a holder on another host counts as gone.
    pub ttl: Duration,
    /// How often the heartbeat is written.
    pub heartbeat: Duration,
    /// This host's name.
    pub host: String,
    /// The batch job this process runs in, such as `slurm 4711_3`: the same for every attempt of one job, so that a
    /// requeued attempt succeeds the one before it at once.
    pub job: Option<String>,
    /// Takes the state over whoever holds it: for people who know that the holder is gone.
    pub take_over: bool,
}

impl Default for LeaseOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            heartbeat: Duration::from_secs(5),
            host: process::host_name(),
            job: None,
            take_over: false,
        }
    }
}

/// Who holds a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseHolder {
    /// The format of this file.
    pub format: u32,
    /// The number of the claim: how often the state was taken before, plus one.
    pub epoch: u64,
    /// A random name of this holding.
    pub id: String,
    /// The holder's host.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// When that process started, in clock ticks since boot; tells a process from a later one with the same number.
    pub pid_start: u64,
    /// The boot of the host's kernel.
    pub boot_id: String,
    /// The name space in which `pid` counts: containers on one host have different ones.
    pub pid_namespace: String,
    /// The batch job.
    pub job: Option<String>,
    /// When the holder last said that it is there, RFC 3339, by its own clock.
    pub heartbeat: String,
    /// Whether it has given the state back.
    pub released: bool,
}

impl LeaseHolder {
    /// Who holds the state in `dir` as far as its files say; `None` if nobody does.
    pub fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        Ok(Standing::read(dir)?.holder.filter(|holder| !holder.released))
    }

    fn describe(&self) -> String {
        let job = self.job.as_ref().map_or(String::new(), |job| format!(", job {job}"));
        format!("process {} on host {}{job}", self.pid, self.host)
    }
}

/// The lease, held until it is dropped.
#[derive(Debug)]
pub struct FileLease {
    dir: PathBuf,
    holder: LeaseHolder,
    stop: Arc<(Mutex<bool>, Condvar)>,
    beating: Option<JoinHandle<()>>,
}

impl FileLease {
    /// Takes the lease of the state in `dir`, which is created if need be.
    ///
    /// # Errors
    /// [`StoreError::Lease`], naming the holder, while it is or may be alive: a live process on this host, or one on
    /// another host whose heartbeat is younger than the time to live. A holder that is provably gone (its process
    /// ended, its host was booted since, its job was started again elsewhere) is succeeded at once.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for the call")]
    pub fn acquire(dir: impl AsRef<Path>, options: LeaseOptions) -> Result<Self, StoreError> {
        let dir = dir.as_ref().to_owned();
        create_dirs(&dir.join(CLAIMS))?;
        for attempt in 0..TRIES {
            if attempt > 0 {
                thread::sleep(Duration::from_millis(25));
            }
            let standing = Standing::read(&dir)?;
            if let Some(reason) = standing.refusal(&dir, &options)? {
                // A claim without content is being written at this moment, or its writer died there.
                if standing.holder.is_none() && attempt + 1 < TRIES {
                    continue;
                }
                return Err(StoreError::Lease(reason));
            }
            let holder = myself(standing.claim + 1, &options);
            if claim(&dir, &holder)? {
                return Self::begin(dir, holder, &options);
            }
        }
        Err(StoreError::Lease(format!(
            "the state {} is being taken by several processes at once: run the same command again",
            dir.display()
        )))
    }

    fn begin(dir: PathBuf, holder: LeaseHolder, options: &LeaseOptions) -> Result<Self, StoreError> {
        let mut lease = Self { dir, holder, stop: Arc::default(), beating: None };
        beat(&lease.dir, &lease.holder)?;
        lease.check()?;
        remove_claims_below(&lease.dir, lease.holder.epoch);
        let (dir, holder, stop) = (lease.dir.clone(), lease.holder.clone(), Arc::clone(&lease.stop));
        let every = options.heartbeat;
        let thread = thread::Builder::new().name("lease".into()).spawn(move || heartbeats(&dir, &holder, every, &stop));
        lease.beating = Some(thread.map_err(|e| io_error("cannot start the heartbeat of", &lease.dir, &e))?);
        Ok(lease)
    }

    /// The number of this claim.
    pub fn epoch(&self) -> u64 {
        self.holder.epoch
    }

    /// This process as holder.
    pub fn holder(&self) -> &LeaseHolder {
        &self.holder
    }

    fn taken_over(&self) -> Result<Option<StoreError>, StoreError> {
        overtaken(&self.dir, self.holder.epoch).map(|by| {
            by.map(|by| {
                StoreError::Lease(format!(
                    "the state {} was taken over by {by}: this process stops without writing any more; what it had \
                     committed is kept",
                    self.dir.display()
                ))
            })
        })
    }
}

impl Lease for FileLease {
    /// Costs reading one small file and one small folder.
    fn check(&self) -> Result<(), StoreError> {
        self.taken_over()?.map_or(Ok(()), Err)
    }
}

impl Drop for FileLease {
    fn drop(&mut self) {
        let (stop, wake) = &*self.stop;
        *stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        wake.notify_all();
        if let Some(thread) = self.beating.take() {
            let _ = thread.join();
        }
        if !matches!(self.taken_over(), Ok(None)) {
            return;
        }
        // First the claim, which counts, then the file for people.
        let released = LeaseHolder { released: true, heartbeat: now(), ..self.holder.clone() };
        let written = encode(&released).and_then(|text| write_atomic(&claim_path(&self.dir, released.epoch), &text));
        if let Err(error) = written {
            tracing::warn!("giving the lease back: {error}");
            return;
        }
        let _ = fs::remove_file(self.dir.join(FILE));
    }
}

/// What the files say at one moment.
struct Standing {
    /// The highest claim; 0 if there never was one.
    claim: u64,
    /// Its holder; `None` if there is no claim or it cannot be read.
    holder: Option<LeaseHolder>,
    /// When the holder last wrote, by the file system's clock.
    heard: Option<SystemTime>,
}

impl Standing {
    fn read(dir: &Path) -> Result<Self, StoreError> {
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

    /// Why the state may not be taken; `None` if it may.
    fn refusal(&self, dir: &Path, options: &LeaseOptions) -> Result<Option<String>, StoreError> {
        if self.claim == 0 || options.take_over {
            return Ok(None);
        }
        let what_to_do = |age: Duration| {
            let wait = options.ttl.saturating_sub(age).as_secs() + 1;
            format!(
                "stop it first, or, if it is gone, run the same command again in {wait} s (a heartbeat counts for {} s); \
                 `qaflow status` shows what it does meanwhile",
                options.ttl.as_secs()
            )
        };
        let Some(holder) = &self.holder else {
            let age = self.age(dir)?;
            if age > options.ttl {
                return Ok(None);
            }
            return Ok(Some(format!(
                "the state {} is being taken by another process: {}",
                dir.display(),
                what_to_do(age)
            )));
        };
        if holder.released {
            return Ok(None);
        }
        let same_host = holder.host == options.host && !matches!(options.host.as_str(), "" | "localhost");
        let same_boot = !holder.boot_id.is_empty() && holder.boot_id == process::boot_id();
        if same_boot && holder.pid_namespace == process::pid_namespace() {
            if process::start_time(holder.pid) != Some(holder.pid_start) {
                return Ok(None);
            }
            return Ok(Some(format!(
                "the state {} is in use by {}, which is running: wait for it to end, or stop it, then run the same \
                 command again",
                dir.display(),
                holder.describe()
            )));
        }
        if same_host && !same_boot && !holder.boot_id.is_empty() {
            return Ok(None);
        }
        if holder.host != options.host && options.job.is_some() && holder.job == options.job {
            return Ok(None);
        }
        let age = self.age(dir)?;
        if age > options.ttl {
            return Ok(None);
        }
        Ok(Some(format!(
            "the state {} is in use by {}, last heard of {} s ago: {}",
            dir.display(),
            holder.describe(),
            age.as_secs(),
            what_to_do(age)
        )))
    }

    /// How long ago the holder last wrote, by the clock of the file system that holds both files.
    fn age(&self, dir: &Path) -> Result<Duration, StoreError> {
        let Some(heard) = self.heard else { return Ok(Duration::ZERO) };
        let probe = temporary_name(&dir.join(CLAIMS).join("probe"));
        let made = File::create_new(&probe).and_then(|file| file.metadata()).and_then(|m| m.modified());
        let _ = fs::remove_file(&probe);
        let now = made.map_err(|e| io_error("cannot write", &probe, &e))?;
        Ok(now.duration_since(heard).unwrap_or_default())
    }
}

fn myself(epoch: u64, options: &LeaseOptions) -> LeaseHolder {
    let pid = std::process::id();
    LeaseHolder {
        format: FORMAT,
        epoch,
        id: format!("{:032x}", fastrand::u128(..)),
        host: options.host.clone(),
        pid,
        pid_start: process::start_time(pid).unwrap_or_default(),
        boot_id: process::boot_id(),
        pid_namespace: process::pid_namespace(),
        job: options.job.clone(),
        heartbeat: now(),
        released: false,
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn encode(holder: &LeaseHolder) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec_pretty(holder).map_err(|e| StoreError::Lease(format!("cannot write the lease: {e}")))
}

fn claim_path(dir: &Path, epoch: u64) -> PathBuf {
    dir.join(CLAIMS).join(format!("epoch-{epoch}"))
}

fn claims(dir: &Path) -> io::Result<Vec<u64>> {
    let number = |name: &std::ffi::OsStr| name.to_str()?.strip_prefix("epoch-")?.parse().ok();
    fs::read_dir(dir.join(CLAIMS))?.map(|entry| Ok(number(&entry?.file_name()))).filter_map(Result::transpose).collect()
}

fn highest_claim(dir: &Path) -> Result<u64, StoreError> {
    match claims(dir) {
        Ok(claims) => Ok(claims.into_iter().max().unwrap_or(0)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(io_error("cannot read the folder", &dir.join(CLAIMS), &e)),
    }
}

fn remove_claims_below(dir: &Path, epoch: u64) {
    for old in claims(dir).unwrap_or_default().into_iter().filter(|n| *n < epoch) {
        let _ = fs::remove_file(claim_path(dir, old));
    }
}

/// A holder and when its file was written; `None` if the file is not there or is not whole.
fn read_holder(path: &Path) -> Result<Option<(LeaseHolder, SystemTime)>, StoreError> {
    let read = || -> io::Result<(Vec<u8>, SystemTime)> {
        let mut file = File::open(path)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes)?;
        Ok((bytes, file.metadata()?.modified()?))
    };
    match read() {
        Ok((bytes, heard)) => Ok(serde_json::from_slice(&bytes).ok().map(|holder| (holder, heard))),
        // On NFS a file that was just replaced can be stale.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle) => Ok(None),
        Err(e) => Err(io_error("cannot read", path, &e)),
    }
}

fn is_released(dir: &Path, epoch: u64) -> Result<bool, StoreError> {
    Ok(read_holder(&claim_path(dir, epoch))?.is_some_and(|(holder, _)| holder.released))
}

/// Creates the claim; false if another process has created it.
fn claim(dir: &Path, holder: &LeaseHolder) -> Result<bool, StoreError> {
    let path = claim_path(dir, holder.epoch);
    let temporary = temporary_name(&path);
    let text = encode(holder)?;
    write_synced(&temporary, &text)?;
    let linked = fs::hard_link(&temporary, &path);
    let _ = fs::remove_file(&temporary);
    match linked {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        // No hard links here: the claim is made first and filled then.
        Err(_) => match File::create_new(&path) {
            Ok(mut file) => io::Write::write_all(&mut file, &text)
                .and_then(|()| file.sync_all())
                .map(|()| true)
                .map_err(|e| io_error("cannot write", &path, &e)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(io_error("cannot write", &path, &e)),
        },
    }
}

/// Who has taken the state after claim `epoch`, if anybody has.
fn overtaken(dir: &Path, epoch: u64) -> Result<Option<String>, StoreError> {
    // Opening the file asks the server on network file systems; a listing may come from a cache.
    if let Some((holder, _)) = read_holder(&dir.join(FILE))?
        && holder.epoch > epoch
    {
        return Ok(Some(holder.describe()));
    }
    match highest_claim(dir)? {
        highest if highest > epoch => Ok(Some(
            read_holder(&claim_path(dir, highest))?.map_or("another process".into(), |(holder, _)| holder.describe()),
        )),
        highest if highest < epoch => Ok(Some("somebody who removed the lease's files".into())),
        _ => Ok(None),
    }
}

fn beat(dir: &Path, holder: &LeaseHolder) -> Result<(), StoreError> {
    write_atomic(&dir.join(FILE), &encode(&LeaseHolder { heartbeat: now(), ..holder.clone() })?)
}

/// Writes the heartbeat until told to stop or overtaken. Should it overwrite a successor's file in a race, the claims
/// still say who holds the state, and the successor's next heartbeat puts the file right.
fn heartbeats(dir: &Path, holder: &LeaseHolder, every: Duration, stop: &(Mutex<bool>, Condvar)) {
    let (stopped, wake) = stop;
    let mut guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        // The flag may have been set before this thread first waits.
        guard = wake.wait_timeout_while(guard, every, |stop| !*stop).unwrap_or_else(PoisonError::into_inner).0;
        if *guard {
            return;
        }
        match overtaken(dir, holder.epoch) {
            Ok(Some(_)) => return,
            Ok(None) => {
                if let Err(error) = beat(dir, holder) {
                    tracing::warn!("the lease's heartbeat: {error}");
                }
            }
            Err(error) => tracing::warn!("the lease's heartbeat: {error}"),
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
