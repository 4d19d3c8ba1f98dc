//! Every kind of mount that a guest may have, in one freeze.

use qga_e2e::{Control, Target as _, until};
use serde_json::{Value, json};

use crate::guests::{Guest, Kind, SOON, both_agents};
use crate::scenario::{ALL_FILESYSTEMS, pass_guest_time, wait_all_writing, wait_blocked};

both_agents!(kinds);

/// Mounts on top of the guest's disks, in this order. `upper` lies in a file on a disk that freezes
/// after it.
const MOUNTS: &str = "set -e
cd /run
mkdir vfat tmpfs bind ro upper lazy later
dd if=/dev/zero of=vfat.img bs=1M count=8 2>/dev/null
mkdosfs vfat.img >/dev/null
cp /small.ext4 ro.img
cp /small.ext4 lazy.img
cp /small.ext4 /data/ext4/upper.img
mount -t vfat -o loop vfat.img vfat
mount -t tmpfs tmpfs tmpfs
mount -o bind /data/ext4 bind
mount -t ext4 -o ro,loop ro.img ro
mount -t ext4 -o loop /data/ext4/upper.img upper
mount -t ext4 -o loop lazy.img lazy
echo dirty >upper/dirty";
/// Of those, what can be frozen: `ro`, `upper` and `lazy`. The bind mount is its disk.
const MORE_FILESYSTEMS: u64 = 3;

fn kinds(kind: Kind) {
    let Some(mut guest) = Guest::boot(kind) else { return };
    let mut agent = guest.vm.raw_agent().unwrap();
    agent.sync().unwrap();
    let control = guest.vm.control();
    control.output(MOUNTS).unwrap();
    let frozen = ALL_FILESYSTEMS + MORE_FILESYSTEMS;
    assert_eq!(agent.freeze().unwrap(), frozen);
    wait_blocked(control);

    // What cannot be frozen goes on, and so does what is mounted only now.
    control.output("echo x >/run/vfat/f && echo x >/run/tmpfs/f").unwrap();
    control
        .output("cd /run && cp /small.ext4 later.img && mount -o loop -t ext4 later.img later")
        .unwrap();
    control.output("echo x >/run/later/f && sync -f /run/later/f").unwrap();
    for at in ["bind", "upper", "lazy"] {
        let write = format!("echo x >/run/{at}/held && echo x >/run/done-{at}");
        control.output(&format!("({write}) >/dev/null 2>&1 &")).unwrap();
    }
    pass_guest_time(control);
    assert_eq!(done(control), "");
    // A stock agent loses what nothing leads to any more: that stays as it is.
    let lazily = matches!(kind, Kind::Ours);
    if lazily {
        control.output("umount -l /run/lazy").unwrap();
        let found = agent.call("x-guest-fsfreeze-report", &json!({})).unwrap();
        assert_eq!(result_of(&found, "/run/vfat"), "unsupported");
        for at in ["/run/ro", "/run/upper", "/run/lazy", "/data/btrfs"] {
            assert_eq!(result_of(&found, at), "frozen");
        }
        let listed = found["filesystems"].as_array().unwrap().len() as u64;
        assert_eq!(listed, frozen + 1, "no tmpfs, and the bind mount only once: {found}");
    }

    let thawed = agent.call("guest-fsfreeze-thaw", &json!({})).unwrap();
    assert_eq!(thawed, frozen);
    until("what was held to be written", SOON, || {
        Ok((done(control) == "/run/done-bind /run/done-lazy /run/done-upper").then_some(()))
    })
    .unwrap();
    wait_all_writing(control);
    assert!(!agent.is_frozen().unwrap());
}

/// Which of the writes have come to their end.
fn done(control: &mut Control) -> String {
    control.output("cd /run; for f in /run/done-*; do [ -e $f ] && echo $f; done | xargs").unwrap()
}

fn result_of<'a>(report: &'a Value, mountpoint: &str) -> &'a str {
    let all = report["filesystems"].as_array().unwrap();
    let found = all.iter().find(|one| one["mountpoint"] == mountpoint);
    found.unwrap_or_else(|| panic!("no {mountpoint} in {report}"))["freeze"].as_str().unwrap()
}
