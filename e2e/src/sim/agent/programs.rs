//! Programs that say something and end at once, as `guest-exec` starts them.

use std::collections::BTreeSet;

use qga_proto::base64::Base64;
use qga_proto::command::{Command as _, ExecStarted, ExecStatus, GuestExec, GuestExecStatus};
use qga_proto::{Job, Outcome, QgaError};

/// Results that may wait to be fetched.
const MAX: usize = 512;

/// Those whose results nobody has fetched.
#[derive(Debug, Default)]
pub(super) struct Programs {
    started: i64,
    ended: BTreeSet<i64>,
}

impl Programs {
    pub(super) fn run(&mut self, job: &Job) -> Outcome {
        let request = &job.request;
        if job.info.name == GuestExec::INFO.name {
            request.arguments::<GuestExec>().and_then(|_| self.start()).into()
        } else {
            request.arguments().and_then(|GuestExecStatus { pid }| self.status(pid)).into()
        }
    }

    fn start(&mut self) -> Result<ExecStarted, QgaError> {
        if self.ended.len() == MAX {
            return Err(QgaError::generic("Failed to execute child process"));
        }
        self.started += 1;
        let pid = 4000 + self.started;
        self.ended.insert(pid);
        Ok(ExecStarted { pid })
    }

    fn status(&mut self, pid: i64) -> Result<ExecStatus, QgaError> {
        if !self.ended.remove(&pid) {
            return Err(QgaError::generic(format!("PID {pid} does not exist")));
        }
        Ok(ExecStatus {
            exited: true,
            exitcode: Some(0),
            out_data: Some(Base64(b"simulated\n".to_vec())),
            ..ExecStatus::default()
        })
    }
}
