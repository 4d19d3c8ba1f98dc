//! Errors as they stand on the wire.

use serde::{Deserialize, Serialize};

/// The error class of a reply, QEMU's `QapiErrorClass`.
///
/// Agents emit [`GenericError`](Self::GenericError) and
/// [`CommandNotFound`](Self::CommandNotFound); the others exist in the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    GenericError,
    /// Unknown, blocked by policy, or not allowed while frozen.
    CommandNotFound,
    /// Never seen from a guest agent.
    DeviceNotActive,
    /// Never seen from a guest agent.
    DeviceNotFound,
    /// Never seen from a guest agent.
    #[serde(rename = "KVMMissingCap")]
    KvmMissingCap,
    /// A class that the schema does not know, kept as it came.
    #[serde(untagged)]
    Other(String),
}

impl ErrorClass {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KvmMissingCap => "KVMMissingCap",
            Self::Other(name) => name,
        }
    }
}

/// An error that an agent answers with: `{"error": {"class": …, "desc": …}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub struct QgaError {
    /// The class; clients decide by it.
    pub class: ErrorClass,
    /// The text for a person. From a guest it is untrusted: cap and escape it.
    pub desc: String,
    /// The name of the error number, like `ENOENT`. Only our agent's extensions say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
}

impl QgaError {
    /// A `GenericError` with this text.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::GenericError, desc: desc.into(), errno: None }
    }

    /// The same, with the name of the error number.
    #[must_use]
    pub fn with_errno(self, errno: impl Into<String>) -> Self {
        Self { errno: Some(errno.into()), ..self }
    }

    /// The answer to a command that the agent has never heard of.
    pub fn not_found(command: &str) -> Self {
        Self {
            class: ErrorClass::CommandNotFound,
            desc: format!("The command {command} has not been found"),
            errno: None,
        }
    }

    /// The answer to a command that policy or the frozen state forbids.
    pub fn disabled(command: &str) -> Self {
        Self {
            class: ErrorClass::CommandNotFound,
            desc: format!("Command {command} has been disabled: the command is not allowed"),
            errno: None,
        }
    }

    /// Whether the agent has the command but does not run it now (policy or frozen).
    ///
    /// Every qemu-ga since 1.0 says so with "has been disabled"; the class alone does
    /// not tell it from an unknown command.
    pub fn is_disabled(&self) -> bool {
        match &self.class {
            ErrorClass::CommandNotFound => self.desc.contains("has been disabled"),
            ErrorClass::Other(name) => name == "CommandDisabled",
            _ => false,
        }
    }

    /// Whether the agent does not have the command at all.
    pub fn is_not_found(&self) -> bool {
        self.class == ErrorClass::CommandNotFound && !self.is_disabled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_keep_their_wire_names() {
        for (class, name) in [
            (ErrorClass::GenericError, "GenericError"),
            (ErrorClass::CommandNotFound, "CommandNotFound"),
            (ErrorClass::KvmMissingCap, "KVMMissingCap"),
            (ErrorClass::Other("CommandDisabled".into()), "CommandDisabled"),
        ] {
            let text = format!("\"{name}\"");
            assert_eq!(serde_json::to_string(&class).unwrap(), text);
            assert_eq!(serde_json::from_str::<ErrorClass>(&text).unwrap(), class);
            assert_eq!(class.as_str(), name);
        }
    }

    #[test]
    fn disabled_is_told_from_unknown_in_every_era() {
        for desc in [
            "Command guest-shutdown has been disabled: the command is not allowed",
            "Command guest-shutdown has been disabled",
            "Command guest-shutdown has been disabled: the agent is in frozen state",
            "The command guest-shutdown has been disabled for this instance",
        ] {
            let error =
                QgaError { class: ErrorClass::CommandNotFound, desc: desc.into(), errno: None };
            assert!(error.is_disabled() && !error.is_not_found(), "{desc}");
        }
        assert!(QgaError::not_found("guest-foo").is_not_found());
    }
}
