//! The files of a simulated guest, and what its agent answers about them.

use std::collections::{BTreeMap, HashMap};

use qga_proto::base64::Base64;
use qga_proto::command::{
    AgentCommand, AgentInfo, COMMANDS, CommandInfo, CreatedFile, DirectoryEntry, Expected,
    FileKind, FileList, FileReadBuilder, FileSeek, FileStat, FileSync, FileWrite, GuestFileClose,
    GuestFileOpen, GuestFileRead, GuestFileSeek, GuestFileWrite, GuestSync, OpenFile, XFileCommit,
    XFileCreate, XFileList, XFileMkdir, XFileOpen, XFileRemove, XFileRename, XFileStat, XFileSync,
};
use qga_proto::{Outcome, QgaError, Request};
use serde_json::Value;

use super::FileAgent;

/// What there is, and what is to go wrong.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    extended: bool,
    /// An agent with extensions of the time before `beneath`.
    pub(crate) older: bool,
    /// What each extension was to stay beneath.
    pub(crate) beneath: Vec<(&'static str, Value)>,
    pub(crate) frozen: bool,
    names: BTreeMap<Vec<u8>, u64>,
    files: HashMap<u64, File>,
    handles: HashMap<i64, Handle>,
    next: u64,
    /// Bytes that may still be written; no bound if absent.
    pub(crate) room: Option<usize>,
    /// Bytes that may still be sent before the connection is cut.
    pub(crate) cut_after: Option<usize>,
    /// The most bytes of an answer's content that is sent at once; short reads.
    pub(crate) short: Option<usize>,
    /// All that ran, with what was running before it was answered; syncs left out.
    pub(crate) ran: Vec<&'static str>,
    /// Bytes that were read from each handle, in order.
    pub(crate) turns: Vec<i64>,
    /// What is uploaded is not on disk yet.
    pub(crate) writing: bool,
    /// Bytes of files that were read and written.
    pub(crate) moved: usize,
    /// Bytes that were moved when each ping arrived, and when it was answered.
    pub(crate) pings: Vec<[usize; 2]>,
}

#[derive(Clone, Debug)]
struct File {
    kind: FileKind,
    data: Vec<u8>,
    /// What `stat` says, where it is not so.
    says: Option<u64>,
    denied: bool,
    mode: u32,
    uid: u32,
    mtime_ns: i64,
}

#[derive(Clone, Debug)]
struct Handle {
    file: u64,
    at: usize,
    /// For a file without a name: what it will be called.
    target: Option<Vec<u8>>,
}

fn error(errno: &str, text: &str) -> QgaError {
    QgaError::generic(text).with_errno(errno)
}

impl FileAgent {
    pub(crate) fn put(&self, path: &str, data: &[u8]) {
        self.put_kind(path, FileKind::File, data);
    }

    pub(crate) fn put_kind(&self, path: &str, kind: FileKind, data: &[u8]) {
        self.disk().put(path.as_bytes(), kind, data);
    }

    /// A file whose size is told wrong.
    pub(crate) fn put_lying(&self, path: &str, data: &[u8], says: u64) {
        let mut disk = self.disk();
        let number = disk.put(path.as_bytes(), FileKind::File, data);
        disk.files.get_mut(&number).unwrap().says = Some(says);
    }

    pub(crate) fn deny(&self, path: &str) {
        let mut disk = self.disk();
        let number = disk.put(path.as_bytes(), FileKind::File, b"secret");
        disk.files.get_mut(&number).unwrap().denied = true;
    }

    pub(crate) fn content(&self, path: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        Some(disk.files[disk.names.get(path.as_bytes())?].data.clone())
    }

    /// Mode and owner.
    pub(crate) fn meta(&self, path: &str) -> (u32, u32) {
        let disk = self.disk();
        let file = &disk.files[&disk.names[path.as_bytes()]];
        (file.mode, file.uid)
    }

    /// Handles that are open.
    pub(crate) fn open(&self) -> usize {
        self.disk().handles.len()
    }

    /// Their numbers.
    pub(crate) fn handles(&self) -> Vec<i64> {
        let mut handles: Vec<_> = self.disk().handles.keys().copied().collect();
        handles.sort_unstable();
        handles
    }
}

impl Disk {
    pub(super) fn new(extended: bool) -> Self {
        Self { extended, next: 1000, ..Self::default() }
    }

    fn put(&mut self, path: &[u8], kind: FileKind, data: &[u8]) -> u64 {
        self.next += 1;
        let number = self.next;
        let mtime_ns = 1_700_000_000_000_000_000 + i64::try_from(number).unwrap();
        let (says, data) = (None, data.to_vec());
        let file = File { kind, data, says, denied: false, mode: 0o640, uid: 7, mtime_ns };
        self.files.insert(number, file);
        self.names.insert(path.into(), number);
        number
    }

    pub(crate) fn forget_handles(&mut self) {
        self.handles.clear();
    }

    pub(super) fn run(&mut self, info: &CommandInfo, request: &Request) -> Outcome {
        if !info.is_sync() {
            self.ran.push(info.name);
        }
        if info.name == "guest-ping" {
            let waiting = self.pings.iter_mut().find(|[_, answered]| *answered == usize::MAX);
            waiting.expect("it has arrived")[1] = self.moved;
        }
        if self.frozen && !info.allowed_while_frozen {
            return Outcome::Error(QgaError::disabled(info.name));
        }
        if info.name.starts_with("x-guest-file-") {
            self.beneath.push((info.name, beneath(info.name, request)));
        }
        let done = self.answer(info.name, request);
        // Only extensions and their handles tell it.
        done.unwrap_or_else(|mut error| {
            if !self.extended {
                error.errno = None;
            }
            Outcome::Error(error)
        })
    }

    fn answer(&mut self, name: &str, request: &Request) -> Result<Outcome, QgaError> {
        let value = match name {
            "guest-sync" | "guest-sync-delimited" => {
                Outcome::value(&request.arguments::<GuestSync>()?.id)
            }
            "guest-info" => Outcome::value(&self.info()),
            "guest-fsfreeze-status" => {
                Outcome::value(if self.frozen { "frozen" } else { "thawed" })
            }
            "guest-fsfreeze-freeze" => {
                self.frozen = true;
                Outcome::value(&1)
            }
            "guest-fsfreeze-thaw" => Outcome::value(&i64::from(std::mem::take(&mut self.frozen))),
            "guest-file-open" => Outcome::value(&self.open(&request.arguments()?)?),
            "guest-file-close" => {
                let GuestFileClose { handle } = request.arguments()?;
                self.handle(handle)?;
                self.handles.remove(&handle);
                Outcome::empty()
            }
            "guest-file-read" => self.read(&request.arguments()?)?,
            "guest-file-write" => {
                let GuestFileWrite { handle, buf_b64, .. } = request.arguments()?;
                Outcome::value(&self.write(handle, &buf_b64.decode()?)?)
            }
            "guest-file-seek" => Outcome::value(&self.seek(&request.arguments()?)?),
            "x-guest-file-open" => Outcome::value(&self.x_open(request.arguments()?)?),
            "x-guest-file-stat" => Outcome::value(&{
                let XFileStat { path, path_b64, .. } = request.arguments()?;
                self.stat(self.find(&bytes(path, path_b64))?)
            }),
            "x-guest-file-create" => Outcome::value(&{
                let XFileCreate { path, path_b64, .. } = request.arguments()?;
                self.create(bytes(path, path_b64))?
            }),
            "x-guest-file-sync" => {
                let XFileSync { handle } = request.arguments()?;
                self.handle(handle)?;
                Outcome::value(&FileSync { done: !self.writing })
            }
            "x-guest-file-commit" => Outcome::value(&self.commit(&request.arguments()?)?),
            "x-guest-file-list" => Outcome::value(&self.list(request.arguments()?)),
            "x-guest-file-mkdir" => {
                let XFileMkdir { path, path_b64, .. } = request.arguments()?;
                let path = bytes(path, path_b64);
                if self.names.contains_key(&path) {
                    return Err(error("EEXIST", "File exists"));
                }
                self.put(&path, FileKind::Directory, b"");
                Outcome::empty()
            }
            "x-guest-file-rename" => {
                let XFileRename { path, path_b64, to, to_b64, replace, .. } =
                    request.arguments()?;
                let (path, to) = (bytes(path, path_b64), bytes(to, to_b64));
                let number = self.find(&path)?;
                if self.names.contains_key(&to) && replace != Some(true) {
                    return Err(error("EEXIST", "File exists"));
                }
                self.names.remove(&path);
                self.names.insert(to, number);
                Outcome::empty()
            }
            "x-guest-file-remove" => {
                let XFileRemove { path, path_b64, expect, .. } = request.arguments()?;
                let path = bytes(path, path_b64);
                self.find(&path)?;
                self.check(&path, expect)?;
                self.names.remove(&path);
                Outcome::empty()
            }
            _ => Outcome::empty(),
        };
        Ok(value)
    }

    fn info(&self) -> AgentInfo {
        let has = |info: &&CommandInfo| {
            let known = info.name.starts_with("x-guest-file-")
                && !(self.older && info.name == "x-guest-file-beneath");
            !info.is_extension() || self.extended && known
        };
        let command = |info: &CommandInfo| AgentCommand {
            name: info.name.into(),
            enabled: true,
            success_response: Some(info.success_response),
        };
        AgentInfo {
            version: "11.1.3".into(),
            supported_commands: COMMANDS.iter().filter(has).map(command).collect(),
        }
    }

    fn find(&self, path: &[u8]) -> Result<u64, QgaError> {
        let found = self.names.get(path).copied();
        let number = found.ok_or_else(|| error("ENOENT", "No such file or directory"))?;
        if self.files[&number].denied {
            return Err(error("EACCES", "Permission denied"));
        }
        Ok(number)
    }

    fn stat(&self, number: u64) -> FileStat {
        let file = &self.files[&number];
        let regular = file.kind == FileKind::File;
        FileStat {
            kind: file.kind,
            size: file.says.unwrap_or(if regular { file.data.len() as u64 } else { 0 }),
            mode: file.mode,
            uid: file.uid,
            ino: number,
            dev: 1,
            nlink: 1,
            mtime_ns: file.mtime_ns,
            ..FileStat::default()
        }
    }

    fn new_handle(&mut self, file: u64, target: Option<Vec<u8>>) -> i64 {
        self.next += 1;
        let handle = i64::try_from(self.next).unwrap();
        self.handles.insert(handle, Handle { file, at: 0, target });
        handle
    }

    fn handle(&self, handle: i64) -> Result<Handle, QgaError> {
        let found = self.handles.get(&handle).cloned();
        found.ok_or_else(|| QgaError::generic(format!("handle '{handle}' has not been found")))
    }

    fn open(&mut self, GuestFileOpen { path, mode }: &GuestFileOpen) -> Result<i64, QgaError> {
        let mode = mode.as_deref().unwrap_or("r");
        let number = match self.find(path.as_bytes()) {
            Err(_) if mode == "w" && !self.names.contains_key(path.as_bytes()) => {
                self.put(path.as_bytes(), FileKind::File, b"")
            }
            found => found?,
        };
        if mode == "w" {
            self.files.get_mut(&number).unwrap().data.clear();
        }
        Ok(self.new_handle(number, None))
    }

    fn x_open(&mut self, open: XFileOpen) -> Result<OpenFile, QgaError> {
        let number = self.find(&bytes(open.path, open.path_b64))?;
        match self.files[&number].kind {
            FileKind::Directory => return Err(error("EISDIR", "Is a directory")),
            FileKind::Socket => return Err(error("ENXIO", "No such device or address")),
            _ => {}
        }
        Ok(OpenFile { handle: self.new_handle(number, None), stat: self.stat(number) })
    }

    fn read(&mut self, read: &GuestFileRead) -> Result<Outcome, QgaError> {
        let Handle { file, at, .. } = self.handle(read.handle)?;
        let asked = usize::try_from(read.count.unwrap_or(4096)).unwrap();
        let short = self.short.unwrap_or(usize::MAX);
        let file = &self.files[&file];
        let mut builder = FileReadBuilder::new(asked);
        let eof = match file.kind {
            FileKind::Directory => return Err(error("EISDIR", "Is a directory")),
            // One that never ends.
            FileKind::CharDevice => {
                builder.push(&vec![b'z'; asked]);
                false
            }
            _ => {
                let end = file.data.len().min(at.saturating_add(asked.min(short)));
                builder.push(file.data.get(at..end).unwrap_or_default());
                at + asked > file.data.len() && end == file.data.len()
            }
        };
        self.turns.push(read.handle);
        self.moved += builder.count();
        self.handles.get_mut(&read.handle).unwrap().at += builder.count();
        Ok(Outcome::Return(builder.finish(eof)))
    }

    fn write(&mut self, handle: i64, bytes: &[u8]) -> Result<FileWrite, QgaError> {
        let Handle { file, at, .. } = self.handle(handle)?;
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(bytes.len()).ok_or_else(|| {
                error("ENOSPC", "failed to write to file: No space left on device")
            })?;
        }
        let file = self.files.get_mut(&file).unwrap();
        file.data.resize(file.data.len().max(at + bytes.len()), 0);
        file.data[at..at + bytes.len()].copy_from_slice(bytes);
        file.mtime_ns += 1;
        self.moved += bytes.len();
        self.handles.get_mut(&handle).unwrap().at += bytes.len();
        Ok(FileWrite { count: i64::try_from(bytes.len()).unwrap(), eof: false })
    }

    fn seek(&mut self, seek: &GuestFileSeek) -> Result<FileSeek, QgaError> {
        let Handle { file, at, .. } = self.handle(seek.handle)?;
        let file = &self.files[&file];
        let end = match (file.kind, file.says) {
            (_, Some(says)) => usize::try_from(says).unwrap(),
            (FileKind::File | FileKind::BlockDevice, _) => file.data.len(),
            // As of `/dev/zero`.
            (FileKind::CharDevice, _) => 0,
            // As on ext4: the end is the greatest number.
            (FileKind::Directory, _) => usize::try_from(i64::MAX).unwrap(),
            _ => return Err(error("ESPIPE", "failed to seek file: Illegal seek")),
        };
        let from = [0, at, end][usize::try_from(seek.whence.number()).unwrap()];
        let position = i64::try_from(from).unwrap() + seek.offset;
        self.handles.get_mut(&seek.handle).unwrap().at = usize::try_from(position).unwrap();
        Ok(FileSeek { position, eof: false })
    }

    fn create(&mut self, path: Vec<u8>) -> Result<CreatedFile, QgaError> {
        let replaces = match self.find(&path) {
            Ok(number) if self.files[&number].kind == FileKind::Directory => {
                return Err(error("EISDIR", "Is a directory"));
            }
            Ok(number) => Some(self.stat(number)),
            Err(error) if error.errno.as_deref() == Some("ENOENT") => None,
            Err(error) => return Err(error),
        };
        let number = self.put(b"", FileKind::File, b"");
        self.names.remove(&b""[..]);
        Ok(CreatedFile { handle: self.new_handle(number, Some(path)), replaces })
    }

    fn commit(&mut self, commit: &XFileCommit) -> Result<FileStat, QgaError> {
        let Handle { file, target, .. } = self.handle(commit.handle)?;
        let target = target.ok_or_else(|| QgaError::generic("not created"))?;
        self.check(&target, commit.expect)?;
        let before = self.names.get(&target).map(|number| self.files[number].clone());
        let new = self.files.get_mut(&file).unwrap();
        let kept = before.map_or((0o644, 0), |before| (before.mode, before.uid));
        new.mode = commit.mode.map_or(kept.0, |mode| u32::try_from(mode).unwrap());
        new.uid = commit.uid.map_or(kept.1, |uid| u32::try_from(uid).unwrap());
        self.names.insert(target, file);
        self.handles.remove(&commit.handle);
        Ok(self.stat(file))
    }

    fn check(&self, path: &[u8], expect: Option<Expected>) -> Result<(), QgaError> {
        let Some(expect) = expect else { return Ok(()) };
        let now = self.names.get(path).map(|number| self.stat(*number));
        match now {
            Some(_) if expect.absent => Err(error("EEXIST", "File exists")),
            None if !expect.absent => Err(error("ENOENT", "No such file or directory")),
            Some(now)
                if expect.ino.is_some_and(|ino| ino != now.ino)
                    || expect.size.is_some_and(|size| size != now.size)
                    || expect.mtime_ns.is_some_and(|at| at != now.mtime_ns) =>
            {
                Err(error("ESTALE", "it is another one"))
            }
            _ => Ok(()),
        }
    }

    fn list(&self, list: XFileList) -> FileList {
        let mut prefix = bytes(list.path, list.path_b64);
        prefix.push(b'/');
        let after = list.after_b64.map(|after| after.decode().unwrap()).unwrap_or_default();
        let limit = usize::try_from(list.limit.unwrap_or(1000)).unwrap();
        let below = self.names.iter().filter_map(|(name, number)| {
            Some((name.strip_prefix(&*prefix)?, *number)).filter(|(name, _)| **name > *after)
        });
        let mut below: Vec<_> = below.take(limit + 1).collect();
        let more = below.len() > limit;
        below.truncate(limit);
        let next = below.last().filter(|_| more).map(|(name, _)| Base64(name.to_vec()));
        let entry = |(name, number): (&[u8], u64)| DirectoryEntry {
            name: String::from_utf8_lossy(name).into(),
            name_b64: std::str::from_utf8(name).is_err().then(|| Base64(name.to_vec())),
            stat: Some(self.stat(number)),
        };
        FileList { entries: below.into_iter().map(entry).collect(), next }
    }
}

/// What an extension is to stay beneath.
fn beneath(name: &str, request: &Request) -> Value {
    let told = match name {
        "x-guest-file-stat" => request.arguments::<XFileStat>().map(|stat| stat.beneath),
        "x-guest-file-list" => request.arguments::<XFileList>().map(|list| list.beneath),
        "x-guest-file-open" => request.arguments::<XFileOpen>().map(|open| open.beneath),
        "x-guest-file-create" => request.arguments::<XFileCreate>().map(|create| create.beneath),
        "x-guest-file-rename" => request.arguments::<XFileRename>().map(|rename| rename.beneath),
        "x-guest-file-remove" => request.arguments::<XFileRemove>().map(|remove| remove.beneath),
        "x-guest-file-mkdir" => request.arguments::<XFileMkdir>().map(|mkdir| mkdir.beneath),
        _ => Ok(None),
    };
    told.unwrap().into()
}

fn bytes(path: Option<String>, b64: Option<qga_proto::base64::Base64Text>) -> Vec<u8> {
    match (path, b64) {
        (Some(path), None) => path.into_bytes(),
        (None, Some(b64)) => b64.decode().unwrap(),
        _ => panic!("one of path and path-b64"),
    }
}
