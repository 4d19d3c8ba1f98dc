//! Gives what the heap holds and nobody uses back to the kernel (`malloc_trim`, glibc).
//!
//! A crate of its own because it takes `unsafe`, which the gateway forbids itself. With any other C
//! library there is nothing to do: `malloc_trim` is glibc's.

#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "one function of the C library that no safe wrapper has")
)]

/// Returns the free pages of all of the heap's arenas to the kernel. It takes milliseconds for tens of
/// MiB, and an arena's users wait for their part of them.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn what_lies_free_between_what_is_used_is_given_back() {
        // Too small for a mapping of its own, and every other piece goes: nothing at the heap's end.
        const PIECE: usize = 32 << 10;
        let mut pieces: Vec<Vec<u8>> = (0..2048).map(|_| vec![1; PIECE]).collect();
        let mut keep = false;
        pieces.retain(|_| {
            keep = !keep;
            keep
        });
        let before = resident_pages();
        super::give_back();
        let freed = before.saturating_sub(resident_pages());
        assert!(freed > 4096, "{freed} pages of {before}");
        assert!(pieces.iter().all(|piece| piece[0] == 1), "what is used stays");
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn resident_pages() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse().unwrap()
    }
}
