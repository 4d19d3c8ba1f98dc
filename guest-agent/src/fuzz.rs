//! Bytes for the parsers of what the system says: whatever comes, none of them may panic.
//!
//! Each parser has a directory with real files in `tests/corpus/`. Its test runs the parser on
//! all of them, on cut and changed forms of them, and on bytes without any sense.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// The files of a parser's corpus, by name.
pub(crate) fn corpus(parser: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(parser);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files
}

/// Runs `parse` on the corpus, on damaged forms of it, and on noise.
pub(crate) fn fuzz(parser: &str, parse: impl Fn(&[u8])) {
    let files: Vec<_> = corpus(parser).into_iter().map(|(_, bytes)| bytes).collect();
    for file in &files {
        parse(file);
        let step = (file.len() / 512).max(1);
        (0..file.len()).step_by(step).for_each(|end| parse(&file[..end]));
    }
    let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 1..12);
    let damaged = (prop::sample::select(files), damage).prop_map(|(mut file, damage)| {
        if !file.is_empty() {
            damage.into_iter().for_each(|(at, byte)| {
                let at = at.index(file.len());
                file[at] = byte;
            });
        }
        file
    });
    let bytes = prop_oneof![damaged, vec(any::<u8>(), 0..600)];
    let config = Config { failure_persistence: None, ..Config::with_cases(1000) };
    TestRunner::new(config)
        .run(&bytes, |bytes| {
            parse(&bytes);
            Ok(())
        })
        .unwrap();
}
