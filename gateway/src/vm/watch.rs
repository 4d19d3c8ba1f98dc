//! Watches directories for sockets that come and go.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// What changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Paths that appeared, went, or had their permissions changed.
    pub(super) paths: Vec<PathBuf>,
    /// More changed than was told, or a directory went: look at everything.
    pub(super) everything: bool,
}

/// Watched directories.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: AsyncFd<OwnedFd>,
    by_descriptor: HashMap<i32, PathBuf>,
    by_path: HashMap<PathBuf, i32>,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "an OwnedFd keeps what the unsafe `register` demands")]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Self { inotify, by_descriptor: HashMap::new(), by_path: HashMap::new() })
    }

    /// Watches a directory. It must exist. Watching it again mends a watch whose directory was
    /// replaced.
    pub(super) fn add(&mut self, directory: &Path) -> io::Result<()> {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let descriptor = inotify::add_watch(&self.inotify, directory, flags)?;
        if self.by_path.get(directory) != Some(&descriptor) {
            if let Some(old) = self.by_path.insert(directory.into(), descriptor) {
                self.by_descriptor.remove(&old);
            }
            // One directory under two names has one watch; the names share their events.
            self.by_descriptor.insert(descriptor, directory.into());
        }
        Ok(())
    }

    /// Forgets every directory that `keep` does not name.
    pub(super) fn retain(&mut self, keep: impl Fn(&Path) -> bool) {
        let inotify = &self.inotify;
        let by_descriptor = &mut self.by_descriptor;
        self.by_path.retain(|path, descriptor| {
            let kept = keep(path);
            if !kept && by_descriptor.get(descriptor) == Some(path) {
                by_descriptor.remove(descriptor);
                // It fails for a directory that is gone, whose watch went with it.
                let _ = inotify::remove_watch(inotify, *descriptor);
            }
            kept
        });
    }

    /// Waits until something changed, and takes all that has.
    pub(super) async fn changed(&mut self) -> io::Result<Changes> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut changes = Changes::default();
            let mut buffer = [MaybeUninit::uninit(); 8192];
            let mut reader = inotify::Reader::new(ready.get_inner(), &mut buffer);
            let end = loop {
                match reader.next() {
                    Ok(event) => note(&mut changes, &self.by_descriptor, &event),
                    Err(errno) => break errno,
                }
            };
            if end != rustix::io::Errno::AGAIN {
                return Err(end.into());
            }
            ready.clear_ready();
            if changes != Changes::default() {
                return Ok(changes);
            }
        }
    }
}

fn note(changes: &mut Changes, names: &HashMap<i32, PathBuf>, event: &inotify::Event<'_>) {
    let broken = ReadFlags::QUEUE_OVERFLOW
        | ReadFlags::DELETE_SELF
        | ReadFlags::MOVE_SELF
        | ReadFlags::UNMOUNT;
    if event.events().intersects(broken) {
        changes.everything = true;
    } else if let (Some(directory), Some(name)) = (names.get(&event.wd()), event.file_name()) {
        changes.paths.push(directory.join(OsStr::from_bytes(name.to_bytes())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_what_comes_and_goes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut watch = Watch::new().expect("inotify");
        watch.add(dir.path()).expect("watch");
        let path = dir.path().join("s");
        std::fs::write(&path, "").expect("write");
        assert_eq!(watch.changed().await.expect("read").paths, std::slice::from_ref(&path));
        std::fs::remove_file(&path).expect("remove");
        assert_eq!(watch.changed().await.expect("read").paths, [path]);

        let below = dir.path().join("below");
        std::fs::create_dir(&below).expect("mkdir");
        watch.add(&below).expect("watch");
        watch.changed().await.expect("read");
        std::fs::remove_dir(&below).expect("rmdir");
        assert!(watch.changed().await.expect("read").everything);
        assert!(watch.add(&below).is_err());
    }

    #[tokio::test]
    async fn a_directory_that_is_not_kept_is_silent() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        let mut watch = Watch::new().expect("inotify");
        for dir in [&one, &two] {
            std::fs::create_dir(dir).expect("mkdir");
            watch.add(dir).expect("watch");
        }
        watch.retain(|path| path == two);
        std::fs::write(one.join("x"), "").expect("write");
        std::fs::write(two.join("y"), "").expect("write");
        assert_eq!(watch.changed().await.expect("read").paths, [two.join("y")]);
    }
}
