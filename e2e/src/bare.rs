//! The bare fixed-answer server: what the socket alone costs.
//!
//! It looks at a request's first bytes, parses and does nothing, and answers with as many bytes
//! as a real agent would. To the gateway it is a whole agent: its syncs and `guest-info` are
//! answered by a slow path, and it counts the pings that it answered.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

/// Asks for the number of pings answered on all connections; no real agent has it.
pub const COUNT_PINGS: &[u8] = b"{\"execute\":\"bench-count-pings\"}\n";

/// Name of the virtio port that has one in a VM that is measured.
pub const PORT: &str = "org.qga.e2e.bare";

/// A buffer with more bytes than this holds one request: clients here pipeline only small ones.
const ALONE: usize = 32 << 10;

static PINGS: AtomicU64 = AtomicU64::new(0);

/// The state of one connection.
#[derive(Debug, Default)]
pub struct Bare {
    /// The last answer to a read, and the count asked for.
    read_reply: Vec<u8>,
    read_count: Option<u64>,
}

impl Bare {
    /// Serves one connection to its end.
    ///
    /// # Errors
    /// It breaks.
    pub fn serve(mut self, mut stream: impl Read + Write) -> io::Result<()> {
        let mut buffer = vec![0; 256 << 10];
        let mut length = 0;
        let mut replies = Vec::new();
        loop {
            if length == buffer.len() {
                buffer.resize(2 * length, 0);
            }
            let count = stream.read(&mut buffer[length..])?;
            if count == 0 {
                return Ok(());
            }
            length += count;
            if buffer[length - 1] != b'\n' {
                continue;
            }
            replies.clear();
            if length > ALONE {
                self.answer(&buffer[..length], &mut replies);
            } else {
                for line in buffer[..length].split_inclusive(|&byte| byte == b'\n') {
                    self.answer(line, &mut replies);
                }
            }
            length = 0;
            // Only a read's reply is not gathered, so that it is not copied either.
            stream.write_all(if replies.is_empty() { &self.read_reply } else { &replies })?;
        }
    }

    /// Appends the reply; that of a read is sent from where it is kept.
    fn answer(&mut self, request: &[u8], replies: &mut Vec<u8>) {
        let name = request.strip_prefix(b"{\"execute\":\"guest-").unwrap_or_default();
        if name.starts_with(b"ping\"") {
            PINGS.fetch_add(1, Ordering::Relaxed);
            match envelope_id(request) {
                Some(id) => {
                    replies.extend_from_slice(b"{\"return\": {}, \"id\": ");
                    replies.extend_from_slice(id);
                    replies.extend_from_slice(b"}\n");
                }
                None => replies.extend_from_slice(b"{\"return\": {}}\n"),
            }
        } else if name.starts_with(b"file-write\"") {
            // About right: the reply's length is all that matters.
            let count = request.len() / 4 * 3;
            replies.extend_from_slice(
                format!("{{\"return\": {{\"count\": {count}, \"eof\": false}}}}\n").as_bytes(),
            );
        } else if name.starts_with(b"file-read\"") {
            let count = number_after(request, b"\"count\":").unwrap_or(4096);
            if self.read_count != Some(count) {
                self.read_reply = read_reply(count);
                self.read_count = Some(count);
            }
        } else {
            slow_answer(request, replies);
        }
    }
}

/// The `id` that the gateway puts behind the command, as it stands there.
fn envelope_id(request: &[u8]) -> Option<&[u8]> {
    let key = b"\",\"id\":";
    let at = request.windows(key.len()).position(|window| window == key)?;
    let end = request.iter().rposition(|&byte| byte == b'}')?;
    request.get(at + key.len()..end)
}

fn number_after(request: &[u8], key: &[u8]) -> Option<u64> {
    let at = request.windows(key.len()).position(|window| window == key)? + key.len();
    let digits = request[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&request[at..at + digits]).ok()?.parse().ok()
}

fn read_reply(count: u64) -> Vec<u8> {
    let base64 = usize::try_from(count.div_ceil(3) * 4).unwrap_or_default();
    let mut text = format!("{{\"return\": {{\"count\": {count}, \"buf-b64\": \"");
    text.extend(std::iter::repeat_n('A', base64));
    text.push_str("\", \"eof\": false}}\n");
    text.into_bytes()
}

/// Everything that is not measured.
fn slow_answer(request: &[u8], replies: &mut Vec<u8>) {
    let start = request.iter().position(|&byte| byte == b'{').unwrap_or(request.len());
    let Ok(request) = serde_json::from_slice::<Value>(&request[start..]) else {
        replies.extend_from_slice(
            b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no JSON object\"}}\n",
        );
        return;
    };
    let command = request["execute"].as_str().unwrap_or_default();
    let answer = match command {
        "bench-count-pings" => json!(PINGS.load(Ordering::Relaxed)),
        "guest-sync" | "guest-sync-delimited" => request["arguments"]["id"].clone(),
        "guest-info" => {
            let names = ["guest-sync-delimited", "guest-sync", "guest-ping", "guest-info"];
            let list = names
                .map(|name| json!({ "name": name, "enabled": true, "success-response": true }));
            json!({ "version": "11.1.3", "supported_commands": list })
        }
        "guest-fsfreeze-status" => json!("thawed"),
        "guest-file-open" => json!(1000),
        "guest-file-seek" => json!({ "position": 0, "eof": false }),
        _ => json!({}),
    };
    let mut line = format!("{{\"return\": {answer}");
    if let Some(id) = request.get("id") {
        // Writing to a string cannot fail.
        let _ = write!(line, ", \"id\": {id}");
    }
    line.push_str("}\n");
    if command == "guest-sync-delimited" {
        replies.push(0xFF);
    }
    replies.extend_from_slice(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(request: &str) -> String {
        let mut replies = Vec::new();
        Bare::default().answer(request.as_bytes(), &mut replies);
        String::from_utf8_lossy(&replies).into_owned()
    }

    #[test]
    fn answers_like_an_agent() {
        assert_eq!(answer("{\"execute\":\"guest-ping\"}\n"), "{\"return\": {}}\n");
        assert_eq!(
            answer("{\"execute\":\"guest-ping\",\"id\":\"5e-1\"}\n"),
            "{\"return\": {}, \"id\": \"5e-1\"}\n"
        );
        assert_eq!(
            answer("\u{ff}{\"execute\":\"guest-sync\",\"arguments\":{\"id\":7},\"id\":\"x\"}\n"),
            "{\"return\": 7, \"id\": \"x\"}\n"
        );
    }

    #[test]
    fn a_reads_answer_has_the_size_of_a_real_one() {
        let value: Value = serde_json::from_slice(&read_reply(65536)).unwrap();
        assert_eq!(value["return"]["buf-b64"].as_str().unwrap().len(), 87_384);
        assert_eq!(
            number_after(b"{\"arguments\":{\"handle\":1,\"count\":65536}}", b"\"count\":"),
            Some(65536)
        );
    }
}
