//! Bytes that must never change: other people's agents read them.

use std::time::{Duration, Instant};

use qga_proto::base64::{Base64, Base64Text};
use qga_proto::command::{
    CaptureOutput, Command, GuestFileClose, GuestFileFlush, GuestFileOpen, GuestFileRead,
    GuestFileSeek, GuestFileWrite, GuestFsfreezeFreeze, GuestFsfreezeFreezeList,
    GuestFsfreezeStatus, GuestFsfreezeThaw, GuestInfo, GuestPing, GuestShutdown, InputState, Known,
    OutputState, OutputStream, Overflow, ShutdownMode, TerminalSize, Whence, XExecForget,
    XExecInput, XExecList, XExecNews, XExecOutput, XExecProgram, XExecPrograms, XExecRead,
    XExecResize, XExecSignal, XExecStart, XExecStarted, XExecWait, XExecWrite,
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

/// Those of our own agent: two versions of it may meet.
#[test]
fn arguments_and_answers_of_the_extensions_for_programs() {
    fn json<C: Command>(arguments: &C) -> String {
        format!("{} {}", C::INFO.name, serde_json::to_string(arguments).unwrap())
    }
    fn answer<T: serde::Serialize>(answer: &T) -> String {
        serde_json::to_string(answer).unwrap()
    }
    let all = XExecStart {
        argv: vec!["sh".into(), "-c".into()],
        env: Some(vec!["A=b".into()]),
        cwd: Some("/".into()),
        user: Some("root".into()),
        timeout_ms: Some(5),
        capture_output: Some(CaptureOutput::Merged),
        overflow: Some(Overflow::Wait),
        input_data: Some(Base64Text::new(*b"AB")),
        keep_stdin: Some(true),
        pty: Some(TerminalSize { rows: 24, cols: 80 }),
    };
    let known =
        Known { handle: 7, stdout: Some(1), stderr: Some(2), stdin: Some(true), end: Some(true) };
    let start = XExecStart { argv: vec!["id".into()], ..XExecStart::default() };
    let read = XExecRead { handle: 7, stream: OutputStream::Stderr, offset: 3, count: None };
    let write =
        XExecWrite { handle: 7, offset: 3, buf_b64: Base64Text::new(*b"AB"), close: Some(true) };
    let (output, input) =
        (OutputState { start: 1, end: 2, eof: true }, InputState { taken: 3, room: 4 });
    let program = XExecProgram {
        handle: 7,
        pid: 8,
        program: "sh".into(),
        age_ms: 9,
        exited: true,
        exitcode: Some(0),
        signal: Some(9),
        timed_out: true,
        pty: true,
        stdout: Some(output),
        stderr: Some(output),
        stdin: Some(input),
    };
    for (ours, frozen) in [
        (json(&start), r#"x-guest-exec-start {"argv":["id"]}"#),
        (
            json(&all),
            r#"x-guest-exec-start {"argv":["sh","-c"],"env":["A=b"],"cwd":"/","user":"root","timeout-ms":5,"capture-output":"merged","overflow":"wait","input-data":"QUI=","keep-stdin":true,"pty":{"rows":24,"cols":80}}"#,
        ),
        (json(&XExecList {}), "x-guest-exec-list {}"),
        (
            json(&XExecWait {
                programs: vec![known, Known { handle: 8, ..Known::default() }],
                wait_ms: 30,
            }),
            r#"x-guest-exec-wait {"programs":[{"handle":7,"stdout":1,"stderr":2,"stdin":true,"end":true},{"handle":8}],"wait-ms":30}"#,
        ),
        (json(&read), r#"x-guest-exec-read {"handle":7,"stream":"stderr","offset":3}"#),
        (
            json(&write),
            r#"x-guest-exec-write {"handle":7,"offset":3,"buf-b64":"QUI=","close":true}"#,
        ),
        (
            json(&XExecSignal { handle: 7, signal: 15, alone: Some(true) }),
            r#"x-guest-exec-signal {"handle":7,"signal":15,"alone":true}"#,
        ),
        (
            json(&XExecResize { handle: 7, rows: 24, cols: 80 }),
            r#"x-guest-exec-resize {"handle":7,"rows":24,"cols":80}"#,
        ),
        (json(&XExecForget { handle: 7 }), r#"x-guest-exec-forget {"handle":7}"#),
        (
            answer(&XExecStarted { handle: 7, pid: 8, agent_instance: "i".into() }),
            r#"{"handle":7,"pid":8,"agent-instance":"i"}"#,
        ),
        (
            answer(&XExecPrograms { agent_instance: "i".into(), programs: vec![program] }),
            r#"{"agent-instance":"i","programs":[{"handle":7,"pid":8,"program":"sh","age-ms":9,"exited":true,"exitcode":0,"signal":9,"timed-out":true,"pty":true,"stdout":{"start":1,"end":2,"eof":true},"stderr":{"start":1,"end":2,"eof":true},"stdin":{"taken":3,"room":4}}]}"#,
        ),
        (
            answer(&XExecNews { ready: vec![XExecProgram::default()] }),
            r#"{"ready":[{"handle":0,"pid":0,"program":"","age-ms":0,"exited":false,"timed-out":false,"pty":false}]}"#,
        ),
        (
            answer(&XExecOutput { offset: 1, buf_b64: Base64(b"AB".to_vec()), eof: false }),
            r#"{"offset":1,"buf-b64":"QUI=","eof":false}"#,
        ),
        (
            answer(&XExecInput { taken: 1, room: 2, closed: true }),
            r#"{"taken":1,"room":2,"closed":true}"#,
        ),
    ] {
        assert_eq!(ours, frozen);
    }
}
