//! What an agent makes of what the one before it left behind.

use super::*;
use crate::freeze::record::{Freeze, Stage};

fn frozen_for(term: i64) -> Bed {
    let bed = Bed::new();
    bed.freeze_for("a", Term::parse(term).unwrap());
    bed.outcome();
    bed
}

/// A bed in whose state directory a freeze was left at this stage.
fn left_at(stage: Stage, cause: Option<ThawCause>, settings: FreezeSettings) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let record = Record {
        boot_id: "boot".into(),
        generation: 4,
        freeze: Some(Freeze { stage, lease: None, since_ms: 0, deadline_ms: None, cause }),
        ..Record::default()
    };
    Store::new(dir.path()).save(&record).unwrap();
    std::fs::write(Marker::new(dir.path()).path(), "1 0\n").unwrap();
    Bed::start(settings, Fake::default(), dir, "boot")
}

fn hooked() -> FreezeSettings {
    FreezeSettings { hook: Some("/hook".into()), deadline: None, ..FreezeSettings::default() }
}

#[test]
fn a_freeze_goes_on_with_lease_deadline_and_results() {
    let bed = frozen_for(1000);
    bed.kernel.with(|inner| inner.now_ms = 300);
    let bed = bed.restart("boot");
    bed.wait_for(|bed| bed.read().generation == 1);
    let report = bed.read();
    assert_eq!((report.state, report.count), (FreezeState::Frozen, Some(3)));
    assert_eq!((report.lease.as_deref(), report.deadline_ms), (Some("a"), Some(700)));
    assert_eq!((report.since_ms, report.filesystems.len()), (Some(300), 3));
    bed.at(999);
    bed.thaw_for("a");
    let answer: LeasedThaw = serde_json::from_str(&bed.outcome()).unwrap();
    assert_eq!(answer.count, 3);
    bed.freeze();
    assert_eq!(bed.outcome(), "3");
    assert_eq!(bed.read().generation, 2);
}

#[test]
fn what_was_written_since_the_freeze_is_told_after_a_restart_too() {
    let bed = Bed::new();
    bed.kernel.with(|inner| inner.sectors.extend([("/a".into(), 100), ("/b".into(), 7)]));
    bed.freeze_for("a", Term::Unlimited);
    bed.outcome();
    bed.kernel.with(|inner| inner.sectors.extend([("/a".into(), 108), ("/c".into(), 1)]));
    let bed = bed.restart("boot");
    bed.thaw_for("a");
    let answer: LeasedThaw = serde_json::from_str(&bed.outcome()).unwrap();
    let written = |path: &str| {
        let mut all = answer.filesystems.iter();
        all.find(|one| one.mountpoint == path).unwrap().written_sectors
    };
    assert_eq!((written("/a"), written("/b"), written("/c")), (Some(8), Some(0), None));
}

#[test]
fn a_deadline_that_passed_meanwhile_thaws_at_once() {
    let bed = frozen_for(1000);
    bed.kernel.with(|inner| inner.now_ms = 2000);
    let bed = bed.restart("boot");
    bed.wait_for_phase(Phase::Thawed);
    assert_eq!(bed.cause(), Some(ThawCause::Deadline));
    // That is told even if yet another agent is asked.
    let bed = bed.restart("boot");
    bed.thaw();
    assert_eq!(bed.outcome(), "filesystems were thawed automatically 0 s ago (deadline)");
}

#[test]
fn without_a_deadline_it_stays_frozen() {
    let bed = frozen_for(0).restart("boot");
    bed.at(1_000_000_000);
    bed.order(Order::Renew(lease_of("b"), Term::Unlimited));
    assert_eq!(bed.outcome(), "the freeze is owned by lease 'a', not by 'b'");
    assert_eq!(bed.phase.now(), Phase::Frozen);
    bed.thaw();
    assert_eq!(bed.outcome(), "3");
}

#[test]
fn a_freeze_of_another_boot_is_over() {
    let bed = frozen_for(0).restart("next boot");
    bed.wait_for_phase(Phase::Thawed);
    assert!(!bed.marker.exists());
    assert_eq!((bed.cause(), bed.read().generation), (Some(ThawCause::Restart), 1));
    bed.thaw();
    assert_eq!(bed.outcome(), "filesystems were thawed automatically 0 s ago (restart)");
}

#[test]
fn an_agent_killed_in_its_freeze_hook_is_followed_by_the_thaw_hook_and_no_thaw() {
    let bed = left_at(Stage::Hook, None, hooked());
    bed.wait_for(|bed| !bed.marker.exists());
    assert_eq!(bed.kernel.log(), ["hook thaw"]);
    assert_eq!((bed.phase.now(), bed.cause()), (Phase::Thawed, Some(ThawCause::Restart)));
}

#[test]
fn an_agent_killed_in_its_thaw_hook_is_followed_by_that_hook() {
    let bed = left_at(Stage::ThawHook, Some(ThawCause::Lease), hooked());
    bed.wait_for(|bed| !bed.marker.exists());
    assert_eq!(bed.kernel.log(), ["hook thaw"]);
    assert_eq!((bed.phase.now(), bed.cause()), (Phase::Thawed, Some(ThawCause::Lease)));
    bed.thaw();
    assert_eq!(bed.outcome(), "0");
}

#[test]
fn an_agent_killed_half_way_leaves_a_frozen_guest() {
    for stage in [Stage::Freezing, Stage::Frozen] {
        let bed = left_at(stage, None, hooked());
        bed.wait_for(|bed| bed.read().generation == 4);
        assert_eq!(bed.phase.now(), Phase::Frozen);
        bed.thaw();
        assert_eq!(bed.outcome(), "0");
        assert_eq!(bed.kernel.log().last().unwrap(), "hook thaw");
    }
}

#[test]
fn what_is_mounted_nowhere_any_more_is_thawed_by_the_next_agent_too() {
    let bed = frozen_for(0);
    bed.kernel.with(|inner| inner.unmounted.extend(["/b".into()]));
    let bed = bed.restart("boot");
    bed.thaw();
    assert_eq!(bed.outcome(), "3");
    assert_eq!(bed.kernel.log()[3..], ["thaw /a", "thaw /c", "thaw /b"]);
    assert!(bed.read().filesystems.iter().all(|one| one.thaw == Some(ThawResult::Thawed)));
}

#[test]
fn a_filesystem_out_of_reach_keeps_the_guest_frozen_until_something_leads_to_it() {
    let bed = frozen_for(0);
    bed.kernel.with(|inner| {
        inner.unmounted.insert("/b".into());
        inner.out_of_reach.insert("/b".into());
    });
    let bed = bed.restart("boot");
    for thawed in [2, 2] {
        bed.thaw();
        let text = format!("failed to thaw: /b is out of reach; thawed {thawed} filesystems");
        assert_eq!(bed.outcome(), text);
        assert_eq!(bed.phase.now(), Phase::Frozen);
    }
    let failed = &bed.read().filesystems[1];
    assert_eq!((failed.thaw, failed.error.as_deref()), (None, Some("/b is out of reach")));
    bed.kernel.with(|inner| inner.out_of_reach.clear());
    bed.thaw();
    assert_eq!(bed.outcome(), "3");
    assert!(!bed.marker.exists());
}

#[test]
fn what_was_not_frozen_and_is_out_of_reach_keeps_nobody() {
    let bed = Bed::new();
    bed.kernel.with(|inner| {
        inner.unable.insert("/b".into());
        inner.out_of_reach.insert("/b".into());
    });
    bed.freeze();
    assert_eq!(bed.outcome(), "2");
    bed.thaw();
    assert_eq!(bed.outcome(), "2");
}

#[test]
fn a_marker_without_a_freeze_on_record_is_removed() {
    let bed = Bed::new();
    bed.freeze_and_thaw();
    std::fs::write(bed.marker.path(), "1 0\n").unwrap();
    let bed = bed.restart("boot");
    bed.wait_for_phase(Phase::Thawed);
    assert!(!bed.marker.exists());
    assert_eq!(bed.cause(), Some(ThawCause::Requested));
}

#[test]
fn what_qemu_ga_left_frozen_stays_frozen_whatever_is_on_record() {
    let bed = frozen_for(100);
    bed.kernel.with(|inner| inner.now_ms = 1000);
    std::fs::write(bed.marker.path(), "").unwrap();
    let dir = bed.dir;
    let bed = Bed::start(bed.settings, bed.kernel, dir, "boot");
    bed.at(2000);
    bed.thaw_for("a");
    assert_eq!(bed.outcome(), "the freeze is owned by no lease, so not by 'a'");
    assert_eq!(bed.phase.now(), Phase::Frozen);
    assert_eq!(bed.read().deadline_ms, None);
    bed.thaw();
    assert_eq!(bed.outcome(), "3");
}

#[test]
fn a_record_without_its_marker_is_of_a_freeze_that_is_over() {
    let bed = frozen_for(100);
    bed.marker.remove().unwrap();
    let bed = bed.restart("boot");
    bed.wait_for(|bed| bed.read().generation == 1);
    let report = bed.read();
    assert_eq!((report.state, report.lease, report.deadline_ms), (FreezeState::Thawed, None, None));
}
