//! A thaw does not wait for a freeze that does not answer, nor for the sync after it.

use std::time::{Duration, Instant};

use qga_proto::command::{Command, GuestFsfreezeFreeze, GuestFsfreezeThaw, GuestPing};
use qga_proto::{Call, CallId, Client, ClientConfig, ClientEvent, ReplyError, SyncIds};

struct Wire {
    client: Client,
    now: Instant,
}

impl Wire {
    /// Drives the first sync, answering as an agent that echoes ids or as one that does not.
    fn synced(echoes: bool) -> Self {
        let client = Client::new(ClientConfig::default());
        let mut wire = Self { client, now: Instant::now() };
        wire.start_sync();
        assert!(!wire.client.can_send(&GuestFsfreezeThaw::INFO), "not before the first sync");
        wire.answer_sync(echoes);
        wire
    }

    fn start_sync(&mut self) {
        let ids = SyncIds { delimited: 2, probe: 4, plain: 6, session: 8 };
        self.client.start_sync(self.now, ids);
        self.written();
    }

    fn answer_sync(&mut self, echoes: bool) {
        let probe: &[u8] = if echoes {
            b"{\"return\": 2, \"id\": \"0000000000000008\"}\n"
        } else {
            b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n"
        };
        self.receive(b"\xff{\"return\": 1}\n");
        self.receive(probe);
        let synced = self.events().iter().any(|e| matches!(e, ClientEvent::Synced { .. }));
        assert!(synced);
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.client.receive(self.now, bytes);
    }

    fn written(&mut self) -> String {
        let text = String::from_utf8_lossy(self.client.output()).into_owned();
        self.client.consume_output(usize::MAX);
        text
    }

    fn events(&mut self) -> Vec<ClientEvent> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    fn send<C: Command>(&mut self, command: &C, seconds: u64) -> CallId {
        let deadline = self.now + Duration::from_secs(seconds);
        self.client.send(&Call::new(command, deadline, 1 << 16)).unwrap()
    }

    fn freeze_times_out(&mut self) {
        self.send(&GuestFsfreezeFreeze {}, 1);
        self.written();
        self.now += Duration::from_secs(2);
        self.client.handle_timeout(self.now);
        assert!(self.client.needs_sync());
        assert!(!self.client.can_send(&GuestFsfreezeThaw::INFO), "the sync goes first");
        self.events();
    }
}

/// What an agent that echoes no ids answers to the syncs in front of commands.
pub(crate) fn fences(written: &str) -> Vec<String> {
    let sync = "\"guest-sync-delimited\",\"arguments\":{\"id\":";
    let numbers = written.split(sync).skip(1).map(|rest| rest.split('}').next().unwrap());
    numbers.map(|number| format!("{{\"return\": {number}}}\n")).collect()
}

fn returned(events: &[ClientEvent], id: CallId) -> Option<Result<&[u8], &ReplyError>> {
    events.iter().find_map(|event| match event {
        ClientEvent::Reply { call, result } if *call == id => {
            Some(result.as_ref().map(qga_proto::ReplyText::json))
        }
        _ => None,
    })
}

#[test]
fn a_thaw_follows_a_freeze_in_flight() {
    for echoes in [true, false] {
        let mut wire = Wire::synced(echoes);
        let freeze = wire.send(&GuestFsfreezeFreeze {}, 60);
        assert!(!wire.client.can_send(&GuestPing::INFO));
        let thaw = wire.send(&GuestFsfreezeThaw {}, 60);
        let mut fences = fences(&wire.written()).into_iter();
        for (number, count) in [(0, 3), (1, 2)] {
            if let Some(fence) = fences.next() {
                wire.receive(&[b"\xff", fence.as_bytes()].concat());
                // Whatever comes twice is dropped.
                wire.receive(&[b"\xff", fence.as_bytes()].concat());
                wire.receive(format!("{{\"return\": {count}}}\n").as_bytes());
                wire.receive(format!("{{\"return\": {count}}}\n").as_bytes());
            } else {
                let id = format!("\"0000000000000008-{number}\"");
                wire.receive(format!("{{\"return\": {count}, \"id\": {id}}}\n").as_bytes());
            }
        }
        let events = wire.events();
        assert_eq!(returned(&events, freeze), Some(Ok(&b"3"[..])));
        assert_eq!(returned(&events, thaw), Some(Ok(&b"2"[..])));
    }
}

#[test]
fn a_thaw_behind_the_sync_outlives_it() {
    for echoes in [true, false] {
        let mut wire = Wire::synced(echoes);
        wire.freeze_times_out();
        wire.start_sync();
        assert!(!wire.client.can_send(&GuestPing::INFO));
        let thaw = wire.send(&GuestFsfreezeThaw {}, 60);
        let written = wire.written();
        assert!(written.contains("guest-fsfreeze-thaw"));
        if !echoes {
            wire.receive(b"{\"return\": 3}\n"); // the freeze, late
        }
        wire.answer_sync(echoes);
        for fence in fences(&written) {
            wire.receive(&[b"\xff", fence.as_bytes()].concat());
        }
        let id = if echoes { ", \"id\": \"0000000000000008-1\"" } else { "" };
        wire.receive(format!("{{\"return\": 3{id}}}\n").as_bytes());
        assert_eq!(returned(&wire.events(), thaw), Some(Ok(&b"3"[..])));
        assert!(wire.client.can_send(&GuestPing::INFO));
    }
}

#[test]
fn a_thaw_before_the_sync_is_lost_with_it() {
    let mut wire = Wire::synced(true);
    wire.freeze_times_out();
    wire.start_sync();
    let thaw = wire.send(&GuestFsfreezeThaw {}, 60);
    wire.start_sync();
    wire.receive(b"\xff{\"return\": 1}\n{\"return\": 2, \"id\": \"0000000000000008\"}\n");
    assert_eq!(returned(&wire.events(), thaw), Some(Err(&ReplyError::Lost)));
}
