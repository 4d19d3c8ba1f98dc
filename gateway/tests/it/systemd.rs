//! What systemd and the gateway say to each other, and what the units allow.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qga_testing::{missing, program, unavailable};

const BOUND: Duration = Duration::from_secs(30);

/// Ended with the test that started it.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn config(dir: &Path, more: &str) -> PathBuf {
    let (file, state, unix) = (dir.join("config.toml"), dir.join("state"), dir.join("api.sock"));
    let text = format!("state_dir = {state:?}\n[listen]\nunix = {unix:?}\n{more}");
    std::fs::write(&file, text).unwrap();
    file
}

fn deployed(unit: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd").join(unit)
}

fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

fn status(mut stream: impl std::io::Read + std::io::Write, header: &str) -> String {
    write!(stream, "GET /vms HTTP/1.1\r\nhost: localhost\r\n{header}connection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn the_watchdog_is_fed_while_the_gateway_turns() {
    let dir = tempfile::tempdir().unwrap();
    let notified = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    notified.set_read_timeout(Some(BOUND)).unwrap();
    let told = || {
        let mut text = [0; 256];
        let n = notified.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..n]).trim().to_owned()
    };
    let gateway = Command::new(env!("CARGO_BIN_EXE_qga-gateway"))
        .arg("--config")
        .arg(config(dir.path(), ""))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "300000")
        .stderr(Stdio::null())
        .spawn();
    let gateway = Gateway(gateway.unwrap());
    assert_eq!(told(), "READY=1");
    for _ in 0..3 {
        assert_eq!(told(), "WATCHDOG=1");
    }
    // One that does not run says nothing: what was said before is all there is.
    let pid = rustix::process::Pid::from_child(&gateway.0);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    until_some("it stops", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.0.id())).unwrap();
        stat.contains(") T ").then_some(())
    });
    notified.set_nonblocking(true).unwrap();
    while notified.recv(&mut [0; 256]).is_ok() {}
    notified.set_nonblocking(false).unwrap();
    notified.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(notified.recv(&mut [0; 256]).is_err(), "told while it stands still");
}

#[test]
fn a_socket_that_systemd_listens_on_is_served_and_left_there() {
    let Some(activate) = program("systemd-socket-activate") else {
        return missing("systemd-socket-activate; install systemd");
    };
    let dir = tempfile::tempdir().unwrap();
    let unix = dir.path().join("api.sock");
    let gateway = Command::new(activate)
        .arg("-l")
        .arg(&unix)
        .arg(env!("CARGO_BIN_EXE_qga-gateway"))
        .arg("--config")
        .arg(config(dir.path(), ""))
        .stderr(Stdio::null())
        .spawn();
    let gateway = Gateway(gateway.unwrap());
    // The call that starts the gateway waits for it, and is answered.
    let call = || UnixStream::connect(&unix).ok();
    for _ in 0..2 {
        let stream = until_some("it listens", call);
        stream.set_read_timeout(Some(BOUND)).unwrap();
        assert_eq!(status(stream, ""), "HTTP/1.1 200 OK");
    }
    let pid = rustix::process::Pid::from_child(&gateway.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut gateway = gateway;
    let ended = until_some("it ends", || gateway.0.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
    assert!(unix.exists(), "the file is systemd's");
}

#[test]
fn a_token_may_be_a_credential() {
    let dir = tempfile::tempdir().unwrap();
    let token = "t".repeat(64);
    let secret = dir.path().join("api-token");
    std::fs::write(&secret, format!("{token}\n")).unwrap();
    // As it looks where systemd grants it by an access list.
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o440)).unwrap();
    // Free, and soon listened on: whoever else takes it fails the test, and it is asked for again.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let more = format!("tcp = \"127.0.0.1:{port}\"\ntoken_file = \"credential:api-token\"\n");
    let file = config(dir.path(), &more);
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qga-gateway"));
        command.arg("--config").arg(&file).env_remove("CREDENTIALS_DIRECTORY");
        command
    };
    let without = command().output().unwrap();
    let said = String::from_utf8_lossy(&without.stderr);
    assert!(!without.status.success() && said.contains("LoadCredential=api-token:"), "{said}");

    let mut command = command();
    command.env("CREDENTIALS_DIRECTORY", dir.path()).stderr(Stdio::null());
    let _gateway = Gateway(command.spawn().unwrap());
    let call = || TcpStream::connect(("127.0.0.1", port)).ok();
    let bearer = format!("authorization: Bearer {token}\r\n");
    assert_eq!(status(until_some("it listens", call), &bearer), "HTTP/1.1 200 OK");
    assert_eq!(status(until_some("it listens", call), ""), "HTTP/1.1 401 Unauthorized");
}

#[test]
fn tls_may_be_of_credentials_too() {
    let dir = tempfile::tempdir().unwrap();
    let names = vec!["localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    for (name, text) in
        [("tls-cert", made.cert.pem()), ("tls-key", made.signing_key.serialize_pem())]
    {
        std::fs::write(dir.path().join(name), text).unwrap();
        // As it looks where systemd grants it by an access list; a path like that is refused.
        let mode = std::fs::Permissions::from_mode(0o444);
        std::fs::set_permissions(dir.path().join(name), mode).unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let token = dir.path().join("token");
    let check = |certificate: &str, key: &str| {
        let more = format!(
            "tcp = \"127.0.0.1:{port}\"\ntoken_file = {token:?}\n[listen.tls]\n\
             certificate = \"{certificate}\"\nkey = \"{key}\"\n"
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_qga-gateway"));
        command.arg("--config").arg(config(dir.path(), &more));
        command.env("CREDENTIALS_DIRECTORY", dir.path()).stderr(Stdio::piped());
        command
    };
    let plain = dir.path().join("tls-key").display().to_string();
    let exposed = check("credential:tls-cert", &plain).output().unwrap();
    let said = String::from_utf8_lossy(&exposed.stderr).into_owned();
    assert!(!exposed.status.success() && said.contains("can read this private key"), "{said}");
    let mut bare = check("credential:tls-cert", "credential:tls-key");
    let without = bare.env_remove("CREDENTIALS_DIRECTORY").output().unwrap();
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(!without.status.success() && said.contains("LoadCredential=tls-cert:"), "{said}");
    let mut command = check("credential:tls-cert", "credential:tls-key");
    let _gateway = Gateway(command.stderr(Stdio::null()).spawn().unwrap());
    until_some("it listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    let Some(curl) = program("curl") else { return missing("curl") };
    let mut curl = Command::new(curl);
    curl.args(["-s", "--cacert"]).arg(dir.path().join("tls-cert"));
    let answer = curl.arg(format!("https://localhost:{port}/livez")).output().unwrap();
    assert!(answer.status.success(), "{answer:?}");
}

#[test]
fn the_unit_makes_the_directory_of_the_audit_file() {
    let unit = std::fs::read_to_string(deployed("qga-gateway.service")).unwrap();
    assert!(unit.contains("\nLogsDirectory=qga-gateway\n"), "ProtectSystem=strict closes the rest");
}

/// What `systemd-analyze security` calls the exposure of a unit, from 0 to 10, in tenths.
fn exposure(unit: &Path) -> Option<u32> {
    let Some(analyze) = program("systemd-analyze") else {
        missing("systemd-analyze; install systemd");
        return None;
    };
    let output =
        Command::new(analyze).args(["security", "--no-pager", "--offline=true"]).arg(unit).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let Some((_, last)) = text.rsplit_once("exposure level for ") else {
        unavailable("this systemd-analyze cannot judge a file (--offline)");
        return None;
    };
    let figure = last.split_ascii_whitespace().nth(1).unwrap();
    Some(figure.replace('.', "").parse().unwrap())
}

#[test]
fn the_gateways_unit_is_tight_with_every_drop_in() {
    let unit = deployed("qga-gateway.service");
    let Some(bare) = exposure(&unit) else { return };
    assert!(bare <= 15, "exposure {bare}, of at most 15 tenths");
    let text = std::fs::read_to_string(&unit).unwrap();
    // A capability that passes over permissions costs a tenth more; groups and credentials nothing.
    let figures = [("libvirt", bare), ("credentials", bare), ("network", 15), ("proxmox", 16)];
    for (drop_in, most) in figures {
        let drop_in = deployed(&format!("drop-ins/{drop_in}.conf"));
        let dir = tempfile::tempdir().unwrap();
        let both = dir.path().join("qga-gateway.service");
        let more = std::fs::read_to_string(&drop_in).unwrap();
        std::fs::write(&both, format!("{text}\n{more}")).unwrap();
        let figure = exposure(&both).unwrap();
        assert!(figure <= most, "{}: exposure {figure}, of at most {most}", drop_in.display());
    }
}

#[test]
fn the_agents_unit_is_as_tight_as_it_was() {
    let Some(figure) = exposure(&deployed("qga-agent.service")) else { return };
    assert!(figure <= 53, "exposure {figure}, of at most 53 tenths");
}
