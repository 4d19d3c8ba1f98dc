//! What a caller is told of each way in which an agent can misbehave: the exact status, code and
//! outcome. Each time the link recovers by itself, and another VM notices nothing.

use std::os::unix::net::UnixListener;
use std::path::Path;

use qga_gateway::vm::LinkState;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::agent::{Agent, Quirk};
use super::client::Answer;
use super::gateway::{BOUND, Gateway};

const QUICK: &str = "
[limits]
sync_seconds = 0.3
connect_wait_seconds = 0.2
backoff_min_seconds = 0.02
backoff_max_seconds = 0.1
[timeouts]
session_seconds = 0.3
";

/// A VM under test and, beside it, `other`, whose agent is as it should be.
struct Pair {
    gateway: Gateway,
    other: Agent,
    _dir: TempDir,
}

impl Pair {
    async fn before(guest: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.sock");
        let other = Agent::default();
        other.listen(&path);
        let more = format!("{QUICK}[[vm]]\nid = \"other\"\nsocket = {path:?}\n");
        let gateway = Gateway::before(guest, &more).await;
        let pair = Self { gateway, other, _dir: dir };
        pair.answers("other").await;
        pair
    }

    async fn with(agent: &Agent) -> Self {
        let pair = Self::before(|path| agent.listen(path)).await;
        pair.gateway.wait_for(LinkState::Ready).await;
        pair
    }

    async fn ping(&self, vm: &str) -> Answer {
        self.gateway.ask("POST", &format!("/vms/{vm}/ping")).send().await
    }

    /// Pings, with the other VM pinged meanwhile.
    async fn pinged(&self) -> Answer {
        let (answer, other) = tokio::join!(self.ping("vm"), self.ping("other"));
        other.expect(200);
        answer
    }

    async fn answers(&self, vm: &str) {
        let answers = async { while self.ping(vm).await.status != 200 {} };
        tokio::time::timeout(BOUND, answers).await.expect("recovers by itself");
    }

    async fn recovers(self, quirk: &str) {
        self.answers("vm").await;
        self.gateway.wait_for(LinkState::Ready).await;
        assert_eq!(self.ping("other").await.expect(200), json!({}), "{quirk}");
        assert_eq!(self.other.times("guest-info"), 1, "{quirk}: the other link never broke");
    }
}

#[track_caller]
fn check(quirk: &str, answer: &Answer, status: u16, code: &str, outcome: &str, retryable: bool) {
    let problem = answer.problem(status, code);
    assert_eq!(problem["outcome"], outcome, "{quirk}: {problem}");
    assert_eq!(problem["retryable"], retryable, "{quirk}: {problem}");
    assert_eq!((&problem["vm_id"], &problem["command"]), (&json!("vm"), &json!("guest-ping")));
}

#[tokio::test]
async fn each_bad_answer_has_its_status_code_and_outcome() {
    let endless: &'static [u8] = vec![b'x'; 1 << 20].leak();
    for (name, quirk, status, code) in [
        ("garbage", Quirk::Bytes(b"rubbish\n"), 502, "agent_bad_reply"),
        ("no reply", Quirk::Bytes(b"{\"event\": 1}\n"), 502, "agent_bad_reply"),
        ("the wrong type", Quirk::Value(json!([1])), 502, "agent_bad_reply"),
        ("a line without end", Quirk::Bytes(endless), 502, "agent_bad_reply"),
        ("another id", Quirk::Bytes(b"{\"return\": {}, \"id\": 7}\n"), 504, "agent_timeout"),
        ("half a line", Quirk::Bytes(b"{\"retu"), 504, "agent_timeout"),
        ("nothing", Quirk::Never, 504, "agent_timeout"),
        ("the end", Quirk::HangUp, 503, "agent_unavailable"),
    ] {
        let agent = Agent::default().with("guest-ping", quirk);
        let pair = Pair::with(&agent).await;
        check(name, &pair.pinged().await, status, code, "unknown", true);
        agent.mend("guest-ping");
        pair.recovers(name).await;
    }
}

#[tokio::test]
async fn an_answer_after_the_timeout_is_nobodys() {
    let agent = Agent::default().with("guest-ping", Quirk::Held);
    let pair = Pair::with(&agent).await;
    check("late", &pair.pinged().await, 504, "agent_timeout", "unknown", true);
    agent.mend("guest-ping");
    agent.release();
    // Had the late answer counted for this one, it would be `{}`.
    let info = async {
        loop {
            let answer = pair.gateway.ask("GET", "/vms/vm/agent").send().await;
            if answer.status == 200 {
                return answer.expect(200);
            }
        }
    };
    let info: Value = tokio::time::timeout(BOUND, info).await.expect("recovers by itself");
    assert_eq!(info["version"], "11.1.3");
    pair.recovers("late").await;
}

#[tokio::test]
async fn of_two_answers_the_first_counts() {
    let agent = Agent::default().with("guest-ping", Quirk::Twice);
    let pair = Pair::with(&agent).await;
    for _ in 0..3 {
        assert_eq!(pair.pinged().await.expect(200), json!({}));
        let info = pair.gateway.ask("GET", "/vms/vm/agent").send().await.expect(200);
        assert_eq!(info["version"], "11.1.3");
    }
    assert!(pair.gateway.vm().counters().dropped > 0);
    pair.recovers("twice").await;
}

#[tokio::test]
async fn accepted_and_never_answered_is_silent() {
    let agent = Agent::default()
        .with("guest-sync", Quirk::Never)
        .with("guest-sync-delimited", Quirk::Never);
    let pair = Pair::before(|path| agent.listen(path)).await;
    pair.gateway.wait_for(LinkState::Silent).await;
    let answer = pair.pinged().await;
    check("silent", &answer, 503, "agent_unavailable", "not_sent", true);
    assert_eq!(answer.value()["link"]["state"], "silent");
    agent.mend("guest-sync");
    agent.mend("guest-sync-delimited");
    assert_eq!(agent.times("guest-ping"), 0);
    pair.recovers("silent").await;
}

#[tokio::test]
async fn a_missing_socket_is_absent_and_a_dead_one_refused() {
    let mut path = None;
    let pair = Pair::before(|socket| path = Some(socket.to_owned())).await;
    let path = path.unwrap();
    for (state, dead) in [(LinkState::Absent, false), (LinkState::Refused, true)] {
        if dead {
            // The file stays when its process goes.
            drop(UnixListener::bind(&path).unwrap());
        }
        pair.gateway.wait_for(state).await;
        let answer = pair.pinged().await;
        check(state.as_str(), &answer, 503, "agent_unavailable", "not_sent", true);
        assert_eq!(answer.value()["link"]["state"], state.as_str());
    }
    std::fs::remove_file(&path).unwrap();
    Agent::default().listen(&path);
    pair.recovers("refused").await;
}
