//! The files of the lease: who holds a state, as claims and a heartbeat; read and written whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::files::{io_error, temporary_name, write_atomic, write_synced};
use super::lease::LeaseOptions;
use super::process;
use super::standing::Standing;
use crate::model::StoreError;

/// The newest format of the lease's files: 2 has `folder` and `copied_from`.
const FORMAT: u32 = 2;
/// The holder with its heartbeat.
pub(super) const FILE: &str = "lease.json";
/// The folder of the claims.
pub(super) const CLAIMS: &str = "lease";

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
    /// How many seconds it may be silent before another may take the state over.
    #[serde(default = "usual_ttl")]
    pub ttl_seconds: u64,
    /// Whether it has given the state back.
    pub released: bool,
    /// The folder, below the state's, in which its database lies; empty: the state's folder itself.
    #[serde(default)]
    pub folder: String,
    /// The folder whose database is copied to `folder` before anything else, since its holder may still write to it.
    /// The copy is complete as soon as `folder` exists.
    #[serde(default)]
    pub copied_from: Option<String>,
}

fn usual_ttl() -> u64 {
    60
}

impl LeaseHolder {
    /// Who holds the state in `dir` as far as its files say; `None` if nobody does.
    pub fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        Ok(Standing::read(dir)?.holder.filter(|holder| !holder.released))
    }

    /// For people: process, host and job.
    pub fn describe(&self) -> String {
        let job = self.job.as_ref().map_or(String::new(), |job| format!(", job {job}"));
        format!("process {} on host {}{job}", self.pid, self.host)
    }
}

pub(super) fn myself(epoch: u64, options: &LeaseOptions) -> LeaseHolder {
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
        ttl_seconds: options.ttl.as_secs(),
        released: false,
        folder: String::new(),
        copied_from: None,
    }
}

pub(super) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

pub(super) fn encode(holder: &LeaseHolder) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec_pretty(holder).map_err(|e| StoreError::Lease(format!("cannot write the lease: {e}")))
}

pub(super) fn claim_path(dir: &Path, epoch: u64) -> PathBuf {
    dir.join(CLAIMS).join(format!("epoch-{epoch}"))
}

pub(super) fn claims(dir: &Path) -> io::Result<Vec<u64>> {
    let number = |name: &std::ffi::OsStr| name.to_str()?.strip_prefix("epoch-")?.parse().ok();
    fs::read_dir(dir.join(CLAIMS))?.map(|entry| Ok(number(&entry?.file_name()))).filter_map(Result::transpose).collect()
}

pub(super) fn highest_claim(dir: &Path) -> Result<u64, StoreError> {
    match claims(dir) {
        Ok(claims) => Ok(claims.into_iter().max().unwrap_or(0)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(io_error("cannot read the folder", &dir.join(CLAIMS), &e)),
    }
}

pub(super) fn remove_claims_below(dir: &Path, epoch: u64) {
    for old in claims(dir).unwrap_or_default().into_iter().filter(|n| *n < epoch) {
        let _ = fs::remove_file(claim_path(dir, old));
    }
}

/// A holder and when its file was written; `None` if the file is not there or is not whole.
pub(super) fn read_holder(path: &Path) -> Result<Option<(LeaseHolder, SystemTime)>, StoreError> {
    let read = || -> io::Result<(Vec<u8>, SystemTime)> {
        let mut file = File::open(path)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes)?;
        Ok((bytes, file.metadata()?.modified()?))
    };
    match read() {
        Ok((bytes, heard)) => match serde_json::from_slice::<LeaseHolder>(&bytes) {
            Ok(holder) if holder.format > FORMAT => {
                Err(StoreError::Newer { what: path.display().to_string(), found: holder.format, known: FORMAT })
            }
            read => Ok(read.ok().map(|holder| (holder, heard))),
        },
        // On NFS a file that was just replaced can be stale.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle) => Ok(None),
        Err(e) => Err(io_error("cannot read", path, &e)),
    }
}

pub(super) fn is_released(dir: &Path, epoch: u64) -> Result<bool, StoreError> {
    Ok(read_holder(&claim_path(dir, epoch))?.is_some_and(|(holder, _)| holder.released))
}

/// Creates the claim; false if another process has created it.
pub(super) fn claim(dir: &Path, holder: &LeaseHolder) -> Result<bool, StoreError> {
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

pub(super) fn beat(dir: &Path, holder: &LeaseHolder) -> Result<(), StoreError> {
    write_atomic(&dir.join(FILE), &encode(&LeaseHolder { heartbeat: now(), ..holder.clone() })?)
}
