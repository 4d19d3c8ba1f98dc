//! Files on their way into a guest: whole or not at all, and gone on with.

use axum::body::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use qga_gateway::vm::LinkState;
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::client::{Ask, Target};
use super::downloads::{all_closed, content, eventually, gateway, noise};
use super::file_agent::FileAgent;
use super::gateway::Gateway;

const CHUNK: usize = super::downloads::CHUNK;

fn put(gateway: &Gateway, path: &str, data: &[u8]) -> Ask {
    gateway.ask("PUT", &content(path)).text(Bytes::copy_from_slice(data))
}

fn digest(data: &[u8]) -> String {
    let encode = |bytes: &[u8]| base64_simd::STANDARD.encode_to_string(bytes);
    let (short, long) = (encode(&Sha256::digest(data)), encode(&Sha512::digest(data)));
    format!("sha-256=:{short}:, sha-512=:{long}:")
}

async fn partial(gateway: &Gateway, path: &str) -> Option<u64> {
    let answer = gateway.ask("GET", &format!("/vms/vm/files?path={path}")).send().await;
    let body = answer.value();
    body["partial"]["received"].as_u64().or_else(|| body["received"].as_u64())
}

/// Sends the head and the first bytes of a PUT, and nothing more until it is dropped.
pub(super) async fn begin(gateway: &Gateway, path: &str, total: usize, bytes: &[u8]) -> UnixStream {
    let Target::Unix(socket) = &gateway.unix else { unreachable!("a Unix socket") };
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {total}\r\n\r\n",
        content(path)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[test]
fn what_goes_up_is_there_byte_for_byte() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let agents = [FileAgent::new(false), FileAgent::new(true)];
    let gateways = agents.each_ref().map(|agent| runtime.block_on(gateway(agent, "")));
    let data = noise(4 * CHUNK);
    let sizes = prop_oneof![0..100usize, CHUNK - 3..CHUNK + 3, 1..4 * CHUNK];
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&(sizes, any::<bool>(), any::<bool>()), |(size, extended, check)| {
            let (gateway, agent) =
                (&gateways[usize::from(extended)], &agents[usize::from(extended)]);
            let before = agent.content("/f");
            let mut ask = put(gateway, "/f", &data[..size]);
            if check {
                ask = ask.header("repr-digest", &digest(&data[..size]));
            }
            let answer = runtime.block_on(ask.send());
            let body = answer.expect(if extended && before.is_none() { 201 } else { 200 });
            prop_assert_eq!(&body["size"], size);
            prop_assert_eq!(&body["atomic"], extended);
            prop_assert!(agent.content("/f").unwrap() == data[..size]);
            Ok(())
        })
        .unwrap();
    for agent in &agents {
        runtime.block_on(all_closed(agent));
    }
}

#[tokio::test]
async fn mode_and_owner_are_kept_or_given_and_the_answer_tells_the_tag() {
    let agent = FileAgent::new(true);
    agent.put("/f", b"old");
    let gateway = gateway(&agent, "").await;
    let answer = put(&gateway, "/f", b"new").send().await;
    let body = answer.expect(200);
    assert_eq!(agent.meta("/f"), (0o640, 7));
    assert_eq!(answer.header("etag"), format!("\"{}\"", body["etag"].as_str().unwrap()));
    assert_eq!(body["stat"]["kind"], "file");
    put(&gateway, "/f&mode=0600&uid=1000", b"newer").send().await.expect(200);
    assert_eq!(agent.meta("/f"), (0o600, 1000));
    let read = gateway.ask("GET", &content("/f")).send().await;
    let again = put(&gateway, "/f", b"newest").header("if-match", read.header("etag")).send().await;
    again.expect(200);
    for wrong in ["&mode=rw", "&uid=-1", "&offset=x", "&in_place=1", "&in_place=true&mode=0600"] {
        put(&gateway, &format!("/f{wrong}"), b"").send().await.problem(400, "bad_request");
    }
    put(&gateway, "/f", b"x")
        .header("content-encoding", "gzip")
        .send()
        .await
        .problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn conditions_are_checked_at_the_beginning_and_at_the_end() {
    let agent = FileAgent::new(true);
    agent.put("/f", b"old");
    let gateway = gateway(&agent, "").await;
    let tag = gateway.ask("HEAD", &content("/f")).send().await.header("etag").to_owned();
    let with = |path: &str, name: &str, value: &str| {
        put(&gateway, path, b"new").header(name, value).send()
    };
    with("/f", "if-none-match", "*").await.problem(412, "precondition_failed");
    with("/f", "if-match", "\"1-2-3-4\"").await.problem(412, "precondition_failed");
    with("/g", "if-match", "*").await.problem(412, "precondition_failed");
    assert_eq!(agent.content("/f").unwrap(), b"old");
    with("/g", "if-none-match", "*").await.expect(201);
    with("/f", "if-match", &tag).await.expect(200);
    all_closed(&agent).await;
    // Somebody else writes while this comes.
    let tag = gateway.ask("HEAD", &content("/f")).send().await.header("etag").to_owned();
    agent.hold(true);
    let upload = tokio::spawn(with("/f", "if-match", &tag));
    let created = agent.ran("x-guest-file-create");
    agent.hold(false);
    eventually("it begins", || agent.ran("x-guest-file-create") > created || upload.is_finished())
        .await;
    upload.await.unwrap();
    // Who makes no condition overwrites what came meanwhile.
    let mut stream = begin(&gateway, "/h", 3, b"ab").await;
    eventually("it begins", || agent.ran("x-guest-file-create") > created + 1).await;
    agent.put("/h", b"somebody else's");
    stream.write_all(b"c").await.unwrap();
    eventually("it is there", || agent.content("/h").unwrap() == b"abc").await;
}

#[tokio::test]
async fn what_did_not_arrive_as_it_was_sent_changes_nothing() {
    let agent = FileAgent::new(true);
    agent.put("/f", b"old");
    let gateway = gateway(&agent, "").await;
    let data = noise(CHUNK + 1);
    let wrong = put(&gateway, "/f", &data).header("repr-digest", &digest(b"another")).send().await;
    wrong.problem(422, "digest_mismatch");
    assert_eq!(agent.content("/f").unwrap(), b"old");
    assert_eq!(partial(&gateway, "/f").await, None);
    put(&gateway, "/f", b"")
        .header("repr-digest", "md5=:AA:")
        .send()
        .await
        .problem(400, "bad_request");
    all_closed(&agent).await;
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_file_or_says_what_was_written() {
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        agent.put("/f", b"old");
        let gateway = gateway(&agent, "").await;
        agent.disk().room = Some(3 * CHUNK);
        let data = noise(9 * CHUNK);
        let answer = put(&gateway, "/f", &data).send().await;
        if extended {
            let problem = answer.problem(507, "no_space");
            assert_eq!(problem["errno"], "ENOSPC");
            assert_eq!(agent.content("/f").unwrap(), b"old");
        } else {
            let problem = answer.problem(422, "agent_error");
            assert_eq!(problem["written"], 3 * CHUNK);
            assert!(agent.content("/f").unwrap() == data[..3 * CHUNK]);
        }
        all_closed(&agent).await;
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_told_by_its_code() {
    let agent = FileAgent::new(true);
    agent.deny("/shadow");
    let gateway = gateway(&agent, "").await;
    put(&gateway, "/dir", b"x").send().await.problem(409, "is_a_directory");
    put(&gateway, "/shadow", b"x").send().await.problem(403, "guest_permission_denied");
    put(&gateway, "/%FF%FE", b"odd").send().await.expect(201);
    // A stock agent cannot do what it is asked for, and it is not left out.
    let stock = FileAgent::new(false);
    let gateway = super::downloads::gateway(&stock, "").await;
    for path in ["/f&mode=0600", "/f&uid=1", "/f&gid=1", "/%FF"] {
        put(&gateway, path, b"x").send().await.problem(501, "command_unsupported");
    }
    let conditional = put(&gateway, "/f", b"x").header("if-none-match", "*").send().await;
    conditional.problem(501, "command_unsupported");
    assert_eq!(stock.content("/f"), None);
}

#[tokio::test]
async fn an_upload_that_is_broken_off_is_kept_and_gone_on_with() {
    let agent = FileAgent::new(true);
    agent.put("/f", b"old");
    let gateway = gateway(&agent, "").await;
    let data = noise(5 * CHUNK);
    let sent = 2 * CHUNK + 100;
    let stream = begin(&gateway, "/f", data.len(), &data[..sent]).await;
    eventually("two chunks are written", || agent.ran("guest-file-write") == 2).await;
    drop(stream);
    // What did not fill a chunk is sent anew.
    let kept = 2 * CHUNK as u64;
    let mut shown = None;
    while shown != Some(kept) {
        shown = partial(&gateway, "/f").await;
    }
    assert_eq!(agent.content("/f").unwrap(), b"old");
    let problem =
        put(&gateway, "/f&offset=7", b"x").send().await.problem(409, "upload_offset_mismatch");
    assert_eq!(problem["received"], kept);
    let rest = &data[2 * CHUNK..];
    put(&gateway, &format!("/f&offset={kept}"), rest).send().await.expect(200);
    assert!(agent.content("/f").unwrap() == data);
    assert_eq!(partial(&gateway, "/f").await, None);
    // Nothing is there to go on with any more.
    let problem =
        put(&gateway, "/f&offset=7", b"x").send().await.problem(409, "upload_offset_mismatch");
    assert_eq!(problem["received"], 0);
    all_closed(&agent).await;
}

#[tokio::test]
async fn the_sender_may_come_back_before_its_first_request_is_known_to_be_broken() {
    let agent = FileAgent::new(true);
    let gateway = gateway(&agent, "").await;
    let data = noise(3 * CHUNK);
    // Its connection hangs, and is not closed.
    let _stream = begin(&gateway, "/f", data.len(), &data[..CHUNK]).await;
    eventually("a chunk is written", || agent.ran("guest-file-write") == 1).await;
    let range = format!("bytes {CHUNK}-{}/{}", data.len() - 1, data.len());
    let rest = put(&gateway, "/f", &data[CHUNK..]).header("content-range", &range);
    rest.send().await.expect(201);
    assert!(agent.content("/f").unwrap() == data);
    all_closed(&agent).await;
}

#[tokio::test]
async fn parts_come_one_by_one_with_one_digest_over_all() {
    let agent = FileAgent::new(true);
    let gateway = gateway(&agent, "").await;
    let data = noise(1000);
    let part = |from: usize, to: usize| {
        let range = format!("bytes {from}-{}/1000", to - 1);
        let ask = put(&gateway, "/f", &data[from..to]).header("content-range", &range);
        ask.header("repr-digest", &digest(&data)).send()
    };
    for (from, to) in [(0, 300), (300, 301)] {
        let answer = part(from, to).await;
        assert_eq!(answer.expect(202), serde_json::json!({"received": to}));
        assert_eq!(agent.content("/f"), None);
    }
    assert_eq!(partial(&gateway, "/f").await, Some(301));
    part(301, 1000).await.expect(201);
    assert!(agent.content("/f").unwrap() == data);
    let late = put(&gateway, "/g", &data[..10]).header("content-range", "bytes 0-9/1000");
    late.send().await.expect(202);
    let late = put(&gateway, "/g", &data[10..]).header("content-range", "bytes 10-999/1000");
    late.header("repr-digest", &digest(&data)).send().await.problem(400, "bad_request");
    for wrong in ["bytes 0-9/*", "bytes 0-10/10", "x"] {
        let ask = put(&gateway, "/g", b"x").header("content-range", wrong);
        ask.send().await.problem(400, "bad_request");
    }
    let short = put(&gateway, "/g", b"x").header("content-range", "bytes 10-999/1000");
    short.send().await.problem(400, "bad_request");
}

#[tokio::test]
async fn what_is_kept_goes_when_its_time_is_over() {
    let agent = FileAgent::new(true);
    let gateway = gateway(&agent, "[limits]\nupload_resume_seconds = 0.2\n").await;
    let stream = begin(&gateway, "/f", 10 * CHUNK, &noise(CHUNK)).await;
    eventually("a chunk is written", || agent.ran("guest-file-write") == 1).await;
    drop(stream);
    all_closed(&agent).await;
    eventually_none(&gateway).await;
}

async fn eventually_none(gateway: &Gateway) {
    let gone = async { while partial(gateway, "/f").await.is_some() {} };
    tokio::time::timeout(super::gateway::BOUND, gone).await.expect("it goes");
}

#[tokio::test]
async fn a_part_of_a_file_is_overwritten_where_it_is() {
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        agent.put("/f", b"0123456789");
        let gateway = gateway(&agent, "").await;
        let body = put(&gateway, "/f&offset=3&in_place=true", b"abc").send().await.expect(200);
        assert_eq!(body["atomic"], false);
        assert_eq!(agent.content("/f").unwrap(), b"012abc6789");
        let hole = put(&gateway, "/f&offset=11&in_place=true", b"x").send().await;
        assert_eq!(hole.problem(409, "upload_offset_mismatch")["received"], 10);
        if !extended {
            // The file itself is what there is of a broken upload.
            put(&gateway, "/f&offset=10", b"xyz").send().await.expect(200);
            assert_eq!(agent.content("/f").unwrap(), b"012abc6789xyz");
        }
        all_closed(&agent).await;
    }
}

async fn asked(gateway: &Gateway) {
    for _ in 0..50 {
        gateway.ask("GET", "/vms/vm").send().await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_begun_anew_is_not_hit_by_a_chunk_of_what_broke_off() {
    for place in ["/f", "/f&offset=0&in_place=true"] {
        let agent = FileAgent::new(false);
        agent.put("/f", b"");
        let gateway = gateway(&agent, "").await;
        let begun = || agent.ran("guest-file-open");
        let mut sender = begin(&gateway, place, 4 * CHUNK, b"").await;
        eventually("it begins", || begun() == 1).await;
        agent.hold(true);
        // One part lies with the agent, and the next waits in the gateway, when the sender goes away.
        sender.write_all(&noise(2 * CHUNK)).await.unwrap();
        // It answers others meanwhile, and so has taken those bytes up.
        asked(&gateway).await;
        drop(sender);
        let again = tokio::spawn(put(&gateway, "/f", b"anew").send());
        asked(&gateway).await;
        agent.hold(false);
        again.await.unwrap().expect(200);
        all_closed(&agent).await;
        assert!(agent.content("/f").unwrap() == b"anew", "{place}");
    }
}

#[tokio::test]
async fn a_link_that_is_cut_anywhere_leaves_the_old_file_or_the_new_one() {
    let (old, new) = (noise(777), noise(3 * CHUNK));
    let agent = FileAgent::new(true);
    let gateway = gateway(&agent, "").await;
    for cut in [1, 100, 300, 400, 470, 500, 540, 600, 640, 700, 760, 800, 900, 1000] {
        agent.put("/f", &old);
        gateway.wait_for(LinkState::Ready).await;
        agent.disk().cut_after = Some(cut);
        let answer = put(&gateway, "/f", &new).send().await;
        agent.disk().cut_after = None;
        gateway.wait_for(LinkState::Ready).await;
        let there = agent.content("/f").unwrap();
        if answer.status == 200 {
            assert!(there == new, "cut after {cut}");
            continue;
        }
        let problem = answer.problem(503, "agent_unavailable");
        assert!(there == old || problem["outcome"] == "unknown" && there == new, "cut after {cut}");
        // Where it is known how much arrived, the rest is enough.
        if let Some(received) = partial(&gateway, "/f").await {
            let rest = &new[usize::try_from(received).unwrap()..];
            let path = format!("/f&offset={received}");
            put(&gateway, &path, rest).send().await.expect(200);
            assert!(agent.content("/f").unwrap() == new, "cut after {cut}");
        }
    }
}

#[tokio::test]
async fn an_agent_that_restarts_has_forgotten_and_that_is_told() {
    let agent = FileAgent::new(true);
    let gateway = gateway(&agent, "").await;
    let stream = begin(&gateway, "/f", 10 * CHUNK, &noise(2 * CHUNK)).await;
    eventually("chunks are written", || agent.ran("guest-file-write") == 2).await;
    drop(stream);
    while partial(&gateway, "/f").await != Some(2 * CHUNK as u64) {}
    agent.restart();
    gateway.wait_for(LinkState::Ready).await;
    let path = format!("/f&offset={}", 2 * CHUNK);
    let mut answer = put(&gateway, &path, b"x").send().await;
    if answer.status == 503 {
        gateway.wait_for(LinkState::Ready).await;
        answer = put(&gateway, &path, b"x").send().await;
    }
    assert_eq!(answer.problem(409, "upload_offset_mismatch")["received"], 0);
}

#[tokio::test]
async fn a_freeze_waits_for_no_upload_and_the_upload_for_the_thaw() {
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        let gateway = gateway(&agent, "").await;
        let data = noise(9 * CHUNK);
        let mut stream = begin(&gateway, "/f", data.len(), &data[..CHUNK + 1]).await;
        eventually("a chunk is written", || agent.ran("guest-file-write") == 1).await;
        gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
        let rest = data[CHUNK + 1..].to_vec();
        let sender = tokio::spawn(async move {
            stream.write_all(&rest).await.unwrap();
            let mut answer = vec![0; 64];
            stream.read_exact(&mut answer).await.unwrap();
            answer
        });
        gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
        gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
        let answer = sender.await.unwrap();
        let status = if extended { "201" } else { "200" };
        assert!(answer.starts_with(format!("HTTP/1.1 {status}").as_bytes()));
        assert!(agent.content("/f").unwrap() == data);
        all_closed(&agent).await;
    }
}

#[tokio::test]
async fn somebody_elses_freeze_and_thaw_leave_every_byte_in_its_place() {
    let agent = FileAgent::new(false);
    let gateway = gateway(&agent, "").await;
    let data = noise(30 * CHUNK);
    for _ in 0..5 {
        let upload = tokio::spawn(put(&gateway, "/f", &data).send());
        let asked = || agent.ran("guest-file-write") + agent.ran("guest-fsfreeze-status");
        for _ in 0..6 {
            // Written while thawed, asked while frozen.
            let before = asked();
            eventually("it goes on", || asked() > before + 1 || upload.is_finished()).await;
            let frozen = !agent.disk().frozen;
            agent.disk().frozen = frozen;
        }
        agent.disk().frozen = false;
        upload.await.unwrap().expect(200);
        assert!(agent.content("/f").unwrap() == data);
    }
}

#[tokio::test]
async fn who_waits_to_be_told_to_go_on_is_told_or_refused() {
    let agent = FileAgent::new(true);
    let gateway = gateway(&agent, "").await;
    let Target::Unix(socket) = &gateway.unix else { unreachable!("a Unix socket") };
    for (path, expected) in [("/f", "HTTP/1.1 100 Continue"), ("/dir", "HTTP/1.1 409 Conflict")] {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let head = format!(
            "PUT {} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n",
            content(path)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
        if path == "/f" {
            stream.write_all(b"abc").await.unwrap();
            eventually("it is there", || agent.content("/f").is_some()).await;
        }
    }
}

#[tokio::test]
async fn a_sender_that_is_still_sending_reads_why_it_is_refused() {
    let agent = FileAgent::new(true);
    let gateway = gateway(&agent, "").await;
    let Target::Unix(socket) = &gateway.unix else { unreachable!("a Unix socket") };
    agent.disk().room = Some(0);
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::put(content("/f")).header("host", "localhost");
    let body = http_body_util::Full::new(Bytes::from(noise(40 * CHUNK)));
    let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 507);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["code"], "no_space");
}
