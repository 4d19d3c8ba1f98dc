//! Which filesystems a freeze is about.
//!
//! A stock agent compares the names of a freeze-list with its own list of mount points and
//! silently ignores what it does not find, so that a bind mount, a link or a trailing slash
//! freezes nothing and reports success. Here such a name is resolved to the filesystem that it
//! stands for, or refused.

use std::io;
use std::path::{Path, PathBuf};

use qga_proto::QgaError;
use rustix::fs::stat;

use super::mounts::{Mounts, Target};
use crate::errno;

/// The inode number of the root of every btrfs subvolume.
const SUBVOLUME_ROOT: u64 = 256;

/// What to freeze, in the order of freezing: the latest mount first, so that what lies on another
/// filesystem of the list is frozen before it. Without `names`, everything.
pub(super) fn choose(mounts: &Mounts, names: Option<&[String]>) -> Result<Vec<Target>, QgaError> {
    let mut targets = mounts.targets();
    targets.reverse();
    let Some(names) = names else { return Ok(targets) };
    let mut wanted = vec![false; targets.len()];
    for name in names {
        let mut found = false;
        for (target, wanted) in targets.iter().zip(&mut wanted) {
            if target.path == Path::new(name) {
                *wanted = true;
                found = true;
            }
        }
        if !found {
            wanted[resolve(mounts, &targets, name)?] = true;
        }
    }
    let mut wanted = wanted.into_iter();
    targets.retain(|_| wanted.next() == Some(true));
    Ok(targets)
}

/// The index of the target that `name` stands for. A directory that is no mount point stands for
/// nothing: whoever names `/data` where nothing is mounted does not mean the root filesystem.
fn resolve(mounts: &Mounts, targets: &[Target], name: &str) -> Result<usize, QgaError> {
    let refuse = |why: &str| QgaError::generic(format!("failed to freeze {name}: {why}"));
    let path = std::fs::canonicalize(name).map_err(|e| refuse(&errno::of(&e)))?;
    let holder = mounts.holder(&path).ok_or_else(|| refuse("it is not a mount point"))?;
    let names_filesystem =
        holder.path == path || (holder.fs_type == "btrfs" && is_subvolume(&path));
    if !names_filesystem {
        return Err(refuse("it is not a mount point"));
    }
    let Some(device) = holder.device else {
        return Err(refuse(&format!("its filesystem ({}) has no block device", holder.fs_type)));
    };
    // Each device of the table has a target.
    targets
        .iter()
        .position(|target| target.device == device)
        .ok_or_else(|| refuse("it is not a mount point"))
}

fn is_subvolume(path: &Path) -> bool {
    stat(path).is_ok_and(|stat| stat.st_ino == SUBVOLUME_ROOT)
}

/// The one of `targets` that the state directory lies on. It must not be frozen: the agent could
/// not take back its marker.
pub(crate) fn holding_state<'a>(
    mounts: &Mounts,
    targets: &'a [Target],
    state_dir: &Path,
) -> io::Result<Option<&'a Target>> {
    let path: PathBuf = std::fs::canonicalize(state_dir)?;
    let device = mounts.holder(&path).and_then(|mount| mount.device);
    Ok(targets.iter().find(|target| Some(target.device) == device))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts() -> Mounts {
        Mounts::parse(
            b"1 0 8:0 / / rw - ext4 /dev/sda rw\n\
              2 1 8:1 / /nonexistent/a rw - ext4 /dev/sdb rw\n\
              3 1 8:2 / /nonexistent/b rw - ext4 /dev/sdc rw\n",
            |_| None,
        )
    }

    fn chosen(names: Option<&[&str]>) -> Result<Vec<String>, String> {
        let names: Option<Vec<String>> =
            names.map(|names| names.iter().map(ToString::to_string).collect());
        choose(&mounts(), names.as_deref())
            .map(|targets| targets.iter().map(|t| t.path.display().to_string()).collect())
            .map_err(|error| error.desc)
    }

    #[test]
    fn everything_is_frozen_from_the_latest_mount_to_the_first() {
        assert_eq!(chosen(None).unwrap(), ["/nonexistent/b", "/nonexistent/a", "/"]);
    }

    #[test]
    fn a_list_picks_by_name_in_the_same_order_and_once() {
        let named = chosen(Some(&["/", "/nonexistent/b", "/"])).unwrap();
        assert_eq!(named, ["/nonexistent/b", "/"]);
        assert_eq!(chosen(Some(&[])).unwrap(), [""; 0]);
    }

    #[test]
    fn what_names_no_filesystem_is_refused() {
        let text = chosen(Some(&["/", "/nonexistent/c"])).unwrap_err();
        assert_eq!(text, "failed to freeze /nonexistent/c: No such file or directory");
        let mounts = Mounts::read().unwrap();
        let text = choose(&mounts, Some(&["/proc".to_owned()])).unwrap_err().desc;
        assert_eq!(text, "failed to freeze /proc: its filesystem (proc) has no block device");
        let text = choose(&mounts, Some(&["/proc/self/fd".to_owned()])).unwrap_err().desc;
        assert_eq!(text, "failed to freeze /proc/self/fd: it is not a mount point");
    }
}
