//! The worker process: this program, started for one PDF, under limits of its own.
//!
//! A PDF can make a parser hang, overflow its stack or fill the memory, none of which can be caught from within. So
//! it is read by a process that can be lost. It gets a [`Request`] as one line of JSON on standard input, and writes
//! [`Frame`]s to standard output: four bytes of length, least significant first, then JSON. Standard input stays open
//! as long as the parent lives; when it closes, the worker ends. (The kernel's parent death signal would not do: it
//! is tied to the thread that started the process, and a runtime's threads come and go.)

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::pdf::{PdfFault, PdfOptions, PdfText, read_pdf};
use crate::model::DocumentHash;

/// The hidden argument that makes the program a worker.
pub const WORKER_ARGUMENT: &str = "extract-worker";

/// What a worker is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The PDF.
    pub path: PathBuf,
    /// The content that it must have.
    pub sha256: DocumentHash,
    /// How to read it.
    pub options: PdfOptions,
    /// What it may use.
    pub limits: WorkerLimits,
}

/// What a worker may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerLimits {
    /// Address space in bytes.
    pub memory: u64,
    /// Processor seconds for any document.
    pub cpu_seconds: f64,
    /// Processor seconds for each page besides.
    pub cpu_seconds_a_page: f64,
}

impl WorkerLimits {
    /// Processor seconds for a document of so many pages.
    pub(super) fn cpu_for(&self, pages: u32) -> u64 {
        (self.cpu_seconds + self.cpu_seconds_a_page * f64::from(pages)).ceil().max(1.0) as u64
    }
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Frame {
    /// The document is open and has so many pages; the long part begins.
    Opened(u32),
    /// The end: what was read.
    Text(Box<PdfText>),
    /// The end: why nothing was read.
    Fault(WorkerFault),
}

/// Why a worker read nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerFault {
    /// The file is not there any more.
    Gone,
    /// The file has other content than when it was listed.
    Changed,
    /// The file cannot be read now; the system's words.
    Unreadable(String),
    /// The document is at fault.
    Pdf(PdfFault),
    /// The parser gave up in a way that it should not; its words.
    Panicked(String),
    /// The worker could not be set up.
    Setup(String),
}

/// Room for recursion in the parser; hostile nesting still ends it, in this process alone.
const STACK: usize = 128 << 20;
/// A request is a path and some numbers.
const MAX_REQUEST: u64 = 1 << 20;

/// What `main` calls when the program is started with [`WORKER_ARGUMENT`]: serves one request, then ends.
pub fn worker_main() -> ExitCode {
    let mut line = String::new();
    let read = io::stdin().lock().take(MAX_REQUEST).read_line(&mut line);
    let request = match read
        .map_err(|e| e.to_string())
        .and_then(|_| serde_json::from_str::<Request>(&line).map_err(|e| format!("the request cannot be read: {e}")))
    {
        Ok(request) => request,
        Err(detail) => return answer(&Frame::Fault(WorkerFault::Setup(detail))),
    };
    if let Err(error) = limit(&request) {
        return answer(&Frame::Fault(WorkerFault::Setup(format!("cannot set limits: {error}"))));
    }
    // Panics are answered, not printed.
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::spawn(end_with_the_parent);
    let worker = std::thread::Builder::new().stack_size(STACK).spawn(move || serve(&request));
    match worker.map(std::thread::JoinHandle::join) {
        Ok(Ok(frame)) => answer(&frame),
        Ok(Err(panic)) => answer(&Frame::Fault(WorkerFault::Panicked(panic_text(panic.as_ref())))),
        Err(error) => answer(&Frame::Fault(WorkerFault::Setup(format!("cannot start a thread: {error}")))),
    }
}

fn serve(request: &Request) -> Frame {
    let mut opened = |pages| {
        // Both are best effort: without them the document just has less time.
        let _ = set(Resource::Cpu, request.limits.cpu_for(pages), u64::MAX);
        let _ = write_frame(&mut io::stdout().lock(), &Frame::Opened(pages));
    };
    match extract_pdf(&request.path, &request.sha256, &request.options, &mut opened) {
        Ok(text) => Frame::Text(Box::new(text)),
        Err(fault) => Frame::Fault(fault),
    }
}

/// Reads a PDF in this process. `opened` is told the number of pages before the long part begins.
///
/// # Errors
/// [`WorkerFault`]; what the parser does besides (hang, overflow, run out of memory) takes the process along.
pub fn extract_pdf(
    path: &Path,
    sha256: &DocumentHash,
    options: &PdfOptions,
    opened: &mut dyn FnMut(u32),
) -> Result<PdfText, WorkerFault> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => WorkerFault::Gone,
        _ => WorkerFault::Unreadable(error.to_string()),
    })?;
    let found = DocumentHash::of(&bytes);
    if found != *sha256 {
        return Err(WorkerFault::Changed);
    }
    read_pdf(&bytes, options, opened).map_err(WorkerFault::Pdf)
}

fn limit(request: &Request) -> rustix::io::Result<()> {
    set(Resource::Core, 0, 0)?;
    set(Resource::As, request.limits.memory, request.limits.memory)?;
    set(Resource::Cpu, request.limits.cpu_for(0), request.limits.cpu_for(request.options.max_pages).saturating_add(5))
}

/// Sets a limit, as far as the one that holds already allows.
fn set(resource: Resource, soft: u64, hard: u64) -> rustix::io::Result<()> {
    let allowed = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let maximum = hard.min(allowed);
    let value = |limit: u64| (limit != u64::MAX).then_some(limit);
    setrlimit(resource, Rlimit { current: value(soft.min(maximum)), maximum: value(maximum) })
}

/// Ends the process when standard input closes, which is when the parent is gone.
fn end_with_the_parent() {
    let mut byte = [0];
    loop {
        match io::stdin().lock().read(&mut byte) {
            Ok(0) | Err(_) => std::process::exit(3),
            Ok(_) => {}
        }
    }
}

fn answer(frame: &Frame) -> ExitCode {
    if write_frame(&mut io::stdout().lock(), frame).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn write_frame(out: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let bytes = serde_json::to_vec(frame).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&bytes)?;
    out.flush()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_carry_their_length() {
        let mut out = Vec::new();
        write_frame(&mut out, &Frame::Opened(12)).unwrap();
        assert_eq!(out, b"\x0d\0\0\0{\"Opened\":12}");
    }

    #[test]
    fn time_grows_with_the_pages() {
        let limits = WorkerLimits { memory: 1, cpu_seconds: 30.0, cpu_seconds_a_page: 0.1 };
        assert_eq!((limits.cpu_for(0), limits.cpu_for(400)), (30, 70));
    }

    #[test]
    fn a_file_that_changed_or_went_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pdf");
        let options = PdfOptions { max_text: 1000, max_pages: 10, strip_running: true };
        let mut opened = |_| {};
        let hash = DocumentHash([0; 32]);
        assert_eq!(extract_pdf(&path, &hash, &options, &mut opened), Err(WorkerFault::Gone));
        std::fs::write(&path, "x").unwrap();
        assert_eq!(extract_pdf(&path, &hash, &options, &mut opened), Err(WorkerFault::Changed));
    }
}
