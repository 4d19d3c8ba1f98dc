//! Files on their way out of a guest: every byte, whatever the size, the range and the fault.

use std::time::Duration;

use axum::body::Bytes;
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use qga_gateway::vm::LinkState;
use qga_proto::command::FileKind;
use tokio::time::timeout;

use super::client::{Answer, Ask};
use super::file_agent::FileAgent;
use super::gateway::{BOUND, Gateway};

/// What the gateway asks for at once.
const CHUNK: usize = 192 << 10;

pub(super) async fn gateway(agent: &FileAgent, more: &str) -> Gateway {
    let guest = agent.clone();
    let gateway = Gateway::before(move |path| guest.listen(path), more).await;
    gateway.wait_for(LinkState::Ready).await;
    gateway.known().await;
    gateway
}

/// Bytes of which no two places look alike.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(super) fn content(path: &str) -> String {
    format!("/vms/vm/files/content?path={path}")
}

fn get(gateway: &Gateway, path: &str) -> Ask {
    gateway.ask("GET", &content(path))
}

/// Until the guest has no handle open.
pub(super) async fn all_closed(agent: &FileAgent) {
    eventually("handles stay open", || agent.open() == 0).await;
}

pub(super) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        let mut often = tokio::time::interval(Duration::from_millis(2));
        while !is_so() {
            often.tick().await;
        }
    };
    timeout(BOUND, wait).await.expect(what);
}

/// The body up to its end, or none if it breaks off.
async fn whole(response: Response<Incoming>) -> Option<Bytes> {
    let body = timeout(BOUND, response.into_body().collect()).await.expect("in time");
    body.ok().map(http_body_util::Collected::to_bytes)
}

#[tokio::test]
async fn a_file_comes_whole_with_what_is_known_of_it() {
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        let gateway = gateway(&agent, "").await;
        for size in [1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7] {
            let data = noise(size);
            agent.put("/a b.bin", &data);
            let answer = get(&gateway, "/a%20b.bin").send().await;
            assert_eq!(answer.status, 200, "{size}: {:?}", answer.body);
            assert!(answer.body == data, "{size}");
            answer.check_headers();
            assert_eq!(answer.header("content-type"), "application/octet-stream");
            assert_eq!(answer.header("content-length"), size.to_string());
            assert_eq!(answer.header("accept-ranges"), "bytes");
            assert!(answer.header("content-disposition").starts_with("attachment; "));
            assert_eq!(answer.header("etag").is_empty(), !extended);
            assert_eq!(answer.header("last-modified").is_empty(), !extended);
            let head = gateway.ask("HEAD", &content("/a+b.bin")).send().await;
            assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
            for name in ["content-length", "etag", "last-modified", "accept-ranges"] {
                assert_eq!(head.header(name), answer.header(name), "{name}");
            }
            all_closed(&agent).await;
        }
    }
}

#[test]
fn any_part_of_any_file_is_those_bytes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (stock, ours) = (FileAgent::new(false), FileAgent::new(true));
    let gateways = runtime.block_on(async {
        [(gateway(&stock, "").await, stock.clone()), (gateway(&ours, "").await, ours.clone())]
    });
    let data = noise(5 * CHUNK);
    let sizes = prop_oneof![1..100usize, CHUNK - 3..CHUNK + 3, 1..5 * CHUNK];
    let places = (0.0..1.2f64, 0.0..1.2f64, 0..3u8, prop::option::of(1..CHUNK), any::<bool>());
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    runner
        .run(&(sizes, places), |(size, (a, b, kind, short, extended))| {
            let (gateway, agent) = &gateways[usize::from(extended)];
            let at = |part: f64| format!("{:.0}", part * size as f64).parse::<usize>().unwrap();
            let (a, b) = (at(a).min(at(b)), at(a).max(at(b)));
            let (range, expected) = match kind {
                0 => (format!("bytes={a}-{b}"), a..size.min(b + 1)),
                1 => (format!("bytes={a}-"), a..size),
                _ => (format!("bytes=-{a}"), size.saturating_sub(a)..size),
            };
            agent.put("/f", &data[..size]);
            agent.disk().short = short.filter(|short| size / short < 100);
            let answer = runtime.block_on(get(gateway, "/f").header("range", &range).send());
            if expected.start >= size {
                answer.problem(416, "range_not_satisfiable");
                prop_assert_eq!(answer.header("content-range"), format!("bytes */{size}"));
                return Ok(());
            }
            prop_assert_eq!(answer.status.as_u16(), 206, "{}", range);
            let shown = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
            prop_assert_eq!(answer.header("content-range"), shown);
            prop_assert!(answer.body == data[expected], "{} of {}", range, size);
            Ok(())
        })
        .unwrap();
    runtime.block_on(async {
        all_closed(&stock).await;
        all_closed(&ours).await;
    });
}

#[tokio::test]
async fn several_ranges_or_none_that_makes_sense_bring_the_whole() {
    let agent = FileAgent::new(true);
    agent.put("/f", b"0123456789");
    let gateway = gateway(&agent, "").await;
    for range in ["bytes=0-1,3-4", "bytes=5-2", "lines=1-2", "bytes=x-"] {
        let answer = get(&gateway, "/f").header("range", range).send().await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"0123456789"[..]), "{range}");
    }
}

#[tokio::test]
async fn conditions_hold_where_the_agent_can_tell() {
    let agent = FileAgent::new(true);
    agent.put("/f", b"0123456789");
    let gateway = gateway(&agent, "").await;
    let first = get(&gateway, "/f").send().await;
    let (tag, date) = (first.header("etag"), first.header("last-modified"));
    let with = |name: &str, value: &str| get(&gateway, "/f").header(name, value).send();
    for (name, value, status) in [
        ("if-none-match", tag, 304),
        ("if-none-match", "\"other\"", 200),
        ("if-modified-since", date, 304),
        ("if-match", tag, 200),
        ("if-match", "\"other\"", 412),
        ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT", 412),
    ] {
        let answer = with(name, value).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {value}");
        assert_eq!(answer.header("etag").is_empty(), status == 412);
    }
    let resume =
        |tag: &str| get(&gateway, "/f").header("range", "bytes=4-").header("if-range", tag).send();
    assert_eq!(
        (resume(tag).await.status, resume(date).await.status.as_u16()),
        (206.try_into().unwrap(), 206)
    );
    assert_eq!(&*resume(tag).await.body, b"456789");
    agent.put("/f", b"abcdefghij");
    let other = resume(tag).await;
    assert_eq!((other.status.as_u16(), &*other.body), (200, &b"abcdefghij"[..]));
    all_closed(&agent).await;
}

#[tokio::test]
async fn sizes_that_lie_do_not_matter() {
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        let gateway = gateway(&agent, "").await;
        // As in /proc: 0, and there is more, of which a little or much.
        for size in [0, 5, 3 * CHUNK + 1] {
            let data = noise(size);
            agent.put_lying("/proc", &data, 0);
            let answer = get(&gateway, "/proc").send().await;
            assert!(answer.status == 200 && answer.body == data, "{size}");
            assert!(size == 0 || answer.header("etag").is_empty());
            let known = if size <= CHUNK { size.to_string() } else { String::new() };
            assert_eq!(answer.header("content-length"), known);
        }
        agent.put_lying("/proc", b"0123456789", 0);
        let part = get(&gateway, "/proc").header("range", "bytes=2-4").send().await;
        assert_eq!((part.status.as_u16(), &*part.body), (206, &b"234"[..]));
        assert_eq!(part.header("content-range"), "bytes 2-4/10");
        // As in /sys: a page, and there is less.
        agent.put_lying("/sys", b"up\n", 4096);
        let answer = get(&gateway, "/sys").send().await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"up\n"[..]));
        assert_eq!(answer.header("content-length"), "3");
        let part = get(&gateway, "/sys").header("range", "bytes=1-100").send().await;
        assert_eq!(part.header("content-range"), "bytes 1-2/3");
        assert_eq!(&*part.body, b"p\n");
        // Grows while it is read: as long as it was.
        let data = noise(3 * CHUNK);
        agent.put_lying("/log", &data, 2 * CHUNK as u64 + 5);
        let answer = get(&gateway, "/log").send().await;
        assert!(answer.body == data[..2 * CHUNK + 5]);
        all_closed(&agent).await;
    }
}

#[tokio::test]
async fn a_file_that_becomes_shorter_breaks_off() {
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        let gateway = gateway(&agent, "").await;
        agent.put_lying("/f", &noise(2 * CHUNK), 3 * CHUNK as u64);
        let response = get(&gateway, "/f").open().await;
        assert_eq!(response.headers()["content-length"], (3 * CHUNK).to_string());
        assert_eq!(whole(response).await, None, "it must not look whole");
        all_closed(&agent).await;
    }
}

#[tokio::test]
async fn what_is_no_file_is_told_by_its_code() {
    let agent = FileAgent::new(true);
    let gateway = gateway(&agent, "").await;
    agent.put_kind("/pipe", FileKind::Fifo, b"");
    agent.put_kind("/socket", FileKind::Socket, b"");
    agent.deny("/shadow");
    for (path, status, code) in [
        ("/missing", 404, "file_not_found"),
        ("/shadow", 403, "guest_permission_denied"),
        ("/dir", 409, "is_a_directory"),
        ("/pipe", 409, "not_a_file"),
        ("/socket", 409, "not_a_file"),
    ] {
        let problem = get(&gateway, path).send().await.problem(status, code);
        assert_eq!(problem["vm_id"], "vm", "{path}");
        let head = gateway.ask("HEAD", &content(path)).send().await;
        assert_eq!(head.status.as_u16(), status, "{path}");
    }
    let disk = noise(CHUNK + 9);
    agent.put_kind("/dev/vda", FileKind::BlockDevice, &disk);
    let part = get(&gateway, "/dev/vda").header("range", "bytes=-9").send().await;
    assert_eq!(&*part.body, &disk[CHUNK..]);
    all_closed(&agent).await;
    // A stock agent has only its text, and the kind is not to be had.
    let stock = FileAgent::new(false);
    stock.deny("/shadow");
    let gateway = super::downloads::gateway(&stock, "").await;
    for path in ["/missing", "/shadow", "/dir"] {
        let problem = get(&gateway, path).send().await.problem(422, "agent_error");
        assert!(problem.get("errno").is_none());
    }
    let odd = get(&gateway, "/%FF").send().await.problem(501, "command_unsupported");
    assert!(odd["detail"].as_str().unwrap().contains("UTF-8"), "{odd}");
    all_closed(&stock).await;
}

#[tokio::test]
async fn a_device_without_end_is_read_until_the_caller_goes_away() {
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        agent.put_kind("/dev/zero", FileKind::CharDevice, b"");
        let gateway = gateway(&agent, "").await;
        let mut response = get(&gateway, "/dev/zero").open().await;
        assert!(response.headers().get("content-length").is_none(), "{response:?}");
        assert_eq!(response.headers()["accept-ranges"], "none");
        let mut read = 0;
        while read < 10 * CHUNK {
            read += response.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        drop(response);
        all_closed(&agent).await;
    }
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_up_nobody_and_no_memory() {
    let agent = FileAgent::new(true);
    agent.put("/big", &noise(200 * CHUNK));
    let gateway = gateway(&agent, "").await;
    let response = get(&gateway, "/big").open().await;
    // The socket takes some, and the gateway a few; then nothing more is asked for.
    eventually("reads begin", || agent.ran("guest-file-read") >= 2).await;
    let mut reads = 0;
    for _ in 0..20 {
        gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
        reads = agent.ran("guest-file-read");
    }
    assert!(reads <= 12, "{reads} chunks were read ahead");
    assert!(whole(response).await.is_some_and(|body| body.len() == 200 * CHUNK));
    all_closed(&agent).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_while_a_call_is_under_way_leaves_nothing_open() {
    for (held_at, extended) in [(0, true), (1, true), (0, false), (1, false)] {
        let agent = FileAgent::new(extended);
        agent.put("/f", &noise(9 * CHUNK));
        let gateway = gateway(&agent, "").await;
        if held_at == 0 {
            agent.hold(true);
        }
        let before = gateway.vm().counters().calls;
        let infos = agent.ran("guest-info");
        let ask = get(&gateway, "/f");
        let request = tokio::spawn(async move {
            let mut response = ask.open().await;
            while response.frame().await.is_some() {}
        });
        let opens = || agent.ran("x-guest-file-open") + agent.ran("guest-file-open");
        if held_at == 0 {
            // The command lies with the agent, unanswered, when the caller goes.
            eventually("sent", || gateway.vm().counters().calls > before).await;
        } else {
            eventually("read", || agent.ran("guest-file-read") > 0).await;
            agent.hold(true);
        }
        request.abort();
        let _ = request.await;
        agent.hold(false);
        // Before a stock agent opens anything, it is asked what it can do.
        eventually("it is opened", || opens() == 1 || agent.ran("guest-info") > infos).await;
        all_closed(&agent).await;
    }
}

#[tokio::test]
async fn a_link_that_is_cut_anywhere_breaks_the_body_off_or_brings_it_whole() {
    let data = noise(3 * CHUNK);
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        let gateway = gateway(&agent, "").await;
        agent.put("/f", &data);
        let small = [1, 60, 200, 500, 1000];
        for cut in small.into_iter().chain((1..13).map(|n| n * 65_537 + n * n * 1_009)) {
            gateway.wait_for(LinkState::Ready).await;
            let before = agent.ran("guest-file-read") + agent.ran("guest-file-seek");
            agent.disk().cut_after = Some(cut);
            let response = get(&gateway, "/f").open().await;
            if response.status() == 200 {
                let body = whole(response).await;
                assert!(body.is_none_or(|body| body == data), "cut after {cut}");
            } else {
                assert_eq!(response.status(), 503, "cut after {cut}");
            }
            agent.disk().cut_after = None;
            // Nobody can close a handle whose number was lost with the answer to its opening.
            if agent.ran("guest-file-read") + agent.ran("guest-file-seek") == before {
                agent.disk().forget_handles();
            }
            all_closed(&agent).await;
        }
        gateway.wait_for(LinkState::Ready).await;
        assert!(get(&gateway, "/f").send().await.body == data);
    }
}

#[tokio::test]
async fn an_agent_that_restarts_breaks_the_body_off() {
    let agent = FileAgent::new(true);
    agent.put("/f", &noise(100 * CHUNK));
    let gateway = gateway(&agent, "").await;
    let mut response = get(&gateway, "/f").open().await;
    response.frame().await.unwrap().unwrap();
    agent.restart();
    assert_eq!(whole(response).await, None);
    gateway.wait_for(LinkState::Ready).await;
    let range = format!("bytes={}-", 99 * CHUNK);
    assert_eq!(get(&gateway, "/f").header("range", &range).send().await.body.len(), CHUNK);
}

#[tokio::test]
async fn a_freeze_waits_for_no_transfer_and_the_transfer_for_the_thaw() {
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        let data = noise(300 * CHUNK);
        agent.put("/f", &data);
        let gateway = gateway(&agent, "").await;
        let mut response = get(&gateway, "/f").open().await;
        let mut body = response.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
        let before = agent.ran("guest-file-read");
        gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
        assert!(agent.disk().frozen && agent.ran("guest-file-read") < before + 20);
        let rest = tokio::spawn(whole(response));
        // A new one is refused, and says why.
        get(&gateway, "/f").send().await.problem(409, "vm_frozen");
        gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
        body.extend_from_slice(&rest.await.unwrap().expect("goes on"));
        assert!(body == data);
        all_closed(&agent).await;
    }
}

#[tokio::test]
async fn a_freeze_that_lasts_too_long_ends_it() {
    let agent = FileAgent::new(true);
    agent.put("/f", &noise(100 * CHUNK));
    let gateway = gateway(&agent, "[limits]\ntransfer_pause_seconds = 0.3\n").await;
    let mut response = get(&gateway, "/f").open().await;
    response.frame().await.unwrap().unwrap();
    gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    assert_eq!(whole(response).await, None);
    // The handle is closed as soon as the agent does that again.
    assert_eq!(agent.open(), 1);
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    all_closed(&agent).await;
}

#[tokio::test]
async fn somebody_elses_freeze_and_thaw_leave_no_gap() {
    let agent = FileAgent::new(false);
    let data = noise(40 * CHUNK);
    agent.put("/f", &data);
    let gateway = gateway(&agent, "").await;
    for _ in 0..5 {
        let request = tokio::spawn(get(&gateway, "/f").send());
        let reads = agent.ran("guest-file-read");
        eventually("reads", || agent.ran("guest-file-read") > reads + 3 || request.is_finished())
            .await;
        agent.disk().frozen = true;
        tokio::task::yield_now().await;
        agent.disk().frozen = false;
        assert!(request.await.unwrap().body == data);
    }
}

#[tokio::test]
async fn transfers_take_turns_and_leave_room_for_others() {
    const MANY: usize = 50;
    let agent = FileAgent::new(true);
    let data = noise(20 * CHUNK);
    agent.put("/f", &data);
    let gateway = gateway(&agent, "").await;
    agent.hold(true);
    let before = gateway.vm().counters().calls;
    let all: Vec<_> = (0..MANY).map(|_| tokio::spawn(get(&gateway, "/f").send())).collect();
    eventually("they come", || gateway.vm().counters().calls > before).await;
    agent.hold(false);
    for answer in all {
        assert!(answer.await.unwrap().body == data);
    }
    // Whenever one had its last chunk, each of the others had some already.
    let turns = agent.disk().turns.clone();
    let mut counts = std::collections::HashMap::new();
    for handle in &turns {
        *counts.entry(*handle).or_insert(0) += 1;
        if counts[handle] == 20 {
            break;
        }
    }
    let least = counts.values().min().copied().unwrap_or(0);
    assert!(counts.len() >= MANY / 2 && least >= 1, "{} of {MANY} had turns", counts.len());
    all_closed(&agent).await;
}

#[tokio::test]
async fn there_is_a_bound_on_transfers() {
    let agent = FileAgent::new(true);
    agent.put("/f", &noise(100 * CHUNK));
    let gateway = gateway(&agent, "[limits]\ntransfers_vm = 1\n").await;
    let first = get(&gateway, "/f").open().await;
    let problem = get(&gateway, "/f").send().await.problem(429, "too_many_transfers");
    assert!(problem["detail"].as_str().unwrap().contains("limits.transfers_vm"), "{problem}");
    drop(first);
    all_closed(&agent).await;
    let again = async { while get(&gateway, "/f").send().await.status == 429 {} };
    timeout(BOUND, again).await.expect("there is room again");
}

#[tokio::test]
async fn a_stop_ends_transfers_and_closes_their_files() {
    let agent = FileAgent::new(true);
    agent.put("/f", &noise(100 * CHUNK));
    let gateway = gateway(&agent, "").await;
    let response = get(&gateway, "/f").open().await;
    gateway.registry.end_transfers(BOUND).await;
    assert_eq!(agent.open(), 0);
    assert_eq!(whole(response).await, None);
    let refused: Answer = get(&gateway, "/f").send().await;
    refused.problem(503, "shutting_down");
}

#[tokio::test]
async fn a_look_needs_credentials_too() {
    let agent = FileAgent::new(true);
    agent.put("/f", b"secret");
    let gateway = gateway(&agent, "").await;
    for method in ["HEAD", "GET", "PUT", "DELETE"] {
        let answer = gateway.ask_tcp(method, &content("/f")).send().await;
        assert_eq!(answer.status, 401, "{method}");
    }
    assert_eq!(agent.ran("x-guest-file-open"), 0);
}

#[tokio::test]
async fn any_answer_is_acceptable_for_a_file() {
    let agent = FileAgent::new(true);
    agent.put("/f.png", b"png");
    let gateway = gateway(&agent, "").await;
    let answer = get(&gateway, "/f.png").header("accept", "image/png").send().await;
    assert_eq!(&*answer.body, b"png");
    for wrong in ["path=", "path=%00", "path=a&path=b", "paht=/f.png", ""] {
        let ask = gateway.ask("GET", &format!("/vms/vm/files/content?{wrong}"));
        ask.send().await.problem(400, "bad_request");
    }
}
