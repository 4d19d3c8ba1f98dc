//! A mount namespace in which an agent can freeze filesystems without danger to the machine.
//!
//! The agent runs below a root directory of its own, a tmpfs. The kernel shows it only the mounts
//! below that, which are the loop mounts of its test; before anything is frozen, that is checked
//! from outside. A process that holds the namespace keeps all of it alive and ends with the test.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{AGENT, Agent, LIMIT, wait_for};

/// The namespace. Dropped, it thaws what is still frozen in it, and goes.
pub(crate) struct Cell {
    holder: Child,
    dir: tempfile::TempDir,
}

/// What is run in the new namespace: a root, and then nothing until standard input ends.
const SETUP: &str = "set -e
mount --make-rprivate /
mount -t tmpfs cell \"$OUTER\"
mkdir -p \"$OUTER/images\" \"$ROOT/proc\" \"$ROOT/dev\" \"$ROOT/run\" \"$ROOT/sbin\" \"$ROOT/mnt\"
mount -t tmpfs root \"$ROOT\"
mkdir -p \"$ROOT/proc\" \"$ROOT/sys\" \"$ROOT/dev\" \"$ROOT/run\" \"$ROOT/sbin\" \"$ROOT/mnt\"
mount -t proc proc \"$ROOT/proc\"
mount -t sysfs sysfs \"$ROOT/sys\"
mount -t devtmpfs dev \"$ROOT/dev\"
cp \"$AGENT\" \"$ROOT/qga-agent\"
echo ready
read end || true";

impl Cell {
    /// A cell, or the reason why there is none on this machine: rights or kernel, which nothing
    /// of this repository could provide.
    pub(crate) fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".into());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Err("no loop devices".into());
        }
        let dir = tempfile::tempdir().unwrap();
        let mut holder = Command::new("unshare")
            .args(["-m", "sh", "-c", SETUP])
            .env("OUTER", dir.path())
            .env("ROOT", dir.path().join("root"))
            .env("AGENT", AGENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let mut ready = String::new();
        let stdout = holder.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut ready).unwrap();
        if ready != "ready\n" {
            let _ = holder.wait();
            return Err("no mount namespace of its own".into());
        }
        Ok(Self { holder, dir })
    }

    /// A command that runs in the namespace, still with the machine's programs.
    fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .arg(program)
            .env("OUTER", self.dir.path())
            .env("ROOT", self.dir.path().join("root"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell script in the namespace; `$ROOT` is the agent's root, `$OUTER` what is around.
    pub(crate) fn sh(&self, script: &str) {
        let output = self.enter("sh").args(["-ec", script]).output().unwrap();
        assert!(
            output.status.success(),
            "{script}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Makes a filesystem in a file and mounts it at `at`, below the agent's root.
    pub(crate) fn mount(&self, fs_type: &str, at: &str) {
        let name = at.replace('/', "_");
        let (size, options) = match fs_type {
            "ext4" => ("32M", "-q"),
            "xfs" => ("320M", "-q"),
            "btrfs" => ("160M", "-q"),
            "vfat" => ("32M", ""),
            other => panic!("{other}"),
        };
        self.sh(&format!(
            "truncate -s {size} \"$OUTER/images/{name}\"
             mkfs.{fs_type} {options} \"$OUTER/images/{name}\"
             mkdir -p \"$ROOT{at}\"
             mount -o loop \"$OUTER/images/{name}\" \"$ROOT{at}\""
        ));
    }

    /// Puts a shell and a few programs, with their libraries, into the agent's root.
    pub(crate) fn add_shell(&self) {
        self.sh("for program in sh sleep rm basename cat; do
                     found=$(command -v $program)
                     for file in $found $(ldd $found | grep -o '/[^ ]*'); do
                         mkdir -p \"$ROOT${file%/*}\"
                         cp -Ln $file \"$ROOT$file\" || [ -e \"$ROOT$file\" ]
                     done
                     mkdir -p $ROOT/bin
                     [ -e $ROOT/bin/$program ] || cp -L $found $ROOT/bin/$program
                 done");
    }

    /// Runs the agent in the cell; the state directory is `/run` unless `more` says otherwise.
    pub(crate) fn start(&self, more: &[&str]) -> Agent {
        self.start_program("/qga-agent", more)
    }

    /// The same for another agent, which has to be in the cell with all that it needs.
    pub(crate) fn start_program(&self, program: &str, more: &[&str]) -> Agent {
        let mut command = self.enter("chroot");
        command.arg(self.dir.path().join("root"));
        command.args([program, "-m", "unix-listen", "-p", "/run/socket", "-t", "/run"]);
        command.args(more).stderr(Stdio::null());
        let agent = Agent::spawn(&mut command, &self.path("/run/socket"));
        self.assert_safe(&agent);
        agent
    }

    /// The agent must not see any filesystem on a block device but this test's loop devices.
    fn assert_safe(&self, agent: &Agent) {
        let root = std::fs::metadata("/").unwrap();
        let machine = (rustix::fs::major(root.dev()), rustix::fs::minor(root.dev()));
        let table =
            std::fs::read_to_string(format!("/proc/{}/mountinfo", agent.child.id())).unwrap();
        assert!(!table.is_empty());
        for line in table.lines() {
            let (major, minor) = line.split(' ').nth(2).unwrap().split_once(':').unwrap();
            let device: (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
            assert_ne!(device, machine, "DANGER: the agent sees the machine's root: {line}");
            let on_loop = device.0 == 7 || line.contains(" - btrfs /dev/loop");
            assert!(on_loop || device.0 == 0, "DANGER: not a loop mount: {line}");
        }
    }

    /// Where a path of the agent's root is for this test.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        let root = self.dir.path().join("root");
        PathBuf::from(format!("/proc/{}/root{}{path}", self.holder.id(), root.display()))
    }

    /// Starts to append to a file of the agent's root, in a process of its own.
    pub(crate) fn writer(&self, path: &str) -> Writer {
        let child = Command::new("sh")
            .args(["-c", "echo record >> \"$0\""])
            .arg(self.path(path))
            .spawn()
            .unwrap();
        Writer { child }
    }

    /// Writes to a file until the kernel does not let a writer go on; returns that writer.
    pub(crate) fn blocked_writer(&self, path: &str) -> Writer {
        wait_for("a write to block", || {
            let mut writer = self.writer(path);
            writer.blocks().then_some(writer)
        })
    }
}

impl Cell {
    /// Kills all processes of the namespace but its holder; whether there were any.
    fn kill_others(&self) -> bool {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let holder = self.holder.id().to_string();
        let Some(ours) = namespace(&holder) else { return false };
        assert_ne!(namespace("self").as_ref(), Some(&ours), "DANGER: not a namespace of its own");
        let mut any = false;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().into_string() else { continue };
            if pid != holder
                && namespace(&pid).as_ref() == Some(&ours)
                && let Some(process) = pid.parse().ok().and_then(Pid::from_raw)
            {
                any = true;
                let _ = kill_process(process, Signal::KILL);
            }
        }
        any
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // From the outside in: what is on a frozen filesystem cannot be thawed before it is.
        let thaw = "for m in $(grep -E \" $OUTER\" /proc/self/mountinfo | cut -d' ' -f5); do
                        fsfreeze -u \"$m\" 2>/dev/null || true
                    done";
        let _ = self.enter("sh").args(["-c", thaw]).status();
        // Whatever a test left running in here would outlive the directory below its root, and
        // the kernel then keeps the mounts for good.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.kill_others() && Instant::now() < deadline {
            let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A process that writes one record to a file.
pub(crate) struct Writer {
    child: Child,
}

impl Writer {
    /// Whether the kernel stops it, before it has written.
    fn blocks(&mut self) -> bool {
        wait_for("the writer to block or to end", || {
            if self.child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('D').then_some(true)
        })
    }

    /// Waits until it has written.
    pub(crate) fn wait_until_done(&mut self) {
        let status = wait_for("the writer's end", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status} within {LIMIT:?}");
    }
}

/// The cell, or a note that the test was skipped.
macro_rules! cell_or_skip {
    () => {
        match $crate::cell::Cell::new() {
            Ok(cell) => cell,
            Err(reason) => {
                qga_testing::unavailable(&reason);
                return;
            }
        }
    };
}
pub(crate) use cell_or_skip;

/// Whether this machine can make and mount a filesystem; says so if it cannot.
pub(crate) fn available(fs_type: &str) -> bool {
    // A module that nobody has asked for yet is not listed. Without modprobe there are none.
    let _ = Command::new("modprobe").args(["-q", fs_type]).status();
    let known = std::fs::read_to_string("/proc/filesystems").unwrap();
    if !known.lines().any(|line| line.split_whitespace().next_back() == Some(fs_type)) {
        qga_testing::unavailable(&format!("no {fs_type} in this machine's kernel"));
        return false;
    }
    let maker = format!("mkfs.{fs_type}");
    let makeable = qga_testing::program(&maker).is_some();
    if !makeable {
        qga_testing::missing(&format!("no {maker}; run scripts/install-deps"));
    }
    makeable
}
