//! Addresses of `AF_VSOCK`, which rustix does not have.

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;

/// Binds a socket of the family `AF_VSOCK`.
pub(crate) fn bind(socket: impl AsFd, cid: u32, port: u32) -> Result<(), Errno> {
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = FAMILY;
    address.svm_cid = cid;
    address.svm_port = port;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the address is as long as it is said to be, and lives until the call returns.
    let result = unsafe { libc::bind(socket, (&raw const address).cast(), LENGTH) };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// `AF_VSOCK` of `sys/socket.h`, in the type of the structure.
const FAMILY: libc::sa_family_t = 40;
/// `sizeof(struct sockaddr_vm)` of `linux/vm_sockets.h`.
const LENGTH: libc::socklen_t = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketType, getsockname, socket};

    #[test]
    fn constants_are_those_of_the_headers() {
        assert_eq!(libc::c_int::from(FAMILY), libc::AF_VSOCK);
        assert_eq!(FAMILY, AddressFamily::VSOCK.as_raw());
        assert_eq!(LENGTH as usize, size_of::<libc::sockaddr_vm>());
    }

    #[test]
    fn binds_where_the_kernel_has_it() {
        let Ok(socket) = socket(AddressFamily::VSOCK, SocketType::STREAM, None) else {
            println!("skipped: this kernel has no AF_VSOCK");
            return;
        };
        match bind(&socket, libc::VMADDR_CID_ANY, libc::VMADDR_PORT_ANY) {
            Ok(()) => {
                let family = getsockname(&socket).unwrap().address_family();
                assert_eq!(family, AddressFamily::VSOCK);
            }
            Err(e) => println!("skipped: no transport for AF_VSOCK ({e})"),
        }
        assert!(bind(&socket, 12345, 1).is_err());
    }
}
