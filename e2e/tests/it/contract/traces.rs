//! What a collector is sent, read by opentelemetry's own description of the protocol.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::UNIX_EPOCH;

use qga_e2e::sim::{Blueprint, Fleet, Mode};
use qga_e2e::{Gateway, until};
use serde_json::{Value, json};

use super::{Tools, output, source};
use crate::fleet::SOON;
use crate::guests::gateway_program;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A program that takes traces and tells what it understands of them.
struct Collector {
    child: Child,
    told: Receiver<String>,
    port: String,
    /// What was told, each request's spans with their resource.
    seen: Vec<Value>,
}

impl Collector {
    fn start(tools: &Tools) -> Self {
        let mut program = tools.python("python");
        let program = program.arg(source("tests/collector.py"));
        let mut child = program.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, told) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let port = told.recv_timeout(SOON).expect("a port");
        Self { child, told, port, seen: Vec::new() }
    }

    /// The span of that name in that trace; all others are kept.
    fn span(&mut self, trace: &str, name: &str) -> Value {
        loop {
            let mut spans =
                self.seen.iter().flat_map(|told| told["spans"].as_array().unwrap().iter());
            if let Some(span) = spans.find(|span| span["trace"] == trace && span["name"] == name) {
                return span.clone();
            }
            let told = self.told.recv_timeout(SOON);
            let told = told.unwrap_or_else(|e| panic!("{name}: {e}; seen: {:?}", self.seen));
            self.seen.push(serde_json::from_str(&told).unwrap());
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks within a trace; the gateway's span in the answer's `traceparent`.
fn ask(gateway: &Gateway, path: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-D-", "-o/dev/null", "-XPOST", "--unix-socket"]).arg(gateway.socket());
    curl.arg("-H").arg(format!("traceparent: 00-{TRACE}-{PARENT}-01"));
    curl.args(["-H", "tracestate: congo=t61", "-H", "x-request-id: job-7"]);
    let head = output(curl.arg(format!("http://localhost{path}"))).to_lowercase();
    let parent = head.lines().find_map(|line| line.strip_prefix("traceparent: ")).expect("one");
    let parts: Vec<_> = parent.trim().split('-').collect();
    assert_eq!((parts.len(), parts[1]), (4, TRACE), "{parent}");
    parts[2].to_owned()
}

#[test]
fn are_what_opentelemetry_reads_in_them() {
    let Some(tools) = Tools::fetched() else { return };
    let Some(program) = gateway_program() else { return };
    let mut collector = Collector::start(&tools);
    let dir = tempfile::Builder::new().prefix("qga-traces-").tempdir().unwrap();
    let fleet = Fleet::new(dir.path()).unwrap();
    let machine = fleet.machine("vm", &Blueprint::new(Mode::Qga)).unwrap();
    let endpoint = format!("http://127.0.0.1:{}/v1/traces", collector.port);
    let config = format!("[telemetry]\notlp_endpoint = \"{endpoint}\"\n");
    let sockets = [("vm", machine.socket().to_owned()), ("absent", dir.path().join("absent.sock"))];
    let vms: Vec<_> = sockets.into_iter().map(|(id, socket)| (id.to_owned(), socket)).collect();
    let gateway = Gateway::start_with(&program, dir.path(), &config, &vms).unwrap();
    until("the agent", SOON, || {
        Ok((gateway.rest().get("/vms/vm")?.json["link"]["state"] == "ready").then_some(()))
    })
    .unwrap();

    let own = ask(&gateway, "/vms/vm/ping");
    let span = collector.span(TRACE, "POST /vms/{id}/ping");
    let ids = json!([span["id"], span["parent"], span["state"], span["kind"], span["status"]]);
    let none = json!(["STATUS_CODE_UNSET", ""]);
    assert_eq!(ids, json!([own, PARENT, "congo=t61", "SPAN_KIND_SERVER", none]));
    let mut said = span["attributes"].clone();
    let principal = said.as_object_mut().unwrap().remove("qga.principal");
    assert!(principal.is_some_and(|who| who.is_string()), "{span}");
    assert_eq!(
        said,
        json!({
            "http.request.method": "POST", "http.route": "/vms/{id}/ping",
            "http.response.status_code": 200, "qga.request.id": "job-7", "qga.vm.id": "vm",
        })
    );
    let call = collector.span(TRACE, "guest-ping");
    assert_eq!((&call["parent"], &call["kind"]), (&json!(own), &json!("SPAN_KIND_CLIENT")));
    assert_eq!(call["id"].as_str().map(str::len), Some(16), "{call}");
    assert_ne!(call["id"], span["id"]);
    assert_eq!(
        call["attributes"],
        json!({"rpc.system": "qga", "rpc.method": "guest-ping", "qga.vm.id": "vm"})
    );
    let time = |span: &Value, n: usize| span["nanoseconds"][n].as_u64().unwrap();
    let now = u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap();
    let times = [time(&span, 0), time(&call, 0), time(&call, 1), time(&span, 1), now];
    assert!(times.is_sorted() && now - times[0] < 600 * 1_000_000_000, "{times:?}");

    // A failure of the gateway's side is one of the span, by the problem's code.
    ask(&gateway, "/vms/absent/ping");
    let failed = |span: &&Value| span["attributes"]["qga.vm.id"] == "absent";
    let span = until("the span of the failure", SOON, || {
        while let Ok(told) = collector.told.try_recv() {
            collector.seen.push(serde_json::from_str(&told)?);
        }
        let mut spans = collector.seen.iter().flat_map(|told| told["spans"].as_array().unwrap());
        Ok(spans.find(failed).cloned())
    })
    .unwrap();
    assert_eq!(span["status"], json!(["STATUS_CODE_ERROR", "agent_unavailable"]), "{span}");
    assert_eq!(span["attributes"]["error.type"], "agent_unavailable");

    for told in &collector.seen {
        let resource = &told["resource"];
        assert_eq!(resource["service.name"], "qga-gateway");
        assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(resource["process.pid"], gateway.pid());
        assert_eq!(told["scope"], json!(["qga-gateway", env!("CARGO_PKG_VERSION")]));
    }
    drop(machine);
}
