//! Which domain is behind a socket that libvirt has named: its paths change at every boot and cut
//! long names, so neither makes an id.
//!
//! The truth is in libvirt's live XML, where the gateway may read that, and in `-name guest=` of the
//! process that listens, which everybody may.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::vm::socket;

/// libvirt makes a channel's socket before it starts QEMU: there is no telling whose it is until
/// QEMU listens, and nothing tells when it does. So long it is asked again soon.
const STARTING: Duration = Duration::from_secs(30);
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(250);

/// More than libvirt's XML of any domain.
const LARGEST_XML: u64 = 1 << 20;

/// More than any QEMU's command line of `-name`.
const LONGEST_NAME: usize = 256;

/// The names of domains, by the sockets of their channels.
#[derive(Debug, Default)]
pub(super) struct Domains {
    known: HashMap<PathBuf, Known>,
    /// What the live XML says, once it has been read for this look.
    live: HashMap<PathBuf, HashMap<PathBuf, String>>,
}

#[derive(Debug)]
struct Known {
    /// Device, inode and time of change, as inodes are used again: another socket in its place is
    /// another's.
    identity: (u64, u64, i64, i64),
    since: Instant,
    name: Option<String>,
}

impl Domains {
    /// Begins a look at everything.
    pub(super) fn begin(&mut self) {
        self.live.clear();
    }

    /// Ends it: sockets that were not there are forgotten.
    pub(super) fn end(&mut self, is_there: impl Fn(&Path) -> bool) {
        self.live.clear();
        self.known.retain(|socket, _| is_there(socket));
    }

    /// Whether some answer may come soon.
    pub(super) fn pending(&self) -> bool {
        self.known.values().any(|known| known.name.is_none() && known.since.elapsed() < STARTING)
    }

    /// The domain behind `socket`, by the XML in `state` or, if it may be connected to, by the
    /// process that listens.
    pub(super) fn of(
        &mut self,
        socket: &Path,
        state: &Path,
        owners: &[u32],
        may_connect: bool,
    ) -> Result<String, &'static str> {
        let gone = "it is gone again";
        let found = fs::symlink_metadata(socket).map_err(|_| gone)?;
        let identity = (found.dev(), found.ino(), found.ctime(), found.ctime_nsec());
        let since = match self.known.get(socket) {
            Some(Known { identity: same, name: Some(name), .. }) if *same == identity => {
                return Ok(name.clone());
            }
            Some(Known { identity: same, since, .. }) if *same == identity => *since,
            _ => Instant::now(),
        };
        let live = self.live.entry(state.into()).or_insert_with(|| live(state));
        let name = live.get(socket).cloned();
        let name = name.or_else(|| may_connect.then(|| by_listener(socket, owners)).flatten());
        self.known.insert(socket.into(), Known { identity, since, name: name.clone() });
        name.ok_or(
            "its domain cannot be told: libvirt's live XML is not to be read, and what listens is no \
             QEMU with -name guest=…",
        )
    }
}

/// By the command line of the process that listens. Nothing is written on the connection.
fn by_listener(socket: &Path, owners: &[u32]) -> Option<String> {
    let listener = socket::connect(socket, owners).ok()?.listener?;
    let line = fs::read(format!("/proc/{}/cmdline", listener.pid)).ok()?;
    guest_name(&line)
}

/// `-name guest=NAME,debug-threads=on`, or `-name NAME`; commas in names are doubled.
fn guest_name(command_line: &[u8]) -> Option<String> {
    let mut arguments = command_line.split(|byte| *byte == 0);
    arguments.find(|argument| *argument == b"-name" || *argument == b"--name")?;
    let options = std::str::from_utf8(arguments.next()?).ok()?;
    let options = options.replace(",,", "\0");
    let mut options = options.split(',');
    let first = options.next()?;
    let name = std::iter::once(first)
        .chain(options)
        .find_map(|option| option.strip_prefix("guest="))
        .or_else(|| (!first.contains('=')).then_some(first))?;
    let name = name.replace('\0', ",");
    (!name.is_empty() && name.len() <= LONGEST_NAME).then_some(name)
}

/// The channels' sockets of all domains that run, with the domains' names.
fn live(state: &Path) -> HashMap<PathBuf, String> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        let file = entry.path();
        let small = entry.metadata().is_ok_and(|file| file.is_file() && file.len() <= LARGEST_XML);
        if !small || file.extension().is_none_or(|end| end != "xml") {
            continue;
        }
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let Some((name, sockets)) = channels(&text) else { continue };
        found.extend(sockets.into_iter().map(|socket| (socket, name.clone())));
    }
    found
}

/// The name of a domain and the sockets of its channels. libvirt writes this XML itself, always in
/// the same manner, so looking for its tags is enough.
fn channels(xml: &str) -> Option<(String, Vec<PathBuf>)> {
    let (_, domain) = xml.split_once("<domain ")?;
    let (_, name) = domain.split_once("<name>")?;
    let (name, _) = name.split_once("</name>")?;
    let mut sockets = Vec::new();
    let mut rest = domain;
    while let Some((_, channel)) = rest.split_once("<channel ") {
        let (channel, after) = channel.split_once("</channel>")?;
        let source = channel.split_once("<source ").and_then(|(_, source)| source.split_once('>'));
        if let Some(path) = source.and_then(|(source, _)| attribute(source, "path")) {
            sockets.push(PathBuf::from(path));
        }
        rest = after;
    }
    Some((unescape(name), sockets))
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, value) = tag.split_once(&format!("{name}="))?;
    let quote = value.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let (value, _) = value[1..].split_once(quote)?;
    Some(unescape(value))
}

fn unescape(text: &str) -> String {
    // The ampersand last, or `&amp;lt;` would become `<`.
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    entities.iter().fold(text.to_owned(), |text, (entity, plain)| text.replace(entity, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_stands_on_the_command_line_in_several_ways() {
        let name = |line: &str| guest_name(line.replace(' ', "\0").as_bytes());
        assert_eq!(name("qemu -name guest=db-1,debug-threads=on -S").as_deref(), Some("db-1"));
        assert_eq!(name("qemu -S -name debug-threads=on,guest=db").as_deref(), Some("db"));
        assert_eq!(name("qemu -name old,process=x").as_deref(), Some("old"));
        assert_eq!(name("qemu -name guest=a,,b,debug-threads=on").as_deref(), Some("a,b"));
        for bad in ["", "qemu", "qemu -name", "qemu -name debug-threads=on", "qemu -name guest="] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }

    const XML: &str = "<!-- WARNING: do not edit -->
<domstatus state='running' reason='booted' pid='4711'>
  <monitor path='/var/lib/libvirt/qemu/domain-3-a-very-long-name-of/monitor.sock' type='unix'/>
  <domain type='kvm' id='3'>
    <name>a-very-long-name-of-a&amp;b</name>
    <devices>
      <disk type='file' device='disk'><source file='/x.qcow2' index='1'/></disk>
      <channel type='unix'>
        <source mode='bind' path='/run/libvirt/qemu/channel/3-a-very-long-name-of/org.qemu.guest_agent.0'/>
        <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
      </channel>
      <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
      <channel type='unix'>
        <source mode=\"bind\" path=\"/run/libvirt/qemu/channel/3-a-very-long-name-of/org.qga.gateway.0\"/>
        <target type='virtio' name='org.qga.gateway.0' state='disconnected'/>
      </channel>
    </devices>
  </domain>
</domstatus>
";

    #[test]
    fn the_live_xml_names_the_domain_of_each_channel() {
        let (name, sockets) = channels(XML).expect("a domain");
        assert_eq!(name, "a-very-long-name-of-a&b");
        let dir = Path::new("/run/libvirt/qemu/channel/3-a-very-long-name-of");
        assert_eq!(sockets, [dir.join("org.qemu.guest_agent.0"), dir.join("org.qga.gateway.0")]);
        for cut in 0..XML.len() {
            let _ = channels(&XML[..cut]);
        }
    }

    #[tokio::test]
    async fn a_socket_in_the_place_of_another_is_asked_for_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (state, socket) = (dir.path().join("state"), dir.path().join("s"));
        fs::create_dir(&state).expect("mkdir");
        let bind = || std::os::unix::net::UnixListener::bind(&socket).expect("bind");
        let write = |name: &str| {
            let channel =
                format!("<channel type='unix'><source path='{}'/></channel>", socket.display());
            let text = format!("<domain id='1'><name>{name}</name>{channel}</domain>");
            fs::write(state.join("x.xml"), text).expect("write");
        };
        let first = bind();
        let mut domains = Domains::default();
        let ask = |domains: &mut Domains| {
            domains.begin();
            domains.of(&socket, &state, &[], true)
        };
        assert!(ask(&mut domains).is_err(), "this process has no -name");
        assert!(domains.pending());
        write("one");
        assert_eq!(ask(&mut domains).as_deref(), Ok("one"));
        assert!(!domains.pending());
        write("two");
        assert_eq!(ask(&mut domains).as_deref(), Ok("one"), "the same socket");
        // Kept open, so that the next one cannot have its inode.
        fs::rename(&socket, dir.path().join("old")).expect("rename");
        let _second = bind();
        assert_eq!(ask(&mut domains).as_deref(), Ok("two"));
        drop(first);
        domains.end(|_| false);
        assert!(domains.known.is_empty());
    }
}
