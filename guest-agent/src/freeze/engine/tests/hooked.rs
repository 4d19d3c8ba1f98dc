//! The freeze hook before, the thaw hook always after it.

use super::*;

#[test]
fn hooks_stand_around_freeze_and_thaw() {
    let bed = Bed::with_hook();
    bed.freeze();
    assert_eq!(bed.outcome(), "3");
    bed.thaw();
    assert_eq!(bed.outcome(), "3");
    let log = bed.kernel.log();
    assert_eq!((log.len(), log[0].as_str(), log[7].as_str()), (8, "hook freeze", "hook thaw"));
    // As qemu-ga's, a thaw of nothing runs it too.
    bed.thaw();
    assert_eq!(bed.outcome(), "0");
    assert_eq!(bed.kernel.log()[11..], ["hook thaw"]);
}

#[test]
fn a_freeze_hook_that_fails_is_followed_by_the_thaw_hook_and_nothing_is_frozen() {
    let bed = Bed::with_hook();
    bed.fail("hook freeze");
    bed.freeze();
    assert_eq!(bed.outcome(), "child process has failed: boom (/hook freeze)");
    assert_eq!(bed.kernel.log(), ["hook freeze", "hook thaw"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
    assert!(!bed.marker.exists());
    assert_eq!(bed.cause(), Some(ThawCause::Rollback));
}

#[test]
fn the_thaw_hook_follows_a_freeze_of_nothing_a_rollback_and_a_list_that_fails() {
    let bed = Bed::with_hook();
    bed.kernel.with(|inner| inner.unable.extend(["/a", "/b", "/c"].map(String::from)));
    bed.freeze();
    assert_eq!(bed.outcome(), "0");
    assert_eq!(bed.kernel.log()[4..], ["hook thaw"]);
    assert_eq!(bed.cause(), None);
    assert!(!bed.marker.exists());

    let bed = Bed::with_hook();
    bed.fail("/c");
    bed.freeze();
    assert_eq!(bed.outcome(), "failed to freeze /c: Input/output error");
    assert_eq!(bed.kernel.log()[2..], ["thaw /a", "thaw /b", "thaw /c", "hook thaw"]);

    // The hook takes away what the list names.
    let bed = Bed::with_hook();
    bed.hang("hook freeze");
    bed.order(Order::Freeze { names: Some(vec!["/c".into()]), lease: None });
    bed.kernel.wait_for("hook freeze");
    bed.kernel.with(|inner| {
        inner.unmounted.insert("/c".into());
        inner.hanging.clear();
    });
    assert!(bed.outcome().starts_with("failed to freeze /c: "));
    assert_eq!(bed.kernel.log(), ["hook freeze", "hook thaw"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
}

#[test]
fn a_list_that_is_wrong_from_the_start_runs_no_hook() {
    let bed = Bed::with_hook();
    bed.order(Order::Freeze { names: Some(vec!["/nonexistent".into()]), lease: None });
    assert_eq!(bed.outcome(), "failed to freeze /nonexistent: No such file or directory");
    assert!(bed.kernel.log().is_empty());
    assert_eq!(bed.phase.now(), Phase::Thawed);
}

#[test]
fn a_thaw_hook_that_fails_is_an_error_although_all_is_thawed() {
    let bed = Bed::with_hook();
    bed.fail("hook thaw");
    bed.freeze();
    assert_eq!(bed.outcome(), "3");
    bed.thaw();
    assert_eq!(bed.outcome(), "child process has failed: boom\n");
    assert_eq!(bed.phase.now(), Phase::Thawed);
    assert!(bed.kernel.inner.lock().unwrap().frozen.is_empty());
    assert!(!bed.marker.exists());
    let thaw = bed.read().last_thaw.unwrap();
    assert_eq!(thaw.count, 3);
    assert_eq!(thaw.hook_error.as_deref(), Some("child process has failed: boom\n"));
    // The next freeze and thaw are judged by themselves.
    bed.kernel.with(|inner| inner.failing.clear());
    bed.freeze_and_thaw();
}

#[test]
fn a_thaw_stops_a_freeze_hook_that_hangs() {
    let bed = Bed::with_hook();
    bed.hang("hook freeze");
    bed.freeze();
    bed.kernel.wait_for("hook freeze");
    bed.wait_for(|bed| bed.read().hook.as_deref() == Some("freeze"));
    bed.thaw_for("x");
    assert_eq!(bed.outcome(), "the freeze is owned by no lease, so not by 'x'");
    bed.thaw();
    assert_eq!(bed.outcomes(2), ["stopped by thaw", "0"]);
    assert_eq!(bed.kernel.log(), ["hook freeze", "hook thaw"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
}

#[test]
fn while_the_thaw_hook_runs_all_is_thawed_and_the_next_freeze_waits() {
    let bed = Bed::with_hook();
    bed.freeze();
    assert_eq!(bed.outcome(), "3");
    bed.hang("hook thaw");
    bed.thaw();
    bed.kernel.wait_for("hook thaw");
    bed.wait_for_phase(Phase::Thawed);
    assert_eq!(bed.read().hook.as_deref(), Some("thaw"));
    // Until it ends, the next agent would have to run it.
    assert!(bed.marker.exists());
    bed.freeze();
    bed.release("hook thaw");
    assert_eq!(bed.outcomes(2), ["3", "3"]);
    assert_eq!(bed.read().hook, None);
}

#[test]
fn a_stuck_filesystem_does_not_keep_the_thaw_hook_from_running_once() {
    let bed = Bed::with_hook();
    bed.hang("/b");
    bed.freeze();
    bed.kernel.wait_for("freeze /b");
    bed.thaw();
    assert!(bed.outcomes(2)[1].starts_with("failed to thaw /b: busy"));
    let hooks = |bed: &Bed| bed.kernel.log().iter().filter(|line| *line == "hook thaw").count();
    assert_eq!((hooks(&bed), bed.phase.now()), (1, Phase::Frozen));
    bed.release("/b");
    bed.wait_for_phase(Phase::Thawed);
    assert_eq!(hooks(&bed), 1);
}

#[test]
fn a_hook_whose_start_hangs_is_given_up() {
    let settings =
        FreezeSettings { hook: Some("/hook".into()), hook_timeout: Duration::ZERO, deadline: None };
    let dir = tempfile::tempdir().unwrap();
    let marker = Marker::new(dir.path());
    let bed = Bed::start(settings, Fake::default(), dir, "boot");
    bed.hang("hook freeze");
    bed.freeze();
    let text = "child process has failed to execute fsfreeze hook: no end after 0 s (/hook freeze)";
    assert_eq!(bed.outcome(), text);
    assert!(!marker.exists());
}
