//! A request's place in its caller's trace, and what a collector is told of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use qga_gateway::vm::LinkState;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::agent::Agent;
use super::gateway::{BOUND, Gateway};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A field of a protobuf message, as the wire has it.
#[derive(Clone, Debug)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

/// A message taken apart by what protobuf's documentation says, and nothing of ours.
#[derive(Clone, Debug, Default)]
struct Message(Vec<(u64, Field)>);

impl Message {
    fn of(bytes: &[u8]) -> Self {
        fn varint(at: &mut usize, bytes: &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = bytes[*at];
                *at += 1;
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        }
        let (mut fields, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let tag = varint(&mut at, bytes);
            let field = match tag & 7 {
                0 => Field::Number(varint(&mut at, bytes)),
                1 => {
                    at += 8;
                    Field::Number(u64::from_le_bytes(bytes[at - 8..at].try_into().unwrap()))
                }
                2 => {
                    let length = usize::try_from(varint(&mut at, bytes)).unwrap();
                    at += length;
                    Field::Bytes(bytes[at - length..at].to_vec())
                }
                wire => panic!("no wire type {wire} in these messages"),
            };
            fields.push((tag >> 3, field));
        }
        Self(fields)
    }

    fn all(&self, number: u64) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(move |(n, field)| match field {
            Field::Bytes(bytes) if *n == number => Some(&bytes[..]),
            _ => None,
        })
    }

    fn bytes(&self, number: u64) -> &[u8] {
        self.all(number).next().unwrap_or_default()
    }

    fn text(&self, number: u64) -> String {
        String::from_utf8(self.bytes(number).to_vec()).unwrap()
    }

    fn hex(&self, number: u64) -> String {
        self.bytes(number).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn number(&self, number: u64) -> u64 {
        let found = self.0.iter().find(|(n, _)| *n == number);
        found.map_or(0, |(_, field)| match field {
            Field::Number(value) => *value,
            Field::Bytes(_) => panic!("{number} is no number"),
        })
    }

    /// The attribute of that key, its number in words.
    fn attribute(&self, field: u64, key: &str) -> Option<String> {
        let pair = self.all(field).map(Self::of).find(|pair| pair.text(1) == key)?;
        let value = Self::of(pair.bytes(2));
        let text = value.text(1);
        Some(if text.is_empty() { value.number(3).to_string() } else { text })
    }
}

/// Takes spans, and answers in turn with these.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Message>>>,
    resources: Arc<Mutex<Vec<Message>>>,
    answers: Arc<Mutex<Vec<u16>>>,
    came: Arc<Notify>,
}

impl Collector {
    /// Where it listens.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let this = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                let service = service_fn(move |request| this.clone().take(request));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        format!("[telemetry]\notlp_endpoint = \"http://{address}/v1/traces\"")
    }

    async fn take(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let body = request.into_body().collect().await?.to_bytes();
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            if answers.is_empty() { 200 } else { answers.remove(0) }
        };
        if answer == 200 {
            for resource in Message::of(&body).all(1).map(Message::of) {
                self.resources.lock().unwrap().push(Message::of(resource.bytes(1)));
                for scope in resource.all(2).map(Message::of) {
                    self.spans.lock().unwrap().extend(scope.all(2).map(Message::of));
                }
            }
        }
        self.came.notify_one();
        let response = Response::builder().status(answer);
        Ok(response.body(Full::default()).unwrap())
    }

    /// The span of that name in that trace, once it is there.
    async fn span(&self, trace: &str, name: &str) -> Message {
        let found = async {
            loop {
                let wanted = |span: &&Message| span.hex(1) == trace && span.text(5) == name;
                let span = self.spans.lock().unwrap().iter().find(wanted).cloned();
                match span {
                    Some(span) => return span,
                    None => self.came.notified().await,
                }
            }
        };
        tokio::time::timeout(BOUND, found).await.unwrap_or_else(|_| panic!("no span {name}"))
    }
}

/// The trace and the gateway's span in an answer.
fn answered(header: &str) -> (&str, &str) {
    let parts: Vec<_> = header.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{header}");
    (parts[1], parts[2])
}

#[tokio::test]
async fn without_a_collector_a_callers_trace_is_answered_and_none_is_begun() {
    let gateway = Gateway::start().await;
    let ask = || gateway.ask("GET", "/vms/vm");
    let answer = ask().header("traceparent", PARENT).send().await;
    let (trace, span) = answered(answer.header("traceparent"));
    assert!(trace == TRACE && span != "00f067aa0ba902b7");
    // Of a problem too.
    let answer = gateway.ask("GET", "/vms/none").header("traceparent", PARENT).send().await;
    assert_eq!(answered(answer.header("traceparent")).0, TRACE);
    for bad in ["", "00-0-0-0", &PARENT.to_uppercase()] {
        let answer = ask().header("traceparent", bad).send().await;
        answer.expect(200);
        assert_eq!(answer.header("traceparent"), "");
    }
    assert_eq!(ask().send().await.header("traceparent"), "");
}

#[tokio::test]
async fn a_collector_is_told_of_requests_and_the_commands_they_came_down_to() {
    let collector = Collector::default();
    // Busy for a moment: what it does not take is sent again.
    collector.answers.lock().unwrap().push(503);
    let gateway = Gateway::configured(Agent::default(), &collector.start().await).await;
    gateway.wait_for(LinkState::Ready).await;
    let ask = gateway.ask("POST", "/vms/vm/ping").header("traceparent", PARENT);
    let ask = ask.header("tracestate", "congo=t61").header("x-request-id", "job-7");
    let answer = ask.send().await;
    let (_, own) = answered(answer.header("traceparent"));
    let span = collector.span(TRACE, "POST /vms/{id}/ping").await;
    assert_eq!((span.hex(2).as_str(), span.hex(4).as_str()), (own, "00f067aa0ba902b7"));
    assert_eq!((span.text(3).as_str(), span.number(6)), ("congo=t61", 2));
    assert!(span.number(7) <= span.number(8) && span.number(7) > 1_600_000_000_000_000_000);
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/vms/{id}/ping"),
        ("http.response.status_code", "200"),
        ("qga.request.id", "job-7"),
        ("qga.vm.id", "vm"),
    ] {
        assert_eq!(span.attribute(9, key).as_deref(), Some(value), "{key}");
    }
    assert!(span.attribute(9, "error.type").is_none() && span.bytes(15).is_empty());
    let call = collector.span(TRACE, "guest-ping").await;
    assert_eq!((call.hex(4).as_str(), call.number(6)), (own, 3));
    assert!(span.number(7) <= call.number(7) && call.number(8) <= span.number(8));
    let resource = collector.resources.lock().unwrap()[0].clone();
    assert_eq!(resource.attribute(1, "service.name").as_deref(), Some("qga-gateway"));
    // A trace of its own where the caller has none, and a problem by its code.
    let answer = gateway.ask("GET", "/vms/none").send().await;
    let (trace, _) = answered(answer.header("traceparent"));
    let span = collector.span(trace, "GET /vms/{id}").await;
    assert_eq!(span.attribute(9, "error.type").as_deref(), Some("vm_not_found"));
    assert!(span.bytes(4).is_empty() && span.bytes(15).is_empty(), "the caller's own fault");
    // What the caller does not keep is not told of: the one behind it comes first.
    let unkept = PARENT.replace("-01", "-00");
    gateway.ask("GET", "/vms").header("traceparent", &unkept).send().await.expect(200);
    let answer = gateway.ask("GET", "/freezes").send().await;
    collector.span(answered(answer.header("traceparent")).0, "GET /freezes").await;
    assert!(collector.spans.lock().unwrap().iter().all(|span| span.text(5) != "GET /vms"));
    let text = gateway.ask("GET", "/metrics").send().await.body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("qga_trace_spans_total{outcome=\"dropped\"} 0\n"), "{text}");
    assert!(!text.contains("qga_trace_spans_total{outcome=\"sent\"} 0\n"), "{text}");
}

#[tokio::test]
async fn a_collector_that_is_away_or_refuses_costs_spans_and_nothing_else() {
    let collector = Collector::default();
    collector.answers.lock().unwrap().push(400);
    let gateway = Gateway::configured(Agent::default(), &collector.start().await).await;
    gateway.ask("GET", "/vms").send().await.expect(200);
    let dropped = async {
        let mut often = tokio::time::interval(Duration::from_millis(20));
        loop {
            often.tick().await;
            let text = gateway.ask("GET", "/metrics").send().await.body;
            let text = String::from_utf8(text.to_vec()).unwrap();
            if !text.contains("qga_trace_spans_total{outcome=\"dropped\"} 0\n") {
                return;
            }
        }
    };
    tokio::time::timeout(BOUND, dropped).await.expect("in time");
    // Nobody there at all: more requests than the queue holds, each answered as ever.
    let away = "[telemetry]\notlp_endpoint = \"http://127.0.0.1:1/v1/traces\"";
    let gateway = Gateway::configured(Agent::default(), away).await;
    for _ in 0..50 {
        gateway.ask("GET", "/vms").send().await.expect(200);
    }
}
