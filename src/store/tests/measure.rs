//! Measurements of the store, run by hand: `cargo test --release --lib store::tests::measure -- --ignored --nocapture`.
