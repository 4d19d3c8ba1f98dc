//! A gateway that dies and comes back finds its leases, and everything that happened meanwhile.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redb::ReadableTable as _;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tokio::time::timeout;

use super::BOUND;
use super::fake::{Act, Guest};
use super::leased::Named;
use crate::api::client::{Answer, Ask, Target};

/// The gateway as it is installed, with one VM, `a`.
pub(super) struct Gateway {
    pub(super) dir: TempDir,
    pub(super) child: Child,
}

fn config(dir: &Path, more: &str) -> PathBuf {
    let path = dir.join("config.toml");
    let text = format!(
        "state_dir = {:?}\n[listen]\nunix = {:?}\n[limits]\nbackoff_min_seconds = 0.02\n\
         backoff_max_seconds = 0.05\nsync_seconds = 0.4\norphan_seconds = 3\n{more}\n",
        dir.join("state"),
        dir.join("api.sock"),
    );
    std::fs::write(&path, text).expect("write");
    path
}

fn vm(dir: &Path) -> String {
    format!("[[vm]]\nid = \"a\"\nsocket = {:?}\n", dir.join("a"))
}

fn spawn(dir: &Path) -> Child {
    let _ = std::fs::remove_file(dir.join("api.sock"));
    // A write beyond a limit on files is an error then, and does not end the process.
    let mut command = qga_testing::tied("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_qga-gateway")]);
    command.arg("--config").arg(dir.join("config.toml")).stdout(Stdio::null());
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log"));
    command.stderr(log.expect("log")).spawn().expect("starts")
}

impl Gateway {
    async fn start(dir: TempDir) -> Self {
        config(dir.path(), &vm(dir.path()));
        let child = spawn(dir.path());
        let gateway = Self { dir, child };
        gateway.serves().await;
        gateway
    }

    async fn serves(&self) {
        let path = self.dir.path().join("api.sock");
        let serving = async {
            while tokio::net::UnixStream::connect(&path).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        let up = timeout(BOUND, serving).await;
        assert!(up.is_ok(), "{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        let target = Target::Unix(self.dir.path().join("api.sock"));
        Ask::new(target, method, path).json(&body).send().await
    }

    /// Until the VM's link is in that state.
    pub(super) async fn link(&self, state: &str) {
        let reached = async {
            loop {
                let vm = self.ask("GET", "/vms/a", json!({})).await;
                if vm.status == 200 && vm.value()["link"]["state"] == state {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(BOUND, reached).await.is_ok(), "{}", self.log());
    }

    async fn freeze(&self, body: Value) -> Value {
        self.link("ready").await;
        self.ask("POST", "/vms/a/fsfreeze", body).await.expect(201)
    }

    /// Until the lease is as wanted.
    async fn lease(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/freezes/{id}");
        let reached = async {
            loop {
                let lease = self.ask("GET", &path, json!({})).await.expect(200);
                if wanted(&lease) {
                    return lease;
                }
                tokio::task::yield_now().await;
            }
        };
        match timeout(BOUND, reached).await {
            Ok(lease) => lease,
            Err(_) => {
                let lease = self.ask("GET", &path, json!({})).await.value();
                panic!("{lease}\n{}", self.log())
            }
        }
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    async fn start_again(&mut self) {
        self.child = spawn(self.dir.path());
        self.serves().await;
    }

    pub(super) async fn restart(&mut self) {
        self.kill();
        self.start_again().await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn id(lease: &Value) -> String {
    lease["id"].as_str().expect("an id").to_owned()
}

fn ended(lease: &Value) -> bool {
    !lease["verdict"].is_null()
}

pub(super) async fn pair(named: bool) -> (Gateway, Guest) {
    let dir = tempdir().expect("tempdir");
    let guest = Guest::start(&dir.path().join("a"));
    if named {
        guest.change(|truth| truth.named = Some(Named::default()));
    }
    (Gateway::start(dir).await, guest)
}

#[tokio::test]
async fn a_lease_outlives_a_killed_gateway_and_is_thawed_by_its_id() {
    for (named, verdict) in [(false, "unknown"), (true, "held")] {
        let (mut gateway, guest) = pair(named).await;
        let lease = gateway.freeze(json!({"label": "nightly"})).await;
        let guard = if named { "gateway+agent" } else { "gateway" };
        assert_eq!(lease["guard"], guard);
        gateway.restart().await;
        let found = gateway.lease(&id(&lease), |lease| lease["state"] == "frozen").await;
        for member in ["owner", "label", "created_at", "frozen_at", "expires_at", "ttl_seconds"] {
            assert_eq!(found[member], lease[member], "{member}");
        }
        gateway.link("frozen").await;
        assert!(guest.truth().frozen);
        let path = format!("/freezes/{}", id(&lease));
        let thawed = gateway.ask("DELETE", &path, json!({})).await.expect(200);
        assert_eq!((&thawed["state"], &thawed["verdict"]), (&json!("thawed"), &json!(verdict)));
        assert!(!guest.truth().frozen);
        // Its end outlives the next one.
        gateway.restart().await;
        let found = gateway.lease(&id(&lease), |_| true).await;
        assert_eq!((&found["verdict"], &found["evidence"]), (&json!(verdict), &thawed["evidence"]));
    }
}

#[tokio::test]
async fn a_deadline_that_passed_meanwhile_is_kept_also_by_a_vm_that_comes_later() {
    for named in [false, true] {
        let (mut gateway, mut guest) = pair(named).await;
        let lease = gateway.freeze(json!({"ttl_seconds": 1})).await;
        gateway.kill();
        guest.kill().await;
        gateway.start_again().await;
        gateway.lease(&id(&lease), |lease| lease["thaw_cause"] == "expired").await;
        assert!(guest.truth().frozen);
        guest.boot();
        let lease = gateway.lease(&id(&lease), ended).await;
        assert_eq!(lease["thaw_cause"], "expired", "{lease}");
        assert!(!guest.truth().frozen);
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_freeze_or_thaw_ends_thawed() {
    for (named, held) in [
        (false, "guest-fsfreeze-freeze"),
        (true, "x-guest-fsfreeze-freeze"),
        (false, "guest-fsfreeze-thaw"),
        (true, "x-guest-fsfreeze-thaw"),
    ] {
        let (mut gateway, guest) = pair(named).await;
        gateway.link("ready").await;
        let mut seen = guest.loses(held);
        let freeze = gateway.ask("POST", "/vms/a/fsfreeze", json!({"ttl_seconds": 60}));
        if held.ends_with("freeze") {
            tokio::select! {
                _ = freeze => panic!("lost"),
                _ = seen.recv() => {}
            }
        } else {
            let lease = freeze.await.expect(201);
            let path = format!("/freezes/{}", id(&lease));
            tokio::select! {
                _ = gateway.ask("DELETE", &path, json!({})) => panic!("lost"),
                _ = seen.recv() => {}
            }
        }
        gateway.kill();
        guest.rule(|_| Act::Normal);
        gateway.start_again().await;
        let list = gateway.ask("GET", "/freezes", json!({})).await.expect(200);
        let lease = gateway.lease(&id(&list["freezes"][0]), ended).await;
        assert!(!guest.truth().frozen, "{held}: {lease}");
        let verdict = lease["verdict"].as_str().expect("a verdict");
        match (held, named) {
            // The thaw was this lease's, and the agent proves it.
            ("x-guest-fsfreeze-thaw", _) => assert_eq!(verdict, "held", "{lease}"),
            _ => assert!(["unknown", "partial", "lost"].contains(&verdict), "{held}: {lease}"),
        }
        let next = gateway.freeze(json!({})).await;
        gateway.ask("DELETE", &format!("/freezes/{}", id(&next)), json!({})).await.expect(200);
    }
}

#[tokio::test]
async fn what_happened_while_the_gateway_was_away_is_found_out() {
    // Thawed by somebody else; frozen by another lease; another boot of the guest.
    for case in ["thawed", "other lease", "other boot"] {
        let (mut gateway, guest) = pair(true).await;
        let lease = gateway.freeze(json!({})).await;
        gateway.kill();
        guest.change(|truth| match case {
            "thawed" => drop(truth.thaw_because(qga_proto::command::ThawCause::Deadline)),
            "other lease" => {
                let named = truth.named.as_mut().expect("names");
                named.generation += 1;
                named.lease = Some("somebody".into());
            }
            _ => {
                truth.frozen = false;
                let boot_id = "boot-2".into();
                truth.named = Some(Named { boot_id, ..Named::default() });
            }
        });
        gateway.start_again().await;
        let lease = gateway.lease(&id(&lease), ended).await;
        assert_eq!(lease["verdict"], "lost", "{case}: {lease}");
        assert_eq!(lease["thaw_cause"], "external", "{case}: {lease}");
        assert_eq!(guest.truth().frozen, case == "other lease", "{case}: never ours to thaw");
    }
}

#[tokio::test]
async fn a_vm_that_is_not_configured_any_more_is_waited_for_and_then_given_up() {
    let (mut gateway, guest) = pair(false).await;
    let lease = gateway.freeze(json!({"ttl_seconds": 1})).await;
    gateway.kill();
    config(gateway.dir.path(), "");
    gateway.start_again().await;
    let lease = gateway.lease(&id(&lease), |lease| !lease["verdict"].is_null()).await;
    assert_eq!((&lease["state"], &lease["verdict"]), (&json!("orphaned"), &json!("lost")));
    assert!(guest.truth().frozen, "nobody can reach it");
}

#[tokio::test]
async fn a_second_gateway_on_the_same_state_does_not_start() {
    let (gateway, _guest) = pair(false).await;
    let dir = gateway.dir.path();
    let config = std::fs::read_to_string(dir.join("config.toml")).expect("read");
    let other = dir.join("other.toml");
    std::fs::write(&other, config.replace("api.sock", "other.sock")).expect("write");
    let mut command = Command::new(env!("CARGO_BIN_EXE_qga-gateway"));
    let output = command.arg("--config").arg(other).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("another gateway is using it"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// A thaw that is late by no more than the test machine is slow.
#[tokio::test]
async fn a_held_lease_keeps_its_deadline_over_a_restart() {
    let (mut gateway, guest) = pair(false).await;
    let lease = gateway.freeze(json!({"ttl_seconds": 3})).await;
    gateway.restart().await;
    let lease = gateway.lease(&id(&lease), ended).await;
    assert_eq!(lease["thaw_cause"], "expired");
    assert!(lease["thawed_at"].as_str() >= lease["expires_at"].as_str(), "{lease}");
    assert!(!guest.truth().frozen);
}

/// Changes the records of leases on disk.
fn rewrite(dir: &Path, change: impl Fn(&mut Value)) {
    let table = redb::TableDefinition::<&str, &[u8]>::new("leases");
    let database = redb::Database::open(dir.join("state/state.redb")).expect("opens");
    let transaction = database.begin_write().expect("writes");
    {
        let mut table = transaction.open_table(table).expect("a table");
        let row = |row: Result<(redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>), _>| {
            let (id, record) = row.expect("a row");
            let record: Value = serde_json::from_slice(record.value()).expect("JSON");
            (id.value().to_owned(), record)
        };
        let rows: Vec<(String, Value)> = table.iter().expect("rows").map(row).collect();
        for (id, mut record) in rows {
            change(&mut record["lease"]);
            let record = serde_json::to_vec(&record).expect("JSON");
            table.insert(&*id, &*record).expect("inserts");
        }
    }
    transaction.commit().expect("commits");
}

#[tokio::test]
async fn after_a_boot_of_the_host_a_guest_is_asked_and_then_thawed() {
    for named in [false, true] {
        let (mut gateway, guest) = pair(named).await;
        let mut boot = async |thawed: bool| {
            let lease = gateway.freeze(json!({"ttl_seconds": 3600})).await;
            gateway.kill();
            rewrite(gateway.dir.path(), |lease| lease["host_boot"] = json!("another"));
            guest.change(|truth| truth.frozen &= !thawed);
            let asked = guest.truth().ran.len();
            gateway.start_again().await;
            let lease = gateway.lease(&id(&lease), ended).await;
            (lease, guest.truth().ran.split_off(asked))
        };
        let (lease, ran) = boot(false).await;
        assert_eq!((&lease["state"], &lease["thaw_cause"]), (&json!("thawed"), &json!("expired")));
        assert!(!guest.truth().frozen);
        let first = |part: &str| ran.iter().position(|name| name.contains(part));
        let question = if named { "report" } else { "status" };
        assert!(first(question).is_some() && first(question) < first("-thaw"), "{ran:?}");
        if !named {
            let (lease, ran) = boot(true).await;
            assert_eq!(lease["verdict"], "unknown", "its own, or not: {lease}");
            assert!(!ran.iter().any(|name| name.contains("-thaw")), "found thawed: {ran:?}");
        }
    }
}

async fn signalled(gateway: &mut Gateway, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(&gateway.child);
    rustix::process::kill_process(pid, signal).expect("signal");
    let ended = async {
        while gateway.child.try_wait().expect("wait").is_none() {
            tokio::task::yield_now().await;
        }
    };
    let stopped = timeout(BOUND, ended).await.is_ok();
    assert!(stopped, "does not stop at {signal:?}: {}", gateway.log());
}

#[tokio::test]
async fn a_stop_thaws_what_the_gateway_alone_guards_and_a_restart_thaws_nothing() {
    use rustix::process::Signal;
    for (named, signal, frozen) in [
        (false, Signal::TERM, false),
        (true, Signal::TERM, true),
        (false, Signal::USR2, true),
        (true, Signal::USR2, true),
    ] {
        let (mut gateway, guest) = pair(named).await;
        let lease = gateway.freeze(json!({})).await;
        signalled(&mut gateway, signal).await;
        assert_eq!(guest.truth().frozen, frozen, "{named} {signal:?}");
        gateway.start_again().await;
        let state = if frozen { "frozen" } else { "thawed" };
        gateway.lease(&id(&lease), |lease| lease["state"] == state).await;
    }
}
