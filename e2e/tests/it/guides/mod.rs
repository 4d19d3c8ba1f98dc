//! The guides in `docs/`, pasted as they stand: every block marked `sh`, in order, against a real VM.

mod getting_started;
mod recipes;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use crate::guests::{Guest, Kind, gateway_program};

/// Directories of the pages, which lie in a host's own place here.
const PLACES: [&str; 5] =
    ["/etc/qga-gateway", "/run/qga", "/var/lib/qga-gateway", "/srv/", "/usr/local/sbin/"];

/// What a shell has to have before a page is pasted into it: a host after the packages.
const PRELUDE: &str = include_str!("prelude.sh");

/// A host with VM `db1`, all of whose places lie in a directory of their own.
struct Host {
    guest: Guest,
    place: PathBuf,
    gateway: PathBuf,
    port: u16,
    /// The group of the gateway's user.
    group: u32,
}

/// Stands for the user `qga` and its group, where the test may become somebody: nobody else has this number.
const QGA: u32 = 64_999;

impl Host {
    /// Boots the VM; `None` after a line that says what is missing.
    fn start() -> Option<Self> {
        for program in ["bash", "curl", "jq", "openssl", "python3", "restic", "borg"] {
            if qga_testing::program(program).is_none() {
                qga_testing::missing(&format!("no {program}; run scripts/install-deps"));
                return None;
            }
        }
        let gateway = gateway_program()?;
        let guest = Guest::boot(Kind::Ours)?;
        let place = guest.dir().join("host");
        for dir in PLACES.into_iter().chain(["/run/qga-gateway", "/root"]) {
            fs::create_dir_all(place.join(dir.trim_start_matches('/'))).unwrap();
        }
        // Other names of QEMU's own sockets: a link would not be followed.
        let sockets =
            [(guest.vm.qga_socket(), "db1.sock"), (guest.vm.second_qmp_socket(), "db1-backup.qmp")];
        for (socket, name) in sockets {
            fs::hard_link(socket, place.join("run/qga").join(name)).unwrap();
        }
        let root = rustix::process::geteuid().is_root();
        let group = if root { QGA } else { rustix::process::getegid().as_raw() };
        if root {
            // What the packages and QEMU's umask would have made of these.
            let [state, api, vms] = ["var/lib/qga-gateway", "run/qga-gateway", "run/qga"];
            for dir in [state, api] {
                chown(place.join(dir), Some(QGA), Some(QGA)).unwrap();
            }
            let sockets = fs::read_dir(place.join(vms)).unwrap().map(|entry| entry.unwrap().path());
            for path in sockets {
                chown(&path, None, Some(QGA)).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o770)).unwrap();
            }
            fs::set_permissions(guest.dir(), Permissions::from_mode(0o711)).unwrap();
        }
        // Free a moment ago. The page has a fixed one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { guest, place, gateway, port, group })
    }

    /// A path of the guides, as it is here.
    fn path(&self, path: &str) -> PathBuf {
        self.place.join(path.trim_start_matches('/'))
    }

    /// A page's text with this host's places.
    fn here(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for dir in PLACES {
            text = text.replace(dir, &format!("{}{dir}", self.place.display()));
        }
        let examples = workspace().join("deploy/examples/").display().to_string();
        let group = self.group;
        text.replace("/usr/share/doc/qga-gateway/examples/", &examples)
            .replace("8470", &self.port.to_string())
            .replace("-g qga ", &format!("-g {group} "))
            .replace(":qga ", &format!(":{group} "))
    }

    /// Runs `script` in a shell that has this host's gateway, and ends with it.
    fn bash(&self, script: &str) -> Output {
        let begun = Instant::now();
        // What whoever runs the tests ignores, bash could not trap.
        let done = qga_testing::tied("env")
            .args(["--default-signal", "bash", "-c", &format!("{PRELUDE}\n{script}")])
            .current_dir(&self.place)
            .env("HOME", self.path("/root"))
            .env("GATEWAY", &self.gateway)
            .env("PLACE", &self.place)
            .env("QGA", self.group.to_string())
            .output()
            .unwrap();
        let seconds = begun.elapsed().as_secs_f32();
        let (out, err) = (text(&done.stdout), text(&done.stderr));
        eprintln!("{} after {seconds:.1} s:\n{out}\n{err}", done.status);
        done
    }

    /// As [`Host::bash`], of what must succeed.
    fn succeeds(&self, script: &str) -> String {
        let done = self.bash(script);
        let log = fs::read_to_string(self.place.join("gateway.log")).unwrap_or_default();
        assert!(done.status.success(), "{}\nthe gateway's log:\n{log}", text(&done.stderr));
        text(&done.stdout)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The blocks of a page that are marked `sh`.
fn blocks(page: &str) -> Vec<String> {
    let text = fs::read_to_string(workspace().join("docs").join(page)).unwrap();
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```sh" => {
                inside = true;
                blocks.push(String::new());
            }
            "```" => inside = false,
            _ if inside => *blocks.last_mut().expect("begun") += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}

/// What a shell finds wrong with a block without running it.
#[test]
fn every_block_of_every_page_is_shell() {
    for entry in fs::read_dir(workspace().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        for block in blocks(&name) {
            let judged = Command::new("bash").args(["-n", "-c", &block]).output().unwrap();
            assert!(judged.status.success(), "{name}: {}\n{block}", text(&judged.stderr));
        }
    }
}

/// Every link of every page leads to a file that is there, and to a heading in it.
#[test]
fn every_link_leads_somewhere() {
    let docs = workspace().join("docs");
    let mut pages: Vec<PathBuf> =
        fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|name| workspace().join(name)));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(' ') {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.parent().expect("a directory").join(file)
            };
            assert!(target.exists(), "{}: {link}", page.display());
            if !anchor.is_empty() {
                let headings = anchors(&fs::read_to_string(&target).unwrap());
                assert!(headings.iter().any(|a| a == anchor), "{}: {link}", page.display());
            }
        }
    }
}

/// The names by which a page's headings are linked to, made as the usual viewers make them.
fn anchors(text: &str) -> Vec<String> {
    let mut fenced = false;
    let headings = text.lines().filter(|line| {
        fenced ^= line.trim_start().starts_with("```");
        !fenced && line.starts_with('#')
    });
    let anchor = |heading: &str| -> String {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// The threat model rests on tests; each that it names is one.
#[test]
fn every_test_that_a_page_names_exists() {
    let mut sources = String::new();
    for dir in ["proto", "guest-agent", "gateway", "e2e"] {
        collect(&workspace().join(dir), &mut sources);
    }
    let page = fs::read_to_string(workspace().join("docs/threat-model.md")).unwrap();
    let named: Vec<&str> = page.split('`').filter(|word| is_path(word)).collect();
    assert!(named.len() > 40, "{named:?}");
    for path in named {
        let name = path.rsplit("::").next().expect("one at least");
        assert!(sources.contains(&format!("fn {name}(")), "docs/threat-model.md: {path}");
    }
}

fn is_path(word: &str) -> bool {
    word.contains("::")
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_:".contains(&b))
}

/// All Rust below a directory, one behind the other.
fn collect(dir: &Path, sources: &mut String) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            *sources += &fs::read_to_string(path).unwrap();
        }
    }
}
