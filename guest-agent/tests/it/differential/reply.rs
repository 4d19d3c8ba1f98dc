//! What a line means: its sentinel and its JSON, whose members have no order.
//!
//! What moves between two answers of one agent is put aside by the rules in [`RULES`], each of
//! which holds for one command. `guest-exec`'s pids are such, and the positions that 11.1 puts in
//! front of parse errors are left out of all.

use std::fmt::{self, Display};
use std::path::Path;

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply {
    delimited: bool,
    value: Value,
}

/// What of a command's answer moves: numbers and lists that are members with one of these names.
struct Moves {
    command: &'static str,
    members: &'static [&'static str],
}

const RULES: &[Moves] = &[
    Moves { command: "guest-get-time", members: &["return"] },
    Moves { command: "guest-exec", members: &["pid"] },
    Moves {
        command: "guest-get-cpustats",
        members: &[
            "user",
            "nice",
            "system",
            "idle",
            "iowait",
            "irq",
            "softirq",
            "steal",
            "guest",
            "guestnice",
        ],
    },
    Moves {
        command: "guest-get-diskstats",
        members: &[
            "read-ios",
            "read-merges",
            "read-sectors",
            "read-ticks",
            "write-ios",
            "write-merges",
            "write-sectors",
            "write-ticks",
            "ios-pgr",
            "total-ticks",
            "weight-ticks",
            "discard-ios",
            "discard-merges",
            "discard-sectors",
            "discard-ticks",
            "flush-ios",
            "flush-ticks",
        ],
    },
    Moves {
        command: "guest-network-get-interfaces",
        members: &["rx-bytes", "rx-packets", "tx-bytes", "tx-packets", "rx-dropped", "tx-dropped"],
    },
    Moves { command: "guest-get-fsinfo", members: &["used-bytes", "total-bytes"] },
    Moves { command: "guest-get-load", members: &["load1m", "load5m", "load15m"] },
    // Not in 7.2: the whole answer, so that the list is not of this machine.
    Moves { command: "guest-network-get-route", members: &["return"] },
];

/// Members that newer agents add to every entry of an answer: which, and since when.
const NEWER: [(&str, &str, &str); 1] = [("guest-get-fsinfo", "total-bytes-privileged", "9.1")];

/// Commands whose answer is in the order of a directory, and the member that orders it.
const LISTS: [(&str, &str); 4] = [
    ("guest-get-vcpus", "logical-id"),
    ("guest-get-memory-blocks", "phys-index"),
    ("guest-get-disks", "name"),
    ("guest-get-users", "user"),
];

impl Reply {
    /// From a line as the client has it; `dir` is where the agent lives.
    pub(super) fn new(line: &str, dir: &Path) -> Self {
        Self::read(&line.replace(&dir.display().to_string(), "DIR"))
    }

    /// From the list, or a line.
    pub(super) fn read(text: &str) -> Self {
        let (delimited, json) =
            text.strip_prefix("<FF>").map_or((false, text), |json| (true, json));
        let value = serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.to_owned()));
        Self { delimited, value }
    }

    /// Where there was no answer.
    pub(super) fn none() -> Self {
        Self { delimited: false, value: Value::String("nothing".to_owned()) }
    }

    pub(super) fn pointer(&self, pointer: &str) -> Option<&Value> {
        self.value.pointer(pointer)
    }

    /// Without what moves in an answer to `request`.
    pub(super) fn normalised(mut self, request: &str) -> Self {
        let asks = |command: &str| request.contains(&format!("\"execute\":\"{command}\""));
        for rule in RULES.iter().filter(|rule| asks(rule.command)) {
            rule.apply(&mut self.value);
        }
        for (_, member) in LISTS.iter().filter(|(command, _)| asks(command)) {
            if let Some(Value::Array(list)) = self.value.get_mut("return") {
                list.sort_by_key(|entry| {
                    let key = entry.get(member);
                    (key.and_then(Value::as_u64), key.and_then(Value::as_str).map(str::to_owned))
                });
            }
        }
        for (_, member, _) in NEWER.iter().filter(|(command, ..)| asks(command)) {
            if let Some(Value::Array(list)) = self.value.get_mut("return") {
                for entry in list.iter_mut().filter_map(Value::as_object_mut) {
                    entry.remove(*member);
                }
            }
        }
        if let Some(Value::String(desc)) = self.value.pointer_mut("/error/desc")
            && let Some(at) = desc.find("JSON parse error, ")
        {
            desc.drain(..at);
        }
        self
    }
}

impl Moves {
    fn apply(&self, value: &mut Value) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(|entry| self.apply(entry)),
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::Number(_) | Value::Array(_) if self.members.contains(&&**name) => {
                            *value = "moves".into();
                        }
                        _ => self.apply(value),
                    }
                }
            }
            _ => {}
        }
    }
}

impl Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentinel = if self.delimited { "<FF>" } else { "" };
        match &self.value {
            Value::String(text) => write!(f, "{sentinel}{text}"),
            value => write!(f, "{sentinel}{value}"),
        }
    }
}
