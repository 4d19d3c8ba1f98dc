//! A guest that answers a byte now and then, for ever.

use std::time::{Duration, Instant};

use qga_e2e::sim::{Attack, name};
use qga_e2e::until;
use serde_json::json;

use super::start;
use crate::fleet::{SOON, gateway_program, id};

/// What a caller is willing to wait.
const PATIENCE: Duration = Duration::from_secs(2);
/// Beyond that, on a loaded machine.
const SLACK: Duration = Duration::from_secs(6);

#[test]
fn a_call_ends_at_its_timeout_and_the_vm_is_usable_once_the_dripping_stops() {
    let Some(program) = gateway_program() else { return };
    let mut hostile = Vec::new();
    let (host, good) = start(&program, 1, &[Attack::SlowDrip], &mut hostile);
    host.wait_link(&id(&good[0]), "ready");
    host.wait_link("hostile-0", "ready");
    let ping = |seconds: u64| {
        let begun = Instant::now();
        let path = format!("/vms/hostile-0/ping?timeout_seconds={seconds}");
        (host.rest().post(&path, &json!({})).unwrap(), begun.elapsed())
    };
    let mut written = hostile[0].written();
    // However often bytes come, each call has an end.
    for round in 0..3 {
        let (reply, took) = ping(PATIENCE.as_secs());
        let known = match reply.status {
            504 => reply.code() == "agent_timeout" && took + Duration::from_millis(50) >= PATIENCE,
            503 => reply.code() == "agent_unavailable",
            _ => false,
        };
        assert!(known, "round {round}: after {took:?}: {reply:?}");
        assert!(took < PATIENCE + SLACK, "round {round}: {took:?}");
        let path = format!("/vms/{}/ping", name(0));
        host.rest().post(&path, &json!({})).unwrap().expect(200).unwrap();
        until("more of the drip", SOON, || Ok((hostile[0].written() > written).then_some(())))
            .unwrap();
        written = hostile[0].written();
    }
    hostile[0].relent();
    let mut last = None;
    until("an answer after the drip", SOON, || {
        let reply = ping(PATIENCE.as_secs()).0;
        let answered = reply.status == 200;
        last = Some(reply);
        Ok(answered.then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e}: {last:?}; {}", host.gateway.log()));
    host.wait_link("hostile-0", "ready");
}
