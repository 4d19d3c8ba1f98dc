//! What a caller says of a program that is to be started.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use qga_proto::command::{CaptureOutput, Overflow, TerminalSize};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::error::Problem;
use crate::vm::ProcessOrder;

/// The largest body of a start: what stands in `stdin` is in it.
pub(in crate::api) const MAX_START_BODY: usize = 16 << 20;

/// The longest that a program may run, if that is said.
const MAX_TIMEOUT: f64 = 30.0 * 86_400.0;

/// A program to be started.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"argv": ["/usr/bin/journalctl", "-n", "100"], "timeout_seconds": 30}))]
pub(in crate::api) struct ProcessRequest {
    /// The program and its arguments; a program without a slash is looked up in the guest's PATH.
    #[schema(min_items = 1, max_items = 4096)]
    argv: Vec<String>,
    /// Its whole environment. If absent, the agent's.
    env: Option<BTreeMap<String, String>>,
    /// Its working directory. If absent `/`, or the home of `user`. Extension.
    cwd: Option<String>,
    /// Whose it is, by name or number. If absent, the agent's user, which is root. Extension.
    user: Option<String>,
    /// What it reads from standard input first, as text.
    stdin: Option<String>,
    /// The same as base64, for what is no text.
    stdin_b64: Option<String>,
    /// Standard input stays open behind that, for `PUT …/stdin`. Extension.
    #[serde(default)]
    stdin_open: bool,
    /// Which output to keep; both streams, apart, if absent. `merged` keeps both as standard output,
    /// in the order in which they came (agents since QEMU 8.1).
    capture: Option<CaptureOutput>,
    /// Kill it, with its process group, after this time. Extension.
    #[schema(exclusive_minimum = 0, maximum = 2_592_000)]
    timeout_seconds: Option<f64>,
    /// What becomes of output for which there is no room: with `drop`, which is what an absent
    /// member means, the oldest gives way; with `wait` the program waits until it was read.
    /// Extension, as far as `wait`.
    overflow: Option<Overflow>,
    /// Give it a terminal of this size; all its output is standard output then. Extension.
    pty: Option<TerminalSize>,
}

impl ProcessRequest {
    /// What is put on record in clear: of the arguments only the program's name.
    pub(super) fn program(&self) -> Option<&str> {
        self.argv.first().map(String::as_str)
    }

    pub(super) fn checked(self) -> Result<ProcessOrder, Problem> {
        let bad = |member: &str, why: &str| Problem::bad_member(member, why);
        if self.argv.is_empty() || self.argv.len() > 4096 {
            return Err(bad("argv", "the program and its arguments, 1 to 4096 of them"));
        }
        if self.argv[0].is_empty() {
            return Err(bad("argv", "the program's name is empty"));
        }
        if self.argv.iter().any(|text| text.contains('\0')) {
            return Err(bad("argv", "no argument can hold a NUL character"));
        }
        let wrong = |(name, value): (&String, &String)| {
            name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
        };
        if self.env.iter().flatten().any(wrong) {
            return Err(bad("env", "names are not empty and have no \"=\"; nothing has a NUL"));
        }
        let path = |path: &String| path.starts_with('/') && !path.contains('\0');
        if self.cwd.as_ref().is_some_and(|cwd| !path(cwd)) {
            return Err(bad("cwd", "an absolute path is needed"));
        }
        if self.user.as_ref().is_some_and(|user| user.is_empty() || user.contains('\0')) {
            return Err(bad("user", "a name or a number is needed"));
        }
        let input = match (self.stdin, self.stdin_b64) {
            (Some(_), Some(_)) => {
                return Err(bad("stdin_b64", "not together with \"stdin\""));
            }
            (Some(text), None) => Some(text.into_bytes()),
            (None, Some(text)) => Some(
                base64_simd::STANDARD
                    .decode_to_vec(text)
                    .map_err(|_| bad("stdin_b64", "not base64 (RFC 4648, with padding)"))?,
            ),
            (None, None) => None,
        };
        let timeout = self.timeout_seconds.map(|seconds| {
            let fits = seconds > 0.0 && seconds <= MAX_TIMEOUT;
            let timeout = fits.then(|| Duration::try_from_secs_f64(seconds).ok()).flatten();
            // The guest counts milliseconds.
            timeout.map(|t| t.max(Duration::from_millis(1))).ok_or_else(|| {
                bad("timeout_seconds", "more than 0 and at most 2592000 (30 days) is needed")
            })
        });
        if self.pty.is_some_and(|size| size.rows == 0 || size.cols == 0) {
            return Err(bad("pty", "rows and cols must be at least 1"));
        }
        Ok(ProcessOrder {
            argv: self.argv,
            env: self.env.map(|env| env.iter().map(|(k, v)| format!("{k}={v}")).collect()),
            cwd: self.cwd,
            user: self.user,
            input,
            input_open: self.stdin_open,
            capture: self.capture.unwrap_or(CaptureOutput::Separated),
            timeout: timeout.transpose()?,
            overflow: self.overflow.unwrap_or_default(),
            pty: self.pty,
        })
    }
}

/// Nothing of it: arguments, environment and input may all be secret.
impl fmt::Debug for ProcessRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessRequest").finish_non_exhaustive()
    }
}

/// A signal by its name or number.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(in crate::api) enum SignalName {
    /// 1 to 64.
    Number(i64),
    /// `TERM` or `SIGTERM`.
    Name(String),
}

/// A signal to be sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"signal": "TERM"}))]
pub(in crate::api) struct SignalRequest {
    signal: SignalName,
    /// To the process alone, not to its group.
    #[serde(default)]
    pub(super) alone: bool,
}

impl SignalRequest {
    pub(super) fn number(&self) -> Result<i64, Problem> {
        self.signal.number().ok_or_else(|| {
            Problem::bad_member("signal", "a name such as \"TERM\", or a number from 1 to 64")
        })
    }
}

impl SignalName {
    /// As on Linux, which is where processes can be sent signals.
    pub(super) fn number(&self) -> Option<i64> {
        let name = match self {
            Self::Number(number) => return (1..=64).contains(number).then_some(*number),
            Self::Name(name) => name.strip_prefix("SIG").unwrap_or(name),
        };
        NAMES.iter().find_map(|(known, number)| (*known == name).then_some(*number))
    }
}

/// What the name of a signal looks like.
pub(in crate::api) fn signal_pattern() -> String {
    format!("^(SIG)?({})$", NAMES.map(|(name, _)| name).join("|"))
}

const NAMES: [(&str, i64); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn checked(body: Value) -> Result<ProcessOrder, Problem> {
        serde_json::from_value::<ProcessRequest>(body).expect("the form").checked()
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_member() {
        for (body, member) in [
            (json!({"argv": []}), "argv"),
            (json!({"argv": [""]}), "argv"),
            (json!({"argv": ["a\0"]}), "argv"),
            (json!({"argv": ["a"], "env": {"A=": "b"}}), "env"),
            (json!({"argv": ["a"], "cwd": "tmp"}), "cwd"),
            (json!({"argv": ["a"], "user": ""}), "user"),
            (json!({"argv": ["a"], "stdin": "", "stdin_b64": ""}), "stdin_b64"),
            (json!({"argv": ["a"], "stdin_b64": "a"}), "stdin_b64"),
            (json!({"argv": ["a"], "timeout_seconds": 0}), "timeout_seconds"),
            (json!({"argv": ["a"], "timeout_seconds": 1e300}), "timeout_seconds"),
            (json!({"argv": ["a"], "pty": {"rows": 0, "cols": 1}}), "pty"),
        ] {
            let problem = format!("{:?}", checked(body.clone()).unwrap_err());
            assert!(problem.contains(&format!("Member \\\"{member}\\\"")), "{body}: {problem}");
        }
        let order = checked(json!({"argv": ["a"], "env": {"A": "b=c"}, "timeout_seconds": 1e-9}));
        let order = order.unwrap();
        assert_eq!(order.env.unwrap(), ["A=b=c"]);
        assert_eq!(order.timeout, Some(Duration::from_millis(1)));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        let number = |value: Value| serde_json::from_value::<SignalName>(value).unwrap().number();
        assert_eq!(number(json!("TERM")), Some(15));
        assert_eq!(number(json!("SIGKILL")), Some(9));
        assert_eq!(number(json!(64)), Some(64));
        for bad in [json!(0), json!(65), json!("term"), json!("SIG"), json!("")] {
            assert_eq!(number(bad), None);
        }
    }
}
