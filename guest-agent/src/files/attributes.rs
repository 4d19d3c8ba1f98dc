//! Owner, mode, access list and label of a file that is put in another's place.

use std::os::fd::OwnedFd;

use qga_proto::QgaError;
use qga_proto::command::XFileCommit;
use rustix::fs::{
    Gid, Mode, OFlags, Stat, Uid, XattrFlags, fchmod, fchown, fremovexattr, fsetxattr, fstat,
    getxattr, openat,
};
use rustix::io::Errno;

use super::failure::Failure;
use super::place::{Place, proc_path};

/// What a client wants; what it does not say stays as it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

const ACCESS_LIST: &str = "system.posix_acl_access";
const LABEL: &str = "security.selinux";
/// What the kernel takes for one.
const MAX_ATTRIBUTE: usize = 64 << 10;

impl Attributes {
    pub(crate) fn read(wanted: &XFileCommit) -> Result<Self, QgaError> {
        Ok(Self {
            mode: number("mode", wanted.mode, MAX_MODE)?,
            // The largest number means "no change" to the kernel.
            uid: number("uid", wanted.uid, u32::MAX - 1)?,
            gid: number("gid", wanted.gid, u32::MAX - 1)?,
        })
    }

    /// Gives them to `file`, which is to replace `old` at `place`.
    pub(super) fn give(
        self,
        file: &OwnedFd,
        place: &Place,
        old: Option<&Stat>,
        umask: Mode,
    ) -> Result<(), Failure> {
        let now = fstat(file)?;
        let (old_uid, old_gid) = old.map(|old| (old.st_uid, old.st_gid)).unzip();
        let uid = self.uid.or(old_uid).filter(|&uid| uid != now.st_uid);
        let gid = self.gid.or(old_gid).filter(|&gid| gid != now.st_gid);
        if uid.is_some() || gid.is_some() {
            fchown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
        }
        if old.is_some() {
            keep_access(file, place)?;
        }
        // After the owner, because a change of that takes set-user-id away.
        let mode = match (self.mode, old) {
            (Some(mode), _) => Mode::from_raw_mode(mode),
            (None, Some(old)) => Mode::from_raw_mode(old.st_mode & 0o777),
            (None, None) => Mode::from_raw_mode(0o666) & !umask,
        };
        Ok(fchmod(file, mode)?)
    }
}

/// All permission bits.
pub(crate) const MAX_MODE: u32 = 0o7777;

/// A number of a client's that may be absent.
pub(crate) fn number(name: &str, value: Option<i64>, max: u32) -> Result<Option<u32>, QgaError> {
    let Some(value) = value else { return Ok(None) };
    u32::try_from(value).ok().filter(|&number| number <= max).map(Some).ok_or_else(|| {
        let text = format!("value '{value}' is invalid for argument {name}");
        QgaError::generic(text).with_errno("EINVAL")
    })
}

/// The access list and label of what stands at `place`. Without its list a file is open to others
/// than its mode says, and with one that it has from its directory too.
fn keep_access(file: &OwnedFd, place: &Place) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let old = match openat(&place.dir, &place.name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        old => old?,
    };
    match attribute(&old, ACCESS_LIST)? {
        Some(list) => fsetxattr(file, ACCESS_LIST, &list, XattrFlags::empty())?,
        // It has none, or the filesystem knows of none.
        None => drop(fremovexattr(file, ACCESS_LIST)),
    }
    if let Some(label) = attribute(&old, LABEL)? {
        // Whether it may be given is the system's policy's to say; then the file has the one that
        // new files get there.
        let _ = fsetxattr(file, LABEL, &label, XattrFlags::empty());
    }
    Ok(())
}

fn attribute(file: &OwnedFd, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; MAX_ATTRIBUTE];
    match getxattr(proc_path(file), name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(errno) => Err(errno),
    }
}
