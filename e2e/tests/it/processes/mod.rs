//! Programs as streams, with the real agent on this machine: no VM is needed to run programs.

mod browser;
mod limited;
pub(crate) mod shell;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use qga_e2e::{Gateway, Process, until};
use qga_testing::missing;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fleet::gateway_program;

const SOON: Duration = Duration::from_secs(30);

/// An agent and a gateway before it.
pub(crate) struct Here {
    agent: Process,
    pub(crate) gateway: Gateway,
    program: PathBuf,
    pub(crate) dir: TempDir,
}

impl Here {
    pub(crate) fn start(config: &str) -> Option<Self> {
        let agent = gateway_program()?.with_file_name("qga-agent");
        if !agent.is_file() {
            missing("no qga-agent; run cargo build -p qga-agent");
            return None;
        }
        Self::with(agent, config)
    }

    /// With this agent, which has to do with files and programs only: it runs on this machine.
    pub(crate) fn with(agent: PathBuf, config: &str) -> Option<Self> {
        let gateway = gateway_program()?;
        let dir = TempDir::new().unwrap();
        let process = spawn(&agent, dir.path());
        let vms = [("vm".to_owned(), dir.path().join("vm.sock"))];
        let gateway = Gateway::start_with(&gateway, dir.path(), config, &vms).unwrap();
        let here = Self { agent: process, gateway, program: agent, dir };
        here.ready();
        Some(here)
    }

    pub(crate) fn ready(&self) {
        until("the agent's answer", SOON, || {
            let vm = self.gateway.rest().get("/vms/vm")?.expect(200)?;
            let known = vm["capabilities"]["commands"].is_array();
            Ok((vm["link"]["state"] == "ready" && known).then_some(()))
        })
        .unwrap();
    }

    fn start_program(&self, body: &Value) -> i64 {
        let process = self.gateway.rest().post("/vms/vm/processes", body).unwrap();
        process.expect(201).unwrap()["pid"].as_i64().unwrap()
    }

    fn show(&self, pid: i64) -> Value {
        let path = format!("/vms/vm/processes/{pid}");
        self.gateway.rest().get(&path).unwrap().expect(200).unwrap()
    }

    fn until(&self, pid: i64, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        until(what, SOON, || Ok(Some(self.show(pid)).filter(|process| holds(process)))).unwrap()
    }

    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.id()
    }

    pub(crate) fn curl(&self, arguments: &[&str], path: &str) -> Output {
        let socket = self.gateway.socket();
        Command::new("curl")
            .args(["-sS", "--max-time", "60", "--unix-socket"])
            .arg(socket)
            .args(arguments)
            .arg(format!("http://gateway{path}"))
            .output()
            .unwrap()
    }

    /// Resident memory of the gateway, in KiB.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.gateway.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

fn spawn(agent: &Path, dir: &Path) -> Process {
    let state = dir.join("agent-state");
    fs::create_dir_all(&state).unwrap();
    // What a killed one leaves behind.
    let _ = fs::remove_file(dir.join("vm.sock"));
    let _ = fs::remove_file(dir.join("agent.pid"));
    let arguments = ["-m", "unix-listen", "-p"].map(std::ffi::OsString::from);
    let arguments = arguments.into_iter().chain([
        dir.join("vm.sock").into(),
        "-t".into(),
        state.into(),
        "-f".into(),
        dir.join("agent.pid").into(),
    ]);
    Process::spawn(agent, arguments, &dir.join("agent.log")).unwrap()
}

fn is_there(pid: i64) -> bool {
    // A zombie is not.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim().starts_with('Z'))
}

#[test]
fn ten_thousand_lines_come_in_order() {
    let Some(here) = Here::start("") else { return };
    let script = "i=0; while [ $i -lt 10000 ]; do echo line $i; i=$((i+1)); done";
    let pid = here.start_program(&json!({"argv": ["sh", "-c", script], "overflow": "wait"}));
    let got = here.curl(&[], &format!("/vms/vm/processes/{pid}/output"));
    let wanted: String = (0..10_000).map(|n| format!("line {n}\n")).collect();
    assert!(got.status.success() && got.stdout == wanted.as_bytes(), "{}", got.stdout.len());
}

#[test]
fn a_flood_that_nobody_can_follow_keeps_memory_flat() {
    let Some(here) = Here::start("") else { return };
    for overflow in ["drop", "wait"] {
        let body = json!({"argv": ["yes", "more than anybody reads"], "overflow": overflow});
        let pid = here.start_program(&body);
        let path = format!("/vms/vm/processes/{pid}/output");
        // It reads two kilobytes a second.
        let mut slow = Command::new("curl")
            .args(["-sS", "--limit-rate", "2k", "-o", "/dev/null", "--unix-socket"])
            .arg(here.gateway.socket())
            .arg(format!("http://gateway{path}"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let enough = if overflow == "drop" { 500_000_000 } else { 900_000 };
        here.until(pid, "enough output", |p| p["stdout"]["end"].as_u64().unwrap() > 800_000);
        let before = here.resident();
        let process = here.until(pid, "a flood", |p| p["stdout"]["end"].as_u64().unwrap() > enough);
        let after = here.resident();
        assert!(after < before + 8 * 1024, "{overflow}: {before} to {after} KiB");
        let kept = process["stdout"]["end"].as_u64().unwrap()
            - process["stdout"]["start"].as_u64().unwrap();
        assert!(kept <= 1 << 20, "{process}");
        // Nobody else waits for any of it.
        here.gateway.rest().post("/vms/vm/ping", &json!({})).unwrap().expect(200).unwrap();
        let path = format!("/vms/vm/processes/{pid}");
        here.gateway.rest().delete(&path).unwrap().expect(200).unwrap();
        until("its end", SOON, || Ok((!is_there(pid)).then_some(()))).unwrap();
        let _ = slow.kill();
        let _ = slow.wait();
    }
}

#[test]
fn what_runs_outlives_the_gateway_and_ends_with_the_agent() {
    let Some(mut here) = Here::start("") else { return };
    let script = "sleep 1000 & echo $!; wait";
    let pid = here.start_program(&json!({"argv": ["sh", "-c", script]}));
    let process = here.until(pid, "its child", |p| p["stdout"]["end"].as_u64().unwrap() > 1);
    assert!(process["owner"].is_string());
    here.gateway.kill();
    here.gateway.start_again().unwrap();
    here.ready();
    let found = here.show(pid);
    assert_eq!((&found["state"], &found["owner"]), (&json!("running"), &Value::Null), "{found}");
    here.agent.kill();
    here.agent = spawn(&here.program, here.dir.path());
    let lost = here.until(pid, "its loss", |process| process["state"] == "lost");
    assert!(lost["reason"].as_str().unwrap().contains("started afresh"), "{lost}");
    until("its end", SOON, || Ok((!is_there(pid)).then_some(()))).unwrap();
}

#[test]
fn a_timeout_kills_the_children_too() {
    let Some(here) = Here::start("") else { return };
    let script = "sleep 1000 & echo $!; wait";
    let body = json!({"argv": ["sh", "-c", script], "timeout_seconds": 1});
    let answer = here.gateway.rest().post("/vms/vm/processes?wait=20", &body).unwrap();
    let process = answer.expect(201).unwrap();
    assert_eq!((&process["signal"], &process["timed_out"]), (&json!(9), &json!(true)), "{process}");
    let child = process["stdout"]["text"].as_str().unwrap().trim().parse().unwrap();
    until("its child's end", SOON, || Ok((!is_there(child)).then_some(()))).unwrap();
}
