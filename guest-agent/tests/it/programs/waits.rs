use std::time::{Duration, Instant};

use qga_proto::command::{Known, XExecStart, XExecWait};
use serde_json::json;

use super::{call, forget, news, refused, sh, start, write};
use crate::bed::{Agent, Bed, Client};

fn request(handle: i64, wait_ms: i64) -> String {
    let known = json!([{"handle": handle, "stdout": 0, "end": true}]);
    let arguments = json!({"programs": known, "wait-ms": wait_ms});
    json!({"execute": "x-guest-exec-wait", "arguments": arguments}).to_string()
}

/// Two channels: commands on one do not end a wait on the other.
fn two_channels(bed: &Bed) -> (Agent, Client) {
    let config = format!("[channel b]\nmethod=unix-listen\npath={}\n", bed.path("b").display());
    std::fs::write(bed.path("conf"), config).unwrap();
    let mut command = bed.command(crate::bed::AGENT);
    command.arg("-c").arg(bed.path("conf"));
    let agent = Agent::spawn(&mut command, &bed.path("socket"));
    let other = Client::connect(&bed.path("b"));
    (agent, other)
}

#[test]
fn it_is_answered_as_soon_as_there_is_news() {
    let bed = Bed::new();
    let (agent, mut waiter) = two_channels(&bed);
    let mut client = agent.connect();
    let script = "read line; echo news; read line";
    let handle = start(&mut client, &XExecStart { keep_stdin: Some(true), ..sh(script) });
    let silent = start(&mut client, &sh("exec sleep 60"));
    let programs = vec![
        Known { handle: silent, stdout: Some(0), end: Some(true), ..Known::default() },
        Known { handle, stdout: Some(0), ..Known::default() },
    ];
    let wait = json!({"programs": programs, "wait-ms": 60_000});
    let wait = json!({"execute": "x-guest-exec-wait", "arguments": wait}).to_string();
    waiter.send(&wait);
    assert_eq!(client.get("guest-ping", ""), "{}");
    write(&mut client, handle, 0, b"\n", false);
    let begun = Instant::now();
    let answer = waiter.line();
    assert!(begun.elapsed() < Duration::from_secs(10));
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let ready = answer["return"]["ready"].as_array().unwrap();
    assert_eq!((ready.len(), &ready[0]["handle"]), (1, &json!(handle)), "{answer}");
    // The end, too.
    let end = json!({"programs": [{"handle": handle, "end": true}], "wait-ms": 60_000});
    waiter.send(json!({"execute": "x-guest-exec-wait", "arguments": end}).to_string());
    write(&mut client, handle, 1, b"\n", false);
    assert!(waiter.line().contains("exitcode"));
    // And that it is not there any more.
    waiter.send(request(silent, 60_000));
    forget(&mut client, silent);
    let gone = waiter.line();
    let gone: serde_json::Value = serde_json::from_str(&gone).unwrap();
    assert_eq!(gone["return"]["ready"][0]["pid"], 0);
}

#[test]
fn it_gives_way_to_whatever_comes_behind_it() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let handle = start(&mut client, &sh("exec sleep 60"));
    for _ in 0..40 {
        client.send(request(handle, 60_000));
        let begun = Instant::now();
        assert_eq!(client.ask("{'execute':'guest-ping'}"), "{\"return\": {\"ready\": []}}");
        assert_eq!(client.line(), "{\"return\": {}}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    client.send(request(handle, 60_000));
    assert_eq!(
        client.ask("{'execute':'guest-sync-delimited','arguments':{'id':7}}"),
        "{\"return\": {\"ready\": []}}"
    );
    assert_eq!(client.line(), "<FF>{\"return\": 7}");
}

#[test]
fn it_ends_with_its_time() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let handle = start(&mut client, &sh("exec sleep 60"));
    let known = Known { handle, stdout: Some(0), end: Some(true), ..Known::default() };
    for wait_ms in [0, 1, 150] {
        let begun = Instant::now();
        let wait = XExecWait { programs: vec![known], wait_ms };
        assert_eq!(call(&mut client, &wait).unwrap().ready, []);
        assert!(begun.elapsed() >= Duration::from_millis(wait_ms.cast_unsigned()));
    }
    let none = XExecWait { programs: Vec::new(), wait_ms: 0 };
    assert_eq!(call(&mut client, &none).unwrap().ready, []);
    for (programs, wait_ms, text) in [
        (vec![known], 60_001, "invalid wait-ms: 60001, and it must be 0 to 60000"),
        (vec![known], -1, "invalid wait-ms: -1, and it must be 0 to 60000"),
        (vec![known; 513], 0, "invalid programs: 513, and 512 at most"),
    ] {
        let refusal = refused(&mut client, &XExecWait { programs, wait_ms });
        assert_eq!(refusal, (text.into(), "EINVAL".into()));
    }
    let unknown = Known { handle: 1 << 40, ..known };
    let nobody = news(&mut client, unknown);
    assert_eq!((nobody.handle, nobody.pid, nobody.exited), (1 << 40, 0, true));
}
