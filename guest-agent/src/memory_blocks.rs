//! Blocks of memory that can be taken on- and offline.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use qga_proto::command::{MemoryBlock, MemoryBlockResponse, MemoryBlockResult};

use crate::{bounded, errno};

/// Where the kernel has one directory per block, if it has memory hotplug.
pub(crate) const BLOCKS: &str = "/sys/devices/system/memory";

/// Bytes that the files of a block may have; they hold a word.
const WORD: u64 = 64;

/// All blocks, by number; none without memory hotplug. `root` is [`BLOCKS`] outside of tests.
pub(crate) fn list(root: &Path) -> Result<Vec<MemoryBlock>, String> {
    let failed = |e: io::Error| {
        format!("failed to read memory blocks in '{}': {}", root.display(), errno::of(&e))
    };
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut blocks = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some(phys_index) = entry.file_name().to_str().and_then(number) else { continue };
        let (online, can_offline) = match bounded::read(entry.path().join("state"), WORD) {
            Ok(state) => (is_online(&state), is_removable(&entry.path()).map_err(failed)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if !entry.path().exists() {
                    continue;
                }
                (true, false)
            }
            Err(e) => return Err(failed(e)),
        };
        blocks.push(MemoryBlock { phys_index, online, can_offline: Some(can_offline) });
    }
    if blocks.is_empty() {
        return Err("guest reported zero memory blocks!".into());
    }
    blocks.sort_unstable_by_key(|block| block.phys_index);
    Ok(blocks)
}

/// Takes one block on- or offline; one that is so already is a success.
pub(crate) fn set(root: &Path, phys_index: u64, online: bool) -> MemoryBlockResponse {
    let directory = root.join(format!("memory{phys_index}"));
    let (response, error) = match std::fs::metadata(&directory) {
        Ok(_) => change(&directory.join("state"), online),
        Err(e) if e.kind() == io::ErrorKind::NotFound => (MemoryBlockResult::NotFound, Some(e)),
        Err(e) => (MemoryBlockResult::OperationFailed, Some(e)),
    };
    let error_code = error.as_ref().and_then(io::Error::raw_os_error).map(i64::from);
    MemoryBlockResponse { phys_index, response, error_code }
}

fn change(path: &Path, online: bool) -> (MemoryBlockResult, Option<io::Error>) {
    let state = match bounded::read(path, WORD) {
        Ok(state) => state,
        // Kernels that do not say cannot do it either: what there is, is online.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return if online {
                (MemoryBlockResult::Success, None)
            } else {
                (MemoryBlockResult::OperationNotSupported, Some(e))
            };
        }
        Err(e) => return (MemoryBlockResult::OperationFailed, Some(e)),
    };
    if is_online(&state) == online {
        return (MemoryBlockResult::Success, None);
    }
    let word: &[u8] = if online { b"online" } else { b"offline" };
    let file = OpenOptions::new().write(true).open(path);
    match file.and_then(|file| file.write_all_at(word, 0)) {
        Ok(()) => (MemoryBlockResult::Success, None),
        Err(e) => (MemoryBlockResult::OperationFailed, Some(e)),
    }
}

/// `going-offline` counts as offline.
fn is_online(state: &[u8]) -> bool {
    state.starts_with(b"online")
}

fn is_removable(block: &Path) -> io::Result<bool> {
    match bounded::read(block.join("removable"), WORD) {
        Ok(text) => Ok(text.first() != Some(&b'0')),
        // Kernels without memory offlining.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("memory")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The size of every block in bytes, from the hexadecimal text of `block_size_bytes`.
pub(crate) fn size(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    // `from_str_radix` takes a sign.
    digits
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let blocks = [("memory0", "online\n", "0\n"), ("memory12", "offline\n", "1\n")];
        for (name, state, removable) in blocks {
            let block = dir.path().join(name);
            std::fs::create_dir(&block).unwrap();
            std::fs::write(block.join("state"), state).unwrap();
            std::fs::write(block.join("removable"), removable).unwrap();
        }
        std::fs::create_dir(dir.path().join("memory3")).unwrap();
        std::fs::write(dir.path().join("block_size_bytes"), "8000000\n").unwrap();
        dir
    }

    #[test]
    fn blocks_are_listed_by_number() {
        let dir = machine();
        let found: Vec<_> = list(dir.path())
            .unwrap()
            .into_iter()
            .map(|found| (found.phys_index, found.online, found.can_offline.unwrap()))
            .collect();
        assert_eq!(found, [(0, true, false), (3, true, false), (12, false, true)]);
        assert_eq!(list(Path::new("/nonexistent")), Ok(Vec::new()));
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(list(empty.path()).unwrap_err(), "guest reported zero memory blocks!");
    }

    #[test]
    fn each_block_has_its_result() {
        let dir = machine();
        let set = |index, online| {
            let found = set(dir.path(), index, online);
            assert_eq!(found.phys_index, index);
            (found.response, found.error_code)
        };
        assert_eq!(set(0, true), (MemoryBlockResult::Success, None));
        assert_eq!(set(12, true), (MemoryBlockResult::Success, None));
        assert_eq!(set(0, false), (MemoryBlockResult::Success, None));
        assert_eq!(set(99, true), (MemoryBlockResult::NotFound, Some(2)));
        assert_eq!(set(3, false), (MemoryBlockResult::OperationNotSupported, Some(2)));
        assert_eq!(set(3, true), (MemoryBlockResult::Success, None));
        let state = |name: &str| std::fs::read(dir.path().join(name).join("state")).unwrap();
        assert!(state("memory12").starts_with(b"online"));
        assert!(state("memory0").starts_with(b"offline"));
    }

    #[test]
    fn sizes_are_hexadecimal() {
        assert_eq!(size(b"8000000\n"), Some(128 << 20));
        assert_eq!(size(b"0x10"), Some(16));
        for bad in [&b""[..], b"-1", b"+1", b"zz", b"11111111111111111"] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
        fuzz("block-size", |bytes| {
            let _ = size(bytes);
        });
    }
}
