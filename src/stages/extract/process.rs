//! Runs a worker process for one PDF and turns every way it can end into a result or a reason.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

use super::pdf::{PdfFault, PdfText};
use super::worker::{Frame, Request, WORKER_ARGUMENT, WorkerFault};
use crate::model::StageError;

/// How long a worker may take by the clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WallLimit {
    /// Seconds for any document.
    pub(super) seconds: f64,
    /// Seconds for each page besides.
    pub(super) seconds_a_page: f64,
}

impl WallLimit {
    fn for_pages(self, pages: u32) -> Duration {
        Duration::from_secs_f64(self.seconds + self.seconds_a_page * f64::from(pages))
    }
}

/// How a worker ended without an answer.
#[derive(Debug, PartialEq)]
enum End {
    /// The program could not be started.
    NotStarted { kind: std::io::ErrorKind, raw: Option<i32>, detail: String },
    /// It ended by itself or by a signal; what it wrote to standard error.
    Exited { status: ExitStatus, stderr: String },
    /// Too long by the clock: after how much, on how many pages.
    Slow { after: Duration, pages: Option<u32> },
    /// It wrote something that is no answer.
    Babble(String),
}

/// A busy machine does not make a document bad: while the worker got less than half of the processor, it may take
/// so many times longer.
const PATIENCE: u32 = 4;
/// What is kept of standard error.
const STDERR_KEPT: u64 = 16 * 1024;

/// Reads a PDF in a worker process. `program` is this program.
pub(super) async fn read_pdf(program: &Path, request: &Request, wall: WallLimit) -> Result<PdfText, StageError> {
    let mut kills = 0;
    loop {
        let end = match attempt(program, request, wall).await {
            Ok(Frame::Text(text)) => return Ok(*text),
            Ok(Frame::Fault(fault)) => return Err(of_fault(&fault, request)),
            Ok(Frame::Opened(_)) => End::Babble("it ended before it was done".into()),
            Err(end) => end,
        };
        // The kernel kills when memory runs out, and takes the largest process, which may be any.
        let killed = matches!(&end, End::Exited { status, .. } if status.signal() == Some(SIGKILL));
        if killed && kills == 0 {
            kills += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        return Err(of_end(&end, request, kills + 1));
    }
}

async fn attempt(program: &Path, request: &Request, wall: WallLimit) -> Result<Frame, End> {
    let mut child = start(program).map_err(|error| End::NotStarted {
        kind: error.kind(),
        raw: error.raw_os_error(),
        detail: error.to_string(),
    })?;
    let (Some(mut stdin), Some(mut stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(End::Babble("its pipes are missing".into()));
    };
    let mut line = serde_json::to_vec(request).map_err(|error| End::Babble(error.to_string()))?;
    line.push(b'\n');
    // A worker that is already dead answers with its status below.
    let _ = stdin.write_all(&line).await;
    let errors = tokio::spawn(async move {
        let mut kept = Vec::new();
        let _ = stderr.take(STDERR_KEPT).read_to_end(&mut kept).await;
        String::from_utf8_lossy(&kept).into_owned()
    });
    let answer = converse(&mut child, &mut stdout, request, wall).await;
    let result = match answer {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => match child.wait().await {
            Ok(status) => Err(End::Exited { status, stderr: errors.await.unwrap_or_default() }),
            Err(error) => Err(End::Babble(error.to_string())),
        },
        Err(end) => Err(end),
    };
    let _ = child.start_kill();
    let _ = child.wait().await;
    drop(stdin);
    result
}

fn start(program: &Path) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    command
        .arg(WORKER_ARGUMENT)
        // Keys and addresses are none of a parser's business.
        .env_clear()
        .env("RAYON_NUM_THREADS", "1")
        // Address space is limited, so none is kept for later.
        .env("_RJEM_MALLOC_CONF", "narenas:1,retain:false")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // An interrupt at the terminal is for the parent, which lets workers finish or ends them.
        .process_group(0)
        .kill_on_drop(true);
    if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", path);
    }
    command.spawn()
}

/// Reads frames until the last; `None` if the worker ended before it.
async fn converse(
    child: &mut Child,
    stdout: &mut ChildStdout,
    request: &Request,
    wall: WallLimit,
) -> Result<Option<Frame>, End> {
    let began = Instant::now();
    // The pages as JSON, escapes included, and what is said of each.
    let most = 4 * request.options.max_text + 512 * request.options.max_pages as usize + (1 << 20);
    let mut pages = None;
    loop {
        let frame = read_frame(stdout, most);
        tokio::pin!(frame);
        let frame = loop {
            let allowed = wall.for_pages(pages.unwrap_or(0));
            let deadline = began + allowed * if starved(child, began.elapsed()) { PATIENCE } else { 1 };
            let check = deadline.min(Instant::now() + allowed).max(Instant::now());
            match tokio::time::timeout_at(check, &mut frame).await {
                Ok(frame) => break frame?,
                Err(_) if Instant::now() < began + allowed * PATIENCE && starved(child, began.elapsed()) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(_) if Instant::now() >= began + allowed => {
                    return Err(End::Slow { after: began.elapsed(), pages });
                }
                Err(_) => {}
            }
        };
        match frame {
            Some(Frame::Opened(count)) => pages = Some(count),
            other => return Ok(other),
        }
    }
}

/// One frame; `None` at the end of the output.
async fn read_frame(stdout: &mut ChildStdout, most: usize) -> Result<Option<Frame>, End> {
    let mut length = [0; 4];
    if stdout.read_exact(&mut length).await.is_err() {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > most {
        return Err(End::Babble(format!("an answer of {length} bytes, more than {most}")));
    }
    let mut bytes = vec![0; length];
    if stdout.read_exact(&mut bytes).await.is_err() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| End::Babble(error.to_string()))
}

/// Whether a worker got less than half of a processor so far. False where it cannot be told.
fn starved(child: &Child, elapsed: Duration) -> bool {
    let used = child.id().and_then(|id| std::fs::read_to_string(format!("/proc/{id}/stat")).ok());
    used.as_deref().and_then(cpu_seconds).is_some_and(|used| used < 0.5 * elapsed.as_secs_f64())
}

/// User and system time from `/proc/PID/stat` (fields 14 and 15, in hundredths of a second on Linux).
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name in parentheses may hold blanks.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

/// What an answered fault means.
fn of_fault(fault: &WorkerFault, request: &Request) -> StageError {
    let place = request.path.display();
    match fault {
        WorkerFault::Gone => super::gone(&request.path),
        WorkerFault::Changed => super::changed(&request.path),
        WorkerFault::Unreadable(detail) => {
            StageError::transient("unreadable", format!("cannot read {place}: {detail}"))
        }
        WorkerFault::Setup(detail) => StageError::fatal("worker", format!("the extraction worker failed: {detail}")),
        WorkerFault::Panicked(detail) => {
            StageError::poison("damaged", format!("damaged PDF: the parser failed on it ({})", brief(detail)))
        }
        WorkerFault::Pdf(fault) => of_pdf_fault(fault, request),
    }
}

fn of_pdf_fault(fault: &PdfFault, request: &Request) -> StageError {
    match fault {
        PdfFault::NotPdf(what) => StageError::poison("not_pdf", format!("not a PDF: {what}")),
        PdfFault::Encrypted => StageError::poison("encrypted", "encrypted: needs a password"),
        PdfFault::UnknownEncryption(what) => {
            StageError::poison("encrypted", format!("encrypted in a way that cannot be read ({what})"))
        }
        PdfFault::NoPages => StageError::poison("no_pages", "the file has no pages"),
        PdfFault::TooManyPages(count) => {
            let most = request.options.max_pages;
            StageError::poison("too_many_pages", format!("{count} pages, more than max_pages ({most})"))
        }
        PdfFault::TooLarge => super::too_large(request.options.max_text),
        PdfFault::Damaged(what) => StageError::poison("damaged", format!("damaged PDF: {}", brief(what))),
    }
}

// Signal numbers of Linux on every architecture that Rust's tier 1 and 2 hosts have.
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGILL: i32 = 4;
const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGTERM: i32 = 15;
const SIGXCPU: i32 = 24;

/// What an end without an answer means.
fn of_end(end: &End, request: &Request, attempts: u32) -> StageError {
    match end {
        End::NotStarted { kind, raw, detail } => {
            let reason = format!("cannot start the extraction worker: {detail}");
            // No process, memory or file handle to be had just now: EAGAIN, ENOMEM, ENFILE, EMFILE, ETXTBSY.
            let passing = matches!(kind, std::io::ErrorKind::WouldBlock | std::io::ErrorKind::OutOfMemory)
                || raw.is_some_and(|code| [11, 12, 23, 24, 26].contains(&code));
            if passing { StageError::transient("worker", reason) } else { StageError::fatal("worker", reason) }
        }
        End::Slow { after, pages } => {
            let what = pages.map_or_else(
                || "opening it".into(),
                |pages| format!("reading its {pages} page{}", if pages == 1 { "" } else { "s" }),
            );
            StageError::poison("timeout", format!("gave up after {:.0} s of {what}", after.as_secs_f64()))
        }
        End::Babble(detail) => StageError::poison("worker_answer", format!("the extraction worker failed: {detail}")),
        End::Exited { status, stderr } => of_exit(*status, stderr, request, attempts),
    }
}

fn of_exit(status: ExitStatus, stderr: &str, request: &Request, attempts: u32) -> StageError {
    let megabytes = request.limits.memory >> 20;
    let memory = || StageError::poison("memory", format!("needs more than {megabytes} MB of memory"));
    match status.signal() {
        Some(SIGXCPU) => StageError::poison(
            "timeout",
            format!("gave up after more than {} s of computing", request.limits.cpu_for(0)),
        ),
        _ if stderr.contains("memory allocation of") => memory(),
        _ if stderr.contains("overflowed its stack") => {
            StageError::poison("damaged", "damaged PDF: its parts are nested too deeply to be read")
        }
        Some(SIGKILL) => {
            let reason = "the system killed the worker, twice: the machine may be out of memory";
            StageError::poison("killed", reason).with_raw(attempts, Vec::new())
        }
        Some(signal @ (SIGTERM | SIGINT | SIGHUP)) => {
            StageError::transient("worker_stopped", format!("the extraction worker was stopped by signal {signal}"))
        }
        Some(signal @ (SIGSEGV | SIGBUS | SIGILL | SIGABRT)) => {
            StageError::poison("crash", format!("the parser crashed on it (signal {signal})"))
        }
        Some(signal) => StageError::poison("crash", format!("the worker ended by signal {signal}")),
        None => StageError::fatal(
            "worker",
            format!(
                "the extraction worker ended with exit code {} and no answer: {}",
                status.code().unwrap_or_default(),
                brief(stderr)
            ),
        ),
    }
}

/// The beginning of a foreign message, on one line.
fn brief(text: &str) -> String {
    let line = super::text::one_line(text);
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DocumentHash, ErrorClass};
    use crate::stages::extract::pdf::PdfOptions;
    use crate::stages::extract::worker::WorkerLimits;

    fn request() -> Request {
        Request {
            path: "/data/a.pdf".into(),
            sha256: DocumentHash([0; 32]),
            options: PdfOptions { max_text: 16 << 20, max_pages: 100, strip_running: true },
            limits: WorkerLimits { memory: 2048 << 20, cpu_seconds: 30.0, cpu_seconds_a_page: 0.1 },
        }
    }

    const WALL: WallLimit = WallLimit { seconds: 0.4, seconds_a_page: 0.0 };

    /// A program that stands in for the worker: a shell script.
    fn script(dir: &Path, body: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("worker.sh");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn outcome(body: &str) -> StageError {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), body);
        read_pdf(&program, &request(), WALL).await.unwrap_err()
    }

    #[tokio::test]
    async fn an_answer_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            serde_json::to_string(&Frame::Text(Box::new(PdfText { encrypted: true, ..PdfText::default() }))).unwrap();
        let [a, b, c, d] = (text.len() as u32).to_le_bytes();
        let length = format!("\\{a:03o}\\{b:03o}\\{c:03o}\\{d:03o}");
        let body = format!(
            "read line; case \"$line\" in *a.pdf*) ;; *) exit 9;; esac\nprintf '{length}'\nprintf '%s' '{text}'"
        );
        let read = read_pdf(&script(dir.path(), &body), &request(), WALL).await.unwrap();
        assert!(read.encrypted);
    }

    #[tokio::test]
    async fn every_end_has_its_reason() {
        let cases = [
            ("kill -XCPU $$", ErrorClass::Poison, "gave up after more than 30 s of computing"),
            (
                "echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$",
                ErrorClass::Poison,
                "needs more than 2048 MB of memory",
            ),
            (
                "echo \"thread 'x' has overflowed its stack\" >&2; kill -ABRT $$",
                ErrorClass::Poison,
                "nested too deeply",
            ),
            ("kill -SEGV $$", ErrorClass::Poison, "the parser crashed on it (signal 11)"),
            ("kill -TERM $$", ErrorClass::Transient, "stopped by signal 15"),
            ("echo 'unknown command' >&2; exit 2", ErrorClass::Fatal, "exit code 2 and no answer: unknown command"),
            ("printf '\\377\\377\\377\\377'; sleep 9", ErrorClass::Poison, "an answer of 4294967295 bytes"),
            ("printf '\\002\\000\\000\\000{}'", ErrorClass::Poison, "the extraction worker failed"),
        ];
        for (body, class, reason) in cases {
            let error = outcome(body).await;
            assert_eq!(error.class, class, "{body}: {error}");
            assert!(error.reason.contains(reason), "{body}: {error}");
        }
    }

    #[tokio::test]
    async fn a_killed_worker_is_tried_once_more() {
        let error = outcome("kill -KILL $$").await;
        assert_eq!((error.label.as_str(), error.attempts), ("killed", 2));
    }

    #[tokio::test]
    async fn time_runs_out_and_a_busy_machine_is_given_more() {
        let busy = outcome("while :; do :; done").await;
        assert!(busy.reason.ends_with(" s of opening it"), "{busy}");
        let idle = outcome("sleep 30").await;
        assert_eq!(idle.label, "timeout");
        assert!(
            idle.reason.starts_with("gave up after 2 s"),
            "it used no processor, so it got four times as long: {idle}"
        );
    }

    #[tokio::test]
    async fn a_missing_program_stops_the_run() {
        let error = read_pdf(Path::new("/nowhere/qaflow"), &request(), WALL).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Fatal);
        assert!(error.reason.starts_with("cannot start the extraction worker"), "{error}");
    }

    #[test]
    fn processor_time_is_read_behind_the_name() {
        let stat = "123 (odd) name) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }
}
