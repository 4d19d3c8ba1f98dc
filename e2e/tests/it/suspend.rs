//! A guest that is suspended to memory and woken up by the host. Once per boot: what QEMU makes of a
//! second time differs.

use std::time::{Duration, Instant};

use qga_e2e::{Target as _, until};
use serde_json::json;

use crate::guests::{Guest, Kind, SOON};

/// Of the freeze; the guest sleeps twice as long.
const DEADLINE: Duration = Duration::from_secs(6);

#[test]
fn asked_for() {
    let Some(mut guest) = Guest::boot(Kind::Ours) else { return };
    let mut agent = guest.vm.raw_agent().unwrap();
    agent.sync().unwrap();
    // There is no answer to a suspend that worked.
    agent.send(b"{\"execute\":\"guest-suspend-ram\"}\n").unwrap();
    guest.vm.qmp().wait_event("SUSPEND", SOON).unwrap();
    guest.vm.qmp().execute("system_wakeup").unwrap();
    guest.vm.qmp().wait_event("WAKEUP", SOON).unwrap();
    until("an answer after the sleep", SOON, || Ok(agent.sync().ok())).unwrap();
    agent.ping().unwrap();
}

#[test]
fn past_a_deadline() {
    let Some(mut guest) = Guest::boot(Kind::Ours) else { return };
    let mut agent = guest.vm.raw_agent().unwrap();
    agent.sync().unwrap();

    // A writer that a freeze holds cannot be put to sleep, and then the kernel does not suspend at
    // all; nobody writes to the root disk.
    let freeze = json!({
        "lease": "asleep",
        "deadline-ms": DEADLINE.as_millis(),
        "mountpoints": ["/"],
    });
    let frozen = agent.call("x-guest-fsfreeze-freeze", &freeze).unwrap();
    let begun = Instant::now();
    assert_eq!(frozen["count"], 1);
    let sleep = "(sleep 0.2; echo mem >/sys/power/state) >/dev/null 2>&1 &";
    guest.vm.control().output(sleep).unwrap();
    guest.vm.qmp().wait_event("SUSPEND", SOON).unwrap();
    assert!(begun.elapsed() < DEADLINE, "{:?}: too late", begun.elapsed());
    until("a good while", SOON, || Ok((begun.elapsed() > DEADLINE * 2).then_some(()))).unwrap();
    guest.vm.qmp().execute("system_wakeup").unwrap();
    guest.vm.qmp().wait_event("WAKEUP", SOON).unwrap();
    let woken = Instant::now();

    // The deadline passed in its sleep: it does not begin anew, nor go on where it was.
    guest.vm.control().output("echo x >/awake && sync").unwrap();
    assert!(woken.elapsed() < DEADLINE / 2, "{:?}", woken.elapsed());
    // The write went through before the agent has seen that its FITHAW is done.
    let report = until("the end of the thaw", SOON, || {
        let report = agent.call("x-guest-fsfreeze-report", &json!({}))?;
        Ok((report["state"] == "thawed").then_some(report))
    });
    let report = report.unwrap();
    assert_eq!(report["last-thaw"]["cause"], "deadline", "{report}");
    assert!(!agent.is_frozen().unwrap());
}
