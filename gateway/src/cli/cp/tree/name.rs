//! Names that others give: a guest that is not honest must not reach beside the directory that it is
//! copied into.

use base64_simd::STANDARD;
use qga_gateway::client::printable;
use serde_json::Value;

/// One name in a directory: not empty, no way to another one, and nothing that a kernel would cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(Vec<u8>);

/// A name that no file has. Whoever lists it is not to be believed in anything else.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the guest lists \"{0}\", which no file can be called: it is not honest, and nothing more is copied"
)]
pub(super) struct NoName(String);

/// As long as a name may be with Linux.
const LONGEST: usize = 255;

impl Name {
    /// Of an entry in a list.
    pub(super) fn of(entry: &Value) -> Result<Self, NoName> {
        let text = entry["name"].as_str().unwrap_or_default();
        match entry["name-b64"].as_str() {
            None => Self::new(text.as_bytes()),
            Some(bytes) => {
                let bytes = STANDARD.decode_to_vec(bytes).map_err(|_| NoName(printable(text)))?;
                Self::new(&bytes)
            }
        }
    }

    pub(super) fn new(bytes: &[u8]) -> Result<Self, NoName> {
        let wrong = matches!(bytes, b"" | b"." | b"..")
            || bytes.len() > LONGEST
            || bytes.iter().any(|byte| matches!(byte, b'/' | 0));
        if wrong {
            return Err(NoName(printable(&String::from_utf8_lossy(bytes))));
        }
        Ok(Self(bytes.to_vec()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_but_a_name_is_one() {
        for good in ["a", "...", "a b", "-rf", "é\n", &"x".repeat(255)] {
            assert_eq!(Name::of(&json!({ "name": good })).unwrap().bytes(), good.as_bytes());
        }
        let b64 = |bytes: &[u8]| STANDARD.encode_to_string(bytes);
        let odd = json!({"name": "\u{fffd}", "name-b64": b64(b"\xff")});
        assert_eq!(Name::of(&odd).unwrap().bytes(), b"\xff");
        for bad in ["", ".", "..", "/", "/etc/passwd", "../x", "a/b", "a\0b", &"x".repeat(256)] {
            assert!(Name::of(&json!({ "name": bad })).is_err(), "{bad:?}");
            let hidden = json!({"name": "a", "name-b64": b64(bad.as_bytes())});
            assert!(Name::of(&hidden).is_err(), "{bad:?}");
        }
        for bad in [json!({}), json!({"name": 7}), json!({"name": "a", "name-b64": "!"})] {
            assert!(Name::of(&bad).is_err(), "{bad}");
        }
        let told = Name::of(&json!({"name": "../\u{1b}[2J"})).unwrap_err().to_string();
        assert!(told.contains("../\\u{1b}[2J") && !told.contains('\u{1b}'), "{told}");
    }
}
