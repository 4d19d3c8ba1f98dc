//! The user's terminal: raw while the shell runs, and as it was afterwards, however that ends.

use std::io::{IsTerminal as _, stdin};

use qga_proto::command::TerminalSize;
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What a program gets that has no terminal at the other end.
const DEFAULT: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// How large the terminal is.
pub(super) fn size() -> TerminalSize {
    match tcgetwinsize(stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            TerminalSize { rows: size.ws_row, cols: size.ws_col }
        }
        _ => DEFAULT,
    }
}

/// The terminal in raw mode. Dropped, also by a panic, it is as it was.
#[derive(Debug)]
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// None if standard input is no terminal.
    pub(super) fn enter() -> rustix::io::Result<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let raw = Self { before: tcgetattr(stdin())? };
        raw.set()?;
        Ok(Some(raw))
    }

    fn set(&self) -> rustix::io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        // What was typed before stays.
        tcsetattr(stdin(), OptionalActions::Now, &raw)
    }

    /// Stops this process, with the terminal as it was meanwhile.
    pub(super) fn stop(&self) {
        self.restore();
        let _ = kill_process(getpid(), Signal::STOP);
        // It goes on.
        let _ = self.set();
    }

    fn restore(&self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.restore();
    }
}
