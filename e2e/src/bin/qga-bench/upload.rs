//! A bare client that uploads a file: everything that an upload through the gateway does, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::file::{Files, call, line, noise, returned};
use crate::link::Link;

/// Between looks whether what was written is on disk: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// One connection, and the text of the one part that is sent again and again.
#[derive(Debug)]
pub(crate) struct Upload {
    link: Link,
    file: PathBuf,
    text: String,
    part: usize,
    parts: usize,
    stock: bool,
}

impl Upload {
    /// Uploads `file` of `size` bytes once, in parts of so many, and compares every byte where that
    /// can be done.
    pub(crate) fn open(
        socket: &Path,
        file: PathBuf,
        part: usize,
        size: usize,
        stock: bool,
        files: Files,
    ) -> Result<Self> {
        let (link, bytes) = (Link::connect(socket)?, noise(part));
        let text = STANDARD.encode(&bytes);
        let mut upload = Self { link, file, text, part, parts: size / part, stock };
        upload.pass()?;
        if files == Files::Here {
            let written = fs::read(&upload.file).context("reading what the agent wrote")?;
            ensure!(
                written == bytes.repeat(upload.parts),
                "other bytes in the file than were sent"
            );
        }
        Ok(upload)
    }

    /// Uploads the file once.
    ///
    /// With `qga-agent` it is a new file that is written to disk and then put in the old one's place,
    /// with two parts on their way; with qemu-ga the old one is cut off, written and closed, one part
    /// at a time.
    pub(crate) fn pass(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let handle = if self.stock {
            let open = json!({ "path": self.file, "mode": "w" });
            call(&mut self.link, "guest-file-open", &open)?
        } else {
            let created =
                call(&mut self.link, "x-guest-file-create", &json!({ "path": self.file }))?;
            created["handle"].clone()
        };
        self.send(&handle)?;
        let this = json!({ "handle": handle });
        if self.stock {
            call(&mut self.link, "guest-file-flush", &this)?;
            call(&mut self.link, "guest-file-close", &this)?;
        } else {
            let mut pause = FIRST_LOOK;
            while call(&mut self.link, "x-guest-file-sync", &this)?["done"] != json!(true) {
                #[expect(clippy::disallowed_methods, reason = "as long as the gateway waits")]
                thread::sleep(pause);
                pause = (2 * pause).min(LAST_LOOK);
            }
            call(&mut self.link, "x-guest-file-commit", &this)?;
        }
        Ok(start.elapsed())
    }

    fn send(&mut self, handle: &Value) -> Result<()> {
        let write = line("guest-file-write", &json!({ "handle": handle, "buf-b64": self.text }));
        let reply = self.link.ask(&write)?;
        let length = reply.len();
        ensure!(returned(reply)?["count"] == json!(self.part), "a part was not written whole");
        let ahead = if self.stock { 1 } else { 2 };
        self.link.pipeline(&write, length, ahead, self.parts - 1)
    }
}
