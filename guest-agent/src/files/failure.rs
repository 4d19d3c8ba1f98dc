//! Why something could not be done with a file: the kernel's number, and what a person should know
//! beside it.

use std::fmt::Display;

use qga_proto::QgaError;
use rustix::io::Errno;

use crate::errno;
use crate::policy::OpenError;

/// The failure of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(super) errno: Errno,
    text: Option<&'static str>,
}

impl Failure {
    pub(super) const fn new(errno: Errno, text: &'static str) -> Self {
        Self { errno, text: Some(text) }
    }

    /// The error for a client, with what was tried.
    pub(crate) fn to(self, action: impl Display) -> QgaError {
        let text = self.text.map_or_else(|| errno::text(self.errno), str::to_owned);
        QgaError::generic(format!("failed to {action}: {text}")).with_errno(errno::name(self.errno))
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self { errno, text: None }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Forbidden => Self::new(Errno::ACCESS, OpenError::FORBIDDEN),
            OpenError::Outside => Self::new(Errno::ACCESS, OpenError::OUTSIDE),
            OpenError::Errno(errno) => errno.into(),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}
