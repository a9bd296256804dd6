//! Keeps panics and hangs of the database away from the rest: a panic becomes an error, and so does a call that
//! does not come back in time.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

/// Why a guarded call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It panicked with this message.
    Panicked(String),
    /// It did not come back within the limit; its thread is left to itself.
    TimedOut(Duration),
    /// No thread could be started.
    NoThread(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Panicked(message) => write!(f, "the database engine gave up with \"{message}\""),
            Self::TimedOut(limit) => write!(f, "the database engine did not answer within {} s", limit.as_secs()),
            Self::NoThread(message) => write!(f, "no thread could be started ({message})"),
        }
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Installs, once, a panic hook that stays silent for guarded calls and hands all else to the hook that was there.
fn silence_guarded_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                previous(info);
            }
        }));
    });
}

/// Calls `f` and makes a panic an error.
pub(super) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Fault> {
    silence_guarded_panics();
    let before = GUARDED.replace(true);
    // The state that a panic may leave half-changed is the database's own: its caller stops using it.
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(before);
    result.map_err(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into());
        Fault::Panicked(message.lines().next().unwrap_or_default().to_owned())
    })
}

/// Calls `f` in a thread of its own, at most for `limit`. A result that comes later is dropped in that thread.
pub(super) fn catch_within<T: Send + 'static>(
    limit: Duration,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    let (sender, receiver) = sync_channel(1);
    thread::Builder::new()
        .name("store-open".into())
        .spawn(move || {
            // A late result cannot be sent: then it is dropped here, guarded as well.
            let unsent = catch(f).and_then(|value| match sender.send(Ok(value)) {
                Ok(()) => Ok(()),
                Err(late) => catch(move || drop(late)),
            });
            if let Err(fault) = unsent {
                let _ = sender.send(Err(fault));
            }
        })
        .map_err(|e| Fault::NoThread(e.to_string()))?;
    match receiver.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(Fault::TimedOut(limit)),
        Err(RecvTimeoutError::Disconnected) => Err(Fault::Panicked("its thread ended without a word".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_hangs_become_faults() {
        assert_eq!(catch(|| 1), Ok(1));
        let fault = catch(|| -> u8 { panic!("segment {} missing\nand more", 7) }).unwrap_err();
        assert_eq!(fault.to_string(), "the database engine gave up with \"segment 7 missing\"");
        assert!(!GUARDED.get());

        assert_eq!(catch_within(Duration::from_secs(10), || 2), Ok(2));
        let fault = catch_within(Duration::from_secs(10), || -> u8 { panic!("gone") }).unwrap_err();
        assert_eq!(fault, Fault::Panicked("gone".into()));
        let limit = Duration::from_millis(20);
        let slow = catch_within(limit, move || thread::sleep(limit * 5));
        assert_eq!(slow, Err(Fault::TimedOut(limit)));
    }
}
