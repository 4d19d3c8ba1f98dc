//! Server-sent events, as far as the gateway writes them: one line of data each.

use serde_json::Value;

/// More than the gateway puts into one event.
const LONGEST: usize = 64 << 20;

/// What was told.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Event {
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) data: Value,
}

/// Takes bytes as they come, and gives events.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    event: Event,
}

impl Events {
    /// The events that end in these bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.line(&line));
        }
        if self.line.len() + bytes.len() <= LONGEST {
            self.line.extend_from_slice(bytes);
        }
        events
    }

    fn line(&mut self, line: &[u8]) -> Option<Event> {
        let line = std::str::from_utf8(line).unwrap_or_default().trim_end_matches('\r');
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return (!event.kind.is_empty()).then_some(event);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.event.kind),
            "id" => value.clone_into(&mut self.event.id),
            "data" => self.event.data = serde_json::from_str(value).unwrap_or_default(),
            // A comment, or nothing that is known.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_whole_however_they_are_cut() {
        let text = "retry: 2000\n\n: still here\n\nid: 6-0\nevent: stdout\ndata: {\"offset\":0,\"text\":\"é\"}\n\n\
                    event: exit\r\nid: 6-0-end\r\ndata: {\"exit_code\":0}\r\n\r\nevent: cut";
        let wanted = [
            Event {
                kind: "stdout".into(),
                id: "6-0".into(),
                data: json!({"offset": 0, "text": "é"}),
            },
            Event { kind: "exit".into(), id: "6-0-end".into(), data: json!({"exit_code": 0}) },
        ];
        for size in [1, 2, 7, text.len()] {
            let mut events = Events::default();
            let found: Vec<_> = text.as_bytes().chunks(size).flat_map(|c| events.take(c)).collect();
            assert_eq!(found, wanted, "{size}");
        }
    }
}
