//! Bytes waiting to be written: small ones gathered, large ones never copied.

use std::collections::VecDeque;

/// Replies up to this size are gathered into one segment; larger ones are their own.
const SEGMENT: usize = 64 << 10;
/// A large reply is three segments: what stands before it, itself, and what stands behind.
pub(crate) const SLICES: usize = 3;

/// A queue of bytes.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// None is empty, except that the only one may be, kept for its capacity.
    segments: VecDeque<Vec<u8>>,
    /// Of the first segment.
    written: usize,
    len: usize,
}

impl Output {
    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The next bytes to write, in order: what one vectored write can take. All are empty when
    /// none wait.
    pub(crate) fn slices(&self) -> [&[u8]; SLICES] {
        let mut slices: [&[u8]; SLICES] = [&[]; SLICES];
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = segment;
        }
        slices[0] = &slices[0][self.written..];
        slices
    }

    /// `count` bytes from the front were written.
    pub(crate) fn consume(&mut self, count: usize) {
        let mut left = count.min(self.len);
        self.len -= left;
        while let Some(first) = self.segments.front_mut() {
            if left < first.len() - self.written {
                self.written += left;
                return;
            }
            left -= first.len() - self.written;
            self.written = 0;
            let small = first.capacity() <= SEGMENT;
            first.clear();
            if self.segments.len() == 1 && small {
                return;
            }
            self.segments.pop_front();
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Appends what `write` appends.
    pub(crate) fn gather(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.segments.back().is_none_or(|last| last.len() >= SEGMENT) {
            self.segments.push_back(Vec::new());
        }
        if let Some(last) = self.segments.back_mut() {
            let before = last.len();
            write(last);
            self.len += last.len() - before;
        }
    }

    /// Appends bytes; takes them over if they are many.
    pub(crate) fn push(&mut self, bytes: Vec<u8>) {
        if bytes.len() < SEGMENT {
            self.gather(|last| last.extend_from_slice(&bytes));
        } else {
            self.len += bytes.len();
            if self.segments.back().is_some_and(Vec::is_empty) {
                self.segments.pop_back();
            }
            self.segments.push_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(output: &mut Output, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while output.len() > 0 {
            let next = output.slices().concat();
            let count = step.min(next.len());
            assert!(count > 0);
            all.extend_from_slice(&next[..count]);
            output.consume(count);
        }
        assert!(output.slices().concat().is_empty());
        all
    }

    #[test]
    fn keeps_order_and_content_whatever_the_sizes() {
        let mut output = Output::default();
        for step in [1, 1000, 70_000, usize::MAX] {
            let mut expected = Vec::new();
            for size in [0, 1, 10, SEGMENT - 1, SEGMENT, 3 * SEGMENT, 5, 0, SEGMENT + 1, 7] {
                let piece = vec![u8::try_from(size % 251).unwrap(); size];
                expected.extend_from_slice(&piece);
                output.push(piece);
            }
            assert_eq!(output.len(), expected.len());
            assert_eq!(drain(&mut output, step), expected);
        }
    }

    #[test]
    fn small_pieces_leave_in_one_segment_and_large_capacity_is_given_back() {
        let mut output = Output::default();
        for _ in 0..100 {
            output.push(b"{\"return\": {}}\n".to_vec());
        }
        assert_eq!(output.slices()[0].len(), output.len());
        output.push(vec![0; 1 << 20]);
        drain(&mut output, usize::MAX);
        assert!(output.segments.iter().all(|segment| segment.capacity() <= SEGMENT));
    }
}
