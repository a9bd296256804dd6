//! What this process uses: memory and processor time, from `/proc`.

/// Ticks of a second in `/proc/self/stat`: the kernel's `USER_HZ`, which is 100 on every architecture that Rust's
/// standard library runs on under Linux, Alpha and Itanium aside.
const TICKS_A_SECOND: f64 = 100.0;

/// What this process uses at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUse {
    /// Resident memory in bytes; 0 where `/proc` does not tell.
    pub memory_bytes: u64,
    /// The most resident memory so far, in bytes.
    pub memory_peak_bytes: u64,
    /// User and system time in seconds, with that of the worker processes that have ended (those that read PDFs).
    pub cpu_seconds: f64,
}

/// What this process uses now; zeros where `/proc` cannot be read.
pub fn now() -> ProcessUse {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ProcessUse {
        memory_bytes: kilobytes(&status, "VmRSS:").unwrap_or(0),
        memory_peak_bytes: kilobytes(&status, "VmHWM:").unwrap_or(0),
        cpu_seconds: cpu_seconds(&stat).unwrap_or(0.0),
    }
}

/// A line of `/proc/self/status`, in bytes.
fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

/// Fields `utime`, `stime`, `cutime` and `cstime` of `/proc/self/stat` (proc(5)), in seconds.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The program's name is in parentheses and may hold anything, parentheses too.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut ticks = 0.0;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    for _ in 0..4 {
        ticks += fields.next()?.parse::<f64>().ok()?;
    }
    Some(ticks / TICKS_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 70 30 20 0 4 0 9 1 2";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds("42 (x) S 1"), None);
        assert_eq!(kilobytes("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n", "VmRSS:"), Some(1024));
        assert_eq!(kilobytes("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let now = now();
        assert!(now.memory_bytes > 1 << 20 && now.memory_peak_bytes >= now.memory_bytes, "{now:?}");
    }
}
