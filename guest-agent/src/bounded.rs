//! Small files of the system, read whole: with a limit, and without waiting for what is no file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;

/// Enough for every file that has one line per processor, interface or setting, in bytes.
pub(crate) const SMALL: u64 = 1 << 20;
/// Enough for files with one line per route or login, in bytes.
pub(crate) const LARGE: u64 = 16 << 20;

/// Reads the regular file at `path`. One with more than `limit` bytes fails with `EFBIG`, and a
/// FIFO or device with `EINVAL`, without having been waited for.
pub(crate) fn read(path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path.as_ref(), flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    let mut bytes = Vec::new();
    File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Errno::FBIG.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_files_up_to_the_limit_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert_eq!(read(&file, 4).unwrap_err().raw_os_error(), Some(libc::EFBIG));
        assert_eq!(read(dir.path(), 5).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(read("/dev/zero", 5).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert!(!read("/proc/self/stat", SMALL).unwrap().is_empty());
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(read(&fifo, 5).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
