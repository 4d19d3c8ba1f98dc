//! `/events` as a client sees it: frames, places, gaps, filters, and the end.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use qga_gateway::vm::{Event, EventKind, LinkState};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::agent::{Agent, Quirk};
use super::client::Ask;
use super::gateway::{BOUND, Gateway};

/// A client of Server-Sent Events.
pub(crate) struct Stream {
    body: Incoming,
    text: String,
    pub(super) last_id: String,
}

impl Stream {
    pub(crate) async fn open(ask: Ask) -> Self {
        let response = ask.header("accept", "text/event-stream").open().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let mut stream =
            Self { body: response.into_body(), text: String::new(), last_id: String::new() };
        assert!(stream.block().await.expect("a greeting").starts_with("retry: 2000\nid: "));
        stream
    }

    /// What stands up to the next empty line; none at the end of the stream.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                if let Some(id) = block.lines().find_map(|line| line.strip_prefix("id: ")) {
                    self.last_id = id.to_owned();
                }
                return Some(block);
            }
            let frame = timeout(BOUND, self.body.frame()).await.expect("in time")?;
            let data = frame.expect("whole").into_data().expect("data");
            self.text += std::str::from_utf8(&data).expect("text");
        }
    }

    /// Whether nothing but events comes before the end.
    pub(super) async fn ends(&mut self) -> bool {
        while self.block().await.is_some() {}
        true
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Value {
        loop {
            let block = self.block().await.expect("goes on");
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            let Some(data) = field("data: ") else { continue };
            let event: Value = serde_json::from_str(data).expect("JSON");
            assert_eq!(Some(event["kind"].as_str().unwrap()), field("event: "));
            assert_eq!(event["id"], self.last_id);
            return event;
        }
    }
}

#[tokio::test]
async fn vms_and_links_are_told_in_order_and_again_to_one_who_returns() {
    let gateway = Gateway::start().await;
    let all = gateway.ask("GET", "/events?last_event_id=1-0");
    let mut stream = Stream::open(all).await;
    let gap = stream.event().await;
    assert_eq!((&gap["kind"], &gap["data"]), (&json!("gap"), &json!({"missed": null})));
    let mut seen = Vec::new();
    while seen.last() != Some(&json!("ready")) {
        let event = stream.event().await;
        if event["vm_id"] == "vm" {
            let state = &event["data"]["state"];
            seen.push(if state.is_null() { event["kind"].clone() } else { state.clone() });
            if event["kind"] == "vm.added" {
                assert_eq!(event["data"]["labels"], json!({"tier": "test"}));
            }
        }
    }
    assert_eq!(seen, ["vm.added", "silent", "ready"]);
    let place = stream.last_id.clone();
    drop(stream);
    gateway.agent.set_frozen(true);
    gateway.ask("GET", "/vms/vm/fsfreeze").send().await.expect(200);
    gateway.wait_for(LinkState::Frozen).await;
    let ask = gateway.ask("GET", "/events?vm=vm").header("last-event-id", &place);
    let event = Stream::open(ask).await.event().await;
    assert_eq!(event["data"], json!({"state": "frozen", "before": "ready", "reason": null}));
    assert!(event["id"].as_str() > Some(&*place));
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_a_gap() {
    let gateway = Gateway::configured(Agent::default(), "[limits]\nevents_kept = 3\n").await;
    gateway.wait_for(LinkState::Ready).await;
    let stream = Stream::open(gateway.ask("GET", "/events")).await;
    for n in 0..10 {
        gateway.registry.events().publish(Event::new(EventKind::Error).with("n", n));
    }
    let back = gateway.ask("GET", &format!("/events?last_event_id={}", stream.last_id));
    let mut back = Stream::open(back).await;
    let gap = back.event().await;
    assert_eq!((&gap["kind"], &gap["data"]["missed"]), (&json!("gap"), &json!(null)));
    for n in 7..10 {
        assert_eq!(back.event().await["data"]["n"], n);
    }
}

#[tokio::test]
async fn filters_pass_what_is_named_and_the_heartbeat_moves_the_place() {
    let gateway =
        Gateway::configured(Agent::default(), "[limits]\nevent_heartbeat_seconds = 0.05\n").await;
    gateway.wait_for(LinkState::Ready).await;
    let ask = gateway.ask("GET", "/events?vm=a&vm=b&kind=freeze.*&kind=error");
    let mut stream = Stream::open(ask).await;
    let start = stream.last_id.clone();
    let publish = |kind, vm: &str| {
        let event = Event::new(kind).vm(&vm.parse().unwrap());
        gateway.registry.events().publish(event);
    };
    publish(EventKind::FreezeFrozen, "c");
    publish(EventKind::VmAdded, "a");
    while stream.last_id == start {
        let block = stream.block().await.expect("goes on");
        assert!(block.starts_with(": still here\nid: "), "{block}");
    }
    publish(EventKind::FreezeThawed, "b");
    publish(EventKind::Error, "a");
    assert_eq!(stream.event().await["kind"], "freeze.thawed");
    assert_eq!(stream.event().await["vm_id"], "a");
    for bad in ["vm=a%20b", "kind=freeze", "kind=x.*", "kind=*", "last_event_id=x", "no=1"] {
        gateway.ask("GET", &format!("/events?{bad}")).send().await.problem(400, "bad_request");
    }
    let ask = gateway.ask("GET", "/events").header("last-event-id", "x");
    ask.send().await.problem(400, "bad_request");
    // Without one there is none to begin behind.
    let ask = gateway.ask("GET", "/events?last_event_id=").header("last-event-id", "");
    drop(Stream::open(ask).await);
    let ask = gateway.ask("GET", "/events").header("accept", "text/html");
    ask.send().await.problem(406, "not_acceptable");
}

#[tokio::test]
async fn subscribers_are_bounded_and_a_stop_ends_their_streams() {
    let more = "[limits]\nevent_subscribers = 1\n";
    let gateway = Gateway::configured(Agent::default(), more).await;
    let mut stream = Stream::open(gateway.ask("GET", "/events")).await;
    let full = gateway.ask("GET", "/events").send().await.problem(429, "too_many_subscribers");
    assert!(full["detail"].as_str().unwrap().contains("event_subscribers"), "{full}");
    gateway.stopping.cancel();
    while stream.block().await.is_some() {}
    gateway.tracker.close();
    timeout(BOUND, gateway.tracker.wait()).await.expect("all connections end");
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_nobody_up() {
    let gateway = Gateway::configured(Agent::default(), "[limits]\nevents_kept = 100\n").await;
    gateway.wait_for(LinkState::Ready).await;
    let mut slow = Stream::open(gateway.ask("GET", "/events")).await;
    let mut swift = Stream::open(gateway.ask("GET", "/events?kind=error")).await;
    let text = "x".repeat(4000);
    // More than the sockets hold.
    for n in 0..2000 {
        let event = Event::new(EventKind::FreezeRenewed).with("text", text.as_str()).with("n", n);
        gateway.registry.events().publish(event);
    }
    gateway.registry.events().publish(Event::new(EventKind::Error));
    loop {
        let event = swift.event().await;
        if event["kind"] == "error" {
            break;
        }
        assert_eq!(event["kind"], "gap", "only what was not read in time");
    }
    let mut last = json!(-1);
    let mut gaps = 0;
    while last != json!(1999) {
        let event = slow.event().await;
        if event["kind"] == "gap" {
            gaps += 1;
            assert!(event["data"]["missed"].is_u64(), "of all that it could see: {event}");
        } else {
            assert!(event["data"]["n"].as_i64() > last.as_i64());
            last = event["data"]["n"].clone();
        }
    }
    assert!(gaps > 0, "it was told that events are missing");
}

#[tokio::test]
async fn a_lease_is_followed_from_its_freeze_to_its_end() {
    let gateway = Gateway::start().await;
    let ask = gateway.ask("GET", "/events?kind=freeze.*&vm=vm");
    let mut stream = Stream::open(ask).await;
    let path = "/vms/vm/fsfreeze";
    let lease = gateway.ask("POST", path).send().await.expect(201);
    gateway.ask("PATCH", path).json(&json!({"ttl_seconds": 90})).send().await.expect(200);
    let thawed = gateway.ask("DELETE", path).send().await.expect(200);
    for (kind, data) in [
        ("freeze.frozen", json!({"filesystems": 3, "guard": "gateway", "ttl_seconds": 60})),
        ("freeze.renewed", json!({"filesystems": 3, "ttl_seconds": 90})),
        ("freeze.thawed", json!({"cause": "requested", "verdict": thawed["verdict"]})),
    ] {
        let event = stream.event().await;
        assert_eq!((&event["kind"], &event["data"]), (&json!(kind), &data));
        assert_eq!((&event["vm_id"], &event["lease_id"]), (&json!("vm"), &lease["id"]));
    }
    // Nobody thaws, and the guest refuses once.
    let no = Quirk::Error(qga_proto::QgaError::generic("no"));
    let turns = Quirk::Turns(vec![no.clone(), no, Quirk::Value(json!(3))]);
    gateway.agent.clone().with("guest-fsfreeze-thaw", turns);
    gateway.ask("POST", path).json(&json!({"ttl_seconds": 1})).send().await.expect(201);
    for kind in ["freeze.frozen", "freeze.expired", "freeze.thaw_failing"] {
        let event = stream.event().await;
        assert_eq!(event["kind"], kind, "{event}");
    }
    gateway.agent.mend("guest-fsfreeze-thaw");
    let event = stream.event().await;
    assert_eq!(event["kind"], "freeze.thawed");
    assert_eq!(event["data"]["cause"], "expired");
}

#[tokio::test]
async fn a_freeze_that_fails_is_told_as_one_that_is_undone() {
    let agent = Agent::default().with("guest-fsfreeze-freeze", Quirk::Never);
    let gateway = Gateway::with(agent).await;
    let mut stream = Stream::open(gateway.ask("GET", "/events?kind=freeze.rollback")).await;
    let ask = gateway.ask("POST", "/vms/vm/fsfreeze").json(&json!({"freeze_timeout_seconds": 1}));
    let problem = ask.send().await.problem(504, "agent_timeout");
    assert_eq!(stream.event().await["lease_id"], problem["lease_id"]);
}
