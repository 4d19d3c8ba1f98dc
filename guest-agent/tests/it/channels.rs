//! Channels: several at once, serial lines, sockets that were handed over, and coming back.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::bed::{AGENT, Agent, Bed, Client, LIMIT, wait_for};

const PONG: &str = "{\"return\": {}}";
const PING: &[u8] = b"{\"execute\":\"guest-ping\"}\n";

/// A serial line: the host's end, and the path of the guest's.
fn serial_line() -> (File, PathBuf) {
    let host = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&host).unwrap();
    unlockpt(&host).unwrap();
    let path = ptsname(&host, Vec::new()).unwrap().into_string().unwrap();
    (File::from(host), path.into())
}

/// The next line on a serial line.
fn line(host: &mut File) -> String {
    let deadline = Instant::now() + LIMIT;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut ready = [PollFd::new(host, PollFlags::IN)];
        poll(&mut ready, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
        assert!(Instant::now() < deadline, "no line: {line:?}");
        let mut byte = [0];
        if ready[0].revents().contains(PollFlags::IN) && host.read(&mut byte).unwrap_or(0) == 1 {
            line.push(byte[0]);
        }
    }
    String::from_utf8_lossy(line.trim_ascii_end()).into_owned()
}

fn serial_agent(bed: &Bed, path: &Path) -> Command {
    let mut command = Command::new(AGENT);
    command.args(["-m", "isa-serial", "-p"]).arg(path).arg("-t").arg(bed.path("state"));
    command.env("QGA_CONF", "/nonexistent").stdin(Stdio::null());
    command
}

fn ended(child: &mut Child) -> Option<i32> {
    wait_for("the agent's end", || child.try_wait().unwrap()).code()
}

/// How often the threads of a process went to sleep by themselves.
fn switches(pid: u32) -> u64 {
    let mut all = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        all += line.unwrap().trim().parse::<u64>().unwrap();
    }
    all
}

/// Processor time in ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn pause(seconds: i64) {
    poll(&mut [], Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).unwrap();
}

#[test]
fn a_serial_line_carries_the_protocol_and_its_end_ends_the_agent() {
    let bed = Bed::new();
    let (mut host, path) = serial_line();
    let mut child = serial_agent(&bed, &path).stderr(Stdio::null()).spawn().unwrap();
    // What is sent before the line is raw is flushed, or comes back as an echo.
    wait_for("the agent's raw line", || {
        let settings = rustix::termios::tcgetattr(&host).unwrap();
        settings.local_modes.is_empty().then_some(())
    });
    host.write_all(b"\xFF{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":7}}").unwrap();
    assert!(line(&mut host).contains("JSON parse error, stray"));
    assert!(line(&mut host).ends_with("{\"return\": 7}"));
    drop(host);
    assert_eq!(ended(&mut child), Some(0));
}

#[test]
fn with_r_a_lost_line_is_opened_again() {
    let bed = Bed::new();
    let (mut host, path) = serial_line();
    let link = bed.path("line");
    std::os::unix::fs::symlink(path, &link).unwrap();
    let log = bed.path("log");
    let child = serial_agent(&bed, &link).arg("-r").arg("-l").arg(&log).spawn().unwrap();
    let _agent = Agent { child, socket: PathBuf::new() };
    let answers = |host: &mut File| {
        wait_for("a raw line", || {
            let settings = rustix::termios::tcgetattr(&*host).unwrap();
            settings.local_modes.is_empty().then_some(())
        });
        host.write_all(PING).unwrap();
        assert_eq!(line(host), PONG);
    };
    answers(&mut host);
    let (mut next, path) = serial_line();
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(path, &link).unwrap();
    drop(host);
    answers(&mut next);
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("error reading channel").count(), 1, "{log}");
}

#[test]
fn with_r_the_first_opening_may_fail_too() {
    let bed = Bed::new();
    let socket = bed.path("later/socket");
    let log = bed.path("log");
    let mut command = bed.command(AGENT);
    command.arg("-r").arg("-p").arg(&socket).arg("-l").arg(&log);
    let child = command.spawn().unwrap();
    let mut agent = Agent { child, socket: socket.clone() };
    wait_for("the failure", || std::fs::metadata(&log).ok().filter(|log| log.len() > 0));
    std::fs::create_dir(bed.path("later")).unwrap();
    assert_eq!(agent.connect().call("guest-ping", ""), PONG);
    // Signals are heard all the while, and end it.
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait_for_exit().code(), Some(0));
    let log = std::fs::read_to_string(log).unwrap();
    let path = socket.display();
    let texts: Vec<_> = log.lines().map(|line| line.split_once(": ").unwrap().1).collect();
    assert_eq!(
        texts,
        [
            &format!("critical: Failed to bind socket to {path}: No such file or directory"),
            "critical: failed to create guest agent channel",
            "critical: failed to initialize guest agent channel",
        ]
    );
}

#[test]
fn a_daemon_goes_into_the_background_once_it_can_be_reached() {
    let bed = Bed::new();
    let (socket, pid_file) = (bed.path("later/socket"), bed.path("pid"));
    let start = || {
        let mut command = bed.command(AGENT);
        command.arg("-rd").arg("-f").arg(&pid_file).arg("-p").arg(&socket);
        command.spawn().unwrap()
    };
    let mut waiting = start();
    pause(1);
    assert_eq!(waiting.try_wait().unwrap(), None);
    assert!(!pid_file.exists());
    kill_process(Pid::from_child(&waiting), Signal::TERM).unwrap();
    assert_eq!(ended(&mut waiting), Some(0));
    let mut waiting = start();
    std::fs::create_dir(bed.path("later")).unwrap();
    assert_eq!(ended(&mut waiting), Some(0));
    assert_eq!(Client::connect(&socket).call("guest-ping", ""), PONG);
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    wait_for("the pid file's removal", || (!pid_file.exists()).then_some(()));
}

#[test]
fn hup_ends_it_and_pipe_does_not() {
    let bed = Bed::new();
    let mut agent = bed.start();
    agent.signal(Signal::PIPE);
    assert_eq!(agent.connect().call("guest-ping", ""), PONG);
    agent.signal(Signal::HUP);
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(agent.wait_for_exit().signal(), Some(Signal::HUP.as_raw()));
}

/// An agent to which `socket` is handed over as a service manager does it.
fn activated(bed: &Bed, socket: std::os::fd::OwnedFd, count: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$@\"";
    command.args(["-c", script, "sh", AGENT, "-m", "isa-serial", "-t"]).arg(bed.path("state"));
    command.env("LISTEN_FDS", count).env("QGA_CONF", "/nonexistent").stdin(Stdio::from(socket));
    command
}

#[test]
fn a_socket_that_was_handed_over_is_the_channel() {
    let bed = Bed::new();
    let path = bed.path("handed-over");
    let listener = UnixListener::bind(&path).unwrap();
    let mut command = activated(&bed, listener.try_clone().unwrap().into(), "1");
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    let agent = Agent { child, socket: path };
    for _ in 0..2 {
        assert_eq!(agent.connect().call("guest-ping", ""), PONG);
    }
    let environ = std::fs::read(format!("/proc/{}/environ", agent.child.id())).unwrap();
    assert!(String::from_utf8_lossy(&environ).contains("LISTEN_FDS"));
    let mut dump = activated(&bed, listener.try_clone().unwrap().into(), "1");
    let dump = String::from_utf8(dump.arg("-D").output().unwrap().stdout).unwrap();
    assert!(dump.contains("\nmethod=unix-listen\npidfile="), "{dump}");
    // No sockets are for this process.
    let mut none = activated(&bed, listener.into(), "0");
    let none = String::from_utf8(none.arg("-D").output().unwrap().stdout).unwrap();
    assert!(none.contains("\nmethod=isa-serial\n"), "{none}");
}

#[test]
fn sockets_of_no_use_are_refused() {
    let bed = Bed::new();
    let listener = UnixListener::bind(bed.path("a")).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = File::open("/dev/null").unwrap();
    let cases = [
        (listener.into(), "2", "qemu-ga only supports listening on one socket"),
        (tcp.into(), "1", "unsupported listen fd type"),
        (file.into(), "1", "unsupported listen fd type"),
    ];
    for (socket, count, text) in cases {
        let output = activated(&bed, socket, count).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.ends_with(&format!("critical: {text}\n")), "{log}");
    }
}

/// Two sockets, of which the second one may do less.
fn two_channels(bed: &Bed, more: &str) -> Agent {
    let conf = bed.path("conf");
    let (wide, narrow) = (bed.path("wide"), bed.path("narrow"));
    let text = format!(
        "[general]\nstatedir={}\nblock-rpcs=guest-shutdown\n\
         [channel wide]\nmethod=unix-listen\npath={}\n\
         [channel narrow]\nmethod=unix-listen\npath={}\n\
         allow-rpcs=guest-ping,guest-info,guest-shutdown\n{more}",
        bed.path("state").display(),
        wide.display(),
        narrow.display(),
    );
    std::fs::write(&conf, text).unwrap();
    let mut command = Command::new(AGENT);
    command.arg("-c").arg(&conf).current_dir(bed.dir.path()).stderr(Stdio::null());
    Agent::spawn(&mut command, &narrow)
}

const DISABLED: &str = "has been disabled: the command is not allowed";

#[test]
fn channels_have_lists_of_their_own_and_share_the_freeze() {
    let bed = Bed::new();
    // As if a predecessor had frozen: this thaws nothing of this machine.
    std::fs::write(bed.path("state/qga.state.isfrozen"), "").unwrap();
    let agent = two_channels(&bed, "");
    let mut wide = Client::connect(&bed.path("wide"));
    let mut narrow = agent.connect();
    let enabled =
        |client: &mut Client| client.get("guest-info", "").matches("\"enabled\": true").count();
    // The six commands, whatever the lists say, and the four extensions where they leave them on.
    for (client, on) in [(&mut wide, 10), (&mut narrow, 6)] {
        assert_eq!(client.get("guest-fsfreeze-status", ""), "\"frozen\"");
        assert_eq!(enabled(client), on);
        assert_eq!(client.get("guest-sync", "{\"id\":1}"), "1");
        assert!(client.call("guest-file-open", "{\"path\":\"/x\"}").contains(DISABLED));
    }
    assert_eq!(narrow.get("guest-fsfreeze-thaw", ""), "0");
    assert_eq!(wide.get("guest-fsfreeze-status", ""), "\"thawed\"");
    assert!(enabled(&mut wide) > 10);
    assert_eq!(enabled(&mut narrow), 2);
    let handle = wide.get("guest-file-open", "{\"path\":\"/etc/passwd\"}");
    for refused in ["guest-fsfreeze-status", "guest-sync", "guest-file-close", "guest-shutdown"] {
        // Refused before the arguments are looked at, as with qemu-ga.
        assert!(narrow.call(refused, "{\"x\":1}").contains(DISABLED), "{refused}");
    }
    assert!(wide.call("guest-shutdown", "").contains(DISABLED));
    assert_eq!(wide.get("guest-file-close", &format!("{{\"handle\":{handle}}}")), "{}");
}

#[test]
fn files_stay_below_the_policys_prefixes() {
    let bed = Bed::new();
    std::fs::create_dir(bed.path("open")).unwrap();
    std::fs::write(bed.path("secret"), "x").unwrap();
    std::os::unix::fs::symlink("../secret", bed.path("open/link")).unwrap();
    let policy = format!("[policy]\nfile-paths={}\n", bed.path("open").display());
    let _agent = two_channels(&bed, &policy);
    let mut client = Client::connect(&bed.path("wide"));
    let new = bed.path("open/new").display().to_string();
    client.get("guest-file-open", &format!("{{\"path\":\"{new}\",\"mode\":\"w\"}}"));
    for name in ["secret", "open/link", "open/../secret"] {
        let path = bed.path(name).display().to_string();
        let error = client.error("guest-file-open", &format!("{{\"path\":\"{path}\"}}"));
        let text = "the agent's policy does not allow this path";
        assert_eq!(error, format!("failed to open file '{path}' (mode: 'r'): {text}"));
    }
}

#[test]
fn channels_without_a_host_cause_no_wake_up() {
    let bed = Bed::new();
    let (host, path) = serial_line();
    let serial = format!("[channel serial]\nmethod=isa-serial\npath={}\n", path.display());
    let agent = two_channels(&bed, &serial);
    assert_eq!(agent.connect().call("guest-ping", ""), PONG);
    let pid = agent.child.id();
    let mut before = switches(pid);
    wait_for("3 s without a wake-up", || {
        pause(3);
        let after = switches(pid);
        (std::mem::replace(&mut before, after) == after).then_some(())
    });
    drop(host);
}

#[test]
fn a_host_that_stops_reading_its_line_costs_nothing() {
    let bed = Bed::new();
    let (mut host, path) = serial_line();
    let child = serial_agent(&bed, &path).stderr(Stdio::null()).spawn().unwrap();
    let agent = Agent { child, socket: PathBuf::new() };
    wait_for("a raw line", || {
        let settings = rustix::termios::tcgetattr(&host).unwrap();
        settings.local_modes.is_empty().then_some(())
    });
    // Some 60 answers are more than a line buffers.
    for _ in 0..60 {
        host.write_all(b"{\"execute\":\"guest-info\"}\n").unwrap();
    }
    // Not at once: a second after its start it gives memory back.
    let mut before = (ticks(agent.child.id()), switches(agent.child.id()));
    wait_for("two seconds without a wake-up or a spin", || {
        pause(2);
        let after = (ticks(agent.child.id()), switches(agent.child.id()));
        let before = std::mem::replace(&mut before, after);
        (after.0 - before.0 <= 1 && after.1 == before.1).then_some(())
    });
    for _ in 0..60 {
        assert!(line(&mut host).starts_with("{\"return\""));
    }
}
