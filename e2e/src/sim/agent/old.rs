//! The parser of a 0.15 agent in front of ours: it knows no `id`, and answers a flush as it did.

/// Cuts what comes into lines, and sees to those that a later agent would understand and this one
/// does not.
#[derive(Debug, Default)]
pub(in crate::sim) struct OldLines(Vec<u8>);

const FLUSHED: &[u8] =
    b"{\"error\": {\"class\": \"JSONParsing\", \"desc\": \"Invalid JSON syntax\", \"data\": {}}}\n";
const NO_ID: &[u8] = b"{\"error\": {\"class\": \"QMPExtraInputObjectMember\", \"desc\": \
    \"QMP input object member 'id' is unexpected\", \"data\": {\"member\": \"id\"}}}\n";

/// What a 0.15 agent does with a line.
pub(in crate::sim) enum OldLine {
    /// It runs it.
    Request(Vec<u8>),
    /// It answers this and does nothing.
    Answer(&'static [u8]),
}

impl OldLines {
    /// Takes what the host sent.
    pub(in crate::sim) fn feed(&mut self, bytes: &[u8]) -> Vec<OldLine> {
        let mut done = Vec::new();
        for byte in bytes {
            match *byte {
                0xFF => {
                    self.0.clear();
                    done.push(OldLine::Answer(FLUSHED));
                }
                b'\n' => {
                    let mut line = std::mem::take(&mut self.0);
                    let request: Option<serde_json::Value> = serde_json::from_slice(&line).ok();
                    if request.is_some_and(|request| request.get("id").is_some()) {
                        done.push(OldLine::Answer(NO_ID));
                    } else if !line.is_empty() {
                        line.push(b'\n');
                        done.push(OldLine::Request(line));
                    }
                }
                byte => self.0.push(byte),
            }
        }
        done
    }
}
