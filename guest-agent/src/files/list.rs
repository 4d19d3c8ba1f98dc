//! A page of a directory, in an order that does not change while entries come and go.
//!
//! A directory is read through for each page, and only the names of the page are kept: a million
//! entries cost time, and no memory.

use std::collections::BinaryHeap;
use std::ffi::CString;
use std::os::fd::OwnedFd;

use qga_proto::base64::Base64;
use qga_proto::command::{DirectoryEntry, FileList};
use rustix::fs::{AtFlags, RawDir, statat};
use rustix::io::Errno;

use super::place::target;
use super::stat::describe;

/// Entries of a page.
pub(super) const MAX_ENTRIES: usize = 1000;
/// Bytes of names and links after which a page ends early. On the wire they may be six times as
/// many.
const MAX_BYTES: usize = 256 << 10;
/// What is read of a directory at once.
const BUFFER: usize = 32 << 10;

/// At most `limit` entries whose names come behind `after`.
pub(super) fn list(dir: &OwnedFd, after: &[u8], limit: usize) -> Result<FileList, Errno> {
    let mut names = first_names(dir, after, limit + 1)?.into_iter().peekable();
    let mut page = FileList::default();
    let mut bytes = 0;
    while page.entries.len() < limit
        && bytes < MAX_BYTES
        && let Some(name) = names.next()
    {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = statat(dir, &name, flags).ok();
        let stat = stat.map(|stat| describe(&stat, target(dir, &name, &stat)));
        let target = stat.as_ref().and_then(|stat| stat.target.as_deref());
        bytes += name.count_bytes() + target.map_or(0, str::len);
        let lossy = name.to_string_lossy().into_owned();
        let is_utf8 = name.to_str().is_ok();
        let name = name.into_bytes();
        page.next = names.peek().map(|_| Base64(name.clone()));
        let name_b64 = (!is_utf8).then_some(Base64(name));
        page.entries.push(DirectoryEntry { name: lossy, name_b64, stat });
    }
    Ok(page)
}

/// The first `count` names behind `after`, sorted.
fn first_names(dir: &OwnedFd, after: &[u8], count: usize) -> Result<Vec<CString>, Errno> {
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut kept: BinaryHeap<CString> = BinaryHeap::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || name.to_bytes() <= after {
            continue;
        }
        if kept.len() == count {
            if kept.peek().is_some_and(|last| name >= last.as_c_str()) {
                continue;
            }
            kept.pop();
        }
        kept.push(name.to_owned());
    }
    Ok(kept.into_sorted_vec())
}
