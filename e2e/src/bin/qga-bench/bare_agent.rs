//! The bare fixed-answer server on a socket, as a process of its own.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use qga_e2e::bare::Bare;

/// Serves for ever, a thread for each connection.
pub(crate) fn serve(socket: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket).context("binding the bare agent's socket")?;
    loop {
        let (stream, _) = listener.accept().context("accepting")?;
        // A connection that breaks ends its own thread.
        thread::spawn(move || Bare::default().serve(stream));
    }
}
