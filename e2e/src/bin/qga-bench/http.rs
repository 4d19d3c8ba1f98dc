//! The lean HTTP/1.1 client: one keep-alive connection, blocking, no parser but for what is
//! needed to find a response's end.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::link::start_of;

const ANSWER_BOUND: Duration = Duration::from_secs(20);

/// The request that is measured.
pub(crate) const PING: &[u8] =
    b"POST /vms/demo/ping HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
pub(crate) const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct HttpLink {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl HttpLink {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_BOUND))?;
        stream.set_write_timeout(Some(ANSWER_BOUND))?;
        Ok(Self { stream, buffer: vec![0; 16 << 10] })
    }

    /// Sends a request and waits for the whole response, which must be a 200 with a length.
    /// Answers the body.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.stream.write_all(request).context("sending a request")?;
        let mut length = 0;
        loop {
            let count =
                self.stream.read(&mut self.buffer[length..]).context("reading a response")?;
            ensure!(count > 0, "the connection was closed, or a response is too long");
            length += count;
            let Some(body) = find(&self.buffer[..length], END_OF_HEAD) else { continue };
            let body = body + END_OF_HEAD.len();
            let head = &self.buffer[..body];
            let Some(expected) = content_length(head) else {
                bail!("no content-length: {}", start_of(head));
            };
            if length >= body + expected {
                ensure!(head.starts_with(b"HTTP/1.1 200"), "{}", start_of(&self.buffer[..length]));
                return Ok(&self.buffer[body..length]);
            }
        }
    }

    /// Pings once.
    pub(crate) fn ping(&mut self) -> Result<()> {
        let body = self.exchange(PING)?;
        ensure!(body == b"{}", "not a ping's answer: {}", start_of(body));
        Ok(())
    }
}

pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Servers here write header names in small letters.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    let name = b"\r\ncontent-length: ";
    let at = find(head, name)? + name.len();
    let digits = head[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_length_of_a_body() {
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n"), Some(12));
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
