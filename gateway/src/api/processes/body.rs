//! A process as the API shows it.

use qga_proto::command::OutputStream;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::error::printable;
use crate::api::time::Timestamp;
use crate::vm::{Process, ProcessState};

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProcessState)]
pub(in crate::api) enum StateBody {
    /// It runs.
    Running,
    /// It has ended: `exit_code` or `signal` says how.
    Exited,
    /// What became of it is not known: `reason` says why.
    Lost,
}

/// A process that was started through the gateway.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Process, example = json!({
    "pid": 4711,
    "owner": "unix:uid=0",
    "program": "/usr/bin/journalctl",
    "started_at": "2026-11-22T09:15:04.250Z",
    "state": "exited",
    "complete": true,
    "ended_at": "2026-11-22T09:15:04.301Z",
    "exit_code": 0,
    "signal": null,
    "timed_out": false,
    "reason": null,
    "streaming": true,
    "pty": false,
    "stdin": null,
    "stdout": {"start": 0, "end": 6, "eof": true, "text": "hello\n"},
    "stderr": {"start": 0, "end": 0, "eof": true, "text": ""}
}))]
pub(in crate::api) struct ProcessBody {
    /// Its number in the guest.
    pid: i64,
    /// Who had it started. `null` if this gateway found it in the guest, where one before it, or
    /// somebody else, has started it.
    owner: Option<String>,
    /// Its `argv[0]`.
    program: String,
    started_at: Timestamp,
    state: StateBody,
    /// Whether nothing more will come of it: it has ended, and all its output is here.
    complete: bool,
    /// When its end was seen.
    ended_at: Option<Timestamp>,
    /// Its exit code, if it ended by itself.
    exit_code: Option<i64>,
    /// The number of the signal that ended it.
    signal: Option<i64>,
    /// Whether it was killed because its time was over.
    timed_out: bool,
    /// Why it is lost.
    reason: Option<String>,
    /// Whether its output comes while it runs. With a stock agent it comes at the end.
    streaming: bool,
    /// Whether it has a terminal.
    pty: bool,
    /// Its standard input, if that is or was open for `PUT …/stdin`.
    stdin: Option<InputBody>,
    /// Its standard output, if that is kept.
    stdout: Option<StreamBody>,
    /// Its standard error, if that is kept apart.
    stderr: Option<StreamBody>,
}

/// A process's standard input.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProcessInput)]
pub(in crate::api) struct InputBody {
    /// Bytes that the guest has taken.
    pub(super) taken: u64,
    /// Whether nothing more is taken.
    pub(super) closed: bool,
}

/// A stream of a process's output.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProcessOutput)]
pub(in crate::api) struct StreamBody {
    /// The first byte that is kept, from the stream's beginning.
    start: u64,
    /// Behind the last byte that has come.
    end: u64,
    /// Nothing will come behind `end`.
    eof: bool,
    /// What is kept, if the process is complete and that is UTF-8. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<String>,
    /// What is kept, if the process is complete and that is not UTF-8. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, content_encoding = "base64")]
    base64: Option<String>,
}

/// Bytes as text where they are UTF-8, and as base64 elsewhere.
pub(super) fn text_or_base64(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(base64_simd::STANDARD.encode_to_string(error.as_bytes()))),
    }
}

impl ProcessBody {
    /// Without output.
    pub(in crate::api) fn brief(process: &Process) -> Self {
        Self::new(process, false)
    }

    /// With the output of one that is complete.
    pub(in crate::api) fn whole(process: &Process) -> Self {
        Self::new(process, true)
    }

    fn new(process: &Process, whole: bool) -> Self {
        let view = process.view();
        let stream = |stream, n: usize| {
            let state = view.streams[n]?;
            let mut body = StreamBody {
                start: state.start,
                end: state.end,
                eof: state.eof,
                text: None,
                base64: None,
            };
            if whole && view.complete {
                let (_, bytes) = process.output(stream).unwrap_or_default();
                (body.text, body.base64) = text_or_base64(bytes);
            }
            Some(body)
        };
        let (stdout, stderr) = (stream(OutputStream::Stdout, 0), stream(OutputStream::Stderr, 1));
        let (state, exit_code, signal, timed_out, reason) = match view.state {
            ProcessState::Running => (StateBody::Running, None, None, false, None),
            ProcessState::Exited { exit_code, signal, timed_out } => {
                (StateBody::Exited, exit_code, signal, timed_out, None)
            }
            ProcessState::Lost { reason } => (StateBody::Lost, None, None, false, Some(reason)),
        };
        Self {
            pid: process.pid,
            owner: process.owner.as_ref().map(ToString::to_string),
            program: printable(&process.program),
            started_at: process.started_at.into(),
            state,
            complete: view.complete,
            ended_at: view.ended_at.map(Into::into),
            exit_code,
            signal,
            timed_out,
            reason,
            streaming: process.streams(),
            pty: process.pty,
            stdin: view.input.map(|input| InputBody { taken: input.taken, closed: input.closed }),
            stdout,
            stderr,
        }
    }
}
