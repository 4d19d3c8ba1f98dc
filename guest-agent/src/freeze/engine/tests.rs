//! The engine against a kernel in which filesystems hang on command.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Condvar, Mutex};

use super::*;
use crate::freeze::mounts::Mounts;
use crate::worker::Completions;
use crate::worker::tests::{job, next};

/// `/a`, `/b`, `/c`, in mount order.
const TABLE: &[u8] = b"1 0 8:1 / /a rw - ext4 a rw\n2 0 8:2 / /b rw - ext4 b rw\n\
                       3 0 8:3 / /c rw - ext4 c rw\n";

#[derive(Default)]
struct Inner {
    frozen: HashSet<String>,
    /// FIFREEZE of these does not return.
    hanging: HashSet<String>,
    failing: HashSet<String>,
    unable: HashSet<String>,
    log: Vec<String>,
}

#[derive(Default)]
struct Fake {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Fake {
    fn with(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock().unwrap());
        self.changed.notify_all();
    }

    fn log(&self) -> Vec<String> {
        self.inner.lock().unwrap().log.clone()
    }

    /// Waits until the log's last line is this.
    fn wait_for(&self, line: &str) {
        let inner = self.inner.lock().unwrap();
        let limit = Duration::from_secs(10);
        let behind = |inner: &mut Inner| inner.log.last().is_none_or(|last| last != line);
        let (inner, timeout) = self.changed.wait_timeout_while(inner, limit, behind).unwrap();
        assert!(!timeout.timed_out(), "{:?}", inner.log);
    }
}

impl Kernel for Fake {
    fn mounts(&self) -> io::Result<Mounts> {
        Ok(Mounts::parse(TABLE, |_| None))
    }

    fn freeze(&self, path: &Path) -> Frozen {
        let path = path.display().to_string();
        self.with(|inner| inner.log.push(format!("freeze {path}")));
        let inner = self.inner.lock().unwrap();
        let mut inner =
            self.changed.wait_while(inner, |inner| inner.hanging.contains(&path)).unwrap();
        if inner.failing.contains(&path) {
            return Frozen::Failed(format!("failed to freeze {path}: Input/output error"));
        }
        if inner.unable.contains(&path) {
            return Frozen::Skipped;
        }
        inner.frozen.insert(path);
        Frozen::Yes
    }

    fn thaw(&self, path: &Path) -> bool {
        let path = path.display().to_string();
        self.with(|inner| inner.log.push(format!("thaw {path}")));
        let mut inner = self.inner.lock().unwrap();
        inner.frozen.remove(&path)
    }
}

struct Bed {
    kernel: Arc<Fake>,
    phase: Arc<SharedPhase>,
    marker: Marker,
    inbox: SyncSender<Message>,
    completions: Arc<Completions>,
    _dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let marker = Marker::new(dir.path());
        let kernel = Arc::new(Fake::default());
        let phase = Arc::new(SharedPhase::new(Phase::Thawed));
        let (outbox, inbox) = sync_channel(64);
        let mut engine = Engine::new(
            Arc::clone(&kernel),
            Arc::clone(&phase),
            marker.clone(),
            None,
            (outbox.clone(), inbox),
        );
        engine.patience =
            Patience { each: Duration::from_millis(20), all: Duration::from_millis(40) };
        std::thread::spawn(move || engine.run());
        let completions = Completions::new().unwrap();
        Self { kernel, phase, marker, inbox: outbox, completions, _dir: dir }
    }

    fn order(&self, order: Order) {
        let (_, reply) = job(&self.completions);
        self.inbox.send(Message::Order(order, reply)).unwrap();
    }

    fn freeze(&self) {
        self.order(Order::Freeze(None));
    }

    /// The next `count` outcomes.
    fn outcomes(&self, count: usize) -> Vec<String> {
        let mut outcomes = Vec::new();
        while outcomes.len() < count {
            outcomes.extend(next(&self.completions).into_iter().map(|outcome| match outcome {
                Outcome::Return(json) => String::from_utf8(json).unwrap(),
                Outcome::Error(error) => error.desc,
                Outcome::Silent => "silence".into(),
            }));
        }
        outcomes
    }

    fn wait_for_phase(&self, phase: Phase) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.phase.now() != phase {
            assert!(Instant::now() < deadline, "{:?}", self.phase.now());
            std::thread::yield_now();
        }
    }
}

#[test]
fn freezes_from_the_latest_mount_and_thaws_from_the_first() {
    let bed = Bed::new();
    bed.freeze();
    assert_eq!(bed.outcomes(1), ["3"]);
    assert_eq!(bed.phase.now(), Phase::Frozen);
    assert!(bed.marker.exists());
    bed.order(Order::Thaw);
    assert_eq!(bed.outcomes(1), ["3"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
    assert!(!bed.marker.exists());
    let log = ["freeze /c", "freeze /b", "freeze /a", "thaw /a", "thaw /b", "thaw /c"];
    assert_eq!(bed.kernel.log(), log);
}

#[test]
fn what_cannot_freeze_does_not_count_and_none_leaves_the_state_at_once() {
    let bed = Bed::new();
    bed.kernel.with(|inner| inner.unable.extend(["/a", "/b", "/c"].map(String::from)));
    bed.freeze();
    assert_eq!(bed.outcomes(1), ["0"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
    assert!(!bed.marker.exists());
}

#[test]
fn one_failure_thaws_everything() {
    let bed = Bed::new();
    bed.kernel.with(|inner| {
        inner.failing.insert("/b".into());
    });
    bed.freeze();
    assert_eq!(bed.outcomes(1), ["failed to freeze /b: Input/output error"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
    assert!(bed.kernel.inner.lock().unwrap().frozen.is_empty());
    assert_eq!(bed.kernel.log()[2..], ["thaw /a", "thaw /b", "thaw /c"]);
}

#[test]
fn a_thaw_stops_a_freeze_that_hangs_and_the_stuck_one_follows() {
    let bed = Bed::new();
    bed.kernel.with(|inner| {
        inner.hanging.insert("/b".into());
    });
    bed.freeze();
    bed.kernel.wait_for("freeze /b");
    bed.order(Order::Thaw);
    let outcomes = bed.outcomes(2);
    assert_eq!(outcomes[0], "stopped by thaw");
    assert!(outcomes[1].starts_with("failed to thaw /b: busy"), "{outcomes:?}");
    assert_eq!(bed.kernel.log(), ["freeze /c", "freeze /b", "thaw /a", "thaw /c"]);
    assert_eq!(bed.phase.now(), Phase::Frozen);
    assert!(bed.marker.exists());

    // A second thaw leaves the stuck one alone and says so again.
    bed.order(Order::Thaw);
    assert!(bed.outcomes(1)[0].starts_with("failed to thaw /b: busy"));

    bed.kernel.with(|inner| {
        inner.hanging.remove("/b");
    });
    bed.wait_for_phase(Phase::Thawed);
    assert!(!bed.marker.exists());
    assert!(bed.kernel.inner.lock().unwrap().frozen.is_empty());
}

#[test]
fn a_freeze_that_is_merely_slow_is_thawed_before_the_thaw_is_answered() {
    let bed = Bed::new();
    bed.kernel.with(|inner| {
        inner.hanging.insert("/b".into());
    });
    bed.freeze();
    bed.kernel.wait_for("freeze /b");
    bed.order(Order::Thaw);
    assert_eq!(bed.outcomes(1), ["stopped by thaw"]);
    bed.kernel.with(|inner| {
        inner.hanging.remove("/b");
    });
    assert_eq!(bed.outcomes(1), ["2"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
}

#[test]
fn a_thaw_of_nothing_is_allowed() {
    let bed = Bed::new();
    bed.order(Order::Thaw);
    assert_eq!(bed.outcomes(1), ["0"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
}
