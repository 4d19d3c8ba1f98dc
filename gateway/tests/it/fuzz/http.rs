//! Requests that are almost right, through the real front: each is answered, never with a 500, and
//! what is refused is a problem whose code the document lists for the operation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use qga_gateway::api::{Code, openapi_json};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::corpus;
use crate::api::agent::Agent;
use crate::api::client::Target;
use crate::api::gateway::Gateway;

/// A stream, or a wait, goes on for longer; then nothing is asked of its answer.
const PATIENCE: Duration = Duration::from_millis(150);
/// Nothing takes long here.
const CONFIG: &str = "[limits]\nconnect_wait_seconds = 0.01\nttl_default_seconds = 1\nttl_max_seconds = 2\n\
    freeze_timeout_default_seconds = 1\nfreeze_timeout_max_seconds = 2\ncall_timeout_max_seconds = 1\n\
    power_watch_seconds = 0.1\ntransfer_pause_seconds = 0.1\n\
    [timeouts]\nother_seconds = 1\nthaw_seconds = 1\nshutdown_seconds = 0.05\n";

/// The codes of problems by method and path.
struct Contract(BTreeMap<(String, Vec<String>), BTreeSet<String>>);

impl Contract {
    fn of_the_document() -> Self {
        let document: Value = serde_json::from_str(&openapi_json()).unwrap();
        let mut operations = BTreeMap::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let codes = operation["x-qga-problems"].as_array().unwrap();
                let codes = codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect();
                let path = path.split('/').map(str::to_owned).collect();
                operations.insert((method.to_uppercase(), path), codes);
            }
        }
        Self(operations)
    }

    /// Of an operation that is there by that path; more exact ones go first.
    fn codes(&self, method: &str, target: &str) -> Option<&BTreeSet<String>> {
        let path: Vec<_> = target.split('?').next()?.split('/').collect();
        let fits = |template: &Vec<String>| {
            template.len() == path.len()
                && template.iter().zip(&path).all(|(a, b)| a == b || a.starts_with('{'))
        };
        let found = self.0.iter().filter(|((m, template), _)| m == method && fits(template));
        let exact = |template: &[String]| template.iter().filter(|a| a.starts_with('{')).count();
        found.min_by_key(|((_, template), _)| exact(template)).map(|(_, codes)| codes)
    }
}

/// What was to be a request, mended where it would have the server wait for more: the length.
struct Sent {
    method: String,
    target: String,
    bytes: Vec<u8>,
}

impl Sent {
    fn of(input: &[u8]) -> Self {
        let end = input.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = match end {
            Some(end) => (&input[..end], &input[end + 4..]),
            None => (input, &b""[..]),
        };
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(
            format!("\r\nconnection: close\r\ncontent-length: {}", body.len()).as_bytes(),
        );
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes.extend_from_slice(body);
        let line = String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned();
        let mut words = line.split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        Self { method: word(), target: word(), bytes }
    }
}

/// Head and body, as far as they came.
async fn exchange(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let mut answer = Vec::new();
    let talk = async {
        // It may refuse early.
        let _ = stream.write_all(bytes).await;
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..count]);
            if answer.starts_with(b"HTTP/1.1 2") || answer.len() > 1 << 20 {
                break;
            }
        }
    };
    let _ = timeout(PATIENCE, talk).await;
    answer
}

/// What of the answer must be so.
fn judge(contract: &Contract, sent: &Sent, answer: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(answer);
    let said = || format!("{} {}: {text}", sent.method, sent.target);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return 0 };
    let status: u16 =
        head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{}", said()));
    assert_ne!(status, 500, "{}", said());
    if status < 400 {
        return u64::from(status);
    }
    assert!(head.contains("content-type: application/problem+json"), "{}", said());
    assert!(head.contains("x-request-id: "), "{}", said());
    if sent.method == "HEAD" {
        return u64::from(status);
    }
    // A connection that is refused while more comes may be cut.
    let Ok(problem) = serde_json::from_str::<Value>(body) else { return u64::from(status) };
    let code = problem["code"].as_str().unwrap_or_default();
    let known = Code::ALL.into_iter().find(|known| known.as_str() == code);
    assert_eq!(known.map(|known| known.status().as_u16()), Some(status), "{}", said());
    let before_any_operation =
        ["route_not_found", "method_not_allowed", "head_too_large", "request_timeout", "forbidden"];
    if !before_any_operation.contains(&code)
        && let Some(codes) = contract.codes(&sent.method, &sent.target)
    {
        assert!(codes.contains(code), "{code} is not documented: {}", said());
    }
    // The words without what the caller said.
    let detail = problem["detail"].as_str().unwrap_or_default();
    let words: String =
        detail.split('"').step_by(2).flat_map(str::chars).filter(|c| !c.is_numeric()).collect();
    qga_testing::digest((code, words))
}

#[test]
fn whatever_is_asked_the_answer_is_documented() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let contract = Contract::of_the_document();
    // The gateway ends in it.
    let _context = runtime.enter();
    let gateway = runtime.block_on(Gateway::configured(Agent::default(), CONFIG));
    let Target::Unix(socket) = gateway.unix.clone() else { unreachable!("it is one") };
    qga_testing::fuzz(&corpus("http"), 1500, |input| {
        let sent = Sent::of(input);
        let answer = runtime.block_on(exchange(&socket, &sent.bytes));
        judge(&contract, &sent, &answer)
    });
    runtime.block_on(async { gateway.ask("GET", "/livez").send().await.expect(200) });
}
