//! Queries with a path in the guest: percent-decoded, and every byte as it was meant.

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;

use crate::api::App;
use crate::api::error::{Problem, printable};
use crate::api::extract::unknown_parameter;
use crate::vm::transfer::GuestPath;

/// What an operation takes in its query.
pub(super) trait Parameters: Sized {
    /// The names that it knows.
    const NAMES: &'static [&'static str];

    fn take(query: &mut RawQuery) -> Result<Self, Problem>;
}

/// The query of an operation on files.
#[derive(Debug)]
pub(in crate::api) struct FileQuery<T>(pub(super) T);

impl<T: Parameters> FromRequestParts<App> for FileQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let mut query = RawQuery::of(&parts.uri)?;
        if let Some((name, _)) = query.0.iter().find(|(name, _)| !T::NAMES.contains(&&**name)) {
            return Err(unknown_parameter(name));
        }
        T::take(&mut query).map(Self)
    }
}

/// Names and values, each name once.
#[derive(Debug)]
pub(super) struct RawQuery(Vec<(String, Vec<u8>)>);

impl RawQuery {
    fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
        let query = uri.query().unwrap_or_default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8_lossy(&decode(name)?).into_owned();
            if pairs.iter().any(|(known, _)| *known == name) {
                let name = printable(&name);
                return Err(Problem::bad_request(format!(
                    "Query parameter \"{name}\" stands there twice."
                )));
            }
            pairs.push((name, decode(value)?));
        }
        Ok(Self(pairs))
    }

    pub(super) fn bytes(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let text = self.bytes(name).map(String::from_utf8).transpose();
        text.map_err(|_| bad(name, "must be UTF-8"))
    }

    /// A path that must be there.
    pub(super) fn path(&mut self, name: &str) -> Result<GuestPath, Problem> {
        let bytes = self.bytes(name).ok_or_else(|| {
            Problem::bad_request(format!(
                "Query parameter \"{name}\" is missing: the path in the guest, percent-encoded."
            ))
        })?;
        GuestPath::new(bytes).ok_or_else(|| {
            bad(name, format_args!("must be 1 to {} bytes and hold no NUL", GuestPath::MAX))
        })
    }

    pub(super) fn number(&mut self, name: &str, most: i64) -> Result<Option<i64>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten().filter(|number| *number <= most);
        number.map(Some).ok_or_else(|| bad(name, format_args!("must be a number from 0 to {most}")))
    }

    /// Permission bits as `chmod` takes them.
    pub(super) fn mode(&mut self) -> Result<Option<i64>, Problem> {
        let Some(text) = self.text("mode")? else { return Ok(None) };
        let octal =
            (1..=5).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = octal.then(|| i64::from_str_radix(&text, 8).ok()).flatten();
        mode.filter(|mode| *mode <= 0o7777)
            .map(Some)
            .ok_or_else(|| bad("mode", "must be octal, from 0 to 7777"))
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(bad(name, "must be true or false")),
        }
    }
}

pub(super) fn bad(name: &str, why: impl std::fmt::Display) -> Problem {
    Problem::bad_request(format!("Query parameter \"{name}\" {why}."))
}

/// As forms are encoded: `%41` and `+` for a space.
fn decode(text: &str) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (Some(high), Some(low)) = (hex(rest.next()), hex(rest.next())) else {
                    return Err(Problem::bad_request(
                        "In the query a % must be followed by two hexadecimal digits: write %25 \
                         for the character itself.",
                    ));
                };
                // Two digits of four bits.
                u8::try_from(high << 4 | low).unwrap_or_default()
            }
            byte => byte,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<RawQuery, Problem> {
        RawQuery::of(&format!("/x?{text}").parse().unwrap())
    }

    #[test]
    fn bytes_are_what_was_meant() {
        for (text, path) in [
            ("path=/etc/hosts", &b"/etc/hosts"[..]),
            ("path=%2Fa%20b", b"/a b"),
            ("path=/a+b", b"/a b"),
            ("path=/a%2Bb", b"/a+b"),
            ("path=/%ff%FE", b"/\xff\xfe"),
            ("path=/a%26b%3dc", b"/a&b=c"),
            ("p%61th=/x=y", b"/x=y"),
            ("path=%C3%A9", "é".as_bytes()),
        ] {
            let mut found = query(text).unwrap();
            assert_eq!(found.bytes("path").as_deref(), Some(path), "{text}");
        }
        for wrong in ["path=%", "path=%4", "path=%g1", "path=a&path=b"] {
            assert!(query(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "path=", "path=%00"] {
            assert!(query(wrong).unwrap().path("path").is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_and_modes_are_checked() {
        let mut all = query("mode=0644&uid=7&in_place=true").unwrap();
        assert_eq!(all.mode().unwrap(), Some(0o644));
        assert_eq!(all.number("uid", 9).unwrap(), Some(7));
        assert_eq!(all.number("gid", 9).unwrap(), None);
        assert_eq!(all.flag("in_place").unwrap(), Some(true));
        for wrong in ["mode=rw", "mode=8", "mode=10000", "mode=", "mode=-1"] {
            assert!(query(wrong).unwrap().mode().is_err(), "{wrong}");
        }
        for wrong in ["uid=10", "uid=-1", "uid=", "uid=1.0", "uid=99999999999999999999"] {
            assert!(query(wrong).unwrap().number("uid", 9).is_err(), "{wrong}");
        }
    }
}
