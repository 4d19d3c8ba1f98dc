//! Agents that answer wrongly, late, twice, endlessly. Each time: a clear error, the link recovers
//! by itself, and another VM notices nothing.

use std::time::Duration;

use qga_gateway::vm::{CallError, CallOptions, LinkState, Registry, VmHandle};
use qga_proto::command::{
    GuestFileFlush, GuestFileRead, GuestFsfreezeThaw, GuestInfo, GuestPing, GuestShutdown,
};
use qga_proto::{Outcome, QgaError};
use tempfile::{TempDir, tempdir};
use tokio::time::timeout;

use super::fake::{Act, Guest, only_syncs};
use super::{BOUND, config, eventually, ping, quick, recovers, until};

/// A VM under test and one that must not notice.
struct Pair {
    _dir: TempDir,
    _registry: Registry,
    guest: Guest,
    _good: Guest,
    vm: VmHandle,
    other: VmHandle,
}

impl Pair {
    async fn ready() -> Self {
        let dir = tempdir().expect("tempdir");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let (guest, good) = (Guest::start(&a), Guest::start(&b));
        let registry = Registry::start(&config("persistent", &[&a, &b]));
        let [vm, other] = registry.list().try_into().expect("two");
        for vm in [&vm, &other] {
            until(vm, LinkState::Ready).await;
            eventually("known", || vm.capabilities().is_some()).await;
        }
        Self { _dir: dir, _registry: registry, guest, _good: good, vm, other }
    }

    /// Answers the next ping so, and gives what the caller got.
    async fn pinged(&self, mut act: impl FnMut() -> Act + Send + 'static) -> CallError {
        let mut once = true;
        self.guest.rule(move |name| {
            if name == "guest-ping" && std::mem::take(&mut once) { act() } else { Act::Normal }
        });
        ping(&self.vm).await.expect_err("no good answer")
    }

    async fn recovers(&self) {
        recovers(&self.vm).await;
        ping(&self.other).await.expect("the other VM is undisturbed");
        assert_eq!(self.other.counters().connections, 1);
        until(&self.vm, LinkState::Ready).await;
        assert!(self.guest.truth().before_sync.iter().all(|bytes| only_syncs(bytes)));
    }
}

#[tokio::test]
async fn garbage() {
    for line in ["rubbish\n", "[1, 2]\n", "{}\n", "{\"return\"\n", "\u{1}\u{2}\n", "{\"a\": 1}\n"] {
        let pair = Pair::ready().await;
        let error = pair.pinged(move || Act::Raw(line.into())).await;
        assert!(matches!(error, CallError::BadReply { .. }), "{line:?}: {error}");
        assert!(error.outcome_unknown());
        pair.recovers().await;
    }
}

#[tokio::test]
async fn too_deep_and_not_utf_8() {
    let deep = [b"{\"return\": ".as_slice(), &b"[".repeat(20_000), b"\n"].concat();
    for line in [deep, b"{\"return\": \"\xc3\x28\"}\n".to_vec()] {
        let pair = Pair::ready().await;
        let error = pair.pinged(move || Act::Raw(line.clone())).await;
        assert!(matches!(error, CallError::BadReply { .. }), "{error}");
        pair.recovers().await;
    }
}

#[tokio::test]
async fn another_id() {
    let pair = Pair::ready().await;
    let line = "{\"return\": {}, \"id\": \"somebody else's\"}\n";
    let error = pair.pinged(move || Act::Raw(line.into())).await;
    assert!(matches!(error, CallError::TimedOut { sent: true, .. }), "{error}");
    pair.recovers().await;
    assert!(pair.vm.counters().dropped > 0);
}

#[tokio::test]
async fn half_a_line() {
    let pair = Pair::ready().await;
    let error = pair.pinged(|| Act::Raw(b"{\"retu".to_vec())).await;
    assert!(matches!(error, CallError::TimedOut { sent: true, .. }), "{error}");
    pair.recovers().await;
}

#[tokio::test]
async fn a_line_without_end_is_a_bad_reply() {
    let pair = Pair::ready().await;
    let error = pair.pinged(|| Act::Raw(vec![b'x'; 8 << 20])).await;
    assert!(matches!(error, CallError::BadReply { .. }), "{error}");
    pair.recovers().await;
}

#[tokio::test]
async fn no_answer_and_then_a_late_one() {
    let pair = Pair::ready().await;
    let error = pair.pinged(|| Act::Hold).await;
    assert!(matches!(error, CallError::TimedOut { sent: true, .. }), "{error}");
    pair.guest.release();
    pair.recovers().await;
    assert_eq!(pair.guest.truth().connections, 1, "in step again on the same connection");
    assert_eq!(pair.guest.ran("guest-ping"), 2, "one that was late, one that was new: none twice");
}

#[tokio::test]
async fn two_answers() {
    let pair = Pair::ready().await;
    pair.guest.rule(|name| if name == "guest-ping" { Act::Twice } else { Act::Normal });
    let before = pair.vm.counters().dropped;
    ping(&pair.vm).await.expect("the first counts");
    eventually("the second is dropped", || pair.vm.counters().dropped > before).await;
    // It is not taken for the answer to what comes next.
    let info = pair.vm.call(GuestInfo {}, quick()).await.expect("its own answer");
    assert_eq!(info.version, "11.1.3");
    pair.guest.rule(|_| Act::Normal);
    pair.recovers().await;
    assert_eq!(pair.vm.counters().connections, 1);
}

#[tokio::test]
async fn two_answers_without_an_id() {
    let pair = Pair::ready().await;
    let twice = "{\"return\": {}}\n{\"return\": {}}\n";
    let error = pair.pinged(move || Act::Raw(twice.into())).await;
    assert!(matches!(error, CallError::TimedOut { sent: true, .. }), "{error}");
    pair.recovers().await;
    assert!(pair.vm.counters().dropped > 0);
}

#[tokio::test]
async fn disconnected_in_the_middle_of_a_reply() {
    let pair = Pair::ready().await;
    let error = pair.pinged(|| Act::Close(b"{\"return\": ".to_vec())).await;
    assert!(matches!(error, CallError::Interrupted { .. }), "{error}");
    pair.recovers().await;
    assert_eq!(pair.vm.counters().connections, 2);
}

#[tokio::test]
async fn a_flood_is_hung_up_on() {
    let pair = Pair::ready().await;
    let flood = b"{\"return\": \"nobody asked\"}\n".repeat(400_000);
    let _ = pair.pinged(move || Act::Raw(flood.clone())).await;
    eventually("hung up", || pair.vm.counters().connections > 1).await;
    pair.recovers().await;
}

#[tokio::test]
async fn a_caller_that_hangs_up_takes_nothing_along() {
    let pair = Pair::ready().await;
    let mut held = 0;
    pair.guest.rule(move |name| {
        held += i32::from(name == "guest-ping");
        if name == "guest-ping" && held == 1 { Act::Hold } else { Act::Normal }
    });
    let mut call = Box::pin(pair.vm.call(GuestPing {}, quick()));
    let gone = timeout(Duration::from_millis(50), &mut call).await;
    assert!(gone.is_err(), "held");
    drop(call);
    pair.guest.release();
    pair.recovers().await;
    let counters = pair.vm.counters();
    assert_eq!((counters.connections, counters.timeouts), (1, 0), "its reply was consumed");
}

#[tokio::test]
async fn errors_keep_their_words_and_unknown_commands_their_meaning() {
    let pair = Pair::ready().await;
    let error = pair.pinged(|| Act::Answer(Outcome::Error(QgaError::generic("broken")))).await;
    assert!(matches!(error, CallError::Agent(e) if e == QgaError::generic("broken")));
    let missing = || Act::Answer(Outcome::Error(QgaError::not_found("guest-ping")));
    assert!(matches!(pair.pinged(missing).await, CallError::Unsupported));
    let disabled = || Act::Answer(Outcome::Error(QgaError::disabled("guest-ping")));
    assert!(matches!(pair.pinged(disabled).await, CallError::Agent(e) if e.is_disabled()));
    pair.recovers().await;
}

#[tokio::test]
async fn an_answer_of_the_wrong_type_is_a_bad_reply() {
    let pair = Pair::ready().await;
    pair.guest.rule(|_| Act::Answer(Outcome::value(&[1, 2])));
    let error = pair.vm.call(GuestInfo {}, quick()).await.expect_err("no info");
    assert!(matches!(error, CallError::BadReply { .. }), "{error}");
    pair.guest.rule(|_| Act::Normal);
    pair.recovers().await;
}

#[tokio::test]
async fn a_full_queue_says_so_and_a_waiting_call_expires_unsent() {
    let pair = Pair::ready().await;
    pair.guest.rule(|name| if name == "guest-ping" { Act::Hold } else { Act::Normal });
    let slow = CallOptions { timeout: BOUND, ..quick() };
    let first = pair.vm.call(GuestShutdown { mode: None }, slow);
    pair.guest.rule(|name| if name == "guest-shutdown" { Act::Hold } else { Act::Normal });
    let mut first = Box::pin(first);
    assert!(timeout(Duration::from_millis(50), &mut first).await.is_err(), "it blocks the wire");
    // 64 is the default depth.
    let mut waiting: Vec<_> =
        (0..64).map(|_| Box::pin(pair.vm.call(GuestPing {}, quick()))).collect();
    for call in &mut waiting {
        let waker = std::task::Waker::noop();
        let poll = call.as_mut().poll(&mut std::task::Context::from_waker(waker));
        assert!(poll.is_pending());
    }
    assert!(matches!(ping(&pair.vm).await, Err(CallError::QueueFull)));
    for call in waiting {
        let error = call.await.expect_err("blocked");
        assert!(matches!(error, CallError::TimedOut { sent: false, .. }), "{error}");
    }
    assert_eq!(pair.guest.ran("guest-ping"), 0);
    pair.guest.release();
    first.await.expect("a shutdown that draws no error is a success");
    pair.recovers().await;
}

#[tokio::test]
async fn a_reply_over_its_cap_is_refused_and_one_within_passes() {
    let pair = Pair::ready().await;
    let read = |bytes: usize| {
        let text = base64_zeroes(bytes);
        format!("{{\"count\": {bytes}, \"buf-b64\": \"{text}\", \"eof\": false}}").into_bytes()
    };
    pair.guest.rule(move |name| match name {
        "guest-file-read" => Act::Answer(Outcome::Return(read(90_000))),
        _ => Act::Normal,
    });
    let file_read = || GuestFileRead { handle: 1, count: None };
    let roomy = CallOptions { reply_cap: 1 << 20, timeout: BOUND, ..quick() };
    let whole = pair.vm.call(file_read(), roomy).await.expect("fits");
    assert_eq!(whole.count, 90_000);
    let error = pair.vm.call(file_read(), quick()).await.expect_err("too long");
    assert!(error.outcome_unknown(), "{error}");
    pair.recovers().await;
}

fn base64_zeroes(bytes: usize) -> String {
    assert_eq!(bytes % 3, 0);
    "A".repeat(bytes / 3 * 4)
}

#[tokio::test]
async fn many_calls_at_once_are_pipelined_and_each_gets_its_own() {
    let pair = Pair::ready().await;
    let calls: Vec<_> = (0..32)
        .map(|_| {
            let vm = pair.vm.clone();
            tokio::spawn(async move { vm.call(GuestInfo {}, quick()).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("ran").expect("answered").version, "11.1.3");
    }
}

#[tokio::test]
async fn a_thaw_overtakes_everything_that_waits() {
    let pair = Pair::ready().await;
    pair.guest.rule(|name| if name == "guest-file-flush" { Act::Hold } else { Act::Normal });
    let patient = CallOptions { timeout: BOUND, ..quick() };
    let mut flush = Box::pin(pair.vm.call(GuestFileFlush { handle: 1 }, patient));
    assert!(timeout(Duration::from_millis(50), &mut flush).await.is_err(), "held on the wire");
    let pings = async {
        tokio::join!(pair.vm.call(GuestPing {}, patient), pair.vm.call(GuestPing {}, patient))
    };
    let thaw = pair.vm.call(GuestFsfreezeThaw {}, patient);
    let release = async { pair.guest.release() };
    let (flushed, (one, two), thawed, ()) = tokio::join!(flush, pings, thaw, release);
    assert!(flushed.is_ok() && one.is_ok() && two.is_ok() && thawed.is_ok());
    let ran = pair.guest.truth().ran;
    assert!(
        ran.ends_with(&["guest-fsfreeze-thaw", "guest-ping", "guest-ping"].map(String::from)),
        "{ran:?}"
    );
}

#[tokio::test]
async fn empty_lines_during_a_call_are_more_than_anybody_asked_for() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let guest = Guest::start(&path);
    let (_registry, vm) = super::one(&path);
    until(&vm, LinkState::Ready).await;
    guest.rule(|name| match name {
        "guest-ping" => Act::Raw(vec![b'\n'; 5 << 20]),
        _ => Act::Normal,
    });
    let long = CallOptions { timeout: BOUND, ..quick() };
    let error = vm.call(GuestPing {}, long).await.expect_err("no answer");
    assert!(
        matches!(&error, CallError::Interrupted { reason } if reason.contains("more than")),
        "{error}"
    );
    guest.rule(|_| Act::Normal);
    recovers(&vm).await;
}
