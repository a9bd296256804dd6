//! The behaviour from outside: the real binary, real processes, real HTTP, SIGKILL.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "figures that a test measures are shown with --nocapture")]

mod support;

mod bad_input;
mod bench;
mod browser;
mod command_line;
mod crash;
mod damage;
mod endpoints;
mod formats;
mod layers;
mod memory;
mod pdfs;
mod redo;
mod review;
mod samples;
