//! An HTTP/1.1 client that keeps its connection, for many small requests: blocking, and without a
//! parser but for what finds a response's end.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// One keep-alive connection.
#[derive(Debug)]
pub struct KeepAlive {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl KeepAlive {
    /// Connects; an answer that takes longer than `bound` is an error.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(socket: &Path, bound: Duration) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(bound))?;
        stream.set_write_timeout(Some(bound))?;
        Ok(Self { stream, buffer: vec![0; 64 << 10] })
    }

    /// Sends a request with a JSON body, or none, and gives the status and the body of its answer.
    ///
    /// # Errors
    /// No answer in time, or none with a length.
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, &[u8])> {
        let json = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let length = body.len();
        write!(
            self.stream,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{json}content-length: {length}\r\n\r\n{body}"
        )?;
        let mut length = 0;
        loop {
            if length == self.buffer.len() {
                self.buffer.resize(2 * length, 0);
            }
            let count = self.stream.read(&mut self.buffer[length..]).context("no answer")?;
            ensure!(count > 0, "the connection was closed");
            length += count;
            let Some(head) = find(&self.buffer[..length], END_OF_HEAD) else { continue };
            let body = head + END_OF_HEAD.len();
            let head = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
            let end = body + content_length(&head).with_context(|| head.clone())?;
            if length >= end {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                return Ok((status.with_context(|| head.clone())?, &self.buffer[body..end]));
            }
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn content_length(head: &str) -> Option<usize> {
    let (_, rest) = head.split_once("\r\ncontent-length: ")?;
    rest.split("\r\n").next()?.trim().parse().ok()
}
