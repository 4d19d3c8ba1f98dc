//! Bearer tokens: only their hashes are kept.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use crate::principal::Principal;

/// `[[token]]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Whoever has it is the principal `token:NAME`.
    pub name: TokenName,
    /// SHA-256 of the token, in hexadecimal digits.
    pub sha256: TokenHash,
    /// From when on it is refused; absent: never.
    #[serde(default)]
    pub expires: Option<Expiry>,
}

impl TokenConfig {
    /// Whether it is refused by now.
    pub(crate) fn is_over(&self) -> bool {
        Token::from(self).is_over()
    }
}

/// What a token's holder is called: it stands in logs, audit records and grants.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TokenName(String);

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TokenName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, &'static str> {
        let fits = is_name(name) && name != DEFAULT;
        fits.then(|| Self(name.to_owned())).ok_or(
            "must be 1 to 64 letters, digits, `-`, `.` or `_`, and not `default`, which is the \
             token file's",
        )
    }
}

impl TryFrom<String> for TokenName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, &'static str> {
        name.parse()
    }
}

/// The name of the token in the token file.
const DEFAULT: &str = "default";

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Expiry(Timestamp);

impl FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = text.parse().map(Self);
        time.map_err(|_| format!("`{text}` is no time such as 2027-01-31T00:00:00Z"))
    }
}

impl TryFrom<String> for Expiry {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Makes a token, and says what to do with it.
///
/// # Errors
///
/// If the system has no randomness.
pub fn issue(name: &TokenName, expires: Option<&Expiry>) -> Result<String, getrandom::Error> {
    let token = random()?;
    let hash = TokenHash::of(&token);
    let expires = expires.map(|e| format!("expires = \"{}\"\n", e.0)).unwrap_or_default();
    Ok(format!(
        "{token}\n\n\
         # That is the token, and it is shown only now. For the gateway's configuration:\n\
         [[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{expires}\n\
         # It may do what a grant says, for example:\n\
         #[[grant]]\n#to = [\"token:{name}\"]\n#preset = \"backup\"\n#vms = [\"web-*\"]\n"
    ))
}

/// 256 bits, in hexadecimal digits.
pub(crate) fn random() -> Result<String, getrandom::Error> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits)?;
    Ok(TokenHash(bits).to_string())
}

/// SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of a token of at least 256 bits of randomness.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

impl FromStr for TokenHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WANTED: &str = "is not a SHA-256 in 64 hexadecimal digits";
        if text.len() != 64 || !text.is_ascii() {
            return Err(WANTED);
        }
        let mut hash = [0; 32];
        for (n, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).map_err(|_| WANTED)?;
        }
        Ok(Self(hash))
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The text is not repeated: somebody may have put the token itself here.
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A token, as requests are measured by it.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) principal: Principal,
    pub(super) hash: TokenHash,
    pub(super) expires: Option<SystemTime>,
}

impl Token {
    /// Takes the same time however much of the hash is right.
    pub(super) fn is(&self, hash: &TokenHash) -> bool {
        self.hash.0.ct_eq(&hash.0).into()
    }

    pub(super) fn is_over(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= SystemTime::now())
    }
}

impl From<&TokenConfig> for Token {
    fn from(config: &TokenConfig) -> Self {
        let principal = Principal::new(format!("token:{}", config.name));
        Self { principal, hash: config.sha256, expires: config.expires.map(|e| e.0.into()) }
    }
}

/// Whether a token may have this name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}
