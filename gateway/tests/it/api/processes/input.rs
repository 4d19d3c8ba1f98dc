//! Standard input, streamed in.

use serde_json::json;

use super::programs::Programs;
use super::{at, gateway, start, until};

#[tokio::test]
async fn a_body_goes_in_as_fast_as_the_program_reads_once_and_in_order() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let body = json!({"stdin_open": true, "stdin": "first,"});
    let (pid, handle) = start(&gateway, &programs, body).await;
    let bytes: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
    let sent = tokio::spawn(at(&gateway, "PUT", pid, "/stdin").text(bytes.clone()).send());
    // More than the guest takes without a reader.
    until(&gateway, pid, |process| process["stdin"]["taken"] == 6 + (16 << 10)).await;
    assert!(!sent.is_finished());
    let reader = programs.clone();
    let reads = tokio::spawn(async move {
        while reader.input(handle).len() < 300_006 {
            reader.read(handle, 10_000);
            tokio::task::yield_now().await;
        }
    });
    let answer = sent.await.unwrap().expect(200);
    assert_eq!(answer, json!({"taken": 300_006, "closed": true}));
    reads.await.unwrap();
    assert_eq!(programs.input(handle), [b"first,".as_slice(), &bytes].concat());
    let again = at(&gateway, "PUT", pid, "/stdin").text("more").send().await;
    let problem = again.problem(409, "process_conflict");
    assert!(problem["detail"].as_str().unwrap().contains("300006"), "{problem}");
}

#[tokio::test]
async fn what_broke_off_goes_on_and_nothing_is_left_out() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let (pid, handle) = start(&gateway, &programs, json!({"stdin_open": true})).await;
    let put = |query: &str, text: &'static str| {
        at(&gateway, "PUT", pid, &format!("/stdin{query}")).text(text).send()
    };
    put("?close=false", "abcdef").await.expect(200);
    // Sent again from before where it ended.
    let answer = put("?close=false&offset=2", "cdefgh").await.expect(200);
    assert_eq!(answer, json!({"taken": 8, "closed": false}));
    let problem = put("?offset=9", "x").await.problem(409, "process_conflict");
    assert!(problem["detail"].as_str().unwrap().contains("8 bytes"), "{problem}");
    put("?offset=8&close=true", "").await.expect(200);
    assert_eq!(programs.input(handle), b"abcdefgh");
    let (closed, _) = start(&gateway, &programs, json!({"stdin": "all"})).await;
    at(&gateway, "PUT", closed, "/stdin").text("x").send().await.problem(409, "process_conflict");
}

#[tokio::test]
async fn a_new_writer_takes_over() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let (pid, handle) = start(&gateway, &programs, json!({"stdin_open": true})).await;
    let first = at(&gateway, "PUT", pid, "/stdin").text(vec![b'a'; 100_000]).send();
    let first = tokio::spawn(first);
    until(&gateway, pid, |process| process["stdin"]["taken"] == 16 << 10).await;
    let second = tokio::spawn(at(&gateway, "PUT", pid, "/stdin").text("b").send());
    let problem = first.await.unwrap().problem(409, "process_conflict");
    assert!(problem["detail"].as_str().unwrap().contains("Another request"), "{problem}");
    programs.read(handle, 1);
    second.await.unwrap().expect(200);
    assert_eq!(programs.input(handle).len(), (16 << 10) + 1);
    assert_eq!(programs.input(handle).last(), Some(&b'b'));
}
