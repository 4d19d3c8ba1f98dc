//! Files as streams, by clients that nobody here wrote: curl and wget, against both agents.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use qga_e2e::Gateway;
use serde_json::Value;

use crate::guests::{Kind, Served, both_agents, gateway_program};

/// qemu-ga takes ten seconds for it under emulation.
const LENGTH: usize = 24 << 20;

both_agents!(streams);

fn streams(kind: Kind) {
    let Some(mut served) = Served::start(kind) else { return };
    let dir = served.guest.dir().to_owned();
    let socket = served.gateway.socket();
    let url = |path: &str| format!("http://localhost/vms/vm/files/content?path={path}");
    let curl = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "--unix-socket"]).arg(&socket);
        let output = curl.args(arguments).output().expect("curl runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output.stdout
    };

    let (up, down) = (dir.join("up.bin"), dir.join("down.bin"));
    fs::write(&up, noise(LENGTH)).unwrap();
    let answer = curl(&["-T", text(&up), &url("/data/xfs/up.bin")]);
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["atomic"], matches!(kind, Kind::Ours), "{answer}");
    let in_guest = served.guest.vm.control().output("sha256sum /data/xfs/up.bin").unwrap();
    assert_eq!(in_guest.split(' ').next().unwrap(), sha256(&up));

    curl(&["-o", text(&down), &url("/data/xfs/up.bin")]);
    assert_eq!(sha256(&down), sha256(&up));

    // A download that broke off goes on.
    OpenOptions::new().write(true).open(&down).unwrap().set_len(LENGTH as u64 / 3).unwrap();
    curl(&["-C", "-", "-o", text(&down), &url("/data/xfs/up.bin")]);
    assert_eq!(sha256(&down), sha256(&up));
    assert_eq!(curl(&["-r", "5-9", &url("/data/xfs/up.bin")]), noise(10)[5..]);
    assert!(!curl(&[&url("/proc/self/status")]).is_empty(), "a size that lies");

    let none = served.guest.vm.control().output("ls -A /data/xfs").unwrap();
    assert_eq!(
        none.split_whitespace().collect::<Vec<_>>(),
        ["records", "up.bin"],
        "nothing is left behind"
    );
    wget(served, &up);
}

/// wget speaks TCP only.
fn wget(served: Served, expected: &Path) {
    let Served { gateway, guest, .. } = served;
    let dir = guest.dir().join("tcp");
    let program = gateway_program().expect("it ran just now");
    drop(gateway);
    fs::create_dir(&dir).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let vms = [("vm", guest.vm.qga_socket())];
    let gateway = Gateway::start_on(&program, &dir, &vms, Some(address)).expect("a gateway");
    let token = fs::read_to_string(gateway.token_file()).unwrap();
    let file: PathBuf = dir.join("got.bin");
    fs::write(&file, &fs::read(expected).unwrap()[..LENGTH / 2]).unwrap();
    let output = Command::new("wget")
        .args(["-q", "-c", "--tries=20", "--retry-on-http-error=503", "-O", text(&file)])
        .arg(format!("--header=Authorization: Bearer {}", token.trim()))
        .arg(format!("http://{address}/vms/vm/files/content?path=/data/xfs/up.bin"))
        .output()
        .expect("wget runs");
    assert!(output.status.success(), "{output:?}; the gateway's log:\n{}", gateway.log());
    assert_eq!(sha256(&file), sha256(expected));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum runs");
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// The same bytes each time, with no period that a chunk could have.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
