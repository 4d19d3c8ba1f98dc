//! A relay between a gateway and QEMU's socket that keeps what the gateway has sent.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// Serves one client after the other, as QEMU does, until the test ends.
pub(crate) struct Tap {
    pub(crate) socket: PathBuf,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    pub(crate) fn listen(socket: PathBuf, qemu: PathBuf) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        let sent = Arc::<Mutex<Vec<u8>>>::default();
        let sink = Arc::clone(&sent);
        thread::spawn(move || {
            for client in listener.incoming() {
                // Either end may break off; the other one then sees its own end.
                let _broken = client.and_then(|client| relay(client, &qemu, &sink));
            }
        });
        Self { socket, sent }
    }

    /// How often `text` is among what QEMU's socket has taken.
    pub(crate) fn times(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.sent.lock().unwrap()).matches(text).count()
    }
}

fn relay(mut client: UnixStream, qemu: &Path, sent: &Mutex<Vec<u8>>) -> io::Result<()> {
    let mut qemu = UnixStream::connect(qemu)?;
    let (mut from, mut to) = (qemu.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || {
        let _broken = io::copy(&mut from, &mut to);
        let _gone = to.shutdown(Shutdown::Both);
    });
    let mut chunk = [0; 65536];
    let ended = loop {
        match client.read(&mut chunk) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                if let Err(error) = qemu.write_all(&chunk[..count]) {
                    break Err(error);
                }
                sent.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
            Err(error) => break Err(error),
        }
    };
    let _gone = qemu.shutdown(Shutdown::Both);
    let _ended = back.join();
    ended
}
