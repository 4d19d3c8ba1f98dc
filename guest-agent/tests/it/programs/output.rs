use qga_proto::command::{CaptureOutput, Known, OutputStream, Overflow, XExecRead, XExecStart};

use super::{
    call, forget, news, output_until, read, refused, result, run, sh, start, state, write,
};
use crate::bed::{Bed, wait_for};

const STDOUT: OutputStream = OutputStream::Stdout;

#[test]
fn it_can_be_read_while_the_program_runs_and_again_afterwards() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "echo one; read line; echo two; echo errors >&2; read line; exit 3";
    let handle = start(&mut client, &XExecStart { keep_stdin: Some(true), ..sh(script) });
    assert_eq!(output_until(&mut client, handle, "one\n"), "one\n");
    assert_eq!(read(&mut client, handle, STDOUT, 4).buf_b64.0, b"");
    write(&mut client, handle, 0, b"\n", false);
    // What lies before the offset of a read is gone.
    news(&mut client, Known { handle, stdout: Some(4), ..Known::default() });
    let two = read(&mut client, handle, STDOUT, 4);
    assert_eq!((two.offset, two.buf_b64.0.as_slice(), two.eof), (4, &b"two\n"[..], false));
    let again = read(&mut client, handle, STDOUT, 0);
    assert_eq!((again.offset, again.buf_b64.0.as_slice()), (4, &b"two\n"[..]));
    write(&mut client, handle, 1, b"\n", false);
    let end = news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    assert_eq!((end.exited, end.exitcode, end.signal, end.timed_out), (true, Some(3), None, false));
    wait_for("both ends", || {
        let state = state(&mut client, handle);
        (state.stdout?.eof && state.stderr?.eof).then_some(())
    });
    for _ in 0..2 {
        let errors = read(&mut client, handle, OutputStream::Stderr, 0);
        assert_eq!((errors.buf_b64.0.as_slice(), errors.eof), (&b"errors\n"[..], true));
    }
    forget(&mut client, handle);
    let read = XExecRead { handle, stream: STDOUT, offset: 0, count: None };
    let text = format!("no program has handle {handle}");
    assert_eq!(refused(&mut client, &read), (text, "ESRCH".into()));
}

#[test]
fn every_mode_keeps_what_it_says() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "echo o; echo e >&2; readlink /proc/self/fd/0";
    for (mode, out, err) in [
        (CaptureOutput::None, None, None),
        (CaptureOutput::Stdout, Some("o\n/dev/null\n"), None),
        (CaptureOutput::Stderr, None, Some("e\n")),
        (CaptureOutput::Separated, Some("o\n/dev/null\n"), Some("e\n")),
        (CaptureOutput::Merged, Some("o\ne\n/dev/null\n"), None),
    ] {
        let handle = start(&mut client, &XExecStart { capture_output: Some(mode), ..sh(script) });
        news(&mut client, Known { handle, end: Some(true), ..Known::default() });
        for (stream, name, text) in [(STDOUT, "output", out), (OutputStream::Stderr, "error", err)]
        {
            let arguments = XExecRead { handle, stream, offset: 0, count: None };
            let Some(text) = text else {
                let refusal = (format!("standard {name} of 'sh' is not kept"), "EINVAL".into());
                assert_eq!(refused(&mut client, &arguments), refusal);
                continue;
            };
            let read = wait_for("the end", || {
                Some(call(&mut client, &arguments).unwrap()).filter(|read| read.eof)
            });
            assert_eq!(read.buf_b64.0, text.as_bytes(), "{mode:?}");
        }
    }
}

#[test]
fn ten_thousand_lines_come_in_order() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "i=0; while [ $i -lt 10000 ]; do echo line $i; i=$((i+1)); done";
    let arguments = XExecStart { overflow: Some(Overflow::Wait), ..sh(script) };
    let (output, _, _) = run(&mut client, &arguments);
    let expected: String = (0..10_000).map(|i| format!("line {i}\n")).collect();
    assert_eq!(output, expected);
}

#[test]
fn what_nobody_reads_gives_way_and_the_program_never_waits() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let handle = start(&mut client, &sh("seq 1 2000000"));
    let (end, state) = wait_for("the end of output", || {
        let state = state(&mut client, handle);
        let stdout = state.stdout.unwrap();
        assert!(stdout.end - stdout.start <= 256 << 10, "{stdout:?}");
        (state.exited && stdout.eof).then_some((stdout, state))
    });
    assert_eq!((state.exitcode, end.end - end.start), (Some(0), 256 << 10));
    let all: String = (1..=2_000_000).map(|i| format!("{i}\n")).collect();
    assert_eq!(end.end, all.len() as u64);
    let rest = read(&mut client, handle, STDOUT, 0);
    assert_eq!((rest.offset, rest.eof), (end.start, true));
    assert_eq!(rest.buf_b64.0, all.as_bytes()[all.len() - (256 << 10)..]);
}

#[test]
fn a_program_that_is_to_wait_loses_nothing_and_costs_nothing_meanwhile() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "exec seq 1 300000";
    let arguments = XExecStart { overflow: Some(Overflow::Wait), ..sh(script) };
    let handle = start(&mut client, &arguments);
    wait_for("a full ring", || (state(&mut client, handle).stdout?.end == 256 << 10).then_some(()));
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.child.id())).unwrap();
        let fields: Vec<_> =
            stat.rsplit(") ").next().unwrap().split(' ').map(str::to_owned).collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
    rustix::event::poll(&mut [], Some(&pause)).unwrap();
    assert!(ticks() - before <= 3, "the agent spins");
    assert!(!state(&mut client, handle).exited);
    let (output, _, end) = result(&mut client, handle);
    let all: String = (1..=300_000).map(|i| format!("{i}\n")).collect();
    assert!(output == all, "{} bytes of {}", output.len(), all.len());
    assert_eq!(end.exitcode, Some(0));

    // One that dies while it waits is no reason to spin either.
    let handle = start(&mut client, &arguments);
    wait_for("a full ring", || (state(&mut client, handle).stdout?.end == 256 << 10).then_some(()));
    let signal = qga_proto::command::XExecSignal { handle, signal: 9, alone: None };
    call(&mut client, &signal).unwrap();
    wait_for("its end", || state(&mut client, handle).exited.then_some(()));
    let before = ticks();
    rustix::event::poll(&mut [], Some(&pause)).unwrap();
    assert!(ticks() - before <= 3, "the agent spins");
    let (output, _, _) = result(&mut client, handle);
    assert!(all.starts_with(&output) && output.len() >= 256 << 10);
}

#[test]
fn output_ends_when_nobody_holds_it_any_more() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    // In the background its standard input would be /dev/null.
    let script = "exec 3<&0; (read line <&3; echo late) & echo early; exit 5";
    let handle = start(&mut client, &XExecStart { keep_stdin: Some(true), ..sh(script) });
    let end = news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    assert_eq!((end.exitcode, end.stdout.unwrap().eof), (Some(5), false));
    write(&mut client, handle, 0, b"\n", true);
    assert_eq!(result(&mut client, handle).0, "early\nlate\n");
}

#[test]
fn offsets_and_counts_out_of_range_are_refused() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let handle = start(&mut client, &sh("echo abc"));
    output_until(&mut client, handle, "abc\n");
    let read = XExecRead { handle, stream: STDOUT, offset: 5, count: None };
    let text = "invalid offset: 5, and standard output of 'sh' has come to 4";
    assert_eq!(refused(&mut client, &read), (text.into(), "EINVAL".into()));
    let read = XExecRead { offset: 0, count: Some((1 << 20) + 1), ..read };
    let text = "invalid count: 1048577, and 1048576 at most";
    assert_eq!(refused(&mut client, &read), (text.into(), "EINVAL".into()));
    let some = call(&mut client, &XExecRead { count: Some(2), ..read }).unwrap();
    assert_eq!((some.buf_b64.0.as_slice(), some.eof), (&b"ab"[..], false));
    assert_eq!(call(&mut client, &XExecRead { count: Some(0), ..read }).unwrap().buf_b64.0, b"");
}
