use std::time::{Duration, Instant};

use qga_proto::command::{
    CaptureOutput, OutputStream, Overflow, TerminalSize, XExecForget, XExecProgram, XExecRead,
    XExecStart, XExecStarted,
};
use qga_proto::{Outcome, QgaError};

use super::{FLOOR, KEPT, Order, UNATTENDED};
use crate::exec::Limits;
use crate::exec::table::tests::{Bench, LIMITS};
use crate::worker::tests::{job, next};

fn sh(script: &str) -> XExecStart {
    XExecStart {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        capture_output: Some(CaptureOutput::Separated),
        ..XExecStart::default()
    }
}

fn submit(bench: &mut Bench, arguments: XExecStart) {
    let reply = job(&bench.completions).1;
    bench.programs.start_live(Order::new(arguments).unwrap(), reply);
}

fn start(bench: &mut Bench, arguments: XExecStart) -> Result<i64, QgaError> {
    submit(bench, arguments);
    let mut done = bench.completions.take();
    while done.as_ref().is_none_or(Vec::is_empty) {
        bench.turn();
        done = bench.completions.take();
    }
    match done.unwrap().pop().unwrap().outcome {
        Outcome::Return(text) => Ok(serde_json::from_slice::<XExecStarted>(&text).unwrap().handle),
        Outcome::Error(error) => Err(error),
        Outcome::Silent => panic!(),
    }
}

fn state(bench: &Bench, handle: i64) -> Option<XExecProgram> {
    let live = bench.programs.live.records.get(&u32::try_from(handle).unwrap())?;
    live.is_known().then(|| live.describe(Instant::now()))
}

fn wait_for_finished(bench: &mut Bench, handle: i64) {
    let handle = u32::try_from(handle).unwrap();
    bench.turn_until(|programs| {
        programs.live.records.get(&handle).is_none_or(|live| live.is_finished()).then_some(())
    });
}

#[test]
fn results_of_both_kinds_make_room_for_each_other() {
    let mut bench = Bench::new(Limits { held: 1 << 20, ..LIMITS });
    let first = start(&mut bench, sh("exit 5")).unwrap();
    wait_for_finished(&mut bench, first);
    let plain = bench.start("exit 6", None).unwrap();
    bench.turn_until(|programs| (programs.finished.len() == 2).then_some(()));
    let third = start(&mut bench, sh("exit 7")).unwrap();
    wait_for_finished(&mut bench, third);
    let fourth = start(&mut bench, sh("exit 8")).unwrap();
    assert_eq!(state(&bench, first), None, "it has waited for longest");
    wait_for_finished(&mut bench, fourth);
    let fifth = start(&mut bench, sh("exit 9")).unwrap();
    assert!(bench.programs.status(plain).is_err());
    assert_eq!(state(&bench, third).unwrap().exitcode, Some(7));
    let refused = |bench: &mut Bench| {
        let running = start(bench, sh("exec sleep 60")).unwrap();
        (start(bench, sh("exit")).unwrap_err(), running)
    };
    // The limit is 2; the fifth may have ended.
    wait_for_finished(&mut bench, fifth);
    let other = start(&mut bench, sh("exec sleep 60")).unwrap();
    let (error, running) = refused(&mut bench);
    let text = "failed to start '/bin/sh': 2 programs are running already, which is the limit";
    assert_eq!((error.desc.as_str(), error.errno.as_deref()), (text, Some("EAGAIN")));
    for handle in [other, running] {
        bench.programs.forget(XExecForget { handle }).unwrap();
    }
    bench.turn_until(|programs| {
        programs.live.records.values().all(super::Live::is_known).then_some(())
    });
}

#[test]
fn bytes_are_accounted_for_and_each_stream_has_its_floor() {
    let limits = Limits { held: 1000, running: 10, records: 10, ..LIMITS };
    let mut bench = Bench::new(limits);
    let big = "head -c 20000 /dev/zero";
    let reading = XExecStart { overflow: Some(Overflow::Wait), ..sh(big) };
    let handle = start(&mut bench, reading).unwrap();
    bench.turn_until(|programs| (programs.held == FLOOR).then_some(()));
    // The rest waits; and a stream that drops has as much.
    let dropping = start(&mut bench, sh(big)).unwrap();
    wait_for_finished(&mut bench, dropping);
    let stdout = state(&bench, dropping).unwrap().stdout.unwrap();
    assert_eq!((stdout.start, stdout.end), (20_000 - FLOOR as u64, 20_000));
    assert_eq!(bench.programs.held, 2 * FLOOR);
    // More input is not taken than may be held.
    let input_data = Some(qga_proto::base64::Base64Text::new(vec![b'x'; 1001]));
    let error = start(&mut bench, XExecStart { input_data, ..sh("exit") }).unwrap_err();
    let text = "failed to start '/bin/sh': running programs hold 4096 bytes of input and output \
                already; the limit is 1000";
    assert_eq!(error.desc, text, "the finished one has made room");
    assert_eq!(state(&bench, dropping), None);
    let mut bytes = 0;
    while bytes < 20_000 {
        let read =
            XExecRead { handle, stream: OutputStream::Stdout, offset: bytes, count: Some(3000) };
        let output = bench.programs.read_output(read).unwrap();
        assert_eq!(output.offset, bytes);
        bytes += output.buf_b64.0.len() as u64;
        bench.turn_until(|programs| {
            let stdout = &programs.live.records.values().next()?.outputs[0];
            stdout.as_ref().is_none_or(|o| o.source.is_none() || o.ring.end() > bytes).then_some(())
        });
    }
    wait_for_finished(&mut bench, handle);
    bench.programs.forget(XExecForget { handle }).unwrap();
    bench.turn_until(|programs| programs.live.records.is_empty().then_some(()));
    assert_eq!((bench.programs.held, bench.programs.finished.len()), (0, 0));
}

#[test]
fn one_that_nobody_asks_about_expires() {
    let mut bench = Bench::new(LIMITS);
    let handle = start(&mut bench, sh("echo x")).unwrap();
    wait_for_finished(&mut bench, handle);
    let next = bench.programs.live.next_event().unwrap();
    assert!(next > Instant::now() + KEPT - Duration::from_secs(60));
    for live in bench.programs.live.records.values_mut() {
        live.touched = live.touched.checked_sub(KEPT).unwrap();
    }
    bench.turn_until(|programs| programs.live.records.is_empty().then_some(()));
    assert_eq!((bench.programs.held, bench.programs.finished.len()), (0, 0));
    assert_eq!(bench.programs.live.next_event(), None, "nothing wakes an idle agent up");
}

#[test]
fn a_terminal_that_nobody_attends_is_hung_up() {
    let pty = Some(TerminalSize { rows: 24, cols: 80 });
    for (script, signal) in [("exec sleep 600", 1), ("trap '' HUP; echo; sleep 600; :", 9)] {
        let mut bench = Bench::new(LIMITS);
        let other = start(&mut bench, sh("exec sleep 600")).unwrap();
        let handle = start(&mut bench, XExecStart { pty, ..sh(script) }).unwrap();
        let key = u32::try_from(handle).unwrap();
        // It says so once it has come to what it does.
        let waits = script.contains("trap");
        bench.turn_until(|programs| {
            let said = programs.live.records[&key].describe(Instant::now()).stdout.unwrap().end > 0;
            (said || !waits).then_some(())
        });
        let soonest = bench.programs.live.next_event().unwrap();
        assert!(soonest > Instant::now() + UNATTENDED - Duration::from_secs(60));
        for live in bench.programs.live.records.values_mut() {
            live.touched = live.touched.checked_sub(UNATTENDED).unwrap();
        }
        // Whoever asks about it attends it.
        let read = XExecRead { handle, stream: OutputStream::Stdout, offset: 0, count: None };
        bench.programs.read_output(read).unwrap();
        bench.programs.tick_live();
        assert!(!bench.programs.live.records[&key].killing);
        let live = bench.programs.live.records.get_mut(&key).unwrap();
        live.touched = live.touched.checked_sub(UNATTENDED).unwrap();
        bench.programs.tick_live();
        if waits {
            let live = bench.programs.live.records.get_mut(&key).unwrap();
            let (at, grace) = live.look.unwrap();
            assert!(at > Instant::now() && live.end.is_none());
            live.look = Some((Instant::now(), grace));
        }
        wait_for_finished(&mut bench, handle);
        assert_eq!(state(&bench, handle).unwrap().signal, Some(signal), "{script}");
        // Without a terminal it runs until it ends.
        assert!(!state(&bench, other).unwrap().exited);
        for handle in [handle, other] {
            bench.programs.forget(XExecForget { handle }).unwrap();
        }
        bench.turn_until(|programs| programs.live.records.is_empty().then_some(()));
    }
}

#[test]
fn without_a_descriptor_an_end_is_found_by_looking() {
    let mut bench = Bench::new(LIMITS);
    let handle = start(&mut bench, sh("exec sleep 0.1")).unwrap();
    for live in bench.programs.live.records.values_mut() {
        live.process.take().unwrap().close(&bench.programs.epoll);
    }
    bench.turn_until(|programs| (!programs.finished.is_empty()).then_some(()));
    assert_eq!(state(&bench, handle).unwrap().exitcode, Some(0));
}

#[test]
fn a_start_that_takes_too_long_is_answered_and_undone() {
    let mut bench = Bench::new(Limits { patience: Duration::ZERO, ..LIMITS });
    submit(&mut bench, sh("exec sleep 60"));
    bench.programs.give_up_on_starts();
    let Some(Outcome::Error(error)) = next(&bench.completions).pop() else { panic!() };
    let text =
        "failed to start '/bin/sh': its filesystem or a name service has not answered in 0 s";
    assert_eq!((error.desc.as_str(), error.errno.as_deref()), (text, Some("ETIMEDOUT")));
    bench.turn_until(|programs| programs.starting.is_empty().then_some(()));
    assert!(!bench.programs.live.records.values().any(super::Live::is_known));
    bench.turn_until(|programs| programs.live.records.is_empty().then_some(()));
}
