//! Freezing as qemu-ga does it: everything under a marker, and counts.

use qga_proto::command::{
    Command as _, FreezeResult, FsfreezeStatus, GuestFsfreezeFreeze, GuestFsfreezeFreezeList,
    GuestFsfreezeStatus, GuestFsfreezeThaw,
};
use qga_proto::{Job, Outcome, QgaError};

use super::{Agent, Mode, VSS_HOLDS};
use crate::sim::guest::{By, Ended, Guest};

impl Agent {
    pub(super) fn run_stock(&mut self, guest: &mut Guest, job: &Job) -> Outcome {
        let name = job.info.name;
        if name == GuestFsfreezeStatus::INFO.name {
            return Outcome::value(&self.status());
        }
        if name == GuestFsfreezeThaw::INFO.name {
            return self.thaw_stock(guest).into();
        }
        let named = if name == GuestFsfreezeFreeze::INFO.name {
            Ok(None)
        } else {
            job.request.arguments().map(|GuestFsfreezeFreezeList { mountpoints }| mountpoints)
        };
        named.and_then(|named| self.freeze_stock(guest, name, named.as_deref())).into()
    }

    pub(super) fn status(&self) -> FsfreezeStatus {
        if self.says_frozen() { FsfreezeStatus::Frozen } else { FsfreezeStatus::Thawed }
    }

    /// In reverse mount order; what is not named exactly is passed over.
    fn freeze_stock(
        &mut self,
        guest: &mut Guest,
        name: &str,
        named: Option<&[String]>,
    ) -> Result<i64, QgaError> {
        let by = By::Command { name: name.into(), lease: None, generation: 0 };
        let mut count = 0;
        for at in (0..guest.filesystems.len()).rev() {
            let mountpoint = guest.filesystems[at].mountpoint.clone();
            if named.is_some_and(|named| !named.contains(&mountpoint)) {
                continue;
            }
            match guest.freeze(at, &by) {
                FreezeResult::Frozen => count += 1,
                FreezeResult::Failed => {
                    let now = guest.now();
                    guest.thaw_all(&Ended::Command { name: name.into(), lease: None }, now);
                    let desc = format!("failed to freeze {mountpoint}: Input/output error");
                    // Agents of the 0.15 era answer a negative count.
                    if self.mode == Mode::Ancient {
                        return Ok(-1);
                    }
                    return Err(QgaError::generic(desc));
                }
                _ => {}
            }
        }
        self.marker = count > 0;
        Ok(count)
    }

    fn thaw_stock(&mut self, guest: &mut Guest) -> Result<u64, QgaError> {
        let now = guest.now();
        let by = Ended::Command { name: GuestFsfreezeThaw::INFO.name.into(), lease: None };
        let marker = std::mem::take(&mut self.marker);
        if self.mode == Mode::Windows && marker && guest.current().is_none() {
            let most = VSS_HOLDS.as_secs();
            return Err(QgaError::generic(format!(
                "couldn't hold writes: fsfreeze is limited up to {most} seconds"
            )));
        }
        Ok(guest.thaw_all(&by, now))
    }
}
