//! Passwords and keys of a real user, who exists only below a root directory of the test's own.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bed::{AGENT, Agent, Client};
use crate::interop::installed_qemu_ga;

const ALICE: u32 = 4711;

/// What is run in a mount namespace of its own: the machine's programs, read-only, below `$ROOT`,
/// and then the agent in it.
const SETUP: &str = "set -e
mount --make-rprivate /
cd \"$ROOT\"
for directory in usr bin sbin lib lib64; do
    if [ -L /$directory ]; then ln -sfn \"$(readlink /$directory)\" $directory
    elif [ -d /$directory ]; then mkdir -p $directory; mount --bind -o ro /$directory $directory
    fi
done
mount -t proc proc proc
mount --bind /dev dev
exec chroot . \"$PROGRAM\" -m unix-listen -p /run/socket -t /run -v -l /run/log";

/// A root directory with a user in it, and an agent below it.
struct House {
    dir: tempfile::TempDir,
    client: Client,
    agent: Agent,
}

impl House {
    /// A house, unless it cannot be built on this machine.
    fn new(program: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            qga_testing::unavailable("not root");
            return None;
        }
        let mut namespaces = Command::new("unshare");
        namespaces.args(["-m", "true"]).stderr(Stdio::null());
        if !namespaces.status().is_ok_and(|status| status.success()) {
            qga_testing::unavailable("no mount namespace of its own");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).unwrap();
        for directory in ["etc", "home/alice", "own", "root/.ssh", "run", "proc", "dev", "tmp"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        let write = |name: &str, text: String| std::fs::write(root.join(name), text).unwrap();
        write(
            "etc/passwd",
            format!(
                "root:x:0:0::/root:/bin/sh\nalice:x:{ALICE}:{ALICE}::/home/alice:/bin/sh\n\
                 lost:x:4712:4712::/nonexistent:/bin/sh\n"
            ),
        );
        write("etc/group", format!("root:x:0:\nalice:x:{ALICE}:\n"));
        write("etc/shadow", "root:*:1::::::\nalice:!:1::::::\n".into());
        write("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\n".into());
        write("root/.ssh/authorized_keys", "ssh-rsa ROOT\n".into());
        for path in ["etc/shadow", "root", "root/.ssh", "root/.ssh/authorized_keys"] {
            let mode = if path == "etc/shadow" { 0o600 } else { 0o700 };
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(root.join(path), mode).unwrap();
        }
        for path in ["/etc/pam.d", "/etc/security", "/etc/login.defs"] {
            let _ = Command::new("cp").args(["-a", path]).arg(root.join("etc")).status();
        }
        let program = if program == AGENT {
            std::fs::copy(AGENT, root.join("qga-agent")).unwrap();
            "/qga-agent"
        } else {
            program
        };
        chown(root.join("home/alice"), Some(ALICE), Some(ALICE)).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", SETUP]).env("ROOT", root).env("PROGRAM", program);
        // Programs of the test's own go first.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("/own:{path}")).stderr(Stdio::null());
        let agent = Agent::spawn(&mut command, &root.join("run/socket"));
        let client = agent.connect();
        Some(Self { dir, client, agent })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments});
        serde_json::from_str(&self.client.ask(format!("{request}\n"))).unwrap()
    }

    /// The three commands on alice's keys: their errors.
    fn errors(&mut self) -> [String; 3] {
        let name = json!("alice");
        let keys = json!(["ssh-rsa ROOT", "root:*:1::::::"]);
        [
            ("guest-ssh-get-authorized-keys", json!({"username": name})),
            ("guest-ssh-add-authorized-keys", json!({"username": name, "keys": ["ssh-rsa NEW"]})),
            ("guest-ssh-remove-authorized-keys", json!({"username": name, "keys": keys})),
        ]
        .map(|(command, arguments)| {
            let answer = self.ask(command, &arguments);
            answer["error"]["desc"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
        })
    }

    /// Makes something that belongs to alice, as alice could.
    fn give(&self, path: &str) {
        std::os::unix::fs::lchown(self.path(path), Some(ALICE), Some(ALICE)).unwrap();
    }
}

/// Type and mode, owner and content of alice's files.
fn state(house: &House) -> Vec<Value> {
    ["home/alice/.ssh", "home/alice/.ssh/authorized_keys"]
        .into_iter()
        .filter_map(|path| {
            let data = std::fs::symlink_metadata(house.path(path)).ok()?;
            let text = std::fs::read(house.path(path)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            Some(json!([path, data.mode(), data.uid(), data.gid(), text]))
        })
        .collect()
}

#[test]
fn keys_end_up_as_with_qemu_ga() {
    let Some(qemu_ga) = installed_qemu_ga() else { return };
    let [ours, theirs] = [AGENT, qemu_ga.to_str().unwrap()].map(|program| {
        let mut house = House::new(program)?;
        let mut seen = Vec::new();
        let mut ask = |house: &mut House, command: &str, arguments: Value| {
            let answer = house.ask(&format!("guest-ssh-{command}-authorized-keys"), &arguments);
            seen.push((format!("{command} {arguments}"), answer, state(house)));
        };
        let alice = |keys: &[&str]| json!({"username": "alice", "keys": keys});
        ask(&mut house, "get", json!({"username": "alice"}));
        ask(&mut house, "remove", alice(&["x"]));
        ask(&mut house, "add", alice(&["ssh-rsa A", "ssh-rsa B"]));
        ask(&mut house, "get", json!({"username": "alice"}));
        let file = house.path("home/alice/.ssh/authorized_keys");
        std::fs::write(&file, "# c\n\n  ssh-rsa A  \nssh-rsa B\n").unwrap();
        ask(&mut house, "get", json!({"username": "alice"}));
        ask(&mut house, "add", alice(&["ssh-rsa B", "ssh-rsa C", "ssh-rsa C", "ssh-rsa A"]));
        ask(&mut house, "remove", alice(&["ssh-rsa C", "  ssh-rsa A  "]));
        ask(&mut house, "remove", alice(&[""]));
        ask(&mut house, "add", alice(&[""]));
        ask(&mut house, "add", alice(&["ok", "# x"]));
        ask(&mut house, "remove", alice(&["a\nb"]));
        let reset = |keys: &[&str]| json!({"username": "alice", "keys": keys, "reset": true});
        ask(&mut house, "add", reset(&["k1", "k2", "k1"]));
        ask(&mut house, "add", reset(&[]));
        ask(&mut house, "get", json!({"username": "alice"}));
        ask(&mut house, "add", alice(&["k1"]));
        ask(&mut house, "add", alice(&[]));
        std::fs::write(&file, b"a\xff\n").unwrap();
        ask(&mut house, "get", json!({"username": "alice"}));
        std::fs::remove_file(&file).unwrap();
        ask(&mut house, "remove", alice(&["x"]));
        ask(&mut house, "get", json!({"username": "alice"}));
        ask(&mut house, "get", json!({"username": "nosuch"}));
        ask(&mut house, "get", json!({"username": ""}));
        ask(&mut house, "get", json!({"username": "0"}));
        ask(&mut house, "add", json!({"username": "nosuch", "keys": ["#"]}));
        ask(&mut house, "add", json!({"username": "nosuch", "keys": ["x"]}));
        ask(&mut house, "add", json!({"username": "lost", "keys": ["x"]}));
        ask(&mut house, "get", json!({"username": "lost"}));
        ask(&mut house, "add", json!({"username": "alice"}));
        ask(&mut house, "add", json!({"username": "alice", "keys": ["x"], "reset": 1}));
        std::fs::create_dir(&file).unwrap();
        ask(&mut house, "get", json!({"username": "alice"}));
        ask(&mut house, "remove", alice(&["x"]));
        Some(seen)
    });
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return };
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn no_link_leads_out_of_a_users_home() {
    let Some(mut house) = House::new(AGENT) else { return };
    let untouched = |house: &House| {
        assert_eq!(house.read("root/.ssh/authorized_keys"), "ssh-rsa ROOT\n");
        assert_eq!(house.read("etc/shadow"), "root:*:1::::::\nalice:!:1::::::\n");
        assert_eq!(std::fs::read_dir(house.path("root/.ssh")).unwrap().count(), 1);
    };
    let too_many = "Too many levels of symbolic links";
    let ssh = house.path("home/alice/.ssh");
    let file = ssh.join("authorized_keys");

    // The directory leads to root's, or to one of alice's own.
    std::fs::create_dir(house.path("home/alice/mine")).unwrap();
    house.give("home/alice/mine");
    for target in ["/root/.ssh", "mine"] {
        symlink(target, &ssh).unwrap();
        house.give("home/alice/.ssh");
        for error in house.errors() {
            assert!(error.ends_with(too_many), "{error}");
        }
        untouched(&house);
        std::fs::remove_file(&ssh).unwrap();
    }
    assert_eq!(std::fs::read_dir(house.path("home/alice/mine")).unwrap().count(), 0);

    // The file does.
    std::fs::create_dir(&ssh).unwrap();
    house.give("home/alice/.ssh");
    for target in ["/etc/shadow", "/root/.ssh/authorized_keys", "../mine/keys"] {
        symlink(target, &file).unwrap();
        house.give("home/alice/.ssh/authorized_keys");
        for error in house.errors() {
            assert!(error.ends_with(too_many), "{error}");
        }
        untouched(&house);
        assert_eq!(std::fs::read_link(&file).unwrap(), Path::new(target));
        std::fs::remove_file(&file).unwrap();
    }

    // Nor is anything written through the name that the new file has at first.
    symlink("/etc/shadow", ssh.join("authorized_keys.qga-new")).unwrap();
    let arguments = json!({"username": "alice", "keys": ["ssh-rsa NEW"]});
    assert_eq!(house.ask("guest-ssh-add-authorized-keys", &arguments), json!({"return": {}}));
    untouched(&house);
    assert_eq!(house.read("home/alice/.ssh/authorized_keys"), "ssh-rsa NEW");
    let written = std::fs::metadata(&file).unwrap();
    assert_eq!((written.uid(), written.gid(), written.mode()), (ALICE, ALICE, 0o100_600));
    assert_eq!(std::fs::read_dir(&ssh).unwrap().count(), 1);
    std::fs::remove_file(&file).unwrap();

    // A pipe that nobody writes to does not hold the agent up.
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    house.give("home/alice/.ssh/authorized_keys");
    for error in house.errors() {
        assert!(
            error.starts_with("failed to read '/home/alice/.ssh/authorized_keys': "),
            "{error}"
        );
    }
    std::fs::remove_file(&file).unwrap();

    let open = std::fs::read_dir(format!("/proc/{}/fd", house.agent.child.id())).unwrap().count();
    assert!(open < 20, "{open} descriptors: none is left behind");

    // What alice may not touch is not touched for her.
    chown(&ssh, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o700)).unwrap();
    for error in house.errors() {
        assert!(error.ends_with("Permission denied"), "{error}");
    }
    assert_eq!(std::fs::read_dir(&ssh).unwrap().count(), 0);
}

/// What crypt(3) makes of a password, by a program that has it.
fn crypt(password: &str, hash: &str) -> Option<String> {
    let perl = ["perl", "-e", "print crypt($ARGV[0], $ARGV[1])"];
    let python =
        ["python3", "-Wignore", "-c", "import crypt,sys;print(crypt.crypt(*sys.argv[1:]))"];
    [&perl[..], &python[..]].into_iter().find_map(|command| {
        let output = Command::new(command[0])
            .args(&command[1..])
            .args([password, hash])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    })
}

#[test]
fn a_password_that_was_set_verifies() {
    let Some(mut house) = House::new(AGENT) else { return };
    if !Path::new("/usr/sbin/chpasswd").exists() {
        return qga_testing::unavailable("no chpasswd on this machine");
    }
    let hash = |house: &House| {
        let shadow = house.read("etc/shadow");
        let line = shadow.lines().find(|line| line.starts_with("alice:")).unwrap();
        line.split(':').nth(1).unwrap().to_owned()
    };
    let set = |house: &mut House, name: &str, password: &str, crypted: bool| {
        let arguments = json!({"username": name, "password": password, "crypted": crypted});
        house.ask("guest-set-user-password", &arguments)
    };
    let ok = json!({"return": {}});
    // "se:cret", and as Proxmox VE wraps it.
    for password in ["c2U6Y3JldA==", "c2U6\nY3JldA==\n"] {
        assert_eq!(set(&mut house, "alice", password, false), ok);
        let found = hash(&house);
        match crypt("se:cret", &found) {
            Some(computed) => assert_eq!(computed, found),
            None => qga_testing::unavailable("nothing that knows crypt(3) on this machine"),
        }
    }
    let log = house.read("run/log");
    assert!(!log.contains("cret") && !log.contains("Y3Jl"), "{log}");
    // "$6$abcd$x"
    assert_eq!(set(&mut house, "alice", "JDYkYWJjZCR4", true), ok);
    assert_eq!(hash(&house), "$6$abcd$x");

    let before = house.read("etc/shadow");
    for (name, password, error) in [
        ("alice", "YQpi", "forbidden characters in raw password"),
        ("alice", "YQBi", "forbidden characters in raw password"),
        ("al:ice", "YQ==", "forbidden characters in username"),
        ("al\nice", "YQ==", "forbidden characters in username"),
        ("al:ice", "YQpi", "forbidden characters in raw password"),
        ("al:ice", "!", "Base64 data contains invalid characters"),
    ] {
        let answer = set(&mut house, name, password, false);
        assert_eq!(answer["error"]["desc"], error, "{name:?} {password}");
    }
    let unknown = set(&mut house, "nosuch", "YQ==", false);
    let unknown = unknown["error"]["desc"].as_str().unwrap().to_owned();
    assert!(unknown.starts_with("child process has failed to set user password: "), "{unknown}");
    assert!(unknown.len() > 60 && unknown.ends_with('\n'), "what chpasswd says: {unknown}");
    assert_eq!(house.read("etc/shadow"), before);
}

/// A name service that knows carol, her groups, and a user whom it takes for ever to find.
const GETENT: &str = "#!/bin/sh
echo \"$@\" >> /run/asked
case \"$*\" in
'passwd carol') echo 'carol:*:5000:5001:Carol:/home/carol:/bin/sh' ;;
'initgroups carol') echo 'carol                 5001 5002' ;;
'passwd slow') exec sleep 100 ;;
*) exit 2 ;;
esac
";

#[test]
fn a_user_whom_only_the_name_service_knows_is_found_with_all_groups() {
    let Some(mut house) = House::new(AGENT) else { return };
    let getent = house.path("own/getent");
    std::fs::write(&getent, GETENT).unwrap();
    std::fs::set_permissions(&getent, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(house.path("home/carol")).unwrap();
    // She may write there by her second group alone.
    chown(house.path("home/carol"), Some(0), Some(5002)).unwrap();
    let mode = std::fs::Permissions::from_mode(0o770);
    std::fs::set_permissions(house.path("home/carol"), mode).unwrap();

    let keys = json!({"username": "carol", "keys": ["ssh-rsa CAROL"]});
    assert_eq!(house.ask("guest-ssh-add-authorized-keys", &keys), json!({"return": {}}));
    let file = std::fs::metadata(house.path("home/carol/.ssh/authorized_keys")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode()), (5000, 5001, 0o100_600));
    let name = json!({"username": "carol"});
    let listed = house.ask("guest-ssh-get-authorized-keys", &name);
    assert_eq!(listed["return"]["keys"], json!(["ssh-rsa CAROL"]));
    assert!(house.read("run/asked").starts_with("passwd carol\ninitgroups carol\n"));

    // The machine's own file comes first, and what no name can be is asked of nobody.
    house.ask("guest-ssh-get-authorized-keys", &json!({"username": "alice"}));
    for odd in ["-s", "a:b", "a\nb", ""] {
        let answer = house.ask("guest-ssh-get-authorized-keys", &json!({"username": odd}));
        let text = format!("failed to lookup user '{odd}': Success");
        assert_eq!(answer["error"]["desc"], text.as_str());
    }
    assert!(house.read("run/asked").lines().all(|line| line.ends_with(" carol")));
}

#[test]
fn a_name_service_that_hangs_holds_up_nobody_else() {
    let Some(mut house) = House::new(AGENT) else { return };
    let getent = house.path("own/getent");
    std::fs::write(&getent, GETENT).unwrap();
    std::fs::set_permissions(&getent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let name = json!({"username": "slow"});
    let request = json!({"execute": "guest-ssh-get-authorized-keys", "arguments": name});
    house.client.send(request.to_string());
    crate::bed::wait_for("the question", || house.path("run/asked").exists().then_some(()));
    let begun = std::time::Instant::now();
    // A second later the lookup counts as stuck, and a sync overtakes it; two later, the rest runs.
    assert_eq!(house.client.call("guest-sync", "{\"id\":5}"), "{\"return\": 5}");
    assert!(house.client.get("guest-get-osinfo", "").contains("kernel-release"));
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
}
