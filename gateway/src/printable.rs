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
        let unsafe_mark = matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c.is_control() || unsafe_mark {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_text_cannot_drive_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d é"), "a\\u{1b}[2Jb\\nc\\u{202e}d é");
        assert_eq!(printable("a\\u{1b}\\n"), "a\\u{1b}\\n", "once is enough");
        let long = printable(&"x".repeat(5000));
        assert_eq!(long.chars().count(), 1025);
        assert_eq!(label(&"é".repeat(129)).chars().count(), 129);
    }
}
