//! What the orchestrators remember, and everything that must not be.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::client::{Answer, Ask};

/// What is wrong is told so often; the rest is counted.
const TOLD: usize = 50;
/// How many file handles nobody has closed for a while. The gateway has a task for each, so there are as many
/// long before the half begins that is measured.
const LEFT_OPEN: usize = 10;

/// A lease that somebody was given.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) vms: Vec<usize>,
    /// When its time is over, on the guests' clock, at the latest.
    pub(crate) until: Duration,
}

/// What is known of a VM.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    /// Requests under way that may freeze it, or hold it for longer.
    pub(crate) under_way: usize,
    /// When the last of its freezes is over, on the guests' clock.
    pub(crate) until: Duration,
    /// Until then something was wrong with it that may have kept the gateway from thawing.
    pub(crate) excused: Duration,
    /// Grows whenever another VM takes its place.
    pub(crate) places: u64,
}

#[derive(Debug, Default)]
struct Pages {
    wrong: Vec<String>,
    more_wrong: usize,
    answers: BTreeMap<String, u64>,
    routes: BTreeMap<String, (u64, Duration)>,
    unanswered: u64,
    leases: HashMap<String, Given>,
    /// Leases to be looked up, from when on.
    due: VecDeque<(Instant, String)>,
    ends: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    /// Paths of file handles that nobody has closed.
    left_open: VecDeque<String>,
    vms: Vec<Bounds>,
    longest: Duration,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Book(Mutex<Pages>);

impl Book {
    pub(crate) fn new(vms: usize) -> Self {
        Self(Mutex::new(Pages { vms: vec![Bounds::default(); vms], ..Pages::default() }))
    }

    pub(crate) fn wrong(&self, what: String) {
        let mut pages = self.pages();
        if pages.wrong.len() < TOLD {
            // Whoever watches an hour pass wants to know before its end; nobody may be there.
            let _ = crate::say(&format!("wrong: {what}"));
            pages.wrong.push(what);
        } else {
            pages.more_wrong += 1;
        }
    }

    pub(crate) fn answered(&self, ask: &Ask, answer: &Answer, took: Duration) {
        let mut pages = self.pages();
        let answer = format!("{} {}", answer.status, answer.code()).trim().to_owned();
        *pages.answers.entry(answer).or_default() += 1;
        let route = pages.routes.entry(format!("{} {}", ask.method, ask.route)).or_default();
        route.0 += 1;
        route.1 += took;
    }

    pub(crate) fn unanswered(&self) {
        self.pages().unanswered += 1;
    }

    pub(crate) fn fault(&self, name: &str) {
        *self.pages().faults.entry(name.to_owned()).or_default() += 1;
    }

    /// A file handle that its caller leaves open.
    pub(crate) fn leaves_open(&self, path: String) {
        self.pages().left_open.push_back(path);
    }

    /// The one that has been left open longest, if there are so many that one is to be closed.
    pub(crate) fn open_for_long(&self) -> Option<String> {
        let left = &mut self.pages().left_open;
        if left.len() > LEFT_OPEN { left.pop_front() } else { None }
    }

    pub(crate) fn left_open(&self) -> VecDeque<String> {
        std::mem::take(&mut self.pages().left_open)
    }

    /// These VMs may freeze or stay frozen from now on until the request has been answered.
    pub(crate) fn asks(&self, vms: &[usize]) {
        let mut pages = self.pages();
        vms.iter().for_each(|vm| pages.vms[*vm].under_way += 1);
    }

    /// It has, and they may be frozen until then.
    pub(crate) fn asked(&self, vms: &[usize], until: Duration) {
        let mut pages = self.pages();
        for vm in vms {
            let bounds = &mut pages.vms[*vm];
            bounds.under_way -= 1;
            bounds.until = bounds.until.max(until);
        }
    }

    /// A lease was given, or it holds for longer.
    pub(crate) fn holds(&self, lease: &str, vms: &[usize], until: Duration) {
        let mut pages = self.pages();
        let given = pages.leases.entry(lease.to_owned());
        let given = given.or_insert_with(|| Given { vms: vms.to_vec(), until });
        given.until = given.until.max(until);
    }

    /// The lease should be over from then on.
    pub(crate) fn look_up(&self, lease: &str, at: Instant) {
        self.pages().due.push_back((at, lease.to_owned()));
    }

    /// The leases that are to be looked up by now; all of them at the end.
    pub(crate) fn due(&self, now: Option<Instant>) -> Vec<(Instant, String)> {
        let mut pages = self.pages();
        let (due, later) = std::mem::take(&mut pages.due)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(at, _)| now.is_none_or(|now| *at <= now));
        pages.due = later;
        due.into()
    }

    pub(crate) fn given(&self, lease: &str) -> Option<Given> {
        self.pages().leases.get(lease).cloned()
    }

    pub(crate) fn given_count(&self) -> usize {
        self.pages().leases.len()
    }

    pub(crate) fn ended(&self, how: String) {
        *self.pages().ends.entry(how).or_default() += 1;
    }

    pub(crate) fn bounds(&self, vm: usize) -> Bounds {
        self.pages().vms[vm]
    }

    /// Something is wrong with the VM until then.
    pub(crate) fn excuse(&self, vm: usize, until: Duration) {
        let mut pages = self.pages();
        pages.vms[vm].excused = pages.vms[vm].excused.max(until);
    }

    /// There was no gateway.
    pub(crate) fn excuse_all(&self, until: Duration) {
        self.pages().vms.iter_mut().for_each(|vm| vm.excused = vm.excused.max(until));
    }

    pub(crate) fn replaced(&self, vm: usize) {
        self.pages().vms[vm].places += 1;
    }

    pub(crate) fn lasted(&self, time: Duration) {
        let mut pages = self.pages();
        pages.longest = pages.longest.max(time);
    }

    pub(crate) fn wrongs(&self) -> (Vec<String>, usize) {
        let pages = self.pages();
        (pages.wrong.clone(), pages.more_wrong)
    }

    pub(crate) fn longest(&self) -> Duration {
        self.pages().longest
    }

    pub(crate) fn answers(&self) -> BTreeMap<String, u64> {
        self.pages().answers.clone()
    }

    /// Requests by operation, with the mean time of each.
    pub(crate) fn routes(&self) -> BTreeMap<String, (u64, Duration)> {
        let mean = |(count, took): (u64, Duration)| {
            (count, took / u32::try_from(count).unwrap_or(u32::MAX).max(1))
        };
        self.pages().routes.clone().into_iter().map(|(route, sum)| (route, mean(sum))).collect()
    }

    pub(crate) fn unanswered_count(&self) -> u64 {
        self.pages().unanswered
    }

    pub(crate) fn ends(&self) -> BTreeMap<String, u64> {
        self.pages().ends.clone()
    }

    pub(crate) fn faults(&self) -> BTreeMap<String, u64> {
        self.pages().faults.clone()
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
