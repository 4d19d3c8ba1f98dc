//! One started program: its pipes, what came out of them, and how it ended.

use std::os::fd::{AsFd as _, OwnedFd};

use qga_proto::base64::Base64;
use qga_proto::command::{CaptureOutput, ExecStatus};
use rustix::io::{self, Errno};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use super::program::Program;

/// Which stream of a program: its number, as everywhere.
pub(super) const INPUT: usize = 0;
pub(super) const OUTPUT: usize = 1;
pub(super) const ERRORS: usize = 2;

/// A program that was just started.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: Pid,
    /// Readable once it has ended. Kernels before 5.3 have none.
    pub(super) pidfd: Option<OwnedFd>,
    /// The agent's ends of the pipes to its streams.
    pub(super) pipes: [Option<OwnedFd>; 3],
    pub(super) input: Vec<u8>,
}

impl Child {
    pub(super) fn start(
        program: &Program,
        input: Option<Vec<u8>>,
        capture: CaptureOutput,
    ) -> io::Result<Self> {
        use CaptureOutput::{Merged, Separated, Stderr, Stdout};
        let mut pipes = [const { None }; 3];
        let mut ends = [const { None }; 3];
        if input.is_some() {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (pipes[INPUT], ends[INPUT]) = (Some(write), Some(read));
        }
        if matches!(capture, Stdout | Separated | Merged) {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (pipes[OUTPUT], ends[OUTPUT]) = (Some(read), Some(write));
        }
        if matches!(capture, Stderr | Separated) {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (pipes[ERRORS], ends[ERRORS]) = (Some(read), Some(write));
        }
        for pipe in pipes.iter().flatten() {
            // The program's end is another open file, and stays as it is.
            io::ioctl_fionbio(pipe, true)?;
        }
        let [end_of_input, output, errors] =
            ends.each_ref().map(|end| end.as_ref().map(OwnedFd::as_fd));
        let errors = if capture == Merged { output } else { errors };
        let pid = program.start([end_of_input, output, errors])?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        Ok(Self { pid, pidfd, pipes, input: input.unwrap_or_default() })
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Exit(i32),
    Signal(i32),
    /// Somebody else has waited for it.
    Unknown,
}

/// What is known of a program until a client has fetched its result.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) pid: Pid,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) pipes: [Option<OwnedFd>; 3],
    /// What has not been written to it yet.
    pub(super) input: Vec<u8>,
    pub(super) written: usize,
    /// Standard output, and standard error.
    pub(super) kept: [Kept; 2],
    pub(super) end: Option<End>,
}

/// What came from one stream.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    pub(super) truncated: bool,
}

impl Record {
    pub(super) fn new(child: Child) -> Self {
        let Child { pid, pidfd, pipes, input } = child;
        Self { pid, pidfd, pipes, input, written: 0, kept: Default::default(), end: None }
    }

    /// Ended, and nobody holds its output open any more.
    pub(super) fn is_finished(&self) -> bool {
        self.end.is_some() && self.pipes[OUTPUT].is_none() && self.pipes[ERRORS].is_none()
    }

    /// Whether it still takes descriptors.
    pub(super) fn is_running(&self) -> bool {
        self.end.is_none() || self.pipes.iter().any(Option::is_some)
    }

    /// Bytes held for it.
    pub(super) fn held(&self) -> usize {
        self.input.len() + self.kept.iter().map(|kept| kept.bytes.len()).sum::<usize>()
    }

    /// Takes note of its end, if it has ended.
    pub(super) fn reap(&mut self) {
        if self.end.is_some() {
            return;
        }
        self.end = match waitpid(Some(self.pid), WaitOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => return,
            Err(_) => Some(End::Unknown),
            Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Some(End::Exit(code)),
                (None, Some(signal)) => Some(End::Signal(signal)),
                (None, None) => return,
            },
        };
    }

    /// Writes to its input what fits into the pipe. Returns whether there is more to come.
    pub(super) fn write(&mut self) -> bool {
        let Some(pipe) = &self.pipes[INPUT] else { return false };
        loop {
            let rest = &self.input[self.written..];
            if rest.is_empty() {
                return false;
            }
            match io::write(pipe, rest) {
                Ok(n) => self.written += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                // It does not want to read it.
                Err(_) => return false,
            }
        }
    }

    /// What `guest-exec-status` answers.
    pub(super) fn into_status(self) -> ExecStatus {
        let (exitcode, signal) = match self.end {
            Some(End::Exit(code)) => (Some(code.into()), None),
            Some(End::Signal(signal)) => (None, Some(signal.into())),
            Some(End::Unknown) | None => (None, None),
        };
        let [(out_data, out_truncated), (err_data, err_truncated)] = self.kept.map(|kept| {
            let some = !kept.bytes.is_empty();
            (some.then_some(Base64(kept.bytes)), some.then_some(kept.truncated))
        });
        ExecStatus {
            exited: true,
            exitcode,
            signal,
            out_data,
            err_data,
            out_truncated,
            err_truncated,
        }
    }
}

impl Kept {
    /// Keeps `bytes`, with no more memory than `limit` in the end.
    pub(super) fn push(&mut self, bytes: &[u8], limit: usize) {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            let capacity = needed.max((2 * self.bytes.capacity()).min(limit));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }
}
