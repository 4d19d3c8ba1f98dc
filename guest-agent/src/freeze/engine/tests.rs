//! The engine against a kernel in which filesystems hang on command.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;
use std::sync::{Condvar, Mutex};

use qga_proto::command::{FreezeState, FsfreezeReport, LeasedFreeze, LeasedThaw, ThawResult};

use super::*;
use crate::completions::Completions;
use crate::freeze::kernel::Frozen;
use crate::freeze::mounts::{Mounts, Target};
use crate::freeze::order::{By, Lease, Term};
use crate::freeze::report::Identity;
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
    /// Not in the mount table any more.
    unmounted: HashSet<String>,
    /// Nothing leads to these.
    out_of_reach: HashSet<String>,
    /// What the devices of each took; nothing is known of the others.
    sectors: HashMap<String, u64>,
    log: Vec<String>,
    now_ms: u64,
    tick_from: Option<u64>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Shared>);

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl std::ops::Deref for Fake {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Shared {
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

impl Shared {
    fn thaw_path(&self, path: &str) -> Thawed {
        self.with(|inner| inner.log.push(format!("thaw {path}")));
        let mut inner = self.inner.lock().unwrap();
        if inner.out_of_reach.contains(path) {
            return Thawed::OutOfReach(format!("{path} is out of reach"));
        }
        if inner.frozen.remove(path) { Thawed::Yes } else { Thawed::No }
    }
}

impl Kernel for Fake {
    fn mounts(&self) -> io::Result<Mounts> {
        let inner = self.inner.lock().unwrap();
        let kept: Vec<_> = TABLE
            .split_inclusive(|&byte| byte == b'\n')
            .filter(|line| {
                let line = String::from_utf8_lossy(line);
                !inner.unmounted.iter().any(|path| line.contains(&format!(" {path} ")))
            })
            .collect();
        Ok(Mounts::parse(&kept.concat(), |_| None))
    }

    fn freeze(&self, target: &Target) -> Frozen {
        let path = target.path.display().to_string();
        self.with(|inner| inner.log.push(format!("freeze {path}")));
        let inner = self.inner.lock().unwrap();
        let mut inner =
            self.changed.wait_while(inner, |inner| inner.hanging.contains(&path)).unwrap();
        if inner.failing.contains(&path) {
            return Frozen::Failed(format!("failed to freeze {path}: Input/output error"));
        }
        if inner.unable.contains(&path) {
            return Frozen::Unsupported;
        }
        if !inner.frozen.insert(path.clone()) {
            return Frozen::Already;
        }
        let kernel = self.clone();
        Frozen::Yes(Box::new(move || kernel.thaw_path(&path)))
    }

    fn thaw(&self, target: &Target) -> Thawed {
        self.thaw_path(&target.path.display().to_string())
    }

    fn hook(
        &self,
        _: &Path,
        argument: &str,
        _: Duration,
        stop: &AtomicBool,
    ) -> Result<(), QgaError> {
        let name = format!("hook {argument}");
        self.with(|inner| inner.log.push(name.clone()));
        loop {
            let inner = self.inner.lock().unwrap();
            if stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(QgaError::generic("stopped"));
            }
            if !inner.hanging.contains(&name) {
                return match inner.failing.contains(&name) {
                    true => Err(QgaError::generic("child process has failed: boom\n")),
                    false => Ok(()),
                };
            }
            drop(self.changed.wait_timeout(inner, Duration::from_millis(1)).unwrap());
        }
    }

    fn sectors_written(&self, target: &Target) -> Option<u64> {
        self.inner.lock().unwrap().sectors.get(target.path.to_str()?).copied()
    }

    fn now_ms(&self) -> u64 {
        self.inner.lock().unwrap().now_ms
    }

    fn tick_from(&self, at_ms: Option<u64>) {
        self.inner.lock().unwrap().tick_from = at_ms;
    }
}

struct Bed {
    kernel: Fake,
    settings: FreezeSettings,
    phase: Arc<SharedPhase>,
    report: Arc<SharedReport>,
    marker: Marker,
    inbox: SyncSender<Message>,
    completions: Arc<Completions>,
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self::with(FreezeSettings { deadline: None, ..FreezeSettings::default() })
    }

    fn with_hook() -> Self {
        let hook = Some(PathBuf::from("/hook"));
        Self::with(FreezeSettings { hook, deadline: None, ..FreezeSettings::default() })
    }

    fn with(settings: FreezeSettings) -> Self {
        Self::start(settings, Fake::default(), tempfile::tempdir().unwrap(), "boot")
    }

    fn start(settings: FreezeSettings, kernel: Fake, dir: tempfile::TempDir, boot: &str) -> Self {
        let marker = Marker::new(dir.path());
        let now = if marker.exists() { Phase::Frozen } else { Phase::Thawed };
        let phase = Arc::new(SharedPhase::new(now));
        let identity = Identity { instance: "i".into(), boot_id: boot.into() };
        let report = Arc::new(SharedReport::new(identity));
        let (outbox, inbox) = sync_channel(64);
        let mut engine = Engine::new(
            Arc::new(kernel.clone()),
            settings.clone(),
            Arc::clone(&phase),
            Arc::clone(&report),
            marker.clone(),
            None,
            (outbox.clone(), inbox),
        );
        engine.patience = Patience {
            each: Duration::from_millis(100),
            all: Duration::from_millis(600),
            hook: Duration::from_secs(5),
        };
        engine.load();
        std::thread::spawn(move || engine.run());
        let completions = Completions::new().unwrap();
        Self { kernel, settings, phase, report, marker, inbox: outbox, completions, dir }
    }

    /// Another agent on what this one leaves behind. (The engine of this one gets no more orders.)
    fn restart(self, boot: &str) -> Self {
        // This test's own process is the one that the marker names, and it does not end.
        if self.marker.exists() {
            std::fs::write(self.marker.path(), "1 0\n").unwrap();
        }
        Self::start(self.settings, self.kernel, self.dir, boot)
    }

    fn order(&self, order: Order) {
        let (_, reply) = job(&self.completions);
        self.inbox.send(Message::Order(order, reply)).unwrap();
    }

    fn freeze(&self) {
        self.order(Order::Freeze { names: None, lease: None });
    }

    fn freeze_and_thaw(&self) {
        self.freeze();
        assert_eq!(self.outcome(), "3");
        self.thaw();
        assert_eq!(self.outcome(), "3");
    }

    fn freeze_for(&self, lease: &str, term: Term) {
        self.order(Order::Freeze { names: None, lease: Some((lease_of(lease), term)) });
    }

    fn thaw(&self) {
        self.order(Order::Thaw(By::Client));
    }

    fn thaw_for(&self, lease: &str) {
        self.order(Order::Thaw(By::Lease(lease_of(lease))));
    }

    fn at(&self, now_ms: u64) {
        self.kernel.with(|inner| inner.now_ms = now_ms);
        self.inbox.send(Message::Tick).unwrap();
    }

    fn hang(&self, what: &str) {
        self.kernel.with(|inner| {
            inner.hanging.insert(what.into());
        });
    }

    fn release(&self, what: &str) {
        self.kernel.with(|inner| {
            inner.hanging.remove(what);
        });
    }

    fn fail(&self, what: &str) {
        self.kernel.with(|inner| {
            inner.failing.insert(what.into());
        });
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

    fn outcome(&self) -> String {
        self.outcomes(1).remove(0)
    }

    fn read(&self) -> FsfreezeReport {
        self.report.read(self.phase.now(), self.kernel.now_ms())
    }

    fn cause(&self) -> Option<ThawCause> {
        self.read().last_thaw.map(|thaw| thaw.cause)
    }

    fn wait_for_phase(&self, phase: Phase) {
        self.wait_for(|bed| bed.phase.now() == phase);
    }

    fn wait_for(&self, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{:?} {:?}", self.phase.now(), self.read());
            std::thread::yield_now();
        }
    }
}

fn lease_of(name: &str) -> Lease {
    Lease::parse(name.into()).unwrap()
}

mod deadlines;
mod hooked;
mod restarts;

#[test]
fn freezes_from_the_latest_mount_and_thaws_from_the_first() {
    let bed = Bed::new();
    bed.freeze();
    assert_eq!(bed.outcomes(1), ["3"]);
    assert_eq!(bed.phase.now(), Phase::Frozen);
    assert!(bed.marker.exists());
    bed.thaw();
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
    bed.fail("/b");
    bed.freeze();
    assert_eq!(bed.outcomes(1), ["failed to freeze /b: Input/output error"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
    assert!(bed.kernel.inner.lock().unwrap().frozen.is_empty());
    assert_eq!(bed.kernel.log()[2..], ["thaw /a", "thaw /b", "thaw /c"]);
}

#[test]
fn a_thaw_stops_a_freeze_that_hangs_and_the_stuck_one_follows() {
    let bed = Bed::new();
    bed.hang("/b");
    bed.freeze();
    bed.kernel.wait_for("freeze /b");
    bed.thaw();
    let outcomes = bed.outcomes(2);
    assert_eq!(outcomes[0], "stopped by thaw");
    assert!(outcomes[1].starts_with("failed to thaw /b: busy"), "{outcomes:?}");
    assert_eq!(bed.kernel.log(), ["freeze /c", "freeze /b", "thaw /a", "thaw /c"]);
    assert_eq!(bed.phase.now(), Phase::Frozen);
    assert!(bed.marker.exists());

    // A second thaw leaves the stuck one alone and says so again.
    bed.thaw();
    assert!(bed.outcomes(1)[0].starts_with("failed to thaw /b: busy"));

    bed.release("/b");
    bed.wait_for_phase(Phase::Thawed);
    assert!(!bed.marker.exists());
    assert!(bed.kernel.inner.lock().unwrap().frozen.is_empty());
}

#[test]
fn a_freeze_that_is_merely_slow_is_thawed_before_the_thaw_is_answered() {
    let bed = Bed::new();
    bed.hang("/b");
    bed.freeze();
    bed.kernel.wait_for("freeze /b");
    bed.thaw();
    assert_eq!(bed.outcomes(1), ["stopped by thaw"]);
    bed.release("/b");
    assert_eq!(bed.outcomes(1), ["2"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
}

#[test]
fn a_thaw_of_nothing_is_allowed() {
    let bed = Bed::new();
    bed.thaw();
    assert_eq!(bed.outcomes(1), ["0"]);
    assert_eq!(bed.phase.now(), Phase::Thawed);
}

#[test]
fn what_was_unmounted_meanwhile_is_thawed_last_but_thawed() {
    let bed = Bed::new();
    bed.freeze();
    assert_eq!(bed.outcome(), "3");
    bed.kernel.with(|inner| {
        inner.unmounted.insert("/a".into());
    });
    bed.thaw();
    assert_eq!(bed.outcome(), "3");
    assert_eq!(bed.kernel.log()[3..], ["thaw /b", "thaw /c", "thaw /a"]);
}

#[test]
fn a_freeze_during_a_freeze_is_refused() {
    let bed = Bed::new();
    bed.hang("/b");
    bed.freeze_for("one", Term::Default);
    bed.kernel.wait_for("freeze /b");
    bed.freeze_for("other", Term::Default);
    assert_eq!(bed.outcome(), "filesystems are frozen already, by lease 'one'");
    bed.release("/b");
    let answer: LeasedFreeze = serde_json::from_str(&bed.outcome()).unwrap();
    assert_eq!((answer.count, answer.generation), (3, 1));
    bed.freeze();
    let text = "Command guest-fsfreeze-freeze has been disabled: the command is not allowed";
    assert_eq!(bed.outcome(), text);
    assert_eq!(bed.phase.now(), Phase::Frozen);
}

#[test]
fn the_report_tells_each_result_while_a_freeze_hangs() {
    let bed = Bed::new();
    bed.kernel.with(|inner| {
        inner.unable.insert("/c".into());
    });
    bed.hang("/b");
    bed.freeze();
    bed.kernel.wait_for("freeze /b");
    bed.wait_for(|bed| bed.read().filesystems[1].freeze == FreezeResult::Freezing);
    let report = bed.read();
    assert_eq!((report.state, report.generation, report.count), (FreezeState::Freezing, 1, None));
    let results: Vec<_> =
        report.filesystems.iter().map(|one| (one.mountpoint.as_str(), one.freeze)).collect();
    let expected = [
        ("/c", FreezeResult::Unsupported),
        ("/b", FreezeResult::Freezing),
        ("/a", FreezeResult::Pending),
    ];
    assert_eq!(results, expected);
    bed.wait_for(|bed| bed.read().stuck == ["/b"]);
    bed.thaw();
    assert!(bed.outcomes(2)[1].starts_with("failed to thaw /b: busy"));
    assert_eq!(bed.read().error.as_deref(), Some("stopped by thaw"));
    bed.release("/b");
    bed.wait_for_phase(Phase::Thawed);
    let report = bed.read();
    assert_eq!(report.filesystems[1].thaw, Some(ThawResult::Thawed));
    assert!(report.stuck.is_empty());
    assert_eq!(bed.cause(), Some(ThawCause::Requested));
}
