//! File handles, against real files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::bed::{Bed, Client};

fn open(client: &mut Client, path: &Path, mode: &str) -> i64 {
    let arguments = format!("{{\"path\":\"{}\",\"mode\":\"{mode}\"}}", path.display());
    client.get("guest-file-open", &arguments).parse().unwrap()
}

fn read(client: &mut Client, handle: i64, count: i64) -> String {
    client.get("guest-file-read", &format!("{{\"handle\":{handle},\"count\":{count}}}"))
}

fn write(client: &mut Client, handle: i64, base64: &str) -> String {
    let arguments = format!("{{\"handle\":{handle},\"buf-b64\":\"{base64}\"}}");
    client.get("guest-file-write", &arguments)
}

fn seek(client: &mut Client, handle: i64, offset: i64, whence: &str) -> String {
    let arguments = format!("{{\"handle\":{handle},\"offset\":{offset},\"whence\":{whence}}}");
    client.get("guest-file-seek", &arguments)
}

#[test]
fn eof_is_met_only_by_reading_past_the_end() {
    let bed = Bed::new();
    let path = bed.path("f");
    fs::write(&path, "hello").unwrap();
    let agent = bed.start();
    let mut client = agent.connect();
    let h = open(&mut client, &path, "r");
    assert_eq!(read(&mut client, h, 0), "{\"buf-b64\": \"\", \"count\": 0, \"eof\": false}");
    assert_eq!(
        read(&mut client, h, 5),
        "{\"buf-b64\": \"aGVsbG8=\", \"count\": 5, \"eof\": false}"
    );
    assert_eq!(read(&mut client, h, 5), "{\"buf-b64\": \"\", \"count\": 0, \"eof\": true}");
    assert_eq!(seek(&mut client, h, 3, "\"set\""), "{\"position\": 3, \"eof\": false}");
    assert_eq!(read(&mut client, h, 100), "{\"buf-b64\": \"bG8=\", \"count\": 2, \"eof\": true}");
}

#[test]
fn counts_out_of_range_are_refused() {
    let bed = Bed::new();
    let path = bed.path("f");
    let agent = bed.start();
    let mut client = agent.connect();
    let h = open(&mut client, &path, "w+");
    for count in [-1, 50_331_649] {
        let text =
            client.error("guest-file-read", &format!("{{\"handle\":{h},\"count\":{count}}}"));
        assert_eq!(text, format!("value '{count}' is invalid for argument count"));
    }
    for count in [-1, 4] {
        let arguments = format!("{{\"handle\":{h},\"buf-b64\":\"QUJD\",\"count\":{count}}}");
        let text = client.error("guest-file-write", &arguments);
        assert_eq!(text, format!("value '{count}' is invalid for argument count"));
    }
    let arguments = format!("{{\"handle\":{h},\"buf-b64\":\"QUJD\",\"count\":2}}");
    assert_eq!(client.get("guest-file-write", &arguments), "{\"count\": 2, \"eof\": false}");
    assert_eq!(fs::read(&path).unwrap(), b"AB");
    assert_eq!(read(&mut client, h, 50_331_648).matches("\"count\": 0").count(), 1);
}

#[test]
fn base64_is_taken_as_qemu_ga_takes_it() {
    let bed = Bed::new();
    let path = bed.path("f");
    let agent = bed.start();
    let mut client = agent.connect();
    let h = open(&mut client, &path, "w");
    assert_eq!(write(&mut client, h, "QUJD\\nREVG\\n"), "{\"count\": 6, \"eof\": false}");
    assert_eq!(write(&mut client, h, "QUJ"), "{\"count\": 0, \"eof\": false}");
    let text =
        client.error("guest-file-write", &format!("{{\"handle\":{h},\"buf-b64\":\"QU JD\"}}"));
    assert_eq!(text, "Base64 data contains invalid characters");
    assert_eq!(fs::read(&path).unwrap(), b"ABCDEF");
}

#[test]
fn modes_do_what_fopen_says() {
    let bed = Bed::new();
    let path = bed.path("f");
    let agent = bed.start();
    let mut client = agent.connect();
    for mode in ["w", "wb", "w+", "wb+", "w+b"] {
        fs::write(&path, "old").unwrap();
        let h = open(&mut client, &path, mode);
        write(&mut client, h, "QUJD");
        client.get("guest-file-close", &format!("{{\"handle\":{h}}}"));
        assert_eq!(fs::read(&path).unwrap(), b"ABC", "{mode}");
    }
    for mode in ["a", "ab", "a+", "ab+", "a+b"] {
        fs::write(&path, "old").unwrap();
        let h = open(&mut client, &path, mode);
        let position = "{\"position\": 0, \"eof\": false}";
        assert_eq!(seek(&mut client, h, 0, "\"cur\""), position, "{mode}");
        seek(&mut client, h, 0, "0");
        write(&mut client, h, "QUJD");
        assert_eq!(fs::read(&path).unwrap(), b"oldABC", "{mode}");
        assert_eq!(seek(&mut client, h, 0, "1"), "{\"position\": 6, \"eof\": false}");
    }
    for mode in ["r+", "rb+", "r+b"] {
        fs::write(&path, "old!").unwrap();
        let h = open(&mut client, &path, mode);
        assert!(read(&mut client, h, 1).contains("bw=="));
        write(&mut client, h, "QUI=");
        assert!(read(&mut client, h, 9).contains("IQ=="));
        assert_eq!(fs::read(&path).unwrap(), b"oAB!", "{mode}");
    }
    let text = client.error("guest-file-open", "{\"path\":\"/x\",\"mode\":\"x\"}");
    assert_eq!(text, "invalid file open mode 'x'");
}

#[test]
fn failures_have_qemu_gas_texts() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    assert_eq!(
        client.error("guest-file-open", "{\"path\":\"/nope/x\"}"),
        "failed to open file '/nope/x' (mode: 'r'): No such file or directory"
    );
    let h = open(&mut client, Path::new("/"), "r");
    let handle = format!("{{\"handle\":{h}}}");
    assert_eq!(client.error("guest-file-read", &handle), "failed to read file: Is a directory");
    let path = bed.path("f");
    fs::write(&path, "x").unwrap();
    let h = open(&mut client, &path, "r");
    assert_eq!(
        client.error("guest-file-write", &format!("{{\"handle\":{h},\"buf-b64\":\"QUJD\"}}")),
        "failed to write to file: Bad file descriptor"
    );
    let arguments = format!("{{\"handle\":{h},\"offset\":-1,\"whence\":0}}");
    let invalid = "failed to seek file: Invalid argument";
    assert_eq!(client.error("guest-file-seek", &arguments), invalid);
    let arguments = format!("{{\"handle\":{h},\"offset\":0,\"whence\":7}}");
    assert_eq!(client.error("guest-file-seek", &arguments), "invalid whence code 7");
    client.get("guest-file-close", &format!("{{\"handle\":{h}}}"));
    let gone = format!("handle '{h}' has not been found");
    for (command, more) in [
        ("guest-file-close", ""),
        ("guest-file-flush", ""),
        ("guest-file-read", ""),
        ("guest-file-write", ",\"buf-b64\":\"!\""),
        ("guest-file-seek", ",\"offset\":0,\"whence\":0"),
    ] {
        assert_eq!(client.error(command, &format!("{{\"handle\":{h}{more}}}")), gone);
    }
}

#[test]
fn a_fifo_never_holds_the_agent_up() {
    let bed = Bed::new();
    let path = bed.path("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let made = rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0);
    made.unwrap();
    let agent = bed.start();
    let mut client = agent.connect();
    let h = open(&mut client, &path, "r");
    assert!(read(&mut client, h, 10).contains("\"eof\": true"));
    let w = open(&mut client, &path, "w");
    let none = client.error("guest-file-read", &format!("{{\"handle\":{h}}}"));
    assert_eq!(none, "failed to read file: Resource temporarily unavailable");
    write(&mut client, w, "QUJD");
    assert!(read(&mut client, h, 10).contains("\"count\": 3, \"eof\": false"));
    let illegal = "failed to seek file: Illegal seek";
    let arguments = format!("{{\"handle\":{h},\"offset\":0,\"whence\":0}}");
    assert_eq!(client.error("guest-file-seek", &arguments), illegal);
}

#[test]
fn handles_outlive_clients_and_numbers_outlive_the_agent() {
    let bed = Bed::new();
    let path = bed.path("f");
    fs::write(&path, "hello").unwrap();
    let state = bed.path("state/qga.state");
    let mut agent = bed.start();
    assert_eq!(fs::read(&state).unwrap(), b"[global]\nfd_counter=1000\n");
    assert_eq!(open(&mut agent.connect(), &path, "r"), 1000);
    assert!(read(&mut agent.connect(), 1000, 5).contains("aGVsbG8="));
    assert_eq!(open(&mut agent.connect(), &path, "r"), 1001);
    assert_eq!(fs::read(&state).unwrap(), b"[global]\nfd_counter=1002\n");
    agent.kill();
    let agent = bed.start();
    assert_eq!(open(&mut agent.connect(), &path, "r"), 1002);
}

#[test]
fn created_files_are_not_writable_for_all() {
    let bed = Bed::new();
    let path = bed.path("f");
    let agent = bed.start();
    open(&mut agent.connect(), &path, "w");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o022, 0, "{mode:o}");
    assert_eq!(mode & 0o400, 0o400, "{mode:o}");
}

#[test]
fn open_files_are_bounded() {
    let bed = Bed::new();
    let path = bed.path("f");
    fs::write(&path, "x").unwrap();
    let agent = bed.start();
    let mut client = agent.connect();
    for _ in 0..512 {
        open(&mut client, &path, "r");
    }
    let arguments = format!("{{\"path\":\"{}\"}}", path.display());
    let text = client.error("guest-file-open", &arguments);
    assert!(text.ends_with("512 files are open already"), "{text}");
    client.get("guest-file-close", "{\"handle\":1000}");
    open(&mut client, &path, "r");
}

#[test]
fn large_chunks_go_both_ways_unharmed() {
    let bed = Bed::new();
    let from = bed.path("from");
    let to = bed.path("to");
    let bytes: Vec<u8> = (0..5_000_001_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    fs::write(&from, &bytes).unwrap();
    let agent = bed.start();
    let mut client = agent.connect();
    let r = open(&mut client, &from, "r");
    let w = open(&mut client, &to, "w");
    loop {
        let chunk = read(&mut client, r, 1 << 20);
        let base64 = chunk.split('"').nth(3).unwrap();
        write(&mut client, w, base64);
        if chunk.contains("\"eof\": true") {
            break;
        }
    }
    assert!(fs::read(&to).unwrap() == bytes);
}
