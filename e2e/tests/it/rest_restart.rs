//! The gateway is killed in the middle of a call and while it holds a freeze; and while it holds
//! one it is restarted, upgraded and stopped.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::{fs, thread};

use qga_e2e::{Control, Gateway, RestTarget, Target, until};
use serde_json::{Value, json};

use crate::guests::{Guest, Kind, SOON, Served, both_agents, gateway_program};
use crate::scenario::{pass_guest_time, progress, wait_all_writing, wait_blocked};
use crate::tap::Tap;

both_agents!(restart);

fn restart(kind: Kind) {
    let Some(program) = gateway_program() else { return };
    let Some(guest) = Guest::boot(kind) else { return };
    let tap = Tap::listen(guest.dir().join("tap.sock"), guest.vm.qga_socket());
    let gateway = Gateway::start(&program, guest.dir(), &[("vm", tap.socket.clone())]).unwrap();
    let target = RestTarget { rest: gateway.rest(), vm: "vm".to_owned() };
    let mut served = Served { gateway, guest, target };
    served.wait_link("ready");
    // What the gateway asks of a new agent by itself is over, then.
    until("the agent's capabilities", SOON, || {
        let agent = served.target.rest.get(&served.target.path("/agent"))?;
        Ok((agent.status == 200).then_some(()))
    })
    .unwrap();
    served.target.ping().unwrap();
    killed_in_a_call(&mut served, &tap);
    killed_in_a_transfer(&mut served);
    killed_while_frozen(&mut served);
    ended_while_frozen(&mut served, kind);
}

/// The agent is stopped, so that the call cannot have been answered. (Stopped CPUs would not do:
/// the command was seen to get lost on its way then, with the client.)
fn killed_in_a_call(served: &mut Served, tap: &Tap) {
    const FILE: &str = "/run/in-a-call";
    let control = served.guest.vm.control();
    let agent = control.agent_pid().unwrap();
    control.output(&format!("kill -STOP {agent}")).unwrap();
    let (rest, path) = (served.target.rest.clone(), served.target.path("/file-handles"));
    let caller = thread::spawn(move || rest.post(&path, &json!({ "path": FILE, "mode": "a" })));
    until("the command on the wire", SOON, || Ok((tap.times(FILE) > 0).then_some(()))).unwrap();
    // QEMU may drop what it has not read when a client leaves. It has one loop for all sockets: by
    // its second answer here it has been round to the agent's, and the bytes are in the guest.
    for _ in 0..2 {
        assert_eq!(served.guest.vm.qmp().status().unwrap(), "running");
    }
    served.gateway.kill();
    caller.join().unwrap().expect_err("a call whose gateway was killed");
    served.guest.vm.control().output(&format!("kill -CONT {agent}")).unwrap();

    // The answer to the lost call now waits on the wire; it must not pass for another's.
    served.gateway.start_again().unwrap();
    served.wait_link("ready");
    served.target.ping().unwrap();
    let info = served.target.rest.get(&served.target.path("/agent")).unwrap().expect(200).unwrap();
    assert!(info["version"].is_string(), "{info}");
    assert!(info["supported_commands"].is_array(), "{info}");

    // It ran, although nobody heard so, and once: the agent holds the file open for each time. Our
    // agent's worker has descriptors of its own, so each thread is looked at. Others come and go meanwhile.
    let control = served.guest.vm.control();
    let open = format!(
        "for t in /proc/{}/task/*; do ls -l $t/fd 2>/dev/null | grep -c {FILE}; done | sort -n | tail -n 1",
        control.agent_pid().unwrap()
    );
    assert_eq!(control.output(&open).unwrap(), "1", "times that the command ran");
    assert_eq!(tap.times(FILE), 1, "times that it was sent");
}

/// Nobody knows the number of what it had open but the list that it kept; by it the next one closes it.
fn killed_in_a_transfer(served: &mut Served) {
    let control = served.guest.vm.control();
    let agent = control.agent_pid().unwrap();
    // Each of the agent's threads may have descriptors of its own; others come and go meanwhile.
    let links = format!("for t in /proc/{agent}/task/*; do ls -l $t/fd 2>/dev/null; done");
    let open = |control: &mut Control| anyhow::Ok(control.output(&links)?.contains("/dev/zero"));
    let mut reader = UnixStream::connect(served.gateway.socket()).unwrap();
    let path = served.target.path("/files/content?path=/dev/zero");
    write!(reader, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    until("it to be opened", SOON, || Ok(open(control)?.then_some(()))).unwrap();
    // The list is written by a thread of its own.
    let list = served.guest.dir().join("state/handles");
    let kept = || fs::read_to_string(&list).is_ok_and(|list| list.contains("process"));
    until("it to be kept", SOON, || Ok(kept().then_some(()))).unwrap();
    served.gateway.kill();
    let control = served.guest.vm.control();
    assert!(open(control).unwrap(), "nobody has told the agent");
    served.gateway.start_again().unwrap();
    served.wait_link("ready");
    let control = served.guest.vm.control();
    until("it to be closed", SOON, || Ok((!open(control)?).then_some(()))).unwrap();
}

/// The next gateway finds the lease on disk, and thaws what it owns without force.
fn killed_while_frozen(served: &mut Served) {
    let lease = freeze(served);
    wait_blocked(served.guest.vm.control());
    served.gateway.kill();
    served.gateway.start_again().unwrap();
    served.wait_link("frozen");
    assert!(served.target.is_frozen().unwrap());
    wait_blocked(served.guest.vm.control());
    thaw(served, &lease);
}

/// An operator stops, restarts and upgrades the gateway while a backup holds the VM.
fn ended_while_frozen(served: &mut Served, kind: Kind) {
    // A restart lets go of nothing: the guest's kernel holds every filesystem all the way.
    let lease = freeze(served);
    let held = wait_blocked(served.guest.vm.control());
    assert!(served.gateway.hand_over(SOON).is_some_and(|status| status.success()));
    pass_guest_time(served.guest.vm.control());
    served.gateway.start_again().unwrap();
    served.wait_link("frozen");
    assert_eq!(progress(served.guest.vm.control()), held, "a restart has thawed");
    thaw(served, &lease);

    // So does an upgrade: another file is the program then, and the old one is gone.
    let lease = freeze(served);
    let held = wait_blocked(served.guest.vm.control());
    let program = gateway_program().expect("it runs already");
    let (old, new) = (served.guest.dir().join("old"), served.guest.dir().join("new"));
    for copy in [&old, &new] {
        fs::copy(&program, copy).unwrap();
    }
    served.gateway.upgrade_to(&old);
    assert!(served.gateway.hand_over(SOON).is_some_and(|status| status.success()));
    served.gateway.start_again().unwrap();
    served.wait_link("frozen");
    fs::remove_file(&old).unwrap();
    served.gateway.upgrade_to(&new);
    assert!(served.gateway.hand_over(SOON).is_some_and(|status| status.success()));
    served.gateway.start_again().unwrap();
    served.wait_link("frozen");
    assert_eq!(progress(served.guest.vm.control()), held, "an upgrade has thawed");
    thaw(served, &lease);

    // A stop thaws what nobody guards from then on, and leaves what the guest guards itself.
    let lease = freeze(served);
    let held = wait_blocked(served.guest.vm.control());
    assert!(served.gateway.stop(Duration::from_secs(60)).is_some_and(|status| status.success()));
    match kind {
        Kind::Stock => wait_all_writing(served.guest.vm.control()),
        Kind::Ours => {
            pass_guest_time(served.guest.vm.control());
            assert_eq!(progress(served.guest.vm.control()), held, "a stop has thawed");
        }
    }
    served.gateway.start_again().unwrap();
    match kind {
        Kind::Stock => {
            served.wait_link("ready");
            let ended = lease_of(served, &lease);
            assert_eq!(ended["state"], "thawed", "{ended}");
            assert_eq!(ended["thaw_cause"], "shutdown", "{ended}");
        }
        Kind::Ours => {
            served.wait_link("frozen");
            thaw(served, &lease);
        }
    }
}

fn freeze(served: &Served) -> String {
    let body = json!({ "ttl_seconds": 600 });
    let path = served.target.path("/fsfreeze");
    let lease = served.target.rest.post(&path, &body).unwrap().expect(201).unwrap();
    lease["id"].as_str().expect("a lease's id").to_owned()
}

fn lease_of(served: &Served, lease: &str) -> Value {
    served.target.rest.get(&format!("/freezes/{lease}")).unwrap().expect(200).unwrap()
}

/// By the lease, which still is what it was; then the guest writes again.
fn thaw(served: &mut Served, lease: &str) {
    let path = format!("/freezes/{lease}");
    let ended = served.target.rest.delete(&path).unwrap().expect(200).unwrap();
    let verdict = ended["verdict"].as_str().unwrap_or_default();
    assert!(["held", "counts_agree", "unknown"].contains(&verdict), "{ended}");
    assert_eq!(ended["thaw_cause"], "requested", "{ended}");
    wait_all_writing(served.guest.vm.control());
    served.wait_link("ready");
}
