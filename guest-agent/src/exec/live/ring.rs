//! The last part of a stream, by its bytes' positions from the stream's beginning.

use std::collections::VecDeque;

/// What is kept of a stream.
#[derive(Debug, Default)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    start: u64,
}

impl Ring {
    /// Of the first byte that is still there.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Behind the last byte that has come.
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends `bytes`; of all, the oldest gives way until at most `limit` bytes are left.
    pub(super) fn push(&mut self, bytes: &[u8], limit: usize) {
        let passed = bytes.len().saturating_sub(limit);
        let kept = &bytes[passed..];
        let old = (self.bytes.len() + kept.len()).saturating_sub(limit).min(self.bytes.len());
        self.bytes.drain(..old);
        self.start += (old + passed) as u64;
        let needed = self.bytes.len() + kept.len();
        if needed > self.bytes.capacity() {
            // No more memory than the limit in the end.
            let capacity = needed.max((2 * self.bytes.capacity()).min(limit));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend(kept);
    }

    /// Lets go of what lies before `offset`.
    pub(super) fn release(&mut self, offset: u64) {
        let gone = offset.min(self.end()).saturating_sub(self.start);
        // No more than there is in memory.
        self.bytes.drain(..usize::try_from(gone).unwrap_or(self.bytes.len()));
        self.start += gone;
    }

    /// At most `count` bytes from `offset` on, or from where there are any, and where they begin.
    pub(super) fn read(&self, offset: u64, count: usize) -> (u64, Vec<u8>) {
        let from = offset.clamp(self.start, self.end());
        let skipped = usize::try_from(from - self.start).unwrap_or(self.bytes.len());
        let count = count.min(self.bytes.len() - skipped);
        let mut bytes = Vec::with_capacity(count);
        let (front, back) = self.bytes.as_slices();
        let split = skipped.min(front.len());
        let of_front = count.min(front.len() - split);
        bytes.extend_from_slice(&front[split..split + of_front]);
        let split = skipped - split;
        bytes.extend_from_slice(&back[split..split + count - of_front]);
        (from, bytes)
    }

    /// Nothing will be appended any more, or not for a while.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize, usize),
        Release(u64),
        Read(u64, usize),
        Shrink,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..200_usize, 1..150_usize).prop_map(|(n, limit)| Step::Push(n, limit)),
            2 => (0..4000_u64).prop_map(Step::Release),
            3 => (0..4000_u64, 0..200_usize).prop_map(|(at, n)| Step::Read(at, n)),
            1 => Just(Step::Shrink),
        ]
    }

    proptest! {
        /// The model keeps the whole stream, and where the ring begins in it.
        #[test]
        fn it_is_a_window_on_the_whole_stream(steps in prop::collection::vec(step(), 0..60)) {
            let mut ring = Ring::default();
            let (mut whole, mut start) = (Vec::<u8>::new(), 0_usize);
            for step in steps {
                match step {
                    Step::Push(count, limit) => {
                        let from = whole.len();
                        whole.extend((from..from + count).map(|n| u8::try_from(n * 7 % 251).unwrap()));
                        start = start.max(whole.len().saturating_sub(limit));
                        ring.push(&whole[from..], limit);
                    }
                    Step::Release(offset) => {
                        start = start.max(usize::try_from(offset).unwrap().min(whole.len()));
                        ring.release(offset);
                    }
                    Step::Read(offset, count) => {
                        let from = usize::try_from(offset).unwrap().clamp(start, whole.len());
                        let to = (from + count).min(whole.len());
                        prop_assert_eq!(ring.read(offset, count), (from as u64, whole[from..to].to_vec()));
                    }
                    Step::Shrink => ring.shrink(),
                }
                prop_assert_eq!(ring.start(), start as u64);
                prop_assert_eq!(ring.end(), whole.len() as u64);
                prop_assert_eq!(ring.len(), whole.len() - start);
            }
        }
    }
}
