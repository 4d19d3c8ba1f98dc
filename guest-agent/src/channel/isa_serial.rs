//! A serial line. Its end of input is its end: a modem that hung up, or a device that is gone.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::epoll::{self, EventData};
use rustix::fs::{Mode, OFlags, open};
use rustix::io;
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, QueueSelector,
    SpecialCodeIndex, Termios, speed, tcflush, tcgetattr, tcsetattr,
};

use super::{OpenError, READING};
use crate::errno;

/// The open line.
#[derive(Debug)]
pub(crate) struct IsaSerial {
    line: OwnedFd,
    attached: bool,
}

impl IsaSerial {
    /// Opens the line and takes everything off it that a terminal does to bytes.
    pub(super) fn open(path: Option<PathBuf>) -> Result<Self, OpenError> {
        let path = path.ok_or(OpenError::NoPath)?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let prepare = || {
            let line = open(&path, flags, Mode::empty())?;
            let mut settings = tcgetattr(&line)?;
            make_raw(&mut settings)?;
            tcflush(&line, QueueSelector::IFlush)?;
            tcsetattr(&line, OptionalActions::Now, &settings)?;
            Ok(line)
        };
        let line = prepare().map_err(|e| OpenError::Device {
            path: path.display().to_string(),
            error: errno::text(e),
        })?;
        Ok(Self { line, attached: false })
    }

    pub(super) fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<bool> {
        let first = !self.attached;
        if first {
            epoll::add(epoll, &self.line, EventData::new_u64(token), READING)?;
            self.attached = true;
        }
        Ok(first)
    }

    pub(super) fn stream(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

fn make_raw(settings: &mut Termios) -> io::Result<()> {
    settings.input_modes -= InputModes::IGNBRK
        | InputModes::BRKINT
        | InputModes::IGNPAR
        | InputModes::PARMRK
        | InputModes::INPCK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON
        | InputModes::IXOFF
        | InputModes::IXANY
        | InputModes::IMAXBEL;
    settings.output_modes = OutputModes::empty();
    settings.local_modes = LocalModes::empty();
    settings.control_modes |= ControlModes::CREAD;
    settings.special_codes[SpecialCodeIndex::VMIN] = 1;
    settings.special_codes[SpecialCodeIndex::VTIME] = 0;
    settings.set_speed(speed::B38400)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    #[test]
    fn a_terminal_becomes_a_plain_line() {
        let host = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&host).unwrap();
        unlockpt(&host).unwrap();
        let path = PathBuf::from(ptsname(&host, Vec::new()).unwrap().into_string().unwrap());
        let serial = IsaSerial::open(Some(path)).unwrap();
        let settings = tcgetattr(serial.stream()).unwrap();
        assert!(settings.local_modes.is_empty());
        assert!(settings.output_modes.is_empty());
        assert!(!settings.input_modes.intersects(InputModes::ICRNL | InputModes::IXON));
        assert_eq!(settings.output_speed(), 38400);
        assert_eq!(settings.special_codes[SpecialCodeIndex::VMIN], 1);
        assert_eq!(settings.special_codes[SpecialCodeIndex::VTIME], 0);
        let bytes = b"\x03\x11\x13\x1A\r\n\x7F\xFF\0";
        io::write(serial.stream(), bytes).unwrap();
        let mut seen = [0_u8; 32];
        assert_eq!(io::read(&host, &mut seen).unwrap(), bytes.len());
        assert_eq!(&seen[..bytes.len()], bytes);
        io::write(&host, bytes).unwrap();
        assert_eq!(io::read(serial.stream(), &mut seen).unwrap(), bytes.len());
        assert_eq!(&seen[..bytes.len()], bytes);
    }

    #[test]
    fn what_is_no_serial_line_is_refused() {
        let error = IsaSerial::open(Some("/dev/null".into())).unwrap_err().to_string();
        assert_eq!(error, "error opening channel '/dev/null': Inappropriate ioctl for device");
    }
}
