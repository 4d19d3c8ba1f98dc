//! The buffer that bytes are read into.

use std::cell::RefCell;

/// Lends the thread's buffer: ten thousand idle connections hold none.
pub(super) fn with_buffer<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 << 10]);
    }
    // Not reentrant: `read` never comes back here.
    BUFFER.with_borrow_mut(|buffer| read(buffer))
}
