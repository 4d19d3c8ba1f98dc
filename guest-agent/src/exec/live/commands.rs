//! The commands for a program that was started.

use std::time::{Duration, Instant};

use qga_proto::base64::Base64;
use qga_proto::command::{
    Empty, Known, OutputStream, Overflow, TerminalSize, XExecForget, XExecInput, XExecList,
    XExecOutput, XExecPrograms, XExecRead, XExecResize, XExecSignal, XExecWait, XExecWrite,
};
use qga_proto::{Outcome, QgaError};
use rustix::io::Errno;

use super::input::Input;
use super::record::Live;
use super::serve::no_program;
use super::{named, terminal};
use crate::errno;
use crate::exec::Programs;
use crate::sys::process::signal;
use crate::worker::Reply;

/// Bytes of a read, if it does not say.
const READ: u64 = 64 << 10;
const MAX_READ: u64 = 1 << 20;
const MAX_WAIT_MS: i64 = 60_000;
const MAX_PROGRAMS: usize = 512;

impl Programs {
    pub(crate) fn list(&mut self, _: XExecList) -> Result<XExecPrograms, QgaError> {
        let now = Instant::now();
        let known = self.live.records.values().filter(|live| live.is_known());
        Ok(XExecPrograms {
            agent_instance: self.live.instance.clone(),
            programs: known.map(|live| live.describe(now)).collect(),
        })
    }

    /// The reply follows when there are news or the time is over.
    pub(crate) fn wait(&mut self, arguments: XExecWait, reply: Reply) {
        let XExecWait { programs, wait_ms } = arguments;
        let range = 0..=MAX_WAIT_MS;
        let error = if programs.len() > MAX_PROGRAMS {
            Some(format!("invalid programs: {}, and {MAX_PROGRAMS} at most", programs.len()))
        } else if !range.contains(&wait_ms) {
            Some(format!("invalid wait-ms: {wait_ms}, and it must be 0 to {MAX_WAIT_MS}"))
        } else {
            None
        };
        if let Some(error) = error {
            return reply.send(Outcome::Error(named(error, Errno::INVAL)));
        }
        for known in &programs {
            self.make_room_for_what_waits(known);
        }
        // The range was checked.
        let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0));
        self.live.waits.add(programs, wait, reply);
    }

    /// A program that waits until its output was read would wait for ever for a client who has read
    /// all of it, and waits for more.
    fn make_room_for_what_waits(&mut self, known: &Known) {
        let Ok(live) = self.find(known.handle) else { return };
        if live.overflow != Overflow::Wait {
            return;
        }
        let handle = live.handle;
        let before = live.held();
        for (output, offset) in live.outputs.iter_mut().zip([known.stdout, known.stderr]) {
            if let (Some(output), Some(offset)) = (output, offset) {
                output.ring.release(offset);
                output.paused = false;
            }
        }
        let released = before - live.held();
        self.held -= released;
        if released > 0 {
            self.settle_live(handle);
        }
    }

    pub(crate) fn read_output(&mut self, arguments: XExecRead) -> Result<XExecOutput, QgaError> {
        let XExecRead { handle, stream, offset, count } = arguments;
        let count = count.unwrap_or(READ);
        if count > MAX_READ {
            let text = format!("invalid count: {count}, and {MAX_READ} at most");
            return Err(named(text, Errno::INVAL));
        }
        let live = self.find(handle)?;
        let key = live.handle;
        let (place, name) = match stream {
            OutputStream::Stdout => (0, "output"),
            OutputStream::Stderr => (1, "error"),
        };
        let Some(output) = live.outputs[place].as_mut().filter(|output| output.kept) else {
            let text = format!("standard {name} of '{}' is not kept", live.name);
            return Err(named(text, Errno::INVAL));
        };
        let end = output.ring.end();
        if offset > end {
            let text = format!(
                "invalid offset: {offset}, and standard {name} of '{}' has come to {end}",
                live.name
            );
            return Err(named(text, Errno::INVAL));
        }
        let before = output.ring.len();
        output.ring.release(offset);
        // 1 MiB at most.
        let count = usize::try_from(count).unwrap_or(0);
        let (offset, bytes) = output.ring.read(offset, count);
        let eof = output.source.is_none() && offset + bytes.len() as u64 == end;
        if output.source.is_none() && offset == end {
            output.ring.shrink();
        }
        output.paused = false;
        let released = before - output.ring.len();
        self.held -= released;
        if released > 0 {
            self.settle_live(key);
        }
        Ok(XExecOutput { offset, buf_b64: Base64(bytes), eof })
    }

    pub(crate) fn write_input(&mut self, arguments: XExecWrite) -> Result<XExecInput, QgaError> {
        let XExecWrite { handle, offset, buf_b64, close } = arguments;
        let live = self.find(handle)?;
        let key = live.handle;
        let taken = live.stdin.taken();
        if offset > taken {
            let text = format!(
                "invalid offset: {offset}, and standard input of '{}' was taken up to {taken}",
                live.name
            );
            return Err(named(text, Errno::INVAL));
        }
        let close = close == Some(true);
        if close && live.pty {
            let text = format!(
                "the terminal of '{}' cannot be closed: send its end-of-file character",
                live.name
            );
            return Err(named(text, Errno::INVAL));
        }
        let bytes = buf_b64.decode().map_err(|e| e.with_errno("EINVAL"))?;
        self.make_room(bytes.len());
        let room = self.limits.held.saturating_sub(self.held);
        let live = self.find(handle)?;
        let before = live.held();
        if let Some(input) = live.stdin.input_mut() {
            input.take(offset, &bytes, close, room);
        }
        let after = live.held();
        self.held = self.held - before + after;
        self.write_live(key);
        self.settle_live(key);
        let stdin = &self.find(handle)?.stdin;
        let open = stdin.input().filter(|input| !input.ends()).map(Input::state);
        Ok(XExecInput {
            taken: stdin.taken(),
            room: open.map_or(0, |state| state.room),
            closed: open.is_none(),
        })
    }

    pub(crate) fn signal(&mut self, arguments: XExecSignal) -> Result<Empty, QgaError> {
        let XExecSignal { handle, signal: number, alone } = arguments;
        let live = self.find(handle)?;
        let alone = alone == Some(true);
        let raw = i32::try_from(number).ok().filter(|number| (1..=64).contains(number));
        let Some(raw) = raw else {
            let text = format!("invalid signal: {number}, and it must be 1 to 64");
            return Err(named(text, Errno::INVAL));
        };
        let failed = |e: Errno| {
            let text = format!("failed to send signal {raw} to '{}'", live.name);
            named(format!("{text}: {}", errno::text(e)), e)
        };
        // Its own process has not been waited for, so the number is its own.
        if live.reaped || alone && live.end.is_some() {
            return Err(failed(Errno::SRCH));
        }
        signal(live.pid, raw, alone).map_err(failed)?;
        Ok(Empty {})
    }

    pub(crate) fn resize(&mut self, arguments: XExecResize) -> Result<Empty, QgaError> {
        let XExecResize { handle, rows, cols } = arguments;
        if rows == 0 || cols == 0 {
            return Err(named("invalid size: rows and cols must be 1 or more", Errno::INVAL));
        }
        let live = self.find(handle)?;
        let name = &live.name;
        if !live.pty {
            return Err(named(format!("'{name}' has no terminal"), Errno::NOTTY));
        }
        let terminal = live.outputs[0].as_ref().and_then(|output| output.source.as_ref());
        let Some(terminal) = terminal else {
            return Err(named(format!("the terminal of '{name}' is closed"), Errno::IO));
        };
        terminal::resize(terminal.fd(), TerminalSize { rows, cols }).map_err(|e| {
            let text = format!("failed to resize the terminal of '{name}': {}", errno::text(e));
            named(text, e)
        })?;
        Ok(Empty {})
    }

    pub(crate) fn forget(&mut self, arguments: XExecForget) -> Result<Empty, QgaError> {
        let handle = self.find(arguments.handle)?.handle;
        self.forget_live(handle);
        Ok(Empty {})
    }

    fn find(&mut self, handle: i64) -> Result<&mut Live, QgaError> {
        let known = u32::try_from(handle).ok().and_then(|h| self.live.records.get_mut(&h));
        let live = known.filter(|live| live.is_known()).ok_or_else(|| no_program(handle))?;
        live.touched = Instant::now();
        Ok(live)
    }
}
