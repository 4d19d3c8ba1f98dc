//! What a client can want of the freeze engine.

use std::time::Duration;

use qga_proto::QgaError;

/// The most that a deadline can be ahead: a year, in milliseconds.
const MAX_TERM_MS: i64 = 365 * 24 * 3600 * 1000;
/// Bytes of the name of a lease.
const MAX_LEASE: usize = 128;

/// What a client wants of the filesystems.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Freeze these, or all.
    Freeze {
        names: Option<Vec<String>>,
        /// None: a plain freeze.
        lease: Option<(Lease, Term)>,
    },
    /// Thaw all.
    Thaw(By),
    /// Move the deadline.
    Renew(Lease, Term),
}

/// Who wants a thaw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A client, whoever froze.
    Client,
    /// Whoever holds this lease; only what it froze.
    Lease(Lease),
    /// The agent itself, before it ends.
    Ending,
}

/// The name of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease(String);

impl Lease {
    pub(crate) fn parse(name: String) -> Result<Self, QgaError> {
        if name.is_empty() || name.len() > MAX_LEASE || name.chars().any(char::is_control) {
            return Err(QgaError::generic(format!(
                "invalid lease: it has to have 1 to {MAX_LEASE} bytes, without control characters"
            )));
        }
        Ok(Self(name))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// How long a freeze may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    /// As the agent's settings say.
    Default,
    /// Until somebody thaws it.
    Unlimited,
    /// This long.
    Of(Duration),
}

impl Term {
    /// Of an argument `deadline-ms`.
    pub(crate) fn parse(milliseconds: i64) -> Result<Self, QgaError> {
        match u64::try_from(milliseconds) {
            Ok(0) => Ok(Self::Unlimited),
            Ok(term) if milliseconds <= MAX_TERM_MS => Ok(Self::Of(Duration::from_millis(term))),
            _ => Err(QgaError::generic(format!(
                "value '{milliseconds}' is invalid for argument deadline-ms"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_milliseconds_up_to_a_year() {
        assert_eq!(Term::parse(0).unwrap(), Term::Unlimited);
        assert_eq!(Term::parse(1500).unwrap(), Term::Of(Duration::from_millis(1500)));
        for bad in [-1, i64::MIN, i64::MAX, MAX_TERM_MS + 1] {
            let text = format!("value '{bad}' is invalid for argument deadline-ms");
            assert_eq!(Term::parse(bad).unwrap_err().desc, text);
        }
    }

    #[test]
    fn leases_have_short_printable_names() {
        assert_eq!(Lease::parse("nächtlich/1".into()).unwrap().as_str(), "nächtlich/1");
        for bad in ["", "a\nb", &"x".repeat(129)] {
            assert!(Lease::parse(bad.into()).unwrap_err().desc.starts_with("invalid lease"));
        }
    }
}
