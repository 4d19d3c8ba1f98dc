//! The command that reads an NVMe controller's health.

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io;
use rustix::ioctl::Opcode;

/// `NVME_IOCTL_ADMIN_CMD` of `linux/nvme_ioctl.h`: `_IOWR('N', 0x41, struct nvme_admin_cmd)`.
const NVME_IOCTL_ADMIN_CMD: Opcode = 0xC048_4E41;
/// The admin command "Get Log Page" of the NVMe specification.
const GET_LOG_PAGE: u8 = 0x02;
/// The log page "SMART / Health Information".
const SMART_LOG: u32 = 0x02;
/// The log is the controller's, not a namespace's.
const ALL_NAMESPACES: u32 = u32::MAX;
/// Bytes of that log page.
pub(crate) const SMART_LOG_BYTES: usize = DATA_LEN as usize;
const DATA_LEN: u32 = 512;

/// `struct nvme_admin_cmd`.
#[repr(C)]
#[derive(Default)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

/// Reads the SMART log of the controller of `disk`. Fails with `EIO` when the controller refuses.
pub(crate) fn smart_log(disk: impl AsFd) -> io::Result<[u8; SMART_LOG_BYTES]> {
    let mut log = [0; SMART_LOG_BYTES];
    // Its length in 32-bit words, less one, stands in the upper half.
    let words = (DATA_LEN >> 2) - 1;
    let mut command = AdminCommand {
        opcode: GET_LOG_PAGE,
        nsid: ALL_NAMESPACES,
        addr: log.as_mut_ptr().expose_provenance() as u64,
        data_len: DATA_LEN,
        cdw10: words << 16 | SMART_LOG,
        ..AdminCommand::default()
    };
    // SAFETY: the kernel reads a `struct nvme_admin_cmd` and writes its `result`; besides it
    // writes at most `data_len` bytes at `addr`, where `log` is and stays until the call is over.
    let status = unsafe {
        libc::ioctl(disk.as_fd().as_raw_fd(), NVME_IOCTL_ADMIN_CMD.into(), &raw mut command)
    };
    match status {
        0 => Ok(log),
        // The status that the controller has answered with.
        1.. => Err(io::Errno::IO),
        _ => {
            Err(io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(io::Errno::IO))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::ioctl::opcode;

    #[test]
    fn structure_and_opcode_are_those_of_linux_nvme_ioctl_h() {
        assert_eq!(size_of::<AdminCommand>(), 72);
        assert_eq!(std::mem::offset_of!(AdminCommand, addr), 24);
        assert_eq!(std::mem::offset_of!(AdminCommand, data_len), 36);
        assert_eq!(std::mem::offset_of!(AdminCommand, cdw10), 40);
        assert_eq!(NVME_IOCTL_ADMIN_CMD, opcode::read_write::<AdminCommand>(b'N', 0x41));
    }

    #[test]
    fn what_is_no_nvme_disk_says_so() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(smart_log(&null).unwrap_err(), io::Errno::NOTTY);
    }
}
