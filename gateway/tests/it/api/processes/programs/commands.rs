//! What the agent answers to each command.

use qga_proto::base64::Base64;
use qga_proto::command::{
    COMMANDS, ExecStatus, GuestExec, GuestExecStatus, GuestSync, InputState, OutputState,
    XExecForget, XExecInput, XExecOutput, XExecProgram, XExecPrograms, XExecRead, XExecSignal,
    XExecStart, XExecStarted, XExecWrite,
};
use qga_proto::{Outcome, QgaError, Request};
use serde_json::json;

use super::{Program, Programs, State, Stream, WINDOW};

impl Programs {
    pub(super) fn behave(
        &self,
        name: &str,
        allowed_while_frozen: bool,
        request: &Request,
    ) -> Outcome {
        let stock = self.0.stock;
        let mut state = self.state();
        if state.frozen && !allowed_while_frozen {
            return Outcome::Error(QgaError::disabled(name));
        }
        let gone = || QgaError::generic("no such program");
        match name {
            "guest-sync" | "guest-sync-delimited" => {
                request.arguments::<GuestSync>().map(|sync| sync.id).into()
            }
            "guest-info" => Outcome::value(&json!({
                "version": "11.1.3",
                "supported_commands": COMMANDS.iter().rev()
                    .filter(|info| !stock || !info.name.starts_with("x-"))
                    .map(|info| json!({
                        "name": info.name, "enabled": true,
                        "success-response": info.success_response
                    })).collect::<Vec<_>>()
            })),
            "guest-fsfreeze-status" => {
                Outcome::value(if state.frozen { "frozen" } else { "thawed" })
            }
            "guest-exec" => request
                .arguments::<GuestExec>()
                .map(|exec| {
                    state.last_exec = serde_json::to_string(&exec).ok();
                    let handle = state.next;
                    state.next += 1;
                    let program = Program {
                        pid: handle,
                        streams: [Some(Stream::default()), Some(Stream::default())],
                        ..Program::default()
                    };
                    state.by_handle.insert(handle, program);
                    json!({"pid": handle})
                })
                .into(),
            "guest-exec-status" => request
                .arguments::<GuestExecStatus>()
                .and_then(|status| {
                    let program = state.by_handle.get_mut(&status.pid);
                    let program = program.ok_or_else(|| {
                        QgaError::generic(format!("PID {} does not exist", status.pid))
                    })?;
                    let Some((exitcode, signal)) = program.exit else {
                        return Ok(ExecStatus::default());
                    };
                    let [out_data, err_data] = std::mem::take(&mut program.streams)
                        .map(|stream| stream.map(|stream| Base64(stream.bytes)));
                    state.by_handle.remove(&status.pid);
                    Ok(ExecStatus {
                        exited: true,
                        exitcode,
                        signal,
                        out_data,
                        err_data,
                        ..ExecStatus::default()
                    })
                })
                .into(),
            "x-guest-exec-start" => {
                request.arguments::<XExecStart>().map(|start| state.start(start)).into()
            }
            "x-guest-exec-list" => Outcome::value(&XExecPrograms {
                agent_instance: state.instance(),
                programs: state.by_handle.iter().map(|(h, program)| program.say(*h)).collect(),
            }),
            "x-guest-exec-read" => request
                .arguments::<XExecRead>()
                .and_then(|read| {
                    let program = state.by_handle.get_mut(&read.handle).ok_or_else(gone)?;
                    let stream = program.streams[read.stream as usize].as_mut().ok_or_else(gone)?;
                    let before = read.offset.clamp(stream.start, stream.end()) - stream.start;
                    stream.bytes.drain(..usize::try_from(before).unwrap());
                    stream.start += before;
                    self.changed();
                    let count = usize::try_from(read.count.unwrap_or(1 << 16)).unwrap();
                    let bytes = stream.bytes[..stream.bytes.len().min(count)].to_vec();
                    let eof = stream.eof && bytes.len() == stream.bytes.len();
                    Ok(XExecOutput { offset: stream.start, buf_b64: Base64(bytes), eof })
                })
                .into(),
            "x-guest-exec-write" => request
                .arguments::<XExecWrite>()
                .and_then(|write| {
                    let program = state.by_handle.get_mut(&write.handle).ok_or_else(gone)?;
                    let bytes = write.buf_b64.decode()?;
                    let taken = program.input.len() as u64;
                    if write.offset > taken {
                        return Err(QgaError::generic("a gap in the input"));
                    }
                    if program.open {
                        let known = usize::try_from(taken - write.offset).unwrap().min(bytes.len());
                        let room = WINDOW - (program.input.len() - program.read);
                        let new = &bytes[known..];
                        let fits = &new[..new.len().min(room)];
                        program.input.extend_from_slice(fits);
                        program.open &= fits.len() < new.len() || write.close != Some(true);
                    }
                    Ok(XExecInput {
                        taken: program.input.len() as u64,
                        room: (WINDOW - (program.input.len() - program.read)) as u64,
                        closed: !program.open,
                    })
                })
                .into(),
            "x-guest-exec-signal" => match request.arguments::<XExecSignal>() {
                Ok(signal) => {
                    state.signals.push((signal.handle, signal.signal));
                    drop(state);
                    if signal.signal == 9 {
                        self.end(signal.handle, (None, Some(9)));
                    }
                    Outcome::empty()
                }
                Err(error) => Outcome::Error(error),
            },
            "x-guest-exec-forget" => match request.arguments::<XExecForget>() {
                Ok(forget) => {
                    state.by_handle.remove(&forget.handle);
                    Outcome::empty()
                }
                Err(error) => Outcome::Error(error),
            },
            _ => Outcome::empty(),
        }
    }
}

impl State {
    fn instance(&self) -> String {
        format!("run-{}", self.run)
    }

    fn start(&mut self, start: XExecStart) -> XExecStarted {
        let handle = self.next;
        self.next += 1;
        self.last_start = Some(start.clone());
        let input = start.input_data.map(|data| data.decode().unwrap()).unwrap_or_default();
        let program = Program {
            pid: handle + 1000,
            name: start.argv[0].clone(),
            streams: [Some(Stream::default()), start.pty.is_none().then(Stream::default)],
            overflow: start.overflow.unwrap_or_default(),
            read: input.len(),
            input,
            open: start.keep_stdin == Some(true),
            pty: start.pty.is_some(),
            exit: None,
        };
        let pid = program.pid;
        self.by_handle.insert(handle, program);
        XExecStarted { handle, pid, agent_instance: self.instance() }
    }
}

impl Program {
    pub(super) fn say(&self, handle: i64) -> XExecProgram {
        let state = |stream: &Option<Stream>| {
            let stream = stream.as_ref()?;
            Some(OutputState { start: stream.start, end: stream.end(), eof: stream.eof })
        };
        let (exitcode, signal) = self.exit.unwrap_or_default();
        let stdin = self.open.then(|| InputState {
            taken: self.input.len() as u64,
            room: (WINDOW - (self.input.len() - self.read)) as u64,
        });
        XExecProgram {
            handle,
            pid: self.pid,
            program: self.name.clone(),
            age_ms: 5,
            exited: self.exit.is_some(),
            exitcode,
            signal,
            timed_out: false,
            pty: self.pty,
            stdout: state(&self.streams[0]),
            stderr: state(&self.streams[1]),
            stdin,
        }
    }
}
