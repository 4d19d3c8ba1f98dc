//! Text of a guest, made fit to be shown: in logs, reasons and problems.

/// Guest text made fit for a person's terminal: at most 1,024 characters, and nothing that
/// moves a cursor, begins a line or turns the direction of writing. What is fit already stays.
pub fn printable(text: &str) -> String {
    cut(text, 1024)
}

/// The same for a line of a list, or a metric's label: at most 128 characters.
pub(crate) fn label(text: &str) -> String {
    cut(text, 128)
}

/// All of it, of what was cut to a limit before.
pub(crate) fn escaped(text: &str) -> String {
    cut(text, usize::MAX)
}

fn cut(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for (n, c) in text.chars().enumerate() {
        if n == limit {
            out.push('…');
            break;
        }
        if c.is_control() || is_format(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether it is seen only by what it does to others: Unicode's category Cf (17.0), which turns the
/// direction of writing, joins, hides and tags, and the two separators of lines and paragraphs.
fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
        | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_text_cannot_drive_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d é"), "a\\u{1b}[2Jb\\nc\\u{202e}d é");
        for mark in [0xad, 0x61c, 0x200f, 0x202d, 0x2066, 0x2069, 0xfff9, 0xe0001, 0xe007f] {
            let mark = char::from_u32(mark).unwrap();
            assert_eq!(printable(&format!("a{mark}b")), format!("a{}b", mark.escape_unicode()));
        }
        assert_eq!(printable("a\\u{1b}\\n"), "a\\u{1b}\\n", "once is enough");
        let long = printable(&"x".repeat(5000));
        assert_eq!(long.chars().count(), 1025);
        assert_eq!(label(&"é".repeat(129)).chars().count(), 129);
    }
}
