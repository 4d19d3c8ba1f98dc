//! What is to be shown of a freeze, whichever way the agent is reached.

use std::fs;
use std::path::PathBuf;

use qga_e2e::{
    Control, Disk, Progress, Target, cat_from_ext4, fingerprint, needs_recovery, until,
    whole_records,
};

use crate::guests::{Guest, SOON};

/// The root disk and the data disks.
pub(crate) const ALL_FILESYSTEMS: u64 = 4;

/// Guest time during which a frozen guest must not have written anything.
const WATCHED_SECONDS: f64 = 1.5;

/// Writers write, a freeze stops them and the images, the image of ext4 is then consistent by
/// itself, and a thaw lets them go on.
pub(crate) fn freeze_holds_every_disk(guest: &mut Guest, target: &mut dyn Target) {
    assert!(!target.is_frozen().unwrap());
    let unfrozen = copy_ext4(guest, "unfrozen.img");
    assert!(needs_recovery(&unfrozen).unwrap(), "a copy without a freeze must need its journal");

    wait_all_writing(guest.vm.control());
    assert_eq!(target.freeze().unwrap(), ALL_FILESYSTEMS);
    assert!(target.is_frozen().unwrap());
    let held = wait_blocked(guest.vm.control());

    let before = fingerprints(guest);
    pass_guest_time(guest.vm.control());
    assert_eq!(fingerprints(guest), before, "images must not change while frozen");
    assert_eq!(progress(guest.vm.control()), held, "writers must not go on while frozen");

    let frozen = copy_ext4(guest, "frozen.img");
    assert!(!needs_recovery(&frozen).unwrap(), "a copy while frozen must not need its journal");
    let content = cat_from_ext4(&frozen, "/records").unwrap();
    let (records, torn) = whole_records(&content).unwrap();
    assert_eq!(torn, 0, "the last record must be whole");
    assert!(
        (held[0].done..=held[0].begun).contains(&records),
        "{records} records in the copy, but {:?}",
        held[0]
    );

    target.thaw().unwrap();
    assert!(!target.is_frozen().unwrap());
    wait_all_writing(guest.vm.control());
    let after = fingerprints(guest);
    assert!(before.iter().zip(&after).all(|(b, a)| b != a), "every image changes after the thaw");
}

/// The agent dies while the guest is frozen: the guest stays frozen, the next agent knows it by
/// the marker in its state directory, and its thaw works.
pub(crate) fn agent_dies_while_frozen(guest: &mut Guest, target: &mut dyn Target) {
    const MARKER: &str = "test -e /run/qga/qga.state.isfrozen";
    let control = guest.vm.control();
    wait_all_writing(control);
    assert_eq!(target.freeze().unwrap(), ALL_FILESYSTEMS);
    let killed = control.kill_agent(false).unwrap();
    until("the agent's end", SOON, || Ok((control.agent_pid()? == 0).then_some(()))).unwrap();
    assert_eq!(control.run(MARKER).unwrap().status, 0, "the marker must survive the agent");
    let held = wait_blocked(control);
    pass_guest_time(control);
    assert_eq!(progress(control), held, "nothing but a thaw may end a freeze");

    control.start_agent().unwrap();
    let pid = until("a new agent", SOON, || Ok(Some(control.agent_pid()?).filter(|pid| *pid != 0)))
        .unwrap();
    assert_ne!(pid, killed);
    until("the new agent's answer", SOON, || Ok(target.ping().ok())).unwrap();
    assert!(target.is_frozen().unwrap(), "the new agent must know that the guest is frozen");
    assert_eq!(progress(control), held);

    target.thaw().unwrap();
    assert!(!target.is_frozen().unwrap());
    wait_all_writing(control);
    assert_ne!(control.run(MARKER).unwrap().status, 0, "the thaw must remove the marker");
}

/// How far each writer is, in the order of [`Disk::DATA`].
pub(crate) fn progress(control: &mut Control) -> Vec<Progress> {
    Disk::DATA.into_iter().map(|disk| control.progress(disk).expect("progress")).collect()
}

/// Waits until every writer hangs in a record; gives how far they came.
pub(crate) fn wait_blocked(control: &mut Control) -> Vec<Progress> {
    // A writer that merely is in mid-record has moved on when looked at again later.
    let blocked = |found: &[Progress]| found.iter().all(|p| p.begun > p.done);
    until("blocked writers", SOON, || {
        let found = progress(control);
        if !blocked(&found) {
            return Ok(None);
        }
        pass_guest_time(control);
        Ok((progress(control) == found).then_some(found))
    })
    .expect("blocked writers")
}

/// Waits until every writer has finished another record.
pub(crate) fn wait_all_writing(control: &mut Control) {
    for disk in Disk::DATA {
        control.wait_writing(disk, SOON).expect("a writer that goes on");
    }
}

/// Lets the guest's own clock move, which shows that it runs.
pub(crate) fn pass_guest_time(control: &mut Control) {
    let mut uptime = || -> f64 {
        let text = control.output("cut -d' ' -f1 /proc/uptime").expect("uptime");
        text.parse().expect("seconds")
    };
    let end = uptime() + WATCHED_SECONDS;
    until("guest time", SOON, || Ok((uptime() >= end).then_some(()))).expect("a running guest");
}

/// One number per image, in the order of [`Disk::DATA`].
pub(crate) fn fingerprints(guest: &Guest) -> Vec<u64> {
    Disk::DATA.into_iter().map(|d| fingerprint(&guest.vm.image(d)).expect("an image")).collect()
}

fn copy_ext4(guest: &Guest, name: &str) -> PathBuf {
    let copy = guest.dir().join(name);
    fs::copy(guest.vm.image(Disk::Ext4), &copy).expect("a copy");
    copy
}
