//! Output while it comes: in order, from any offset, through faults, at any reader's pace.

use proptest::prelude::*;
use qga_proto::command::OutputStream::{Stderr, Stdout};
use serde_json::json;

use super::programs::Programs;
use super::{Reading, at, events, gateway, start, until};

#[tokio::test]
async fn ten_thousand_lines_come_in_order_while_the_program_runs() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let (pid, handle) = start(&gateway, &programs, json!({"overflow": "wait"})).await;
    let mut reading = Reading::open(at(&gateway, "GET", pid, "/output")).await;
    assert_eq!(reading.response.headers()["x-output-streaming"], "true");
    assert_eq!(reading.response.headers()["x-output-offset"], "0");
    let all: String = (0..10_000).map(|n| format!("line {n}\n")).collect();
    let mut seen = 0;
    for line in all.split_inclusive('\n') {
        programs.write_all(handle, Stdout, line.as_bytes()).await;
        seen += 1;
        // Now and then the reader is seen to be up to date with a program that runs.
        if seen % 2500 == 0 {
            let so_far = all.split_inclusive('\n').take(seen).map(str::len).sum();
            reading.at_least(so_far).await;
        }
    }
    programs.exit(handle, 0);
    assert_eq!(reading.all().await, all.as_bytes());
}

#[tokio::test]
async fn events_tell_the_streams_apart_and_go_on_where_they_broke_off() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let (pid, handle) = start(&gateway, &programs, json!({})).await;
    let mut reading = Reading::open(events(&gateway, pid, "")).await;
    programs.write(handle, Stdout, "one \u{20ac}".as_bytes());
    let told = reading.event().await.unwrap();
    assert_eq!((&*told.kind, &*told.id), ("stdout", "7-0"));
    assert_eq!(told.data, json!({"offset": 0, "text": "one \u{20ac}"}));
    // Half a character waits for its other half.
    programs.write(handle, Stderr, &"\u{20ac}".as_bytes()[..1]);
    until(&gateway, pid, |process| process["stderr"]["end"] == 1).await;
    programs.write(handle, Stderr, &"\u{20ac}!".as_bytes()[1..]);
    let told = reading.event().await.unwrap();
    assert_eq!((&*told.kind, &*told.id), ("stderr", "7-4"));
    assert_eq!(told.data, json!({"offset": 0, "text": "\u{20ac}!"}));
    drop(reading);
    programs.write(handle, Stdout, b"\xfftwo");
    until(&gateway, pid, |process| process["stdout"]["end"] == 11).await;
    let again = events(&gateway, pid, "").header("last-event-id", &told.id);
    let mut reading = Reading::open(again).await;
    let told = reading.event().await.unwrap();
    assert_eq!((&*told.id, told.data), ("11-4", json!({"offset": 7, "base64": "/3R3bw=="})));
    programs.exit(handle, 1);
    let told = reading.event().await.unwrap();
    assert_eq!((&*told.kind, &*told.id, &told.data["exit_code"]), ("exit", "11-4-end", &json!(1)));
    assert!(reading.event().await.is_none());
    let again = events(&gateway, pid, "").header("last-event-id", "11-4-end").send().await;
    assert_eq!(again.status, 204);
    let mut one = Reading::open(events(&gateway, pid, "?stream=stdout&offset=8")).await;
    assert_eq!(one.event().await.unwrap().data, json!({"offset": 8, "text": "two"}));
    assert_eq!(one.event().await.unwrap().kind, "exit");
    for bad in ["?offset=1", "?stream=both&offset=1", "?last_event_id=x", "?stream=x"] {
        events(&gateway, pid, bad).send().await.problem(400, "bad_request");
    }
    at(&gateway, "GET", pid, "/output?stream=both").send().await.problem(400, "bad_request");
}

#[tokio::test]
async fn what_gave_way_is_a_gap_and_a_slow_reader_costs_no_memory() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "[limits]\nprocess_output_bytes = 100000\n").await;
    let (pid, handle) = start(&gateway, &programs, json!({})).await;
    let mut slow = Reading::open(events(&gateway, pid, "?stream=stdout")).await;
    let piece: Vec<u8> = (0..50_000u32).map(|n| u8::try_from(n % 95).unwrap() + 32).collect();
    let mut written = 0u64;
    for _ in 0..200 {
        programs.write(handle, Stdout, &piece);
        written += 50_000;
        let process = until(&gateway, pid, |p| p["stdout"]["end"] == written).await;
        let start = process["stdout"]["start"].as_u64().unwrap();
        assert!(written - start <= 100_000, "{process}");
    }
    programs.exit(handle, 0);
    let process = until(&gateway, pid, |process| process["complete"] == true).await;
    let (mut at_byte, mut gaps) = (0, 0);
    loop {
        let told = slow.event().await.unwrap();
        match &*told.kind {
            "stdout" => {
                assert_eq!(told.data["offset"], at_byte);
                let text = told.data["text"].as_str().unwrap();
                let from = usize::try_from(at_byte % 50_000).unwrap();
                assert!(piece.iter().cycle().skip(from).zip(text.bytes()).all(|(a, b)| *a == b));
                at_byte += text.len() as u64;
            }
            "gap" => {
                assert_eq!(
                    (&told.data["stream"], &told.data["offset"]),
                    (&json!("stdout"), &json!(at_byte))
                );
                at_byte += told.data["missed"].as_u64().unwrap();
                gaps += 1;
            }
            "exit" => break,
            other => panic!("{other}"),
        }
    }
    assert_eq!((at_byte, gaps > 0), (written, true));
    // As bytes: what is asked for is there, or it is not.
    let start = process["stdout"]["start"].as_u64().unwrap();
    let kept = Reading::open(at(&gateway, "GET", pid, "/output")).await;
    assert_eq!(kept.response.headers()["x-output-offset"], start.to_string());
    assert_eq!(kept.all().await.len() as u64, written - start);
    let gone = at(&gateway, "GET", pid, "/output?offset=0").send().await;
    let problem = gone.problem(410, "output_gone");
    assert!(problem["detail"].as_str().unwrap().contains(&start.to_string()), "{problem}");
}

#[tokio::test]
async fn readers_are_bounded() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "[limits]\nprocess_readers = 1\n").await;
    let (pid, _) = start(&gateway, &programs, json!({})).await;
    let reading = Reading::open(events(&gateway, pid, "")).await;
    let full = at(&gateway, "GET", pid, "/output").send().await;
    full.problem(429, "too_many_subscribers");
    drop(reading);
    let again = async {
        while events(&gateway, pid, "").open().await.status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::BOUND, again).await.expect("a place");
}

/// One reader that breaks off and resumes, on a link that is cut behind any byte.
async fn whole(lengths: Vec<usize>, breaks: Vec<usize>, cuts: Vec<usize>) {
    let programs = Programs::extension();
    let more = "[limits]\nprocess_output_bytes = 200000\nbackoff_min_seconds = 0.001\n\
                backoff_max_seconds = 0.01\n";
    let gateway = gateway(&programs, more).await;
    let (pid, handle) = start(&gateway, &programs, json!({"overflow": "wait"})).await;
    let total: usize = lengths.iter().sum();
    let all: Vec<u8> = (0..total).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
    let writer = {
        let (programs, all) = (programs.clone(), all.clone());
        let mut cuts = cuts.into_iter();
        tokio::spawn(async move {
            let mut rest = &all[..];
            for length in lengths {
                let (now, later) = rest.split_at(length);
                if programs.is_cut()
                    && let Some(cut) = cuts.next()
                {
                    programs.cut_after(cut);
                }
                programs.write_all(handle, Stdout, now).await;
                rest = later;
            }
            programs.exit(handle, 0);
        })
    };
    let mut read = Vec::new();
    for count in breaks {
        let offset = read.len();
        let mut reading =
            Reading::open(at(&gateway, "GET", pid, &format!("/output?offset={offset}"))).await;
        while reading.text.len() < count && reading.more().await.unwrap() {}
        // It was told more than it takes notice of.
        read.extend_from_slice(&reading.text[..reading.text.len().min(count)]);
    }
    let offset = read.len();
    let rest = Reading::open(at(&gateway, "GET", pid, &format!("/output?offset={offset}"))).await;
    read.extend_from_slice(&rest.all().await);
    writer.await.unwrap();
    assert!(read == all, "{} of {total} bytes", read.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn a_reader_that_breaks_off_at_any_byte_has_every_byte_in_the_end(
        lengths in proptest::collection::vec(0..60_000usize, 1..12),
        breaks in proptest::collection::vec(0..90_000usize, 0..6),
        cuts in proptest::collection::vec(1..40_000usize, 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(whole(lengths, breaks, cuts));
    }
}
