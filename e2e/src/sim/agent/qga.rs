//! Freezing as qga-agent does it: for a lease, with a deadline, and with a report.

use std::time::Duration;

use qga_proto::command::{
    Command as _, FilesystemFreeze, FreezeResult, FreezeState, FsfreezeReport, GuestFsfreezeFreeze,
    GuestFsfreezeFreezeList, GuestFsfreezeStatus, GuestFsfreezeThaw, LastThaw, LeaseRenewal,
    LeasedFreeze, LeasedThaw, THAWED_AUTOMATICALLY, ThawCause, ThawResult, XFsfreezeFreeze,
    XFsfreezeRenew, XFsfreezeThaw,
};
use qga_proto::{Job, Outcome, QgaError};

use super::Agent;
use crate::sim::guest::{By, Ended, Guest};

/// A freeze without a deadline of its own.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(600);
const MAX_DEADLINE_MS: i64 = 366 * 86_400_000;

/// A freeze in force, as the state directory keeps it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    lease: Option<String>,
    since: Duration,
    pub(super) deadline: Option<Duration>,
}

/// A freeze that is over.
#[derive(Clone, Debug)]
pub(super) struct Past {
    cause: ThawCause,
    at: Duration,
    generation: u64,
    lease: Option<String>,
    count: u64,
    untold: bool,
}

/// The current or last freeze's results.
#[derive(Clone, Debug, Default)]
pub(super) struct Last {
    count: Option<u64>,
    error: Option<String>,
    filesystems: Vec<FilesystemFreeze>,
}

/// The lease that a freeze names.
pub(super) fn lease_of(job: &Job) -> Option<String> {
    let leased = job.info.name == XFsfreezeFreeze::INFO.name;
    let freeze = || job.request.arguments::<XFsfreezeFreeze>().ok();
    leased.then(freeze).flatten().map(|freeze| freeze.lease)
}

impl Agent {
    pub(super) fn run_qga(&mut self, guest: &mut Guest, job: &Job) -> Outcome {
        let name = job.info.name;
        let request = &job.request;
        match name {
            name if name == GuestFsfreezeStatus::INFO.name => Outcome::value(&self.status()),
            name if name == GuestFsfreezeThaw::INFO.name => self.thaw_plain(guest).into(),
            name if name == XFsfreezeThaw::INFO.name => request
                .arguments::<XFsfreezeThaw>()
                .and_then(|XFsfreezeThaw { lease }| self.thaw_leased(guest, &lease))
                .into(),
            name if name == XFsfreezeRenew::INFO.name => {
                request.arguments().and_then(|renew| self.renew(guest, &renew)).into()
            }
            name if name == GuestFsfreezeFreeze::INFO.name => {
                self.freeze(guest, job, None, Some(DEFAULT_DEADLINE)).map(|done| done.count).into()
            }
            name if name == GuestFsfreezeFreezeList::INFO.name => request
                .arguments()
                .and_then(|GuestFsfreezeFreezeList { mountpoints }| {
                    self.freeze(guest, job, mountpoints.as_deref(), Some(DEFAULT_DEADLINE))
                })
                .map(|done| done.count)
                .into(),
            name if name == XFsfreezeFreeze::INFO.name => request
                .arguments()
                .and_then(|XFsfreezeFreeze { lease, deadline_ms, mountpoints }| {
                    check_lease(&lease)?;
                    let term = term(deadline_ms)?;
                    self.freeze(guest, job, mountpoints.as_deref(), term)
                })
                .into(),
            _ => Outcome::value(&self.report(guest)),
        }
    }

    fn freeze(
        &mut self,
        guest: &mut Guest,
        job: &Job,
        named: Option<&[String]>,
        term: Option<Duration>,
    ) -> Result<LeasedFreeze, QgaError> {
        let lease = lease_of(job);
        let in_hand = self.freezing.as_ref().filter(|freezing| freezing.ticket != job.ticket);
        if self.record.is_some() || in_hand.is_some() {
            let owner = self.record.as_ref().map_or_else(
                || in_hand.and_then(|freezing| freezing.lease.clone()),
                |record| record.lease.clone(),
            );
            let owner = match owner {
                Some(owner) => format!("lease '{owner}'"),
                None => "no lease".to_owned(),
            };
            return Err(QgaError::generic(format!("filesystems are frozen already, by {owner}")));
        }
        let now = guest.now();
        if let Some(freezing) = self.freezing.take() {
            let late = term.is_some_and(|term| now > freezing.since + term);
            let why = match (freezing.stopped, late) {
                (true, _) => Some("stopped by thaw"),
                (_, true) => Some("stopped by its deadline"),
                _ => None,
            };
            if let Some(why) = why {
                self.generation += u64::from(!freezing.stopped);
                self.last = Last { error: Some(why.into()), ..Last::default() };
                return Err(QgaError::generic(why));
            }
        }
        let chosen = choose(guest, named)?;
        self.generation += 1;
        if let Some(past) = &mut self.last_thaw {
            past.untold = false;
        }
        self.last = Last::default();
        let by = By::Command {
            name: job.info.name.into(),
            lease: lease.clone(),
            generation: self.generation,
        };
        let mut failure = None;
        for at in chosen {
            let mountpoint = guest.filesystems[at].mountpoint.clone();
            let freeze = guest.freeze(at, &by);
            let error = (freeze == FreezeResult::Failed)
                .then(|| format!("failed to freeze {mountpoint}: Input/output error"));
            failure.clone_from(&error);
            self.last.filesystems.push(FilesystemFreeze {
                mountpoint,
                freeze,
                error,
                ..FilesystemFreeze::default()
            });
            if failure.is_some() {
                break;
            }
        }
        if let Some(error) = failure {
            let count = self.thaw_filesystems(guest, &Ended::Itself(ThawCause::Rollback));
            self.last.error = Some(error.clone());
            self.record = Some(Record { lease, since: now, deadline: None });
            self.ended(now, ThawCause::Rollback, count);
            return Err(QgaError::generic(error));
        }
        let frozen = |done: &&FilesystemFreeze| done.freeze == FreezeResult::Frozen;
        let count = self.last.filesystems.iter().filter(frozen).count() as u64;
        self.last.count = Some(count);
        if count > 0 {
            let deadline = term.map(|term| now + term);
            self.record = Some(Record { lease, since: now, deadline });
        }
        Ok(LeasedFreeze {
            count,
            generation: self.generation,
            agent_instance: self.instance.clone(),
            boot_id: guest.boot_id.clone(),
            deadline_ms: self.left_ms(now),
            filesystems: self.last.filesystems.clone(),
        })
    }

    fn thaw_plain(&mut self, guest: &mut Guest) -> Result<u64, QgaError> {
        if self.record.is_none()
            && self.freezing.is_none()
            && let Some(past) = self.last_thaw.as_mut().filter(|past| past.untold)
        {
            past.untold = false;
            let past = past.clone();
            return Err(said(&past, guest.now()));
        }
        let name = GuestFsfreezeThaw::INFO.name;
        Ok(self.thaw(guest, name, None, ThawCause::Requested))
    }

    fn thaw_leased(&mut self, guest: &mut Guest, lease: &str) -> Result<LeasedThaw, QgaError> {
        check_lease(lease)?;
        self.owns(guest, lease)?;
        let name = XFsfreezeThaw::INFO.name;
        let count = self.thaw(guest, name, Some(lease), ThawCause::Lease);
        Ok(LeasedThaw {
            count,
            generation: self.generation,
            agent_instance: self.instance.clone(),
            boot_id: guest.boot_id.clone(),
            filesystems: self.last.filesystems.clone(),
        })
    }

    fn thaw(
        &mut self,
        guest: &mut Guest,
        name: &str,
        lease: Option<&str>,
        cause: ThawCause,
    ) -> u64 {
        let now = guest.now();
        if let Some(freezing) = &mut self.freezing
            && self.record.is_none()
            && !freezing.stopped
        {
            freezing.stopped = true;
            let owner = freezing.lease.clone();
            self.generation += 1;
            self.last = Last { error: Some("stopped by thaw".into()), ..Last::default() };
            self.record = Some(Record { lease: owner, since: now, deadline: None });
        }
        let by = Ended::Command { name: name.into(), lease: lease.map(str::to_owned) };
        let count = self.thaw_filesystems(guest, &by);
        if self.record.is_some() {
            self.ended(now, cause, count);
        }
        count
    }

    /// Thaws those of the freeze, and whatever else is frozen, as qemu-ga does.
    fn thaw_filesystems(&mut self, guest: &mut Guest, by: &Ended) -> u64 {
        let now = guest.now();
        let mut count = 0;
        for at in 0..guest.filesystems.len() {
            let thaw = guest.thaw(at, by, now);
            count += u64::from(thaw == ThawResult::Thawed);
            let mountpoint = &guest.filesystems[at].mountpoint;
            let done =
                self.last.filesystems.iter_mut().find(|done| {
                    done.mountpoint == *mountpoint && done.freeze == FreezeResult::Frozen
                });
            if let Some(done) = done {
                done.thaw = Some(thaw);
                done.written_sectors = Some(8 * guest.filesystems[at].torn);
            }
        }
        count
    }

    /// The freeze in force is over.
    pub(super) fn ended(&mut self, at: Duration, cause: ThawCause, count: u64) {
        let lease = self.record.take().and_then(|record| record.lease);
        for done in &mut self.last.filesystems {
            if done.freeze == FreezeResult::Frozen && cause.is_automatic() {
                done.thaw = Some(ThawResult::Thawed);
            }
        }
        let untold = cause.is_automatic();
        let generation = self.generation;
        self.last_thaw = Some(Past { cause, at, generation, lease, count, untold });
    }

    fn renew(&mut self, guest: &Guest, renew: &XFsfreezeRenew) -> Result<LeaseRenewal, QgaError> {
        check_lease(&renew.lease)?;
        let term = term(Some(renew.deadline_ms))?;
        self.owns(guest, &renew.lease)?;
        let now = guest.now();
        if let Some(record) = &mut self.record {
            record.deadline = term.map(|term| now + term);
        }
        Ok(LeaseRenewal {
            generation: self.generation,
            agent_instance: self.instance.clone(),
            deadline_ms: self.left_ms(now),
        })
    }

    fn owns(&self, guest: &Guest, lease: &str) -> Result<(), QgaError> {
        let in_force = self.record.as_ref().map(|record| &record.lease);
        let under_way = self.freezing.as_ref().filter(|f| !f.stopped).map(|f| &f.lease);
        match in_force.or(under_way) {
            Some(Some(owner)) if owner == lease => Ok(()),
            Some(Some(owner)) => Err(QgaError::generic(format!(
                "the freeze is owned by lease '{owner}', not by '{lease}'"
            ))),
            Some(None) => Err(QgaError::generic(format!(
                "the freeze is owned by no lease, so not by '{lease}'"
            ))),
            None => Err(match &self.last_thaw {
                Some(past) if past.lease.as_deref() == Some(lease) => said(past, guest.now()),
                _ => QgaError::generic(format!("nothing is frozen by lease '{lease}'")),
            }),
        }
    }

    fn report(&self, guest: &Guest) -> FsfreezeReport {
        let now = guest.now();
        let freezing = self.freezing.as_ref().filter(|freezing| !freezing.stopped);
        let (state, lease, since) = match (&self.record, freezing) {
            (Some(record), _) => (FreezeState::Frozen, record.lease.clone(), Some(record.since)),
            (None, Some(f)) => (FreezeState::Freezing, f.lease.clone(), Some(f.since)),
            (None, None) => (FreezeState::Thawed, None, None),
        };
        FsfreezeReport {
            state,
            generation: self.generation + u64::from(state == FreezeState::Freezing),
            agent_instance: self.instance.clone(),
            boot_id: guest.boot_id.clone(),
            lease,
            since_ms: since.map(|since| millis(now.saturating_sub(since))),
            deadline_ms: self.left_ms(now),
            count: self.last.count,
            error: self.last.error.clone(),
            filesystems: self.last.filesystems.clone(),
            stuck: Vec::new(),
            hook: None,
            last_thaw: self.last_thaw.as_ref().map(|past| LastThaw {
                cause: past.cause,
                ago_ms: millis(now.saturating_sub(past.at)),
                generation: past.generation,
                lease: past.lease.clone(),
                count: past.count,
                hook_error: None,
                untold: past.untold,
            }),
        }
    }

    fn left_ms(&self, now: Duration) -> Option<u64> {
        Some(millis(self.deadline()?.saturating_sub(now)))
    }
}

fn choose(guest: &Guest, named: Option<&[String]>) -> Result<Vec<usize>, QgaError> {
    let at = |name: &String| guest.filesystems.iter().position(|f| f.mountpoint == *name);
    if let Some(unknown) = named.into_iter().flatten().find(|name| at(name).is_none()) {
        let desc = format!("failed to find {unknown}: it names no filesystem that can be frozen");
        return Err(QgaError::generic(desc));
    }
    let wanted =
        |at: &usize| named.is_none_or(|named| named.contains(&guest.filesystems[*at].mountpoint));
    Ok((0..guest.filesystems.len()).rev().filter(wanted).collect())
}

fn check_lease(lease: &str) -> Result<(), QgaError> {
    if lease.is_empty() || lease.len() > 128 || lease.chars().any(char::is_control) {
        return Err(QgaError::generic(
            "invalid lease: it must have 1 to 128 bytes without control characters",
        ));
    }
    Ok(())
}

/// `None` is never.
fn term(deadline_ms: Option<i64>) -> Result<Option<Duration>, QgaError> {
    let Some(ms) = deadline_ms else { return Ok(Some(DEFAULT_DEADLINE)) };
    let invalid = || QgaError::generic(format!("value '{ms}' is invalid for argument deadline-ms"));
    let term = u64::try_from(ms).ok().filter(|_| ms <= MAX_DEADLINE_MS).ok_or_else(invalid)?;
    Ok((term > 0).then(|| Duration::from_millis(term)))
}

fn said(past: &Past, now: Duration) -> QgaError {
    let thawed =
        if past.cause.is_automatic() { THAWED_AUTOMATICALLY } else { "filesystems were thawed" };
    let seconds = now.saturating_sub(past.at).as_secs();
    QgaError::generic(format!("{thawed} {seconds} s ago ({})", past.cause.as_str()))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
