//! The log: readable on a terminal, one JSON object a line in jobs. It goes to standard error; results have standard
//! output for themselves.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The progress display that lines of the log must not run into.
static DISPLAY: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// From now on the log's lines go above this display; `None`: there is none any more.
pub fn above(display: Option<MultiProgress>) {
    *DISPLAY.lock().unwrap_or_else(PoisonError::into_inner) = display;
}

/// Standard error, around the display if there is one.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let display = DISPLAY.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match display {
            Some(display) => display.suspend(|| std::io::stderr().write(line)),
            None => std::io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// The span of one item in one stage: whatever is said about it carries its stage, id and document.
pub fn item_span(stage: &str, item: &str, document: &str) -> tracing::Span {
    tracing::info_span!("item", stage, item, document)
}

/// Starts the log. `QAFLOW_LOG` sets the level or a filter, as in `debug` or `qaflow=debug,reqwest=info`; `info`
/// otherwise, `debug` with `verbose`.
pub fn start(format: LogFormat, verbose: bool) {
    let default = if verbose { "warn,qaflow=debug" } else { "warn,qaflow=info" };
    let filter = EnvFilter::try_from_env("QAFLOW_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lines)
        .with_span_events(FmtSpan::NONE)
        // A log that nobody reads any more, as after `2>&1 | head`, must not end the run.
        .log_internal_errors(false)
        .with_target(false);
    // A second start, as in tests, changes nothing.
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).with_ansi(false).try_init(),
        LogFormat::Human => builder.with_ansi(std::io::stderr().is_terminal()).compact().try_init(),
    };
}
