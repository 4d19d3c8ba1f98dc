//! `qga.state.freeze`: what the marker cannot say, for the agent that is started next.
//!
//! One JSON object, replaced as a whole, beside the marker on a filesystem that is never frozen.
//! Times are milliseconds of `CLOCK_BOOTTIME` and mean something only together with the boot id.
//!
//! ```text
//!          marker made                 marker made, if there is no hook      answered
//!   none ──────────────▶ hook ─────────────▶ freezing ──────────▶ frozen ──────────▶
//!     ▲                   │                     │                   │  all thawed
//!     │                   └─────────────────────┴──▶ thaw-hook ◀────┘
//!     └────────────── then the marker is removed ───────┘
//! ```
//!
//! At each step the record is written first. A record with a freeze and no marker beside it is of
//! a freeze that did not begin, or whose marker somebody removed by hand; a marker of ours beside
//! a record without a freeze is of one that is over.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use qga_proto::command::{FilesystemFreeze, FreezeResult, ThawCause, ThawResult};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::mounts::Target;

/// A record is cut off here, and then does not parse: some thousand filesystems.
const MAX_BYTES: u64 = 4 << 20;

/// What is known of the current freeze and of the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Record {
    pub(super) boot_id: String,
    /// Freezes begun so far.
    pub(super) generation: u64,
    /// The one that is in force or under way.
    pub(super) freeze: Option<Freeze>,
    /// How many filesystems the current or last one froze.
    pub(super) count: Option<u64>,
    /// Why the current or last one failed.
    pub(super) error: Option<String>,
    pub(super) filesystems: Vec<FilesystemFreeze>,
    /// Where each of them lies.
    pub(super) devices: Vec<OnDevice>,
    pub(super) last_thaw: Option<Thaw>,
}

/// A freeze from its begin to the end of its thaw hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Freeze {
    pub(super) stage: Stage,
    pub(super) lease: Option<String>,
    pub(super) since_ms: u64,
    pub(super) deadline_ms: Option<u64>,
    /// Why its thaw began.
    pub(super) cause: Option<ThawCause>,
}

/// How far a freeze is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    /// The freeze hook may be running; nothing is frozen.
    Hook,
    /// Some filesystems are frozen.
    Freezing,
    /// All of them are.
    Frozen,
    /// None is any more; the thaw hook may be running.
    ThawHook,
}

/// What a mount point of the freeze stands for, even if it does so no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct OnDevice {
    mountpoint: String,
    /// As `8:1`.
    device: String,
    fs_type: String,
    /// What its devices had taken when it was frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sectors: Option<u64>,
}

impl OnDevice {
    pub(super) fn of(target: &Target) -> Self {
        Self {
            mountpoint: target.path.to_string_lossy().into_owned(),
            device: target.device.to_string(),
            fs_type: target.fs_type.clone(),
            sectors: None,
        }
    }
}

/// How a freeze ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Thaw {
    pub(super) cause: ThawCause,
    pub(super) at_ms: u64,
    pub(super) generation: u64,
    pub(super) lease: Option<String>,
    pub(super) count: u64,
    pub(super) hook_error: Option<String>,
    /// It was automatic, and no plain thaw was told so yet.
    pub(super) untold: bool,
}

impl Record {
    /// Reads a record; none for what is no record.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The entry of a filesystem in the current freeze.
    pub(super) fn filesystem(&mut self, path: &Path) -> Option<&mut FilesystemFreeze> {
        let path = path.to_string_lossy();
        self.filesystems.iter_mut().find(|filesystem| filesystem.mountpoint == path)
    }

    /// Notes what the devices of a filesystem have taken, now that it is frozen.
    pub(super) fn froze_at(&mut self, path: &Path, sectors: Option<u64>) {
        let path = path.to_string_lossy();
        if let Some(one) = self.devices.iter_mut().find(|one| one.mountpoint == path) {
            one.sectors = sectors;
        }
    }

    /// Compares with what they have taken now, before it is thawed.
    pub(super) fn thaws_at(&mut self, path: &Path, sectors: Option<u64>) {
        if !self.holds(path) {
            return;
        }
        let name = path.to_string_lossy();
        let frozen_at = self.devices.iter().find(|one| one.mountpoint == name);
        let frozen_at = frozen_at.and_then(|one| one.sectors);
        if let Some(filesystem) = self.filesystem(path) {
            filesystem.written_sectors =
                sectors.zip(frozen_at).map(|(now, then)| now.wrapping_sub(then));
        }
    }

    /// What the current freeze holds.
    pub(super) fn still_frozen(&self) -> impl Iterator<Item = Target> {
        let devices = self.devices.iter().filter(|_| self.freeze.is_some());
        devices.filter_map(|one| {
            let path = PathBuf::from(&one.mountpoint);
            let device = one.device.parse().ok().filter(|_| self.holds(&path))?;
            // What was frozen could be written to.
            Some(Target { device, path, fs_type: one.fs_type.clone(), read_only: false })
        })
    }

    /// Whether the current freeze has frozen a filesystem, perhaps, and no thaw has thawed it yet.
    pub(super) fn holds(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        let found = self.filesystems.iter().find(|filesystem| filesystem.mountpoint == path);
        found.is_some_and(|found| {
            matches!(found.freeze, FreezeResult::Frozen | FreezeResult::Freezing)
                && !matches!(found.thaw, Some(ThawResult::Thawed | ThawResult::NotFrozen))
        })
    }

    pub(super) fn stage(&self) -> Option<Stage> {
        self.freeze.as_ref().map(|freeze| freeze.stage)
    }

    pub(super) fn lease(&self) -> Option<&str> {
        self.freeze.as_ref()?.lease.as_deref()
    }

    pub(super) fn deadline_ms(&self) -> Option<u64> {
        self.freeze.as_ref()?.deadline_ms
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    temporary: PathBuf,
}

impl Store {
    pub(super) fn new(state_dir: &Path) -> Self {
        let path = state_dir.join("qga.state.freeze");
        let temporary = state_dir.join("qga.state.freeze.new");
        Self { path, temporary }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the last agent knew; none if there is none, or it makes no sense.
    pub(super) fn load(&self) -> Option<Record> {
        let mut text = Vec::new();
        File::open(&self.path).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        Record::parse(&text)
    }

    /// Replaces the file. What a killed agent wrote is there for the next one; a power cut ends
    /// the boot, and with it what the record is about.
    pub(super) fn save(&self, record: &Record) -> io::Result<()> {
        let flags =
            OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&self.temporary, flags, Mode::RUSR | Mode::WUSR)?;
        File::from(file).write_all(&serde_json::to_vec(record)?)?;
        std::fs::rename(&self.temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> Record {
        Record {
            boot_id: "b".into(),
            generation: 7,
            freeze: Some(Freeze {
                stage: Stage::ThawHook,
                lease: Some("l".into()),
                since_ms: 1,
                deadline_ms: Some(2),
                cause: Some(ThawCause::Deadline),
            }),
            count: Some(1),
            error: Some("e".into()),
            filesystems: vec![FilesystemFreeze { mountpoint: "/".into(), ..Default::default() }],
            devices: vec![OnDevice {
                mountpoint: "/".into(),
                device: "8:1".into(),
                fs_type: "ext4".into(),
                sectors: Some(9),
            }],
            last_thaw: Some(Thaw {
                cause: ThawCause::Restart,
                at_ms: 3,
                generation: 6,
                lease: None,
                count: 4,
                hook_error: None,
                untold: true,
            }),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_nonsense_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert_eq!(store.load(), None);
        store.save(&full()).unwrap();
        assert_eq!(store.load(), Some(full()));
        for text in ["", "{", "7", "{\"freeze\":{\"stage\":\"no\"}}", "{\"generation\":-1}"] {
            std::fs::write(store.path(), text).unwrap();
            assert_eq!(store.load(), None, "{text}");
        }
        // What a later agent adds does not hide the rest.
        assert_eq!(Record::parse(b"{\"generation\":3,\"new\":{}}").unwrap().generation, 3);
    }

    #[test]
    fn the_corpus_of_records_is_read_as_it_was() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/record");
        let mut read = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let good = path.file_name().unwrap().to_string_lossy().starts_with("good");
            let record = Record::parse(&std::fs::read(&path).unwrap());
            assert_eq!(record.is_some(), good, "{}", path.display());
            read += 1;
        }
        assert!(read >= 3);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::parse(&bytes);
        }

        #[test]
        fn no_cut_or_changed_record_panics(at in 0_usize..600, byte: u8) {
            let mut text = serde_json::to_vec(&full()).unwrap();
            let at = at % text.len();
            text[at] = byte;
            let _ = Record::parse(&text);
            let _ = Record::parse(&text[..at]);
        }
    }
}
