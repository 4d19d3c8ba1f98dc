//! The C library's wording of an error number, which clients and people know from qemu-ga.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_strerror_does() {
        assert_eq!(text(Errno::NOENT), "No such file or directory");
        assert_eq!(text(Errno::AGAIN), "Resource temporarily unavailable");
        assert_eq!(of(&std::io::Error::other("odd")), "odd");
    }
}
