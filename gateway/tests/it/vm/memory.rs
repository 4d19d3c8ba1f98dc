//! What a guest can make the gateway hold in memory, seen on a process of its own.

use std::path::Path;
use std::process::{Child, Stdio};

use tempfile::tempdir;

use super::eventually;
use super::fake::{Act, Guest};

/// The gateway as it is installed; it goes with the test.
struct Process(Child);

impl Process {
    fn start(dir: &Path, socket: &Path) -> Self {
        let config = dir.join("config.toml");
        let text = format!(
            "state_dir = {:?}\n[listen]\nunix = {:?}\n[limits]\nbackoff_min_seconds = 0.02\n\
             backoff_max_seconds = 0.05\n[[vm]]\nid = \"a\"\nsocket = {socket:?}\n\
             mode = \"persistent\"\n",
            dir.join("state"),
            dir.join("api.sock"),
        );
        std::fs::write(&config, text).expect("write");
        let mut command = qga_testing::tied(env!("CARGO_BIN_EXE_qga-gateway"));
        command.arg("--config").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("starts"))
    }

    /// The most memory that it ever had, in KiB.
    fn peak(&self) -> u64 {
        let status = format!("/proc/{}/status", self.0.id());
        let status = std::fs::read_to_string(status).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_line_without_end_costs_its_cap_and_no_more() {
    const LINE: usize = 16 << 20;
    const LINES: usize = 8;
    let dir = tempdir().expect("tempdir");
    let socket = dir.path().join("a");
    let guest = Guest::with_rule(&socket, |_| Act::Hold);
    let gateway = Process::start(dir.path(), &socket);
    eventually("connected", || guest.truth().connected).await;
    let before = gateway.peak();
    let mut lines = 0;
    guest.rule(move |name| {
        if name != "guest-fsfreeze-status" || lines == LINES {
            return Act::Normal;
        }
        lines += 1;
        Act::Raw(vec![b'x'; LINE])
    });
    guest.release();
    // Each line ends with its connection; the one behind the last is served.
    eventually("it recovers", || guest.ran("guest-info") > 0).await;
    assert!(guest.truth().connections > LINES / 2, "they were sent");
    let grown = gateway.peak() - before;
    // The cap is 64 KiB; the rest is the allocator's and the threads', and half a line at most.
    assert!(grown < 8 << 10, "grew by {grown} KiB");
}
