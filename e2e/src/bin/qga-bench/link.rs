//! The lean client: one connection to an agent, blocking, without a parser.
//!
//! Requests are built beforehand. A reply is complete when a newline is the last byte received;
//! what a reply must look like is checked once, before the clock runs, and then its length tells.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// An agent that takes longer over a reply is broken.
const ANSWER_BOUND: Duration = Duration::from_secs(20);

/// `guest-ping`, as every client here sends it.
pub(crate) const PING: &[u8] = b"{\"execute\":\"guest-ping\"}\n";

/// One connection to an agent.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Link {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_BOUND))?;
        stream.set_write_timeout(Some(ANSWER_BOUND))?;
        Ok(Self { stream, buffer: vec![0; 256 << 10] })
    }

    /// Room for the replies to come, so that none is measured while the buffer grows.
    pub(crate) fn expect_replies_of(&mut self, bytes: usize) {
        if self.buffer.len() <= bytes {
            self.buffer.resize(bytes + (64 << 10), 0);
        }
    }

    /// Sends a request and waits for its reply, newline included.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.stream.write_all(request).context("writing to the agent")?;
        let mut length = 0;
        loop {
            if length == self.buffer.len() {
                self.buffer.resize(2 * length, 0);
            }
            let count = self.stream.read(&mut self.buffer[length..]).context("reading a reply")?;
            ensure!(count > 0, "the agent closed the connection");
            length += count;
            if self.buffer[length - 1] == b'\n' {
                return Ok(&self.buffer[..length]);
            }
        }
    }

    /// [`Link::ask`] for a reply whose length is known. Every error is of another length or
    /// starts otherwise.
    pub(crate) fn exchange(&mut self, request: &[u8], reply_length: usize) -> Result<()> {
        let reply = self.ask(request)?;
        if reply.len() == reply_length && reply.starts_with(b"{\"return\"") {
            return Ok(());
        }
        bail!("unexpected reply of {} bytes: {}", reply.len(), start_of(reply));
    }

    /// Keeps `in_flight` copies of a request on the way until `total` replies have come.
    pub(crate) fn pipeline(
        &mut self,
        request: &[u8],
        reply_length: usize,
        in_flight: usize,
        total: usize,
    ) -> Result<()> {
        let requests = request.repeat(in_flight);
        let mut sent = in_flight.min(total);
        self.stream.write_all(&requests[..sent * request.len()])?;
        let (mut replies, mut bytes) = (0, 0);
        while replies < total {
            let count = self.stream.read(&mut self.buffer).context("reading replies")?;
            ensure!(count > 0, "the agent closed the connection");
            bytes += count;
            let came = self.buffer[..count].iter().filter(|&&byte| byte == b'\n').count();
            replies += came;
            let more = came.min(total - sent);
            self.stream.write_all(&requests[..more * request.len()])?;
            sent += more;
        }
        ensure!(
            bytes == total * reply_length,
            "{total} replies of {reply_length} bytes expected, {bytes} bytes came, the last: {}",
            start_of(&self.buffer)
        );
        Ok(())
    }
}

/// The first bytes of a reply, for a message.
pub(crate) fn start_of(reply: &[u8]) -> String {
    String::from_utf8_lossy(&reply[..reply.len().min(160)]).trim_end().to_owned()
}
