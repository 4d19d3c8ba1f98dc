//! Bytes that must never change: other people's agents read them.

use std::time::{Duration, Instant};

use qga_proto::base64::{Base64, Base64Text};
use qga_proto::command::{
    Command, CreatedFile, DirectoryEntry, Expected, FileKind, FileList, FileStat, GuestFileClose,
    GuestFileFlush, GuestFileOpen, GuestFileRead, GuestFileSeek, GuestFileWrite,
    GuestFsfreezeFreeze, GuestFsfreezeFreezeList, GuestFsfreezeStatus, GuestFsfreezeThaw,
    GuestInfo, GuestPing, GuestShutdown, ShutdownMode, Whence, XFileCommit, XFileCreate, XFileList,
    XFileMkdir, XFileOpen, XFileRemove, XFileRename, XFileStat, XFileSync,
};
use qga_proto::{Call, Client, ClientConfig, ClientEvent, Outcome, Server, SyncIds};

const IDS: SyncIds = SyncIds { delimited: 14, probe: 24, plain: 34, session: 0xAB };

fn sent(client: &mut Client) -> String {
    let output = client.output().to_vec();
    client.consume_output(output.len());
    output.iter().map(|&byte| char::from(byte)).collect()
}

fn synced(probe_answer: &str) -> (Client, Instant) {
    let now = Instant::now();
    let mut client = Client::new(ClientConfig::default());
    client.start_sync(now, IDS);
    sent(&mut client);
    client.receive(now, b"\xff{\"return\": 7}\n");
    client.receive(now, probe_answer.as_bytes());
    client.receive(now, b"\n");
    while client.poll_event().is_some() {}
    assert!(client.is_synced());
    (client, now)
}

#[test]
fn a_sync() {
    let mut client = Client::new(ClientConfig::default());
    client.start_sync(Instant::now(), IDS);
    assert_eq!(
        sent(&mut client),
        "\u{ff}{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":7}}\n\
         {\"execute\":\"guest-sync\",\"arguments\":{\"id\":12},\"id\":\"00000000000000ab\"}\n"
    );
}

#[test]
fn an_agent_without_delimited_sync_gets_a_plain_one() {
    let now = Instant::now();
    let mut client = Client::new(ClientConfig::default());
    client.start_sync(now, IDS);
    sent(&mut client);
    // The agent of QEMU 0.15 to both parts of the first attempt.
    client.receive(
        now,
        b"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command guest-sync-delimited \
          has not been found\", \"data\": {\"name\": \"guest-sync-delimited\"}}}\n\
          {\"error\": {\"class\": \"QMPExtraInputObjectMember\", \"desc\": \"QMP input object member \
          'id' is unexpected\", \"data\": {\"member\": \"id\"}}}\n",
    );
    assert_eq!(sent(&mut client), "{\"execute\":\"guest-sync\",\"arguments\":{\"id\":17}}\n");
    assert!(!client.is_synced());
    client.receive(now, b"{\"return\": 17}\n");
    let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
    assert!(
        matches!(events.last(), Some(ClientEvent::Synced { echoes_id: false, delimited: false })),
        "{events:?}"
    );
}

#[test]
fn commands_with_and_without_id() {
    let ping = |now: Instant| Call::new(&GuestPing {}, now + Duration::from_secs(1), 1000);
    let (mut client, now) = synced("{\"return\": 12, \"id\": \"00000000000000ab\"}");
    client.send(&ping(now)).unwrap();
    assert_eq!(sent(&mut client), "{\"execute\":\"guest-ping\",\"id\":\"00000000000000ab-0\"}\n");
    let (mut client, now) = synced(
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input object member 'id' is unexpected\"}}",
    );
    client.send(&ping(now)).unwrap();
    let text = sent(&mut client);
    let number = text.split(|c: char| !c.is_ascii_digit()).find(|n| !n.is_empty()).unwrap();
    assert_eq!(
        text,
        format!(
            "{{\"execute\":\"guest-sync-delimited\",\"arguments\":{{\"id\":{number}}}}}\n\
             {{\"execute\":\"guest-ping\"}}\n"
        )
    );
}

#[test]
fn arguments_of_every_command() {
    fn json<C: Command>(arguments: &C) -> String {
        format!("{} {}", C::INFO.name, serde_json::to_string(arguments).unwrap())
    }
    for (ours, frozen) in [
        (json(&GuestInfo {}), "guest-info {}"),
        (json(&GuestShutdown { mode: None }), "guest-shutdown {}"),
        (
            json(&GuestShutdown { mode: Some(ShutdownMode::Reboot) }),
            "guest-shutdown {\"mode\":\"reboot\"}",
        ),
        (
            json(&GuestFileOpen { path: "/x".into(), mode: Some("w+".into()) }),
            "guest-file-open {\"path\":\"/x\",\"mode\":\"w+\"}",
        ),
        (json(&GuestFileClose { handle: 1000 }), "guest-file-close {\"handle\":1000}"),
        (json(&GuestFileFlush { handle: 1000 }), "guest-file-flush {\"handle\":1000}"),
        (
            json(&GuestFileRead { handle: 1000, count: Some(5) }),
            "guest-file-read {\"handle\":1000,\"count\":5}",
        ),
        (
            json(&GuestFileWrite { handle: 1000, buf_b64: Base64Text::new(*b"AB"), count: None }),
            "guest-file-write {\"handle\":1000,\"buf-b64\":\"QUI=\"}",
        ),
        (
            json(&GuestFileSeek { handle: 1000, offset: -1, whence: Whence::End }),
            "guest-file-seek {\"handle\":1000,\"offset\":-1,\"whence\":2}",
        ),
        (json(&GuestFsfreezeStatus {}), "guest-fsfreeze-status {}"),
        (json(&GuestFsfreezeFreeze {}), "guest-fsfreeze-freeze {}"),
        (
            json(&GuestFsfreezeFreezeList { mountpoints: Some(vec!["/".into()]) }),
            "guest-fsfreeze-freeze-list {\"mountpoints\":[\"/\"]}",
        ),
        (json(&GuestFsfreezeThaw {}), "guest-fsfreeze-thaw {}"),
    ] {
        assert_eq!(ours, frozen);
    }
}

#[test]
fn arguments_of_the_file_extensions() {
    fn json<C: Command>(arguments: &C) -> String {
        format!("{} {}", C::INFO.name, serde_json::to_string(arguments).unwrap())
    }
    let path = Some("/x".to_owned());
    let path_b64 = Some(Base64Text::new(*b"/\xff"));
    let expected = Expected { ino: Some(7), size: Some(3), mtime_ns: Some(-1), absent: false };
    for (ours, frozen) in [
        (
            json(&XFileStat { path: path.clone(), ..XFileStat::default() }),
            "x-guest-file-stat {\"path\":\"/x\"}",
        ),
        (
            json(&XFileStat { handle: Some(1000), follow: Some(false), ..XFileStat::default() }),
            "x-guest-file-stat {\"handle\":1000,\"follow\":false}",
        ),
        (
            json(&XFileList {
                path_b64: path_b64.clone(),
                after_b64: Some(Base64Text::new(*b"a")),
                limit: Some(10),
                ..XFileList::default()
            }),
            "x-guest-file-list {\"path-b64\":\"L/8=\",\"after-b64\":\"YQ==\",\"limit\":10}",
        ),
        (
            json(&XFileOpen { path: path.clone(), write: Some(true), ..XFileOpen::default() }),
            "x-guest-file-open {\"path\":\"/x\",\"write\":true}",
        ),
        (
            json(&XFileCreate { path_b64, ..XFileCreate::default() }),
            "x-guest-file-create {\"path-b64\":\"L/8=\"}",
        ),
        (json(&XFileSync { handle: 1000 }), "x-guest-file-sync {\"handle\":1000}"),
        (
            json(&XFileCommit { handle: 1000, ..XFileCommit::default() }),
            "x-guest-file-commit {\"handle\":1000}",
        ),
        (
            json(&XFileCommit {
                handle: 1000,
                mode: Some(0o644),
                uid: Some(1),
                gid: Some(2),
                expect: Some(expected),
            }),
            "x-guest-file-commit {\"handle\":1000,\"mode\":420,\"uid\":1,\"gid\":2,\
             \"expect\":{\"ino\":7,\"size\":3,\"mtime-ns\":-1}}",
        ),
        (
            json(&XFileRename {
                path: path.clone(),
                to: Some("/y".into()),
                replace: Some(true),
                ..XFileRename::default()
            }),
            "x-guest-file-rename {\"path\":\"/x\",\"to\":\"/y\",\"replace\":true}",
        ),
        (
            json(&XFileRemove {
                path: path.clone(),
                expect: Some(Expected { absent: true, ..Expected::default() }),
                ..XFileRemove::default()
            }),
            "x-guest-file-remove {\"path\":\"/x\",\"expect\":{\"absent\":true}}",
        ),
        (
            json(&XFileMkdir {
                path,
                mode: Some(0o700),
                parents: Some(true),
                beneath: Some(vec!["/".into()]),
                ..XFileMkdir::default()
            }),
            "x-guest-file-mkdir {\"path\":\"/x\",\"mode\":448,\"parents\":true,\"beneath\":[\"/\"]}",
        ),
    ] {
        assert_eq!(ours, frozen);
    }
}

#[test]
fn answers_of_the_file_extensions() {
    let stat = FileStat {
        kind: FileKind::Symlink,
        size: 3,
        mode: 0o777,
        uid: 1,
        gid: 2,
        nlink: 1,
        ino: 7,
        dev: 8,
        mtime_ns: -1,
        ctime_ns: 2,
        target: Some("ä".into()),
    };
    let wire = "{\"kind\": \"symlink\", \"size\": 3, \"mode\": 511, \"uid\": 1, \"gid\": 2, \
                \"nlink\": 1, \"ino\": 7, \"dev\": 8, \"mtime-ns\": -1, \"ctime-ns\": 2, \
                \"target\": \"\\u00E4\"}";
    let text = |outcome: Outcome| match outcome {
        Outcome::Return(text) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(text(Outcome::value(&stat)), wire);
    let list = FileList {
        entries: vec![DirectoryEntry {
            name: "\u{fffd}".into(),
            name_b64: Some(Base64(vec![0xFF])),
            stat: None,
        }],
        next: Some(Base64(vec![0xFF])),
    };
    assert_eq!(
        text(Outcome::value(&list)),
        "{\"entries\": [{\"name\": \"\\uFFFD\", \"name-b64\": \"/w==\"}], \"next\": \"/w==\"}"
    );
    let created = CreatedFile { handle: 1000, replaces: None };
    assert_eq!(text(Outcome::value(&created)), "{\"handle\": 1000}");
    for (kind, name) in [
        (FileKind::File, "file"),
        (FileKind::Directory, "directory"),
        (FileKind::Fifo, "fifo"),
        (FileKind::Socket, "socket"),
        (FileKind::BlockDevice, "block-device"),
        (FileKind::CharDevice, "char-device"),
        (FileKind::Unknown, "something-new"),
    ] {
        assert_eq!(serde_json::from_str::<FileKind>(&format!("\"{name}\"")).unwrap(), kind);
    }
}

#[test]
fn an_expectation_need_not_say_all() {
    let mut server = Server::new();
    server.feed(
        b"{'execute':'x-guest-file-commit','arguments':{'handle':1,'expect':{'size':18446744073709551615}}}",
    );
    let job = server.poll(Instant::now(), &mut |_| true).unwrap();
    let commit: XFileCommit = job.request.arguments().unwrap();
    let expected = Expected { size: Some(u64::MAX), ..Expected::default() };
    assert_eq!(commit.expect, Some(expected));
}
