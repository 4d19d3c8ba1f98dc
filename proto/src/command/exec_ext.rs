//! Our agent's own commands for programs: `x-guest-exec-start`, `-list`, `-wait`, `-read`, `-write`,
//! `-signal`, `-resize`, `-forget`.
//!
//! A stock agent does not have them. A program that was started by them is known by its handle,
//! its output can be read while it runs, and everything of it ends with its process group. See
//! `docs/extensions.md`.

use serde::{Deserialize, Serialize};

use super::{CaptureOutput, Command, CommandInfo, Empty, Right};
use crate::base64::{Base64, Base64Text};

/// `x-guest-exec-start`: starts a program in a session and process group of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XExecStart {
    /// The program and its arguments; one without a slash is looked up in PATH.
    pub argv: Vec<String>,
    /// Its whole environment, `NAME=value`. Absent means the agent's, and for another user only
    /// HOME, USER, LOGNAME, SHELL and PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Its working directory. Absent means `/`, or the home of `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Whose it is, by name or number, with that user's groups. Absent means the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Milliseconds after which its process group is killed. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<i64>,
    /// Which output to keep; absent means none. With a `pty` everything is standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture_output: Option<CaptureOutput>,
    /// What becomes of output for which there is no room; absent means `drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow: Option<Overflow>,
    /// What it reads from standard input first, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_data: Option<Base64Text>,
    /// Standard input stays open for `x-guest-exec-write`. Absent means that it ends behind
    /// `input-data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_stdin: Option<bool>,
    /// Give it a terminal of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<TerminalSize>,
}

impl Command for XExecStart {
    const INFO: CommandInfo = CommandInfo::change("x-guest-exec-start", Right::Exec);
    type Return = XExecStarted;
}

/// What becomes of output for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Overflow {
    /// The oldest that nobody has read gives way; the program never waits.
    #[default]
    Drop,
    /// The program waits until it was read.
    Wait,
}

/// A terminal's size, in characters; 1 to 65535 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// What `x-guest-exec-start` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct XExecStarted {
    /// What the other commands know the program by; never used again by this run of the agent.
    pub handle: i64,
    /// The process, which leads a process group and session of the same number.
    pub pid: i64,
    /// Which run of the agent this is: handles mean nothing to another.
    pub agent_instance: String,
}

/// `x-guest-exec-list`: all programs that are known, in the order of their handles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XExecList {}

impl Command for XExecList {
    const INFO: CommandInfo =
        CommandInfo { right: Right::Exec, ..CommandInfo::query("x-guest-exec-list") };
    type Return = XExecPrograms;
}

/// What `x-guest-exec-list` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XExecPrograms {
    /// Which run of the agent this is.
    pub agent_instance: String,
    /// The programs.
    pub programs: Vec<XExecProgram>,
}

/// Where a program stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XExecProgram {
    /// From its start.
    pub handle: i64,
    /// The process.
    pub pid: i64,
    /// Its `argv[0]`.
    pub program: String,
    /// Milliseconds since it was started.
    pub age_ms: u64,
    /// Whether it has ended. Its output may still be open, held by programs that it has started.
    pub exited: bool,
    /// Its exit code, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exitcode: Option<i64>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i64>,
    /// It was killed because its time was over.
    pub timed_out: bool,
    /// It has a terminal.
    pub pty: bool,
    /// Its standard output, where that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<OutputState>,
    /// Its standard error, where that is kept apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<OutputState>,
    /// Its standard input, while that is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<InputState>,
}

/// What is kept of a stream, in bytes from its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputState {
    /// The first byte that is still there.
    pub start: u64,
    /// Behind the last byte that has come.
    pub end: u64,
    /// Nothing will come behind `end`.
    pub eof: bool,
}

/// How far standard input has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputState {
    /// Bytes taken so far, `input-data` included.
    pub taken: u64,
    /// Bytes for which there is room now.
    pub room: u64,
}

/// `x-guest-exec-wait`: answers as soon as one of these programs has news, or the time is over. It
/// is also answered, with none, as soon as another request arrives on the channel: it never holds
/// anything up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XExecWait {
    /// The programs and what is known of them; at most 512.
    pub programs: Vec<Known>,
    /// Milliseconds; at most 60,000.
    pub wait_ms: i64,
}

impl Command for XExecWait {
    const INFO: CommandInfo =
        CommandInfo { right: Right::Exec, ..CommandInfo::query("x-guest-exec-wait") }
            .yielding(r#"{"ready": []}"#);
    type Return = XExecNews;
}

/// What is known of a program; anything beyond is news, and so is a program that is not there, which
/// is then described with `pid` 0. Where output waits to be read (`overflow`), what is known makes
/// room, as in a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Known {
    /// The program.
    pub handle: i64,
    /// Standard output up to here; absent: it is not of interest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<u64>,
    /// Standard error up to here; absent: it is not of interest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<u64>,
    /// Whether room in standard input is of interest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<bool>,
    /// Whether its end is of interest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<bool>,
}

/// What `x-guest-exec-wait` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XExecNews {
    /// The programs that have news, as they stand now.
    pub ready: Vec<XExecProgram>,
}

/// `x-guest-exec-read`: output of a program from an offset on. What lies before it is not needed
/// any more and makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XExecRead {
    /// The program.
    pub handle: i64,
    /// Which stream.
    pub stream: OutputStream,
    /// Bytes from its beginning.
    pub offset: u64,
    /// Bytes, at most 1 MiB. Absent means 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Command for XExecRead {
    const INFO: CommandInfo =
        CommandInfo { right: Right::Exec, ..CommandInfo::query("x-guest-exec-read") };
    type Return = XExecOutput;
}

/// A stream of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What `x-guest-exec-read` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XExecOutput {
    /// Where the bytes begin: behind what was asked for if that is gone already.
    pub offset: u64,
    /// The bytes, base64; none if there are none yet.
    pub buf_b64: Base64,
    /// Nothing will come behind them.
    pub eof: bool,
}

/// `x-guest-exec-write`: standard input of a program. What does not fit is not taken: send it again
/// from where it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XExecWrite {
    /// The program.
    pub handle: i64,
    /// Where the bytes begin. What was taken already is left out, a gap is an error: so a request
    /// whose answer got lost can be sent again.
    pub offset: u64,
    /// The bytes, base64.
    pub buf_b64: Base64Text,
    /// Standard input ends behind them, if all of them fit. To a terminal that is not said: send
    /// its end-of-file character.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close: Option<bool>,
}

impl Command for XExecWrite {
    const INFO: CommandInfo = CommandInfo::change("x-guest-exec-write", Right::Exec).pipelined();
    type Return = XExecInput;
}

/// What `x-guest-exec-write` answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XExecInput {
    /// Bytes taken so far.
    pub taken: u64,
    /// Bytes for which there is room now.
    pub room: u64,
    /// Standard input is closed: by the end asked for, or because the program reads no more.
    pub closed: bool,
}

/// `x-guest-exec-signal`: a signal to the program's process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XExecSignal {
    /// The program.
    pub handle: i64,
    /// The number, 1 to 64.
    pub signal: i64,
    /// To the process alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<bool>,
}

impl Command for XExecSignal {
    const INFO: CommandInfo = CommandInfo::change("x-guest-exec-signal", Right::Exec);
    type Return = Empty;
}

/// `x-guest-exec-resize`: another size for a program's terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XExecResize {
    /// The program.
    pub handle: i64,
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

impl Command for XExecResize {
    const INFO: CommandInfo = CommandInfo::change("x-guest-exec-resize", Right::Exec);
    type Return = Empty;
}

/// `x-guest-exec-forget`: kills the program's process group if anything of it is left, and forgets
/// what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XExecForget {
    /// The program.
    pub handle: i64,
}

impl Command for XExecForget {
    const INFO: CommandInfo = CommandInfo::change("x-guest-exec-forget", Right::Exec);
    type Return = Empty;
}
