//! A freeze that has an owner and a deadline, of every disk of a guest, the root's included.

use qga_e2e::{RawAgent, Target as _, until};
use serde_json::{Value, json};

use crate::families::text;
use crate::guests::{Guest, SOON};
use crate::scenario::{
    ALL_FILESYSTEMS, fingerprints, pass_guest_time, progress, wait_all_writing, wait_blocked,
};

/// How each freeze ends: by its owner, by its deadline, and by its deadline after the agent died.
pub(crate) fn hold_and_end(guest: &mut Guest, agent: &mut RawAgent) {
    held_and_thawed_by_its_owner(guest, agent);
    left_to_the_deadline(guest, agent);
    left_to_the_deadline_of_a_dead_agent(guest, agent);
}

fn held_and_thawed_by_its_owner(guest: &mut Guest, agent: &mut RawAgent) {
    let frozen = freeze(agent, "owner", 60_000);
    let held = wait_blocked(guest.vm.control());
    let before = fingerprints(guest);
    // Each round is 1.5 s of the guest's time.
    for _ in 0..4 {
        let renewed = agent.call("x-guest-fsfreeze-renew", &lease("owner", 60_000)).unwrap();
        assert_eq!(renewed["generation"], frozen["generation"]);
        agent.ping().unwrap();
        let found = report(agent);
        assert_eq!((&found["state"], &found["lease"]), (&json!("frozen"), &json!("owner")));
        assert_eq!(found["stuck"], json!([]));
        assert!(found["deadline-ms"].as_u64().unwrap() <= 60_000);
        let others = agent.call("x-guest-fsfreeze-thaw", &json!({ "lease": "other" }));
        assert_eq!(
            text(&others.unwrap_err()),
            "the freeze is owned by lease 'owner', not by 'other'"
        );
        pass_guest_time(guest.vm.control());
    }
    assert_eq!(progress(guest.vm.control()), held);
    assert_eq!(fingerprints(guest), before, "images must not change while frozen");

    let thawed = agent.call("x-guest-fsfreeze-thaw", &json!({ "lease": "owner" })).unwrap();
    for member in ["count", "generation", "agent-instance", "boot-id"] {
        assert_eq!(thawed[member], frozen[member], "{member}");
    }
    assert!(only(&thawed, "frozen").iter().all(|f| f["thaw"] == "thawed"), "{thawed}");
    assert_eq!(report(agent)["last-thaw"]["cause"], "lease");
    wait_all_writing(guest.vm.control());
    // Nothing was automatic, so there is nothing to be told.
    assert_eq!(agent.call("guest-fsfreeze-thaw", &json!({})).unwrap(), 0);
}

fn left_to_the_deadline(guest: &mut Guest, agent: &mut RawAgent) {
    freeze(agent, "forgotten", 6_000);
    wait_blocked(guest.vm.control());
    wait_thawed(agent);
    wait_all_writing(guest.vm.control());
    told_of_the_deadline(agent, "forgotten");
}

fn left_to_the_deadline_of_a_dead_agent(guest: &mut Guest, agent: &mut RawAgent) {
    let frozen = freeze(agent, "orphan", 60_000);
    let control = guest.vm.control();
    let held = wait_blocked(control);
    agent.call("x-guest-fsfreeze-renew", &lease("orphan", 12_000)).unwrap();
    let killed = control.kill_agent(true).unwrap();
    until("another agent", SOON, || {
        Ok(Some(control.agent_pid()?).filter(|p| ![0, killed].contains(p)))
    })
    .unwrap();
    until("its answer", SOON, || Ok(agent.ping().ok())).unwrap();
    let found = report(agent);
    assert_eq!((&found["state"], &found["lease"]), (&json!("frozen"), &json!("orphan")));
    assert_eq!(found["generation"], frozen["generation"]);
    assert_ne!(found["agent-instance"], frozen["agent-instance"]);
    let left = found["deadline-ms"].as_u64().unwrap();
    assert!((1..12_000).contains(&left), "the deadline goes on where it was: {left}");
    assert_eq!(progress(control), held);

    wait_thawed(agent);
    wait_all_writing(control);
    told_of_the_deadline(agent, "orphan");
}

fn lease(name: &str, deadline: u64) -> Value {
    json!({ "lease": name, "deadline-ms": deadline })
}

fn freeze(agent: &mut RawAgent, name: &str, deadline: u64) -> Value {
    let frozen = agent.call("x-guest-fsfreeze-freeze", &lease(name, deadline)).unwrap();
    assert_eq!(frozen["count"], ALL_FILESYSTEMS, "{frozen}");
    let mut mount_points: Vec<_> =
        only(&frozen, "frozen").iter().map(|f| f["mountpoint"].as_str().unwrap()).collect();
    mount_points.sort_unstable();
    assert_eq!(mount_points, ["/", "/data/btrfs", "/data/ext4", "/data/xfs"]);
    frozen
}

fn only<'a>(answer: &'a Value, result: &str) -> Vec<&'a Value> {
    let filesystems = answer["filesystems"].as_array().expect("filesystems");
    filesystems.iter().filter(|f| f["freeze"] == result).collect()
}

fn report(agent: &mut RawAgent) -> Value {
    agent.call("x-guest-fsfreeze-report", &json!({})).unwrap()
}

fn wait_thawed(agent: &mut RawAgent) {
    until("the deadline", SOON, || Ok((report(agent)["state"] == "thawed").then_some(()))).unwrap();
    assert!(!agent.is_frozen().unwrap());
}

/// Both ways to learn that the freeze ended by itself.
fn told_of_the_deadline(agent: &mut RawAgent, lease: &str) {
    let last = report(agent)["last-thaw"].take();
    assert_eq!((&last["cause"], &last["lease"]), (&json!("deadline"), &json!(lease)), "{last}");
    assert_eq!((&last["count"], &last["untold"]), (&json!(ALL_FILESYSTEMS), &json!(true)));
    let told = agent.call("guest-fsfreeze-thaw", &json!({})).unwrap_err();
    let told = text(&told);
    assert!(
        told.starts_with("filesystems were thawed automatically ")
            && told.ends_with(" s ago (deadline)"),
        "{told}"
    );
    assert_eq!(report(agent)["last-thaw"]["untold"], false);
    assert_eq!(agent.call("guest-fsfreeze-thaw", &json!({})).unwrap(), 0);
}
