//! Sockets that systemd listens on and hands over at the start (`LISTEN_FDS`, `sd_listen_fds(3)`).

use std::os::unix::net::UnixListener;

use anyhow::bail;
use listenfd::ListenFd;

/// What has been handed over: nothing, or one Unix socket.
#[derive(Debug, Default)]
pub struct Inherited(Option<UnixListener>);

impl Inherited {
    /// Takes what the environment names. To be called once, before there are threads: it takes the
    /// names out of the environment.
    ///
    /// # Errors
    ///
    /// If there is more than one, or it is no Unix stream socket.
    pub fn take() -> anyhow::Result<Self> {
        let mut handed = ListenFd::from_env();
        match handed.len() {
            0 => Ok(Self(None)),
            1 => match handed.take_unix_listener(0) {
                Ok(listener) => Ok(Self(listener)),
                Err(error) => bail!(
                    "systemd hands over something else than a Unix stream socket ({error}): the \
                     .socket unit needs ListenStream= with a path, and TCP is set by listen.tcp"
                ),
            },
            n => bail!("systemd hands over {n} sockets, and one is served: see the .socket unit"),
        }
    }

    pub(crate) fn into_unix(self) -> Option<UnixListener> {
        self.0
    }
}
