//! The transcript of a freeze, held against both agents: that of Debian's must still be true to the
//! byte, and ours answers the same.

use qga_e2e::RawAgent;

use crate::guests::Kind;

const TRANSCRIPT: &str = include_str!("../../../proto/tests/transcripts/qemu-ga-7.2-fsfreeze.txt");

/// Debian's qemu-ga says why a command is disabled; since 9.1, and in ours, the reason is this.
const OLDER: &str = ": the agent is in frozen state";
const NEWER: &str = ": the command is not allowed";

/// Sends each request, and compares each answer. Everything is thawed before and after.
pub(crate) fn play(kind: Kind, agent: &mut RawAgent) {
    agent.sync().unwrap();
    let mut request = "";
    for line in TRANSCRIPT.lines() {
        if let Some(next) = line.strip_prefix("> ") {
            request = next;
            agent.send(request.as_bytes()).unwrap();
        } else if let Some(expected) = line.strip_prefix("< ") {
            let answer = String::from_utf8(agent.answer().unwrap()).unwrap();
            let answer = match kind {
                Kind::Stock => answer,
                Kind::Ours => answer.replacen(NEWER, OLDER, 1),
            };
            assert_eq!(answer, format!("{expected}\n"), "{kind:?}: {request}");
        }
    }
}
