//! `qga-gateway doctor`: each state of a socket, with and without a gateway that runs.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::scripted::OldAgent;

const BOUND: Duration = Duration::from_secs(30);

async fn doctor(config: &Path, more: &'static [&'static str]) -> Output {
    let config = config.to_path_buf();
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qga-gateway"));
        command.arg("--config").arg(config).arg("doctor").args(more).output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn vm<'a>(report: &'a Value, id: &str) -> &'a Value {
    let vms = report["vms"].as_array().unwrap();
    vms.iter().find(|vm| vm["id"] == id).unwrap_or_else(|| panic!("no {id} in {report:#}"))
}

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn says_of_each_socket_what_is_wrong_and_leaves_those_in_use_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let agent = OldAgent::start(&at("good.sock"));
    let held = UnixListener::bind(at("held.sock")).unwrap();
    let _holder = UnixStream::connect(at("held.sock")).unwrap();
    let (_served, _) = held.accept().unwrap();
    held.set_nonblocking(true).unwrap();
    drop(UnixListener::bind(at("stale.sock")).unwrap());
    // Listens and never answers.
    let _mute = UnixListener::bind(at("mute.sock")).unwrap();

    let config = at("config.toml");
    let text = format!(
        "state_dir = {:?}\n[listen]\nunix = {:?}\n[[vm]]\nid = \"gone\"\nsocket = {:?}\n\
         [[discover]]\nglob = {:?}\n[[grant]]\nto = [\"token:nobody\"]\npreset = \"backup\"\n",
        at("state"),
        at("api"),
        at("gone"),
        at("*.sock"),
    );
    std::fs::write(&config, text).unwrap();

    let output = doctor(&config, &["--json", "--timeout", "2"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let is = |id: &str| (vm(&report, id)["state"].as_str(), vm(&report, id)["level"].as_str());
    assert_eq!(is("good"), (Some("ready"), Some("ok")), "{report:#}");
    assert_eq!(vm(&report, "good")["listener"]["pid"], std::process::id());
    assert_eq!(is("held"), (Some("busy"), Some("problem")));
    assert_eq!(vm(&report, "held")["held_by"]["pid"], std::process::id());
    assert_eq!(is("stale"), (Some("refused"), Some("problem")));
    assert!(is("mute").0.is_some_and(|state| ["silent", "busy"].contains(&state)), "{report:#}");
    assert_eq!(is("gone"), (Some("absent"), Some("note")));
    assert!(held.accept().is_err(), "a socket in use was connected to");
    // It is asked who it is, and nothing else.
    let asked = ["guest-sync-delimited", "guest-sync", "guest-fsfreeze-status", "guest-info"];
    let ran = agent.truth().ran.clone();
    assert!(ran.iter().all(|ran| asked.contains(&ran.as_str())), "{ran:?}");
    let host = report["host"].as_array().unwrap();
    let problem = |what: &str| {
        host.iter().any(|f| f["level"] == "problem" && f["what"].as_str().unwrap().contains(what))
    };
    assert!(problem("token:nobody"), "{report:#}");

    let table = doctor(&config, &["--timeout", "1"]).await;
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("held by ") && table.contains("-> stop what holds it"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_a_gateway_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let _agent = OldAgent::start(&at("good.sock"));
    let config = at("config.toml");
    let text = format!(
        "state_dir = {:?}\n[listen]\nunix = {:?}\n[[vm]]\nid = \"good\"\nsocket = {:?}\n\
         [[grant]]\nto = [\"unix:any\"]\npreset = \"operator\"\n",
        at("state"),
        at("api"),
        at("good.sock"),
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_qga-gateway"));
    command.arg("--config").arg(&config).stderr(Stdio::null());
    let gateway = Gateway(command.spawn().unwrap());
    let end = Instant::now() + BOUND;
    loop {
        let output = doctor(&config, &["--json"]).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let good = vm(&report, "good");
        let runs = report["host"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["about"] == "gateway" && f["level"] == "ok");
        // Held by the gateway, and not by the doctor, which would find it busy.
        if runs && good["state"] == "ready" && good["held_by"]["pid"] == gateway.0.id() {
            assert_eq!(output.status.code(), Some(0), "{report:#}");
            return;
        }
        assert!(Instant::now() < end, "{report:#}");
    }
}
