use std::os::unix::fs::PermissionsExt as _;

use qga_proto::base64::Base64Text;
use qga_proto::command::{CaptureOutput, TerminalSize, XExecStart};
use rustix::process::geteuid;

use super::{refused, run, sh};
use crate::bed::{AGENT, Agent, Bed};

#[test]
fn directory_environment_and_arguments_are_as_asked() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    assert_eq!(run(&mut client, &sh("pwd")).0, "/\n");
    let cwd = Some(bed.dir.path().display().to_string());
    assert_eq!(
        run(&mut client, &XExecStart { cwd: cwd.clone(), ..sh("pwd") }).0.trim(),
        cwd.clone().unwrap()
    );
    let env = Some(vec!["A=b".to_owned(), "C=d e".to_owned()]);
    let argv = vec!["/usr/bin/env".to_owned()];
    let printed = run(&mut client, &XExecStart { argv, env, ..sh("") }).0;
    assert_eq!(printed, "A=b\nC=d e\n");
    let argv = ["printf", "%s|", "a b", "", "\u{e9}$A"].map(str::to_owned).into();
    assert_eq!(run(&mut client, &XExecStart { argv, ..sh("") }).0, "a b||\u{e9}$A|");
    // The program is looked up in the directory and by the PATH that it will have.
    let script = bed.path("script");
    std::fs::write(&script, "echo \"script $*\"\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (program, path) in [("./script", "PATH=/nope"), ("script", "PATH=/nope:.")] {
        let argv = vec![program.to_owned(), "x".to_owned()];
        let env = Some(vec![path.to_owned()]);
        let start = XExecStart { argv, env, cwd: cwd.clone(), ..sh("") };
        assert_eq!(run(&mut client, &start).0, "script x\n");
    }
    // A session and a group of its own, no signals blocked or ignored, no descriptors.
    let script = "cut -d' ' -f5,6 /proc/$$/stat; grep -E 'Sig(Blk|Ign)' /proc/self/status; \
                  ls /proc/self/fd | tr '\\n' ' '; echo; echo $$";
    let output = run(&mut client, &sh(script)).0;
    let lines: Vec<_> = output.lines().collect();
    let pid = lines[4];
    assert_eq!(lines[0], format!("{pid} {pid}"));
    assert_eq!(lines[1], "SigBlk:\t0000000000000000");
    // The C library has two for itself, which whoever runs the tests may ignore.
    let ignored = u64::from_str_radix(lines[2].strip_prefix("SigIgn:\t").unwrap(), 16).unwrap();
    assert_eq!(ignored & !(3 << 31), 0, "{}", lines[2]);
    assert_eq!(lines[3], "0 1 2 3 ", "3 is the directory that ls lists");
}

#[test]
fn a_user_brings_groups_home_and_environment() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    if !geteuid().is_root() {
        qga_testing::unavailable("not root");
        return;
    }
    let as_user = |user: &str, script: &str| XExecStart { user: Some(user.into()), ..sh(script) };
    let groups = std::process::Command::new("id").args(["-G", "nobody"]).output().unwrap();
    let groups = String::from_utf8(groups.stdout).unwrap();
    let script = "id -u; id -G; pwd; echo $HOME $USER $LOGNAME $SHELL; env | cut -d= -f1 | sort | tr '\\n' ' '";
    for user in ["nobody", "65534"] {
        let (output, errors, _) = run(&mut client, &as_user(user, script));
        let lines: Vec<_> = output.lines().collect();
        assert_eq!((lines[0], lines[1]), ("65534", groups.trim()), "{output} {errors}");
        // /nonexistent, in Debian.
        assert_eq!(lines[2], "/");
        assert_eq!(lines[3], "/nonexistent nobody nobody /usr/sbin/nologin");
        assert!(["HOME LOGNAME PATH PWD SHELL USER "].contains(&lines[4]), "{}", lines[4]);
    }
    let (output, _, _) = run(&mut client, &as_user("root", "pwd; echo $HOME"));
    assert_eq!(output, "/root\n/root\n");
    // The terminal is the user's, and what root may, he may not.
    let pty = Some(TerminalSize { rows: 2, cols: 2 });
    let script = "stat -c %u $(tty); cat /etc/shadow 2> /dev/null || echo no";
    let handle = super::start(&mut client, &XExecStart { pty, ..as_user("nobody", script) });
    super::output_until(&mut client, handle, "65534\r\nno\r\n");
    // He cannot enter what is closed to him.
    std::fs::create_dir(bed.path("closed")).unwrap();
    std::fs::set_permissions(bed.path("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let cwd = bed.path("closed").display().to_string();
    let refusal =
        refused(&mut client, &XExecStart { cwd: Some(cwd.clone()), ..as_user("nobody", "exit") });
    let text = format!("failed to start 'sh' in directory '{cwd}': Permission denied");
    assert_eq!(refusal, (text, "EACCES".into()));
}

#[test]
fn what_cannot_be_started_says_why() {
    let bed = Bed::new();
    std::fs::write(bed.path("plain"), "x").unwrap();
    let agent = bed.start();
    let mut client = agent.connect();
    let dir = bed.dir.path().display().to_string();
    let program = |name: &str| XExecStart { argv: vec![name.to_owned()], ..sh("") };
    for (start, text, errno) in [
        (
            program("/nope"),
            "failed to start '/nope': No such file or directory".to_owned(),
            "ENOENT",
        ),
        (
            program("nope-nope"),
            "failed to start 'nope-nope': No such file or directory".into(),
            "ENOENT",
        ),
        (program(&dir), format!("failed to start '{dir}': Permission denied"), "EACCES"),
        (
            program(&format!("{dir}/plain")),
            format!("failed to start '{dir}/plain': Permission denied"),
            "EACCES",
        ),
        (
            XExecStart { cwd: Some("/nope".into()), ..sh("exit") },
            "failed to start 'sh' in directory '/nope': No such file or directory".into(),
            "ENOENT",
        ),
        (
            XExecStart { user: Some("nobody-here".into()), ..sh("exit") },
            "failed to start 'sh': there is no user 'nobody-here'".into(),
            "EINVAL",
        ),
        (program(""), "invalid argv: it names no program".into(), "EINVAL"),
        (
            XExecStart { argv: Vec::new(), ..sh("") },
            "invalid argv: it names no program".into(),
            "EINVAL",
        ),
        (sh("a\0b"), "invalid argv: it has a NUL in it".into(), "EINVAL"),
        (
            XExecStart { cwd: Some("\0".into()), ..sh("") },
            "invalid cwd: it has a NUL in it".into(),
            "EINVAL",
        ),
        (
            XExecStart { env: Some(vec!["\0".into()]), ..sh("") },
            "invalid env: it has a NUL in it".into(),
            "EINVAL",
        ),
        (
            XExecStart { pty: Some(TerminalSize { rows: 0, cols: 1 }), ..sh("") },
            "invalid pty: rows and cols must be 1 or more".into(),
            "EINVAL",
        ),
        (
            XExecStart { argv: vec!["true".into(), "x".repeat(200_000)], ..sh("") },
            "failed to start 'true': Argument list too long".into(),
            "E2BIG",
        ),
    ] {
        assert_eq!(refused(&mut client, &start), (text, errno.to_owned()));
    }
    let junk = client.call("x-guest-exec-start", "{\"argv\":[\"true\"],\"input-data\":\"!\"}");
    assert!(junk.contains("Base64 data contains invalid characters"), "{junk}");
    let handles = super::programs(&mut client);
    assert_eq!(handles, []);
    let children = format!("/proc/{0}/task/{0}/children", agent.child.id());
    assert_eq!(std::fs::read_to_string(children).unwrap_or_default(), "");
}

#[test]
fn only_root_becomes_somebody_else() {
    if !geteuid().is_root() {
        qga_testing::unavailable("not root");
        return;
    }
    let bed = Bed::new();
    let open = std::fs::Permissions::from_mode(0o777);
    for path in [bed.dir.path().to_owned(), bed.path("state")] {
        std::fs::set_permissions(path, open.clone()).unwrap();
    }
    let program = bed.path("agent");
    std::fs::copy(AGENT, &program).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    command.args(["-m", "unix-listen", "-p"]).arg(bed.path("socket"));
    command.arg("-t").arg(bed.path("state")).stderr(std::process::Stdio::null());
    let agent = Agent::spawn(&mut command, &bed.path("socket"));
    let mut client = agent.connect();
    let start = XExecStart { user: Some("root".into()), ..sh("id -u") };
    let text = "failed to start 'sh' as user 'root': that takes an agent that runs as root";
    assert_eq!(refused(&mut client, &start), (text.into(), "EPERM".into()));
    assert_eq!(run(&mut client, &sh("id -u")).0, "65534\n");
    let myself = XExecStart { user: Some("nobody".into()), ..start };
    assert_eq!(run(&mut client, &myself).0, "65534\n");
}

#[test]
fn policy_lists_and_freezes_hold_for_them_too() {
    let bed = Bed::new();
    let config = "[general]\nblock-rpcs=guest-exec\n";
    std::fs::write(bed.path("conf"), config).unwrap();
    let mut command = bed.command(AGENT);
    command.arg("-c").arg(bed.path("conf"));
    let agent = Agent::spawn(&mut command, &bed.path("socket"));
    let mut client = agent.connect();
    let info: serde_json::Value = serde_json::from_str(&client.get("guest-info", "")).unwrap();
    let commands = info["supported_commands"].as_array().unwrap();
    let ours: Vec<_> = commands
        .iter()
        .filter(|c| c["name"].as_str().unwrap().starts_with("x-guest-exec-"))
        .collect();
    assert_eq!(ours.len(), 8);
    for command in ours {
        assert_eq!(command["enabled"], false, "{command}");
        let answer = client.call(command["name"].as_str().unwrap(), "");
        assert!(answer.contains("has been disabled: the command is not allowed"), "{answer}");
    }
    drop(agent);

    std::fs::write(bed.path("conf"), "[policy]\nexec-programs=/bin/echo\n").unwrap();
    let mut command = bed.command(AGENT);
    command.arg("-c").arg(bed.path("conf"));
    let agent = Agent::spawn(&mut command, &bed.path("socket"));
    let mut client = agent.connect();
    let program = |name: &str| XExecStart { argv: vec![name.to_owned(), "x".to_owned()], ..sh("") };
    assert_eq!(run(&mut client, &program("/bin/echo")).0, "x\n");
    for name in ["echo", "/bin/sh", "/bin/../bin/echo"] {
        let text =
            format!("failed to start '{name}': the agent's policy does not allow this program");
        assert_eq!(refused(&mut client, &program(name)), (text, "EACCES".into()));
    }
}

#[test]
fn no_argument_shows_in_the_log() {
    let bed = Bed::new();
    let mut command = bed.command(AGENT);
    command.arg("-v").arg("-l").arg(bed.path("log"));
    let agent = Agent::spawn(&mut command, &bed.path("socket"));
    let mut client = agent.connect();
    let start = XExecStart {
        argv: vec!["true".into(), "Sesam1".into()],
        env: Some(vec!["A=Sesam2".into()]),
        input_data: Some(Base64Text::new(*b"Sesam3")),
        capture_output: Some(CaptureOutput::Separated),
        ..XExecStart::default()
    };
    run(&mut client, &start);
    refused(&mut client, &XExecStart { argv: vec!["/nope".into(), "Sesam4".into()], ..start });
    let log = crate::bed::wait_for("the log", || {
        let log = std::fs::read_to_string(bed.path("log")).unwrap();
        log.contains("/nope").then_some(log)
    });
    assert!(log.contains("x-guest-exec-start called: \"true\""), "{log}");
    assert!(!log.contains("Sesam") && !log.contains("U2VzYW0z"), "{log}");
}
