//! QMP's lines: what is asked, and what of the answers matters here.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::printable::printable;

/// More than QEMU's longest answer to anything asked here: a VM has some dozens of chardevs.
const LONGEST_LINE: usize = 256 << 10;

/// What is asked of QEMU; one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Nothing is sent for it.
    Greeting,
    Capabilities,
    Status,
    Chardevs,
}

impl Ask {
    pub(super) const fn request(self) -> &'static [u8] {
        match self {
            Self::Greeting => b"",
            Self::Capabilities => b"{\"execute\": \"qmp_capabilities\"}\n",
            Self::Status => b"{\"execute\": \"query-status\"}\n",
            Self::Chardevs => b"{\"execute\": \"query-chardev\"}\n",
        }
    }
}

/// What a line is.
#[derive(Debug)]
pub(super) enum Message {
    Greeting,
    /// What was returned, as JSON; none for an error.
    Answer(Option<Box<str>>),
    Event(Event),
    /// Something that does not matter here.
    Other,
}

/// What happened to the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Stop,
    Resume,
    Port,
    Reset,
    Shutdown,
    Panicked,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "QMP", borrow)]
    greeting: Option<&'a RawValue>,
    #[serde(rename = "return", borrow)]
    returned: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    event: Option<String>,
}

/// Cuts bytes into lines, and understands them.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    whole: VecDeque<Message>,
    broken: Option<&'static str>,
}

impl Lines {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.broken.is_some() {
                return;
            }
            if self.partial.len() + piece.len() > LONGEST_LINE {
                self.broken = Some("QEMU sends a line without end");
                self.partial = Vec::new();
                return;
            }
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                // Taken, so that an idle monitor holds no buffer.
                let line = std::mem::take(&mut self.partial);
                match understand(&line) {
                    Ok(Message::Other) => {}
                    Ok(message) => self.whole.push_back(message),
                    Err(_) => self.broken = Some("what is said there is no QMP"),
                }
            }
        }
    }

    /// The next message; an error once the stream has gone wrong.
    pub(super) fn next(&mut self) -> io::Result<Option<Message>> {
        match (self.whole.pop_front(), self.broken) {
            (Some(message), _) => Ok(Some(message)),
            (None, Some(broken)) => Err(io::Error::new(io::ErrorKind::InvalidData, broken)),
            (None, None) => {
                self.whole.shrink_to(0);
                Ok(None)
            }
        }
    }
}

fn understand(line: &[u8]) -> serde_json::Result<Message> {
    let envelope: Envelope<'_> = serde_json::from_slice(line)?;
    Ok(match envelope {
        Envelope { event: Some(event), .. } => match event.as_str() {
            "STOP" => Message::Event(Event::Stop),
            "RESUME" => Message::Event(Event::Resume),
            "VSERPORT_CHANGE" => Message::Event(Event::Port),
            "RESET" => Message::Event(Event::Reset),
            "SHUTDOWN" => Message::Event(Event::Shutdown),
            "GUEST_PANICKED" | "GUEST_CRASHLOADED" => Message::Event(Event::Panicked),
            _ => Message::Other,
        },
        Envelope { returned: Some(json), .. } => Message::Answer(Some(json.get().into())),
        Envelope { error: Some(_), .. } => Message::Answer(None),
        Envelope { greeting: Some(_), .. } => Message::Greeting,
        Envelope { .. } => Message::Other,
    })
}

/// From `query-status`: `Some(None)` if the guest's CPUs run, else why they do not.
pub(super) fn run_state(json: &str) -> Option<Option<String>> {
    #[derive(Deserialize)]
    struct Status {
        running: bool,
        status: String,
    }
    let Status { running, status } = serde_json::from_str(json).ok()?;
    Some((!running).then(|| match status.as_str() {
        "paused" => "somebody has paused it".into(),
        "io-error" => "QEMU has paused it after an I/O error of one of its disks".into(),
        "prelaunch" => "QEMU has not started it yet".into(),
        "inmigrate" => "it is on its way here by migration".into(),
        "finish-migrate" => "it is leaving by migration".into(),
        "postmigrate" => "it has left by migration".into(),
        "save-vm" | "restore-vm" => "a snapshot of it is being taken or restored".into(),
        "shutdown" => "its guest has shut down".into(),
        "guest-panicked" => "its guest's kernel has panicked".into(),
        "suspended" => "its guest sleeps".into(),
        other => {
            let state: String = other.chars().take(40).collect();
            format!("QEMU's run state is {}", printable(&state))
        }
    }))
}

/// From `query-chardev`: whether the guest has the port open whose chardev listens at `socket`.
/// `None` if that chardev cannot be told from the others.
pub(super) fn port_open(json: &str, socket: &Path) -> Option<bool> {
    #[derive(Deserialize)]
    struct Chardev {
        filename: String,
        #[serde(rename = "frontend-open", default)]
        frontend_open: bool,
    }
    let chardevs: Vec<Chardev> = serde_json::from_str(json).ok()?;
    let socket = socket.to_str()?;
    let is_ours = |chardev: &&Chardev| {
        // `disconnected:unix:PATH,server=on`; `server` alone before QEMU 6.0.
        let name = chardev.filename.as_str();
        let name = name.strip_prefix("disconnected:").unwrap_or(name);
        let path = name.strip_prefix("unix:").and_then(|name| name.strip_prefix(socket));
        path.is_some_and(|rest| rest.is_empty() || rest.starts_with(",server"))
    };
    let mut ours = chardevs.iter().filter(is_ours);
    match (ours.next(), ours.next()) {
        (Some(chardev), None) => Some(chardev.frontend_open),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_monitor_says_does_no_harm() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/qmp");
        qga_testing::fuzz(corpus.as_ref(), 4000, |bytes| {
            let read = |size: usize| {
                let mut lines = Lines::default();
                bytes.chunks(size).for_each(|piece| lines.feed(piece));
                let mut read = String::new();
                while let Ok(Some(message)) = lines.next() {
                    if let Message::Answer(Some(json)) = &message {
                        let states = (run_state(json), port_open(json, "/run/vm.sock".as_ref()));
                        read += &format!("{states:?}");
                    }
                    read += &format!("{message:?}");
                }
                read
            };
            let whole = read(bytes.len().max(1));
            assert_eq!(whole, read(3), "pieces matter");
            qga_testing::digest(whole)
        });
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text = "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n{\"return\": {}}\r\n\
                    {\"timestamp\": {\"seconds\": 1}, \"event\": \"STOP\"}\r\n\
                    {\"event\": \"JOB_STATUS_CHANGE\"}\r\n{\"error\": {\"class\": \"GenericError\"}}\r\n";
        for size in [1, 7, 1000] {
            let mut lines = Lines::default();
            for piece in text.as_bytes().chunks(size) {
                lines.feed(piece);
            }
            let mut next = || lines.next().expect("well-formed");
            assert!(matches!(next(), Some(Message::Greeting)));
            assert!(matches!(next(), Some(Message::Answer(Some(json))) if &*json == "{}"));
            assert!(matches!(next(), Some(Message::Event(Event::Stop))));
            assert!(matches!(next(), Some(Message::Answer(None))));
            assert!(next().is_none());
        }
    }

    #[test]
    fn what_is_no_qmp_ends_it_and_holds_nothing() {
        for bad in ["SSH-2.0-OpenSSH\n", "[]\n", "\u{ff}\n", "{\"event\": 3}\n", "\n"] {
            let mut lines = Lines::default();
            lines.feed(bad.as_bytes());
            assert!(lines.next().is_err(), "{bad:?}");
        }
        let deep = [b"{\"return\": ".as_slice(), &b"[".repeat(20_000), b"\n"].concat();
        let mut lines = Lines::default();
        lines.feed(&deep);
        assert!(lines.next().is_err());
        let mut lines = Lines::default();
        for _ in 0..1000 {
            lines.feed(&[b'x'; 4096]);
        }
        assert!(lines.next().is_err());
        assert_eq!(lines.partial.capacity(), 0);
    }

    #[test]
    fn the_run_state_has_a_reason() {
        let state = |json: &str| run_state(json).expect("a status");
        assert_eq!(state(r#"{"running": true, "status": "running", "singlestep": false}"#), None);
        let paused = state(r#"{"running": false, "status": "paused"}"#);
        assert_eq!(paused.as_deref(), Some("somebody has paused it"));
        let other = state(r#"{"running": false, "status": "colo\u0007"}"#).expect("not running");
        assert!(other.starts_with("QEMU's run state is colo") && !other.contains('\u{7}'));
        assert_eq!(run_state("[]"), None);
    }

    #[test]
    fn the_port_is_found_by_its_path() {
        let json = r#"[
            {"frontend-open": true, "label": "compat_monitor0", "filename": "stdio"},
            {"frontend-open": true, "label": "a", "filename": "unix:/run/qga/a.sock,server=on"},
            {"frontend-open": false, "label": "b", "filename": "disconnected:unix:/run/qga/b,server=on"},
            {"frontend-open": true, "label": "c", "filename": "disconnected:unix:/run/qga/c.sock"},
            {"frontend-open": true, "label": "d", "filename": "unix:/run/qga/d,server"}
        ]"#;
        let open = |path: &str| port_open(json, Path::new(path));
        assert_eq!(open("/run/qga/a.sock"), Some(true));
        assert_eq!(open("/run/qga/b"), Some(false));
        assert_eq!(open("/run/qga/c.sock"), Some(true));
        assert_eq!(open("/run/qga/d"), Some(true));
        assert_eq!(open("/run/qga/a"), None, "a prefix is another socket");
        assert_eq!(port_open("{}", Path::new("/x")), None);
    }
}
