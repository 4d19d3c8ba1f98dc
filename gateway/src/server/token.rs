//! The file with the bearer token for TCP.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::config::{NoCredentials, SecretFile};

/// 256 bits as hexadecimal digits.
const DIGITS: usize = 64;

/// Why there is no usable token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or made.
    #[error("token file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read it, so they have the token.
    #[error(
        "token file {}: others than its owner can read it (mode {mode:04o}); the token may be \
         known, so remove the file, and a new one will be made",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is a credential, and there are none.
    #[error("listen.token_file: {0}")]
    NoCredentials(#[from] NoCredentials),
    /// It holds no token.
    #[error(
        "token file {}: does not hold a token (one line of at least 64 letters, digits, `-`, `.` \
         or `_`); remove it, and a new one will be made",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// The token in the file, which is made with a new one if it is missing; or in the credential, which
/// is systemd's to make.
///
/// # Errors
///
/// If it cannot be had, others can read it, or it holds none.
pub fn load_token(secret: &SecretFile) -> Result<String, TokenError> {
    match secret {
        SecretFile::Path(path) => load_or_create(path),
        SecretFile::Credential(_) => {
            let path = secret.locate()?;
            let io = |source| TokenError::Io { path: path.clone(), source };
            // Its mode says nothing: systemd grants it to the unit's user by an access list, which
            // shows as rights of the group, below a directory that nobody else may enter.
            read(open(&path).map_err(io)?, &path)
        }
    }
}

fn load_or_create(path: &Path) -> Result<String, TokenError> {
    match create(path) {
        Ok(token) => {
            tracing::info!("{}: made a new token", path.display());
            Ok(token)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(source) => Err(TokenError::Io { path: path.into(), source }),
    }
}

fn create(path: &Path) -> io::Result<String> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let token = crate::rights::random_token().map_err(io::Error::other)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    Ok(token)
}

fn load(path: &Path) -> Result<String, TokenError> {
    let io = |source| TokenError::Io { path: path.into(), source };
    let file = open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(TokenError::Exposed { path: path.into(), mode: metadata.mode() & 0o7777 });
    }
    read(file, path)
}

fn read(file: File, path: &Path) -> Result<String, TokenError> {
    let io = |source| TokenError::Io { path: path.into(), source };
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).map_err(io)?;
    let token = text.trim_end_matches(['\r', '\n']);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if token.len() < DIGITS || !token.bytes().all(allowed) {
        return Err(TokenError::Malformed { path: path.into() });
    }
    Ok(token.to_owned())
}

fn open(path: &Path) -> io::Result<File> {
    // A link could lead to a file that somebody else can write; a FIFO could block.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn makes_a_token_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = load_or_create(&path).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(load_or_create(&path).unwrap(), token);
        fs::remove_file(&path).unwrap();
        assert_ne!(load_or_create(&path).unwrap(), token);
    }

    #[test]
    fn refuses_what_others_can_read_or_what_is_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_or_create(&path), Err(TokenError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for bad in ["", "short\n", &format!("{token} x"), &format!("{token}\n\nx")] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(load_or_create(&path), Err(TokenError::Malformed { .. })), "{bad:?}");
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(load_or_create(&link), Err(TokenError::Io { .. })));
    }
}
