//! Closing a file in a way that reports what closing it brought to light.

use std::os::fd::{IntoRawFd as _, OwnedFd};

use rustix::io::Errno;

/// Closes `fd`. Whatever it returns, the descriptor is gone.
pub(crate) fn close(fd: OwnedFd) -> Result<(), Errno> {
    // SAFETY: ownership was taken, so nobody uses or closes the descriptor afterwards.
    if unsafe { libc::close(fd.into_raw_fd()) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    // close(2): the error of an interrupted close means nothing on Linux.
    match Errno::from_io_error(&error) {
        Some(Errno::INTR) | None => Ok(()),
        Some(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        close(writer).unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0_u8; 1]).unwrap(), 0);
    }
}
