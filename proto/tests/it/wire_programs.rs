//! Bytes of the extensions for programs, which two versions of our agent and gateway may exchange.

use qga_proto::base64::{Base64, Base64Text};
use qga_proto::command::{
    CaptureOutput, Command, InputState, Known, OutputState, OutputStream, Overflow, TerminalSize,
    XExecForget, XExecInput, XExecList, XExecNews, XExecOutput, XExecProgram, XExecPrograms,
    XExecRead, XExecResize, XExecSignal, XExecStart, XExecStarted, XExecWait, XExecWrite,
};

#[test]
fn arguments_and_answers_never_change() {
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
