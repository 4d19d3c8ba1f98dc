//! Files through the handle endpoints, byte for byte.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qga_e2e::{Reply, RestTarget};
use serde_json::{Value, json};

use crate::guests::{Kind, Served, both_agents};

/// Not a divisor of anything, so that chunks end anywhere.
const CHUNK: usize = 47_111;
const LENGTH: usize = 300_001;

both_agents!(files);

fn files(kind: Kind) {
    let Some(mut served) = Served::start(kind) else { return };
    let control = served.guest.vm.control();
    let target = &served.target;

    let content = noise();
    upload(target, "/data/ext4/up.bin", &content);
    let sum = control.output("sha256sum /data/ext4/up.bin").unwrap();
    assert_eq!(sum.split(' ').next(), Some(sha256(served.guest_dir(), &content).as_str()));
    assert!(download(target, "/data/ext4/up.bin") == content, "what went up must come down");

    let control = served.guest.vm.control();
    control.output("head -c 300001 /dev/urandom >/data/xfs/down.bin").unwrap();
    let sum = control.output("sha256sum /data/xfs/down.bin").unwrap();
    let down = download(&served.target, "/data/xfs/down.bin");
    assert_eq!(sum.split(' ').next(), Some(sha256(served.guest_dir(), &down).as_str()));

    seek(&served.target, &content);
    errors(&served.target);
}

impl Served {
    fn guest_dir(&self) -> &std::path::Path {
        self.guest.dir()
    }
}

fn seek(target: &RestTarget, content: &[u8]) {
    let handle = open(target, "/data/ext4/up.bin", "r");
    let call = |what: &str, body: &Value| {
        target.rest.post(&format!("{handle}/{what}"), body).unwrap().expect(200).unwrap()
    };
    let position = call("seek", &json!({ "offset": -5, "whence": "end" }));
    assert_eq!(position["position"], json!(LENGTH - 5));
    let read = call("read", &json!({ "count": 100 }));
    assert_eq!(decode(&read), &content[LENGTH - 5..]);
    assert_eq!(read["eof"], json!(true));
    close(target, &handle);
}

fn errors(target: &RestTarget) {
    let open = json!({ "path": "/nowhere/file" });
    let missing = target.rest.post(&target.path("/file-handles"), &open).unwrap();
    assert_eq!((missing.status, missing.code()), (422, "agent_error"));
    let read = target.path("/file-handles/4711/read");
    let unknown = target.rest.post(&read, &json!({})).unwrap();
    assert!((400..500).contains(&unknown.status), "{} {}", unknown.status, unknown.json);
}

fn upload(target: &RestTarget, path: &str, content: &[u8]) {
    let handle = open(target, path, "w");
    for chunk in content.chunks(CHUNK) {
        let body = json!({ "buf-b64": STANDARD.encode(chunk) });
        let written = target.rest.post(&format!("{handle}/write"), &body).unwrap();
        assert_eq!(written.expect(200).unwrap()["count"], json!(chunk.len()));
    }
    let flushed = target.rest.post(&format!("{handle}/flush"), &json!({})).unwrap();
    assert_success(&flushed);
    close(target, &handle);
}

fn download(target: &RestTarget, path: &str) -> Vec<u8> {
    let handle = open(target, path, "r");
    let mut content = Vec::new();
    loop {
        let read = target.rest.post(&format!("{handle}/read"), &json!({ "count": CHUNK })).unwrap();
        let read = read.expect(200).unwrap();
        content.extend(decode(&read));
        assert!(content.len() <= LENGTH, "more comes down than lies there");
        if read["eof"] == json!(true) {
            close(target, &handle);
            return content;
        }
    }
}

/// Opens a file; gives the path of the handle's resource.
fn open(target: &RestTarget, path: &str, mode: &str) -> String {
    let body = json!({ "path": path, "mode": mode });
    let reply = target.rest.post(&target.path("/file-handles"), &body).unwrap();
    let location = reply.header("location").map(str::to_owned);
    let answer = reply.expect(201).unwrap();
    let handle = answer["handle"].as_i64().unwrap_or_else(|| panic!("no handle in {answer}"));
    let path = target.path(&format!("/file-handles/{handle}"));
    assert_eq!(location.as_deref(), Some(path.as_str()));
    path
}

fn close(target: &RestTarget, handle: &str) {
    assert_success(&target.rest.delete(handle).unwrap());
    let twice = target.rest.delete(handle).unwrap();
    assert!((400..500).contains(&twice.status), "{} {}", twice.status, twice.json);
}

fn assert_success(reply: &Reply) {
    assert!((200..300).contains(&reply.status), "{} {}", reply.status, reply.json);
}

fn decode(read: &Value) -> Vec<u8> {
    let content = STANDARD.decode(read["buf-b64"].as_str().expect("buf-b64")).expect("base64");
    assert_eq!(read["count"], json!(content.len()));
    content
}

/// Every byte value, in no order that a wrong offset could repeat.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(LENGTH).collect()
}

fn sha256(dir: &std::path::Path, content: &[u8]) -> String {
    let file = dir.join("content");
    std::fs::write(&file, content).unwrap();
    let done = Command::new("sha256sum").arg(&file).output().unwrap();
    String::from_utf8(done.stdout).unwrap().split(' ').next().unwrap().to_owned()
}
