//! The host's end of the framing: a byte stream to lines, with a cap.

use crate::scan::newline;

/// What the stream held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line without its newline.
    Whole(Vec<u8>),
    /// A line passed the cap; the rest of it is being dropped.
    Oversize,
}

/// Splits a byte stream into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    dropping: bool,
}

impl Lines {
    /// Takes bytes from the front of `input` up to the end of the first line in it.
    pub(crate) fn next(&mut self, input: &mut &[u8], cap: usize) -> Option<Line> {
        let newline = newline(input);
        let (piece, rest) = input.split_at(newline.unwrap_or(input.len()));
        *input = if newline.is_some() { &rest[1..] } else { rest };
        if self.dropping {
            self.dropping = newline.is_none();
            return None;
        }
        if self.partial.len() + piece.len() > cap {
            self.partial = Vec::new();
            self.dropping = newline.is_none();
            return Some(Line::Oversize);
        }
        self.partial.extend_from_slice(piece);
        newline?;
        let line = std::mem::take(&mut self.partial);
        Some(Line::Whole(line))
    }

    /// Leaves empty lines out. They say nothing, and nobody is to be kept busy with millions of them.
    pub(crate) fn skip_empty(&self, input: &mut &[u8]) {
        if !self.is_midway() {
            let empty = input.iter().take_while(|&&byte| byte == b'\n').count();
            *input = &input[empty..];
        }
    }

    /// Whether part of a line is waiting for the rest.
    pub(crate) fn is_midway(&self) -> bool {
        !self.partial.is_empty() || self.dropping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &mut Lines, mut input: &[u8], cap: usize) -> Vec<Line> {
        let mut found = Vec::new();
        while !input.is_empty() {
            found.extend(lines.next(&mut input, cap));
        }
        found
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.as_bytes().to_vec())
    }

    #[test]
    fn splits_at_newlines_however_the_bytes_arrive() {
        let mut reader = Lines::default();
        assert_eq!(lines(&mut reader, b"ab\n\ncd", 10), [whole("ab"), whole("")]);
        assert!(reader.is_midway());
        assert_eq!(lines(&mut reader, b"e\n", 10), [whole("cde")]);
        assert!(!reader.is_midway());
    }

    #[test]
    fn empty_lines_are_left_out_but_not_the_end_of_a_line() {
        let mut reader = Lines::default();
        let mut input: &[u8] = b"\n\n\nab";
        reader.skip_empty(&mut input);
        assert_eq!(input, b"ab");
        assert_eq!(reader.next(&mut input, 10), None);
        let mut input: &[u8] = b"\n\n";
        reader.skip_empty(&mut input);
        assert_eq!(reader.next(&mut input, 10), Some(whole("ab")));
    }

    #[test]
    fn a_line_over_the_cap_is_dropped_to_its_end_and_told_once() {
        let mut reader = Lines::default();
        assert_eq!(lines(&mut reader, b"0123456789", 4), [Line::Oversize]);
        assert_eq!(lines(&mut reader, b"0123456789", 4), []);
        assert_eq!(lines(&mut reader, b"01\nab\n", 4), [whole("ab")]);
        assert_eq!(lines(&mut reader, b"01234\nab\n", 4), [Line::Oversize, whole("ab")]);
    }

    #[test]
    fn a_line_without_end_keeps_no_more_than_its_cap() {
        let mut reader = Lines::default();
        let piece = vec![b'a'; 64 << 10];
        let mut told = 0;
        for _ in 0..1024 {
            told += lines(&mut reader, &piece, 1 << 20).len();
            assert!(reader.partial.capacity() <= 2 << 20);
        }
        assert_eq!(told, 1);
        assert_eq!(reader.partial.capacity(), 0);
    }
}
