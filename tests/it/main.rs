//! The behaviour from outside: the real binary, real processes, real HTTP, SIGKILL.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "figures that a test measures are shown with --nocapture")]

mod support;
mod sweep;

mod bad_input;
mod bench;
mod book;
mod book_example;
mod browser;
mod checks;
mod command_line;
mod crash;
mod damage;
mod dashboards;
mod endpoints;
mod formats;
mod injection;
mod ladder;
mod layers;
mod ledger;
mod memory;
mod nvml;
mod pdfs;
mod prometheus;
mod recompute;
mod redo;
mod report_page;
mod review;
mod samples;
mod scale;
mod shards;
mod status;
mod takeover;
mod target;
mod telemetry;
