//! What waits for one VM's wire: bounded, most urgent first, first come first served within.

use std::collections::VecDeque;

/// How urgent a call is; the first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// Thawing: a guest may be standing still.
    Thaw,
    /// Making sure that the link is in step.
    Sync,
    /// Somebody waits for it.
    Interactive,
    /// Part of a file, by a caller's hand.
    Bulk,
    /// Part of a file that is transferred whole. How many there are is bounded by the transfers,
    /// each of which has few: they take no room from the others, and each gets its turn.
    Chunk,
}

const LANES: usize = 5;

/// Thaws find room when the queue is full of everything else.
const RESERVED_FOR_THAW: usize = 4;

/// A bounded priority queue.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    lanes: [VecDeque<T>; LANES],
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { lanes: Default::default() }
    }
}

impl<T> Queue<T> {
    pub(crate) fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    /// Adds to the end of its lane, or gives the item back when `depth` wait already.
    pub(crate) fn push(&mut self, priority: Priority, item: T, depth: usize) -> Result<(), T> {
        let room = match priority {
            Priority::Chunk => usize::MAX,
            Priority::Thaw => depth + RESERVED_FOR_THAW,
            Priority::Sync | Priority::Interactive | Priority::Bulk => depth,
        };
        if self.len() - self.lanes[Priority::Chunk as usize].len() >= room {
            return Err(item);
        }
        self.lanes[priority as usize].push_back(item);
        Ok(())
    }

    /// The item that is due, if any.
    pub(crate) fn peek(&self) -> Option<&T> {
        self.lanes.iter().find_map(VecDeque::front)
    }

    /// Takes the item that is due.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.lanes.iter_mut().find_map(VecDeque::pop_front)
    }

    /// All items, most urgent first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.lanes.iter().flatten()
    }

    /// Takes out every item that `out` picks, in order.
    pub(crate) fn take_if(&mut self, mut out: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for lane in &mut self.lanes {
            // Few items wait and fewer leave this way, so moving the rest costs nothing.
            let mut at = 0;
            while let Some(item) = lane.get(at) {
                if out(item) {
                    taken.extend(lane.remove(at));
                } else {
                    at += 1;
                }
            }
        }
        taken
    }

    /// Gives memory back; for when nothing waits.
    pub(crate) fn shrink(&mut self) {
        for lane in &mut self.lanes {
            lane.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(Priority),
        Pop,
        TakeOdd,
        Shrink,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..5u8).prop_map(|n| Step::Push(match n {
                0 => Priority::Thaw,
                1 => Priority::Sync,
                2 => Priority::Interactive,
                3 => Priority::Bulk,
                _ => Priority::Chunk,
            })),
            4 => Just(Step::Pop),
            1 => Just(Step::TakeOdd),
            1 => Just(Step::Shrink),
        ]
    }

    proptest! {
        /// The model: one list, kept sorted by (priority, arrival).
        #[test]
        fn behaves_as_a_sorted_list(
            depth in 1..6usize,
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut queue = Queue::default();
            let mut model: Vec<(Priority, usize)> = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(priority) => {
                        let room = if priority == Priority::Thaw { depth + 4 } else { depth };
                        let chunk = |(priority, _): &&(_, _)| *priority == Priority::Chunk;
                        let counted = model.len() - model.iter().filter(chunk).count();
                        let fits = priority == Priority::Chunk || counted < room;
                        prop_assert_eq!(queue.push(priority, (priority, n), depth).is_ok(), fits);
                        if fits {
                            model.push((priority, n));
                            model.sort();
                        }
                    }
                    Step::Pop => {
                        prop_assert_eq!(queue.peek(), model.first());
                        let due = (!model.is_empty()).then(|| model.remove(0));
                        prop_assert_eq!(queue.pop(), due);
                    }
                    Step::TakeOdd => {
                        let (odd, even) = model.into_iter().partition(|(_, n)| n % 2 == 1);
                        model = even;
                        prop_assert_eq!(queue.take_if(|(_, n)| n % 2 == 1), odd);
                    }
                    Step::Shrink => queue.shrink(),
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                prop_assert!(queue.iter().eq(model.iter()));
            }
        }
    }
}
