//! Who listens on a chardev's socket: this process, or one of its own as with a real QEMU.
//!
//! A client sees the process that called `listen`. Where it matters that another QEMU is another
//! process, the bound socket is handed to a program that does nothing but that.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Clients that may wait for the one that is served.
const BACKLOG: i32 = 16;
/// What the program says once it listens.
const LISTENING: &[u8] = b"listening\n";

/// The process that listens, if that is not this one; it ends with this.
#[derive(Debug)]
pub(super) struct Listener(Option<Child>);

/// Listens at `path`, in the place of whatever is there.
pub(super) fn listen(path: &Path, program: Option<&Path>) -> Result<(Listener, UnixListener)> {
    // It may not be there.
    let _ = fs::remove_file(path);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let Some(program) = program else {
        rustix::net::listen(&socket, BACKLOG)?;
        return Ok((Listener(None), socket.into()));
    };
    // setpriv execs, so the pid stays and no unsafe `pre_exec` is needed here.
    let mut process = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .arg("listen")
        .stdin(Stdio::from(socket.try_clone()?))
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {} (by setpriv)", program.display()))?;
    let mut said = [0; LISTENING.len()];
    let stdout = process.stdout.as_mut().context("no pipe")?;
    stdout.read_exact(&mut said).context("the listening program does not listen")?;
    ensure!(said == LISTENING, "the listening program says something else");
    Ok((Listener(Some(process)), socket.into()))
}

impl Listener {
    pub(super) fn pid(&self) -> Option<u32> {
        self.0.as_ref().map(Child::id)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            // Both fail only for a program that is gone, which is what is wanted.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// The program's part: listens on its standard input, and says so.
///
/// # Errors
/// That is no bound socket.
pub fn listen_on_stdin() -> Result<()> {
    use std::io::Write as _;
    rustix::net::listen(std::io::stdin(), BACKLOG).context("listening on standard input")?;
    let mut stdout = std::io::stdout();
    stdout.write_all(LISTENING)?;
    stdout.flush()?;
    loop {
        std::thread::park();
    }
}
