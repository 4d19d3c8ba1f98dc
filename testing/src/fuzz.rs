//! Fuzzing with a stable compiler: a corpus, mutations drawn from a seed, and inputs kept that the
//! code under test treats in a way of their own.
//!
//! A corpus is a directory. Each file is an input; of a file named `*.lines`, each line is one. All
//! are replayed first, then mutated. Words to be put in are taken from the corpus itself. An input
//! that panics is written to the directory as `found-…`, so that it is replayed ever after.
//!
//! `QGA_FUZZ_SECONDS` is how long each entry is fuzzed, a fixed number of mutations unless set;
//! `QGA_SEED` repeats a run, whose seed it prints.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{Write as _, stderr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Inputs are cut to this.
const LONGEST: usize = 64 << 10;
/// Inputs that are kept to be mutated.
const POOL: usize = 4096;
/// Numbers at which something may go wrong.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
];

/// Replays the corpus in `dir`, and then `rounds` mutations of it. `entry` panics over an input that
/// it should not; what it gives tells what it made of one, and new answers lead to more like it.
///
/// # Panics
/// The entry does; or there is no corpus.
pub fn fuzz<T: Into<u64>>(dir: &Path, rounds: u64, mut entry: impl FnMut(&[u8]) -> T) {
    let mut pool = corpus(dir);
    let words = words(&pool);
    let mut seen = BTreeSet::new();
    for input in &pool {
        seen.insert(tried(dir, input, &mut entry));
    }
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let length = number("QGA_FUZZ_SECONDS").map(Duration::from_secs);
    // Tests of every change do not differ from run to run; hours of looking do.
    let drawn = length.map(|_| SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs());
    let seed = number("QGA_SEED").or(drawn).unwrap_or(1);
    let mut draw = Draw(seed);
    let (begun, mut tries, read) = (Instant::now(), 0, pool.len());
    while length.map_or(tries < rounds, |length| begun.elapsed() < length) {
        tries += 1;
        let input = mutated(&pool, &words, &mut draw);
        if seen.insert(tried(dir, &input, &mut entry)) && pool.len() < POOL {
            pool.push(input);
        }
    }
    let kept = pool.len() - read;
    // Libtest hides what a passing test prints; this is for whoever fuzzes.
    if length.is_some() {
        let name = dir.file_name().unwrap_or_default().display();
        let line =
            format!("{name}: {read} inputs, {tries} mutations, {kept} kept, QGA_SEED={seed}\n");
        drop(stderr().write_all(line.as_bytes()));
    }
}

/// What the entry made of it. An input over which it panics is written down first.
fn tried<T: Into<u64>>(dir: &Path, input: &[u8], entry: &mut impl FnMut(&[u8]) -> T) -> u64 {
    // The panic goes on; nothing is looked at that it may have left half done.
    match catch_unwind(AssertUnwindSafe(|| entry(input))) {
        Ok(made) => made.into(),
        Err(panic) => {
            let file = dir.join(format!("found-{:016x}", digest(input)));
            let written = fs::write(&file, input);
            let line = format!("the input is in {} ({written:?})\n", file.display());
            drop(stderr().write_all(line.as_bytes()));
            resume_unwind(panic)
        }
    }
}

/// Something that tells inputs, or what was made of them, apart.
pub fn digest(of: impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// All inputs of a corpus, in order of their files' names.
fn corpus(dir: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let mut inputs = Vec::new();
    for file in files {
        let bytes = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        if file.extension().is_some_and(|extension| extension == "lines") {
            inputs.extend(bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        } else {
            inputs.push(bytes);
        }
    }
    assert!(inputs.len() >= 5, "{}: {} inputs", dir.display(), inputs.len());
    inputs
}

/// Words, numbers and the signs between them.
fn words(inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut words = BTreeSet::new();
    for input in inputs.iter().filter(|input| input.len() < LONGEST) {
        let same = |a: &u8, b: &u8| {
            let word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
            word(a) == word(b)
        };
        words.extend(input.chunk_by(same).filter(|word| word.len() <= 64).map(<[u8]>::to_vec));
    }
    words.extend(NUMBERS.map(|number| number.as_bytes().to_vec()));
    words.extend(
        [&b"\0"[..], b"\xff", b"\xc3\x28", b"\r\n", b"%00", b"%ff", b"\"", b"\\"]
            .map(<[u8]>::to_vec),
    );
    words.into_iter().collect()
}

/// One of the inputs after a few changes.
fn mutated(pool: &[Vec<u8>], words: &[Vec<u8>], draw: &mut Draw) -> Vec<u8> {
    let mut input = pool[draw.below(pool.len())].clone();
    for _ in 0..=draw.below(5) {
        let at = draw.below(input.len() + 1);
        let end = at + draw.below((input.len() - at).min(64) + 1);
        match draw.below(9) {
            0 | 1 => drop(input.splice(at..at, words[draw.below(words.len())].iter().copied())),
            2 => drop(input.splice(at..end, words[draw.below(words.len())].iter().copied())),
            3 => drop(input.drain(at..end)),
            4 => input.extend_from_within(at..end),
            5 => input.truncate(at),
            6 => {
                let other = &pool[draw.below(pool.len())];
                let from = draw.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << draw.below(8);
                }
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = draw.number().to_le_bytes()[0];
                }
            }
        }
        input.truncate(LONGEST);
    }
    input
}

/// Numbers that a seed repeats (`SplitMix64`).
struct Draw(u64);

impl Draw {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`; 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        let number = self.number().checked_rem(bound as u64).unwrap_or(0);
        // Less than a `usize`.
        usize::try_from(number).unwrap_or(0)
    }
}
