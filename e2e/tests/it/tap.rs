//! A relay between a gateway and QEMU's socket that keeps what the gateway has sent, and may lose or
//! delay what the guest answers.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Serves one client after the other, as QEMU does, until the test ends.
pub(crate) struct Tap {
    pub(crate) socket: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

/// What becomes of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It does not come.
    Lost,
    /// It comes so much later.
    Late(Duration),
}

#[derive(Default)]
struct Shared {
    sent: Vec<u8>,
    /// The text of a command that has not come yet, and the fate of its reply.
    awaited: Option<(&'static str, Fate)>,
    /// It has come, and its reply has not.
    due: Option<Fate>,
}

impl Tap {
    pub(crate) fn listen(socket: PathBuf, qemu: PathBuf) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::<Mutex<Shared>>::default();
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                // Either end may break off; the other one then sees its own end.
                let _broken = client.and_then(|client| relay(client, &qemu, &serving));
            }
        });
        Self { socket, shared }
    }

    /// How often `text` is among what QEMU's socket has taken.
    pub(crate) fn times(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.shared.lock().unwrap().sent).matches(text).count()
    }

    /// What becomes of the first line that the guest says after the next command with `text` in it.
    pub(crate) fn next_reply(&self, text: &'static str, fate: Fate) {
        self.shared.lock().unwrap().awaited = Some((text, fate));
    }
}

fn relay(mut client: UnixStream, qemu: &Path, shared: &Arc<Mutex<Shared>>) -> io::Result<()> {
    let mut qemu = UnixStream::connect(qemu)?;
    let (from, to) = (qemu.try_clone()?, client.try_clone()?);
    let answers = Arc::clone(shared);
    let back = thread::spawn(move || {
        let _broken = pass_back(&from, &to, &answers);
        let _gone = to.shutdown(Shutdown::Both);
    });
    let mut chunk = [0; 65536];
    let ended = loop {
        match client.read(&mut chunk) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                shared.lock().unwrap().expect_reply(&chunk[..count]);
                if let Err(error) = qemu.write_all(&chunk[..count]) {
                    break Err(error);
                }
                shared.lock().unwrap().sent.extend_from_slice(&chunk[..count]);
            }
            Err(error) => break Err(error),
        }
    };
    let _gone = qemu.shutdown(Shutdown::Both);
    let _ended = back.join();
    ended
}

fn pass_back(mut from: &UnixStream, mut to: &UnixStream, shared: &Mutex<Shared>) -> io::Result<()> {
    let mut chunk = [0; 65536];
    loop {
        let count = from.read(&mut chunk)?;
        let mut bytes = &chunk[..count];
        if count == 0 {
            return Ok(());
        }
        let due = shared.lock().unwrap().due;
        match due {
            None => {}
            Some(Fate::Lost) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                bytes = &bytes[end.map_or(count, |end| end + 1)..];
                if end.is_some() {
                    shared.lock().unwrap().due = None;
                }
            }
            Some(Fate::Late(late)) => {
                let until = Instant::now() + late;
                while Instant::now() < until {
                    thread::park_timeout(until.saturating_duration_since(Instant::now()));
                }
                shared.lock().unwrap().due = None;
            }
        }
        to.write_all(bytes)?;
    }
}

impl Shared {
    fn expect_reply(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if let Some((_, fate)) = self.awaited.take_if(|(command, _)| text.contains(*command)) {
            self.due = Some(fate);
        }
    }
}
