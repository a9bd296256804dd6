//! Whether file locks work where a state lies, found out by trying: a file is locked here, and a second process tries to
//! lock it too. That shows whether they hold on this machine; whether they hold between machines is read from the mount.
//!
//! Nothing depends on the answer: the lease is made of plain files. A person should know it, since without locks the
//! lease alone keeps two processes apart.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use super::files::temporary_name;

/// What this program is started with to try a lock; the file's path follows.
pub const PROBE_ARGUMENT: &str = "lock-probe-process";
/// Exit codes of that process; others say that it could not try.
const FREE: u8 = 10;
const HELD: u8 = 11;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locks {
    /// They hold, as far as one machine can tell.
    Hold,
    /// They hold among the processes of this machine only; how the file system is mounted.
    HoldHere(String),
    /// They do not hold: two processes got the same lock, or there are none; what was seen.
    Absent(String),
    /// It could not be found out; why.
    Unknown(String),
}

impl std::fmt::Display for Locks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hold => write!(f, "file locks hold"),
            Self::HoldHere(mount) => write!(
                f,
                "file locks hold on this machine only ({mount}): between machines the state's lease alone keeps two \
                 processes apart"
            ),
            Self::Absent(why) => {
                write!(f, "file locks do not hold here ({why}): the state's lease alone keeps two processes apart")
            }
            Self::Unknown(why) => write!(f, "whether file locks hold could not be found out ({why})"),
        }
    }
}

/// Tries in the folder `dir`, with `program` (this one) as the second process.
pub fn probe(dir: &Path, program: &Path) -> Locks {
    let path = temporary_name(&dir.join("lock-probe"));
    let found = try_in(&path, program);
    let _ = fs::remove_file(&path);
    match found {
        Ok(Locks::Hold) => {
            match fs::read_to_string("/proc/self/mountinfo").ok().and_then(|mounts| local_only(&mounts, dir)) {
                Some(mount) => Locks::HoldHere(mount),
                None => Locks::Hold,
            }
        }
        Ok(other) => other,
        Err(error) => Locks::Unknown(error.to_string()),
    }
}

fn try_in(path: &Path, program: &Path) -> std::io::Result<Locks> {
    let file = File::create_new(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Locks::Absent("a new file is locked already".into())),
        Err(TryLockError::Error(error)) => return Ok(Locks::Absent(error.to_string())),
    }
    let mut second = Command::new(program);
    second.arg(PROBE_ARGUMENT).arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let code = second.status()?.code();
    Ok(if code == Some(i32::from(HELD)) {
        Locks::Hold
    } else if code == Some(i32::from(FREE)) {
        Locks::Absent("two processes got the same lock".into())
    } else {
        Locks::Unknown("the second process could not try".into())
    })
}

/// The second process: says by its exit code whether the file named on the command line could be locked.
pub fn probe_main() -> ExitCode {
    let Some(file) = std::env::args_os().nth(2).and_then(|path| File::open(path).ok()) else {
        return ExitCode::FAILURE;
    };
    match file.try_lock() {
        Ok(()) => FREE.into(),
        Err(TryLockError::WouldBlock) => HELD.into(),
        Err(TryLockError::Error(_)) => ExitCode::FAILURE,
    }
}

/// The mount of `dir`, if its options keep locks on this machine: NFS with `nolock` or `local_lock`, Lustre with
/// `localflock`. Options as in nfs(5) and mount.lustre(8).
fn local_only(mountinfo: &str, dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    // Fields as in proc(5): id, parent, device, root, mount point, options, … "-", type, source, options.
    let mount = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(4);
        let (point, options) = (before.next()?.replace("\\040", " "), before.next()?);
        let mut after = after.split(' ');
        let (kind, more) = (after.next()?, after.nth(1).unwrap_or_default());
        dir.starts_with(&point).then(|| (point.len(), kind, format!("{options},{more}")))
    });
    // Of mounts on the same point the last one is in front.
    let (_, kind, options) = mount.max_by_key(|(length, ..)| *length)?;
    let telling = options.split(',').find(|option| match kind {
        "nfs" | "nfs4" => matches!(*option, "nolock" | "local_lock=all" | "local_lock=flock"),
        "lustre" => *option == "localflock",
        _ => false,
    })?;
    Some(format!("{kind} mounted with {telling}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_that_keep_locks_to_themselves_are_told() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      2 1 0:50 / /home rw,relatime - nfs4 server:/home rw,vers=4.2,local_lock=none\n\
                      3 1 0:51 / /home/scratch rw,relatime - nfs server:/scratch rw,vers=3,nolock,proto=tcp\n\
                      4 1 0:52 / /lustre rw - lustre mgs:/fs rw,localflock\n";
        let of = |dir: &str| local_only(mounts, Path::new(dir));
        assert_eq!(of("/var/x"), None);
        assert_eq!(of("/home/x"), None);
        assert_eq!(of("/home/scratch/x"), Some("nfs mounted with nolock".into()));
        assert_eq!(of("/lustre"), Some("lustre mounted with localflock".into()));
    }

    #[test]
    fn a_program_that_cannot_try_leaves_it_unknown_and_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(probe(dir.path(), Path::new("/bin/false")), Locks::Unknown(_)));
        assert!(matches!(probe(dir.path(), Path::new("/nowhere/at-all")), Locks::Unknown(_)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
