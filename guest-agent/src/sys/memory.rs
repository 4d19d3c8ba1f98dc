//! What the C library's allocator keeps, and what the kernel may take away.

use rustix::io;
use rustix::mm::{MlockAllFlags, mlockall, munlockall};

/// Blocks from this size on are mapped one by one and go back to the kernel when freed.
const MMAP_THRESHOLD: libc::c_int = 4 << 20;
/// Free memory kept at the top of the heap while there is work, so that a file transfer does not
/// fault the same pages in for every chunk. [`give_back`] returns it once the work is over.
const TRIM_THRESHOLD: libc::c_int = 8 << 20;

/// One arena for all threads, and thresholds that do not grow by themselves. Call it before the
/// first thread starts.
pub(crate) fn configure_allocator() {
    let settings = [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD),
        (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD),
    ];
    for (parameter, value) in settings {
        // SAFETY: mallopt takes two integers and is called while there is only one thread.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Returns all free heap memory to the kernel.
pub(crate) fn give_back() {
    // SAFETY: malloc_trim may be called at any time, from any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Pins all pages of the agent, those to come included, so that no page of it has to be read from
/// a disk that a freeze has stopped.
pub(crate) fn lock() -> io::Result<()> {
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
}

/// Undoes [`lock`].
pub(crate) fn unlock() -> io::Result<()> {
    munlockall()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mallopt_parameters_are_those_of_malloc_h() {
        assert_eq!((libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD), (-1, -3));
        assert_eq!(libc::M_ARENA_MAX, -8);
        configure_allocator();
        give_back();
    }
}
