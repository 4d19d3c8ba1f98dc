//! A disk for the gateway's state that can be full: a small filesystem in memory, where only the
//! gateway sees it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// How large it is; the gateway finds it empty.
const SIZE: &str = "8m";

/// The disk below a directory, which it makes.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn at(state: PathBuf) -> Self {
        fs::create_dir_all(&state).unwrap();
        Self(state)
    }

    /// Runs the gateway where its state is on this disk.
    pub(crate) fn wrapper(&self) -> Vec<OsString> {
        let at = self.0.display();
        let script = format!("mount -t tmpfs -o size={SIZE},mode=700 none {at} && exec \"$@\"");
        let mut wrapper: Vec<OsString> =
            ["unshare", "--mount", "sh", "-c"].map(OsString::from).to_vec();
        wrapper.extend([script.into(), "sh".into()]);
        wrapper
    }

    /// Takes what is left of it.
    pub(crate) fn fill(&self, gateway: u32) {
        let mut file = File::create(self.filler(gateway)).unwrap();
        let block = vec![0; 1 << 16];
        while file.write_all(&block).is_ok() {}
        for byte in block.chunks(512) {
            if file.write_all(byte).is_err() {
                break;
            }
        }
    }

    pub(crate) fn free(&self, gateway: u32) {
        // It is there only if the disk was filled.
        let _ = fs::remove_file(self.filler(gateway));
    }

    /// In the gateway's mount namespace.
    fn filler(&self, gateway: u32) -> PathBuf {
        let root = Path::new("/proc").join(gateway.to_string()).join("root");
        root.join(self.0.join("filler").strip_prefix("/").unwrap())
    }
}
