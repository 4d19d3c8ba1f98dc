//! `deploy/examples/snapshot-vm`, as a backup tool would run it: the images that it leaves hold what
//! the guest's writers wrote, and the guest is thawed however it ends.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use qga_e2e::{Disk, Progress, Target as _, cat_from_ext4, needs_recovery, until, whole_records};
use serde_json::{Value, json};

use crate::guests::{Guest, Kind, SOON, Served, both_agents};
use crate::scenario::{progress, wait_all_writing};

both_agents!(snapshot);

fn snapshot(kind: Kind) {
    if qga_testing::program("python3").is_none() {
        return qga_testing::missing("no python3; run scripts/install-deps");
    }
    let Some(mut served) = Served::start(kind) else { return };
    let tool = Tool::new(&served);
    holds_what_was_written(kind, &mut served, &tool);
    renews_for_as_long_as_it_takes(&mut served, &tool);
    fails_and_thaws(&mut served, &tool);
    is_no_good_when_somebody_else_thaws(&mut served, &tool);
    killed_it_leaves_the_thaw_to_the_lease(&mut served, &tool);
    is_no_good_when_the_gateway_dies(&mut served, &tool);
}

/// The program, with what is the same in each of its runs.
struct Tool {
    out: PathBuf,
    arguments: Vec<PathBuf>,
    fsfreeze: String,
}

impl Tool {
    fn new(served: &Served) -> Self {
        let out = served.guest.dir().join("backup");
        fs::create_dir(&out).unwrap();
        let (api, qmp) = (served.gateway.socket(), served.guest.vm.second_qmp_socket());
        let words = ["--vm", "vm", "--disk", "ext4", "--disk", "xfs", "--disk", "btrfs"];
        let mut arguments: Vec<PathBuf> = words.map(PathBuf::from).into();
        for (option, path) in [("--api", &api), ("--qmp", &qmp), ("--out", &out)] {
            arguments.extend([PathBuf::from(option), path.to_owned()]);
        }
        let api = api.display();
        let fsfreeze = format!("curl -sS --unix-socket {api} http://localhost/vms/vm/fsfreeze");
        Self { out, arguments, fsfreeze }
    }

    fn run(&self, ttl: u32, command: &str) -> Output {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/snapshot-vm");
        let begun = Instant::now();
        let done = Command::new(program)
            .args(&self.arguments)
            .args(["--ttl", &ttl.to_string(), "--run", command])
            .output()
            .unwrap();
        let seconds = begun.elapsed().as_secs_f32();
        let said = String::from_utf8_lossy(&done.stderr);
        eprintln!("{command:?}: {} after {seconds:.1} s: {said}", done.status);
        done
    }

    /// What it has left in its directory.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.out).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn clear(&self) {
        for name in self.left() {
            fs::remove_file(self.out.join(name)).unwrap();
        }
    }

    fn image(&self, disk: Disk) -> PathBuf {
        self.out.join(format!("{disk}.img"))
    }
}

const IMAGES: [&str; 3] = ["btrfs.img", "ext4.img", "xfs.img"];

fn assert_thawed(served: &mut Served) {
    assert!(!served.target.is_frozen().unwrap());
    wait_all_writing(served.guest.vm.control());
}

fn holds_what_was_written(kind: Kind, served: &mut Served, tool: &Tool) {
    let before = progress(served.guest.vm.control());
    let done = tool.run(30, &format!("{} | grep -q '\"frozen\"'", tool.fsfreeze));
    assert!(done.status.success());
    let after = progress(served.guest.vm.control());
    let summary: Value = serde_json::from_slice(&done.stdout).unwrap();
    let verdict = summary["lease"]["verdict"].as_str().unwrap();
    match kind {
        Kind::Ours => assert!(["held", "counts_agree"].contains(&verdict), "{summary}"),
        Kind::Stock => assert_eq!(verdict, "counts_agree", "{summary}"),
    }
    assert_eq!(summary["lease"]["filesystems"], json!(4));
    assert_eq!(summary["images"]["xfs"], json!(tool.image(Disk::Xfs)));
    assert_eq!(tool.left(), IMAGES);

    assert_holds(&served.guest, |disk| tool.image(disk), &before, &after);
    assert_thawed(served);
    tool.clear();
}

/// The copies need no journal, and hold whole records: not fewer than were written `before`, and not more
/// than had been begun `after`.
pub(crate) fn assert_holds(
    guest: &Guest,
    image: impl Fn(Disk) -> PathBuf,
    before: &[Progress],
    after: &[Progress],
) {
    assert!(!needs_recovery(&image(Disk::Ext4)).unwrap(), "no journal to be replayed");
    for (at, disk) in Disk::DATA.into_iter().enumerate() {
        let Some(content) = records(guest, &image(disk), disk) else { continue };
        let (records, torn) = whole_records(&content).unwrap();
        assert_eq!(torn, 0, "{disk}: the last record must be whole");
        let possible = before[at].done..=after[at].begun;
        assert!(possible.contains(&records), "{disk}: {records} records, not in {possible:?}");
    }
}

/// The writer's file in an image, mounted read-only where nobody else sees it, and without the
/// journal being replayed: what is there was there when the copy began.
fn records(guest: &Guest, image: &Path, disk: Disk) -> Option<Vec<u8>> {
    if !rustix::process::geteuid().is_root() {
        qga_testing::unavailable("not root: of the snapshots only ext4 is looked into");
        return (disk == Disk::Ext4).then(|| cat_from_ext4(image, "/records").unwrap());
    }
    let options = match disk {
        Disk::Ext4 => "ro,loop,noload",
        Disk::Xfs => "ro,loop,norecovery",
        Disk::Btrfs => "ro,loop,rescue=nologreplay",
    };
    let at = guest.dir().join("mounted");
    fs::create_dir_all(&at).unwrap();
    let script = "mount --make-rprivate / && mount -t $1 -o $2 $3 $4 && cat $4/records";
    let done = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh", disk.name(), options])
        .args([image, &at])
        .output()
        .unwrap();
    assert!(done.status.success(), "{disk}: {}", String::from_utf8_lossy(&done.stderr));
    Some(done.stdout)
}

fn renews_for_as_long_as_it_takes(served: &mut Served, tool: &Tool) {
    let done = tool.run(2, "sleep 4");
    assert!(done.status.success());
    assert_eq!(tool.left(), IMAGES);
    assert_thawed(served);
    tool.clear();
}

fn fails_and_thaws(served: &mut Served, tool: &Tool) {
    for (command, status) in [("exit 7", 1), ("kill $PPID; sleep 60", 143)] {
        assert_eq!(tool.run(30, command).status.code(), Some(status), "{command}");
        assert_thawed(served);
        assert!(tool.left().is_empty());
    }
}

/// The verdict of such a lease may be the best; the copies may have begun after its end all the same.
fn is_no_good_when_somebody_else_thaws(served: &mut Served, tool: &Tool) {
    let done = tool.run(30, &format!("{} -X DELETE", tool.fsfreeze));
    assert_eq!(done.status.code(), Some(3));
    assert_thawed(served);
    assert!(tool.left().is_empty());
}

fn killed_it_leaves_the_thaw_to_the_lease(served: &mut Served, tool: &Tool) {
    let begun = Instant::now();
    assert_eq!(tool.run(4, "kill -9 $PPID").status.signal(), Some(9));
    assert!(tool.left().iter().all(|name| name.ends_with(".partial")), "{:?}", tool.left());
    assert!(served.target.is_frozen().unwrap() || begun.elapsed() > Duration::from_secs(4));
    until("the lease's end", SOON, || Ok((!served.target.is_frozen()?).then_some(()))).unwrap();
    assert_thawed(served);
    // What it has left in QEMU is no obstacle to the next one.
    assert!(tool.run(30, "true").status.success());
    assert_eq!(tool.left(), IMAGES);
    assert_thawed(served);
}

/// The gateway is killed while the copies begin. The guest stays frozen for the lease's time at most;
/// whoever asks the dead gateway whether the freeze holds has no snapshot.
fn is_no_good_when_the_gateway_dies(served: &mut Served, tool: &Tool) {
    tool.clear();
    let kill = format!("kill -9 {}; sleep 1", served.gateway.pid());
    let done = std::thread::scope(|scope| {
        let tool = scope.spawn(|| tool.run(30, &kill));
        until("the gateway's end", SOON, || served.gateway.ended()).unwrap();
        // Long after the tool has asked it, which is after a second.
        let dead = Instant::now();
        let long = Duration::from_secs(3);
        until("a while", SOON, || Ok((dead.elapsed() > long).then_some(()))).unwrap();
        // Here, because a gateway ends with the thread that has started it.
        served.gateway.start_again().unwrap();
        tool.join().unwrap()
    });
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stdout.is_empty(), "a summary: {}", String::from_utf8_lossy(&done.stdout));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("the gateway does not answer, so nobody knows"), "{said}");
    assert!(tool.left().is_empty(), "{:?}", tool.left());
    assert_thawed(served);
}
