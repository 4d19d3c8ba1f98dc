//! The buffer that bytes are read into.

use std::cell::RefCell;

use super::transfer::PART;

/// A part of a file with what stands around it, at least.
const ROOM: usize = PART.div_ceil(3) * 4 + (16 << 10);

/// Lends the thread's buffer: ten thousand idle connections hold none.
pub(super) fn with_buffer<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
    }
    // Not reentrant: `read` never comes back here.
    BUFFER.with_borrow_mut(|buffer| read(buffer))
}
