//! What can go wrong between the command line and a guest, in words.

use axum::http::StatusCode;
use serde_json::Value;

use crate::printable::printable;

/// Why something was not done, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The gateway says no, or the guest does.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// No gateway answers there; nothing was sent.
    #[error("{place}: no gateway answers there: {why}")]
    Unreachable {
        /// Where.
        place: String,
        /// Why, and what to do about it.
        why: String,
    },
    /// The connection ended before the answer did.
    #[error("{place}: the connection broke before the gateway's answer was whole: {why}")]
    Broken {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
}

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its status.
    pub status: u16,
    /// The problem as it came; `null` if what answers is no gateway.
    pub problem: Value,
}

impl Failure {
    /// The stable code of the problem, if it is one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.problem["code"].as_str(),
            _ => None,
        }
    }

    /// Whether the same may simply be sent again: nothing answered.
    pub fn is_silence(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

impl Refusal {
    pub(super) fn new(status: StatusCode, body: &[u8]) -> Self {
        let problem = serde_json::from_slice(body).unwrap_or_default();
        Self { status: status.as_u16(), problem }
    }

    /// What only who stands at the command line can do about it.
    fn hint(&self) -> Option<&'static str> {
        Some(match self.problem["code"].as_str()? {
            "unauthenticated" => {
                "name a token with --token-file, or a certificate with --cert and --key; over the \
                 Unix socket, use an account that a [[grant]] names"
            }
            "vm_not_found" => "qga-gateway vms lists those that you may see",
            "agent_unavailable" => {
                "qga-gateway doctor on the host says what is wrong and what helps"
            }
            "already_frozen" => "qga-gateway freezes lists the leases; qga-gateway thaw ends one",
            "is_a_directory" => "qga-gateway cp -r copies directories",
            "lease_not_found" => "qga-gateway freezes --all lists those that are kept",
            _ => return None,
        })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |name: &str| self.problem[name].as_str().map(printable);
        let (Some(code), Some(detail)) = (text("code"), text("detail")) else {
            return write!(
                f,
                "status {} without an explanation; what answers there may be a proxy, and no \
                 gateway",
                self.status
            );
        };
        match text("title").filter(|title| !detail.starts_with(title.as_str())) {
            Some(title) => write!(f, "{title}: {detail}")?,
            None => f.write_str(&detail)?,
        }
        write!(f, " [{code}]")?;
        match self.hint() {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}
