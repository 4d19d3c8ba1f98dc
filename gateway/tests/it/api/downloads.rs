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

use super::client::Ask;
use super::file_agent::FileAgent;
use super::gateway::{BOUND, Gateway};

/// What the gateway asks for at once.
pub(super) const CHUNK: usize = 96 << 10;

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

pub(super) fn get(gateway: &Gateway, path: &str) -> Ask {
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
pub(super) async fn whole(response: Response<Incoming>) -> Option<Bytes> {
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
    // One thing it does tell: what has no positions. Read, a pipe would look like an empty file.
    stock.put_kind("/pipe", FileKind::Fifo, b"");
    let reads = stock.ran("guest-file-read");
    for method in ["GET", "HEAD"] {
        let answer = gateway.ask(method, &content("/pipe")).send().await;
        assert_eq!(answer.status, 409);
        if method == "GET" {
            let problem = answer.problem(409, "not_a_file");
            assert!(problem["detail"].as_str().unwrap().contains("named pipe"), "{problem}");
        }
    }
    assert_eq!(stock.ran("guest-file-read"), reads, "who writes into it keeps what it wrote");
    stock.put_kind("/dev/vda", FileKind::BlockDevice, &disk);
    let part = get(&gateway, "/dev/vda").header("range", "bytes=-9").send().await;
    assert_eq!(&*part.body, &disk[CHUNK..]);
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
