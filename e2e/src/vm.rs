//! A QEMU process with a guest in it.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::assets::Assets;
use crate::bare::PORT;
use crate::console::Console;
use crate::control::Control;
use crate::disk::Disk;
use crate::image;
use crate::process::Process;
use crate::qmp::Qmp;
use crate::raw_agent::RawAgent;
use crate::wait::until;

/// Two guests that boot at once on two busy cores under emulation stay well below.
const BOOT_BOUND: Duration = Duration::from_secs(120);
/// Until QEMU has made its sockets.
const SOCKET_BOUND: Duration = Duration::from_secs(20);

/// The agent that the guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestAgent {
    /// Our `qga-agent`: the path of a static binary.
    Ours(PathBuf),
    /// Debian's `qemu-ga`.
    Stock,
}

/// How a VM is to be made.
#[derive(Clone, Debug)]
pub struct VmBuilder {
    dir: PathBuf,
    agent: GuestAgent,
    programs: Vec<PathBuf>,
    measured: bool,
    room: u64,
}

impl VmBuilder {
    /// So many bytes more on the root disk, for large files. The agent then does not log what it does:
    /// qemu-ga logs each byte that it is sent, into the guest's memory.
    pub fn room(mut self, bytes: u64) -> Self {
        self.room = bytes;
        self
    }

    /// Another program for the guest's `/bin`. It must be static.
    pub fn program(mut self, program: &Path) -> Self {
        self.programs.push(program.to_owned());
        self
    }

    /// The agent in the guest; Debian's if not called.
    pub fn agent(mut self, agent: GuestAgent) -> Self {
        self.agent = agent;
        self
    }

    /// For benches: nothing writes to the data disks, neither what the guest says nor what its
    /// agent does is logged, and a [`Bare`](crate::bare::Bare) server answers on a port of its own.
    pub fn measured(mut self) -> Self {
        self.measured = true;
        self
    }

    /// Makes the disks, starts QEMU and waits until the guest is up (its agent may need a
    /// moment more).
    ///
    /// # Errors
    /// A tool fails or the guest does not come up; the message ends with its console.
    pub fn boot(self, assets: &Assets) -> Result<Vm> {
        let dir = self.dir;
        image::initramfs(assets, &dir.join("initramfs"))?;
        let root = dir.join("root.img");
        let (programs, verbose) = (&self.programs, !self.measured && self.room == 0);
        image::root_disk(assets, &self.agent, programs, self.room, verbose, &root)?;
        for disk in Disk::DATA {
            image::data_disk(disk, &dir)?;
        }
        let args = qemu_arguments(assets, &dir, self.measured);
        let console = Console::new(dir.join("console.log"));
        let (process, control, qmp, boot_id) = start(&args, &dir, &console)?;
        Ok(Vm { dir, args, console, process, control, qmp, boot_id })
    }
}

/// A running VM; QEMU is killed when it is dropped.
#[derive(Debug)]
pub struct Vm {
    dir: PathBuf,
    args: Vec<String>,
    console: Console,
    process: Process,
    control: Control,
    qmp: Qmp,
    boot_id: String,
}

impl Vm {
    /// A VM that keeps its disks, sockets and logs in `dir`, which must exist.
    pub fn builder(dir: impl Into<PathBuf>) -> VmBuilder {
        VmBuilder {
            dir: dir.into(),
            agent: GuestAgent::Stock,
            programs: Vec::new(),
            measured: false,
            room: 0,
        }
    }

    /// The chardev socket of the agent's port.
    pub fn qga_socket(&self) -> PathBuf {
        self.dir.join("qga.sock")
    }

    /// The chardev socket of the port that the example configuration gives to the gateway. No agent
    /// serves it unless a test starts one.
    pub fn gateway_port_socket(&self) -> PathBuf {
        self.dir.join("gateway.sock")
    }

    /// The chardev socket of the bare server's port, in a VM that is measured.
    pub fn bare_socket(&self) -> PathBuf {
        self.dir.join("bare.sock")
    }

    /// How many answers `{"return": {}}` the guest's agent has given since the VM was made, to
    /// clients that have gone too: pings leave no other trace.
    ///
    /// # Errors
    /// QEMU keeps no log, as in a VM that is measured.
    pub fn empty_answers(&self) -> Result<usize> {
        let log = std::fs::read(self.dir.join("qga.sock.log")).context("the port's log")?;
        Ok(String::from_utf8_lossy(&log).matches("{\"return\": {}}").count())
    }

    /// A bare client on that socket; while it lives, no other is served.
    ///
    /// # Errors
    /// QEMU has gone.
    pub fn raw_agent(&self) -> Result<RawAgent> {
        RawAgent::connect(&self.qga_socket())
    }

    /// The image behind a data disk. The guest's flushes reach the host's page cache, so a copy
    /// made here sees all that the guest holds for written.
    pub fn image(&self, disk: Disk) -> PathBuf {
        self.dir.join(format!("{disk}.img"))
    }

    /// The channel into the guest that has nothing to do with the agent.
    pub const fn control(&mut self) -> &mut Control {
        &mut self.control
    }

    /// QEMU's own control socket.
    pub const fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Another control socket, for one client that is not this one.
    pub fn second_qmp_socket(&self) -> PathBuf {
        self.dir.join("qmp-2.sock")
    }

    /// The guest's serial console.
    pub const fn console(&self) -> &Console {
        &self.console
    }

    /// Boot id of the guest as it came up last.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// QEMU's pid.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How QEMU ended, or `None` while it runs.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Waits for QEMU to end by itself, as it does when the guest powers off.
    ///
    /// # Errors
    /// It still runs after `bound`.
    pub fn wait_exit(&mut self, bound: Duration) -> Result<ExitStatus> {
        self.process
            .wait_exit(bound)
            .with_context(|| format!("console ends with:\n{}", self.console.tail()))
    }

    /// Waits until a guest that reboots is up again, and keeps its new boot id.
    ///
    /// # Errors
    /// It does not come up.
    pub fn wait_rebooted(&mut self) -> Result<()> {
        self.boot_id = self
            .control
            .wait_hello(BOOT_BOUND)
            .with_context(|| format!("console ends with:\n{}", self.console.tail()))?;
        Ok(())
    }

    /// Kills QEMU as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts QEMU again with the same disks and sockets, and waits until the guest is up.
    ///
    /// # Errors
    /// As [`VmBuilder::boot`].
    pub fn start_again(&mut self) -> Result<()> {
        self.process.kill();
        // Left behind by a killed QEMU; a connect would find nobody there.
        for socket in ["qmp.sock", "control.sock"] {
            drop(std::fs::remove_file(self.dir.join(socket)));
        }
        let (process, control, qmp, boot_id) = start(&self.args, &self.dir, &self.console)?;
        self.process = process;
        self.control = control;
        self.qmp = qmp;
        self.boot_id = boot_id;
        Ok(())
    }
}

fn start(
    args: &[String],
    dir: &Path,
    console: &Console,
) -> Result<(Process, Control, Qmp, String)> {
    let log = dir.join("qemu.log");
    let mut process = Process::spawn(Path::new("qemu-system-x86_64"), args, &log)?;
    let trouble = || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        format!("QEMU says: {}\nconsole ends with:\n{}", log.trim(), console.tail())
    };
    let (control, qmp) = until("QEMU's sockets", SOCKET_BOUND, || {
        if let Some(status) = process.ended()? {
            anyhow::bail!("QEMU ended: {status}");
        }
        // The sockets are bound one after the other, and accept once the main loop runs.
        let control = Control::connect(&dir.join("control.sock"));
        Ok(control.ok().zip(Qmp::connect(&dir.join("qmp.sock")).ok()))
    })
    .with_context(trouble)?;
    let mut control = control;
    let boot_id = control.wait_hello(BOOT_BOUND).with_context(trouble)?;
    Ok((process, control, qmp, boot_id))
}

fn qemu_arguments(assets: &Assets, dir: &Path, measured: bool) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut args: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
    add("-accel", assets.accel.name().to_owned());
    add("-cpu", assets.accel.cpu().to_owned());
    add("-machine", "q35".to_owned());
    add("-smp", "2".to_owned());
    // Beyond the first number: memory that the guest can take online and offline again.
    add("-m", "512,slots=1,maxmem=1G".to_owned());
    add("-object", "memory-backend-ram,id=dimm,size=128M".to_owned());
    add("-device", "pc-dimm,memdev=dimm".to_owned());
    add("-kernel", assets.kernel.image.display().to_string());
    add("-initrd", path("initramfs"));
    // With this policy the kernel keeps itself out of the memory that is plugged in.
    let movable = "memory_hotplug.online_policy=auto-movable";
    add("-append", format!("console=ttyS0 quiet panic=-1 random.trust_cpu=on {movable}"));
    add("-display", "none".to_owned());
    // Appended, so that the console of an earlier run survives a restart.
    add("-chardev", format!("file,id=console,path={},append=on", path("console.log")));
    add("-serial", "chardev:console".to_owned());
    for socket in ["qmp.sock", "qmp-2.sock"] {
        add("-qmp", format!("unix:{},server=on,wait=off", path(socket)));
    }

    add("-device", "virtio-serial-pci".to_owned());
    let agents = [
        ("qga", "qga.sock", "org.qemu.guest_agent.0"),
        ("gateway", "gateway.sock", "org.qga.gateway.0"),
        ("control", "control.sock", Control::PORT),
    ];
    let bare = measured.then_some(("bare", "bare.sock", PORT));
    for (id, socket, port) in agents.into_iter().chain(bare) {
        let socket = path(socket);
        // What the guest says there is kept too, whoever listens.
        let log = format!(",logfile={socket}.log,logappend=on");
        let log = if measured { "" } else { &log };
        add("-chardev", format!("socket,id={id},path={socket},server=on,wait=off{log}"));
        add("-device", format!("virtserialport,id={id}-port,chardev={id},name={port}"));
    }

    let disks = std::iter::once("root").chain(Disk::DATA.iter().map(|disk| disk.name()));
    for name in disks {
        let image = path(&format!("{name}.img"));
        // Not for btrfs, which discards on its own, at any time.
        let discard = if name == Disk::Ext4.name() { "unmap" } else { "ignore" };
        add(
            "-drive",
            format!("if=none,id={name},file={image},format=raw,cache=writeback,discard={discard}"),
        );
        add("-device", format!("virtio-blk-pci,drive={name},serial={name}"));
    }
    args.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
    args
}
