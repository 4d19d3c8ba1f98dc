//! The requests, as `requests.txt` has them. Its head says how to read it.

const REQUESTS: &str = include_str!("requests.txt");
const UNTIL_EXITED: &str = "until exited: ";

/// Requests for a fresh pair of agents.
pub(super) struct Section {
    pub(super) heading: String,
    pub(super) requests: Vec<Request>,
}

/// What is sent at once.
pub(super) struct Request {
    /// The line of the file.
    pub(super) text: String,
    /// Whether to ask again until the answer says `exited`.
    pub(super) until_exited: bool,
}

impl Request {
    /// Whether it asks what the machine is like, and may be asked again.
    pub(super) fn is_query(&self) -> bool {
        self.text.contains("\"execute\":\"guest-get-")
            || self.text.contains("\"execute\":\"guest-network-get-")
    }

    /// What goes over the wire; `pid` is that of the last program.
    pub(super) fn bytes(&self, pid: i64) -> Vec<u8> {
        let text = self.text.strip_prefix(UNTIL_EXITED).unwrap_or(&self.text);
        unescape(&text.replace("$PID", &pid.to_string()))
    }
}

pub(super) fn read() -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let blocks = REQUESTS.split("\n\n").skip(1);
    for block in blocks {
        let (heading, lines) = block.split_once('\n').expect("requests under a heading");
        let heading = heading.strip_prefix("# ").expect("a heading in front of requests");
        let requests = lines.lines().map(|line| Request {
            text: line.to_owned(),
            until_exited: line.starts_with(UNTIL_EXITED),
        });
        sections.push(Section { heading: heading.to_owned(), requests: requests.collect() });
    }
    sections
}

/// `\n`, `\r`, `\t`, `\\` and `\xHH`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().unwrap() {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'\\' => b'\\',
            b'x' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("\\{} in {text}", char::from(other)),
        });
    }
    bytes
}
