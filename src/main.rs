//! The command line of qaflow.

fn main() {}
