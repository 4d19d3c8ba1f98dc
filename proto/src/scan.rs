//! Looks for bytes in long lines. Chunks of files are such lines, and to look at them byte by byte would
//! take longer than all else that is done with them.

/// Looked at without a way out in between, so that it is done by vector instructions.
const STRIDE: usize = 256;

/// Where the first newline is.
pub fn newline(bytes: &[u8]) -> Option<usize> {
    first(bytes, |byte| byte == b'\n')
}

/// Where the last byte of this kind is. Most lines have none.
pub(crate) fn last(bytes: &[u8], wanted: u8) -> Option<usize> {
    first(bytes, |byte| byte == wanted)?;
    bytes.iter().rposition(|&byte| byte == wanted)
}

/// How many bytes there are up to the first that is none of a plain JSON string: a quote, a backslash, a
/// control character, or what is no ASCII.
pub(crate) fn plain(bytes: &[u8]) -> usize {
    let ends = |byte: u8| !(0x20..0x80).contains(&byte) || byte == b'"' || byte == b'\\';
    first(bytes, ends).unwrap_or(bytes.len())
}

#[inline]
fn first(bytes: &[u8], wanted: impl Fn(u8) -> bool + Copy) -> Option<usize> {
    let has =
        |stride: &[u8]| stride.iter().fold(0, |found, &byte| found | u8::from(wanted(byte))) != 0;
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    let at = strides.iter().position(|stride| has(stride));
    let (start, stride) = match at {
        Some(at) => (at * STRIDE, &strides[at][..]),
        None => (bytes.len() - rest.len(), rest),
    };
    Some(start + stride.iter().position(|&byte| wanted(byte))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_for_is_found_wherever_it_is() {
        for length in [0, 1, STRIDE - 1, STRIDE, STRIDE + 1, 5 * STRIDE + 7] {
            let mut bytes = vec![b'a'; length];
            assert_eq!((newline(&bytes), last(&bytes, b'\n'), plain(&bytes)), (None, None, length));
            for at in (0..length).rev() {
                bytes[at] = b'\n';
                assert_eq!((newline(&bytes), plain(&bytes)), (Some(at), at));
                assert_eq!(last(&bytes, b'\n'), Some(length - 1));
            }
        }
    }

    #[test]
    fn a_plain_string_ends_where_json_would_look_twice() {
        for byte in 0..=255 {
            let plain_json = serde_json::from_slice::<&str>(&[b'"', byte, b'"']).is_ok();
            let is_plain = plain(&[b'a', byte]) == 2;
            assert_eq!(is_plain, plain_json, "{byte}");
        }
    }
}
