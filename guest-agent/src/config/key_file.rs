//! GLib's key files: `[group]`, `key=value`, `#` comments. Pure: bytes in, groups out.
//!
//! What GLib accepts is accepted and what it refuses is refused in its words, because the file is
//! qemu-ga's:
//!
//! * Blanks before a line, around `=` and after a group's `]` do not count; blanks after a value do.
//! * A group that comes again goes on, and the last value of a key is the one that counts.
//! * Escapes are looked at, and UTF-8 insisted on, only where a value is read.
//! * `key[locale]` is another key than `key`.

use std::fmt::Write as _;

/// The groups of a file, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyFile {
    groups: Vec<Group>,
}

/// One group, with its keys in the order in which they first came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    name: Vec<u8>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a file, or a value in it, cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyFileError {
    #[error("Key file contains line “{0}” which is not a key-value pair, group, or comment")]
    Line(String),
    #[error("Key file does not start with a group")]
    NoGroup,
    #[error("Invalid group name: {0}")]
    GroupName(String),
    #[error("Invalid key name: {0}")]
    KeyName(String),
    #[error("Key file contains unsupported encoding “{0}”")]
    Encoding(String),
    #[error("Key file contains key “{0}” with value “{1}” which is not UTF-8")]
    NotUtf8(String, String),
    #[error("Key file contains key “{0}” which has a value that cannot be interpreted.")]
    Value(String),
}

impl KeyFile {
    /// Reads a whole file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, KeyFileError> {
        let mut file = Self::default();
        let mut current = None;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (line, terminated) = match rest.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    let line = &rest[..end];
                    rest = &rest[end + 1..];
                    (line, true)
                }
                None => (std::mem::take(&mut rest), false),
            };
            // GLib looks for the carriage return where it meets the newline.
            let line = match line.strip_suffix(b"\r") {
                Some(line) if terminated => line,
                _ => line,
            };
            file.line(line, &mut current)?;
        }
        Ok(file)
    }

    /// All groups.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    fn line(&mut self, line: &[u8], current: &mut Option<usize>) -> Result<(), KeyFileError> {
        // A C string ends at its first zero.
        let line = line.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = trim_start(line);
        if text.is_empty() || text[0] == b'#' {
            return Ok(());
        }
        if let Some(name) = group_of(text) {
            *current = Some(self.enter(name)?);
            return Ok(());
        }
        let Some(equals) = text.iter().position(|&byte| byte == b'=').filter(|&at| at > 0) else {
            return Err(KeyFileError::Line(lossy(line)));
        };
        let index = current.ok_or(KeyFileError::NoGroup)?;
        let key = trim_end(&text[..equals]);
        let value = trim_start(&text[equals + 1..]);
        if !is_key_name(key) {
            return Err(KeyFileError::KeyName(lossy(key)));
        }
        if index == 0 && key == b"Encoding" && !value.eq_ignore_ascii_case(b"UTF-8") {
            return Err(KeyFileError::Encoding(lossy(value)));
        }
        let entries = &mut self.groups[index].entries;
        match entries.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value.to_owned(),
            None => entries.push((key.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    fn enter(&mut self, name: &[u8]) -> Result<usize, KeyFileError> {
        if name.is_empty() || name.iter().any(|&byte| byte == b'[' || byte.is_ascii_control()) {
            return Err(KeyFileError::GroupName(lossy(name)));
        }
        Ok(match self.groups.iter().position(|group| group.name == name) {
            Some(index) => index,
            None => {
                self.groups.push(Group { name: name.to_owned(), entries: Vec::new() });
                self.groups.len() - 1
            }
        })
    }
}

impl Group {
    /// The name between the brackets.
    pub(crate) fn name(&self) -> String {
        lossy(&self.name)
    }

    /// The names of all keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = String> {
        self.entries.iter().map(|(key, _)| lossy(key))
    }

    /// A string, its escapes resolved: `\s` a blank, `\n`, `\t`, `\r`, `\\`.
    pub(crate) fn string(&self, key: &str) -> Result<Option<String>, KeyFileError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let text = std::str::from_utf8(value)
            .map_err(|_| KeyFileError::NotUtf8(key.to_owned(), lossy(value)))?;
        unescape(text).map(Some).ok_or_else(|| KeyFileError::Value(key.to_owned()))
    }

    /// `true` or `1`, `false` or `0`.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, KeyFileError> {
        match self.value(key).map(trim_end) {
            None => Ok(None),
            Some(b"true" | b"1") => Ok(Some(true)),
            Some(b"false" | b"0") => Ok(Some(false)),
            Some(_) => Err(KeyFileError::Value(key.to_owned())),
        }
    }

    fn value(&self, key: &str) -> Option<&[u8]> {
        let found = self.entries.iter().find(|(known, _)| known == key.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }
}

/// Appends `key=value` as GLib writes a string.
pub(crate) fn write(out: &mut String, key: &str, value: &str) {
    let mut leading = true;
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            ' ' if leading => escaped.push_str("\\s"),
            '\t' if leading => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\\' => escaped.push_str("\\\\"),
            c => escaped.push(c),
        }
        leading &= matches!(c, ' ' | '\t');
    }
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{key}={escaped}");
}

/// What `[name]` names, if the line is that.
fn group_of(text: &[u8]) -> Option<&[u8]> {
    let inner = text.strip_prefix(b"[")?;
    let end = inner.iter().position(|&byte| byte == b']')?;
    let blank = inner[end + 1..].iter().all(|&byte| byte == b' ' || byte == b'\t');
    blank.then(|| &inner[..end])
}

/// Anything without brackets, and then perhaps one `[locale]`.
fn is_key_name(key: &[u8]) -> bool {
    let base = key.iter().position(|byte| matches!(byte, b'[' | b']')).unwrap_or(key.len());
    let (base, locale) = key.split_at(base);
    if base.is_empty() || base[base.len() - 1] == b' ' {
        return false;
    }
    if locale.is_empty() {
        return true;
    }
    let inner = locale.strip_prefix(b"[").and_then(|inner| inner.strip_suffix(b"]"));
    let inner = inner.and_then(|inner| std::str::from_utf8(inner).ok());
    inner.is_some_and(|inner| inner.chars().all(|c| c.is_alphanumeric() || "-_.@".contains(c)))
}

fn unescape(value: &str) -> Option<String> {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next()? {
                's' => ' ',
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            c => c,
        });
    }
    Some(text)
}

/// What GLib calls a space: not the vertical tab.
fn is_blank(byte: &u8) -> bool {
    byte.is_ascii_whitespace()
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let blank = bytes.iter().take_while(|byte| is_blank(byte)).count();
    &bytes[blank..]
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let blank = bytes.iter().rev().take_while(|byte| is_blank(byte)).count();
    &bytes[..bytes.len() - blank]
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
