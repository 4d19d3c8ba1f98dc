//! Everything but freezing: fixed answers, and files without end.

use std::collections::HashMap;

use qga_proto::command::{
    Command as _, Empty, FileReadBuilder, FileSeek, FileWrite, FilesystemInfo, GuestFileClose,
    GuestFileOpen, GuestFileRead, GuestFileSeek, GuestFileWrite, GuestGetFsinfo, HostName,
    LogicalProcessor, OsInfo, Timezone, TrimReport,
};
use qga_proto::{Job, Outcome, QgaError};

use super::{Agent, lists};
use crate::sim::guest::Guest;

/// A read of more is refused, as qemu-ga does.
const MAX_READ: i64 = 48 << 20;
/// Handles that may be open at once.
const MAX_OPEN: usize = 512;

/// Open handles. A file is as long as anybody wants to read, and swallows what is written.
#[derive(Debug, Default)]
pub(super) struct Files {
    opened: i64,
    paths: HashMap<i64, String>,
}

impl Agent {
    pub(super) fn answer(&mut self, guest: &Guest, job: &Job) -> Outcome {
        match job.info.name {
            "guest-info" => Outcome::value(&lists::info(self.mode, self.says_frozen())),
            "guest-shutdown" => Outcome::Silent,
            "guest-get-time" => {
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
                Outcome::value(&u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
            }
            "guest-get-host-name" => Outcome::value(&HostName { host_name: "simulated".into() }),
            "guest-get-osinfo" => {
                Outcome::value(&OsInfo { id: Some("simulated".into()), ..OsInfo::default() })
            }
            "guest-get-timezone" => {
                Outcome::value(&Timezone { zone: Some("UTC".into()), offset: 0 })
            }
            "guest-get-vcpus" => Outcome::value(&[LogicalProcessor {
                logical_id: 0,
                online: true,
                can_offline: Some(false),
            }]),
            name if name == GuestGetFsinfo::INFO.name => Outcome::value(&fsinfo(guest)),
            "guest-fstrim" => Outcome::value(&TrimReport::default()),
            name if name.starts_with("guest-file-") => self.files.run(job),
            _ => Outcome::empty(),
        }
    }
}

/// In reverse mount order.
fn fsinfo(guest: &Guest) -> Vec<FilesystemInfo> {
    let info = |(at, filesystem): (usize, &crate::sim::Filesystem)| FilesystemInfo {
        name: format!("vda{}", at + 1),
        mountpoint: filesystem.mountpoint.clone(),
        fs_type: match filesystem.kind {
            crate::sim::Kind::Unsupported => "vfat".into(),
            _ => "ext4".into(),
        },
        used_bytes: Some(1 << 20),
        total_bytes: Some(1 << 30),
        total_bytes_privileged: None,
        disk: Vec::new(),
    };
    guest.filesystems.iter().enumerate().map(info).rev().collect()
}

impl Files {
    fn run(&mut self, job: &Job) -> Outcome {
        match job.info.name {
            name if name == GuestFileOpen::INFO.name => {
                let opened = job.request.arguments::<GuestFileOpen>();
                opened.and_then(|GuestFileOpen { path, .. }| self.open(path)).into()
            }
            name if name == GuestFileClose::INFO.name => {
                let handle = job.request.arguments::<GuestFileClose>();
                handle.and_then(|GuestFileClose { handle }| self.close(handle)).into()
            }
            name if name == GuestFileRead::INFO.name => {
                let read = job.request.arguments::<GuestFileRead>();
                match read.and_then(|GuestFileRead { handle, count }| self.read(handle, count)) {
                    Ok(text) => Outcome::Return(text),
                    Err(error) => Outcome::Error(error),
                }
            }
            name if name == GuestFileWrite::INFO.name => {
                let written = job.request.arguments::<GuestFileWrite>();
                written.and_then(|write| self.write(write)).into()
            }
            name if name == GuestFileSeek::INFO.name => job
                .request
                .arguments::<GuestFileSeek>()
                .map(|seek| FileSeek { position: seek.offset, eof: false })
                .into(),
            _ => Outcome::empty(),
        }
    }

    fn open(&mut self, path: String) -> Result<i64, QgaError> {
        if self.paths.len() == MAX_OPEN {
            return Err(QgaError::generic("too many open files"));
        }
        let handle = 1000 + self.opened;
        self.opened += 1;
        self.paths.insert(handle, path);
        Ok(handle)
    }

    fn is_open(&self, handle: i64) -> Result<(), QgaError> {
        let unknown = || QgaError::generic(format!("handle '{handle}' has not been found"));
        self.paths.get(&handle).map(|_| ()).ok_or_else(unknown)
    }

    fn close(&mut self, handle: i64) -> Result<Empty, QgaError> {
        self.is_open(handle)?;
        self.paths.remove(&handle);
        Ok(Empty {})
    }

    fn read(&self, handle: i64, count: Option<i64>) -> Result<Vec<u8>, QgaError> {
        self.is_open(handle)?;
        let count = count.unwrap_or(4096);
        let bad = || QgaError::generic(format!("value '{count}' is invalid for argument count"));
        let bytes = usize::try_from(count).ok().filter(|_| count <= MAX_READ).ok_or_else(bad)?;
        let mut read = FileReadBuilder::new(bytes);
        read.push(&vec![0x5A; bytes]);
        Ok(read.finish(false))
    }

    fn write(&self, write: GuestFileWrite) -> Result<FileWrite, QgaError> {
        self.is_open(write.handle)?;
        let bytes = write.buf_b64.decode()?;
        Ok(FileWrite { count: i64::try_from(bytes.len()).unwrap_or(i64::MAX), eof: false })
    }
}
