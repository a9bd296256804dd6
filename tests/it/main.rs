//! The behaviour from outside: the real binary, real processes, real HTTP, SIGKILL.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "figures that a test measures are shown with --nocapture")]

mod support;

mod bad_input;
mod bench;
mod command_line;
mod crash;
mod damage;
mod dashboards;
mod endpoints;
mod layers;
mod ledger;
mod memory;
mod nvml;
mod pdfs;
mod prometheus;
mod redo;
mod samples;
mod status;
mod target;
mod telemetry;
