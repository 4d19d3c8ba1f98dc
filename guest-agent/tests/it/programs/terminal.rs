use qga_proto::base64::Base64Text;
use qga_proto::command::{
    CaptureOutput, Known, OutputStream, TerminalSize, XExecResize, XExecStart, XExecWrite,
};

use super::{call, news, output_until, read, refused, sh, start, state, wait_for_death, write};
use crate::bed::{Bed, wait_for};

fn on_terminal(script: &str) -> XExecStart {
    XExecStart { pty: Some(TerminalSize { rows: 30, cols: 100 }), ..sh(script) }
}

#[test]
fn it_is_a_terminal_with_a_size_and_a_session_of_its_own() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "stty size; tty < /dev/tty > /dev/null && echo tty; test -t 2 && echo err; \
                  echo $TERM; ps -o tpgid= -p $$ | tr -d ' '; echo $$";
    let env = Some(vec![format!("PATH={}", std::env::var("PATH").unwrap())]);
    let started = call(&mut client, &on_terminal(script)).unwrap();
    let (output, errors, end) = result_of(&mut client, started.handle);
    let lines: Vec<_> = output.lines().collect();
    let pid = started.pid.to_string();
    let term = std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".into());
    assert_eq!(lines, ["30 100", "tty", "err", &term, &pid, &pid], "{output:?}");
    assert_eq!((errors, end.exitcode, end.pty), (None, Some(0), true));
    // An environment that is given is the whole of it.
    let handle = start(&mut client, &XExecStart { env, ..on_terminal("echo [$TERM]") });
    let (output, _, _) = result_of(&mut client, handle);
    assert!(output == "[]\r\n" || output == "[dumb]\r\n", "{output:?}");
}

fn result_of(
    client: &mut crate::bed::Client,
    handle: i64,
) -> (String, Option<()>, qga_proto::command::XExecProgram) {
    let read = wait_for("the end", || {
        news(client, Known { handle, end: Some(true), ..Known::default() });
        Some(read(client, handle, OutputStream::Stdout, 0)).filter(|read| read.eof)
    });
    let state = state(client, handle);
    (String::from_utf8(read.buf_b64.0).unwrap(), state.stderr.map(|_| ()), state)
}

#[test]
fn another_size_is_told_to_the_program() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done";
    let handle = start(&mut client, &on_terminal(script));
    output_until(&mut client, handle, "ready");
    call(&mut client, &XExecResize { handle, rows: 50, cols: 132 }).unwrap();
    assert_eq!(result_of(&mut client, handle).0, "ready\r\n50 132\r\n");
    let text = "the terminal of 'sh' is closed";
    let closed = refused(&mut client, &XExecResize { handle, rows: 50, cols: 132 });
    assert_eq!(closed, (text.into(), "EIO".into()));
    let none = start(&mut client, &sh("exec sleep 60"));
    let no_terminal = refused(&mut client, &XExecResize { handle: none, rows: 1, cols: 1 });
    assert_eq!(no_terminal, ("'sh' has no terminal".into(), "ENOTTY".into()));
    let text = "invalid size: rows and cols must be 1 or more";
    let zero = refused(&mut client, &XExecResize { handle: none, rows: 0, cols: 1 });
    assert_eq!(zero, (text.into(), "EINVAL".into()));
}

#[test]
fn what_is_typed_is_echoed_edited_and_interrupts() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let handle = start(&mut client, &on_terminal("cat; echo over; exec sleep 60"));
    write(&mut client, handle, 0, b"abx\x7fc\r", false);
    output_until(&mut client, handle, "abc\r\n");
    let close = XExecWrite { handle, offset: 6, buf_b64: Base64Text::new(*b""), close: Some(true) };
    let text = "the terminal of 'sh' cannot be closed: send its end-of-file character";
    assert_eq!(refused(&mut client, &close), (text.into(), "EINVAL".into()));
    // End of file for cat, and then ^C for sleep.
    write(&mut client, handle, 6, b"\x04", false);
    let offset = wait_for("the end of cat", || {
        let read = read(&mut client, handle, OutputStream::Stdout, 0);
        let text = String::from_utf8_lossy(&read.buf_b64.0).into_owned();
        text.contains("over").then_some(read.buf_b64.0.len() as u64)
    });
    assert!(offset > 0);
    write(&mut client, handle, 7, b"\x03", false);
    let end = news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    assert_eq!((end.signal, end.exitcode), (Some(2), None));
}

#[test]
fn a_shell_takes_its_jobs_along() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    // With job control each has a group of its own.
    let script = "set -m; sleep 300 & echo job $!; cat";
    let handle = start(&mut client, &on_terminal(script));
    let output = wait_for("the job", || {
        let read = read(&mut client, handle, OutputStream::Stdout, 0);
        let text = String::from_utf8_lossy(&read.buf_b64.0).into_owned();
        text.contains("job ").then_some(text).filter(|text| text.ends_with('\n'))
    });
    let job: i64 =
        output.lines().find_map(|l| l.strip_prefix("job ")).unwrap().trim().parse().unwrap();
    super::forget(&mut client, handle);
    wait_for_death(job);
    // What nobody wants to read does not hold the program up.
    let drop = XExecStart {
        capture_output: Some(CaptureOutput::None),
        ..on_terminal("seq 1 100000; exit 4")
    };
    let handle = start(&mut client, &drop);
    let end = news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    assert_eq!((end.exitcode, end.stdout), (Some(4), None));
    let quick = start(&mut client, &on_terminal("echo a; echo b >&2"));
    assert_eq!(result_of(&mut client, quick).0, "a\r\nb\r\n");
}
