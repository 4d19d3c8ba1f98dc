//! Requests, configurations and state files that are almost right: the corpora in `tests/corpus` are
//! replayed and mutated by each run, and for as long as anybody likes by `make fuzz`.

mod config;
mod http;
mod state;

use std::path::PathBuf;

fn corpus(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
}
