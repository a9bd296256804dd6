//! Signals become stop requests. TERM, INT, HUP and USR1 ask the run to drain; a second one changes nothing, so that
//! it cannot cut a flush short.

use tokio::signal::unix::{SignalKind, signal};

use crate::engine::{Stop, StopReason};

/// Listens for the rest of the process's life.
///
/// # Errors
/// If a handler cannot be installed.
pub fn listen(stop: &Stop) -> std::io::Result<()> {
    let signals = [
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::user_defined1(), "SIGUSR1"),
    ];
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
