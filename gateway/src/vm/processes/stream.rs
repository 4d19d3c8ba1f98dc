//! What is kept of one stream of output: its latest bytes, each at its offset from the beginning.

use std::collections::VecDeque;

/// Bytes that come in small pieces share pieces of this size.
const SEGMENT: usize = 64 << 10;

/// The furthest offset that makes sense; beyond it an agent talks nonsense.
pub(super) const MAX_OFFSET: u64 = 1 << 62;

/// The latest bytes of a stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    segments: VecDeque<Segment>,
    held: usize,
    end: u64,
    pub(super) eof: bool,
}

#[derive(Debug)]
struct Segment {
    /// Where `bytes` begin in the stream.
    offset: u64,
    bytes: Vec<u8>,
    /// Bytes at the beginning that have given way.
    gone: usize,
}

impl Segment {
    fn start(&self) -> u64 {
        self.offset + self.gone as u64
    }

    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Stream {
    /// One of which nothing before `offset` will ever be there.
    pub(super) fn from(offset: u64) -> Self {
        Self { end: offset.min(MAX_OFFSET), ..Self::default() }
    }

    /// The first byte that is still there.
    pub(super) fn start(&self) -> u64 {
        self.segments.front().map_or(self.end, Segment::start)
    }

    /// Behind the last byte that has come.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Adds bytes that stand at `offset`. What is there already is left out. If something is missing
    /// before them, all that was there gives way: what is kept has no holes.
    pub(super) fn push(&mut self, offset: u64, bytes: &[u8]) {
        if offset > MAX_OFFSET {
            return;
        }
        if offset > self.end {
            self.segments.clear();
            self.held = 0;
        }
        let known = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(mut bytes) = bytes.get(known..).filter(|rest| !rest.is_empty()) else {
            self.end = self.end.max(offset);
            return;
        };
        let mut at = offset.max(self.end);
        while !bytes.is_empty() {
            let room = match self.segments.back() {
                Some(last) if last.end() == at => SEGMENT.saturating_sub(last.bytes.len()),
                _ => 0,
            };
            if room == 0 {
                self.segments.push_back(Segment { offset: at, bytes: Vec::new(), gone: 0 });
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.segments.back_mut() {
                last.bytes.extend_from_slice(now);
            }
            self.held += now.len();
            at += now.len() as u64;
            bytes = later;
        }
        self.end = at;
    }

    /// Lets the oldest give way until at most `max` bytes are held, or nothing before `until` is.
    pub(super) fn trim(&mut self, max: usize, until: u64) {
        while self.held > max {
            let Some(first) = self.segments.front_mut() else { return };
            let there = first.bytes.len() - first.gone;
            let before = usize::try_from(until.saturating_sub(first.start())).unwrap_or(there);
            let less = there.min(self.held - max).min(before);
            if less == 0 {
                return;
            }
            first.gone += less;
            self.held -= less;
            if first.gone == first.bytes.len() {
                self.segments.pop_front();
            }
        }
    }

    /// Bytes from `offset` on, at most `max`, with where they begin: later, if those are gone.
    pub(super) fn read(&self, offset: u64, max: usize) -> Option<(u64, Vec<u8>)> {
        let next = self.segments.partition_point(|segment| segment.end() <= offset);
        let mut at = self.segments.get(next)?.start().max(offset);
        let begin = at;
        let mut read = Vec::new();
        for segment in self.segments.range(next..) {
            if segment.start() > at || read.len() >= max {
                break;
            }
            // At most the segment's length, which is a usize.
            let from = usize::try_from(at - segment.offset).unwrap_or(usize::MAX);
            let bytes = segment.bytes.get(from..).unwrap_or_default();
            let bytes = &bytes[..bytes.len().min(max - read.len())];
            read.extend_from_slice(bytes);
            at += bytes.len() as u64;
        }
        Some((begin, read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every byte that ever came, by its offset.
    #[derive(Default)]
    struct Model {
        bytes: Vec<Option<u8>>,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { skip: u64, back: u64, bytes: Vec<u8> },
        Trim { max: usize, until: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = prop_oneof![
            8 => proptest::collection::vec(any::<u8>(), 0..40),
            1 => (0..200_000usize).prop_map(|n| (0..=250).cycle().take(n).collect()),
        ];
        prop_oneof![
            4 => (prop_oneof![3 => Just(0), 1 => 0..20u64], 0..4u64, bytes)
                .prop_map(|(skip, back, bytes)| Step::Push { skip, back, bytes }),
            1 => (0..100_000usize, 0..300_000u64).prop_map(|(max, until)| Step::Trim { max, until }),
        ]
    }

    proptest! {
        /// Whatever is still there reads as it came, from every offset.
        #[test]
        fn what_is_there_is_byte_exact(
            steps in proptest::collection::vec(step(), 1..40),
            reads in proptest::collection::vec((0..400_000u64, 1..100_000usize), 1..20),
        ) {
            let (mut stream, mut model) = (Stream::default(), Model::default());
            for step in steps {
                match step {
                    Step::Push { skip, back, bytes } => {
                        let end = stream.end();
                        let offset = if skip > 0 { end + skip } else { end.saturating_sub(back) };
                        stream.push(offset, &bytes);
                        let at = usize::try_from(offset).unwrap();
                        for (n, byte) in bytes.iter().enumerate() {
                            if at + n >= usize::try_from(end).unwrap() {
                                model.bytes.resize((at + n).max(model.bytes.len()), None);
                                model.bytes.push(Some(*byte));
                            }
                        }
                        model.bytes.resize(usize::try_from(stream.end()).unwrap(), None);
                        prop_assert!(stream.end() >= offset);
                    }
                    Step::Trim { max, until } => {
                        let (held, start) = (stream.held(), stream.start());
                        stream.trim(max, until);
                        prop_assert!(stream.held() <= max || stream.start() >= until.max(start));
                        prop_assert!(stream.held() <= held);
                    }
                }
            }
            let end = stream.end();
            let start = stream.start();
            for (offset, max) in reads.into_iter().chain([(0, usize::MAX), (start, 1)]) {
                match stream.read(offset, max) {
                    None => {
                        let from = usize::try_from(offset.max(start).min(end)).unwrap();
                        prop_assert!(model.bytes[from..].iter().all(Option::is_none));
                    }
                    Some((at, bytes)) => {
                        prop_assert!(at >= offset && at >= start && !bytes.is_empty());
                        prop_assert!(bytes.len() <= max);
                        let from = usize::try_from(at).unwrap();
                        for (n, byte) in bytes.iter().enumerate() {
                            prop_assert_eq!(model.bytes[from + n], Some(*byte));
                        }
                        // What is passed over was never there, or has given way.
                        let asked = usize::try_from(offset.max(start)).unwrap();
                        prop_assert!(model.bytes[asked.min(from)..from].iter().all(Option::is_none));
                    }
                }
            }
        }
    }

    #[test]
    fn small_pieces_take_no_more_than_their_bytes_and_a_segment() {
        let mut stream = Stream::default();
        for n in 0..200_000u64 {
            stream.push(n, b"x");
            stream.trim(100_000, u64::MAX);
        }
        assert_eq!((stream.held(), stream.start()), (100_000, 100_000));
        assert!(stream.segments.len() <= 3, "{}", stream.segments.len());
        stream.push(u64::MAX, b"x");
        assert_eq!(stream.end(), 200_000);
    }
}
