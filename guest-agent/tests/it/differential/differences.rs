//! The differences that are meant, as `differences.txt` has them. Its head says how to read it.

use std::fmt::{self, Display};

use super::reply::Reply;

const DIFFERENCES: &str = include_str!("differences.txt");
/// Why an answer may differ.
const REASONS: [&str; 3] = ["newer: ", "upstream bug: ", "deliberate: "];

/// A request with two meanings of its answer.
#[derive(PartialEq)]
pub(super) struct Difference {
    pub(super) request: String,
    pub(super) theirs: Vec<Reply>,
    pub(super) ours: Vec<Reply>,
}

/// As it stands in the list.
impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "> {}", self.request)?;
        self.theirs.iter().try_for_each(|reply| writeln!(f, "- {reply}"))?;
        self.ours.iter().try_for_each(|reply| writeln!(f, "+ {reply}"))
    }
}

/// The list, each entry good for one occurrence.
pub(super) struct Differences {
    left: Vec<Difference>,
}

impl Differences {
    pub(super) fn read() -> Self {
        let mut left: Vec<Difference> = Vec::new();
        let mut reason = false;
        for line in DIFFERENCES.lines().filter(|line| !line.is_empty()) {
            let (mark, text) = line.split_once(' ').unwrap_or((line, ""));
            match mark {
                "#" => reason = REASONS.iter().any(|kind| text.starts_with(kind)),
                // The head, or a reason's further lines.
                "" => {}
                ">" => {
                    assert!(reason, "no reason for {line}");
                    left.push(Difference {
                        request: text.to_owned(),
                        theirs: Vec::new(),
                        ours: Vec::new(),
                    });
                }
                "-" => left.last_mut().unwrap().theirs.push(Reply::read(text)),
                "+" => left.last_mut().unwrap().ours.push(Reply::read(text)),
                _ => panic!("what is this: {line}"),
            }
        }
        Self { left }
    }

    /// Takes the entry for a difference from the list, if it is there.
    pub(super) fn take(&mut self, difference: &Difference) -> bool {
        let found = self.left.iter().position(|listed| listed == difference);
        found.map(|at| self.left.remove(at)).is_some()
    }

    pub(super) fn left(&self) -> impl Iterator<Item = &Difference> {
        self.left.iter()
    }
}
