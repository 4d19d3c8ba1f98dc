//! Pseudo-terminals.

use std::os::fd::OwnedFd;

use qga_proto::command::TerminalSize;
use rustix::fs::{Mode, OFlags, Uid, fchown};
use rustix::io::{self, Errno};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

/// A new terminal: the agent's end and the program's, which belongs to `owner`.
pub(super) fn open(size: TerminalSize, owner: Option<Uid>) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let theirs = match ioctl_tiocgptpeer(&ours, flags) {
        // Kernels before 4.13.
        Err(Errno::NOTTY | Errno::INVAL) => {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            rustix::fs::open(ptsname(&ours, Vec::new())?, flags, Mode::empty())?
        }
        theirs => theirs?,
    };
    let mut modes = tcgetattr(&theirs)?;
    // Rubbing out takes away a character, not a byte.
    modes.input_modes |= InputModes::IUTF8;
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    resize(&ours, size)?;
    if owner.is_some() {
        fchown(&theirs, owner, None)?;
    }
    Ok((ours, theirs))
}

/// Tells the programs on it, too.
pub(super) fn resize(
    terminal: &OwnedFd,
    TerminalSize { rows, cols }: TerminalSize,
) -> io::Result<()> {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 })
}
