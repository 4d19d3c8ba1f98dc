//! A path in a guest: bytes, as the guest's kernel has them.

use std::borrow::Cow;

use qga_proto::base64::Base64Text;

/// A path in a guest, 1 to 32767 bytes without a NUL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GuestPath(Box<[u8]>);

impl GuestPath {
    /// The most that any guest's system takes (Windows).
    pub(crate) const MAX: usize = 32767;

    pub(crate) fn new(bytes: Vec<u8>) -> Option<Self> {
        let fits = (1..=Self::MAX).contains(&bytes.len()) && !bytes.contains(&0);
        fits.then(|| Self(bytes.into()))
    }

    /// As text, if it is UTF-8: only that can be told to an agent without extensions.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// For a person, and for programs that can do with an approximation.
    pub(crate) fn lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// The bytes in base64, where they are no text.
    pub(crate) fn base64(&self) -> Option<String> {
        self.text().is_none().then(|| base64_simd::STANDARD.encode_to_string(&self.0))
    }

    /// What follows the last slash.
    pub(crate) fn name(&self) -> &[u8] {
        self.0
            .rsplit(|byte| matches!(byte, b'/' | b'\\'))
            .find(|name| !name.is_empty())
            .unwrap_or(b"")
    }

    /// The members `path` and `path-b64` of an extension's arguments.
    pub(crate) fn members(&self) -> (Option<String>, Option<Base64Text>) {
        match self.text() {
            Some(text) => (Some(text.to_owned()), None),
            None => (None, Some(Base64Text::new(&*self.0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_and_text_stays_text() {
        let path = |bytes: &[u8]| GuestPath::new(bytes.to_vec());
        assert_eq!(path(b"/tmp/a b").unwrap().members(), (Some("/tmp/a b".into()), None));
        let odd = path(b"/tmp/\xff\xfe").unwrap();
        assert_eq!(odd.members(), (None, Some(Base64Text::new(&b"/tmp/\xff\xfe"[..]))));
        assert_eq!((odd.text(), odd.name()), (None, &b"\xff\xfe"[..]));
        assert_eq!(odd.base64().as_deref(), Some("L3RtcC///g=="));
        assert_eq!(path(b"C:\\a\\b.txt").unwrap().name(), b"b.txt");
        assert_eq!(path(b"/a/b/").unwrap().name(), b"b");
        assert!(path(b"").is_none() && path(b"a\0b").is_none());
        assert!(path(&[b'a'; GuestPath::MAX + 1]).is_none());
    }
}
