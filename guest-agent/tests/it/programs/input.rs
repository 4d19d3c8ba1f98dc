use qga_proto::base64::Base64Text;
use qga_proto::command::{Known, Overflow, XExecStart, XExecWrite};

use super::{news, refused, result, sh, start, state, write};
use crate::bed::{Bed, wait_for};

fn cat() -> XExecStart {
    XExecStart { keep_stdin: Some(true), overflow: Some(Overflow::Wait), ..sh("exec cat") }
}

#[test]
fn it_follows_what_the_start_gave_and_a_repeat_is_left_out() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let first = Some(Base64Text::new(*b"first "));
    let handle = start(&mut client, &XExecStart { input_data: first, ..cat() });
    let taken = write(&mut client, handle, 6, b"second ", false);
    assert_eq!((taken.taken, taken.closed), (13, false));
    // As if the answer had been lost; and a part of it, with something new behind.
    assert_eq!(write(&mut client, handle, 6, b"second ", false).taken, 13);
    assert_eq!(write(&mut client, handle, 0, b"first second third", false).taken, 18);
    let gap = XExecWrite { handle, offset: 19, buf_b64: Base64Text::new(*b"x"), close: None };
    let text = "invalid offset: 19, and standard input of 'sh' was taken up to 18";
    assert_eq!(refused(&mut client, &gap), (text.into(), "EINVAL".into()));
    let end = write(&mut client, handle, 18, b".", true);
    assert_eq!((end.taken, end.room, end.closed), (19, 0, true));
    let again = write(&mut client, handle, 18, b".", true);
    assert_eq!((again.taken, again.closed), (19, true));
    let behind = write(&mut client, handle, 19, b"x", false);
    assert_eq!((behind.taken, behind.closed), (19, true), "it is not taken");
    assert_eq!(result(&mut client, handle).0, "first second third.");
}

#[test]
fn without_more_to_come_it_ends_behind_what_the_start_gave() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let all = vec![b'x'; 1 << 20];
    let input_data = Some(Base64Text::new(all.clone()));
    let handle = start(&mut client, &XExecStart { input_data, keep_stdin: None, ..cat() });
    assert_eq!(result(&mut client, handle).0.into_bytes(), all);
    let nothing = start(&mut client, &XExecStart { keep_stdin: None, ..cat() });
    assert_eq!(result(&mut client, nothing).0, "");
    assert!(write(&mut client, nothing, 0, b"x", false).closed);
}

#[test]
fn a_window_bounds_what_a_deaf_program_is_sent_and_room_is_news() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "while [ ! -e go ]; do sleep 0.02; done; exec wc -c";
    let cwd = Some(bed.dir.path().display().to_string());
    let handle = start(&mut client, &XExecStart { keep_stdin: Some(true), cwd, ..sh(script) });
    let mut sent = 0;
    let taken = wait_for("no room", || {
        let answer = write(&mut client, handle, sent, &[b'x'; 50_000], false);
        assert!(answer.taken <= sent + 50_000);
        sent = answer.taken;
        (answer.room == 0).then_some(sent)
    });
    // What a pipe holds, and the window.
    assert!(taken <= (64 << 10) * 2, "{taken}");
    assert_eq!(state(&mut client, handle).stdin.unwrap().room, 0);
    std::fs::write(bed.path("go"), "").unwrap();
    let room = news(&mut client, Known { handle, stdin: Some(true), ..Known::default() });
    assert!(room.stdin.unwrap().room > 0);
    wait_for("the rest to be taken", || {
        write(&mut client, handle, sent, b"", true).closed.then_some(())
    });
    assert_eq!(result(&mut client, handle).0, format!("{taken}\n"));
}

#[test]
fn a_program_that_reads_no_more_closes_it() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let handle = start(
        &mut client,
        &XExecStart { keep_stdin: Some(true), ..sh("exec <&-; echo; exec sleep 60") },
    );
    news(&mut client, Known { handle, stdout: Some(0), ..Known::default() });
    let answer = wait_for("a closed pipe", || {
        let taken = state(&mut client, handle).stdin.map_or(0, |stdin| stdin.taken);
        Some(write(&mut client, handle, taken, b"x", false)).filter(|answer| answer.closed)
    });
    assert_eq!(answer.room, 0);
    assert_eq!(state(&mut client, handle).stdin, None);
    let closed = news(&mut client, Known { handle, stdin: Some(true), ..Known::default() });
    assert_eq!(closed.stdin, None);
    let junk = format!("{{\"handle\":{handle},\"offset\":0,\"buf-b64\":\"!\"}}");
    let junk = client.call("x-guest-exec-write", &junk);
    let error = "\"desc\": \"Base64 data contains invalid characters\", \"errno\": \"EINVAL\"}}";
    assert!(junk.ends_with(error), "{junk}");
}
