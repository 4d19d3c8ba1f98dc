//! Names that uploads have meanwhile, on record in the state directory, so that whatever ends the
//! agent, what it leaves is removed: by itself at its end, or by the next one.
//!
//! A record is a file of its own, `qga.upload.TAG`, with the path in it; so each one can be dealt
//! with apart from the others. It is there before the name is.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use crate::sys::threads;
use crate::{errno, log};

/// What the names of records begin with.
const RECORD: &str = "qga.upload.";
/// How long the agent's end may take for it.
const LAST_SWEEP: Duration = Duration::from_secs(1);
/// A thread that removes a file needs little.
const STACK: usize = 64 << 10;

/// The records.
#[derive(Clone, Debug)]
pub(crate) struct Leftovers {
    dir: PathBuf,
}

impl Leftovers {
    /// Those in the state directory `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Records that `path` is to be removed, which ends in `.qga-TAG`.
    pub(super) fn note(&self, tag: &str, path: &Path) -> io::Result<()> {
        std::fs::write(self.record(tag), path.as_os_str().as_bytes())
    }

    /// It is gone, or has its own name.
    pub(super) fn forget(&self, tag: &str) {
        let _ = std::fs::remove_file(self.record(tag));
    }

    /// Removes all that is on record, on a thread of its own, since a filesystem may hang. The
    /// receiver is disconnected when it has ended.
    pub(crate) fn sweep(&self) -> Option<Receiver<()>> {
        let tag = |name: &OsStr| name.to_str()?.strip_prefix(RECORD).map(str::to_owned);
        let entries = std::fs::read_dir(&self.dir).ok()?.flatten();
        let tags: Vec<_> = entries.filter_map(|entry| tag(&entry.file_name())).collect();
        if tags.is_empty() {
            return None;
        }
        let (end, ended) = sync_channel(0);
        let records = self.clone();
        let thread = std::thread::Builder::new().name("sweep".into()).stack_size(STACK);
        let started = thread.spawn(move || {
            // As in the workers: it may be left behind.
            let _ = threads::leave_descriptors();
            tags.iter().for_each(|tag| records.remove(tag));
            drop::<std::sync::mpsc::SyncSender<()>>(end);
        });
        started.ok().map(|_| ended)
    }

    /// The same at the agent's end, which waits for it a little.
    pub(crate) fn sweep_at_last(&self) {
        if let Some(ended) = self.sweep() {
            let _ = ended.recv_timeout(LAST_SWEEP);
        }
    }

    fn remove(&self, tag: &str) {
        let Ok(path) = std::fs::read(self.record(tag)) else { return };
        // Nothing else is ever removed, whatever a record says.
        let is_ours = path.ends_with(format!(".qga-{tag}").as_bytes());
        let path = Path::new(OsStr::from_bytes(&path));
        if is_ours
            && let Err(e) = std::fs::remove_file(path)
            && e.kind() != io::ErrorKind::NotFound
        {
            let (path, e) = (path.display(), errno::of(&e));
            log::warning(format_args!("failed to remove an upload's remains, {path}: {e}"));
            return;
        }
        self.forget(tag);
    }

    fn record(&self, tag: &str) -> PathBuf {
        self.dir.join(format!("{RECORD}{tag}"))
    }
}
