//! SIGKILL at any moment of a freeze and of a thaw. The moments between two steps of the agent
//! cannot be told from outside, so each sweep kills a little later than the one before.

use std::time::Duration;

use rustix::event::{Timespec, poll};
use serde_json::json;

use crate::bed::{Agent, Client};
use crate::cell::{Cell, cell_or_skip};
use crate::lease::{report, wait_until_thawed};

/// Kills per sweep.
const KILLS: u32 = 14;

fn prepare(cell: &Cell) {
    for at in ["/mnt/a", "/mnt/b", "/mnt/c"] {
        cell.mount("ext4", at);
    }
}

/// Sends `request`, and kills the agent some time afterwards.
fn kill_after(agent: &mut Agent, client: &mut Client, request: &str, wait: Duration) {
    client.send(request);
    let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
    poll(&mut [], Some(&wait)).unwrap();
    agent.kill();
}

fn freeze_request(deadline_ms: u64) -> String {
    json!({
        "execute": "x-guest-fsfreeze-freeze",
        "arguments": {"lease": "l", "deadline-ms": deadline_ms},
    })
    .to_string()
}

fn assert_all_write(cell: &Cell) {
    for at in ["/mnt/a/f", "/mnt/b/f", "/mnt/c/f"] {
        cell.writer(at).wait_until_done();
    }
    assert!(!cell.path("/run/qga.state.isfrozen").exists());
}

/// From 0 to about twice the time that a freeze takes.
fn moments() -> impl Iterator<Item = Duration> {
    (0..KILLS).map(|n| Duration::from_micros(u64::from(n * n) * 80))
}

#[test]
fn during_a_freeze_without_a_deadline_a_thaw_brings_all_back() {
    let cell = cell_or_skip!();
    prepare(&cell);
    let mut generation = 0;
    for wait in moments() {
        let mut agent = cell.start(&[]);
        let mut client = agent.connect();
        kill_after(&mut agent, &mut client, &freeze_request(0), wait);
        let agent = cell.start(&[]);
        let mut client = agent.connect();
        let now = report(&mut client);
        let frozen = now["state"] == "frozen";
        assert_eq!(frozen, cell.path("/run/qga.state.isfrozen").exists(), "{wait:?} {now}");
        let was = now["generation"].as_u64().unwrap();
        assert!(was == generation || was == generation + 1, "{wait:?} {now}");
        generation = was;
        client.get("guest-fsfreeze-thaw", "");
        assert_eq!(client.get("guest-fsfreeze-status", ""), "\"thawed\"");
        assert_all_write(&cell);
    }
    assert!(generation > 0);
}

#[test]
fn during_a_freeze_with_a_deadline_it_passes_by_itself() {
    let cell = cell_or_skip!();
    prepare(&cell);
    for wait in moments() {
        let mut agent = cell.start(&[]);
        let mut client = agent.connect();
        kill_after(&mut agent, &mut client, &freeze_request(300), wait);
        let agent = cell.start(&[]);
        wait_until_thawed(&agent);
        assert_all_write(&cell);
    }
}

#[test]
fn during_a_thaw_the_next_agent_can_end_it() {
    let cell = cell_or_skip!();
    prepare(&cell);
    for deadline in [0, 1000] {
        for wait in moments() {
            let mut agent = cell.start(&[]);
            let mut client = agent.connect();
            let answer = client.ask(freeze_request(deadline));
            assert!(answer.contains("\"count\": 3"), "{answer}");
            let thaw = "{'execute':'guest-fsfreeze-thaw'}";
            kill_after(&mut agent, &mut client, thaw, wait);
            let agent = cell.start(&[]);
            if deadline == 0 {
                let thaw = agent.connect().get("guest-fsfreeze-thaw", "");
                assert!(["0", "1", "2", "3"].contains(&&*thaw), "{thaw}");
            }
            wait_until_thawed(&agent);
            assert_all_write(&cell);
        }
    }
}
