//! What tells one process from another: host, boot, process number and start time.

use std::fs;

/// This host's name; empty if it has none.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A random name that the kernel draws at each boot; empty where it has none.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The name space in which this process's number counts; empty where there is none.
pub(super) fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
}

/// When process `pid` started, in clock ticks since boot; `None` if it is not running (or has ended and only waits
/// for its parent to notice).
pub(super) fn start_time(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 3 (state) and 22 (start time) of `/proc/<pid>/stat`; the name in field 2 may hold spaces and brackets.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name() {
        let tail = "S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000 5";
        assert_eq!(parse_stat(&format!("77 (a b) c) {tail}")), Some(4242));
        assert_eq!(parse_stat(&format!("77 (x) {}", tail.replacen('S', "Z", 1))), None, "a zombie is gone");
        assert_eq!(parse_stat("77 (x"), None);
    }

    #[test]
    fn this_process_is_running_and_placed() {
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(start_time(u32::MAX), None);
        assert!(!boot_id().is_empty() && pid_namespace().starts_with("pid:"));
        assert!(!host_name().is_empty());
    }
}
