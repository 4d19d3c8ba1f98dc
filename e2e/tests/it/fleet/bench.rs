//! The bench of many VMs works, and prints every row. No figure is held to anything here.

use std::process::Command;

use serde_json::Value;

use super::gateway_program;

const ROWS: [&str; 13] = [
    "start-up, until 100 VMs are reported ready",
    "memory per idle VM, after a sync and a 1 MiB reply",
    "processor while 100 VMs idle",
    "group freeze of 20, guests at once",
    "group freeze of 20, guests 0–300 ms: beyond the slowest",
    "ping p99, 20 VMs",
    "… nine hostile guests elsewhere on the machine",
    "… by that without them",
    "… nine hostile guests among the gateway's",
    "… by that with them elsewhere",
    "… processor that they cost the gateway as they begin",
    "… and from then on",
    "… memory that they cost it",
];

#[test]
fn a_quick_run_prints_every_row() {
    let Some(program) = gateway_program() else { return };
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("bench.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_qga-bench"));
    command.args(["--quick", "--only", "fleet", "--gateway"]).arg(program);
    let done = command.arg("--json").arg(&json).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{text}\n{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = report["tables"][0]["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ROWS);
}
