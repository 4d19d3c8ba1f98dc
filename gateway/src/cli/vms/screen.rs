//! A terminal that is drawn on anew, and given back as it was.

use std::io::{self, Write as _, stdout};

use rustix::termios::tcgetwinsize;

/// The other screen, which leaves what was on the first one.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Where nobody says how large it is.
const USUAL: (usize, usize) = (24, 80);

/// Ours until it is dropped, however that comes about.
#[derive(Debug)]
pub(super) struct Screen;

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        put(ENTER)?;
        Ok(Self)
    }

    /// Shows as much of these lines as has room; nothing in them drives a terminal.
    pub(super) fn draw(&self, text: &str) -> io::Result<()> {
        let size = tcgetwinsize(stdout()).ok();
        let size = size.filter(|size| size.ws_row > 1 && size.ws_col > 0);
        let size = size.map_or(USUAL, |size| (size.ws_row.into(), size.ws_col.into()));
        put(&fitted(text, size))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = put(LEAVE);
    }
}

fn put(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The lines from the terminal's corner on, over what was there; the last says what had no room.
fn fitted(text: &str, (rows, columns): (usize, usize)) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = if lines.len() > rows { rows - 1 } else { lines.len() };
    let more = (lines.len() > shown).then(|| format!("… and {} more", lines.len() - shown));
    let lines = lines.into_iter().take(shown).chain(more.as_deref());
    let lines: Vec<String> =
        lines.map(|line| line.chars().take(columns).chain("\x1b[K".chars()).collect()).collect();
    // No line feed behind the last one: on a full screen it would move all of them.
    format!("\x1b[H{}\x1b[J", lines.join("\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_left_out_and_said() {
        assert_eq!(fitted("abc\nd\n", (2, 2)), "\x1b[Hab\x1b[K\r\nd\x1b[K\x1b[J");
        assert_eq!(fitted("a\nb\nc\n", (2, 20)), "\x1b[Ha\x1b[K\r\n… and 2 more\x1b[K\x1b[J");
    }
}
