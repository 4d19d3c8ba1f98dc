//! Spans as OTLP's protobuf messages: opentelemetry/proto/collector/trace/v1 and what it includes.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{CallSpan, Span};

/// Span kinds.
const SERVER: u64 = 2;
const CLIENT: u64 = 3;

/// A status that says that it went wrong.
const ERROR: u64 = 2;

/// An `ExportTraceServiceRequest` with these spans.
pub(super) fn request(spans: &[Span]) -> Vec<u8> {
    let mut all = Message::default();
    let mut scope = Message::default();
    scope.text(1, env!("CARGO_PKG_NAME"));
    scope.text(2, env!("CARGO_PKG_VERSION"));
    all.message(1, &scope);
    for span in spans {
        all.message(2, &server(span));
        for call in &span.calls {
            all.message(2, &client(span, call));
        }
    }
    let mut resource = Message::default();
    resource.attribute(1, "service.name", &Value::Text(env!("CARGO_PKG_NAME")));
    resource.attribute(1, "service.version", &Value::Text(env!("CARGO_PKG_VERSION")));
    resource.attribute(1, "process.pid", &Value::Number(std::process::id().into()));
    let mut resource_spans = Message::default();
    resource_spans.message(1, &resource);
    resource_spans.message(2, &all);
    let mut request = Message::default();
    request.message(1, &resource_spans);
    request.0
}

fn server(span: &Span) -> Message {
    let mut message = Message::default();
    message.bytes(1, &span.trace.id.0);
    message.bytes(2, &span.trace.span.0);
    message.texts(3, span.trace.state.as_deref());
    if let Some(parent) = span.trace.parent {
        message.bytes(4, &parent.0);
    }
    message.text(5, &span.name);
    message.number(6, SERVER);
    message.time(7, span.begin);
    message.time(8, span.end);
    let texts = [
        ("http.request.method", Some(&*span.method)),
        ("http.route", Some(&*span.route)),
        ("error.type", span.problem),
        ("qga.request.id", Some(&*span.request_id)),
        ("qga.principal", span.principal.as_deref()),
        ("qga.vm.id", span.vm.as_deref()),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            message.attribute(9, key, &Value::Text(text));
        }
    }
    if let Some(status) = span.status {
        message.attribute(9, "http.response.status_code", &Value::Number(status.into()));
    }
    // Of a server's spans, only its own failures are errors.
    if span.status.is_none_or(|status| status >= 500) {
        let mut status = Message::default();
        status.texts(2, span.problem);
        status.number(3, ERROR);
        message.message(15, &status);
    }
    message
}

fn client(span: &Span, call: &CallSpan) -> Message {
    let mut message = Message::default();
    message.bytes(1, &span.trace.id.0);
    message.bytes(2, &call.id.0);
    message.texts(3, span.trace.state.as_deref());
    message.bytes(4, &span.trace.span.0);
    message.text(5, call.command);
    message.number(6, CLIENT);
    message.time(7, call.begin);
    message.time(8, call.end);
    message.attribute(9, "rpc.system", &Value::Text("qga"));
    message.attribute(9, "rpc.method", &Value::Text(call.command));
    if let Some(vm) = &span.vm {
        message.attribute(9, "qga.vm.id", &Value::Text(vm));
    }
    message
}

enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

/// A protobuf message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            // The lower seven bits of it.
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    fn tag(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.tag(field, 0);
        self.varint(value);
    }

    /// Nanoseconds since 1970, as `fixed64`.
    fn time(&mut self, field: u64, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.tag(field, 1);
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        self.0.extend_from_slice(&nanos.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn texts(&mut self, field: u64, text: Option<&str>) {
        text.into_iter().for_each(|text| self.text(field, text));
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    fn attribute(&mut self, field: u64, key: &str, value: &Value<'_>) {
        let mut any = Self::default();
        match value {
            Value::Text(text) => any.text(1, text),
            Value::Number(number) => any.number(3, *number),
        }
        let mut pair = Self::default();
        pair.text(1, key);
        pair.message(2, &any);
        self.message(field, &pair);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_as_protobuf_has_it() {
        let mut message = Message::default();
        message.number(1, 150);
        message.text(2, "testing");
        message.time(16, UNIX_EPOCH + std::time::Duration::from_nanos(0x0102));
        let mut bytes = vec![0x08, 0x96, 0x01, 0x12, 0x07];
        bytes.extend_from_slice(b"testing\x81\x01\x02\x01\0\0\0\0\0\0");
        assert_eq!(message.0, bytes);
    }
}
