//! Options and configuration, side by side with the real qemu-ga where it is installed.
//!
//! Debian's is 7.2. Where the agent follows 11.1, or differs on purpose, the comparison leaves out
//! what stands in this list:
//!
//! * 7.2 has no `-c` and no `-a`, and its dump has no line `allow-rpcs=` (8.0, 9.1).
//! * 7.2 knows the older names `--blacklist` and `blacklist=`; 9.1 removed both. The agent refuses
//!   the option and still honours the key, because a list that is passed over opens doors.
//! * 7.2 ends with 0 when its state directory or log file cannot be used; later ones with 1.
//! * 7.2 reads the configuration before the command line, so that a malformed one hides `--help`.
//! * The agent refuses a configuration that others can write, unknown keys in groups that are its
//!   own, and a serial channel that is no terminal, on which qemu-ga would wait for ever.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::bed::{AGENT, Bed};
use crate::interop::qemu_ga;

fn run(program: &Path, conf: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("QGA_CONF", conf);
    command.output().unwrap()
}

fn configured(bed: &Bed, text: &[u8]) -> std::path::PathBuf {
    let path = bed.path("conf");
    std::fs::File::create(&path).unwrap().write_all(text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    path
}

/// Exit code, output and the texts of the critical lines, without times and programs.
fn seen(output: &Output) -> (Option<i32>, String, Vec<String>) {
    let out = String::from_utf8_lossy(&output.stdout).replace("allow-rpcs=\n", "");
    let out: Vec<_> = out.lines().map(|line| line.split(", try '").next().unwrap()).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    let texts = errors.lines().filter_map(|line| {
        let (_, text) = line.split_once("critical: ").or_else(|| {
            let (_, timed) = line.split_once("CRITICAL **: ")?;
            timed.split_once(": ")
        })?;
        // qemu-ga leaves the locale at C, and what is not ASCII shows as question marks.
        Some(text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect())
    });
    (output.status.code(), out.join("\n"), texts.collect())
}

#[test]
fn configurations_are_read_as_qemu_ga_reads_them() {
    let Some(theirs) = qemu_ga() else { return };
    let bed = Bed::new();
    let all = "[general]\ndaemon=1\nmethod=unix-listen\npath=/p\nlogfile=/l\npidfile=/f\n\
               fsfreeze-hook=/h\nstatedir=/t\nverbose=true\nretry-path=1\nblock-rpcs=a,b,,c\n";
    let cases: [&[u8]; 31] = [
        b"",
        all.as_bytes(),
        b"[general]\nfoo=bar\n[other]\nx=1\n",
        b"[general]\nmethod=isa-serial\n",
        b"[general]\nmethod=unix-listen\n",
        b"method=unix-listen\n",
        b"[general]\nverbose=yes\n",
        b"[general]\nverbose\n",
        b"[general]\nverbose= true \n",
        b"[general]\nverbose=\n",
        b"[general]\nverbose=TRUE\n",
        b"[general]\npath=a\\sb\\tc\\nd\\\\\n",
        b"[general]\npath=a\\q\n",
        b"[general]\npath=a\\\n",
        b"[general]\npath=\\s \\ta #x\n",
        b"[general]\nlogfile=a\nlogfile=b\n[general]\npath=z\n",
        b"[general\npath=z\n",
        b"[]\npath=z\n",
        b"[a[b]\npath=z\n",
        b"[general] \t\n =z\n",
        b"[general]x\npath=z\n",
        b"# c\n\n  # d\n [general]\n  path  =  z  \n",
        b"[general]\npath[de]=z\npath=y\n",
        b"[general]\npa th=z\n",
        b"[general]\npa[th=z\n",
        b"[general]\npath=\xff\n",
        b"[general]\nother=\xff\n\xff=\xff\n",
        b"[general]\nEncoding=latin1\n",
        b"\xef\xbb\xbf[general]\npath=z\n",
        b"[general]\r\npath=z\r\nverbose=true\r\n",
        b"[general]\npath=z\0y\nverbose=1",
    ];
    for text in cases {
        let conf = configured(&bed, text);
        let wanted = seen(&run(&theirs, &conf, &["-D"]));
        let got = seen(&run(Path::new(AGENT), &conf, &["-D"]));
        assert_eq!(got, wanted, "{}", String::from_utf8_lossy(text));
    }
    for conf in [Path::new("/nonexistent"), Path::new("/tmp")] {
        let wanted = seen(&run(&theirs, conf, &["-D"]));
        assert_eq!(seen(&run(Path::new(AGENT), conf, &["-D"])), wanted, "{}", conf.display());
    }
}

#[test]
fn options_are_read_as_qemu_ga_reads_them() {
    let Some(theirs) = qemu_ga() else { return };
    let bed = Bed::new();
    let conf = configured(&bed, b"[general]\nblock-rpcs=x,y\npath=/p\nverbose=0\n");
    let cases: [&[&str]; 25] = [
        &["-D"],
        &["-m", "unix-listen", "-D"],
        &["-m", "foo", "-D"],
        &["-b", "a,b", "-b", "c,,d", "-D"],
        &["-b", "", "-D"],
        &["-F", "-D"],
        &["-F/x", "-D"],
        &["-F", "/x", "-D"],
        &["--fsfreeze-hook=/y", "-D"],
        &["--fsfreeze-hook", "/y", "-D"],
        &["-s", "x", "-D"],
        &["-s"],
        &["-x"],
        &["--foo"],
        &["-m"],
        &["--block-rpcs"],
        &["--ver"],
        &["operand", "-D"],
        &["-d", "-v", "-r", "-l", "/l", "-f", "/f", "-t", "/t", "-p", "/q", "-D"],
        &["-dvrl/l", "-D"],
        &["--daemonize", "--verbose", "--retry-path", "--logf", "/l", "--dump-conf"],
        &["--verbose=1", "-D"],
        &["-t", "relative", "-D"],
        &["-D", "--", "-x"],
        &["-m", "isa-serial", "-D"],
    ];
    for arguments in cases {
        let wanted = seen(&run(&theirs, &conf, arguments));
        assert_eq!(seen(&run(Path::new(AGENT), &conf, arguments)), wanted, "{arguments:?}");
    }
    for question in ["help", "?"] {
        let output = run(&theirs, &conf, &["-b", question]);
        let wanted = String::from_utf8(output.stdout).unwrap();
        let got = run(Path::new(AGENT), &conf, &["-b", question]);
        assert_eq!(got.status.code(), output.status.code());
        let got = String::from_utf8(got.stdout).unwrap();
        // The agent has all of them, in the same order, and later ones between. 7.2 lists
        // guest-get-devices, which later releases leave to Windows.
        let mut ours = got.lines();
        for name in wanted.lines().filter(|name| *name != "guest-get-devices") {
            assert!(ours.any(|ours| ours == name), "{name}");
        }
    }
}

#[test]
fn channels_that_cannot_be_opened_fail_as_with_qemu_ga() {
    let Some(theirs) = qemu_ga() else { return };
    let bed = Bed::new();
    let state = bed.path("state").display().to_string();
    let cases = [
        ("foo", "x"),
        ("unix-listen", "/nonexistent/x"),
        ("virtio-serial", "/nonexistent/x"),
        ("isa-serial", "/nonexistent/x"),
        ("vsock-listen", "foo"),
        ("vsock-listen", "3:"),
        ("vsock-listen", ":4"),
        ("vsock-listen", "x:y"),
        ("vsock-listen", "3:y"),
        ("vsock-listen", "3:4,5"),
        ("vsock-listen", "3:4294967296"),
    ];
    for (method, path) in cases {
        let arguments = ["-m", method, "-p", path, "-t", &state];
        let conf = Path::new("/nonexistent");
        let wanted = seen(&run(&theirs, conf, &arguments));
        assert_eq!(seen(&run(Path::new(AGENT), conf, &arguments)), wanted, "{method} {path}");
    }
}

#[test]
fn a_configuration_named_by_c_must_exist_and_comes_before_the_environments() {
    let bed = Bed::new();
    let conf = configured(&bed, b"[general]\npath=/mine\n");
    let agent = Path::new(AGENT);
    let output = run(agent, Path::new("/tmp"), &["-c", conf.to_str().unwrap(), "-D"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("\npath=/mine\n"));
    let output = run(agent, &conf, &["-c", "/nonexistent", "-D"]);
    let text = "error loading configuration from path: /nonexistent, No such file or directory";
    assert_eq!(seen(&output), (Some(1), String::new(), vec![text.into()]));
}

#[test]
fn a_configuration_that_others_can_write_is_refused() {
    let bed = Bed::new();
    let conf = configured(&bed, b"[general]\nverbose=1\n");
    std::fs::set_permissions(&conf, PermissionsExt::from_mode(0o666)).unwrap();
    let (code, out, texts) = seen(&run(Path::new(AGENT), &conf, &["-D"]));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let path = conf.display();
    let text = format!(
        "error loading configuration from path: {path}, it can be written by others than its owner \
         (mode 0666), who would decide what the agent does as root: chmod go-w"
    );
    assert_eq!(texts, [text]);
}

#[test]
fn a_link_named_qemu_ga_is_qemu_ga() {
    let bed = Bed::new();
    let link = bed.path("qemu-ga");
    std::os::unix::fs::symlink(AGENT, &link).unwrap();
    let help = Command::new(&link).arg("--help").output().unwrap();
    let wanted = format!("Usage: {} [-m METHOD", link.display());
    assert!(String::from_utf8_lossy(&help.stdout).starts_with(&wanted));
    let unknown = Command::new(&link).arg("-x").output().unwrap();
    let wanted = format!("Unknown option, try '{} --help' for more information.\n", link.display());
    assert_eq!(String::from_utf8_lossy(&unknown.stdout), wanted);
}
