//! The modes of `guest-file-open`: those of C's `fopen`, and no others.

use qga_proto::QgaError;
use rustix::fs::OFlags;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenMode {
    /// Access, and what happens to the content; without `O_CREAT`.
    pub(super) flags: OFlags,
    /// Create the file where it is missing.
    pub(super) create: bool,
}

impl OpenMode {
    pub(super) fn parse(mode: &str) -> Result<Self, QgaError> {
        let (access, create) = match mode {
            "r" | "rb" => (OFlags::RDONLY, false),
            "w" | "wb" => (OFlags::WRONLY | OFlags::TRUNC, true),
            "a" | "ab" => (OFlags::WRONLY | OFlags::APPEND, true),
            "r+" | "rb+" | "r+b" => (OFlags::RDWR, false),
            "w+" | "wb+" | "w+b" => (OFlags::RDWR | OFlags::TRUNC, true),
            "a+" | "ab+" | "a+b" => (OFlags::RDWR | OFlags::APPEND, true),
            _ => return Err(QgaError::generic(format!("invalid file open mode '{mode}'"))),
        };
        // Never this agent's terminal, never waiting for the other end of a FIFO.
        let flags = access | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(Self { flags, create })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_fifteen_modes_of_fopen() {
        let modes = "r rb w wb a ab r+ rb+ r+b w+ wb+ w+b a+ ab+ a+b";
        for mode in modes.split(' ') {
            let parsed = OpenMode::parse(mode).unwrap();
            assert_eq!(parsed.create, !mode.starts_with('r'), "{mode}");
            assert_eq!(parsed.flags.contains(OFlags::TRUNC), mode.starts_with('w'), "{mode}");
            assert_eq!(parsed.flags.contains(OFlags::APPEND), mode.starts_with('a'), "{mode}");
            assert_eq!(parsed.flags.contains(OFlags::RDWR), mode.contains('+'), "{mode}");
        }
        for mode in ["", "x", "rw", "r++", "br", "rb+b", "R"] {
            let text = OpenMode::parse(mode).unwrap_err().desc;
            assert_eq!(text, format!("invalid file open mode '{mode}'"));
        }
    }
}
