//! `qaflow` turns a folder of PDFs into a question-answer dataset with a language model, on machines that may be
//! taken away at any moment. The library holds the dataflow; the binary of the same name is its command line.

pub mod app;
pub mod bench;
pub mod cli;
pub mod config;
pub mod engine;
pub mod export;
pub mod llm;
pub mod model;
pub mod sources;
pub mod stages;
pub mod store;
pub mod telemetry;
