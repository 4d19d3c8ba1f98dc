//! Files in memory. Those that nobody has made are as long as anybody wants to read, and swallow what
//! is written.

use std::collections::HashMap;

use qga_proto::command::{
    Command as _, Empty, FileReadBuilder, FileSeek, FileWrite, GuestFileClose, GuestFileOpen,
    GuestFileRead, GuestFileSeek, GuestFileWrite,
};
use qga_proto::{Job, Outcome, QgaError};

/// A read of more is refused, as qemu-ga does.
const MAX_READ: i64 = 48 << 20;
/// Handles that may be open at once.
const MAX_OPEN: usize = 512;
/// Files that may be made, and the bytes of each.
const MAX_FILES: usize = 64;
const MAX_LENGTH: usize = 1 << 20;
/// Takes whatever is written to it, of any length.
const SWALLOWS: &str = "/dev/null";
/// One that is there from the beginning.
const LOG: (&str, &[u8]) = ("/var/log/syslog", b"simulated: all is well\n");

/// The disk, and what is open.
#[derive(Debug)]
pub(super) struct Files {
    opened: i64,
    open: HashMap<i64, Open>,
    contents: HashMap<String, Vec<u8>>,
}

#[derive(Debug)]
struct Open {
    path: String,
    at: usize,
}

impl Default for Files {
    fn default() -> Self {
        let contents = HashMap::from([(LOG.0.to_owned(), LOG.1.to_vec())]);
        Self { opened: 0, open: HashMap::new(), contents }
    }
}

impl Files {
    /// The agent ends, and its handles with it.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    pub(super) fn run(&mut self, job: &Job) -> Outcome {
        let request = &job.request;
        match job.info.name {
            name if name == GuestFileOpen::INFO.name => {
                request.arguments().and_then(|open| self.open(open)).into()
            }
            name if name == GuestFileClose::INFO.name => {
                request.arguments().and_then(|GuestFileClose { handle }| self.close(handle)).into()
            }
            name if name == GuestFileRead::INFO.name => {
                let read = request.arguments::<GuestFileRead>();
                match read.and_then(|GuestFileRead { handle, count }| self.read(handle, count)) {
                    Ok(text) => Outcome::Return(text),
                    Err(error) => Outcome::Error(error),
                }
            }
            name if name == GuestFileWrite::INFO.name => {
                request.arguments().and_then(|write| self.write(write)).into()
            }
            name if name == GuestFileSeek::INFO.name => {
                request.arguments().and_then(|seek| self.seek(&seek)).into()
            }
            _ => Outcome::empty(),
        }
    }

    fn open(&mut self, GuestFileOpen { path, mode }: GuestFileOpen) -> Result<i64, QgaError> {
        if self.open.len() == MAX_OPEN {
            return Err(QgaError::generic("too many open files"));
        }
        if path != SWALLOWS && mode.is_some_and(|mode| mode.starts_with('w')) {
            if self.contents.len() == MAX_FILES && !self.contents.contains_key(&path) {
                return Err(QgaError::generic("No space left on device"));
            }
            self.contents.insert(path.clone(), Vec::new());
        }
        let handle = 1000 + self.opened;
        self.opened += 1;
        self.open.insert(handle, Open { path, at: 0 });
        Ok(handle)
    }

    /// An open file and its content, if it has an end.
    fn find(&mut self, handle: i64) -> Result<(&mut Open, Option<&mut Vec<u8>>), QgaError> {
        let unknown = || QgaError::generic(format!("handle '{handle}' has not been found"));
        let open = self.open.get_mut(&handle).ok_or_else(unknown)?;
        let content = self.contents.get_mut(&open.path);
        Ok((open, content))
    }

    fn close(&mut self, handle: i64) -> Result<Empty, QgaError> {
        self.find(handle)?;
        self.open.remove(&handle);
        Ok(Empty {})
    }

    fn read(&mut self, handle: i64, count: Option<i64>) -> Result<Vec<u8>, QgaError> {
        let (open, content) = self.find(handle)?;
        let count = count.unwrap_or(4096);
        let bad = || QgaError::generic(format!("value '{count}' is invalid for argument count"));
        let bytes = usize::try_from(count).ok().filter(|_| count <= MAX_READ).ok_or_else(bad)?;
        let mut read = FileReadBuilder::new(bytes);
        let Some(content) = content else {
            read.push(&vec![0x5A; bytes]);
            return Ok(read.finish(false));
        };
        let left = content.get(open.at..).unwrap_or_default();
        let taken = &left[..left.len().min(bytes)];
        read.push(taken);
        let eof = bytes > left.len();
        open.at += taken.len();
        Ok(read.finish(eof))
    }

    fn write(&mut self, write: GuestFileWrite) -> Result<FileWrite, QgaError> {
        let (open, content) = self.find(write.handle)?;
        let bytes = write.buf_b64.decode()?;
        if let Some(content) = content {
            let end = open.at.saturating_add(bytes.len());
            if end > MAX_LENGTH {
                return Err(QgaError::generic("failed to write to file: No space left on device"));
            }
            content.resize(content.len().max(end), 0);
            content[open.at..end].copy_from_slice(&bytes);
            open.at = end;
        }
        Ok(FileWrite { count: i64::try_from(bytes.len()).unwrap_or(i64::MAX), eof: false })
    }

    fn seek(&mut self, seek: &GuestFileSeek) -> Result<FileSeek, QgaError> {
        let (open, content) = self.find(seek.handle)?;
        let Some(content) = content else {
            return Ok(FileSeek { position: seek.offset, eof: false });
        };
        let from = match seek.whence.number() {
            1 => open.at,
            2 => content.len(),
            _ => 0,
        };
        let position = i64::try_from(from).ok().and_then(|from| from.checked_add(seek.offset));
        let at = position.and_then(|position| usize::try_from(position).ok());
        let invalid = || QgaError::generic("failed to seek file: Invalid argument");
        open.at = at.ok_or_else(invalid)?;
        Ok(FileSeek { position: position.unwrap_or_default(), eof: false })
    }
}
