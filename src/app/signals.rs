//! Signals become stop requests. TERM, INT, HUP and USR1 ask the run to drain; a second one changes nothing, so that
//! it cannot cut a flush short.

use tokio::signal::unix::{SignalKind, signal};

use crate::engine::{Stop, StopReason};

/// Whether a signal was set to be ignored by whoever started this process.
fn ignored(signal: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Listens for the rest of the process's life.
///
/// # Errors
/// If a handler cannot be installed.
pub fn listen(stop: &Stop) -> std::io::Result<()> {
    let mut signals = vec![
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::user_defined1(), "SIGUSR1"),
    ];
    // Started with nohup, it is to survive the terminal.
    if !ignored(1) {
        signals.push((SignalKind::hangup(), "SIGHUP"));
    }
    for (kind, name) in signals {
        let mut arrivals = signal(kind)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                if stop.request(StopReason::Signal(name)) {
                    tracing::info!("{name}: taking no new work, finishing what is in flight");
                } else {
                    tracing::info!("{name}: already stopping");
                }
            }
        });
    }
    Ok(())
}

/// Makes this process be asked to stop when the one that started it ends, whatever ends that.
pub fn end_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
}
