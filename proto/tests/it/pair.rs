//! Both ends against each other, in virtual time, over a link that drops, repeats, delays and
//! splits what it carries.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use qga_proto::base64::Base64;
use qga_proto::command::{Command, FileRead, GuestFileRead, GuestFsfreezeFreeze, XExecWait};
use qga_proto::{
    Call, CallId, Client, ClientConfig, ClientEvent, Job, Outcome, ReplyError, Server, SyncIds,
};

/// What happens to one batch of bytes.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Deliver,
    Delay(u16),
    Drop,
    Repeat,
}

/// One direction of the link. Bytes stay in order: what is behind a delayed batch waits too.
struct Link {
    batches: VecDeque<(Instant, Vec<u8>)>,
    fates: VecDeque<Fate>,
    piece: usize,
}

impl Link {
    fn new(fates: &[Fate], piece: usize) -> Self {
        Self { batches: VecDeque::new(), fates: fates.to_vec().into(), piece }
    }

    fn push(&mut self, now: Instant, bytes: Vec<u8>) {
        let earliest = self.batches.back().map_or(now, |(at, _)| now.max(*at));
        match self.fates.pop_front().unwrap_or(Fate::Deliver) {
            Fate::Drop => {}
            Fate::Deliver => self.batches.push_back((earliest, bytes)),
            Fate::Repeat => self.batches.push_back((earliest, [bytes.clone(), bytes].concat())),
            Fate::Delay(ms) => {
                self.batches.push_back((earliest + Duration::from_millis(ms.into()), bytes));
            }
        }
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.batches.front().map(|(at, _)| *at)
    }

    fn arrived(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        while self.next_arrival().is_some_and(|at| at <= now) {
            let (_, bytes) = self.batches.pop_front().unwrap();
            pieces.extend(bytes.chunks(self.piece).map(<[u8]>::to_vec));
        }
        pieces
    }
}

/// An agent that answers a read of handle N with N, and takes 300 ms to freeze.
struct Pair {
    now: Instant,
    client: Client,
    server: Server,
    to_server: Link,
    to_client: Link,
    echoes: bool,
    freezing: Vec<(Instant, Job)>,
    random: u64,
    /// What each call asked for, until it has ended.
    waiting: HashMap<CallId, i64>,
    ended: Vec<(i64, Result<i64, ReplyError>)>,
    was_synced: bool,
}

impl Pair {
    fn new(to_server: &[Fate], to_client: &[Fate], piece: usize, echoes: bool) -> Self {
        Self {
            now: Instant::now(),
            client: Client::new(ClientConfig::default()),
            server: Server::new(),
            to_server: Link::new(to_server, piece),
            to_client: Link::new(to_client, piece),
            echoes,
            freezing: Vec::new(),
            random: 1,
            waiting: HashMap::new(),
            ended: Vec::new(),
            was_synced: false,
        }
    }

    fn sync_ids(&mut self) -> SyncIds {
        SyncIds::from_fn(|| {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.random
        })
    }

    fn read(&mut self, handle: i64) -> bool {
        let arguments = GuestFileRead { handle, count: None };
        let deadline = self.now + Duration::from_secs(2);
        match self.client.send(&Call::new(&arguments, deadline, 4096)) {
            Ok(call) => self.waiting.insert(call, handle).is_none(),
            Err(_) => false,
        }
    }

    fn freeze(&mut self, patience: Duration) {
        let call = Call::new(&GuestFsfreezeFreeze {}, self.now + patience, 4096);
        let call = self.client.send(&call).unwrap();
        self.waiting.insert(call, -1);
    }

    /// Everything that happens without time passing.
    fn settle(&mut self) {
        loop {
            if self.client.needs_sync() {
                let ids = self.sync_ids();
                self.client.start_sync(self.now, ids);
            }
            let output = self.client.output().to_vec();
            self.client.consume_output(output.len());
            if !output.is_empty() {
                self.check_only_syncs(&output);
                self.to_server.push(self.now, output);
            }
            let requests = self.to_server.arrived(self.now);
            let replies = self.to_client.arrived(self.now);
            if requests.is_empty() && replies.is_empty() && !self.step_server(&requests) {
                break;
            }
            self.step_server(&requests);
            for piece in replies {
                self.client.receive(self.now, &piece);
                self.collect();
            }
        }
    }

    /// Before the first answered sync nothing else may be on the wire.
    fn check_only_syncs(&mut self, output: &[u8]) {
        if !self.was_synced {
            let text = String::from_utf8_lossy(output);
            for line in text.trim_matches('\u{fffd}').lines() {
                assert!(line.contains("\"guest-sync"), "{line}");
            }
        }
    }

    fn step_server(&mut self, requests: &[Vec<u8>]) -> bool {
        for piece in requests {
            self.server.feed(piece);
        }
        let now = self.now;
        let (done, freezing) =
            std::mem::take(&mut self.freezing).into_iter().partition(|(at, _)| *at <= now);
        self.freezing = freezing;
        for (_, job) in done {
            self.server.complete(job.ticket, Outcome::value(&-1));
        }
        while let Some(job) = self.server.poll(now, &mut |_| true) {
            match job.info.name {
                "guest-fsfreeze-freeze" => {
                    self.freezing.push((now + Duration::from_millis(300), job));
                }
                "guest-file-read" => {
                    let handle = job.request.arguments::<GuestFileRead>().unwrap().handle;
                    let read = FileRead { count: handle, buf_b64: Base64::default(), eof: false };
                    self.server.complete(job.ticket, Outcome::value(&read));
                }
                _ => {
                    let sync = job.request.arguments::<qga_proto::command::GuestSync>();
                    self.server.complete(job.ticket, sync.map(|sync| sync.id).into());
                }
            }
        }
        let mut output = Vec::new();
        while !self.server.output().is_empty() {
            output.extend_from_slice(self.server.output());
            self.server.consume_output(self.server.output().len());
        }
        if !self.echoes {
            output = without_ids(&output);
        }
        let progress = !output.is_empty();
        if progress {
            self.to_client.push(now, output);
        }
        progress
    }

    fn collect(&mut self) {
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Synced { echoes_id, .. } => {
                    assert_eq!(echoes_id, self.echoes);
                    self.was_synced = true;
                }
                ClientEvent::Reply { call, result } => {
                    let asked = self.waiting.remove(&call).expect("each call ends once");
                    let result = result.and_then(|text| {
                        if asked < 0 {
                            return Ok(std::str::from_utf8(text.json()).unwrap().parse().unwrap());
                        }
                        text.decode::<GuestFileRead>().map(|read| read.count)
                    });
                    self.ended.push((asked, result));
                }
                ClientEvent::SyncFailed | ClientEvent::Dropped(_) => {}
            }
        }
    }

    /// Lets time pass to the next thing that happens, but no further than `until`.
    fn advance(&mut self, until: Instant) {
        self.settle();
        let next = [
            self.client.next_deadline(),
            self.server.next_wakeup(),
            self.to_server.next_arrival(),
            self.to_client.next_arrival(),
            self.freezing.iter().map(|(at, _)| *at).min(),
        ]
        .into_iter()
        .flatten()
        .min();
        self.now = next.unwrap_or(until).min(until).max(self.now);
        self.client.handle_timeout(self.now);
        self.collect();
        self.settle();
    }

    fn run(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + limit;
        while self.now < until && !done(self) {
            self.advance(until);
        }
        done(self)
    }
}

/// What an agent before QEMU 4.0 would have said: it refuses the probe and echoes nothing.
fn without_ids(output: &[u8]) -> Vec<u8> {
    let text: String = output.iter().map(|&byte| char::from(byte)).collect();
    let lines: Vec<String> = text
        .split_inclusive('\n')
        .map(|line| match line.find(", \"id\": \"") {
            Some(at) if line.starts_with("{\"return\": ") && line[11..at].parse::<u64>().is_ok() => {
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input object member 'id' is \
                 unexpected\"}}\n"
                    .to_owned()
            }
            Some(at) => format!("{}}}\n", &line[..at]),
            None => line.to_owned(),
        })
        .collect();
    lines.concat().chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect()
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        4 => Just(Fate::Deliver),
        2 => (0u16..8000).prop_map(Fate::Delay),
        1 => Just(Fate::Drop),
        1 => Just(Fate::Repeat),
    ];
    prop::collection::vec(fate, 0..30)
}

/// Reads while the link misbehaves, then a link that behaves: everything ends, nothing is
/// mixed up, and the connection recovers by itself.
fn survives(mut pair: Pair, reads: i64) -> Result<(), TestCaseError> {
    let mut handle = 0;
    while handle < reads {
        let synced = pair.run(Duration::from_secs(300), |pair| pair.client.is_synced());
        prop_assert!(synced, "never synced");
        while handle < reads && pair.read(handle) {
            handle += 1;
        }
        pair.advance(pair.now + Duration::from_millis(500));
    }
    prop_assert!(pair.run(Duration::from_secs(300), |pair| pair.waiting.is_empty()));
    for (asked, result) in &pair.ended {
        if let Ok(answered) = result {
            prop_assert_eq!(asked, answered);
        }
    }
    prop_assert_eq!(pair.ended.len(), usize::try_from(reads).unwrap());
    (pair.to_server.fates, pair.to_client.fates) = Default::default();
    prop_assert!(pair.run(Duration::from_secs(60), |pair| pair.client.is_synced()));
    // Late answers of the bad times may cost one more sync, but not two.
    for _ in 0..2 {
        prop_assert!(pair.run(Duration::from_secs(60), |pair| pair.client.is_synced()));
        prop_assert!(pair.read(1_000_000));
        prop_assert!(pair.run(Duration::from_secs(60), |pair| pair.waiting.is_empty()));
    }
    prop_assert_eq!(pair.ended.pop(), Some((1_000_000, Ok(1_000_000))));
    Ok(())
}

proptest! {
    #[test]
    fn nothing_is_mixed_up_when_ids_are_echoed(
        to_server in fates(), to_client in fates(), piece in 1usize..200, reads in 1i64..40,
    ) {
        survives(Pair::new(&to_server, &to_client, piece, true), reads)?;
    }

    // Here it is the sync in front of each command that tells.
    #[test]
    fn nothing_is_mixed_up_without_ids(
        to_server in fates(), to_client in fates(), piece in 1usize..200, reads in 1i64..20,
    ) {
        survives(Pair::new(&to_server, &to_client, piece, false), reads)?;
    }
}

#[test]
fn reads_are_pipelined_only_when_ids_are_echoed() {
    for (echoes, expected) in [(true, 64), (false, 1)] {
        let mut pair = Pair::new(&[], &[], 4096, echoes);
        assert!(pair.run(Duration::from_secs(1), |pair| pair.client.is_synced()));
        let sent = (0..).take_while(|&handle| pair.read(handle)).count();
        assert_eq!(sent, expected);
    }
}

#[test]
fn nothing_waits_for_a_command_that_yields() {
    let mut pair = Pair::new(&[], &[], 4096, true);
    assert!(pair.run(Duration::from_secs(1), |pair| pair.client.is_synced()));
    let wait = XExecWait { programs: Vec::new(), wait_ms: 60_000 };
    let call = Call::new(&wait, pair.now + Duration::from_secs(90), 4096);
    pair.client.send(&call).unwrap();
    assert!(pair.client.can_send(&GuestFsfreezeFreeze::INFO));
    assert_eq!(pair.client.in_flight(), 0);
    assert!(pair.read(1));
    // Behind anything else it is a command like others.
    assert!(!pair.client.can_send(&GuestFsfreezeFreeze::INFO));
}

#[test]
fn a_call_that_times_out_is_followed_by_a_sync_and_its_late_reply_is_dropped() {
    for echoes in [true, false] {
        let mut pair = Pair::new(&[], &[], 4096, echoes);
        assert!(pair.run(Duration::from_secs(1), |pair| pair.client.is_synced()));
        pair.freeze(Duration::from_millis(100));
        assert!(!pair.read(1), "a freeze shares the wire with nothing");
        pair.settle();
        // From here on nothing but a sync may leave until one is answered.
        pair.was_synced = false;
        assert!(pair.run(Duration::from_secs(1), |pair| !pair.ended.is_empty()));
        assert_eq!(pair.ended, [(-1, Err(ReplyError::TimedOut))]);
        assert!(pair.run(Duration::from_secs(1), |pair| pair.client.is_synced()));
        assert!(pair.read(2));
        assert!(pair.run(Duration::from_secs(1), |pair| pair.waiting.is_empty()));
        assert_eq!(pair.ended[1], (2, Ok(2)));
    }
}

#[test]
fn one_repeated_reply_is_nobody_elses() {
    // The first sync is answered in one batch, the first read in the second, which comes twice.
    let mut pair = Pair::new(&[], &[Fate::Deliver, Fate::Repeat], 4096, false);
    assert!(pair.run(Duration::from_secs(1), |pair| pair.client.is_synced()));
    for handle in 0..5 {
        assert!(pair.read(handle));
        assert!(pair.run(Duration::from_secs(1), |pair| pair.waiting.is_empty()));
        assert_eq!(pair.ended.pop(), Some((handle, Ok(handle))));
    }
}

#[test]
fn a_dead_agent_is_asked_again_and_nothing_but_syncs_is_sent() {
    let mut pair = Pair::new(&[Fate::Drop; 20], &[], 4096, true);
    assert!(pair.run(Duration::from_secs(600), |pair| pair.client.is_synced()));
}
