//! Files into a guest and out of one, by its real agent or a stock one on this machine.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use qga_e2e::until;

use super::Cli;
use crate::fleet::{SOON, gateway_program};
use crate::processes::Here;

/// Bytes with no period that a chunk could have.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A guest, with a directory in it and one here.
pub(super) struct Bed {
    here: Here,
    pub(super) cli: Cli,
    pub(super) guest: PathBuf,
    pub(super) host: PathBuf,
}

impl Bed {
    pub(super) fn over(here: Here) -> Self {
        let cli = Cli::new(&gateway_program().unwrap(), here.gateway.socket());
        let (guest, host) = (here.dir.path().join("guest"), here.dir.path().join("host"));
        fs::create_dir(&guest).unwrap();
        fs::create_dir(&host).unwrap();
        Self { here, cli, guest, host }
    }

    pub(super) fn start() -> Option<Self> {
        Here::start("").map(Self::over)
    }

    pub(super) fn remote(&self, name: &str) -> String {
        format!("vm:{}/{name}", self.guest.display())
    }

    pub(super) fn local(&self, name: &str) -> String {
        self.host.join(name).display().to_string()
    }

    fn content(&self, name: &str) -> String {
        format!("/vms/vm/files/content?path={}/{name}", self.guest.display())
    }

    /// How often the gateway answered such a request with that status.
    fn logged(&self, request: &str) -> usize {
        self.here.gateway.log().matches(request).count()
    }
}

pub(super) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn files_go_both_ways() {
    let Some(bed) = Bed::start() else { return };
    let bytes = noise(3_000_001);
    fs::write(bed.host.join("up"), &bytes).unwrap();
    fs::set_permissions(bed.host.join("up"), Permissions::from_mode(0o640)).unwrap();
    let up = bed.cli.run(["cp", "-p", &bed.local("up"), &bed.remote("")]);
    assert!(up.err.contains("in its place whole"), "{up:?}");
    assert!(fs::read(bed.guest.join("up")).unwrap() == bytes);
    assert_eq!(mode(&bed.guest.join("up")), 0o640);

    // A directory takes it under its own name, with and without a slash.
    let dir = format!("vm:{}", bed.guest.display());
    fs::write(bed.host.join("second"), "2").unwrap();
    bed.cli.run(["cp", "-q", "--verify", &bed.local("second"), &dir]).ok();
    assert_eq!(fs::read(bed.guest.join("second")).unwrap(), b"2");
    let host = bed.host.display().to_string();
    bed.cli.run(["cp", "--verify", "-p", &bed.remote("up"), &host]).ok();
    assert!(fs::read(bed.host.join("up")).unwrap() == bytes);
    assert_eq!(mode(&bed.host.join("up")), 0o640);

    // What is replaced keeps its mode here, and a link stays one.
    fs::set_permissions(bed.host.join("second"), Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink("second", bed.host.join("link")).unwrap();
    let ran = bed.cli.run(["cp", &bed.remote("up"), &bed.local("link")]);
    assert_eq!((ran.ok().as_str(), mode(&bed.host.join("second"))), ("", 0o600));
    assert!(fs::symlink_metadata(bed.host.join("link")).unwrap().is_symlink());

    let out = bed.cli.command(["cp", &bed.remote("up"), "-"]).output().unwrap();
    assert!(out.status.success() && out.stdout == bytes);
    let mut child = bed.cli.command(["cp", "-q", "-", &bed.remote("piped")]);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(fs::read(bed.guest.join("piped")).unwrap() == bytes);
    let status = bed.cli.run(["cp", "vm:/proc/self/status", "-"]).ok();
    assert!(status.starts_with("Name:"), "{status}");
    bed.cli.run(["cp", &bed.remote("up"), "/dev/null"]).ok();

    let left: Vec<_> = fs::read_dir(&bed.host).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing is left behind: {left:?}");
}

#[test]
fn what_cannot_be_copied_is_refused_with_what_can_be_done() {
    let Some(bed) = Bed::start() else { return };
    let run = |arguments: &[&str]| bed.cli.run([&["cp"], arguments].concat());
    run(&["vm:/nonexistent", "x"]).fails(1, &["[file_not_found]"]);
    run(&["a", "b"]).fails(2, &["VM:/PATH"]);
    run(&["vm:etc/motd", "b"]).fails(2, &["vm:/etc/motd"]);
    run(&["vm:/a", "vm:/b"]).fails(2, &["qga-gateway cp vm:/a - | qga-gateway cp - vm:/b"]);
    run(&["-", "vm:/srv/"]).fails(2, &["name the file"]);
    run(&["-c", "-", "vm:/srv/x"]).fails(2, &["--continue"]);
    run(&["vm:/etc/motd", "/nonexistent/dir/x"]).fails(1, &["/nonexistent/dir"]);
}

#[test]
fn a_download_goes_on_with_the_same_content_only() {
    let Some(bed) = Bed::start() else { return };
    let bytes = noise(2_000_000);
    fs::write(bed.guest.join("file"), &bytes).unwrap();
    let head = bed.here.gateway.rest().send("HEAD", &bed.content("file"), None).unwrap();
    let tag = head.header("etag").unwrap().to_owned();
    let broken_off = |tag: &str| {
        fs::write(bed.host.join(".file.qga-part"), &bytes[..700_000]).unwrap();
        fs::write(bed.host.join(".file.qga-part.etag"), tag).unwrap();
    };
    let whole = |wanted: &[u8]| {
        assert!(fs::read(bed.host.join("file")).unwrap() == wanted);
        assert!(!bed.host.join(".file.qga-part").exists(), "it has its name now");
    };
    broken_off(&tag);
    bed.cli.run(["cp", "-c", &bed.remote("file"), &bed.local("file")]).ok();
    whole(&bytes);
    assert_eq!(bed.logged("/files/content: 206"), 1);

    // All of it was there.
    fs::write(bed.host.join(".file.qga-part"), &bytes).unwrap();
    fs::write(bed.host.join(".file.qga-part.etag"), &tag).unwrap();
    bed.cli.run(["cp", "-c", &bed.remote("file"), &bed.local("file")]).ok();
    whole(&bytes);

    // Another content begins afresh, and so does a copy that is not to go on.
    let other = noise(1_500_000).into_iter().rev().collect::<Vec<_>>();
    fs::write(bed.guest.join("file"), &other).unwrap();
    broken_off(&tag);
    let ran = bed.cli.run(["cp", "-c", &bed.remote("file"), &bed.local("file")]);
    assert!(ran.err.contains("begins afresh"), "{ran:?}");
    whole(&other);
    broken_off(&tag);
    bed.cli.run(["cp", &bed.remote("file"), &bed.local("file")]).ok();
    whole(&other);
    assert_eq!(bed.logged("/files/content: 206"), 1);
}

#[test]
fn an_upload_goes_on_where_it_broke_off() {
    let Some(bed) = Bed::start() else { return };
    let bytes = noise(3_000_000);
    fs::write(bed.host.join("file"), &bytes).unwrap();
    fs::write(bed.host.join("begin"), &bytes[..1_000_000]).unwrap();
    let range = "content-range: bytes 0-999999/3000000";
    let begin = |name: &str| {
        let begin = format!("@{}", bed.local("begin"));
        let got =
            bed.here.curl(&["-X", "PUT", "-H", range, "--data-binary", &begin], &bed.content(name));
        assert!(got.stdout.starts_with(b"{\"received\":1000000"), "{got:?}");
    };
    begin("file");
    bed.cli.run(["cp", "--continue", &bed.local("file"), &bed.remote("file")]).ok();
    assert!(fs::read(bed.guest.join("file")).unwrap() == bytes);
    // One that was begun by us, and killed on its way.
    let mut child =
        bed.cli.start(["cp", "-q", "--verify", &bed.local("file"), &bed.remote("other")]);
    until("a part or all of it", SOON, || {
        let shown = format!("/vms/vm/files?path={}/other", bed.guest.display());
        let shown = bed.here.gateway.rest().get(&shown)?;
        Ok((shown.status == 200 || shown.json["received"].as_u64() > Some(0)).then_some(()))
    })
    .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    bed.cli.run(["cp", "-c", "--verify", &bed.local("file"), &bed.remote("other")]).ok();
    assert!(fs::read(bed.guest.join("other")).unwrap() == bytes);

    // What is there is longer than what is to be sent.
    begin("short");
    fs::write(bed.host.join("file"), &bytes[..1000]).unwrap();
    let ran = bed.cli.run(["cp", "-c", &bed.local("file"), &bed.remote("short")]);
    ran.fails(1, &["it is not the same file"]);
}

#[test]
fn a_killed_download_goes_on() {
    let Some(bed) = Bed::start() else { return };
    let bytes = noise(40_000_000);
    fs::write(bed.guest.join("file"), &bytes).unwrap();
    let part = bed.host.join(".file.qga-part");
    let mut child = bed.cli.start(["cp", "-q", &bed.remote("file"), &bed.local("file")]);
    until("a part or all of it", SOON, || {
        let begun = File::open(&part).and_then(|part| part.metadata()).is_ok_and(|m| m.len() > 0);
        Ok((begun || bed.host.join("file").exists()).then_some(()))
    })
    .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    bed.cli.run(["cp", "-c", &bed.remote("file"), &bed.local("file")]).ok();
    assert!(fs::read(bed.host.join("file")).unwrap() == bytes);
}

#[test]
fn a_stock_agent_copies_too() {
    let Some(stock) = qga_testing::stock_agent() else { return };
    let Some(here) = Here::with(stock, "") else { return };
    let bed = Bed::over(here);
    let bytes = noise(300_000);
    fs::write(bed.host.join("up"), &bytes).unwrap();
    let up = bed.cli.run(["cp", &bed.local("up"), &bed.remote("up")]);
    assert!(up.err.contains("not in one step"), "{up:?}");
    assert!(fs::read(bed.guest.join("up")).unwrap() == bytes);
    bed.cli.run(["cp", &bed.remote("up"), &bed.local("down")]).ok();
    assert!(fs::read(bed.host.join("down")).unwrap() == bytes);
    fs::write(bed.guest.join("part"), &bytes[..100_000]).unwrap();
    bed.cli.run(["cp", "-c", &bed.local("up"), &bed.remote("part")]).ok();
    assert!(fs::read(bed.guest.join("part")).unwrap() == bytes);
    let verified = bed.cli.run(["cp", "--verify", &bed.remote("up"), &bed.local("down")]);
    verified.fails(1, &["needs qga-agent"]);
    bed.cli
        .run(["cp", "-p", &bed.local("up"), &bed.remote("p")])
        .fails(1, &["[command_unsupported]"]);
}
