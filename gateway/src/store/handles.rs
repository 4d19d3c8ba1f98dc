//! Which files of transfers are open in guests, for a gateway that is started after one that was killed.
//!
//! Every opening and closing is a line, written by a thread of its own and never synced: the kernel has
//! what a killed process wrote, and a host that crashes takes its guests along.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StateDir;
use crate::vm::{Incarnation, VmId};

/// Lines that wait for a slow disk. One more is not kept: at worst a handle stays open.
const MOST_WAITING: usize = 4096;

/// Bytes after which the file is written anew, with what is open only.
const MOST_BYTES: u64 = 256 << 10;

/// The most that is read of it.
const MOST_READ: u64 = 16 << 20;

/// Keeps the list. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct HandleLog(SyncSender<Message>);

/// A file that the gateway before this one had open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOpen {
    pub(crate) vm: VmId,
    pub(crate) handle: i64,
    /// What was behind the VM's socket.
    pub(crate) process: Incarnation,
}

#[derive(Debug)]
enum Message {
    Line(Line),
    /// Told when all lines before are written.
    Flush(SyncSender<()>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    vm: VmId,
    handle: i64,
    /// Absent: it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Incarnation>,
}

impl HandleLog {
    /// Goes on with the list in this directory; and what was open.
    pub(crate) fn load(dir: &StateDir) -> (Self, Vec<LeftOpen>) {
        let list = List::load(dir.path().join("handles"));
        let left = list.open.iter().map(|((vm, handle), process)| LeftOpen {
            vm: vm.clone(),
            handle: *handle,
            process: *process,
        });
        let left = left.collect();
        let (sender, messages) = sync_channel(MOST_WAITING);
        // Without a thread nothing is kept, and everything else goes on.
        let thread = std::thread::Builder::new().name("handles".into());
        if let Err(error) = thread.spawn(move || list.keep(&messages)) {
            tracing::warn!("no thread for the list of open handles: {error}");
        }
        (Self(sender), left)
    }

    pub(crate) fn opened(&self, vm: &VmId, handle: i64, process: Incarnation) {
        self.send(Line { vm: vm.clone(), handle, process: Some(process) });
    }

    pub(crate) fn closed(&self, vm: &VmId, handle: i64) {
        self.send(Line { vm: vm.clone(), handle, process: None });
    }

    fn send(&self, line: Line) {
        if self.0.try_send(Message::Line(line)).is_err() {
            tracing::debug!("the list of open handles does not keep up");
        }
    }

    /// Waits until all is written, for so long at most.
    pub(crate) fn flush(&self, patience: Duration) {
        let (told, written) = sync_channel(1);
        if self.0.try_send(Message::Flush(told)).is_ok() {
            let _ = written.recv_timeout(patience);
        }
    }
}

/// The file, and what it says.
struct List {
    path: PathBuf,
    open: BTreeMap<(VmId, i64), Incarnation>,
    /// Absent when it is to be written anew.
    file: Option<File>,
    bytes: u64,
    /// An error has been told.
    failing: bool,
}

impl List {
    /// What cannot be read is left out: at worst a handle stays open.
    fn load(path: PathBuf) -> Self {
        let mut list = Self { path, open: BTreeMap::new(), file: None, bytes: 0, failing: false };
        let mut text = Vec::new();
        match File::open(&list.path).and_then(|file| file.take(MOST_READ).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => list.failed(&error),
        }
        for line in text.split(|&byte| byte == b'\n') {
            if let Ok(line) = serde_json::from_slice(line) {
                list.note(&line);
            }
        }
        list
    }

    fn note(&mut self, line: &Line) {
        let key = (line.vm.clone(), line.handle);
        match line.process {
            Some(process) => self.open.insert(key, process),
            None => self.open.remove(&key),
        };
    }

    fn keep(mut self, messages: &Receiver<Message>) {
        for message in messages {
            match message {
                Message::Line(line) => {
                    self.note(&line);
                    match self.write(&line) {
                        Ok(()) => self.failing = false,
                        Err(error) => self.failed(&error),
                    }
                }
                // Who has stopped waiting needs no word.
                Message::Flush(told) => drop(told.try_send(())),
            }
        }
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let Some(mut file) = self.file.take().filter(|_| self.bytes < MOST_BYTES) else {
            return self.write_anew();
        };
        let text = text(line)?;
        file.write_all(&text)?;
        self.bytes += text.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    /// What is open, and nothing else. Where much is, the next time comes so much later.
    fn write_anew(&mut self) -> io::Result<()> {
        let mut all = Vec::new();
        for ((vm, handle), process) in &self.open {
            let line = Line { vm: vm.clone(), handle: *handle, process: Some(*process) };
            all.extend(text(&line)?);
        }
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.write_all(&all)?;
        fs::rename(&new, &self.path)?;
        self.file = Some(file);
        self.bytes = 0;
        Ok(())
    }

    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            let path: &Path = &self.path;
            tracing::warn!(
                "{}: {error}; should the gateway be killed now, files of transfers stay open in guests",
                path.display()
            );
        }
    }
}

fn text(line: &Line) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    const QEMU: Incarnation = Incarnation { pid: 7, start_time: 8 };

    fn vm(name: &str) -> VmId {
        name.parse().unwrap()
    }

    #[test]
    fn what_is_open_is_found_and_what_is_closed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let (log, left) = HandleLog::load(&state);
        assert!(left.is_empty());
        log.opened(&vm("a"), 1000, QEMU);
        log.opened(&vm("a"), 1001, QEMU);
        log.opened(&vm("b"), 1000, QEMU);
        log.closed(&vm("a"), 1000);
        log.flush(SOON);
        let left = |(_, left): (HandleLog, Vec<LeftOpen>)| {
            left.into_iter().map(|left| (left.vm.to_string(), left.handle)).collect::<Vec<_>>()
        };
        assert_eq!(left(HandleLog::load(&state)), [("a".into(), 1001), ("b".into(), 1000)]);
        // A line that was not written to its end, and one of somebody else's.
        let path = dir.path().join("handles");
        let mut text = fs::read(&path).unwrap();
        text.extend(b"{\"x\":1}\n{\"vm\":\"c\",\"handle\":3,\"process\":{\"pid\":1,");
        fs::write(&path, text).unwrap();
        let (log, _) = HandleLog::load(&state);
        log.closed(&vm("b"), 1000);
        log.flush(SOON);
        assert_eq!(left(HandleLog::load(&state)), [("a".into(), 1001)]);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1, "it is written anew");
    }

    #[test]
    fn it_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let mut list = List::load(dir.path().join("handles"));
        for handle in 0..20_000 {
            for process in [Some(QEMU), None] {
                let line = Line { vm: vm("a"), handle, process };
                list.note(&line);
                list.write(&line).unwrap();
            }
        }
        assert!(list.bytes <= MOST_BYTES + 100 && list.open.is_empty());
        assert!(fs::metadata(&list.path).unwrap().len() <= MOST_BYTES + 100);
        fs::remove_dir_all(dir.path()).unwrap();
        let line = Line { vm: vm("a"), handle: 1, process: Some(QEMU) };
        list.file = None;
        assert!(list.write(&line).is_err());
        fs::create_dir(dir.path()).unwrap();
        assert!(list.write(&line).is_ok(), "it is tried again");
    }
}
