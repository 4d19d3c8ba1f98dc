//! Makes what a guest boots from: initramfs, root disk and data disks. No root rights needed:
//! every filesystem is made by its mkfs from a directory, nothing is mounted.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::assets::Assets;
use crate::cpio::Cpio;
use crate::disk::{Disk, run, tool};
use crate::vm::GuestAgent;

const INITRAMFS_INIT: &[u8] = include_bytes!("../guest/initramfs-init");
const INIT: &[u8] = include_bytes!("../guest/init");
const POWER: &[u8] = include_bytes!("../guest/power");

/// Bytes of the small ext4 image on the root disk, which tests copy and mount.
const SMALL_SIZE: u64 = 4 << 20;
/// Bytes of the root disk.
const ROOT_SIZE: u64 = 160 << 20;

/// Writes the initramfs: busybox, the modules in loading order, and an init.
pub(crate) fn initramfs(assets: &Assets, path: &Path) -> Result<()> {
    let mut cpio = Cpio::default();
    cpio.device("dev/console", 5, 1);
    for directory in ["proc", "sys", "new"] {
        cpio.directory(directory);
    }
    cpio.file("bin/busybox", 0o755, &read(&assets.busybox)?);
    let mut order = String::new();
    for (number, module) in assets.kernel.modules.iter().enumerate() {
        let name = format!("{number:02}.ko");
        cpio.file(&format!("modules/{name}"), 0o644, &read(module)?);
        order.push_str(&name);
        order.push('\n');
    }
    cpio.file("modules/order", 0o644, order.as_bytes());
    cpio.file("init", 0o755, INITRAMFS_INIT);
    fs::write(path, cpio.finish()).context("writing the initramfs")
}

/// Makes the root disk at `path`, with `agent` and other `programs` in it, and `room` for more. A
/// `verbose` agent logs what it does, qemu-ga each byte that it is sent: into the guest's memory.
pub(crate) fn root_disk(
    assets: &Assets,
    agent: &GuestAgent,
    programs: &[PathBuf],
    room: u64,
    verbose: bool,
    path: &Path,
) -> Result<()> {
    let staging = tempfile::tempdir()?;
    let root = staging.path();
    for directory in [
        "bin",
        "sbin",
        "etc",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "var/log",
        "usr/sbin",
        "data/ext4",
        "data/xfs",
        "data/btrfs",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    install(&assets.busybox, &root.join("bin/busybox"))?;
    install(&assets.programs.guest, &root.join("bin/qga-e2e-guest"))?;
    symlink("busybox", root.join("bin/sh"))?;
    symlink("/run", root.join("var/run"))?;
    program(&root.join("sbin/init"), INIT)?;
    // Which of these an agent calls depends on its version.
    for name in ["poweroff", "halt", "reboot", "shutdown"] {
        program(&root.join("sbin").join(name), POWER)?;
    }
    let small = root.join("small.ext4");
    File::create(&small)?.set_len(SMALL_SIZE)?;
    run(tool("mke2fs", &["-q", "-F", "-t", "ext4"]).arg(&small)).context("making an image")?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;

    let agent_path = match agent {
        GuestAgent::Ours(binary) => {
            install(binary, &root.join("usr/sbin/qga-agent"))?;
            "/usr/sbin/qga-agent"
        }
        GuestAgent::Stock => {
            copy_tree(&assets.stock, root)?;
            "/usr/sbin/qemu-ga"
        }
    };
    let verbose = if verbose { " -v" } else { "" };
    fs::write(
        root.join("etc/agent-command"),
        format!(
            "{agent_path} -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run/qga{verbose}\n"
        ),
    )?;

    let mut size = ROOT_SIZE + room;
    for program in programs {
        let name = program.file_name().context("a program without a name")?;
        install(program, &root.join("bin").join(name))?;
        size += 2 * fs::metadata(program)?.len();
    }
    File::create(path)?.set_len(size)?;
    run(tool("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d"])
        .arg(root)
        .arg(path))
    .context("making the root disk")
    .map(drop)
}

/// Makes the image of `disk` in `dir`.
pub(crate) fn data_disk(disk: Disk, dir: &Path) -> Result<PathBuf> {
    let path = dir.join(format!("{disk}.img"));
    disk.format(&path)?;
    Ok(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn install(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

fn program(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            install(&entry.path(), &target)?;
        }
    }
    Ok(())
}
