//! The C library's wording of an error number, which clients and people know from qemu-ga, and its
//! name, which the extensions say beside it.

use rustix::io::Errno;

/// `strerror` without the number that Rust appends.
pub(crate) fn text(errno: Errno) -> String {
    of(&errno.into())
}

/// The same for an error of the standard library, which may come without a number.
pub(crate) fn of(error: &std::io::Error) -> String {
    let mut text = error.to_string();
    if let Some(at) = text.rfind(" (os error ") {
        text.truncate(at);
    }
    text
}

/// The name, like `ENOENT`; for those that no file or program meets, `E` and the number.
pub(crate) fn name(errno: Errno) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == errno);
    known.map_or_else(|| format!("E{}", errno.raw_os_error()), |(_, name)| (*name).to_owned())
}

/// rustix calls all but two as the headers do, without the `E`.
macro_rules! names {
    ($($name:ident)*) => {
        &[
            (Errno::ACCESS, "EACCES"),
            (Errno::TOOBIG, "E2BIG"),
            $((Errno::$name, concat!("E", stringify!($name)))),*
        ]
    };
}

const NAMES: &[(Errno, &str)] = names! {
    AGAIN BADF BADMSG BUSY CANCELED CHILD CONNREFUSED CONNRESET DEADLK DESTADDRREQ DQUOT
    EXIST FAULT FBIG HOSTDOWN HOSTUNREACH ILSEQ INTR INVAL IO ISDIR KEYEXPIRED LOOP MEDIUMTYPE
    MFILE MLINK NAMETOOLONG NETDOWN NETUNREACH NFILE NODATA NODEV NOENT NOEXEC NOKEY NOLCK NOLINK
    NOMEDIUM NOMEM NOSPC NOSYS NOTCONN NOTDIR NOTEMPTY NOTTY NXIO OPNOTSUPP OVERFLOW PERM PIPE
    RANGE REMOTEIO ROFS SHUTDOWN SPIPE SRCH STALE TIMEDOUT TXTBSY UCLEAN USERS XDEV
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_strerror_does() {
        assert_eq!(text(Errno::NOENT), "No such file or directory");
        assert_eq!(text(Errno::AGAIN), "Resource temporarily unavailable");
        assert_eq!(of(&std::io::Error::other("odd")), "odd");
    }

    #[test]
    fn names_are_those_of_the_headers() {
        for (errno, expected) in [
            (Errno::NOENT, "ENOENT"),
            (Errno::ACCESS, "EACCES"),
            (Errno::TOOBIG, "E2BIG"),
            (Errno::NOTSUP, "EOPNOTSUPP"),
            (Errno::XFULL, "E54"),
        ] {
            assert_eq!(name(errno), expected);
        }
    }
}
