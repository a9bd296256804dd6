//! The right of one process to write a state, in plain files, so that it works where file locks do not.
//!
//! `lease/epoch-<n>` are claims: each is created by exactly one process (a hard link or an exclusive creation, never
//! over an existing file), and the highest one holds the state. `lease.json` repeats the holder and carries its
//! heartbeat. The highest claim is never removed, so numbers only grow: a process that was overtaken sees a higher
//! one. Its content also names the folder of the database. Ages are differences between modification times that the same file system gave, so that clocks of hosts that
//! disagree do no harm; the times inside the files are for people.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::fence;
use super::files::{create_dirs, io_error, write_atomic};
use super::lease_files::{
    CLAIMS, FILE, LeaseHolder, beat, claim, claim_path, encode, highest_claim, myself, now, read_holder,
    remove_claims_below,
};
use super::process;
use super::standing::{Standing, Verdict};
use crate::model::StoreError;
use crate::model::store::Lease;

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
    /// Takes the state over whoever holds it, in a copy of the database, so that a holder which is alive after all does
    /// no harm.
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

/// The lease, held until it is dropped.
#[derive(Debug)]
pub struct FileLease {
    dir: PathBuf,
    holder: LeaseHolder,
    stop: Arc<(Mutex<bool>, Condvar)>,
    beating: Option<JoinHandle<()>>,
}

impl FileLease {
    /// Takes the lease of the state in `dir`, which is created if need be. From a holder that is not gone for certain
    /// the state is taken in a copy of its database (see `fence.rs`); [`FileLease::folder`] says where it lies.
    ///
    /// # Errors
    /// [`StoreError::Lease`], naming the holder, while it is or may be alive: a live process on this host, or one on
    /// another host whose heartbeat is younger than the time to live. A holder that is provably gone (its process
    /// ended, its host was booted since) is succeeded at once, and so is an earlier attempt of the same job. Any other
    /// error if the database had to be copied and could not be.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for the call")]
    pub fn acquire(dir: impl AsRef<Path>, options: LeaseOptions) -> Result<Self, StoreError> {
        let dir = dir.as_ref().to_owned();
        create_dirs(&dir.join(CLAIMS))?;
        for attempt in 0..TRIES {
            if attempt > 0 {
                thread::sleep(Duration::from_millis(25));
            }
            let standing = Standing::read(&dir)?;
            let verdict = standing.verdict(&dir, &options)?;
            // A claim without content is being written at this moment, or its writer died there.
            if verdict != Verdict::Free && standing.holder.is_none() && attempt + 1 < TRIES {
                continue;
            }
            let fenced = match verdict {
                Verdict::Free => false,
                Verdict::Silent => true,
                Verdict::Held(_) if options.take_over => true,
                Verdict::Held(reason) => return Err(StoreError::Lease(reason)),
            };
            let (folder, unfinished) = standing.place(&dir)?;
            let number = standing.claim.max(fence::newest(&dir).unwrap_or(0)) + 1;
            let mut holder = myself(number, &options);
            if fenced || unfinished {
                holder.folder = fence::name(number);
                holder.copied_from = Some(folder);
            } else {
                holder.folder = folder;
            }
            if claim(&dir, &holder)? {
                let lease = Self::begin(dir, holder, &options)?;
                fence::copy(&lease.dir, &lease.holder, standing.holder, || lease.check())?;
                fence::sweep(&lease.dir, &lease.holder.folder, &options.host);
                return Ok(lease);
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

    /// The folder with the database that belongs to this claim.
    pub fn folder(&self) -> PathBuf {
        self.dir.join(&self.holder.folder)
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
