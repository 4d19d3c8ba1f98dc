//! `guest-set-user-password`, `guest-ssh-get-authorized-keys`, `-add-`, `-remove-`.

use serde::{Deserialize, Serialize};

use super::{Command, CommandInfo, Empty, Right};
use crate::base64::Base64Text;

/// `guest-set-user-password` (since 2.3).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSetUserPassword {
    /// Whose.
    pub username: String,
    /// The new one, base64.
    pub password: Base64Text,
    /// Whether it is a crypt(3) hash already.
    pub crypted: bool,
}

impl std::fmt::Debug for GuestSetUserPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestSetUserPassword")
            .field("username", &self.username)
            .field("crypted", &self.crypted)
            .finish_non_exhaustive()
    }
}

impl Command for GuestSetUserPassword {
    const INFO: CommandInfo =
        CommandInfo::change("guest-set-user-password", Right::Accounts).long();
    type Return = Empty;
}

/// `guest-ssh-get-authorized-keys` (since 5.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSshGetAuthorizedKeys {
    /// Whose.
    pub username: String,
}

impl Command for GuestSshGetAuthorizedKeys {
    const INFO: CommandInfo = CommandInfo {
        right: Right::Accounts,
        ..CommandInfo::query("guest-ssh-get-authorized-keys")
    };
    type Return = AuthorizedKeys;
}

/// What `guest-ssh-get-authorized-keys` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuthorizedKeys {
    /// The lines of the file, without comments and blank ones.
    pub keys: Vec<String>,
}

/// `guest-ssh-add-authorized-keys` (since 5.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSshAddAuthorizedKeys {
    /// Whose.
    pub username: String,
    /// The lines to add; those that are there already are not doubled.
    pub keys: Vec<String>,
    /// Whether to drop what is there; absent means no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<bool>,
}

impl Command for GuestSshAddAuthorizedKeys {
    const INFO: CommandInfo = CommandInfo::change("guest-ssh-add-authorized-keys", Right::Accounts);
    type Return = Empty;
}

/// `guest-ssh-remove-authorized-keys` (since 5.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSshRemoveAuthorizedKeys {
    /// Whose.
    pub username: String,
    /// The lines to remove.
    pub keys: Vec<String>,
}

impl Command for GuestSshRemoveAuthorizedKeys {
    const INFO: CommandInfo =
        CommandInfo::change("guest-ssh-remove-authorized-keys", Right::Accounts);
    type Return = Empty;
}
