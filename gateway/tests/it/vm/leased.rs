//! `qga-agent`'s own freeze commands, as docs/extensions.md has them, for the fake guest.

use qga_proto::command::{
    Command as _, FilesystemFreeze, FreezeResult, FreezeState, FsfreezeReport, LastThaw,
    LeaseRenewal, LeasedFreeze, LeasedThaw, ThawCause, ThawResult, XFsfreezeFreeze, XFsfreezeRenew,
    XFsfreezeReport, XFsfreezeThaw,
};
use qga_proto::{Job, Outcome, QgaError};

use super::fake::Truth;

/// What an agent knows of its freezes by name.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) boot_id: String,
    pub(super) instance: String,
    pub(super) generation: u64,
    pub(super) lease: Option<String>,
    pub(super) deadline_ms: Option<i64>,
    pub(super) filesystems: Vec<FilesystemFreeze>,
    pub(super) last_thaw: Option<LastThaw>,
    /// What is mounted and cannot freeze.
    pub(super) unsupported: Vec<String>,
    pub(super) read_only: Vec<String>,
    /// What was written to each device while it was frozen.
    pub(super) written_sectors: u64,
}

impl Default for Named {
    fn default() -> Self {
        Self {
            boot_id: "boot-1".into(),
            instance: "run-1".into(),
            generation: 0,
            lease: None,
            deadline_ms: None,
            filesystems: Vec::new(),
            last_thaw: None,
            unsupported: Vec::new(),
            read_only: Vec::new(),
            written_sectors: 0,
        }
    }
}

/// Runs one of the four, if the agent is one that has them.
pub(super) fn run(truth: &mut Truth, job: &Job) -> Option<Outcome> {
    truth.named.as_ref()?;
    let name = job.info.name;
    Some(if name == XFsfreezeFreeze::INFO.name {
        job.request.arguments().map_or_else(Outcome::Error, |freeze| truth.freeze_named(freeze))
    } else if name == XFsfreezeRenew::INFO.name {
        job.request.arguments().map_or_else(Outcome::Error, |renew| truth.renew_named(&renew))
    } else if name == XFsfreezeThaw::INFO.name {
        job.request.arguments().map_or_else(Outcome::Error, |thaw| truth.thaw_named(&thaw))
    } else if name == XFsfreezeReport::INFO.name {
        Outcome::value(&truth.report())
    } else {
        return None;
    })
}

impl Truth {
    fn freeze_named(&mut self, freeze: XFsfreezeFreeze) -> Outcome {
        let mounted = self.mounted.clone();
        let Some(named) = self.named.as_mut() else { return Outcome::empty() };
        if self.frozen {
            let by =
                named.lease.as_ref().map_or_else(|| "no lease".into(), |l| format!("lease '{l}'"));
            let text = format!("filesystems are frozen already, by {by}");
            return Outcome::Error(QgaError::generic(text));
        }
        let wanted = freeze.mountpoints.unwrap_or_else(|| mounted.clone());
        named.generation += 1;
        let one = |path: &String| FilesystemFreeze {
            mountpoint: path.clone(),
            freeze: if named.unsupported.contains(path) {
                FreezeResult::Unsupported
            } else {
                FreezeResult::Frozen
            },
            read_only: named.read_only.contains(path),
            ..FilesystemFreeze::default()
        };
        let chosen = mounted.iter().filter(|path| wanted.contains(path));
        named.filesystems = chosen.map(one).collect();
        let frozen = named.filesystems.iter().filter(|f| f.freeze == FreezeResult::Frozen);
        let count = frozen.count() as u64;
        named.lease = (count > 0).then_some(freeze.lease);
        named.deadline_ms = freeze.deadline_ms;
        let answer = LeasedFreeze {
            count,
            generation: named.generation,
            agent_instance: named.instance.clone(),
            boot_id: named.boot_id.clone(),
            deadline_ms: freeze.deadline_ms.and_then(|ms| u64::try_from(ms).ok()),
            filesystems: named.filesystems.clone(),
        };
        self.frozen = count > 0;
        self.held = i64::try_from(count).expect("few");
        Outcome::value(&answer)
    }

    fn owned(&self, lease: &str) -> Result<(), QgaError> {
        let named = self.named.as_ref().expect("an agent with names");
        if self.frozen {
            return match named.lease.as_deref() {
                Some(owner) if owner == lease => Ok(()),
                Some(owner) => Err(QgaError::generic(format!(
                    "the freeze is owned by lease '{owner}', not by '{lease}'"
                ))),
                None => Err(QgaError::generic(format!(
                    "the freeze is owned by no lease, so not by '{lease}'"
                ))),
            };
        }
        Err(QgaError::generic(match &named.last_thaw {
            Some(thaw) if thaw.lease.as_deref() == Some(lease) => {
                let how = if thaw.cause.is_automatic() { " automatically" } else { "" };
                format!("filesystems were thawed{how} 0 s ago ({})", thaw.cause.as_str())
            }
            _ => format!("nothing is frozen by lease '{lease}'"),
        }))
    }

    fn renew_named(&mut self, renew: &XFsfreezeRenew) -> Outcome {
        if let Err(error) = self.owned(&renew.lease) {
            return Outcome::Error(error);
        }
        let Some(named) = self.named.as_mut() else { return Outcome::empty() };
        named.deadline_ms = Some(renew.deadline_ms);
        Outcome::value(&LeaseRenewal {
            generation: named.generation,
            agent_instance: named.instance.clone(),
            deadline_ms: u64::try_from(renew.deadline_ms).ok(),
        })
    }

    fn thaw_named(&mut self, thaw: &XFsfreezeThaw) -> Outcome {
        if let Err(error) = self.owned(&thaw.lease) {
            return Outcome::Error(error);
        }
        let count = self.thaw_because(ThawCause::Lease);
        let Some(named) = self.named.as_ref() else { return Outcome::empty() };
        Outcome::value(&LeasedThaw {
            count,
            generation: named.generation,
            agent_instance: named.instance.clone(),
            boot_id: named.boot_id.clone(),
            filesystems: named.filesystems.clone(),
        })
    }

    /// Thaws as the agent does for that reason; the count.
    pub(super) fn thaw_because(&mut self, cause: ThawCause) -> u64 {
        let count = u64::try_from(std::mem::take(&mut self.held)).expect("a count");
        if let Some(named) = self.named.as_mut().filter(|_| self.frozen) {
            for filesystem in &mut named.filesystems {
                let frozen = filesystem.freeze == FreezeResult::Frozen;
                filesystem.written_sectors = frozen.then_some(named.written_sectors);
                filesystem.thaw = frozen.then_some(filesystem.thaw.unwrap_or(ThawResult::Thawed));
            }
            named.last_thaw = Some(LastThaw {
                cause,
                generation: named.generation,
                lease: named.lease.take(),
                count,
                untold: cause.is_automatic(),
                ..LastThaw::default()
            });
        }
        self.frozen = false;
        count
    }

    fn report(&self) -> FsfreezeReport {
        let named = self.named.as_ref().expect("an agent with names");
        FsfreezeReport {
            state: if self.frozen { FreezeState::Frozen } else { FreezeState::Thawed },
            generation: named.generation,
            agent_instance: named.instance.clone(),
            boot_id: named.boot_id.clone(),
            lease: named.lease.clone(),
            filesystems: named.filesystems.clone(),
            last_thaw: named.last_thaw.clone(),
            ..FsfreezeReport::default()
        }
    }
}
