//! Bytes that must never change: other people's agents read them.

use std::time::{Duration, Instant};

use qga_proto::base64::Base64Text;
use qga_proto::command::{
    Command, GuestFileClose, GuestFileFlush, GuestFileOpen, GuestFileRead, GuestFileSeek,
    GuestFileWrite, GuestFsfreezeFreeze, GuestFsfreezeFreezeList, GuestFsfreezeStatus,
    GuestFsfreezeThaw, GuestInfo, GuestPing, GuestShutdown, ShutdownMode, Whence,
};
use qga_proto::{Call, Client, ClientConfig, ClientEvent, SyncIds};

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
