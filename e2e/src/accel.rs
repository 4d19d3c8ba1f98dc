//! Chooses between KVM and software emulation by trying.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::fs::{FlockOperation, flock};

use crate::assets::Assets;
use crate::console::Console;
use crate::image;
use crate::process::Process;
use crate::wait::check_interrupted;

/// A guest whose KVM works has printed its first line long before.
const PROBE_BOUND: Duration = Duration::from_secs(10);

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    Kvm,
    Tcg,
}

impl Accel {
    /// The value for `-accel`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The `-cpu` that goes with it: emulation offers what it can, KVM what the host has.
    pub(crate) const fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }

    /// KVM if a guest comes up under it, else emulation. A `/dev/kvm` that opens proves nothing:
    /// nested ones may hang the guest. Remembered in `cache` for as long as the host runs.
    pub(crate) fn probe(assets: &Assets, cache: &Path) -> Result<Self> {
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Tcg);
        }
        let lock = File::create(cache.join("accel.lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let remembered = cache.join("accel");
        if let Ok(text) = fs::read_to_string(&remembered)
            && let Some(name) = text.strip_prefix(boot.trim())
        {
            return Ok(if name.trim() == "kvm" { Self::Kvm } else { Self::Tcg });
        }
        let found = if kvm_boots(assets)? { Self::Kvm } else { Self::Tcg };
        fs::write(&remembered, format!("{} {}\n", boot.trim(), found.name()))?;
        Ok(found)
    }
}

fn kvm_boots(assets: &Assets) -> Result<bool> {
    let dir = tempfile::tempdir()?;
    let initramfs = dir.path().join("initramfs");
    image::initramfs(assets, &initramfs)?;
    let console = Console::new(dir.path().join("console"));
    let serial = format!("file:{}", console.path().display());
    let kernel = assets.kernel.image.display().to_string();
    let initramfs = initramfs.display().to_string();
    let args = [
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-machine",
        "q35",
        "-m",
        "512",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        &serial,
        "-kernel",
        &kernel,
        "-initrd",
        &initramfs,
        "-append",
        "console=ttyS0 panic=-1",
    ];
    let _qemu = Process::spawn(Path::new("qemu-system-x86_64"), args, &dir.path().join("log"))?;
    let boots = console.wait_for("e2e: initramfs is up", PROBE_BOUND).is_ok();
    // A probe that was cut short says nothing about KVM, and must not be remembered.
    check_interrupted()?;
    Ok(boots)
}
