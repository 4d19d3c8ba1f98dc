//! What the C library's allocator keeps, and what the kernel may take away.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr;

use rustix::io;
use rustix::mm::{Advice, MlockAllFlags, madvise, mlockall, munlockall};
use rustix::param::page_size;

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

/// Returns all free heap memory to the kernel, and takes the program's own pages out of this
/// process: of its two megabytes, a start or a transfer touches far more than an idle agent. What
/// is needed again comes back from the page cache.
pub(crate) fn give_back() {
    // SAFETY: malloc_trim may be called at any time, from any thread.
    unsafe { libc::malloc_trim(0) };
    for range in constant_pages() {
        let start = ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: these pages are mapped from the program's file and cannot be written to, so that
        // each is the same again when it is touched next, by whatever thread.
        //
        // It fails while the pages are locked, which is what locking them is for.
        let _ = unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) };
    }
}

/// Where the program's code and constants are mapped: the whole pages of each segment that is not
/// writable. There may be something else between two of them.
fn constant_pages() -> Vec<Range<usize>> {
    /// Called for each object that is loaded; a static program is the only one.
    unsafe extern "C" fn note(
        object: *mut libc::dl_phdr_info,
        _: libc::size_t,
        ranges: *mut c_void,
    ) -> libc::c_int {
        // SAFETY: the C library lends both for the call, the latter as it was given below.
        let (object, ranges) = unsafe { (&*object, &mut *ranges.cast::<Vec<Range<usize>>>()) };
        // SAFETY: so many headers stand there, as long as the object is loaded.
        let headers =
            unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
        let page = page_size() as u64;
        for header in headers {
            if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
                let start = object.dlpi_addr + header.p_vaddr;
                let whole = start.next_multiple_of(page)..(start + header.p_memsz) & !(page - 1);
                // Addresses in memory fit into usize.
                ranges.extend(
                    usize::try_from(whole.start)
                        .ok()
                        .zip(usize::try_from(whole.end).ok())
                        .map(|(start, end)| start..end),
                );
            }
        }
        // Not zero: no other object.
        1
    }
    let mut ranges = Vec::new();
    // SAFETY: the callback gets the vector that outlives the call, and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut ranges).cast()) };
    ranges
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

    #[test]
    fn what_is_taken_out_is_mapped_from_the_program_and_read_only() {
        let program = std::env::current_exe().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ranges = constant_pages();
        assert!(ranges.iter().map(Range::len).sum::<usize>() > 100_000);
        for range in ranges {
            let line = maps.lines().find(|line| {
                let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
                let number = |text| usize::from_str_radix(text, 16).unwrap();
                number(from) <= range.start && range.end <= number(to)
            });
            let line = line.unwrap();
            assert!(line.contains(" r-") && line.ends_with(program.to_str().unwrap()), "{line}");
        }
        give_back();
    }
}
