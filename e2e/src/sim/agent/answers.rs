//! Everything but freezing: fixed answers, files and programs.

use qga_proto::command::{
    Command as _, FilesystemInfo, GuestGetFsinfo, HostName, LogicalProcessor, OsInfo, Timezone,
    TrimReport,
};
use qga_proto::{Job, Outcome};

use super::{Agent, lists};
use crate::sim::guest::Guest;

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
            name if name.starts_with("guest-exec") => self.programs.run(job),
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
