//! A chosen set of the fault matrix with real VMs: QEMU, a kernel with three filesystems and their
//! writers, and either agent. Whether the guest stands still is asked of its kernel, over a port
//! that neither daemon knows; of the gateway only what it promises.
//!
//! Each kind of agent has one VM for all of it, but for the one that takes its place in the end.

mod disk;
mod guest;
mod host;
mod replies;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use qga_e2e::{Gateway, Rest, until};
use serde_json::{Value, json};

use crate::guests::{Guest, Kind, SOON, both_agents, gateway_program};
use crate::scenario::{wait_all_writing, wait_blocked};

both_agents!(faults);

/// Short, so that each case sees what they are for; long enough for emulation.
const CONFIG: &str = "[limits]\nsync_seconds = 2\nbackoff_max_seconds = 1\norphan_seconds = 4\n\
    connect_wait_seconds = 2\nguest_margin_seconds = 3\n[timeouts]\nsession_seconds = 4\n\
    freeze_seconds = 4\nthaw_seconds = 4\nother_seconds = 4\n";
/// Of a freeze that the test ends.
const LONG: u64 = 120;
/// Of one that ends by its time: long enough for a look at the writers.
const TTL: u64 = 12;
/// The same without a look.
const BRIEF: u64 = 5;
/// What a deadline may be missed by where everything is emulated.
const SLACK: Duration = Duration::from_secs(20);

fn faults(kind: Kind) {
    let Some(program) = gateway_program() else { return };
    let Some(guest) = Guest::boot(kind) else { return };
    let mut bed = Bed { kind, program, guest };
    replies::lost_and_late(&mut bed);
    disk::full(&mut bed);
    host::gateway_killed(&mut bed);
    guest::torn(&mut bed);
    guest::agent_killed(&mut bed);
    guest::reset(&mut bed);
    guest::qemu_killed(&mut bed);
    host::replaced(bed);
}

/// What every case works on.
struct Bed {
    kind: Kind,
    program: PathBuf,
    guest: Guest,
}

/// A gateway that knows the guest as VM `vm`.
struct Served {
    gateway: Gateway,
    rest: Rest,
}

/// A freeze that was answered.
struct Held {
    id: String,
    since: Instant,
}

impl Bed {
    /// A gateway with a state of its own, ready.
    fn serve(&self, name: &str) -> Served {
        let dir = self.dir(name);
        let vms = [("vm".to_owned(), self.guest.vm.qga_socket())];
        let gateway = Gateway::start_with(&self.program, &dir, CONFIG, &vms).unwrap();
        Served::ready(gateway)
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.guest.dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    /// By the guest's kernel: it stands still.
    fn is_blocked(&mut self) {
        wait_blocked(self.guest.vm.control());
    }

    /// By the guest's kernel: it writes, on every filesystem.
    fn is_writing(&mut self) {
        wait_all_writing(self.guest.vm.control());
    }

    /// The guest thaws by that time after the freeze was answered.
    fn thaws_within(&mut self, held: &Held, most: Duration) {
        self.is_writing();
        let lasted = held.since.elapsed();
        assert!(lasted < most + SLACK, "frozen for {lasted:?}, at most {most:?}");
    }

    /// What the verdict of a freeze must be, by the kind of agent.
    fn verdict(&self, ours: &'static str, stock: &'static str) -> &'static str {
        match self.kind {
            Kind::Ours => ours,
            Kind::Stock => stock,
        }
    }
}

impl Served {
    fn ready(gateway: Gateway) -> Self {
        let served = Self { rest: gateway.rest(), gateway };
        served.wait_ready();
        served
    }

    /// The gateway's log without the test's own looks.
    fn log(&self) -> String {
        let log = self.gateway.log();
        let lines = log.lines().filter(|line| !line.contains(" INFO GET "));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn vm(&self) -> anyhow::Result<Value> {
        self.rest.get("/vms/vm")?.expect(200)
    }

    /// Until the link is up and what the agent can do is known.
    fn wait_ready(&self) {
        let mut last = Value::Null;
        until("a link that is ready", Duration::from_secs(60), || {
            last = self.vm()?;
            let ready = last["link"]["state"] == "ready" && !last["agent"].is_null();
            Ok(ready.then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e}: {last}; {}", self.log()));
    }

    fn wait_state(&self, state: &str) {
        let mut last = Value::Null;
        until(format_args!("link state {state}"), Duration::from_secs(60), || {
            last = self.vm()?;
            Ok((last["link"]["state"] == state).then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e}: {last}; {}", self.log()));
    }

    fn ask_freeze(&self, ttl: u64) -> qga_e2e::Reply {
        let body = json!({ "ttl_seconds": ttl, "freeze_timeout_seconds": 4 });
        self.rest.post("/vms/vm/fsfreeze", &body).unwrap()
    }

    fn freeze(&self, ttl: u64) -> Held {
        let reply = self.ask_freeze(ttl);
        let since = Instant::now();
        let lease = reply.expect(201).unwrap_or_else(|e| panic!("{e}; {}", self.log()));
        Held { id: lease["id"].as_str().unwrap().to_owned(), since }
    }

    /// The lease once it has ended.
    fn ended(&self, held: &Held) -> Value {
        let path = format!("/freezes/{}", held.id);
        until("the lease's end", SOON + SLACK, || {
            let lease = self.rest.get(&path)?.expect(200)?;
            Ok((!lease["verdict"].is_null()).then_some(lease))
        })
        .unwrap_or_else(|e| panic!("{e}; {}", self.log()))
    }

    fn ends_as(&self, held: &Held, verdict: &str) -> Value {
        let ended = self.ended(held);
        assert_eq!(ended["verdict"], verdict, "{ended}; {}", self.log());
        ended
    }

    fn thaw(&self, held: &Held) {
        self.rest.delete(&format!("/freezes/{}", held.id)).unwrap().expect(200).unwrap();
    }

    /// All leases end, and the gateway says so.
    fn nothing_is_left(&self) {
        let over = |lease: &Value| {
            ["thawed", "failed"].iter().any(|s| lease["state"] == *s) || !lease["verdict"].is_null()
        };
        let mut last = Value::Null;
        until("all leases to end", SOON + SLACK, || {
            last = self.rest.get("/freezes")?.expect(200)?;
            Ok(last["freezes"].as_array().unwrap().iter().all(over).then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e}: {last}; {}", self.log()));
    }
}
