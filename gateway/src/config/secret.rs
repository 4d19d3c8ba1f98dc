//! Files that hold a secret: a path, or a credential that systemd hands to the unit.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

/// What a credential's name begins with in the configuration: `credential:NAME`.
const CREDENTIAL: &str = "credential:";

/// Where systemd puts a unit's credentials.
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Where a secret is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFile {
    /// In a file of the gateway's own.
    Path(PathBuf),
    /// In a credential of this name (`LoadCredential=` in the unit, `systemd.exec(5)`).
    Credential(String),
}

/// There are no credentials here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{CREDENTIAL}{name}: systemd has handed over no credentials; they are there only in a unit with \
     LoadCredential={name}:/path/of/the/file"
)]
pub struct NoCredentials {
    name: String,
}

impl SecretFile {
    /// The file's path.
    ///
    /// # Errors
    ///
    /// If it is a credential, and this process was not started by a unit that has any.
    pub fn locate(&self) -> Result<PathBuf, NoCredentials> {
        match self {
            Self::Path(path) => Ok(path.clone()),
            Self::Credential(name) => std::env::var_os(DIRECTORY)
                .map(|directory| PathBuf::from(directory).join(name))
                .ok_or_else(|| NoCredentials { name: name.clone() }),
        }
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Credential(name) => write!(f, "{CREDENTIAL}{name}"),
        }
    }
}

impl<'de> Deserialize<'de> for SecretFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let Some(name) = text.strip_prefix(CREDENTIAL) else { return Ok(Self::Path(text.into())) };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(de::Error::custom(format_args!(
                "`{name}` is no credential's name: letters, digits, `-`, `_` and `.`"
            )));
        }
        Ok(Self::Credential(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SecretFile, toml::de::Error> {
        #[derive(Deserialize)]
        struct Table {
            file: SecretFile,
        }
        toml::from_str(&format!("file = {text:?}")).map(|table: Table| table.file)
    }

    #[test]
    fn a_credential_is_a_name_and_leads_nowhere_else() {
        assert_eq!(parse("/run/t").unwrap(), SecretFile::Path("/run/t".into()));
        let credential = parse("credential:api-token").unwrap();
        assert_eq!(credential, SecretFile::Credential("api-token".into()));
        assert_eq!(credential.to_string(), "credential:api-token");
        for bad in ["credential:", "credential:..", "credential:../x", "credential:a/b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
