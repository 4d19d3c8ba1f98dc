//! The bench program works: it runs, measures what is built and prints every row. No time is
//! held to anything here.

use std::path::Path;
use std::process::Command;

use qga_testing::missing;
use serde_json::Value;

const AGENT_ROWS: [&str; 20] = [
    "ping round trip, p50",
    "ping round trip, p99",
    "ping round trip, p50, both on one core",
    "pings/s, 32 in flight",
    "file read, 64 KiB chunks",
    "file read, 1024 KiB chunks",
    "file write, 64 KiB chunks",
    "file write, 1024 KiB chunks",
    "exec of /bin/true, start to result, p50",
    "exec with its output, start to result, p50",
    "resident, idle",
    "resident, after 8 MiB chunks read and written",
    "… at the peak of it",
    "… two seconds after it",
    "program on disk",
    "shared libraries that it loads",
    "start-up, until the first ping's answer",
    "wake-ups of all threads in 1 idle seconds",
    "memory of its own, growth over 1000 commands",
    "descriptors, growth over 1000 commands",
];

const IDLE_ROWS: [&str; 7] = [
    "until all are ready, from the start",
    "memory per VM, after one sync",
    "memory per VM, after one 1 MiB reply each",
    "processor time while idle, of one core",
    "a scrape of /metrics",
    "its size per VM",
    "memory per VM, after the scrapes",
];

const GATEWAY_ROWS: [&str; 10] = [
    "pings/s, 1 client",
    "pings/s, 16 clients",
    "ping round trip, 1 client, p50",
    "… that the gateway adds",
    "guest commands per request",
    "pings/s, 16 clients, axum without middleware",
    "pings/s, 1 client, a log line each",
    "pings/s, 16 clients, a log line each",
    "ping round trip, 1 client, p50, a log line each",
    "… that the gateway adds, a log line each",
];

const STREAM_ROWS: [&str; 20] = [
    "download, qga-agent",
    "upload, qga-agent",
    "memory for a download of 32 MiB, qga-agent",
    "memory for an upload of 32 MiB, qga-agent",
    "50 downloads at once, qga-agent: least share by greatest",
    "… all together",
    "… memory for each, at its peak",
    "50 uploads at once, qga-agent: least share by greatest",
    "… all together",
    "… memory for each, at its peak",
    "download, qemu-ga",
    "upload, qemu-ga",
    "memory for a download of 32 MiB, qemu-ga",
    "memory for an upload of 32 MiB, qemu-ga",
    "50 downloads at once, qemu-ga: least share by greatest",
    "… all together",
    "… memory for each, at its peak",
    "50 uploads at once, qemu-ga: least share by greatest",
    "… all together",
    "… memory for each, at its peak",
];

#[test]
fn a_quick_run_prints_every_row() {
    let bench = Path::new(env!("CARGO_BIN_EXE_qga-bench"));
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("bench.json");
    let mut command = Command::new(bench);
    command.arg("--quick").arg("--json").arg(&json);
    // Those for debugging will do. One that was not built leaves its columns empty.
    for daemon in ["agent", "gateway"] {
        let built = bench.with_file_name(format!("qga-{daemon}"));
        if built.is_file() {
            command.arg(format!("--{daemon}")).arg(built);
        } else {
            missing(&format!(
                "part of it: no {}; run cargo build -p qga-{daemon}",
                built.display()
            ));
        }
    }
    let done = command.output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{text}\n{}", String::from_utf8_lossy(&done.stderr));

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let tables = report["tables"].as_array().unwrap();
    for (title, expected) in [
        ("Agent: ", &AGENT_ROWS[..]),
        ("Gateway: one VM", &GATEWAY_ROWS),
        ("Gateway: 100 idle VMs", &IDLE_ROWS),
        ("Gateway: files over HTTP", &STREAM_ROWS),
    ] {
        let titled = |table: &&Value| table["title"].as_str().unwrap().starts_with(title);
        let table = tables.iter().find(titled).expect(title);
        let rows = table["rows"].as_array().unwrap();
        let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected);
        for row in rows {
            let name = row["name"].as_str().unwrap();
            assert!(text.contains(name), "{name}: {text}");
            let verdict = row["judgement"]["verdict"].as_str().unwrap();
            let known = ["–", "met", "missed", "not measured"];
            assert!(known.contains(&verdict), "{name}: {verdict}");
        }
    }
}
