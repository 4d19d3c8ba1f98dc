//! Entries for a fuzzer, and the corpus that every test run replays.
//!
//! Each entry takes any bytes and must neither panic nor grow beyond its bounds. To fuzz, call
//! them from any harness (`make fuzz`, AFL, honggfuzz); what they find goes into `tests/corpus`.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use qga_proto::command::{
    COMMANDS, GuestExecStatus, GuestFileOpen, GuestFileRead, GuestFileSeek, GuestFileWrite,
    GuestFsfreezeFreeze, GuestFsfreezeFreezeList, GuestGetFsinfo, GuestInfo, GuestPing,
    GuestShutdown, GuestSync,
};
use qga_proto::json::{Deframer, Framed};
use qga_proto::{Call, Client, ClientConfig, ClientEvent, Outcome, Server, SyncIds};

/// Bytes from a host to an agent. The first byte says how large the pieces are.
pub(crate) fn server(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let now = Instant::now();
    let mut server = Server::new();
    for piece in bytes.chunks(usize::from(size).max(1)) {
        server.feed(piece);
        while let Some(job) = server.poll(now, &mut |_| true) {
            let _ = job.request.arguments::<GuestSync>();
            let _ = job.request.arguments::<GuestFileOpen>();
            let _ = job.request.arguments::<GuestFileSeek>();
            let _ = job.request.arguments::<GuestShutdown>();
            let _ = job.request.arguments::<GuestFsfreezeFreezeList>();
            if let Ok(write) = job.request.arguments::<GuestFileWrite>() {
                let _ = write.buf_b64.decode();
            }
            server.complete(job.ticket, Outcome::empty());
        }
        while !server.output().is_empty() {
            let output = server.output();
            assert!(output.iter().all(|&byte| byte.is_ascii() || byte == 0xFF));
            server.consume_output(output.len());
        }
    }
}

/// Bytes from an agent to a host, in the middle of a sync and of calls.
pub(crate) fn client(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let now = Instant::now();
    let ids = SyncIds { delimited: 2, probe: 4, plain: 6, session: 1 };
    let mut client = Client::new(ClientConfig { idle_line_cap: 512, ..ClientConfig::default() });
    client.start_sync(now, ids);
    for piece in bytes.chunks(usize::from(size).max(1)) {
        client.receive(now, piece);
        while let Some(event) = client.poll_event() {
            if let ClientEvent::Reply { result: Ok(text), .. } = event {
                let _ = text.decode::<GuestInfo>();
            }
        }
        if client.needs_sync() {
            client.start_sync(now, ids);
        }
        let _ = client.send(&Call::new(&GuestPing {}, now + Duration::from_secs(1), 1024));
        client.consume_output(client.output().len());
    }
    client.handle_timeout(now + Duration::from_secs(10));
}

/// Any text that the deframer accepts is JSON for `serde_json` too, but for the dialect.
fn agrees_with_serde_json(bytes: &[u8]) {
    let mut input = [bytes, b" "].concat();
    if input.contains(&b'\'') || input.windows(2).any(|pair| pair == [0xC0, 0x80]) {
        return;
    }
    let mut rest = &input[..];
    if let Some(Framed::Text(_)) = Deframer::new().next(&mut rest) {
        let used = input.len() - rest.len();
        input.truncate(used);
        let strict = serde_json::from_slice::<serde::de::IgnoredAny>(&input);
        assert!(strict.is_ok(), "{}: {strict:?}", String::from_utf8_lossy(&input));
    }
}

/// A reply as it came in a line, whatever may be asked of it.
pub(crate) fn reply(bytes: &[u8]) {
    let now = Instant::now();
    let ids = SyncIds { delimited: 2, probe: 4, plain: 6, session: 1 };
    let mut client = Client::new(ClientConfig::default());
    client.start_sync(now, ids);
    // Synced, and with a call under way whose reply this may be.
    client.receive(now, b"\xff{\"return\":2}\n{\"return\":4,\"id\":\"0000000000000001\"}\n");
    while client.poll_event().is_some() {}
    let _ = client.send(&Call::new(&GuestPing {}, now + Duration::from_secs(1), 1 << 20));
    client.consume_output(client.output().len());
    client.receive(now, bytes);
    client.receive(now, b"\n");
    while let Some(event) = client.poll_event() {
        if let ClientEvent::Reply { result: Ok(text), .. } = event {
            let _ = text.decode::<GuestInfo>();
            let _ = text.decode::<GuestGetFsinfo>();
            let _ = text.decode::<GuestFileRead>();
            let _ = text.decode::<GuestExecStatus>();
            let _ = text.decode::<GuestFsfreezeFreeze>();
            let _ = text.into_file_chunk();
        }
    }
}

fn fuzz(name: &str, entry: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    qga_testing::fuzz(&folder, 2000, |bytes| {
        entry(bytes);
        0u64
    });
}

#[test]
fn the_corpus_and_what_is_like_it_does_no_harm() {
    for (name, entry) in [("server", server as fn(&[u8])), ("client", client), ("reply", reply)] {
        fuzz(name, entry);
    }
}

/// Fragments that get further than random bytes do.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let command = prop::sample::select(COMMANDS).prop_map(|info| info.name.as_bytes().to_vec());
    let token = prop::sample::select(vec![
        &b"{"[..],
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"\"",
        b"'",
        b"\\",
        b"\\u",
        b"d83d",
        b"\n",
        b" ",
        b"\xff",
        b"\xfe",
        b"\x01",
        b"\xc0\x80",
        b"null",
        b"true",
        b"-",
        b"0",
        b"1",
        b"9223372036854775808",
        b".5",
        b"e9",
        b"\"execute\":",
        b"\"arguments\":",
        b"\"id\":",
        b"\"return\":",
        b"\"error\":",
        b"{\"return\":1}\n",
        b"\xff{\"return\":1}\n",
        b"{\"return\":2,\"id\":\"0000000000000001\"}\n",
        b"{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"x\"}}\n",
        b"{\"return\":3}\n",
        b"\"id\":\"0000000000000001-0\"",
        b"\"handle\":1",
        b"\"buf-b64\":\"QQ==\"",
    ])
    .prop_map(<[u8]>::to_vec);
    let random = prop::collection::vec(any::<u8>(), 0..20);
    prop::collection::vec(prop_oneof![2 => command, 8 => token, 1 => random], 0..60)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn servers_survive_anything(bytes in fragments(), size in 1u8..) {
        server(&[&[size][..], &bytes].concat());
    }

    #[test]
    fn clients_survive_anything(bytes in fragments(), size in 1u8..) {
        client(&[&[size][..], &bytes].concat());
    }

    #[test]
    fn what_is_accepted_is_json(bytes in fragments()) {
        agrees_with_serde_json(&bytes);
    }

    #[test]
    fn pieces_do_not_matter(bytes in fragments(), size in 1usize..50) {
        let frames = |size: usize| {
            let mut deframer = Deframer::new();
            let mut found = Vec::new();
            for mut piece in bytes.chunks(size) {
                while let Some(framed) = deframer.next(&mut piece) {
                    found.push(match framed {
                        Framed::Text(text) => text.bytes().to_vec(),
                        Framed::Error(error) => error.to_string().into_bytes(),
                    });
                }
            }
            found
        };
        prop_assert_eq!(frames(size), frames(usize::MAX));
    }
}
