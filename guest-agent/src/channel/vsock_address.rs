//! `CID:PORT`, as qemu-ga reads it.

use super::OpenError;

/// Context id and port.
pub(super) fn parse(text: &str) -> Result<(u32, u32), OpenError> {
    let address = |what: &str, value: &str| OpenError::Address(format!("{what} '{value}'"));
    let (cid, rest) = text
        .split_once(':')
        .filter(|(cid, rest)| !cid.is_empty() && !rest.is_empty() && !rest.starts_with(','))
        .ok_or_else(|| address("error parsing address", text))?;
    if rest.contains(',') {
        return Err(address("trailing characters in address", text));
    }
    let number = |what, digits: &str| {
        let trimmed = digits.trim_start();
        trimmed.parse().map_err(|_| address(what, digits))
    };
    Ok((number("Failed to parse cid", cid)?, number("Failed to parse port", rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_of_32_bits() {
        assert_eq!(parse("3:1024").unwrap(), (3, 1024));
        assert_eq!(parse("4294967295:4294967295").unwrap(), (u32::MAX, u32::MAX));
        for (text, error) in [
            ("", "error parsing address ''"),
            ("foo", "error parsing address 'foo'"),
            ("3:", "error parsing address '3:'"),
            (":4", "error parsing address ':4'"),
            ("3:4,5", "trailing characters in address '3:4,5'"),
            ("x:y", "Failed to parse cid 'x'"),
            ("0x3:1", "Failed to parse cid '0x3'"),
            ("4294967296:1", "Failed to parse cid '4294967296'"),
            ("3:x", "Failed to parse port 'x'"),
            ("3:-1", "Failed to parse port '-1'"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), error);
        }
    }
}
