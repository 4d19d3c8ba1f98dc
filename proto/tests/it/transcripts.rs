//! What a real qemu-ga answered, recorded by `scripts/record-transcripts`, held against our
//! server and our client.

use std::time::{Duration, Instant};

use qga_proto::command::{
    Command, Empty, GuestFileClose, GuestFileOpen, GuestFileRead, GuestFileSeek, GuestFileWrite,
    GuestFsfreezeStatus, GuestPing, GuestShutdown, GuestSync,
};
use qga_proto::{
    Call, Client, ClientConfig, ClientEvent, Job, Outcome, QgaError, ReplyError, ReplyText, Server,
    SyncIds,
};
use serde_json::Value;

use crate::thaw::fences;

const QEMU_GA_7_2: &str = include_str!("../transcripts/qemu-ga-7.2.txt");

/// Requests whose answer differs on purpose, with the text that newer agents have.
const NEWER: [(&str, &str); 2] = [
    // 11.1 says what belongs there.
    ("{\"execute\":\"guest-ping\",}\n", "expecting key"),
    ("{1:2}\n", "expecting key"),
];

struct Exchange {
    request: Vec<u8>,
    replies: Vec<Vec<u8>>,
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, byte == b'\\') {
            (byte, false) => byte,
            _ => match rest.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            },
        });
    }
    bytes
}

/// The exchanges under the headings for which `wanted` is true.
fn exchanges(wanted: impl Fn(&str) -> bool) -> Vec<Exchange> {
    let mut found: Vec<Exchange> = Vec::new();
    let mut taking = false;
    for line in QEMU_GA_7_2.lines() {
        if let Some(heading) = line.strip_prefix("# ") {
            taking = wanted(heading);
        } else if !taking {
        } else if let Some(request) = line.strip_prefix("> ") {
            found.push(Exchange { request: unescape(request), replies: Vec::new() });
        } else if let Some(reply) = line.strip_prefix("< ") {
            found.last_mut().unwrap().replies.push(unescape(reply));
        }
    }
    assert!(!found.is_empty());
    found
}

/// A line as what it means: the sentinel, and the JSON without regard to member order.
fn meaning(line: &[u8]) -> (bool, Value) {
    let delimited = line.first() == Some(&0xFF);
    assert_eq!(line.last(), Some(&b'\n'));
    let mut value: Value = serde_json::from_slice(&line[usize::from(delimited)..]).unwrap();
    if let Some(Value::String(desc)) = value.pointer_mut("/error/desc") {
        // 11.1 puts LINE:COL: in front.
        if let Some(at) = desc.find("JSON parse error") {
            desc.drain(..at);
        }
    }
    (delimited, value)
}

/// Enough of an agent for everything that the server itself cannot answer.
fn run(job: &Job) -> Outcome {
    fn check<C: Command>(job: &Job) -> Result<C, QgaError> {
        job.request.arguments::<C>()
    }
    let echo = |job: &Job| check::<GuestSync>(job).map(|sync| sync.id).into();
    let refuse = |refused: Result<(), QgaError>| Outcome::from(refused.map(|()| Empty {}));
    match job.info.name {
        "guest-sync" | "guest-sync-delimited" => echo(job),
        "guest-ping" => refuse(check::<GuestPing>(job).map(drop)),
        "guest-file-read" => refuse(check::<GuestFileRead>(job).map(drop)),
        "guest-file-seek" => refuse(check::<GuestFileSeek>(job).map(drop)),
        "guest-file-write" => refuse(check::<GuestFileWrite>(job).map(drop)),
        "guest-file-close" => refuse(check::<GuestFileClose>(job).map(drop)),
        "guest-fsfreeze-status" => refuse(check::<GuestFsfreezeStatus>(job).map(drop)),
        "guest-shutdown" => refuse(check::<GuestShutdown>(job).map(drop)),
        other => panic!("{other}"),
    }
}

fn answer(server: &mut Server, request: &[u8]) -> Vec<Vec<u8>> {
    let now = Instant::now();
    server.feed(request);
    while let Some(job) = server.poll(now, &mut |_| true) {
        let outcome = run(&job);
        server.complete(job.ticket, outcome);
    }
    let mut output = Vec::new();
    while !server.output().is_empty() {
        output.extend_from_slice(server.output());
        server.consume_output(server.output().len());
    }
    output.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
}

#[test]
fn our_server_answers_as_qemu_ga_does() {
    let mut server = Server::new();
    for Exchange { request, replies } in exchanges(|heading| !heading.starts_with("Files")) {
        let ours: Vec<_> = answer(&mut server, &request).iter().map(|line| meaning(line)).collect();
        let mut theirs: Vec<_> = replies.iter().map(|line| meaning(line)).collect();
        let shown = String::from_utf8_lossy(&request);
        if let Some((_, text)) = NEWER.iter().find(|(newer, _)| newer.as_bytes() == request) {
            let desc = theirs[0].1.pointer_mut("/error/desc").unwrap();
            assert_ne!(
                desc,
                &Value::from(format!("JSON parse error, {text}")),
                "{shown}: no difference"
            );
            *desc = Value::from(format!("JSON parse error, {text}"));
        }
        assert_eq!(ours, theirs, "{shown}");
    }
}

#[test]
fn single_replies_are_the_same_to_the_byte() {
    // Members of one-member objects have no order to differ in.
    for Exchange { request, replies } in exchanges(|heading| heading == "Session") {
        let ours = answer(&mut Server::new(), &request);
        for (ours, theirs) in ours.iter().zip(&replies) {
            if !theirs.windows(5).any(|window| window == b"stray") {
                assert_eq!(String::from_utf8_lossy(ours), String::from_utf8_lossy(theirs));
            }
        }
    }
}

/// A client that has synced with an agent that echoes no ids.
fn synced_client(now: Instant) -> Client {
    let mut client = Client::new(ClientConfig::default());
    client.start_sync(now, SyncIds { delimited: 2, probe: 4, plain: 6, session: 8 });
    client.receive(now, b"\xff{\"return\": 1}\n");
    client.receive(now, b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n");
    assert!(client.is_synced());
    client.consume_output(usize::MAX);
    while client.poll_event().is_some() {}
    client
}

/// What the client makes of a recorded reply.
fn received(client: &mut Client, now: Instant, reply: &[u8]) -> Result<ReplyText, ReplyError> {
    client.send(&Call::new(&GuestPing {}, now + Duration::from_secs(1), 1 << 20)).unwrap();
    let written = String::from_utf8(client.output().to_vec()).unwrap();
    client.consume_output(usize::MAX);
    client.receive(now, &[b"\xff", fences(&written)[0].as_bytes()].concat());
    client.receive(now, reply);
    match client.poll_event() {
        Some(ClientEvent::Reply { result, .. }) => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn our_client_understands_every_recorded_reply() {
    let now = Instant::now();
    let mut client = synced_client(now);
    for Exchange { replies, .. } in exchanges(|_| true) {
        // Ids and sentinels were recorded too; neither was asked for here.
        for reply in replies.iter().filter(|reply| reply[0] != 0xFF) {
            let expected = meaning(reply).1;
            if expected.get("id").is_some() {
                continue;
            }
            match received(&mut client, now, reply) {
                Ok(text) => {
                    let value: Value = serde_json::from_slice(text.json()).unwrap();
                    assert_eq!(value, expected["return"]);
                }
                Err(ReplyError::Agent(error)) => {
                    assert_eq!(error.class.as_str(), expected["error"]["class"]);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn file_answers_have_the_types_that_we_give_them() {
    let now = Instant::now();
    let mut client = synced_client(now);
    let mut replies = exchanges(|heading| heading.starts_with("Files"))
        .into_iter()
        .map(|exchange| received(&mut client, now, &exchange.replies[0]).unwrap());
    let mut next = || replies.next().unwrap();
    assert_eq!(next().decode::<GuestFileOpen>().unwrap(), 1000);
    let first = next().decode::<GuestFileRead>().unwrap();
    assert_eq!((first.count, &first.buf_b64.0[..], first.eof), (5, &b"hello"[..], false));
    let rest = next().decode::<GuestFileRead>().unwrap();
    assert_eq!((rest.count, &rest.buf_b64.0[..], rest.eof), (7, &b" world\n"[..], true));
    let seek = next().decode::<GuestFileSeek>().unwrap();
    assert_eq!((seek.position, seek.eof), (6, false));
    assert_eq!(next().decode::<GuestFileClose>().unwrap(), Empty {});
}
