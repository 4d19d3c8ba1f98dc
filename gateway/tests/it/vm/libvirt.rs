//! Layouts whose paths do not name the VM: libvirt's, and QEMU's own `-name`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use qga_gateway::vm::{CallError, LinkState, Registry, VmId};
use tempfile::{TempDir, tempdir};
use tokio::net::UnixListener;
use tokio::time::Instant;

use super::fake::Guest;
use super::{QUICK, eventually, parse, ping, recovers, until};

const OWN: &str = "org.qemu.guest_agent.0";
const GATEWAY: &str = "org.qga.gateway.0";

/// What libvirt keeps below `/run/libvirt/qemu`, elsewhere.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempdir().expect("tempdir"));
        fs::create_dir_all(host.state().join("channel")).expect("mkdir");
        host
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("run/libvirt/qemu")
    }

    fn channel(&self, run: &str, name: &str) -> PathBuf {
        self.state().join("channel").join(run).join(name)
    }

    /// A domain that starts: its directory has its number and the beginning of its name.
    fn start(&self, run: &str, domain: &str, channels: &[&str]) {
        fs::create_dir(self.state().join("channel").join(run)).expect("mkdir");
        self.write_xml(run, domain, channels);
    }

    fn write_xml(&self, run: &str, domain: &str, channels: &[&str]) {
        let channels: String = channels
            .iter()
            .map(|name| {
                let path = self.channel(run, name);
                format!(
                    "<channel type='unix'>\n<source mode='bind' path='{}'/>\n\
                     <target type='virtio' name='{name}'/>\n</channel>\n",
                    path.display()
                )
            })
            .collect();
        let xml = format!(
            "<domstatus state='running' pid='1'>\n<domain type='kvm' id='1'>\n\
             <name>{domain}</name>\n<devices>\n{channels}</devices>\n</domain>\n</domstatus>\n"
        );
        fs::write(self.state().join(format!("{domain}.xml")), xml).expect("write");
    }

    fn gone(&self, run: &str) {
        fs::remove_dir_all(self.state().join("channel").join(run)).expect("remove");
    }

    fn registry(&self, more: &str) -> Registry {
        let (channels, state) = (self.state().join("channel"), self.state());
        Registry::start(&parse(&format!(
            "{QUICK}[[discover]]\nglob = \"{}/*/org.*\"\nid = \"{{domain}}\"\n\
             libvirt_state = {state:?}\nlabels = {{ run = \"{{dir}}\" }}\n{more}\n",
            channels.display()
        )))
    }
}

fn ids(registry: &Registry) -> Vec<String> {
    registry.list().iter().map(|vm| vm.id().to_string()).collect()
}

fn id(text: &str) -> VmId {
    text.parse().expect("an id")
}

#[tokio::test]
async fn a_domain_keeps_its_id_over_boots_that_change_its_path() {
    let host = Host::new();
    let name = "a-domain-with-a-very-long-name";
    host.start("1-a-domain-with-a-very", name, &[GATEWAY]);
    let mut first = Guest::start(&host.channel("1-a-domain-with-a-very", GATEWAY));
    let registry = host.registry("");
    assert_eq!(ids(&registry), [name]);
    let vm = registry.get(&id(name)).expect("there");
    assert_eq!(vm.labels()["run"], "1-a-domain-with-a-very");
    until(&vm, LinkState::Ready).await;

    first.kill().await;
    host.gone("1-a-domain-with-a-very");
    let gone = Instant::now();
    eventually("forgotten", || registry.list().is_empty()).await;
    assert!(gone.elapsed() < Duration::from_secs(1), "{:?}", gone.elapsed());
    let back = Instant::now();
    host.start("2-a-domain-with-a-very", name, &[GATEWAY]);
    let _second = Guest::start(&host.channel("2-a-domain-with-a-very", GATEWAY));
    eventually("found again", || ids(&registry) == [name]).await;
    until(&registry.get(&id(name)).expect("there"), LinkState::Ready).await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
}

#[tokio::test]
async fn libvirts_own_channel_is_left_alone_with_a_reason() {
    let host = Host::new();
    host.start("1-db", "db", &[OWN]);
    let own = Guest::start(&host.channel("1-db", OWN));
    let registry = host.registry("");
    let vm = registry.get(&id("db")).expect("shown");
    let reason = until(&vm, LinkState::Busy).await;
    assert!(reason.starts_with("libvirt holds this channel for itself"), "{reason}");
    assert!(reason.contains("gateway-channel.xml"), "what to do: {reason}");
    let error = ping(&vm).await.expect_err("left alone");
    assert!(matches!(error, CallError::Unavailable { .. }), "{error}");

    // A channel of the gateway's own has precedence, whichever is found first.
    let mine = Guest::start(&host.channel("1-db", GATEWAY));
    host.write_xml("1-db", "db", &[OWN, GATEWAY]);
    eventually("the other one", || {
        registry.get(&id("db")).is_some_and(|vm| vm.link().state == LinkState::Ready)
    })
    .await;
    recovers(&registry.get(&id("db")).expect("there")).await;
    assert_eq!((own.truth().connections, mine.ran("guest-ping")), (0, 1));
}

#[tokio::test]
async fn libvirts_own_channel_is_used_if_the_configuration_says_so() {
    let host = Host::new();
    host.start("1-db", "db", &[OWN]);
    let _own = Guest::start(&host.channel("1-db", OWN));
    let registry = host.registry("libvirt_channel = true");
    let vm = registry.get(&id("db")).expect("there");
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
    let socket = host.channel("1-db", OWN);
    let listed = format!("{QUICK}[[vm]]\nid = \"a\"\nsocket = {socket:?}\n");
    let registry = Registry::start(&parse(&listed));
    let reason = until(&registry.list()[0], LinkState::Busy).await;
    assert!(reason.contains("libvirt"), "{reason}");
}

#[tokio::test]
async fn two_domains_of_one_name_are_not_mixed_up() {
    let host = Host::new();
    host.start("1-db", "db", &[GATEWAY]);
    host.start("2-db", "x", &[GATEWAY]);
    let (one, two) = (host.channel("1-db", GATEWAY), host.channel("2-db", GATEWAY));
    let (_one, other) = (Guest::start(&one), Guest::start(&two));
    // Another host's XML, say, left behind.
    let xml = fs::read_to_string(host.state().join("x.xml")).expect("read");
    fs::write(host.state().join("x.xml"), xml.replace("<name>x<", "<name>db<")).expect("write");
    let registry = host.registry("");
    assert_eq!(ids(&registry), ["db"]);
    let vm = registry.get(&id("db")).expect("there");
    assert_eq!(*vm.socket(), *one);
    until(&vm, LinkState::Ready).await;
    assert_eq!(other.truth().connections, 0);
}

#[tokio::test]
async fn a_directory_that_is_renamed_takes_its_vms_along() {
    let dir = tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    fs::create_dir_all(path("a/b")).expect("mkdir");
    let _guest = Guest::start(&path("a/b/qga.sock"));
    let at = dir.path().display();
    let registry = Registry::start(&parse(&format!(
        "{QUICK}[[discover]]\nglob = \"{at}/*/*/qga.sock\"\nid = \"{{dir}}\"\n"
    )));
    assert_eq!(ids(&registry), ["b"]);
    let moved = Instant::now();
    fs::rename(path("a/b"), path("a/c")).expect("rename");
    eventually("under its new name", || ids(&registry) == ["c"]).await;
    fs::rename(path("a"), path("z")).expect("rename");
    eventually("from another place", || {
        registry.get(&id("c")).is_some_and(|vm| *vm.socket() == *path("z/c/qga.sock"))
    })
    .await;
    fs::rename(path("z"), path(".hidden")).expect("rename");
    eventually("out of sight", || registry.list().is_empty()).await;
    fs::rename(path(".hidden"), path("a")).expect("rename");
    eventually("back", || ids(&registry) == ["c"]).await;
    assert!(moved.elapsed() < Duration::from_secs(2), "{:?}", moved.elapsed());
    until(&registry.get(&id("c")).expect("there"), LinkState::Ready).await;
}

/// A QEMU with nothing in it but a chardev, which ends with the test.
struct Qemu(Child);

impl Qemu {
    fn start(name: &str, socket: &Path) -> Option<Self> {
        let Some(program) = qga_testing::program("qemu-system-x86_64") else {
            qga_testing::unavailable("no qemu-system-x86_64");
            return None;
        };
        let mut command = qga_testing::tied(program);
        command.args(["-M", "none", "-nodefaults", "-display", "none", "-name"]).arg(name);
        let chardev = format!("socket,id=qga,path={},server=on,wait=off", socket.display());
        command.arg("-chardev").arg(chardev).stdout(Stdio::null()).stderr(Stdio::null());
        Some(Self(command.spawn().expect("QEMU starts")))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_real_qemu_is_known_by_its_name() {
    let dir = tempdir().expect("tempdir");
    let socket = dir.path().join("1.sock");
    let at = dir.path().display();
    let registry = Registry::start(&parse(&format!(
        "{QUICK}[[discover]]\nglob = \"{at}/*.sock\"\nid = \"{{domain}}\"\n"
    )));
    let Some(qemu) = Qemu::start("guest=web-1,debug-threads=on", &socket) else { return };
    eventually("known by its name", || ids(&registry) == ["web-1"]).await;
    let vm = registry.get(&id("web-1")).expect("there");
    eventually("connected", || vm.incarnation().is_some()).await;
    let first = vm.incarnation().expect("known");
    assert_eq!(first.pid, qemu.0.id());
    drop(qemu);
    let _ = fs::remove_file(&socket);
    let Some(qemu) = Qemu::start("web-2", &socket) else { return };
    eventually("another VM", || ids(&registry) == ["web-2"]).await;
    let vm = registry.get(&id("web-2")).expect("there");
    eventually("another process", || {
        vm.incarnation().is_some_and(|now| now.pid == qemu.0.id() && now != first)
    })
    .await;
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_yet_is_asked_for_again() {
    let host = Host::new();
    host.start("1-db", "db", &[]);
    let registry = host.registry("");
    // No XML speaks of it, and this process is no QEMU with a name.
    let _listener = UnixListener::bind(host.channel("1-db", GATEWAY)).expect("bind");
    fs::write(host.state().join("other.xml"), "<domain id='1'><name>x</name></domain>")
        .expect("write");
    assert!(registry.list().is_empty());
    // Nothing tells of a change of the XML.
    host.write_xml("1-db", "db", &[GATEWAY]);
    eventually("told by then", || ids(&registry) == ["db"]).await;
}
