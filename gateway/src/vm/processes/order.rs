//! What is to be started, and how each kind of agent is told.

use std::fmt;
use std::time::Duration;

use qga_proto::base64::Base64Text;
use qga_proto::command::{CaptureOutput, GuestExec, Overflow, TerminalSize, XExecStart};

/// A program to be started.
#[derive(Clone)]
pub struct ProcessOrder {
    /// The program and its arguments; at least one.
    pub argv: Vec<String>,
    /// Its whole environment, `NAME=value`.
    pub env: Option<Vec<String>>,
    /// Its working directory.
    pub cwd: Option<String>,
    /// Whose it is.
    pub user: Option<String>,
    /// What it reads from standard input first.
    pub input: Option<Vec<u8>>,
    /// Whether standard input stays open behind that.
    pub input_open: bool,
    /// Which output to keep.
    pub capture: CaptureOutput,
    /// After which time it is killed.
    pub timeout: Option<Duration>,
    /// What becomes of output for which there is no room.
    pub overflow: Overflow,
    /// Give it a terminal of this size.
    pub pty: Option<TerminalSize>,
}

impl ProcessOrder {
    /// The first member that only an agent with `x-guest-exec-…` understands.
    pub fn beyond_stock(&self) -> Option<&'static str> {
        [
            ("cwd", self.cwd.is_some()),
            ("user", self.user.is_some()),
            ("timeout_seconds", self.timeout.is_some()),
            ("pty", self.pty.is_some()),
            ("stdin_open", self.input_open),
            ("overflow", self.overflow == Overflow::Wait),
        ]
        .into_iter()
        .find_map(|(member, there)| there.then_some(member))
    }

    pub(super) fn extension(&self) -> XExecStart {
        let some = |yes: bool| yes.then_some(true);
        XExecStart {
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            timeout_ms: self.timeout.map(|t| i64::try_from(t.as_millis()).unwrap_or(i64::MAX)),
            capture_output: Some(self.capture),
            overflow: Some(self.overflow),
            input_data: self.input.clone().map(Base64Text::new),
            keep_stdin: some(self.input_open || self.pty.is_some()),
            pty: self.pty,
        }
    }

    /// The arguments of `guest-exec`. Agents before QEMU 8.1 know only a boolean for the output,
    /// which says the same to all of them.
    pub(super) fn stock(&self) -> String {
        let (path, rest) = self.argv.split_first().map_or(("", &[][..]), |(p, r)| (p, r));
        let arguments = GuestExec {
            path: path.to_owned(),
            arg: (!rest.is_empty()).then(|| rest.to_vec()),
            env: self.env.clone(),
            input_data: self.input.clone().map(Base64Text::new),
            capture_output: Some(self.capture),
        };
        // Strings: their serialization cannot fail.
        let mut value = serde_json::to_value(arguments).unwrap_or_default();
        match self.capture {
            CaptureOutput::None => value["capture-output"] = false.into(),
            CaptureOutput::Separated => value["capture-output"] = true.into(),
            _ => {}
        }
        value.to_string()
    }
}

/// Neither arguments nor input: both may be secret.
impl fmt::Debug for ProcessOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessOrder").field("program", &self.argv.first()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(argv: &[&str]) -> ProcessOrder {
        ProcessOrder {
            argv: argv.iter().map(|&arg| arg.to_owned()).collect(),
            env: None,
            cwd: None,
            user: None,
            input: None,
            input_open: false,
            capture: CaptureOutput::Separated,
            timeout: None,
            overflow: Overflow::Drop,
            pty: None,
        }
    }

    #[test]
    fn a_stock_agent_is_told_what_every_version_understands() {
        assert_eq!(order(&["/bin/ls"]).stock(), r#"{"capture-output":true,"path":"/bin/ls"}"#);
        let mut all = order(&["sh", "-c", "cat"]);
        all.env = Some(vec!["A=b".into()]);
        all.input = Some(b"hi".to_vec());
        all.capture = CaptureOutput::Merged;
        assert_eq!(
            all.stock(),
            r#"{"arg":["-c","cat"],"capture-output":"merged","env":["A=b"],"input-data":"aGk=","path":"sh"}"#
        );
        assert_eq!(all.beyond_stock(), None);
        all.pty = Some(TerminalSize { rows: 24, cols: 80 });
        assert_eq!(all.beyond_stock(), Some("pty"));
        assert_eq!(all.extension().keep_stdin, Some(true));
        assert!(!format!("{all:?}").contains("cat"));
    }
}
