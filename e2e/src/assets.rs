//! What a VM is made of, and whether this machine has it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::accel::Accel;
use crate::kernel::Kernel;

/// Programs that a guest or a host needs from this machine's packages.
const TOOLS: [&str; 7] =
    ["qemu-system-x86_64", "mke2fs", "mkfs.xfs", "mkfs.btrfs", "dumpe2fs", "debugfs", "setpriv"];

/// Everything needed to boot a VM.
#[derive(Debug)]
pub struct Assets {
    pub(crate) kernel: Kernel,
    pub(crate) stock: PathBuf,
    pub(crate) busybox: PathBuf,
    pub(crate) accel: Accel,
    /// The programs of this workspace.
    pub programs: Programs,
}

impl Assets {
    /// Fetches Debian's kernel and agent into `target/guest` if they are not there, and probes
    /// once whether KVM works.
    ///
    /// # Errors
    /// Something is missing; the message says what to run.
    pub fn prepare() -> Result<Self> {
        if let Some(reason) = missing() {
            bail!("{reason}");
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let fetched = Command::new(workspace.join("scripts/fetch-guest"))
            .output()
            .context("running scripts/fetch-guest")?;
        if !fetched.status.success() {
            bail!("scripts/fetch-guest: {}", String::from_utf8_lossy(&fetched.stderr).trim());
        }
        let guest = qga_testing::guest_directory();
        let mut assets = Self {
            kernel: Kernel::find(&guest.join("kernel"))?,
            stock: guest.join("stock"),
            busybox: PathBuf::from("/usr/bin/busybox"),
            accel: Accel::Tcg,
            programs: Programs::find()?,
        };
        assets.accel = Accel::probe(&assets, &guest)?;
        Ok(assets)
    }

    /// How QEMU runs guests here: `kvm` or `tcg`, which is software emulation.
    pub const fn accel(&self) -> &'static str {
        self.accel.name()
    }
}

/// Why this machine cannot boot a VM, or `None` if it can.
pub fn missing() -> Option<String> {
    let there = |tool: &str| qga_testing::program(tool).is_some();
    let mut absent: Vec<&str> = TOOLS.into_iter().filter(|tool| !there(tool)).collect();
    if !Path::new("/usr/bin/busybox").exists() {
        absent.push("busybox");
    }
    (!absent.is_empty())
        .then(|| format!("no {} on this machine; run scripts/install-deps", absent.join(", ")))
}

/// The programs of this workspace, where cargo puts them.
#[derive(Clone, Debug)]
pub struct Programs {
    pub(crate) guest: PathBuf,
    /// `qga-agent`, if it has been built: the small static one, else the one for debugging.
    pub agent: Option<PathBuf>,
    /// `qga-gateway`, if it has been built.
    pub gateway: Option<PathBuf>,
}

impl Programs {
    /// Looks beside the running program; `QGA_E2E_AGENT` and `QGA_E2E_GATEWAY` name others.
    fn find() -> Result<Self> {
        let current = env::current_exe().context("finding the running program")?;
        let beside = current
            .ancestors()
            .skip(1)
            .find(|dir| dir.join("qga-e2e-guest").is_file())
            .context("no qga-e2e-guest beside this program; run cargo build -p qga-e2e")?;
        let named = |variable: &str| env::var_os(variable).map(PathBuf::from);
        // What runs but knows no version is no daemon yet.
        let built = |path: PathBuf| {
            let done = Command::new(&path).arg("--version").output().ok()?;
            (done.status.success() && !done.stdout.is_empty()).then_some(path)
        };
        Ok(Self {
            guest: beside.join("qga-e2e-guest"),
            agent: named("QGA_E2E_AGENT")
                .or_else(|| built(beside.join("../agent/qga-agent")))
                .or_else(|| built(beside.join("qga-agent"))),
            gateway: named("QGA_E2E_GATEWAY").or_else(|| built(beside.join("qga-gateway"))),
        })
    }
}
