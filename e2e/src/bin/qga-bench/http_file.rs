//! Files over HTTP by a lean client: one keep-alive connection, blocking, that looks at no byte of
//! what it moves but at how many there are.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::http::{END_OF_HEAD, content_length, find};
use crate::link::start_of;

const ANSWER_BOUND: Duration = Duration::from_secs(60);
const BUFFER: usize = 256 << 10;

/// One connection.
#[derive(Debug)]
pub(crate) struct FileLink {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl FileLink {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_BOUND))?;
        stream.set_write_timeout(Some(ANSWER_BOUND))?;
        Ok(Self { stream, buffer: vec![0; BUFFER] })
    }

    /// Downloads the file at `path` of VM `vm`, and gives what comes to `each`, which may break off;
    /// then nothing more can be asked on this connection. Answers how much came.
    pub(crate) fn download(
        &mut self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<u64> {
        write!(
            self.stream,
            "GET /vms/vm/files/content?path={path} HTTP/1.1\r\nhost: localhost\r\n\r\n"
        )?;
        let (status, length, body) = self.head()?;
        ensure!(status == 200, "{status}: {}", start_of(&self.buffer[body.start..body.end]));
        let mut came = body.len() as u64;
        let mut more = each(&self.buffer[body]);
        while came < length && more {
            let count = self.stream.read(&mut self.buffer).context("reading a file")?;
            ensure!(count > 0, "the connection was closed after {came} of {length} bytes");
            came += count as u64;
            more = each(&self.buffer[..count]);
        }
        Ok(came)
    }

    /// Uploads `length` bytes to `path`: `piece`, again and again.
    pub(crate) fn upload(&mut self, path: &str, length: u64, piece: &[u8]) -> Result<()> {
        self.begin_upload(path, length)?;
        let mut left = length;
        while left > 0 {
            let count = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            self.stream.write_all(&piece[..count]).context("sending a file")?;
            left -= count as u64;
        }
        self.uploaded()
    }

    /// As [`upload`](Self::upload), as long as `each` piece is followed by another; then nothing more can
    /// be asked on this connection.
    pub(crate) fn upload_for_a_while(
        &mut self,
        path: &str,
        length: u64,
        piece: &[u8],
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<()> {
        self.begin_upload(path, length)?;
        loop {
            self.stream.write_all(piece).context("sending a file")?;
            if !each(piece) {
                return Ok(());
            }
        }
    }

    fn begin_upload(&mut self, path: &str, length: u64) -> Result<()> {
        write!(
            self.stream,
            "PUT /vms/vm/files/content?path={path} HTTP/1.1\r\nhost: localhost\r\n\
             content-length: {length}\r\n\r\n"
        )?;
        Ok(())
    }

    fn uploaded(&mut self) -> Result<()> {
        let (status, length, body) = self.head()?;
        ensure!(status < 300, "{status}: {}", start_of(&self.buffer[body.start..body.end]));
        ensure!(body.len() as u64 == length, "an answer in more than one piece");
        Ok(())
    }

    /// The status, the body's length, and where what came of it is in the buffer.
    fn head(&mut self) -> Result<(u16, u64, std::ops::Range<usize>)> {
        let mut filled = 0;
        loop {
            let count = self.stream.read(&mut self.buffer[filled..]).context("no answer")?;
            ensure!(count > 0, "the connection was closed, or a head is too long");
            filled += count;
            let Some(end) = find(&self.buffer[..filled], END_OF_HEAD) else { continue };
            let body = end + END_OF_HEAD.len();
            let head = &self.buffer[..body];
            let status = head.get(9..12).and_then(|code| str::from_utf8(code).ok()?.parse().ok());
            let (Some(status), Some(length)) = (status, content_length(head)) else {
                bail!("no status or no length: {}", start_of(head));
            };
            return Ok((status, length as u64, body..filled));
        }
    }
}
